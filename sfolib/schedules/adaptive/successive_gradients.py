"""Growth by whether successive gradients agree (T14): no look at data that the run does not take anyway."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import log_ndtr

from sfolib._utils.errors import require
from sfolib._utils.model import Above0, Above1, Below1, Between0And1, Count
from sfolib.schedules.adaptive.base import Policy, capped_at

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


class _Look(NamedTuple):
    """Sums over the products of one look, or of several in a row; `first`: how many looks the stage had before.

    x: what is tested; lagged: products of two x at most a memory apart, `pairs` of them. fall: what the product falls
    short of ‖G‖² at the step (`_at`) and halfway. G2: ‖G‖² likewise, less 2 `returned`. trace: tr Σ.
    """

    first: float
    looks: float
    n: float
    x: float
    xx: float
    lagged: float
    pairs: float
    fall: float
    fall_at: float
    fall_fall: float
    fall_G2: float
    G2: float
    G2_at: float
    G2_G2: float
    trace: float
    returned: float
    seen: float

    def __add__(self, later: _Look) -> _Look:
        return _Look(self.first, *(a + b for a, b in zip(self[1:], later[1:], strict=True)))


class SuccessiveGradientTest(Policy):
    """b × growth as soon as successive gradients no longer agree. Signal: `gradients.SuccessiveProducts` of the steps
    since the last look, which cost no gradient evaluation; `gradients.SuccessiveGradients(memory)` collects them.

    T14 [N] (the statistic is Pflug's, 1990): with G = ∇f, H the Hessian, Σ the covariance of one sample's gradient and
    Q = tr(HΣ), s = E[g_t·g_{t+1}] = ‖G‖² − η(GᵀHG + Q/b) is the slope in η of the decrease of f in one step. It is 0
    where b is critical for η, b_c = ηQ/(‖G‖² − ηGᵀHG), and below 0 where noise or curvature has the upper hand. Here
    g_t's partner is the mean a of the gradients before, with weights ∝ ν^j, ν = 1 − 1/memory: to first order in η the
    same s, with (1 − ν)/(1 + ν) of its noise, for noise in directions with ηλ up to 1/memory [N]. With momentum μ of
    the optimizer it is x = E[a·g] − μ(1 − ν)/(1 − νμ) ‖G‖² that is 0 at b_c = ηQ/((1 − μ)‖G‖²) (T14 for ν = μ).
    When x is found below 0:
    - noise, tr Σ/b ≥ (1 − μ)/(2(1 + μ)) ‖G‖²: b × growth, up to max_batch_size, and from there on η / growth (T7);
    - else curvature (noise alone cannot do it while η is below the edge of stability, 2(1 + μ)/λ_max): η / growth.
    With Adam and AdaGrad all of it holds in the metric P of their step −ηPv, taken for constant over the memory.

    "Found" is a sequential test of "x ≥ 0 in all of this stage" (since the last change), looked at every `every` steps:
    if that is true, the stage ends with probability `error` at most, however long it is. Its evidence is Σ_j w_j E_j,
    E_j a half-normal mixture likelihood ratio (Robbins 1970) of the products since look j, w_j = 1/((j + 1)(j + 2)): a
    nonnegative supermartingale, which gets to 1/error with that probability at most (Ville 1939). That is exact for
    normal x of known variance; here the variance is that of the products in the window, with Student's correction
    (as in the asymptotic confidence sequences of Waudby-Smith et al. 2021, arXiv 2103.06476).

    grad_sqnorm, trace, critical: ‖∇f‖², tr Σ and b_c over the last half of the stage, with intervals. b_c is b times
    what x's product falls short of ‖G‖² over that ‖G‖². By permutation x is too high by the noise that the rest of the
    epoch takes back (`SuccessiveProducts.returned`), for which ‖∇f‖² and b_c are corrected and x is not: that would
    make it many times as noisy, and without it the batch grows late, not early.
    """

    signal = "successive_gradients"
    _state = ("batch_size", "lr", "looks", "stage", "dropped")

    def __init__(
        self, batch_size: Count, lr: Above0, *, max_batch_size: Count | None = None, growth: Above1 = 2.0,
        error: Between0And1 = 0.05, every: Count = 10, momentum: Below1 = 0.0, memory: float = 10.0,
    ):  # fmt: skip
        super().__init__(every)
        require(batch_size > 1, "batch_size", batch_size, "must be above 1: a batch has two halves")
        self.batch_size, self.lr, self._top = batch_size, lr, capped_at(max_batch_size, batch_size)
        require(1 <= memory < math.inf, "memory", memory, "must be finite, 1 or above")
        self._growth, self._error, self.momentum, self.memory = growth, error, momentum, memory
        keep = 1 - 1 / memory
        self._threshold = momentum * (1 - keep) / (1 - keep * momentum)  # of the product over ‖G‖², at b_c
        self._guard = (1 - momentum) / (2 * (1 + momentum))
        self._lags = math.ceil(max(memory, 1 / (1 - momentum)))
        self.stage = 0  # changes so far
        self.looks: list[list[float]] = []  # `_Look`s of the stage
        self.dropped = 0  # products of the stage that still belong to the pair before

    def observe(self, signal: SuccessiveProducts) -> None:
        require(not np.isinf(signal).any(), "signal", signal, "must be finite")
        known = ~np.isnan(signal).any(0)
        drop = min(self.dropped, len(known))
        self.dropped, known[:drop] = self.dropped - drop, False
        if not known.any():
            return
        product, between, sqnorm, variance, returned, seen = (np.asarray(each)[known] for each in signal)
        x, fall, G2 = product - self._threshold * between, sqnorm - product, sqnorm - 2 * returned
        lags = range(1, min(self._lags, len(x) - 1) + 1)
        last = _Look(*self.looks[-1]) if self.looks else None
        sums = (
            len(x), x.sum(), x @ x, sum(x[lag:] @ x[:-lag] for lag in lags), sum(len(x) - lag for lag in lags),
            (between - product).sum(), fall.sum(), fall @ fall, fall @ G2, (between - 2 * returned).sum(), G2.sum(),
            G2 @ G2, variance.sum(), returned.sum(), seen.sum(),
        )  # fmt: skip
        self.looks.append([last.first + last.looks if last else 0.0, 1.0, *map(float, sums)])
        if len(self.looks) > _LOOKS:
            looks = [_Look(*look) for look in self.looks]
            self.looks = [[*(a + b)] for a, b in zip(looks[::2], looks[1::2], strict=False)] + self.looks[_LOOKS:]
        found = self.evidence()
        if found.sum() >= 1 / self._error:
            self._change(int(found.argmax()))

    def evidence(self) -> np.ndarray:
        """w_j E_j of the windows that begin with each kept look."""
        looks = _Look(*np.array(self.looks).T)
        n, total, square, lagged, pairs = (sums[::-1].cumsum()[::-1] for sums in looks[2:7])
        mean = total / n
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.maximum(square / n - mean**2, 0)
            shared = np.where(pairs > 0, 2 * self._lags * (lagged / pairs - mean**2), 0.0)
            spread = np.sqrt((own + np.maximum(shared, 0)) / (n - 1))
            t = np.where(spread > 0, -mean / spread, np.where(mean < 0, np.inf, 0.0))
            # Student's t to a standard normal (Wallace 1959), within 0.02 of it
            z = np.sign(t) * np.sqrt((n - 1) * np.log1p(t**2 / (n - 1))) * (8 * n - 7) / (8 * n - 5)
        share = n / (n + _SCALE)
        log = math.log(2) + 0.5 * np.log1p(-share) + 0.5 * share * z**2 + log_ndtr(np.sqrt(share) * z)
        weight = 1 / ((looks.first + 1) * (looks.first + 2))
        return np.where(n >= _FEWEST, weight * np.exp(np.minimum(log, 700)), 0.0)

    def _change(self, since: int) -> None:
        """b or η, by what the looks from that one on saw."""
        window = self._window(since)
        noise = window.trace / self.batch_size >= self._guard * window.G2_at
        if noise and self.batch_size < self._top:
            self.batch_size = math.ceil(min(self.batch_size * self._growth, self._top))
        else:
            self.lr /= self._growth
        self.stage, self.looks, self.dropped = self.stage + 1, [], math.ceil(self.memory)

    # --- what the same numbers tell besides ---
    def _window(self, since: int | None = None) -> _Look | None:
        """Sums from a look on, by default over the last half of the stage's products; None where they are too few."""
        if not self.looks:
            return None
        looks = np.array(self.looks)
        if since is None:
            after = looks[::-1, 2].cumsum()[::-1]
            since = int(np.flatnonzero(2 * after >= after[0])[-1])
        found = _Look(*looks[since:].sum(0))
        return found if found.n > 1 else None

    def _returned(self, window: _Look) -> tuple[float, bool]:
        """`returned` a step, within its bounds; and whether it is at the upper one, and may be less."""
        most = window.seen * max(0.0, window.fall) / window.n
        return min(max(0.0, window.returned), most) / window.n, 0 < most < window.returned

    @property
    def grad_sqnorm(self) -> Estimate:
        """‖∇f‖² (with Adam and AdaGrad ∇fᵀP∇f), averaged over the last half of the stage."""
        if (window := self._window()) is None:
            return Estimate(math.nan, math.nan, math.nan)
        n, (returned, at_most) = window.n, self._returned(window)
        half = _Z * math.sqrt(max(window.G2_G2 / n - (window.G2_at / n) ** 2, 0.0) / (n - 1))
        uncorrected = (window.G2_at + 2 * window.returned) / n
        value = uncorrected - 2 * returned
        return Estimate(value, value - half, (uncorrected if at_most else value) + half)

    @property
    def trace(self) -> float:
        """tr Σ (with Adam and AdaGrad tr PΣ) over the same steps."""
        window = self._window()
        return window.trace / window.n if window else math.nan

    @property
    def critical(self) -> Estimate:
        """Critical batch size b_c; Fieller's interval of a ratio of means, [0, inf) where ‖G‖² may be 0."""
        if (window := self._window()) is None:
            return Estimate(math.nan, math.nan, math.nan)
        returned, at_most = self._returned(window)
        uncorrected = (window.G2 + 2 * window.returned) / window.n
        found = self._critical(window, uncorrected - 2 * returned)
        return found._replace(low=min(found.low, self._critical(window, uncorrected).low)) if at_most else found

    def _critical(self, window: _Look, G2: float) -> Estimate:
        n, fall, scale = window.n, window.fall / window.n, self.batch_size / (1 - self._threshold)
        pairs = ((window.fall_fall, window.fall_at**2), (window.G2_G2, window.G2_at**2),
                 (window.fall_G2, window.fall_at * window.G2_at))  # fmt: skip
        v_fall, v_G2, both = ((square / n - product / n**2) / (n - 1) for square, product in pairs)
        value = scale * max(0.0, fall) / G2 if G2 > 0 else math.inf
        # the ratios r that the data do not refuse: (fall − r G2)² ≤ z²(v_fall − 2r both + r² v_G2)
        a, half, rest = G2**2 - _Z**2 * v_G2, fall * G2 - _Z**2 * both, fall**2 - _Z**2 * v_fall
        if G2 <= 0 or a <= 0 or half**2 < a * rest:
            return Estimate(value, 0.0, math.inf)
        root = math.sqrt(half**2 - a * rest)
        return Estimate(value, *(scale * max(0.0, (half + sign * root) / a) for sign in (-1, 1)))
