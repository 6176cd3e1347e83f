"""T15 to second order [N]: the mean μ of a run's iterates in place of its noise-free path, for one batch size.

E∇f(μ + ξ) = ∇f(μ) + ½∇tr(HC) + …: noise moves the mean to where there is less of it, and what it does about the mean
is not what H and Σ at one point say. Both are read off a cloud of pairs of points about μ, of which one makes steps of
SGD and the other is its mirror image:

    θ₊ ← θ₊ − η g_B(θ₊),    μ ← μ − η [∇f(μ) + mean over the pairs of ½(g_B(θ₊) + g_B(θ₋)) − g_B(μ)],    θ₋ = 2μ − θ₊.

B is the same batch at the three points of a pair: what is odd in ξ cancels, and so does the batch's noise but for what
it adds to the curvature. E‖∇f‖² and E f are the means over the cloud.
Dropped: third cumulants. Where noise is large, iterates are skewed towards large ‖∇f‖², of which their mirror images
have less. By permutation also that a sample's curvature goes with its gradient (c of `covariance`), which is odd in ξ.
So a prediction holds as many runs as pairs, with random numbers that are no run's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from sfolib._utils.errors import require, whole
from sfolib.analysis.noise_free_path import NoiseFreePath, PlanClock
from sfolib.problems.stacked import MLP
from sfolib.training import updates
from sfolib.training.optimizers import SGD
from sfolib.training.spec import Spec

STARTS = 4
_OWN = 1 << 31  # seeds from here on are no run's
_TAKEN = 1.4  # ratio of the steps that are taken at once
_SMOOTHED = 1.25  # ratio of the steps, to both sides, over which what the noise adds is smoothed


class MeanPath(NoiseFreePath):
    """The mean paths of a spec from the starts of its first seeds, `STARTS` at most, which share its cloud's pairs."""

    def __init__(self, spec: Spec, device: str, pairs: int):
        self.pairs, self._steps = whole("pairs", pairs), 0
        self.starts = max(count for count in range(1, min(STARTS, len(spec.seeds)) + 1) if pairs % count == 0)
        require(isinstance(spec.optimizer, SGD), "pairs", pairs, f"must be 0 for {spec.optimizer.kind!r}")
        super().__init__(spec, device, None)
        dense = isinstance(self.task, MLP)
        require(dense, "pairs", pairs, "must be 0 but for softmax regression and dense networks on digits")
        seeds = tuple(_OWN + spec.seeds[0] * pairs + j for j in range(pairs))
        self.cloud, self.around = (
            spec.problem.build_task(seeds * copies, spec.sampling, self.device, spec.dtype) for copies in (3, 2)
        )
        for members, mean in zip(self.cloud.parameters, self.task.parameters, strict=True):
            members.copy_(self._of_pairs(mean).repeat(3, 1, 1))  # θ₊ of all pairs, θ₋ of all pairs, μ as often
        self.around.parameters = [members[: 2 * pairs] for members in self.cloud.parameters]
        self._update_cloud = updates.build(spec.optimizer, self.cloud.parameters)

    def _of_pairs(self, means: torch.Tensor) -> torch.Tensor:
        """What there is one of for each start, for each pair."""
        return means.repeat_interleave(self.pairs // self.starts, 0)

    def windows(self, clock: PlanClock) -> Iterator[list[list[tuple[float, ...]]]]:
        """As `noise_free_path.windows` of one run; what the noise adds is not `smoothed`."""
        while not clock.over:
            first = self.step
            steps = clock.take(max(1, int(first * _TAKEN) - first))
            at, measured = self.advance(steps)
            yield [[*zip(first + at, steps.samples[at - 1], *measured.T, strict=True)]]

    def _move(self, batch_size: int, lr: float, start: int) -> None:
        full = self._full_gradient()
        batch = self.cloud.gradients(self.step, start, batch_size)
        means, members, curved = [], [], []
        for gradient, of_cloud in zip(full, batch, strict=True):
            plus, minus, middle = of_cloud.chunk(3)
            curved.append(((plus + minus) / 2 - middle).unflatten(0, (self.starts, -1)).mean(1))
            means.append(gradient + curved[-1])
            mean = self._of_pairs(means[-1])
            members.append(torch.cat([plus, 2 * mean - plus, mean]))
        self.update(means, lr)
        self._update_cloud(members, lr)
        self._curved = [a + b for a, b in zip(self._curved, curved, strict=True)] if self._steps else curved
        self._steps += 1
        self.probes += self.starts * self.epoch + 3 * self.pairs * batch_size

    def _measure(self) -> tuple[float, ...]:
        """‖E∇f‖², of which what is not ∇f(μ) is the mean over the steps since the last reading, and f(μ); from the
        first step on also what E‖∇f‖² and E f have beyond them."""
        sqnorm, loss = super()._measure()
        if not self._steps:
            return sqnorm, loss
        means = [g + curved / self._steps for g, curved in zip(self._full_gradient(), self._curved, strict=True)]
        sqnorm, self._steps = sum(float(mean.square().sum()) for mean in means) / self.starts, 0
        found = self.around.measure()
        values = [float(found[name].double().mean()) for name in ("grad_sqnorm", "loss")]
        require(bool(np.all(np.isfinite(values))), "plan", self.step, "steps in, the cloud about the mean has diverged")
        self.probes += self.epoch * (self.starts + 2 * self.pairs)
        return sqnorm, loss, values[0] - sqnorm, values[1] - loss


def smoothed(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (points,) of a cloud along a path, whose few members fluctuate: of the points whose steps are within a
    ratio of 1.25 of each, the line of least squares over ln steps. At the end they are as many, all before."""
    x, last = np.log(steps[1:]), np.log(steps[-1]) - np.log(_SMOOTHED)
    weights = np.abs(x - np.minimum(x, last)[:, None]) <= np.log(_SMOOTHED) + 1e-9
    weights = weights / weights.sum(1, keepdims=True)
    away = x - (weights @ x)[:, None]
    spread, along = (weights * away**2).sum(1), (weights * away) @ values[1:]
    slope = np.divide(along, spread, out=np.zeros_like(along), where=spread > 0)
    return np.concatenate([values[:1], weights @ values[1:] + slope * np.diagonal(away)])
