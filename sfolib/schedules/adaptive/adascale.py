"""AdaScale SGD: the lr that a batch S times as large is worth, by the noise that is left to average out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from sfolib._utils.errors import number, real, require, scalar
from sfolib._utils.model import Count
from sfolib.schedules.adaptive.base import Policy
from sfolib.schedules.base import NumberOrSchedule, Schedule, constant

LEAST_VARIANCE, MEMORY = 1e-6, 1000


class Statistics(Protocol):
    """Of n gradients whose mean is the step's: ‖mean‖², and Σ_j of the sample variances (n − 1) of component j.

    `gradients.GradientStatistics` is one, of the samples of the batch; `Parallel` another, of the workers.
    """

    n: int
    mean_sqnorm: float
    variance: float


class Parallel(NamedTuple):
    """`Statistics` of the gradients of n workers."""

    n: int
    mean_sqnorm: float
    variance: float

    @classmethod
    def of(cls, sqnorms: Sequence[float], mean_sqnorm: float) -> Parallel:
        """From ‖g_i‖² of each worker's gradient and ‖ḡ‖² of their mean: all that distributed SGD has to exchange."""
        n = np.size(real("sqnorms", sqnorms))
        require(n > 1, "sqnorms", sqnorms, "must be of 2 workers or more")
        scalar("mean_sqnorm", mean_sqnorm)
        return cls(n, mean_sqnorm, (sum(sqnorms) - n * mean_sqnorm) / (n - 1))


def gain(variance: ArrayLike, sqnorm: ArrayLike, scale: float) -> np.ndarray:
    """r = (σ² + ‖∇f‖²)/(σ²/S + ‖∇f‖²), from 1 (no noise) to S (nothing but noise); σ² is that of one worker's gradient.

    Johnson et al. 2020. A step of r η with S workers moves r times as far along −∇f as one of η with a single worker,
    E⟨Δθ, ∇f⟩ = −r η‖∇f‖², and E‖Δθ‖² is r times as large too: T1's descent a step is r times that of η, whatever S
    [N]. With B = b σ²/‖∇f‖² and batches of b a worker, r = (1 + B/b)/(1 + B/(S b)): the ratio of T11's learning rates
    (1/L)/(1 + B/b), and of its numbers of steps, at batches of S b and of b [N].
    """
    variance, sqnorm = real("variance", variance), real("sqnorm", sqnorm)
    number("scale", scale)
    require(scale >= 1, "scale", scale, "must be 1 or above")
    ok = np.isfinite(variance + sqnorm) & (variance >= 0) & (sqnorm >= 0) & (variance + sqnorm > 0)
    require(bool(ok.all()), "variance, sqnorm", (variance, sqnorm), "must be finite, 0 or above, and not both 0")
    return (variance + sqnorm) / (variance / scale + sqnorm)


def weight(looks: int, scale: int) -> float:
    """Of the last of so many looks in the running means: 1/looks, and S/1000 from 1000/S of them on; 1 at most."""
    return max(1 / looks, min(1.0, scale / MEMORY))


class AdaScale(Policy):
    """S workers with `batch` samples each, lr = r · lr(⌊τ⌋), τ ← τ + r. Signal: `Statistics` of the step's gradients.

    "AdaScale SGD: A User-Friendly Algorithm for Distributed Training" (Johnson et al. 2020, arXiv 2007.05105). `lr` is
    the schedule of a single worker, a function of its steps; τ, the scale-invariant iterations, are what it has taken
    for granted so far: stop when they are as many as the single worker's steps. As in the paper r is 1 at first and
    `gain` of running means from then on: σ² ≥ 1e-6 and ‖∇f‖² ≥ 0, each estimated without bias and then clipped,
    averaged with `weight`s. A look at every step, or every `every` steps. A batch cut short by the end of an epoch is
    taken for a whole one.
    """

    signal = "gradient_statistics"
    _state = ("tau", "seen", "variance", "sqnorm")

    def __init__(self, scale: Count, *, batch_size: Count, lr: NumberOrSchedule, every: Count = 1):
        super().__init__(every)
        self.scale, self.batch_size = scale, scale * batch_size
        self._lr = lr if isinstance(lr, Schedule) else constant(lr)
        self.tau, self.seen, self.variance, self.sqnorm = 0.0, 0, 0.0, 0.0

    @property
    def gain(self) -> float:
        """r of the next step."""
        return float(gain(self.variance, self.sqnorm, self.scale)) if self.seen else 1.0

    @property
    def lr(self) -> float:
        return self.gain * self._lr(math.floor(self.tau))

    def update(self, taken: int, signal: Statistics | None = None) -> tuple[int, float]:
        gained = self.gain
        super().update(taken, signal)
        self.tau += gained
        return self.batch_size, self.lr

    def observe(self, signal: Statistics) -> None:
        of_mean = signal.variance / signal.n
        ok = math.isfinite(signal.mean_sqnorm) and math.isfinite(of_mean)
        require(ok, "signal", signal, "must be finite")
        self.seen += 1
        last = weight(self.seen, self.scale)
        self.variance += last * (max(LEAST_VARIANCE, self.scale * of_mean) - self.variance)
        self.sqnorm += last * (max(0.0, signal.mean_sqnorm - of_mean) - self.sqnorm)
