"""Policies: batch size and learning rate from what a run measures.

    for x, y in loader:
        ...  # a step with policy.batch and policy.lr
        policy.update(len(x), signal() if policy.due else None)

Each is a plain object, for any loop; see `policy.Policy` for what all have, and its docstring for its signal.
Bad input raises `InputError`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from sfolib.adaptive.adascale import AdaScale
from sfolib.adaptive.autowu import AutoWU
from sfolib.adaptive.estimators import OptimalBatch
from sfolib.adaptive.policy import Policy, whole
from sfolib.errors import positive, require
from sfolib.recipes import capped_stage
from sfolib.schedule import Schedule, constant

if TYPE_CHECKING:
    from sfolib.gradstats import GradientStatistics

__all__ = [
    "AdaScale",
    "AugmentedInnerProductTest",
    "AutoWU",
    "EpsilonTrigger",
    "InnerProductTest",
    "NormTest",
    "OptimalBatch",
]


class EpsilonTrigger(Policy):
    """Grows by stages when ‖∇f‖ has come down to what the stage aims at. Signal: the norm ‖∇f‖ itself, not its square.

    Looked at after every `check_every` steps, one stage a look: where ‖∇f‖ ≤ ε_m, batch × delta and lr × gamma. After
    "Adaptive Batch Size and Learning Rate Scheduler for Stochastic Gradient Descent Based on Minimization of Stochastic
    First-order Oracle Complexity" (Umeda & Iiduka 2025, arXiv 2508.05302). The next ε is
    - rule = "critical": ε_m² ∝ η_m/b_m, so that ε² falls by r = δ/γ > 1 and the batch stays critical (T4 [S]); caps as
      in T7 [N], see `recipes.capped_stage`.
    - rule = "published": ε_m² ∝ 1/b_m whatever lr does, so that ε² falls by δ > 1, as in the authors' program: with
      γ > 1 the batch falls behind the critical one by γ a stage [N]. There the batch is rounded up, nothing grows any
      more once it is at max_batch, and there is no max_lr.

    Read beside the authors' program, and unlike it: ‖∇f‖ is that of f, after the step (theirs: in train mode on
    augmented batches, before the step, to which the new lr already applies).
    """

    _state = ("stage",)

    def __init__(
        self,
        batch: int,
        lr: float,
        eps: float,
        delta: float,
        gamma: float = 1.0,
        check_every: int = 100,
        *,
        rule: Literal["critical", "published"] = "critical",
        max_lr: float = math.inf,
        max_batch: int | None = None,
    ):
        super().__init__(check_every)
        positive("eps", eps)
        require(rule in ("critical", "published"), "rule", rule, "must be 'critical' or 'published'")
        self._published, self._eps, self._r = rule == "published", eps, delta / gamma
        self._growth = (batch, lr, delta, gamma, max_lr, max_batch)
        self.stage = 0
        capped_stage(0, *self._growth)
        if self._published:
            require(delta > 1, "delta", delta, "must be above 1, or eps would not come down")
            require(max_lr == math.inf, "max_lr", max_lr, "is not of the published rule")
        else:
            require(self._r > 1, "delta", delta, f"must be above gamma = {gamma}, or eps would not come down")

    @property
    def due(self) -> bool:
        return super().due and not (self._published and self.batch == self._growth[-1])

    @property
    def eps(self) -> float:
        """ε of the present stage."""
        if self._published:
            return self._eps * math.sqrt(self._growth[0] / self.batch)
        return self._eps * self._r ** (-self.stage / 2)

    @property
    def batch(self) -> int:
        if self._published:
            batch, _, delta, _, _, most = self._growth
            return math.ceil(min(batch * delta**self.stage, math.inf if most is None else most))
        return max(1, math.floor(capped_stage(self.stage, *self._growth)[0] + 0.5))

    @property
    def lr(self) -> float:
        if self._published:
            return self._growth[1] * self._growth[3] ** self.stage
        return capped_stage(self.stage, *self._growth)[1]

    def _see(self, signal: float) -> None:
        require(signal >= 0, "signal", signal, "must be a gradient norm, 0 or above")
        self.stage += signal <= self.eps


class _VarianceTest(Policy):
    """b ← max(b, what the test asks for, rounded up), at most max_batch. lr is a schedule of the samples so far.

    Tested after the first step and every `test_interval` steps from there, until the batch is at max_batch: the rule
    of AdAdaGrad's program. There a batch is moreover rounded up to whole micro-batches on every device.
    """

    _state = ("batch",)

    def __init__(self, batch: int, lr: float | Schedule, test_interval: int, max_batch: int | None):
        super().__init__(test_interval)
        self.batch = whole("batch", batch)
        top = math.inf if max_batch is None else whole("max_batch", max_batch)
        require(top >= batch, "max_batch", max_batch, f"must be at least batch = {batch}")
        self._top = top
        if not isinstance(lr, Schedule):
            positive("lr", lr)
            lr = constant(lr)
        self._lr = lr

    @property
    def due(self) -> bool:
        return self.step % self.every == 0 and self.batch < self._top

    @property
    def lr(self) -> float:
        return self._lr(self.samples)

    def wanted(self, statistics: GradientStatistics) -> float:
        """The batch size, a real number, at which the test would just hold; inf where the mean gradient is 0."""
        raise NotImplementedError

    def _see(self, signal: GradientStatistics) -> None:
        wanted = self.wanted(signal)
        require(not math.isnan(wanted), "signal", signal, "must be finite")
        require(min(wanted, self._top) < math.inf, "max_batch", None, "is needed: the mean gradient is 0")
        if wanted > self.batch:
            self.batch = math.ceil(min(wanted, self._top))


class NormTest(_VarianceTest):
    """T10 [S]: b ≥ Σ_j Var_i(g_ij)/(η² ‖ḡ‖²). Signal: `gradstats.GradientStatistics` of the step's batch, before it.

    Byrd et al. 2012; with adaptive methods as AdAdaGrad (Lau, Liu & Kolar 2024, arXiv 2402.11215). The batch never
    shrinks. ‖ḡ‖² of a batch is ‖∇f‖² + σ²/b in the mean, so that a test asks for less than b/η², and what it asks for
    settles at (1 − η²) σ²/(η² ‖∇f‖²) [N]: at η ≥ 1 nothing grows.
    """

    def __init__(
        self, eta: float, *, batch: int, lr: float | Schedule, test_interval: int = 1, max_batch: int | None = None
    ):
        positive("eta", eta)
        super().__init__(batch, lr, test_interval, max_batch)
        self.eta = eta

    def wanted(self, statistics: GradientStatistics) -> float:
        return _ratio(statistics.variance, self.eta**2 * statistics.mean_sqnorm)


class InnerProductTest(_VarianceTest):
    """T10 [S]: b ≥ Var_i(g_i·ḡ)/(θ² ‖ḡ‖⁴) (Bollapragada et al. 2018); the rest as `NormTest`."""

    def __init__(
        self, theta: float, *, batch: int, lr: float | Schedule, test_interval: int = 1, max_batch: int | None = None
    ):
        positive("theta", theta)
        super().__init__(batch, lr, test_interval, max_batch)
        self.theta = theta

    def wanted(self, statistics: GradientStatistics) -> float:
        return _ratio(statistics.inner_product_variance, self.theta**2 * statistics.mean_sqnorm**2)


class AugmentedInnerProductTest(InnerProductTest):
    """T10 [S]: the inner-product test and the orthogonality test, b ≥ Σ_j Var_i(orthogonal part)/(ν² ‖ḡ‖²), at once."""

    def __init__(
        self,
        theta: float,
        nu: float,
        *,
        batch: int,
        lr: float | Schedule,
        test_interval: int = 1,
        max_batch: int | None = None,
    ):
        positive("nu", nu)
        super().__init__(theta, batch=batch, lr=lr, test_interval=test_interval, max_batch=max_batch)
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
