"""Plans: a batch-size and a learning-rate schedule on one clock, and the plans that the theory recommends.

Units: batch is gradient evaluations a step, samples is SFO, gradient evaluations. [S], [N] as in `bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from sfolib._utils.errors import positive, require, whole
from sfolib.schedules.base import Schedule, constant, from_dict
from sfolib.theory.bounds import Constants

if TYPE_CHECKING:
    import pandas as pd

Clock = Literal["epoch", "step", "sample"]
CLOCKS = get_args(Clock)


class Step(NamedTuple):
    """A step of a run: its epoch (from 0), steps and samples with it counted, its true batch size and lr."""

    epoch: int
    step: int
    samples: int
    batch_size: int
    lr: float


class Stage(NamedTuple):
    """A stage of a plan from theory: what it aims at, its pair, its own steps and samples, its phase."""

    stage: int
    eps: float
    batch_size: int
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

    batch_size: Callable[[int], float]
    lr: Callable[[int], float]
    clock: Clock = "epoch"
    max_batch_size: int | None = None
    rows: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        require(self.clock in CLOCKS, "clock", self.clock, f"must be one of {CLOCKS}")
        if self.max_batch_size is not None:
            whole("max_batch_size", self.max_batch_size)
        for name in ("batch_size", "lr"):
            value = getattr(self, name)
            if not callable(value):
                positive(name, value)
                object.__setattr__(self, name, constant(value))

    def at(self, t: int) -> tuple[int, float]:
        """(batch, lr) at clock reading t; `InputError` if a schedule gives what is not finite and above 0."""
        lr = self.lr(t)
        positive(f"lr at {self.clock} {t}", lr)
        return self.batch_size_at(t), lr

    def batch_size_at(self, t: int) -> int:
        """The batch size at clock reading t, whatever lr is there."""
        batch_size = self.batch_size(t)
        if self.max_batch_size is not None:
            batch_size = min(batch_size, self.max_batch_size)
        positive(f"batch at {self.clock} {t}", batch_size)
        return rounded(batch_size)

    def walk(self, samples_per_epoch: int, epochs: int) -> Iterator[Step]:
        """Every step of the run, in order; the last batch of an epoch is what is left of it."""
        whole("samples_per_epoch", samples_per_epoch)
        whole("epochs", epochs)
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
        batch_size, lr = at(epoch if self.clock == "epoch" else step if self.clock == "step" else samples)
        batch_size = min(batch_size, samples_per_epoch - done)
        return Step(epoch, step + 1, samples + batch_size, batch_size, lr)

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
            batch_size, _ = self.at(self.reading(row))
            if row.lr * c.L >= 2:
                text = f"lr = {row.lr:.6g} at step {row.step} is not below 2/L = {2 / c.L:.6g}"
                found.setdefault("lr", text)
            if row.batch_size == samples_per_epoch:
                text = f"at step {row.step} the batch is the whole data set: no noise is left in a step"
                found.setdefault("batch_size", text)
            if batch_size > samples_per_epoch:
                text = (
                    f"batch_size = {batch_size} at step {row.step} is above the data set's {samples_per_epoch} samples"
                )
                found.setdefault("nominal", text)
        return [*found.values()]

    def reading(self, step: Step) -> int:
        """What the plan's clock said when that step began."""
        return {"epoch": step.epoch, "step": step.step - 1, "sample": step.samples - step.batch_size}[self.clock]

    def to_dict(self) -> dict[str, Any]:
        """The plan as literals that JSON can hold; `InputError` if a schedule is a bare function."""
        for name in ("batch_size", "lr"):
            value = getattr(self, name)
            require(isinstance(value, Schedule), name, value, "must be made by sfolib.schedule to be stored")
        return {
            "batch_size": self.batch_size.to_dict(),
            "lr": self.lr.to_dict(),
            "clock": self.clock,
            "max_batch_size": self.max_batch_size,
            "rows": [list(row) for row in self.rows],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """The plan that `to_dict` gave as data."""
        names = ["batch_size", "lr", "clock", "max_batch_size", "rows"]
        require(set(data) == set(names), "plan", [*data], f"entries must be {names}")
        rows = data["rows"]
        stages = isinstance(rows, list | tuple) and all(isinstance(row, list | tuple) for row in rows)
        require(stages and {len(row) for row in rows} <= {len(Stage._fields)}, "rows", rows, f"must be {Stage._fields}")
        rows = tuple(Stage(*row) for row in rows)
        return cls(from_dict(data["batch_size"]), from_dict(data["lr"]), data["clock"], data["max_batch_size"], rows)


def rounded(batch_size: float) -> int:
    return max(1, math.floor(batch_size + 0.5))
