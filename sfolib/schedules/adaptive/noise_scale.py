"""What a run can tell of its own best batch size: the gradient noise scale, and the batch of strongly convex theory.

    scale = NoiseScale(decay=0.99)
    for x, y in loader:
        ...  # gradients of equal parts of the batch, their mean is the step's gradient g
        scale.update(np.mean([norm2(part) for part in parts]), len(x) // len(parts), norm2(g), len(x))
    scale.value  # B; grow the batch towards it

Numbers in, numbers out; no torch. Bad input raises `InputError`. Batch sizes are in gradient evaluations a step.
[N] = derived for this project, in `tests/schedules/adaptive/test_noise_scale.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sfolib._utils.errors import positive, real, require, whole
from sfolib._utils.model import Below1, checked
from sfolib.theory.bounds import Numbers

if TYPE_CHECKING:
    from sfolib.gradients.statistics import GradientStatistics


class NoiseScale:
    """B = tr Σ/‖G‖², the simple noise scale of "An Empirical Model of Large-Batch Training" (arXiv 1812.06162).

    G is the full gradient and Σ the covariance of one per-sample gradient, so that a mean of b of them has
    E‖g_b‖² = ‖G‖² + tr Σ/b. Two batch sizes give both parts, each without bias:
    ‖G‖² ≈ (B‖g_B‖² − b‖g_b‖²)/(B − b) and tr Σ ≈ (‖g_b‖² − ‖g_B‖²)/(1/b − 1/B).
    Both are averaged with weights decay^k over the k-th last update; their ratio is `value`, which is not unbiased, and
    inf where the averaged ‖G‖² is not above 0: the average is then too short, see `sqnorm_variance`.
    Several runs at once: give arrays of one shape in place of numbers.
    """

    @checked
    def __init__(self, decay: Below1 = 0.99):
        self.decay, self._weight, self._sqnorm, self._variance = decay, 0.0, np.zeros(()), np.zeros(())

    def update(self, small_sqnorm: ArrayLike, small: int, big_sqnorm: ArrayLike, big: int) -> None:
        """After a step: squared norms of gradients at batch sizes small < big, the former best a mean over parts."""
        whole("small", small)
        require(whole("big", big) > small, "big", big, f"must be above small = {small}")
        low, high = real("small_sqnorm", small_sqnorm), real("big_sqnorm", big_sqnorm)
        require(bool(np.isfinite(low).all() and np.isfinite(high).all()), "small_sqnorm, big_sqnorm",
                (small_sqnorm, big_sqnorm), "must be finite")  # fmt: skip
        self._add((big * high - small * low) / (big - small), (low - high) / (1 / small - 1 / big))

    def see(self, statistics: GradientStatistics) -> None:
        """After a step: the statistics of n per-sample gradients. The same as `update` with batch sizes 1 and n."""
        self._add(statistics.mean_sqnorm - statistics.variance / statistics.n, statistics.variance)

    def _add(self, sqnorm: ArrayLike, variance: ArrayLike) -> None:
        self._weight = self.decay * self._weight + 1
        self._sqnorm = np.asarray(self.decay * self._sqnorm + sqnorm)
        self._variance = np.asarray(self.decay * self._variance + variance)

    @property
    def sqnorm(self) -> Numbers:
        """Average estimate of ‖G‖²; it can be negative. nan before the first update, as all three."""
        return plain(self._sqnorm / self._weight if self._weight else self._sqnorm * np.nan)

    @property
    def variance(self) -> Numbers:
        """Average estimate of tr Σ, A3's σ² at this point."""
        return plain(self._variance / self._weight if self._weight else self._variance * np.nan)

    @property
    def value(self) -> Numbers:
        """B = tr Σ/‖G‖², in gradient evaluations."""
        return noise_scale(self.variance, self.sqnorm)

    def state_dict(self) -> dict[str, Any]:
        """Numbers, and lists of them, that JSON can hold."""
        return {"weight": self._weight, "sqnorm": self._sqnorm.tolist(), "variance": self._variance.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        names = ["weight", "sqnorm", "variance"]
        require(set(state) == set(names), "state", [*state], f"entries must be {names}")
        self._weight = state["weight"]
        self._sqnorm, self._variance = (np.asarray(state[name], dtype=float) for name in names[1:])


def noise_scale(variance: ArrayLike, sqnorm: ArrayLike) -> Numbers:
    """tr Σ/‖G‖² out of averaged estimates; inf where that of ‖G‖² is not above 0."""
    variance, sqnorm = real("variance", variance), real("sqnorm", sqnorm)
    lost = sqnorm <= 0  # a nan is not lost, but stays one
    return plain(np.where(lost, np.inf, variance / np.where(lost, 1.0, sqnorm)))


def sqnorm_variance(along: ArrayLike, square: ArrayLike, batch_size: ArrayLike, parts: ArrayLike) -> Numbers:
    """Variance of one estimate of ‖G‖² from a batch and its equal parts [N]: 4 GᵀΣG/b + 2 tr Σ²/b² · k/(k − 1).

    along: GᵀΣG (`GradientStatistics.inner_product_variance`); square: tr Σ². parts: k, 2 or more; b per-sample
    gradients are b parts. Whatever the distribution; a smooth average with `decay` d has (1 − d)/(1 + d) of it.
    """
    for field, value in (("batch_size", batch_size), ("parts", parts)):
        positive(field, value)
    parts = np.asarray(parts, dtype=float)
    require(bool(np.all(parts >= 2)), "parts", float(np.min(parts)), "must be 2 or more")
    along, square, b = real("along", along), real("square", square), real("batch_size", batch_size)
    for field, value in (("along", along), ("square", square)):
        require(bool(np.all((value >= 0) & (value < np.inf))), field, value.tolist(), "must be finite, 0 or above")
    return plain(4 * along / b + 2 * square / b**2 * parts / (parts - 1))


def local_critical_batch_size(curvature_noise: ArrayLike, lr: ArrayLike, eps: ArrayLike) -> Numbers:
    """η tr(HΣ)/ε² [N]: the batch of the fewest gradient evaluations to ε at a small fixed lr.

    T2's b*, with what the noise really meets, tr(HΣ) ≤ Lσ², where the bound has 2Lσ²/(2 − Lη). With Hessian H, noise
    alone holds E‖∇f‖² up by η tr(HΣ)/(2b); beside a bias that falls like 1/K, K b is least where that is half of ε².
    """
    for field, value in (("lr", lr), ("eps", eps)):
        positive(field, value)
    return plain(real("curvature_noise", curvature_noise) * np.asarray(lr) / np.square(eps))


def critical_batch_size(batch_size: ArrayLike, steps: ArrayLike) -> float:
    """b* of measured steps K(b) to one ε: twice the floor w/u of the K = 1/(u − w/b) that fits best, in relative error.

    The form of T2 [S] and of `adam_bound.steps_to` [N], whatever their constants. Points with K = inf are left out; 0
    where K does not rise as b falls, inf where no batch would do. Raises `InputError` for fewer than 3 points.
    """
    batch_size, steps = real("batch_size", batch_size), real("steps", steps)
    shapes = batch_size.shape, steps.shape
    require(shapes[0] == shapes[1], "batch_size, steps", shapes, "must have one shape")
    reached = np.isfinite(steps)
    require(int(reached.sum()) >= 3, "steps", steps.tolist(), "must be finite at 3 batch sizes or more")
    positive("batch_size", batch_size)
    positive("steps", steps[reached])
    batch_size, steps = batch_size[reached], steps[reached]
    u, w = np.linalg.lstsq(np.column_stack([steps, -steps / batch_size]), np.ones(len(steps)), rcond=None)[0]
    return 2 * max(0.0, float(w)) / float(u) if u > 0 else math.inf


def plain(value: ArrayLike) -> Numbers:
    return float(value) if np.ndim(value) == 0 else np.asarray(value)
