"""A larger batch where a loss no longer falls."""

from __future__ import annotations

import math
from typing import Literal

from sfolib._utils.errors import require
from sfolib._utils.model import Above1, Count, Index
from sfolib.schedules.adaptive.base import Policy, capped_at
from sfolib.schedules.base import NumberOrSchedule, Schedule, constant


class IncreaseOnPlateau(Policy):
    """b ← factor b, at most max_batch_size, where the loss has not become better in more than `patience` looks.

    Signal: each step's loss; a look, every `check_every` steps, is at their mean since the last. Better is below
    (1 − threshold) best, or below best − threshold with threshold_mode="abs"; with mode="max", for a measure that
    should rise, above (1 + threshold) best or best + threshold. After a growth `cooldown` looks are not counted as
    bad. torch's ReduceLROnPlateau, for the batch. lr is a schedule of the samples so far.
    """

    signal = "loss"
    _state = ("exact", "best", "bad", "cooling", "total")

    def __init__(
        self,
        batch_size: Count,
        lr: NumberOrSchedule,
        factor: Above1 = 2.0,
        patience: Index = 10,
        check_every: Count = 100,
        *,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        mode: Literal["min", "max"] = "min",
        cooldown: Index = 0,
        max_batch_size: Count | None = None,
    ):
        super().__init__(1)
        self.exact, self._top = float(batch_size), capped_at(max_batch_size, batch_size)
        require(math.isfinite(threshold) and threshold >= 0, "threshold", threshold, "must be finite, 0 or above")
        self._lr = lr if isinstance(lr, Schedule) else constant(lr)
        self._factor, self._patience, self._cooldown = factor, patience, cooldown
        self._threshold, self._relative, self._falls = threshold, threshold_mode == "rel", mode == "min"
        self.check_every = check_every
        self.best: float | None = None
        self.bad = self.cooling = 0
        self.total = 0.0  # of the losses since the last look

    @property
    def batch_size(self) -> int:
        return max(1, math.floor(self.exact + 0.5))

    @property
    def lr(self) -> float:
        return self._lr(self.samples)

    def observe(self, signal: float) -> None:
        self.total += float(signal)
        if self.step % self.check_every:
            return
        mean, self.total = self.total / self.check_every, 0.0
        require(math.isfinite(mean), "mean loss", mean, "must be finite")
        if self._better(mean):
            self.best, self.bad = mean, 0
        else:
            self.bad += 1
        if self.cooling:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self._patience:
            self.exact, self.bad, self.cooling = min(self._top, self.exact * self._factor), 0, self._cooldown

    def _better(self, mean: float) -> bool:
        if self.best is None:
            return True
        change = self._threshold * (self.best if self._relative else 1.0)
        return mean < self.best - change if self._falls else mean > self.best + change
