"""Growth by whether successive gradients agree (T14): no look at the data that the run does not take anyway."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import log_ndtr

from sfolib._utils.errors import positive, require, whole
from sfolib.schedules.adaptive.base import Policy

if TYPE_CHECKING:
    from sfolib.gradients.successive import SuccessiveProducts

_SCALE = 25.0  # products: where the mixture is at its best; it loses little at ten times as many, or a tenth
_FEWEST = 8  # products of a window that may decide
_LOOKS = 64  # kept of a stage; older ones are merged by pairs
_Z = 1.959964  # two-sided 95 %


class Estimate(NamedTuple):
    """A value with its 95 % interval; nan before there is one."""

    value: float
    low: float
    high: float


class SuccessiveGradientTest(Policy):
    """b × growth as soon as successive gradients no longer agree. Signal: `gradients.SuccessiveProducts` of the steps
    since the last look, which cost no gradient evaluation; `gradients.SuccessiveGradients` collects them.

    T14 [N] (the statistic is Pflug's, 1990): with G = ∇f, H the Hessian, Σ the covariance of one sample's gradient and
    Q = tr(HΣ), s = E[g_t·g_{t+1}] = ‖G‖² − η(GᵀHG + Q/b) is the slope in η of the decrease of f in one step. It is 0
    where b is critical for η, b_c = ηQ/(‖G‖² − ηGᵀHG), and below 0 where noise or curvature has the upper hand. With
    momentum μ it is x = (1 − μ)E[v·g] − μ/(1 + μ)‖G‖² that is 0 at b_c = ηQ/((1 − μ)‖G‖²). When x is found below 0:
    - noise, tr Σ/b ≥ (1 − μ)/(2(1 + μ)) ‖G‖²: b × growth, up to max_batch_size, and from there on η / growth (T7);
    - else curvature (noise alone cannot do it while η is below the edge of stability, 2(1 + μ)/λ_max): η / growth.
    With Adam and AdaGrad all of it holds in the metric P of their step −ηPv, taken for constant over the memory of v.

    "Found" is a sequential test of "x ≥ 0 in all of this stage" (since the last change), looked at every `every` steps:
    if it is true, the stage ends with probability `error` at most, however long it is. Its evidence is Σ_j w_j E_j, E_j
    a half-normal mixture likelihood ratio (Robbins 1970) of the products since look j, w_j = 1/((j + 1)(j + 2)): a
    nonnegative supermartingale, which gets to 1/error with that probability at most (Ville 1939). That is exact for
    normal x of known variance; here the variance is that of the products in the window, with Student's correction
    (as in the asymptotic confidence sequences of Waudby-Smith et al. 2021, arXiv 2103.06476).

    grad_sqnorm, trace, critical: ‖∇f‖², tr Σ and b_c over the last half of the stage, with intervals. With c the ‖G‖²
    halfway between two steps, ‖G‖² − ηGᵀHG, s is c − ηQ/b, so that b_c = b(1 − s/c), to first order in η [N].
    By permutation, noise of the epoch's earlier batches is in θ and comes back with the other sign: where ηH forgets
    in far more than an epoch's steps, ‖∇f‖² and s are too high by up to 2ηQ/b at its end.
    """

    signal = "successive_gradients"
    _state = ("batch_size", "lr", "looks", "stage", "dropped")

    def __init__(
        self, batch_size: int, lr: float, *, max_batch_size: int | None = None, growth: float = 2.0,
        error: float = 0.05, every: int = 10, momentum: float = 0.0, memory: float | None = None,
    ):  # fmt: skip
        super().__init__(every)
        self.batch_size, self.lr = whole("batch_size", batch_size), lr
        positive("lr", lr)
        top = math.inf if max_batch_size is None else whole("max_batch_size", max_batch_size)
        require(top >= batch_size, "max_batch_size", max_batch_size, f"must be at least batch_size = {batch_size}")
        require(growth > 1 and math.isfinite(growth), "growth", growth, "must be finite and above 1")
        require(0 < error < 1, "error", error, "must be between 0 and 1")
        require(0 <= momentum < 1, "momentum", momentum, "must be in [0, 1)")
        self._top, self._growth, self._error, self.momentum = top, growth, error, momentum
        self.memory = 1 / (1 - momentum) if memory is None else memory
        require(1 <= self.memory < math.inf, "memory", memory, "must be finite, 1 or above")
        keep = 1 - 1 / self.memory
        self._threshold = momentum * (1 - keep) / (1 - keep * momentum)  # of the product over ‖G‖², at b_c
        self._memory = math.ceil(max(self.memory, 1 / (1 - momentum)))
        self.stage = 0  # changes so far
        self.looks: list[list[float]] = []  # of the stage; see `_sums`, and the number of the first look in each
        self.dropped = 0  # products of the stage that still belong to the pair before

    def observe(self, signal: SuccessiveProducts) -> None:
        x = np.asarray(signal.product, dtype=float)
        between, sqnorm, variance = (np.asarray(v, dtype=float) for v in signal[1:])
        require(not np.isinf([x, between, sqnorm, variance]).any(), "signal", signal, "must be finite")
        if self._threshold:
            x = x - self._threshold * between
        drop = min(self.dropped, len(x))
        self.dropped -= drop
        known = ~np.isnan(x + between + sqnorm + variance)
        known[:drop] = False
        if not known.any():
            return
        first = self.looks[-1][0] + self.looks[-1][1] if self.looks else 0.0
        self.looks.append([first, 1.0, *self._sums(*(v[known] for v in (x, between, sqnorm, variance)))])
        if len(self.looks) > _LOOKS:
            pairs = zip(self.looks[::2], self.looks[1::2], strict=False)
            merged = [[a[0], *(np.array(a[1:]) + b[1:]).tolist()] for a, b in pairs]
            self.looks = merged + self.looks[2 * len(merged) :]
        self._decide()

    def _sums(self, x: np.ndarray, between: np.ndarray, sqnorm: np.ndarray, variance: np.ndarray) -> list[float]:
        """Number, Σx, Σx², Σ of products of x at lags up to the memory, their number, Σc, Σc², Σxc of ‖G‖² at the step,
        Σ of it halfway to the one before, Σ tr Σ."""
        lags = range(1, min(self._memory, len(x) - 1) + 1)
        lagged = sum(float(x[lag:] @ x[:-lag]) for lag in lags)
        pairs = sum(len(x) - lag for lag in lags)
        return [
            float(len(x)), float(x.sum()), float(x @ x), float(lagged), float(pairs), float(sqnorm.sum()),
            float(sqnorm @ sqnorm), float(x @ sqnorm), float(between.sum()), float(variance.sum()),
        ]  # fmt: skip

    def evidence(self) -> np.ndarray:
        """w_j E_j for every kept start of a window; their sum is at least 1/error with probability `error` at most."""
        looks = np.array(self.looks)
        n, total, square, lagged, pairs = looks[::-1, 2:7].cumsum(0)[::-1].T
        mean = total / n
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.maximum(square / n - mean**2, 0)
            shared = np.where(pairs > 0, 2 * self._memory * (lagged / pairs - mean**2), 0.0)
            spread = np.sqrt((own + np.maximum(shared, 0)) / (n - 1))
            t = np.where(spread > 0, -mean / spread, np.where(mean < 0, np.inf, 0.0))
            # Student's t to a standard normal (Wallace 1959), within 0.02 of it
            z = np.sign(t) * np.sqrt((n - 1) * np.log1p(t**2 / (n - 1))) * (8 * n - 7) / (8 * n - 5)
        share = n / (n + _SCALE)
        log = math.log(2) + 0.5 * np.log1p(-share) + 0.5 * share * z**2 + log_ndtr(np.sqrt(share) * z)
        weight = 1 / ((looks[:, 0] + 1) * (looks[:, 0] + 2))
        return np.where(n >= _FEWEST, weight * np.exp(np.minimum(log, 700)), 0.0)

    def _decide(self) -> None:
        found = self.evidence()
        if found.sum() < 1 / self._error:
            return
        since = np.array(self.looks)[int(found.argmax()) :, 2:].sum(0)
        noise = since[9] / self.batch_size >= self._guard * since[5]
        if noise and self.batch_size < self._top:
            self.batch_size = math.ceil(min(self.batch_size * self._growth, self._top))
        else:
            self.lr /= self._growth
        self.stage, self.looks, self.dropped = self.stage + 1, [], self._memory

    @property
    def _guard(self) -> float:
        return (1 - self.momentum) / (2 * (1 + self.momentum))

    # --- what the same numbers tell besides ---
    def _recent(self) -> np.ndarray:
        """Sums over the last half of the stage's products."""
        if not self.looks:
            return np.zeros(10)
        looks = np.array(self.looks)[:, 2:]
        after = looks[::-1, 0].cumsum()[::-1]
        return looks[np.flatnonzero(2 * after >= after[0])[-1] :].sum(0)

    @property
    def grad_sqnorm(self) -> Estimate:
        """‖∇f‖² (with Adam and AdaGrad ∇fᵀP∇f), averaged over the last half of the stage."""
        n, *_, total, square, _, _, _ = self._recent()
        if n < 2:
            return Estimate(math.nan, math.nan, math.nan)
        mean = total / n
        half = _Z * math.sqrt(max(square / n - mean**2, 0.0) / (n - 1))
        return Estimate(mean, mean - half, mean + half)

    @property
    def trace(self) -> float:
        """tr Σ (with Adam and AdaGrad tr PΣ) over the same steps."""
        n, *_, total = self._recent()
        return total / n if n else math.nan

    @property
    def critical(self) -> Estimate:
        """Critical batch size b_c: b(1 − (1 + μ)x/‖G‖²); Fieller's interval of the ratio, [0, inf) at its widest."""
        n, x, xx, _, _, c, cc, xc, between, _ = self._recent()
        if n < 2:
            return Estimate(math.nan, math.nan, math.nan)
        x, c = x / n, c / n
        vx, vc, cov = ((square / n - mean) / (n - 1) for square, mean in ((xx, x * x), (cc, c * c), (xc, x * c)))
        c = between / n  # the same but for the first and last half step, which hold ηGᵀHG
        scale = 1 / (1 - self._threshold)
        value = self.batch_size * max(0.0, 1 - scale * x / c) if c > 0 else math.inf
        # ratios r = x/c that the data do not refuse: (x − rc)² ≤ z²(vx − 2r cov + r² vc)
        a, half, rest = c * c - _Z**2 * vc, x * c - _Z**2 * cov, x * x - _Z**2 * vx
        if c <= 0 or a <= 0 or half * half < a * rest:
            return Estimate(value, 0.0, math.inf)
        root = math.sqrt(half * half - a * rest)
        low, high = (self.batch_size * max(0.0, 1 - scale * r / a) for r in (half + root, half - root))
        return Estimate(value, low, high)
