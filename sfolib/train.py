"""The one training loop: any problem, any plan, several seeds at once, SFO counted where a gradient is taken."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from sfolib import grid, optimizers, provenance, record
from sfolib.adaptive import signals
from sfolib.distributed import ALONE, Ranks
from sfolib.errors import InputError, require
from sfolib.plan import Plan
from sfolib.problems import LATER, PLACE, Execution, Problem, Record

SCHEMA = 1  # raise it when the same spec no longer means the same numbers
CHECKPOINT = "checkpoint.pt"
_SETTLED = 10  # measuring points
Watch = Callable[["Trainer", list[dict[str, Any]]], None]
AHEAD: ContextVar[Callable[[Spec, Any, str], Any] | None] = ContextVar("ahead", default=None)  # see `ahead`
_CLOCK = ("step", "samples", "probes", "true_batch", "below")


def _plan(value: Any) -> Any:
    return Plan.from_dict(value) if isinstance(value, dict) else value


class Spec(Record):
    """Everything that decides a run's numbers, but for rounding on another device.

    seeds: runs made at once, each its own batches. sampling: "replacement" is A3's assumption, "permutation" what
    data loaders do.
    max_samples: budget in gradient evaluations; the run ends with the step that reaches it.
    stop_eps: end after ten measuring points in a row whose mean ‖∇f‖² over seeds is at most stop_eps²; fewer could be
    a fluctuation, and `record.Run.reach` looks at the points on both sides of a crossing.
    measure: ratio of the steps of successive measuring points, or "epoch" for the end of every epoch.
    optimizer, momentum, weight_decay: see `optimizers.build`. The measured f is without weight_decay.
    running: also the loss and accuracy of the batches as they were trained on, see `tasks.Tally`.
    For networks only: precision of the training steps ("bf16" is autocast; what is measured is measured in full),
    channels_last, max_micro_batch (a larger batch is accumulated, see `network.NetworkTask`), published_norm (also
    ‖∇f‖² as the authors' program takes it, see `gradstats.full_gradient_sqnorm`).
    policy: in place of plan, and for one seed, a policy of `adaptive` as `signals.build` takes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    problem: Problem
    plan: Annotated[
        Plan | None, BeforeValidator(_plan), PlainSerializer(lambda plan: plan.to_dict() if plan else None)
    ] = None
    max_samples: int = Field(ge=1)
    max_steps: int | None = Field(None, ge=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((0,), min_length=1)
    sampling: Literal["replacement", "permutation"] = "permutation"
    stop_eps: float | None = Field(None, gt=0)
    measure: Annotated[float, Field(gt=1, allow_inf_nan=False)] | Literal["epoch"] = "epoch"
    dtype: Literal["float32", "float64"] = "float32"
    optimizer: Annotated[optimizers.Optimizer, LATER] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1), LATER] = 0.0
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False), LATER] = 0.0
    precision: Annotated[Literal["fp32", "tf32", "bf16"], LATER] = "fp32"
    channels_last: Annotated[bool, LATER] = False
    max_micro_batch: Annotated[int | None, Field(ge=1), LATER] = None
    published_norm: Annotated[bool, LATER] = False
    running: Annotated[bool, LATER] = False
    policy: Annotated[dict[str, Any] | None, LATER] = None

    @model_validator(mode="after")
    def _led(self) -> Spec:
        require((self.plan is None) == (self.policy is not None), "plan", self.plan, "either a plan or a policy")
        if self.policy is not None:
            signals.build(self.policy)
        return self

    @property
    def key(self) -> str:
        """Names this spec on disk: the same key, the same numbers."""
        told = self.model_dump(mode="json")
        for name, field in type(self.problem).model_fields.items():
            if PLACE in field.metadata:
                told["problem"].pop(name)
        text = json.dumps({"schema": SCHEMA, **told}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Trainer:
    """A run in progress. Its whole state is the clock, the parameters, the optimizer's state, the policy's, and how
    long ‖∇f‖ has been small. `ranks`: the processes that share the run; each has such a trainer, in the same state."""

    def __init__(self, spec: Spec, device: str = "auto", ranks: Ranks = ALONE):
        require(len(set(spec.seeds)) == len(spec.seeds), "seeds", spec.seeds, "must differ from each other")
        self.spec, self.device = spec, resolve_device(device)
        how = Execution(*(getattr(spec, name) for name in Execution._fields))
        self.task = spec.problem.bind(spec.seeds, spec.sampling, self.device, spec.dtype, how)
        self.ranks = ranks
        self.task.spread(ranks)
        self.update = optimizers.build(spec.optimizer, self.task.parameters, spec.momentum, spec.weight_decay)
        self.step = self.samples = self.probes = self.true_batch = self.below = 0
        self.status = "running"
        self._max_steps = spec.max_steps or math.inf
        self.policy = signals.build(spec.policy) if spec.policy else None
        if self.policy:
            signals.check(self.policy, self.task, spec.seeds)
        else:
            self._constant = {spec.plan.batch.kind, spec.plan.lr.kind} == {"constant"}

    def advance(self) -> None:
        """Take steps up to the next measuring point, or to the end of the budget."""
        task, update = self.task, self.update
        last_step, last_sample = self._next_measurement()
        clock = None
        while self.step < last_step and self.samples < last_sample:
            if self.policy:
                self.true_batch, probes = signals.step(self.policy, task, update, self.step, self.samples)
                self.probes += probes
            else:
                if clock != (now := self._clock()):
                    clock, (batch, lr) = now, self.spec.plan.at(now)
                self.true_batch = task.batch_size(self.samples, batch)
                update(task.gradients(self.step, self.samples, self.true_batch), lr)
            self.step += 1
            self.samples += self.true_batch

    def rows(self) -> list[dict[str, Any]]:
        """Measure: one row a seed. Decides whether the run is over."""
        norm = float(sum(p.square().sum() for p in self.task.parameters)) if self.ranks.size > 1 else 0.0
        self.ranks.agree("step, gradient evaluations and ‖θ‖²", self.step, self.samples, norm)
        measured = {name: value.tolist() for name, value in self.task.measure().items()}
        self.probes += self.task.probes
        batch, lr = (self.policy.batch, self.policy.lr) if self.policy else self.spec.plan.at(self._clock())
        at = {
            "epoch": self.samples / self.task.samples_per_epoch,
            "step": self.step,
            "samples": self.samples,
            "probes": self.probes,
            "batch": batch,
            "true_batch": self.true_batch,
            "lr": lr,
        }
        sqnorm = np.array(measured["grad_sqnorm"])
        below = self.spec.stop_eps is not None and sqnorm.mean() <= self.spec.stop_eps**2
        self.below = self.below + 1 if below else 0
        if not np.isfinite(sqnorm).all() or not np.isfinite(measured["loss"]).all():
            self.status = "diverged"
        elif self.below == _SETTLED:
            self.status = "reached"
        elif self.samples >= self.spec.max_samples or self.step >= self._max_steps:
            self.status = "finished"
        values = zip(*measured.values(), strict=True)
        return [
            {"seed": seed, **at, **dict(zip(measured, of_seed, strict=True))}
            for seed, of_seed in zip(self.spec.seeds, values, strict=True)
        ]

    def _clock(self) -> int:
        if self._constant:
            return 0
        clock = self.spec.plan.clock
        if clock == "epoch":
            return self.samples // self.task.samples_per_epoch
        return self.step if clock == "step" else self.samples

    def _next_measurement(self) -> tuple[float, int]:
        """The step and the sample count at whichever of which `advance` ends."""
        step, sample = self._max_steps, self.spec.max_samples
        if self.spec.measure == "epoch":
            n = self.task.samples_per_epoch
            return step, min(sample, (self.samples // n + 1) * n)
        return min(step, max(self.step + 1, math.ceil(self.step * self.spec.measure))), sample

    def state_dict(self) -> dict[str, Any]:
        clock = {name: getattr(self, name) for name in _CLOCK}
        policy = {"policy": self.policy.state_dict()} if self.policy else {}
        return clock | self.task.state_dict() | {"optimizer": self.update.state_dict()} | policy

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _CLOCK:
            setattr(self, name, state[name])
        self.task.load_state_dict(state)
        self.update.load_state_dict(state["optimizer"])
        if self.policy:
            self.policy.load_state_dict(state["policy"])


def resolve_device(device: str) -> str:
    """ "auto" is the GPU when there is one. Raises `InputError` for a GPU that is not there."""
    gpu = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if gpu else "cpu"
    known = re.fullmatch(r"cpu|cuda(:\d+)?", device)
    require(known is not None, "device", device, "auto, cpu, cuda or cuda:<index>")
    require(device == "cpu" or gpu, "device", device, "no CUDA device here; use cpu or auto")
    if known[1]:
        count = torch.cuda.device_count()
        require(int(known[1][1:]) < count, "device", device, f"there are {count} CUDA devices, counted from 0")
    return device


def train(spec: Spec, device: str = "auto") -> Iterator[dict[str, Any]]:
    """Train, yielding a row a seed at every measuring point, the start included."""
    for rows in _measuring_points(Trainer(spec, device)):
        yield from rows


def _measuring_points(trainer: Trainer, watch: Watch | None = None) -> Iterator[list[dict[str, Any]]]:
    while trainer.status == "running":
        if trainer.probes:
            trainer.advance()
        rows = trainer.rows()
        if watch:
            watch(trainer, rows)
        yield rows


def run(
    spec: Spec, store: Path | str | None = None, device: str = "auto", checkpoint_every: float = 30.0
) -> record.Run:
    """Train to the end, or load the run from `store` when it is on record there under the spec's key.

    In a store a run checkpoints at the first measuring point after every `checkpoint_every` seconds, and one that
    was killed goes on from there, to the same rows. Of several processes that are given the same spec one trains and
    the others wait for its record. One CPU thread where the problem is too small to share.
    """
    if store is None:
        return run_in(None, spec, device, checkpoint_every)
    folder = Path(store) / spec.key
    if not (folder / record.RUN).exists():
        with record.held(folder):
            if not (folder / record.RUN).exists():
                return run_in(folder, spec, device, checkpoint_every)
    return record.load(folder)


def run_in(
    folder: Path | None, spec: Spec, device: str = "auto", checkpoint_every: float = 30.0, watch: Watch | None = None,
    ranks: Ranks = ALONE,
) -> record.Run:  # fmt: skip
    """`run` with its files in `folder`, or nowhere, going on from the checkpoint there.

    `watch` is called with the trainer and its new rows at every measuring point. `ranks`: the processes that make this
    run together and all call this, see `distributed.joined`; the first one writes, and `folder` is one for all.
    Raises `InputError` for a checkpoint of another spec, or a folder that cannot be written.
    """
    import pandas as pd

    threads = torch.get_num_threads()
    torch.set_num_threads(spec.problem.threads or threads)
    try:
        started = time.perf_counter()
        trainer = Trainer(spec, device, ranks)
        if folder is None:
            rows = [row for rows in _measuring_points(trainer, watch) for row in rows]
        else:
            rows = _train_on_disk(trainer, folder, checkpoint_every, watch)
        told = {
            "status": trainer.status,
            "key": spec.key,
            "schema": SCHEMA,
            "ranks": ranks.size,
            **provenance.machine(trainer.device),
            "seconds": round(time.perf_counter() - started, 3),
            **trainer.task.provenance(),
        }
    finally:
        torch.set_num_threads(threads)
    finished = record.Run(spec.model_dump(mode="json"), told, pd.DataFrame(rows))
    if folder is not None and ranks.first:
        record.write_json(folder / record.RUN, {"spec": finished.spec, "provenance": told})
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return finished


def run_all(
    specs: Sequence[Spec], store: Path | str | None = None, device: str = "auto", jobs: int = 1
) -> list[record.Run]:
    """`run` for each spec, `jobs` at a time in processes of their own or wherever `grid.backend` says, with progress;
    in the order of `specs`. A spec that is asked for twice is trained once.

    Workers that see `store` leave their records there, and those of others are written here. Raises
    `grid.TasksFailed`, when all others are done, for runs that failed twice.
    """
    if (ahead := AHEAD.get()) is not None:
        return [ahead(spec, store, device) for spec in specs]
    wanted = {spec.key: spec for spec in specs}
    if store is None:
        found = grid.gather(partial(run, device=device), wanted, jobs, Spec.model_dump_json)
    else:
        store = Path(store).resolve()
        missing = {key: spec for key, spec in wanted.items() if not (store / key / record.RUN).exists()}
        trained = grid.gather(partial(run, store=store, device=device), missing, jobs, Spec.model_dump_json)
        for key, new in trained.items():
            if not (store / key / record.RUN).exists():
                record.save(new, store / key)
        found = trained | {key: record.load(store / key) for key in wanted if key not in trained}
    return [found[spec.key] for spec in specs]


def run_apart(
    specs: Sequence[Spec], store: Path | str | None = None, device: str = "auto", jobs: int = 1
) -> list[record.Run]:
    """`run_all` for specs with a policy: each seed adapts in a run of its own, and a spec's runs are then `pooled`."""
    each = [spec.model_copy(update={"seeds": (seed,)}) for spec in specs for seed in spec.seeds]
    runs = iter(run_all(each, store, device, jobs))
    return [record.pooled([next(runs) for _ in spec.seeds]) for spec in specs]


def _train_on_disk(
    trainer: Trainer, folder: Path, checkpoint_every: float, watch: Watch | None
) -> list[dict[str, Any]]:
    """Train with rows and checkpoints on disk; a resumed metrics file is first cut back to its checkpoint.

    Ranks but the first have the same rows in memory and write nothing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder = {str(folder)!r}: cannot be written ({error.strerror})") from error
    length, writes, path = _restore(trainer, folder / CHECKPOINT), trainer.ranks.first, folder / record.METRICS
    with open(path, "r+b" if length else "w+b") if writes else io.BytesIO(path.read_bytes() if length else b"") as file:
        file.truncate(length)
        rows = [json.loads(text) for text in file]
        saved = time.monotonic()
        for new in _measuring_points(trainer, watch):
            file.write("".join(map(record.line, new)).encode())
            rows += new
            if writes and trainer.status == "running" and time.monotonic() - saved >= checkpoint_every:
                _checkpoint(trainer, folder / CHECKPOINT, file)
                saved = time.monotonic()
    return rows


def _checkpoint(trainer: Trainer, path: Path, metrics: io.BufferedRandom) -> None:
    metrics.flush()
    os.fsync(metrics.fileno())
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        torch.save(trainer.state_dict() | {"key": trainer.spec.key, "length": metrics.tell()}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _restore(trainer: Trainer, path: Path) -> int:
    """Load the checkpoint, if there is one; how many bytes of the metrics file it covers."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location=trainer.device, weights_only=True)
    other = f"is of another spec ({state['key']}, not {trainer.spec.key}); choose another folder"
    require(state["key"] == trainer.spec.key, "checkpoint", str(path), other)
    trainer.load_state_dict(state)
    return state["length"]
