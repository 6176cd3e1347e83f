"""Many tasks on an engine that exists: joblib's own processes, Dask or Ray, all behind joblib's `Parallel`."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from joblib import Parallel, delayed, parallel_config
from joblib.parallel import get_active_backend, register_parallel_backend
from tqdm import tqdm

from sfolib._utils.errors import InputError, require

Item, Result = TypeVar("Item"), TypeVar("Result")
BACKENDS = ("loky", "dask", "ray")


class Failure(NamedTuple):
    """A task that failed twice: its name, what it was to do, and the last error."""

    name: str
    task: str
    error: str


class TasksFailed(RuntimeError):
    """Some tasks failed twice; all others are done."""

    def __init__(self, failures: list[Failure], tasks: int):
        self.failures = failures
        lines = [f"{f.name}: {f.error}; {f.task}" for f in failures]
        super().__init__("\n".join([f"{len(failures)} of {tasks} runs failed twice:", *lines]))


class _Outcome(NamedTuple):
    name: str
    result: Any
    error: str | None


@contextmanager
def backend(name: str, address: str | None = None, jobs: int = 1) -> Iterator[None]:
    """Within, `gather` and all else that joblib runs goes to `name`: "loky", `jobs` processes here, or the cluster at
    `address`, "dask" or "ray"; without an address one of `jobs` workers on this machine, which ends with the block.

    Raises `InputError` for an engine that is not installed, and an address with loky.
    """
    require(name in BACKENDS, "backend", name, f"must be one of {BACKENDS}")
    require(name != "loky" or address is None, "address", address, "is for dask and ray; loky runs on this machine")
    try:
        with {"loky": _loky, "dask": _dask, "ray": _ray}[name](address, jobs), parallel_config(name):
            yield
    except ModuleNotFoundError as error:
        how = {"dask": "pip install 'sfolib[cluster]'", "ray": "pip install ray"}.get(name)
        if error.name not in ("distributed", "dask", "ray"):
            raise
        raise InputError(f"backend = {name!r}: not installed; {how}") from error


@contextmanager
def _loky(address: None, jobs: int) -> Iterator[None]:
    yield


@contextmanager
def _dask(address: str | None, jobs: int) -> Iterator[None]:
    from distributed import Client, LocalCluster
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        """joblib's own would wait for ever on a task that Dask gives up, after it has killed several workers; and run
        the tasks in this process while the cluster has one worker."""

        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, sum(self.client.ncores().values()))

        def submit(self, func: Any, callback: Callable[[Any], None]) -> Any:
            (_, (_, name, _), _), *_ = func.items  # the arguments of `_attempt`
            future = super().submit(func, callback)
            future.add_done_callback(lambda f: callback([_lost(name, f.exception())]) if f.exception() else None)
            return future

    register_parallel_backend("dask", Backend)
    if address is not None:
        try:
            client = Client(address, timeout=20)
        except (OSError, ValueError) as error:
            raise InputError(f"address = {address!r}: no Dask scheduler answers there ({error})") from error
        with client:
            yield
        return
    with LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        yield


@contextmanager
def _ray(address: str | None, jobs: int) -> Iterator[None]:
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    try:
        ray.init(address=address, num_cpus=None if address else jobs, log_to_driver=False)
    except (OSError, ValueError) as error:
        raise InputError(f"address = {address!r}: no Ray cluster answers there ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()


def gather(
    task: Callable[[Item], Result], items: Mapping[str, Item], jobs: int, tell: Callable[[Item], str] = repr
) -> dict[str, Result]:
    """task(item) of each named item, `jobs` at a time, with progress; results in the order of `items`.

    A failure stops no other. What failed, or lost its worker, is tried once more at the end. Raises `TasksFailed`
    where that failed too.
    """
    done: dict[str, Result] = {}
    failed: dict[str, str] = {}
    with tqdm(total=len(items), desc="runs", unit="run") as bar:
        for again in (" (once more)", ""):
            failed = {}
            for name, result, error in _outcomes(task, {n: i for n, i in items.items() if n not in done}, jobs):
                if error is None:
                    done[name] = result
                    bar.update()
                else:
                    failed[name] = error
                    bar.write(f"{name}: {error}{again}")
            if not failed:
                return {name: done[name] for name in items}
    raise TasksFailed([Failure(name, tell(items[name]), error) for name, error in failed.items()], len(items))


def _outcomes(task: Callable[[Item], Result], items: Mapping[str, Item], jobs: int) -> Iterator[_Outcome]:
    """Each item's outcome as it comes; where the engine itself fails, every outcome that is still out."""
    streams = get_active_backend()[0].supports_return_generator  # all but Ray's: there joblib tells how far it is
    how = {"return_as": "generator_unordered"} if streams else {"verbose": 10}
    parallel = Parallel(n_jobs=jobs, batch_size=1, pre_dispatch="all", **how)
    waiting = set(items)
    try:
        for outcome in parallel(delayed(_attempt)(task, name, item) for name, item in items.items()):
            waiting.remove(outcome.name)
            yield outcome
    except Exception as error:  # an item's own errors do not come this way: a worker, or its engine, has ended
        for name in sorted(waiting):
            yield _lost(name, error)


def _lost(name: str, error: BaseException) -> _Outcome:
    return _Outcome(name, None, f"lost with its worker ({type(error).__name__})")


def _attempt(task: Callable[[Item], Result], name: str, item: Item) -> _Outcome:
    try:
        return _Outcome(name, task(item), None)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return _Outcome(name, None, f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})")
