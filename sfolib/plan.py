"""Plans: a batch-size and a learning-rate schedule on one clock, and the plans that the theory recommends.

Units: batch is gradient evaluations a step, samples is SFO, gradient evaluations. [S], [N] as in `bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from sfolib import bounds
from sfolib.bounds import Constants
from sfolib.errors import positive, require
from sfolib.schedule import Schedule, constant, from_dict, piecewise

if TYPE_CHECKING:
    import pandas as pd

Clock = Literal["epoch", "step", "sample"]
CLOCKS = get_args(Clock)


class Step(NamedTuple):
    """A step of a run: its epoch (from 0), steps and samples with it counted, its true batch size and lr."""

    epoch: int
    step: int
    samples: int
    batch: int
    lr: float


class Stage(NamedTuple):
    """A stage of a plan from theory: what it aims at, its pair, its own steps and samples, its phase."""

    stage: int
    eps: float
    batch: int
    lr: float
    steps: int
    samples: int
    phase: str


@dataclass(frozen=True)
class Plan:
    """What batch size and learning rate to use when; `batch` and `lr` are schedules or numbers.

    The clock that both read counts finished epochs, steps or samples. A schedule gives a real number and
    the plan rounds it to a batch size: to the nearest whole number (half up), at least 1, at most
    max_batch. It does not hold lr back when the batch meets max_batch: that is for the lr schedule to say
    (see `critical_plan`). `rows` are the stages of a plan from theory.
    """

    batch: Callable[[int], float]
    lr: Callable[[int], float]
    clock: Clock = "epoch"
    max_batch: int | None = None
    rows: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        require(self.clock in CLOCKS, "clock", self.clock, f"must be one of {CLOCKS}")
        if self.max_batch is not None:
            _whole("max_batch", self.max_batch)
        for name in ("batch", "lr"):
            value = getattr(self, name)
            if not callable(value):
                positive(name, value)
                object.__setattr__(self, name, constant(value))

    def at(self, t: int) -> tuple[int, float]:
        """(batch, lr) at clock reading t; `InputError` if a schedule gives what is not finite and above 0."""
        batch, lr = self.batch(t), self.lr(t)
        positive(f"lr at {self.clock} {t}", lr)
        if self.max_batch is not None:
            batch = min(batch, self.max_batch)
        positive(f"batch at {self.clock} {t}", batch)
        return _rounded(batch), lr

    def walk(self, samples_per_epoch: int, epochs: int) -> Iterator[Step]:
        """Every step of the run, in order; the last batch of an epoch is what is left of it."""
        _whole("samples_per_epoch", samples_per_epoch)
        _whole("epochs", epochs)
        step = samples = 0
        at = lru_cache(1)(self.at)  # within an epoch of a plan by epochs it is asked at every step
        while samples < samples_per_epoch * epochs:
            row = self._after(step, samples, samples_per_epoch, at)
            step, samples = row.step, row.samples
            yield row

    def after(self, step: int, samples: int, samples_per_epoch: int) -> Step:
        """The step that follows `step` steps and `samples` gradient evaluations, cut short by its epoch's end."""
        return self._after(step, samples, samples_per_epoch, self.at)

    def _after(self, step: int, samples: int, samples_per_epoch: int, at: Callable[[int], tuple[int, float]]) -> Step:
        epoch, done = divmod(samples, samples_per_epoch)
        batch, lr = at(epoch if self.clock == "epoch" else step if self.clock == "step" else samples)
        batch = min(batch, samples_per_epoch - done)
        return Step(epoch, step + 1, samples + batch, batch, lr)

    def table(self, samples_per_epoch: int, epochs: int) -> pd.DataFrame:
        """`walk` as a table, a row a step: epoch (from 0), step and samples so far, true batch, lr."""
        import pandas as pd

        return pd.DataFrame(self.walk(samples_per_epoch, epochs), columns=Step._fields)

    @property
    def stages(self) -> pd.DataFrame:
        """The stages of a plan from theory: stage, eps, batch, lr, steps, samples, phase."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=Stage._fields)

    def report(self, c: Constants, samples_per_epoch: int, epochs: int) -> list[str]:
        """Where the run leaves what the bounds assume, in sentences; empty where it does not."""
        found = {}
        for row in self.walk(samples_per_epoch, epochs):
            batch, _ = self.at(self.reading(row))
            if row.lr * c.L >= 2:
                text = f"lr = {row.lr:.6g} at step {row.step} is not below 2/L = {2 / c.L:.6g}"
                found.setdefault("lr", text)
            if row.batch == samples_per_epoch:
                text = f"at step {row.step} the batch is the whole data set: no noise is left in a step"
                found.setdefault("batch", text)
            if batch > samples_per_epoch:
                text = f"batch = {batch} at step {row.step} is above the data set's {samples_per_epoch} samples"
                found.setdefault("nominal", text)
        return [*found.values()]

    def reading(self, step: Step) -> int:
        """What the plan's clock said when that step began."""
        return {"epoch": step.epoch, "step": step.step - 1, "sample": step.samples - step.batch}[self.clock]

    def to_dict(self) -> dict[str, Any]:
        """The plan as literals that JSON can hold; `InputError` if a schedule is a bare function."""
        for name in ("batch", "lr"):
            value = getattr(self, name)
            require(isinstance(value, Schedule), name, value, "must be made by sfolib.schedule to be stored")
        return {
            "batch": self.batch.to_dict(),
            "lr": self.lr.to_dict(),
            "clock": self.clock,
            "max_batch": self.max_batch,
            "rows": [list(row) for row in self.rows],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """The plan that `to_dict` gave as data."""
        names = ["batch", "lr", "clock", "max_batch", "rows"]
        require(set(data) == set(names), "plan", [*data], f"entries must be {names}")
        rows = data["rows"]
        stages = isinstance(rows, list | tuple) and all(isinstance(row, list | tuple) for row in rows)
        require(stages and {len(row) for row in rows} <= {len(Stage._fields)}, "rows", rows, f"must be {Stage._fields}")
        rows = tuple(Stage(*row) for row in rows)
        return cls(from_dict(data["batch"]), from_dict(data["lr"]), data["clock"], data["max_batch"], rows)


def critical_plan(
    constants: Constants,
    eps0: float,
    r: float = 2.0,
    stages: int = 8,
    *,
    lr: float,
    lr_growth: float | None = None,
    max_lr: float | None = None,
    max_batch: int | None = None,
) -> Plan:
    """T4 [S], T6 and T7 [N]: follow the critical batch size through ε_m² = eps0² r^−m, m = 0 … stages − 1.

    b_m = 2 C2 η_m/ε_m² and η_m = min(lr lr_growth^m, max_lr, max_batch ε_m²/(2 C2)), in three phases: lr
    and batch grow ("grow both") until lr meets max_lr, then the batch alone ("grow batch") until it meets
    max_batch, then lr shrinks by r a stage ("decay lr"). lr_growth is γ, by default r (τ = 1: equal steps
    a stage). max_lr is by default 1/L; it is the η_max of C1 and C2 throughout, so that the factors are
    T4's exactly. A stage lasts T2's K(b) steps at its rounded batch size, rounded up (K* where that is
    b*): under T6's assumption on the gap it reaches ε_m. After the last stage its pair stays. The clock
    counts samples.
    """
    max_lr = 1 / constants.L if max_lr is None else max_lr
    lr_growth = r if lr_growth is None else lr_growth
    for name, value in (("eps0", eps0), ("lr", lr), ("max_lr", max_lr), ("sigma2", constants.sigma2)):
        positive(name, value)
    require(r > 1, "r", r, "must be above 1")
    require(lr_growth >= 1, "lr_growth", lr_growth, "must be 1 or above")
    require(max_lr * constants.L < 2, "max_lr", max_lr, f"must be below 2/L = {2 / constants.L:.6g}")
    require(lr <= max_lr, "lr", lr, f"must be at most max_lr = {max_lr:.6g}")
    top = math.inf if max_batch is None else _whole("max_batch", max_batch)

    def pair(eps: float, m: int) -> tuple[int, float, str]:
        free, full = lr * lr_growth**m, top * max_lr / bounds.critical_batch(constants, max_lr, eps)
        eta = min(free, max_lr, full)
        phase = "decay lr" if eta == full else "grow both" if eta == free and lr_growth > 1 else "grow batch"
        return _rounded(bounds.critical_batch(constants, eta, eps, max_lr)), eta, phase

    def steps(batch: int, eta: float, eps: float) -> float:
        return bounds.steps_to(constants, eta, batch, eps, max_lr)

    return _staged(eps0, r, stages, pair, steps)


def front_plan(
    constants: Constants,
    eps0: float,
    r: float = 2.0,
    stages: int = 8,
    objective: Literal["samples", "time", "steps"] = "samples",
    *,
    ratio: float = 1.0,
    latency: float | None = None,
    per_sample: float | None = None,
    max_batch: int | None = None,
) -> Plan:
    """T11 and T12 [N]: stay on the front of steps and SFO through ε_m² = eps0² r^−m, m = 0 … stages − 1.

    "samples": b = ratio B, one trade-off in all stages (ratio = 1 costs 2 K_min steps and 2 N_min samples).
    "time": b = √(B τ0/τ1), where latency τ0 is the time of a step, per_sample τ1 that of an evaluation.
    "steps": b = max_batch.
    In all, max_batch caps the batch size, lr is `bounds.optimal_lr` at the rounded batch size, and a stage
    lasts `bounds.front_steps`, rounded up. The clock counts samples.
    """
    known = ("samples", "time", "steps")
    require(objective in known, "objective", objective, f"must be one of {known}")
    positive("eps0", eps0)
    positive("ratio", ratio)
    require(r > 1, "r", r, "must be above 1")
    top = math.inf if max_batch is None else _whole("max_batch", max_batch)
    require(objective != "steps" or top < math.inf, "max_batch", max_batch, 'is needed where objective = "steps"')

    def pair(eps: float, m: int) -> tuple[int, float, str]:
        if objective == "time":
            wanted = bounds.time_optimal_batch(constants, eps, latency, per_sample)
        else:
            wanted = ratio * bounds.noise_scale(constants, eps) if objective == "samples" else top
        batch = _rounded(min(wanted, top))
        return (
            batch,
            bounds.optimal_lr(constants, batch, eps),
            "front" if wanted < top else "front, full batch",
        )

    def steps(batch: int, eta: float, eps: float) -> float:
        return bounds.front_steps(constants, batch, eps)

    return _staged(eps0, r, stages, pair, steps)


def _staged(
    eps0: float,
    r: float,
    stages: int,
    pair: Callable[[float, int], tuple[int, float, str]],
    steps: Callable[[int, float, float], float],
) -> Plan:
    rows = []
    for m in range(_whole("stages", stages)):
        eps = eps0 * r ** (-m / 2)
        batch, lr, phase = pair(eps, m)
        length = max(1, math.ceil(steps(batch, lr, eps) * (1 - 1e-12)))  # a whole number stays one
        rows.append(Stage(m, eps, batch, lr, length, length * batch, phase))
    ends = [sum(row.samples for row in rows[: m + 1]) for m in range(stages - 1)]
    batch, lr = (piecewise([getattr(row, name) for row in rows], ends) for name in ("batch", "lr"))
    return Plan(batch, lr, "sample", rows=tuple(rows))


def _rounded(batch: float) -> int:
    return max(1, math.floor(batch + 0.5))


def _whole(field: str, value: Any) -> int:
    ok = isinstance(value, int) and not isinstance(value, bool) and value > 0
    require(ok, field, value, "must be a whole number above 0")
    return value
