"""Runs from start to end: on record when they are through, on with them where they were killed, many at a time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sfolib._utils import files, interrupt, provenance
from sfolib._utils.distributed import SINGLE, ProcessGroup
from sfolib._utils.errors import require
from sfolib.training import checkpoint, executors, records
from sfolib.training.loop import Trainer
from sfolib.training.pooling import pooled
from sfolib.training.spec import SCHEMA, Spec

CHECKPOINT = checkpoint.NAME
Watch = Callable[[Trainer, list[dict[str, Any]]], None]


def train(spec: Spec, device: str = "auto") -> Iterator[dict[str, Any]]:
    """Train, yielding a row a seed at every measuring point, the start included."""
    for rows in _measuring_points(Trainer(spec, device)):
        yield from rows


def _measuring_points(trainer: Trainer, watch: Watch | None = None) -> Iterator[list[dict[str, Any]]]:
    while trainer.status == "running":
        if trainer.measured:
            trainer.advance()
            if trainer.midway:
                return
        rows = trainer.rows()
        if watch:
            watch(trainer, rows)
        yield rows


def single_thread_gain(trainer: Trainer, seconds: float = 2.0) -> float:
    """Seconds of a first step on the CPU threads of now over those on one thread, the least of each; the run stays as
    it is. `seconds`: after which no further pair of steps is timed."""
    task, threads, state = trainer.task, torch.get_num_threads(), copy.deepcopy(trainer.task.state_dict())
    batch_size = task.batch_size(0, trainer.leader.at(trainer.leader.reading(0, 0, task.samples_per_epoch))[0])
    times: dict[int, list[float]] = {threads: [], 1: []}
    started = time.perf_counter()
    try:
        task.gradients(0, 0, batch_size)  # to warm up
        while not times[1] or (len(times[1]) < 5 and time.perf_counter() - started < seconds):
            for count, seen in times.items():
                torch.set_num_threads(count)
                begun = time.perf_counter()
                task.gradients(0, 0, batch_size)
                seen.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
        task.load_state_dict(state)
    return min(times[threads]) / min(times[1])


def run(
    spec: Spec, store: Path | str | None = None, device: str = "auto", checkpoint_every: float = 30.0
) -> records.Run:
    """Train to the end, or load the run from `store` when it is on record there under the spec's key.

    In a store a run checkpoints at the first measuring point after every `checkpoint_every` seconds, and one that
    was killed goes on from there, to the same rows. Of several processes that are given the same spec one trains and
    the others wait for its record. One CPU thread where the problem is too small to share.
    """
    if store is None:
        return run_in(None, spec, device, checkpoint_every)
    folder = Path(store) / spec.key
    if not (folder / records.RUN).exists():
        with records.run_lock(folder):
            if not (folder / records.RUN).exists():
                return run_in(folder, spec, device, checkpoint_every)
    found = records.load(folder)
    other = f"is the record of another spec, {found.provenance.get('key')}; delete the folder and run it again"
    require(found.provenance.get("key") == spec.key, "run", str(folder), other)
    return found


def run_in(
    folder: Path | None, spec: Spec, device: str = "auto", checkpoint_every: float = 30.0, watch: Watch | None = None,
    ranks: ProcessGroup = SINGLE, threads: int | None = None,
) -> records.Run:  # fmt: skip
    """`run` with its files in `folder`, or nowhere, going on from the checkpoint there.

    `watch` is called with the trainer and its new rows at every measuring point. `ranks`: the processes that make this
    run together and all call this, see `distributed.joined`; the first one writes, and `folder` is one for all.
    `threads`: of the CPU (default: the problem's, or what torch has).
    Rows are on disk and not in memory while it runs. On SIGINT or SIGTERM a run of one process ends at its next step
    with a checkpoint and raises `Interrupted`.
    Raises `InputError` for a checkpoint of another spec, and where a file is damaged or cannot be written.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or spec.problem.threads or before)
    try:
        trainer = Trainer(spec, device, ranks)
        # ranks would stop at different steps: under torchrun a signal ends them as a kill does
        with interrupt.listening() if ranks.size == 1 else nullcontext():
            if folder is None:
                rows = records.table(row for rows in _measuring_points(trainer, watch) for row in rows)
                _uninterrupted(trainer, "none of it is kept")
            elif ranks.is_main:
                digest = _train_on_disk(trainer, folder, checkpoint_every, watch)
            else:
                _train_along(trainer, folder, watch)
        metadata = {
            "status": trainer.status,
            "key": spec.key,
            "schema": SCHEMA,
            "ranks": ranks.size,
            **provenance.machine(trainer.device),
            "seconds": round(time.perf_counter() - trainer.started, 3),
            **trainer.task.provenance(),
            **trainer.leader.provenance(),
            **({"diverged": trainer.diverged} if trainer.status == "diverged" else {}),
        }
    finally:
        torch.set_num_threads(before)
    if folder is None:
        return records.Run(spec, metadata, rows)
    if ranks.is_main:
        records.finish(spec, metadata, folder, digest)
        for left in (folder / CHECKPOINT, *folder.glob(f".{CHECKPOINT}.*"), *folder.glob(f".{records.RUN}.*")):
            left.unlink(missing_ok=True)
    ranks.barrier()
    return records.load(folder)


