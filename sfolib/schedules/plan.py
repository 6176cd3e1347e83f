"""Plans: a batch-size and a learning-rate schedule on one clock, and the plans that the theory recommends.

Units: batch is gradient evaluations a step, samples is SFO, gradient evaluations. [S], [N] as in `bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, FieldSerializationInfo, SerializeAsAny, field_serializer

from sfolib._utils.errors import positive, require, whole
from sfolib._utils.model import Count, Model
from sfolib.schedules.base import Constant, Schedule, constant
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


def reading(clock: Clock, step: int, samples: int, samples_per_epoch: int) -> int:
    """What a clock says after so many steps and gradient evaluations: finished epochs, steps or samples."""
    return samples // samples_per_epoch if clock == "epoch" else step if clock == "step" else samples


def _schedule(value: Any) -> Any:
    if callable(value) or isinstance(value, dict):
        return Schedule.of(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError("must be a finite number above 0, or a schedule")
    return constant(value)


ScheduleOrNumber = Annotated[SerializeAsAny[Schedule] | Callable[[int], float], BeforeValidator(_schedule)]


class Plan(Model):
    """What batch size and learning rate to use when; `batch_size` and `lr` are schedules or numbers.

    The clock that both read counts finished epochs, steps or samples. A schedule gives a real number and
    the plan rounds it to a batch size: to the nearest whole number (half up), at least 1, at most
    max_batch_size. It does not hold lr back when the batch meets max_batch_size: that is for the lr schedule to say
    (see `critical_plan`). `rows` are the stages of a plan from theory. A bare function in place of a schedule cannot be
    stored: `model_dump` raises ValueError.
    """

    # of what leads a run, as `Policy` has them
    needs_signal: ClassVar[bool] = False
    signal: ClassVar[None] = None

    batch_size: ScheduleOrNumber
    lr: ScheduleOrNumber
    clock: Clock = "epoch"
    max_batch_size: Count | None = None
    rows: tuple[Stage, ...] = ()

    @field_serializer("batch_size", "lr")
    def _stored(self, value: Any, info: FieldSerializationInfo) -> dict[str, Any]:
        require(isinstance(value, Schedule), info.field_name, value, "must be a Schedule to be stored")
        return value.model_dump()

    @property
    def is_constant(self) -> bool:
        """Whether batch size and lr are the same at all times, as far as one can tell."""
        return isinstance(self.batch_size, Constant) and isinstance(self.lr, Constant)

    def reading(self, step: int, samples: int, samples_per_epoch: int) -> int:
        """What the plan's clock says then."""
        return reading(self.clock, step, samples, samples_per_epoch)

    def at(self, t: int) -> tuple[int, float]:
        """(batch_size, lr) at clock reading t; `InputError` if a schedule gives what is not finite and above 0."""
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

    def update(self, taken: int, signal: Any = None) -> None:
        """Nothing: a plan has no state that a step could change."""

    def provenance(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

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
        batch_size, lr = at(self.reading(step, samples, samples_per_epoch))
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
            batch_size, _ = self.at(self.reading(row.step - 1, row.samples - row.batch_size, samples_per_epoch))
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


def rounded(batch_size: float) -> int:
    return max(1, math.floor(batch_size + 0.5))
