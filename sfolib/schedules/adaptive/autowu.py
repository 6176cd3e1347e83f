"""AutoWU: warm up until the loss rises, as a Gaussian process sees it, and then decay (Kim et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from sfolib._utils.errors import real, require
from sfolib._utils.model import Above0, Below1, Count, Index
from sfolib.schedules.adaptive import loss_gp
from sfolib.schedules.adaptive.base import Policy

FIT, CONDITION, TESTS, CONFIDENCE, PATIENCE = 100, 500, 5, 0.95, 3
_GRID = 500
_JITTER = 1e-4  # on the variance of a difference, in the units of the losses fitted, squared
Fit = Callable[[np.ndarray, np.ndarray, float], loss_gp.Process]


class Prediction(NamedTuple):
    """What one conditioning of the process says of the loss curve over [0, 1], the run so far."""

    argmin: float  # where the mean is smallest
    past_minimum: float  # largest probability of a past point to lie below the last


class Decision(NamedTuple):
    """When a warm-up ended, in epochs, and the lr from there."""

    epoch: int
    peak: float


class AutoWU(Policy):
    """An lr that grows from min_lr until the loss is past its minimum, and then falls. Signal: each step's loss.

    "Automated Learning Rate Scheduler for Large-batch Training" (Kim et al. 2021, arXiv 2107.05855). Warm-up:
    exponential or linear, towards max_lr at max_warmup_fraction of `total_steps`, where it ends at the latest. At the
    end of every epoch of `steps_per_epoch` steps the losses so far are tested (`predictions`): the minimum is past if
    in most of 5 conditionings some past point is below the last with probability above 0.95. After 3 such epochs in
    a row lr goes back to where the predicted loss was smallest (mean of the 5), and falls from there like a cosine to
    0: at once, or over the last `cooldown_fraction` of the steps with a constant before.

    Read beside the authors' program, and unlike it: the process is fitted by full maximization of the likelihood, anew
    at every test, around the mean of the losses; fit = "adam" is their way (100 Adam steps from the last fit, the
    constant fitted too). lr is that of the same step as the predicted minimum (theirs: of up to one step before).
    Like theirs it does not put the weights back to where they were then.
    """

    signal = "loss"
    _state = ("losses", "votes", "switched", "peak", "adam")

    def __init__(
        self,
        total_steps: Count,
        steps_per_epoch: Count,
        *,
        batch_size: Count,
        min_lr: Above0 = 1e-5,
        max_lr: Above0 = 1.0,
        max_warmup_fraction: float = 0.5,
        warmup: Literal["exponential", "linear"] = "exponential",
        cooldown_fraction: Below1 | None = None,
        fit: Literal["likelihood", "adam"] = "likelihood",
        seed: Index = 0,
    ):
        super().__init__(1)
        require(min_lr < max_lr, "min_lr", min_lr, f"must be below max_lr = {max_lr}")
        fraction = 0.0 if cooldown_fraction is None else cooldown_fraction
        room = 0 < max_warmup_fraction <= 1 - fraction
        require(room, "max_warmup_fraction", max_warmup_fraction, f"must be in (0, {1 - fraction:g}]")
        self._longest = int(total_steps * max_warmup_fraction)
        require(self._longest > 0, "total_steps", total_steps, "leaves no step to the warm-up")
        self.batch_size, self.total_steps, self.steps_per_epoch, self.seed = (
            batch_size,
            total_steps,
            steps_per_epoch,
            seed,
        )
        self._range, self._linear, self.fit = (min_lr, max_lr), warmup == "linear", fit
        self._cooldown = None if cooldown_fraction is None else math.ceil((1 - fraction) * total_steps)
        self.losses: list[float] = []  # of the warm-up
        self.votes: list[bool] = []  # of the last epochs: was the minimum past?
        self.switched: int | None = None  # the step after which the warm-up ended, and the lr from there
        self.peak: float | None = None
        self.adam = list(loss_gp.ADAM_START) if fit == "adam" else []  # where the last fit ended

    @property
    def lr(self) -> float:
        if self.switched is None:
            return self.warmup_lr(self.step)
        start = self.switched if self._cooldown is None else max(self.switched, self._cooldown)
        if self.step < start or start == self.total_steps:
            return self.peak
        return self.peak * (1 + math.cos(math.pi * min(1.0, (self.step - start) / (self.total_steps - start)))) / 2

    def warmup_lr(self, step: float) -> float:
        """lr of the warm-up after `step` steps."""
        (low, high), share = self._range, step / self._longest
        return low + (high - low) * share if self._linear else low * (high / low) ** share

    def observe(self, signal: float) -> None:
        if self.switched is not None:
            return
        self.losses.append(float(signal))
        if self.step >= self._longest:
            self._switch(self.warmup_lr(self.step))
        elif self.step % self.steps_per_epoch == 0:
            fit = partial(loss_gp.adam, state=self.adam) if self.adam else loss_gp.maximize_likelihood
            found = predictions(self.losses, (self.seed, self.step), fit)
            votes = sum(p.past_minimum > CONFIDENCE for p in found)
            self.votes = [*self.votes, votes > TESTS / 2][-PATIENCE:]
            if len(self.votes) == PATIENCE and all(self.votes):
                self._switch(float(np.mean([self.warmup_lr(p.argmin * self.step) for p in found])))

    def provenance(self) -> dict[str, list[float]]:
        """decided: the step after which the warm-up ended, and the lr from there."""
        return {} if self.switched is None else {"decided": [self.switched, self.peak]}

    def _switch(self, peak: float) -> None:
        self.switched, self.peak, self.losses = self.step, peak, []


def predictions(losses: list[float], key: tuple[int, ...], fit: Fit = loss_gp.maximize_likelihood) -> list[Prediction]:
    """Five looks at a loss curve, by a process (`curve`) fitted to at most 100 random points of it.

    Each look conditions the fitted process on at most 500 random points (all, where there are no more, so that the
    five are then one), without the noise. Losses that are not finite are left out. `key` seeds the choices.
    The likelihood's fit does not depend on the scale of the losses; Adam's does.
    """
    y, rng = real("losses", losses), np.random.default_rng(key)
    finite = np.flatnonzero(np.isfinite(y))
    require(len(finite) > 1, "losses", len(finite), "finite ones are too few")

    y = y / _unit(y[finite], fit)

    def some(most: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = finite if len(finite) <= most else np.sort(rng.choice(finite, most, replace=False))
        return chosen / len(y), y[chosen]

    process = fit(*some(FIT), y[finite].mean())
    if len(finite) <= CONDITION:
        return [_look(process, *some(CONDITION))] * TESTS
    return [_look(process, *some(CONDITION)) for _ in range(TESTS)]


def decision(lr: np.ndarray) -> Decision:
    """When the warm-up ended, by lr at the ends of epochs 0, 1, 2 …: where it first is lower than before."""
    falls = np.flatnonzero(np.diff(lr) < 0)
    require(len(falls) > 0, "lr", lr, "never falls: the run ended in its warm-up")
    return Decision(int(falls[0]) + 1, float(lr[falls[0] + 1]))


def smoothed(losses: np.ndarray, fit: Fit = loss_gp.maximize_likelihood) -> tuple[np.ndarray, np.ndarray]:
    """The curve behind finite losses at 500 points of [0, 1], fitted to all of them: mean and standard deviation."""
    x, grid, unit = np.arange(len(losses)) / len(losses), np.linspace(0, 1, _GRID), _unit(losses, fit)
    y = losses / unit
    mean, covariance = loss_gp.condition(fit(x, y, y.mean()), x, y, grid)
    return unit * mean, unit * np.sqrt(covariance.diagonal())


def _unit(losses: np.ndarray, fit: Fit) -> float:
    """In which the likelihood's bounds, and the jitter, are of no unit; Adam's are of the loss's."""
    return (losses.std() or 1.0) if fit is loss_gp.maximize_likelihood else 1.0


def _look(process: loss_gp.Process, x: np.ndarray, y: np.ndarray) -> Prediction:
    grid = np.linspace(0, 1, _GRID)
    mean, covariance = loss_gp.condition(process, x, y, grid)
    return Prediction(float(grid[mean.argmin()]), _past_minimum(mean, covariance))


def _past_minimum(mean: np.ndarray, covariance: np.ndarray) -> float:
    """max_i P(X_i < X_k), i < k, for (X_1 … X_k) normal."""
    from scipy.stats import norm

    own = covariance.diagonal()
    variance = own[:-1] + own[-1] - 2 * covariance[:-1, -1] + _JITTER
    return float(norm.cdf((mean[-1] - mean[:-1]) / np.sqrt(variance)).max())