def run_all(
    specs: Sequence[Spec], store: Path | str | None = None, device: str = "auto", jobs: int = 1
) -> list[records.Run]:
    """`run` for each spec, `jobs` at a time in processes of their own or wherever `executors.backend` says, with
    progress; in the order of `specs`. A spec that is asked for twice is trained once. With a policy each seed is a run
    of its own, and they are `pooled`.

    Workers that see `store` leave their records there, and those of others are written here. Raises
    `executors.TasksFailed`, when all others are done, for runs that failed twice.
    """
    apart = [alone(spec) for spec in specs]
    wanted = {spec.key: spec for each in apart for spec in each}
    if store is None:
        found = executors.gather(partial(run, device=device), wanted, jobs, Spec.model_dump_json)
    else:
        store = Path(store).resolve()
        missing = {key: spec for key, spec in wanted.items() if not (store / key / records.RUN).exists()}
        trained = executors.gather(partial(run, store=store, device=device), missing, jobs, Spec.model_dump_json)
        for key, new in trained.items():
            if not (store / key / records.RUN).exists():
                records.save(new, store / key)
        found = trained | {key: records.load(store / key) for key in wanted if key not in trained}
    of_seeds = ([found[spec.key] for spec in each] for each in apart)
    return [runs[0] if len(runs) == 1 else pooled(runs) for runs in of_seeds]


def alone(spec: Spec) -> list[Spec]:
    """The runs that a spec is made of: one a seed where there is a policy, as each seed adapts by itself."""
    if spec.policy is None or len(spec.seeds) == 1:
        return [spec]
    return [spec.model_copy(update={"seeds": (seed,)}) for seed in spec.seeds]


def _train_along(trainer: Trainer, folder: Path, watch: Watch | None) -> None:
    """A rank but the first: the same steps from the same checkpoint, and nothing written."""
    _restore(trainer, folder / CHECKPOINT)
    for _ in _measuring_points(trainer, watch):
        pass
    _uninterrupted(trainer, f"{folder} holds a checkpoint")


def _train_on_disk(trainer: Trainer, folder: Path, checkpoint_every: float, watch: Watch | None) -> str:
    """Train with rows and checkpoints on disk, from the checkpoint there on; the digest of the rows."""
    files.folder(folder)
    path = folder / CHECKPOINT
    try:
        lines = records.MetricsWriter(folder / records.METRICS, *_restore(trainer, path))
        try:
            saved = time.monotonic()
            for new in _measuring_points(trainer, watch):
                lines.write(new)
                if trainer.status == "running" and time.monotonic() - saved >= checkpoint_every:
                    _checkpoint(trainer, path, lines)
                    saved = time.monotonic()
            if trainer.status == "running":
                _checkpoint(trainer, path, lines)
            _uninterrupted(trainer, f"{folder} holds a checkpoint; the same again, with --resume on the command line, "
                                    "goes on from there")  # fmt: skip
            lines.sync()
            return lines.digest
        finally:
            lines.close()
    except OSError as error:
        raise files.unwritable(folder / records.METRICS, error) from error


def _uninterrupted(trainer: Trainer, kept: str) -> None:
    if trainer.status == "running":
        where = f"after {trainer.step} steps, {trainer.samples} gradient evaluations"
        raise interrupt.Interrupted(f"{interrupt.received().name} {where}; {kept}")


def _checkpoint(trainer: Trainer, path: Path, lines: records.MetricsWriter) -> None:
    lines.sync()
    metadata = {"key": trainer.spec.key, "length": lines.length, "digest": lines.digest}
    metadata["seconds"] = time.perf_counter() - trainer.started
    checkpoint.write(path, trainer.state_dict() | metadata)


def _restore(trainer: Trainer, path: Path) -> tuple[int, str]:
    """Load the checkpoint, if there is one; length and digest of the metrics that it covers."""
    if not path.exists():
        return 0, ""
    state = checkpoint.read(path, trainer.device)
    other = f"is of another spec ({state['key']}, not {trainer.spec.key}); choose another folder"
    require(state["key"] == trainer.spec.key, "checkpoint", str(path), other)
    trainer.load_state_dict(state)
    trainer.started -= state["seconds"]
    return state["length"], state["digest"]
