"""Tests of the batch's gradient noise that decide the batch size (T10)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sfolib._utils.errors import require
from sfolib._utils.model import Above0, Count
from sfolib.schedules.adaptive.base import Policy, capped_at
from sfolib.schedules.base import NumberOrSchedule, Schedule, constant

if TYPE_CHECKING:
    from sfolib.gradients.statistics import GradientStatistics


class _VarianceTest(Policy):
    """b ← max(b, what the test asks for, rounded up), at most max_batch_size. lr is a schedule of the samples so far.

    Tested after the first step and every `test_interval` steps from there, until the batch is at max_batch_size: the
    rule of AdAdaGrad's program. There a batch is moreover rounded up to whole micro-batches on every device.
    """

    signal = "gradient_statistics"
    _state = ("batch_size",)

    def __init__(self, batch_size: int, lr: float | Schedule, test_interval: int, max_batch_size: int | None):
        super().__init__(test_interval)
        self.batch_size, self._top = batch_size, capped_at(max_batch_size, batch_size)
        self._lr = lr if isinstance(lr, Schedule) else constant(lr)

    @property
    def needs_signal(self) -> bool:
        return self.step % self.every == 0 and self.batch_size < self._top

    @property
    def lr(self) -> float:
        return self._lr(self.samples)

    def wanted(self, statistics: GradientStatistics) -> float:
        """The batch size, a real number, at which the test would just hold; inf where the mean gradient is 0."""
        raise NotImplementedError

    def observe(self, signal: GradientStatistics) -> None:
        wanted = self.wanted(signal)
        require(not math.isnan(wanted), "signal", signal, "must be finite")
        require(min(wanted, self._top) < math.inf, "max_batch_size", None, "is needed: the mean gradient is 0")
        if wanted > self.batch_size:
            self.batch_size = math.ceil(min(wanted, self._top))


class NormTest(_VarianceTest):
    """T10 [S]: b ≥ Σ_j Var_i(g_ij)/(η² ‖ḡ‖²). Signal: `gradients.GradientStatistics` of the step's batch, before it.

    Byrd et al. 2012; with adaptive methods as AdAdaGrad (Lau, Liu & Kolar 2024, arXiv 2402.11215). The batch never
    shrinks. ‖ḡ‖² of a batch is ‖∇f‖² + σ²/b in the mean, so that a test asks for less than b/η², and what it asks for
    settles at (1 − η²) σ²/(η² ‖∇f‖²) [N]: at η ≥ 1 nothing grows.
    """

    def __init__(
        self,
        eta: Above0,
        *,
        batch_size: Count,
        lr: NumberOrSchedule,
        test_interval: Count = 1,
        max_batch_size: Count | None = None,
    ):
        super().__init__(batch_size, lr, test_interval, max_batch_size)
        self.eta = eta

    def wanted(self, statistics: GradientStatistics) -> float:
        return _ratio(statistics.variance, self.eta**2 * statistics.mean_sqnorm)


class InnerProductTest(_VarianceTest):
    """T10 [S]: b ≥ Var_i(g_i·ḡ)/(θ² ‖ḡ‖⁴) (Bollapragada et al. 2018); the rest as `NormTest`."""

    def __init__(
        self,
        theta: Above0,
        *,
        batch_size: Count,
        lr: NumberOrSchedule,
        test_interval: Count = 1,
        max_batch_size: Count | None = None,
    ):
        super().__init__(batch_size, lr, test_interval, max_batch_size)
        self.theta = theta

    def wanted(self, statistics: GradientStatistics) -> float:
        return _ratio(statistics.inner_product_variance, self.theta**2 * statistics.mean_sqnorm**2)


class AugmentedInnerProductTest(InnerProductTest):
    """T10 [S]: the inner-product test and the orthogonality test, b ≥ Σ_j Var_i(orthogonal part)/(ν² ‖ḡ‖²), at once."""

    def __init__(
        self,
        theta: Above0,
        nu: Above0,
        *,
        batch_size: Count,
        lr: NumberOrSchedule,
        test_interval: Count = 1,
        max_batch_size: Count | None = None,
    ):
        super().__init__(
            theta, batch_size=batch_size, lr=lr, test_interval=test_interval, max_batch_size=max_batch_size
        )
        self.nu = nu

    def wanted(self, statistics: GradientStatistics) -> float:
        orthogonal = _ratio(statistics.orthogonal_variance, self.nu**2 * statistics.mean_sqnorm)
        inner = super().wanted(statistics)
        return math.nan if math.isnan(inner) else max(orthogonal, inner)


def _ratio(variance: float, scale: float) -> float:
    """variance/scale; inf where the scale is 0 or underflows, and nan where either is not finite."""
    if not (math.isfinite(variance) and math.isfinite(scale)):
        return math.nan
    return variance / scale if scale > 0 else math.inf
