"""The one training loop: any problem, any plan, several seeds at once, SFO counted where a gradient is taken."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from sfolib import checkpoint, files, grid, interrupt, optimizers, provenance, record
from sfolib.adaptive import signals
from sfolib.distributed import ALONE, Ranks
from sfolib.errors import require
from sfolib.plan import Plan
from sfolib.problems import LATER, PLACE, Execution, Problem, Record
from sfolib.record import SCHEMA

CHECKPOINT = checkpoint.NAME
_SETTLED = 10  # measuring points
Watch = Callable[["Trainer", list[dict[str, Any]]], None]
AHEAD: ContextVar[Callable[[Spec, Any, str], Any] | None] = ContextVar("ahead", default=None)  # see `ahead`
_CLOCK = ("step", "samples", "probes", "true_batch", "below", "began", "midway")


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
    optimizer, momentum, weight_decay, beta2: see `optimizers.build`. The measured f is without weight_decay.
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
    max_samples: int = Field(ge=1, le=10**15)
    max_steps: int | None = Field(None, ge=1, le=10**15)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((0,), min_length=1)
    sampling: Literal["replacement", "permutation"] = "permutation"
    stop_eps: float | None = Field(None, gt=0, le=1e100)
    measure: Annotated[float, Field(gt=1, le=1e15)] | Literal["epoch"] = "epoch"
    dtype: Literal["float32", "float64"] = "float32"
    optimizer: Annotated[optimizers.Optimizer, LATER] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1), LATER] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=1e30), LATER] = 0.0
    beta2: Annotated[float, Field(ge=0, lt=1), LATER] = optimizers.BETA2
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
    """A run in progress. Its whole state is the clock, the task's, the optimizer's, the policy's, where the way to the
    next measuring point began, and how long ‖∇f‖ has been small. `ranks`: the processes that share the run; each has
    such a trainer, in the same state."""

    def __init__(self, spec: Spec, device: str = "auto", ranks: Ranks = ALONE):
        require(len(set(spec.seeds)) == len(spec.seeds), "seeds", spec.seeds, "must differ from each other")
        self.spec, self.device = spec, resolve_device(device)
        how = Execution(*(getattr(spec, name) for name in Execution._fields))
        self.task = spec.problem.bind(spec.seeds, spec.sampling, self.device, spec.dtype, how)
        self.ranks = ranks
        self.task.spread(ranks)
        settings = (spec.momentum, spec.weight_decay, spec.beta2)
        self.update = optimizers.build(spec.optimizer, self.task.parameters, *settings)
        self.step = self.samples = self.probes = self.true_batch = self.below = 0
        self.began, self.midway = [0, 0], False  # step and samples; whether a signal ended the way before its end
        self.status, self._finite = "running", True
        self._max_steps = spec.max_steps or math.inf
        self._largest = torch.finfo(getattr(torch, spec.dtype)).max
        self.policy = signals.build(spec.policy) if spec.policy else None
        if self.policy:
            signals.check(self.policy, self.task, spec.seeds)
        else:
            self._check_ends()
            self._constant = {spec.plan.batch.kind, spec.plan.lr.kind} == {"constant"}

    def advance(self) -> None:
        """Take steps up to the next measuring point, the end of the budget, or the step in which a signal came."""
        task, update = self.task, self.update
        if not self.midway:
            self.began = [self.step, self.samples]
        last_step, last_sample = self._next_measurement()
        clock = None
        while self.step < last_step and self.samples < last_sample and self._finite and not interrupt.received():
            if self.policy:
                try:
                    told = signals.step(self.policy, task, update, self.step, self.samples)
                except signals.NotFinite as lost:
                    told, self._finite = lost.args, False
                self.true_batch, probes = told
                self.probes += probes
            else:
                if clock != (now := self._clock()):
                    clock, (batch, lr) = now, self.spec.plan.at(now)
                    lr = self._representable(lr)
                self.true_batch = task.batch_size(self.samples, batch)
                update(task.gradients(self.step, self.samples, self.true_batch), lr)
            self.step += 1
            self.samples += self.true_batch
        self.midway = interrupt.received() is not None

    def rows(self) -> list[dict[str, Any]]:
        """Measure: one row a seed. Decides whether the run is over; where a loss, ‖∇f‖² or a policy's signal is not
        finite it has diverged."""
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
        lost = ~(np.isfinite(sqnorm) & np.isfinite(measured["loss"]))
        if lost.any() or not self._finite:
            self.status = "diverged"
            self.diverged = {"step": self.step, "seeds": np.array(self.spec.seeds)[lost].tolist() or [*self.spec.seeds]}
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

    def _representable(self, lr: float) -> float:
        """lr as the run's numbers can hold it: what is larger than all of them is infinite, and the run diverges."""
        return lr if lr <= self._largest else math.inf

    def _check_ends(self) -> None:
        """A plan that starts or ends with what is no batch size or lr is found out before anything is written."""
        plan, end = self.spec.plan, self.spec.max_samples - 1
        plan.at(0)
        if self.spec.max_steps is None and plan.clock != "step":
            plan.at(end if plan.clock == "sample" else end // self.task.samples_per_epoch)

    def _next_measurement(self) -> tuple[float, int]:
        """The step and the sample count at whichever of which `advance` ends."""
        step, sample = self._max_steps, self.spec.max_samples
        last_step, last_sample = self.began
        if self.spec.measure == "epoch":
            n = self.task.samples_per_epoch
            return step, min(sample, (last_sample // n + 1) * n)
        return min(step, max(last_step + 1, math.ceil(last_step * self.spec.measure))), sample

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
            if trainer.midway:
                return
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
    found = record.load(folder)
    other = f"is the record of another spec, {found.provenance.get('key')}; delete the folder and run it again"
    require(found.provenance.get("key") == spec.key, "run", str(folder), other)
    return found


def run_in(
    folder: Path | None, spec: Spec, device: str = "auto", checkpoint_every: float = 30.0, watch: Watch | None = None,
    ranks: Ranks = ALONE,
) -> record.Run:  # fmt: skip
    """`run` with its files in `folder`, or nowhere, going on from the checkpoint there.

    `watch` is called with the trainer and its new rows at every measuring point. `ranks`: the processes that make this
    run together and all call this, see `distributed.joined`; the first one writes, and `folder` is one for all.
    Rows are on disk and not in memory while it runs. On SIGINT or SIGTERM a run of one process ends at its next step
    with a checkpoint and raises `Interrupted`.
    Raises `InputError` for a checkpoint of another spec, and where a file is damaged or cannot be written.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.problem.threads or threads)
    try:
        started = time.perf_counter()
        trainer = Trainer(spec, device, ranks)
        # ranks would stop at different steps: under torchrun a signal ends them as a kill does
        with interrupt.listening() if ranks.size == 1 else nullcontext():
            if folder is None:
                rows = record.table(row for rows in _measuring_points(trainer, watch) for row in rows)
                _uninterrupted(trainer, "none of it is kept")
            elif ranks.first:
                digest = _train_on_disk(trainer, folder, checkpoint_every, watch)
            else:
                _train_along(trainer, folder, watch)
        told = {
            "status": trainer.status,
            "key": spec.key,
            "schema": SCHEMA,
            "ranks": ranks.size,
            **provenance.machine(trainer.device),
            "seconds": round(time.perf_counter() - started, 3),
            **trainer.task.provenance(),
            **({"diverged": trainer.diverged} if trainer.status == "diverged" else {}),
        }
    finally:
        torch.set_num_threads(threads)
    if folder is None:
        return record.Run(spec.model_dump(mode="json"), told, rows)
    if ranks.first:
        record.finish(spec.model_dump(mode="json"), told, folder, digest)
        for left in (folder / CHECKPOINT, *folder.glob(f".{CHECKPOINT}.*"), *folder.glob(f".{record.RUN}.*")):
            left.unlink(missing_ok=True)
    ranks.wait()
    return record.load(folder)


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
        lines = record.Lines(folder / record.METRICS, *_restore(trainer, path))
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
        raise files.unwritable(folder / record.METRICS, error) from error


def _uninterrupted(trainer: Trainer, kept: str) -> None:
    if trainer.status == "running":
        where = f"after {trainer.step} steps, {trainer.samples} gradient evaluations"
        raise interrupt.Interrupted(f"{interrupt.received().name} {where}; {kept}")


def _checkpoint(trainer: Trainer, path: Path, lines: record.Lines) -> None:
    lines.sync()
    told = {"key": trainer.spec.key, "length": lines.length, "digest": lines.digest}
    checkpoint.write(path, trainer.state_dict() | told)


def _restore(trainer: Trainer, path: Path) -> tuple[int, str]:
    """Load the checkpoint, if there is one; length and digest of the metrics that it covers."""
    if not path.exists():
        return 0, ""
    state = checkpoint.read(path, trainer.device)
    other = f"is of another spec ({state['key']}, not {trainer.spec.key}); choose another folder"
    require(state["key"] == trainer.spec.key, "checkpoint", str(path), other)
    trainer.load_state_dict(state)
    return state["length"], state["digest"]
