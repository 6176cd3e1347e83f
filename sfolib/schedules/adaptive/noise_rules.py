"""Batch sizes that follow a measured ratio: noise over loss (CABS), and over signal (the gradient noise scale)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sfolib._utils.errors import require
from sfolib._utils.model import Above0, Below1, Count
from sfolib.schedules.adaptive.base import Policy, capped_at
from sfolib.schedules.base import NumberOrSchedule, Schedule, constant

if TYPE_CHECKING:
    from sfolib.gradients.successive import SuccessiveProducts


class NoiseAndLoss(NamedTuple):
    """tr Σ of one sample's gradient, mean over the steps since the last look, and the loss of the last batch."""

    variance: float
    loss: float


class _RatioRule(Policy):
    """b = what `wanted` says, rounded, between the first batch_size and max_batch_size; it can shrink. lr is a schedule
    of the samples so far. decay: of a step, in the running means of both parts of the ratio."""

    _state = ("batch_size", "above", "below")

    def __init__(self, batch_size: int, lr: float | Schedule, max_batch_size: int | None, every: int, decay: float):
        super().__init__(every)
        require(batch_size > 1, "batch_size", batch_size, "must be above 1: a batch has two halves")
        self.batch_size = self._least = batch_size
        self._top = capped_at(max_batch_size, batch_size)
        self._lr, self._decay = lr if isinstance(lr, Schedule) else constant(lr), decay
        self.above = self.below = 0.0  # running sums of noise and of what it is divided by

    @property
    def lr(self) -> float:
        return self._lr(self.samples)

    def wanted(self, ratio: float) -> float:
        """The batch size, a real number, for this ratio of the running means."""
        raise NotImplementedError

    def _follow(self, above: float, below: float) -> None:
        require(math.isfinite(above + below), "signal", (above, below), "must be finite")
        keep = self._decay**self.every
        self.above, self.below = keep * self.above + above, keep * self.below + below
        ratio = max(0.0, self.above) / self.below if self.below > 0 else math.inf
        wanted = min(max(self.wanted(ratio), self._least), self._top)
        require(wanted < math.inf, "max_batch_size", None, "is needed: the noise is infinitely larger than the rest")
        self.batch_size = math.floor(wanted + 0.5)


class CABS(_RatioRule):
    """b = η tr Σ/F, F the training loss. Signal: `NoiseAndLoss`.

    "Coupling Adaptive Batch Sizes with Learning Rates" (Balles, Romero & Hennig 2017, arXiv 1612.05086): from one
    step's expected decrease, with η for 1/L and F for F − F*: the loss must be able to fall to about 0. Running means
    of both with decay 0.95, rounded and clipped as there. tr Σ is theirs up to its source: two halves of every batch
    here, per-sample gradients there. They update at every step, which is every = 1.
    """

    signal = "noise_and_loss"

    def __init__(
        self, batch_size: Count, lr: NumberOrSchedule, *, max_batch_size: Count | None = None, every: Count = 10,
        decay: Below1 = 0.95,
    ):  # fmt: skip
        super().__init__(batch_size, lr, max_batch_size, every, decay)

    def wanted(self, ratio: float) -> float:
        return self.lr * ratio

    def observe(self, signal: NoiseAndLoss) -> None:
        self._follow(signal.variance, signal.loss)


class NoiseScaleRule(_RatioRule):
    """b = B = tr Σ/‖G‖², the simple noise scale, or √(r B). Signal: `gradients.SuccessiveProducts`.

    "An Empirical Model of Large-Batch Training" (McCandlish et al. 2018, arXiv 1812.06162): b = B takes twice the least
    steps and twice the least evaluations on their hyperbola; their adaptive training has b = √(r B), r what they give
    in evaluations for a step saved, `exchange_rate`. B is measured as there, from gradients at two batch sizes (a batch
    and its halves), each part averaged by itself.
    """

    signal = "successive_gradients"

    def __init__(
        self, batch_size: Count, lr: NumberOrSchedule, *, max_batch_size: Count | None = None, every: Count = 10,
        decay: Below1 = 0.99, exchange_rate: Above0 | None = None,
    ):  # fmt: skip
        super().__init__(batch_size, lr, max_batch_size, every, decay)
        self._rate = exchange_rate

    def wanted(self, ratio: float) -> float:
        return ratio if self._rate is None else math.sqrt(self._rate * ratio)

    def observe(self, signal: SuccessiveProducts) -> None:
        known = ~np.isnan(np.asarray(signal.sqnorm, dtype=float))
        if known.any():
            self._follow(
                float(np.asarray(signal.variance)[known].mean()), float(np.asarray(signal.sqnorm)[known].mean())
            )
