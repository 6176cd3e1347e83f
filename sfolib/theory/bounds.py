"""The results T1 … T12 as plain numeric functions, in the papers' letters.

Units: `lr` is η; `batch_size` is b, gradient evaluations a step; `eps` is ε itself, a gradient norm (not ε²);
steps are updates, samples gradient evaluations (SFO). Batch sizes, steps and samples are continuous quantities here.
Scalars or arrays in, broadcast against each other; floats or arrays out. `lr_max` is the η_max of T1's C1 and
C2, by default lr itself. Every function raises `InputError` unless its numbers are finite and above 0 and
lr < 2/L.

Sources: [S] = Umeda & Iiduka 2025, arXiv 2508.05297, and the papers that it builds on;
[N] = derived for this project.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from sfolib._utils.errors import InputError, number, positive, require, scalar, whole

Numbers = float | np.ndarray
P, T = ParamSpec("P"), TypeVar("T")


@dataclass(frozen=True)
class Constants:
    """What the bounds know of a problem (A1–A3).

    L: smoothness of f. sigma2: σ², bound on the variance of one per-sample gradient. gap: Δ = f(θ₀) − f*.
    """

    L: float
    sigma2: float
    gap: float

    def __post_init__(self) -> None:
        number("L", self.L)
        number("gap", self.gap)
        if self.sigma2 is False or self.sigma2 != 0:
            number("sigma2", self.sigma2)


class Growth(NamedTuple):
    """Factors from one stage to the next: r of (ε_{m−1}/ε_m)², tau of the steps, epochs of the SFO."""

    r: Numbers
    tau: Numbers
    epochs: Numbers


class StagePair(NamedTuple):
    """What a stage of T4 runs at: batch size (not rounded), lr, and its phase of T7."""

    batch_size: float
    lr: float
    phase: str


def broadcasting(function: Callable[P, T]) -> Callable[P, T]:
    """`InputError` where constants `c` are none, and that tells the arguments' shapes, where they do not broadcast
    against each other."""

    @wraps(function)
    def checked(*args: P.args, **named: P.kwargs) -> T:
        try:
            return function(*args, **named)
        except AttributeError:
            c = signature(function).bind(*args, **named).arguments.get("c")
            require(isinstance(c, Constants), "c", c, "must be the problem's `Constants`")
            raise
        except ValueError as error:
            if isinstance(error, InputError) or not ("broadcast" in str(error) or "shape" in str(error)):
                raise
            given = signature(function).bind(*args, **named).arguments
            shapes = ", ".join(f"{name} {np.shape(value)}" for name, value in given.items() if np.ndim(value))
            raise InputError(f"shapes {shapes}: must broadcast against each other") from error

    return checked


def above_0(field: str, value: ArrayLike) -> np.ndarray:
    """value as an array; `InputError` unless it is finite and above 0."""
    positive(field, value)
    return np.asarray(value, dtype=float)


def stable_lr(L: float, lr: ArrayLike, field: str = "lr") -> np.ndarray:
    """lr as an array; `InputError` unless 0 < lr < 2/L, where the descent bound T1 holds."""
    lr = above_0(field, lr)
    require(bool(np.all(lr * L < 2)), field, float(np.max(lr)), f"must be below 2/L = {2 / L:.6g}")
    return lr


def norm_target(eps: ArrayLike, field: str = "eps") -> np.ndarray:
    """eps as an array; `InputError` below 1e-75 and above 1e75, where ε⁴ leaves the range of a float."""
    eps = above_0(field, eps)
    require(bool(np.all(eps >= 1e-75)), field, float(np.min(eps)), "must be at least 1e-75, or eps⁴ underflows")
    require(bool(np.all(eps <= 1e75)), field, float(np.max(eps)), "must be at most 1e75, or eps⁴ overflows")
    return eps


def plain(value: ArrayLike) -> Numbers:
    """A float of what has no dimension, else the array."""
    value = np.asarray(value, dtype=float)
    return float(value) if value.ndim == 0 else value


def _c1_c2(c: Constants, lr: np.ndarray, lr_max: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """C1 and C2 of T1 at η_max = lr_max, or at lr itself."""
    top = lr if lr_max is None else stable_lr(c.L, lr_max, "lr_max")
    limit = f"must be at most lr_max = {float(np.min(top)):.6g}"
    require(bool(np.all(lr <= top)), "lr", lr.tolist(), limit)
    return 2 * c.gap / (2 - c.L * top), c.L * c.sigma2 / (2 - c.L * top)


# ------------------------------------------------------------------------------------------ T1, any schedule
@broadcasting
def gradient_bound(
    c: Constants, batch_size: ArrayLike, lr: ArrayLike, n: int | None = None, lr_max: float | None = None
) -> np.ndarray:
    """T1 [S]: bound on min_{t<k} E‖∇f(θ_t)‖² after k = 1 … T steps, (C1 + C2 V)/S, S = Σ η_t, V = Σ η_t²/b_t.

    lr, batch: (T,) or scalars; lr_max is by default the largest lr of the schedule. Returns (T,).
    It holds for mini-batches drawn with replacement. With n it holds for a *fresh* subset of b of n each
    step, of variance (σ²/b)(n − b)/(n − 1). With n it does not hold for the slices of an epoch's permutation:
    what the earlier slices left over is not independent of θ_t. There, show the one for replacement instead.
    """
    lr, batch_size = stable_lr(c.L, lr), above_0("batch_size", batch_size)
    for field, value in (("lr", lr), ("batch_size", batch_size)):
        require(value.ndim <= 1, field, value.shape, "must be a number or one-dimensional, one value a step")
    same = lr.size == 1 or batch_size.size in (1, lr.size)
    require(same, "batch_size", batch_size.shape, f"must be a number or of the shape {lr.shape} of lr")
    if lr_max is not None:
        number("lr_max", lr_max)
    c1, c2 = _c1_c2(c, lr, np.max(lr) if lr_max is None else lr_max)
    per_sample = 1.0 if n is None else finite_population(batch_size, n)
    lr, noise = np.broadcast_arrays(*np.atleast_1d(lr, lr**2 / batch_size * per_sample))
    return (c1 + c2 * np.cumsum(noise)) / np.cumsum(lr)


def finite_population(batch_size: ArrayLike, n: int) -> Numbers:
    """T1 [S]: (n − b)/(n − 1), a subset's variance over that of b draws with replacement; 0 at b = n."""
    batch_size = above_0("batch_size", batch_size)
    require(whole("n", n) > 1, "n", n, "must be an integer above 1")
    require(bool(np.all(batch_size <= n)), "batch_size", float(np.max(batch_size)), f"must be at most n = {n}")
    require(bool(np.all(batch_size >= 1)), "batch_size", float(np.min(batch_size)), "must be at least 1, one sample")
    return plain((n - batch_size) / (n - 1))


# --------------------------------------------------------------------------- T2, T3: constant batch and lr
@broadcasting
def steps_to(
    c: Constants, batch_size: ArrayLike, lr: ArrayLike, eps: ArrayLike, lr_max: ArrayLike | None = None
) -> Numbers:
    """T2 [S]: steps K(b) = C1 b/(η(ε² b − C2 η)) to T1's bound = ε²; inf where ε ≤ the noise floor."""
    lr, batch_size, eps = stable_lr(c.L, lr), above_0("batch_size", batch_size), norm_target(eps)
    c1, c2 = _c1_c2(c, lr, lr_max)
    room = eps**2 * batch_size - c2 * lr
    reaches = room > 0
    return plain(np.where(reaches, c1 * batch_size / (lr * np.where(reaches, room, 1.0)), np.inf))


@broadcasting
def samples_to(
    c: Constants, batch_size: ArrayLike, lr: ArrayLike, eps: ArrayLike, lr_max: ArrayLike | None = None
) -> Numbers:
    """T2 [S]: gradient evaluations N(b) = K(b) b to T1's bound = ε²; inf where ε ≤ the noise floor."""
    return plain(steps_to(c, batch_size, lr, eps, lr_max) * np.asarray(batch_size, dtype=float))


@broadcasting
def noise_floor(c: Constants, batch_size: ArrayLike, lr: ArrayLike, lr_max: ArrayLike | None = None) -> Numbers:
    """T2, T9 [S]: √(C2 η/b), the ε that constant lr and batch approach in T1's bound and never reach."""
    lr, batch_size = stable_lr(c.L, lr), above_0("batch_size", batch_size)
    return plain(np.sqrt(_c1_c2(c, lr, lr_max)[1] * lr / batch_size))


@broadcasting
def critical_batch_size(c: Constants, lr: ArrayLike, eps: ArrayLike, lr_max: ArrayLike | None = None) -> Numbers:
    """T2 [S]: b* = 2 C2 η/ε², the batch size of the fewest gradient evaluations at this lr."""
    lr, eps = stable_lr(c.L, lr), norm_target(eps)
    return plain(2 * _c1_c2(c, lr, lr_max)[1] * lr / eps**2)


@broadcasting
def minimal_samples(c: Constants, lr: ArrayLike, eps: ArrayLike, lr_max: ArrayLike | None = None) -> Numbers:
    """T2 [S]: N* = 4 C1 C2/ε⁴ gradient evaluations, at b*."""
    lr, eps = stable_lr(c.L, lr), norm_target(eps)
    c1, c2 = _c1_c2(c, lr, lr_max)
    return plain(4 * c1 * c2 / eps**4)


@broadcasting
def minimal_steps(c: Constants, lr: ArrayLike, eps: ArrayLike, lr_max: ArrayLike | None = None) -> Numbers:
    """T2 [S]: K* = 2 C1/(η ε²) steps, at b* (fewer steps need a larger b and more SFO)."""
    lr, eps = stable_lr(c.L, lr), norm_target(eps)
    return plain(2 * _c1_c2(c, lr, lr_max)[0] / (lr * eps**2))


def calibrated(batch_size: float, lr: float, steps: float, eps: float, max_lr: float | None = None) -> Constants:
    """T2 [S] turned round: constants with L = 1/max_lr (default 1/lr) whose b* and K* at lr and eps are these.

    What a pilot at one easy eps found, in place of constants that are loose. C1 and C2 are those at max_lr.
    """
    max_lr = lr if max_lr is None else max_lr
    for field, value in (("lr", lr), ("batch_size", batch_size), ("steps", steps), ("eps", eps), ("max_lr", max_lr)):
        number(field, value)
    norm_target(eps)
    require(lr <= max_lr, "max_lr", max_lr, f"must be at least lr = {lr}")
    found = 1 / max_lr, batch_size * eps**2 * max_lr / (2 * lr), steps * lr * eps**2 / 4
    seen = all(0 < value < math.inf for value in found)
    require(seen, "eps", eps, "with these batch_size, lr and steps gives constants beyond the range of a float")
    return Constants(*found)


@broadcasting
def price_of_parallelism(c: Constants, lr: ArrayLike) -> Numbers:
    """T3 [N]: 4/(2 − Lη)², N* at this lr over its limit as lr → 0; exactly 4 at lr = 1/L."""
    return plain(4 / (2 - c.L * stable_lr(c.L, lr)) ** 2)


# ------------------------------------------------------------------------------- T4 – T7: growing by stages
@broadcasting
def growth(delta: ArrayLike, gamma: ArrayLike) -> Growth:
    """T4 [S]: batch × delta and lr × gamma a stage, along the critical batch: r = δ/γ, τ = δ/γ², e = r²."""
    delta, gamma = above_0("delta", delta), above_0("gamma", gamma)
    return Growth(plain(delta / gamma), plain(delta / gamma**2), plain((delta / gamma) ** 2))


@broadcasting
def rate_exponent(delta: ArrayLike, gamma: ArrayLike, tau: ArrayLike) -> Numbers:
    """T5 [N]: p in min E‖∇f‖² = O(N^−p), p = min(ln γτ, ln δ/γ)/ln δτ ≤ 1/2, with equality on δ = γ²τ only.

    0 (no polynomial rate) where γτ ≤ 1, since S then grows linearly at most, or δ ≤ γ, since the noise stays.
    """
    delta, gamma, tau = above_0("delta", delta), above_0("gamma", gamma), above_0("tau", tau)
    descent, noise = np.log(gamma * tau), np.log(delta / gamma)
    falls = (descent > 0) & (noise > 0)
    return plain(np.where(falls, np.minimum(descent, noise) / np.where(falls, descent + noise, 1.0), 0.0))


def anytime_ratio(r: ArrayLike, stop_early: bool = False) -> Numbers:
    """T6 [N]: worst SFO of growing by r a stage over that of the best constant batch size, which knew ε.

    Finishing the stage, r⁴/(r² − 1): 4 at r = √2. Stopping at ε, r²/(r² − 1) + r²/(2r − 1): 8/3 at r = 2.
    """
    r = above_0("r", r)
    require(isinstance(stop_early, bool), "stop_early", stop_early, "must be True or False")
    require(bool(np.all(r > 1)), "r", float(np.min(r)), "must be above 1")
    return plain(r**2 / (r**2 - 1) + r**2 / (2 * r - 1) if stop_early else r**4 / (r**2 - 1))


def stagewise_bound(eps: ArrayLike) -> np.ndarray:
    """T6 [N]: T1's bound after stages 0 … M of T4, (M + 2)/Σ_{j≤M} 2/ε_j², without the assumption on the gap.

    eps: (M + 1,), what each stage aims at. Returns (M + 1,). C1 and C2 cancel.
    """
    eps = np.atleast_1d(norm_target(eps))
    require(eps.ndim == 1, "eps", eps.shape, "must be one-dimensional, one value a stage")
    return np.arange(2, len(eps) + 2) / np.cumsum(2 / eps**2)


def capped_stage(
    m: int,
    batch_size: float,
    lr: float,
    delta: float,
    gamma: float,
    max_lr: float = math.inf,
    max_batch_size: float | None = None,
) -> StagePair:
    """Stage m of T4 [S] with the caps of T7 [N], from the first stage's pair on.

    η_m = min(η₀γ^m, max_lr, max_batch_size η₀/(b₀ r^m)) and b_m = b₀ (η_m/η₀) r^m with r = δ/γ: "grow both", then
    "grow batch" by r alone, then "decay lr" by r at max_batch_size. The critical batch size is followed throughout.
    """
    for name, value in (("batch_size", batch_size), ("lr", lr), ("delta", delta), ("gamma", gamma)):
        number(name, value)
    known = isinstance(m, int | np.integer) and not isinstance(m, bool) and m >= 0
    require(known, "m", m, "must be a whole number, 0 for the first stage")
    if not (type(max_lr) is float and max_lr == math.inf):
        number("max_lr", max_lr)
    require(max_lr >= lr, "max_lr", max_lr, f"must be at least lr = {lr}")
    if max_batch_size is not None:
        number("max_batch_size", max_batch_size)
    top = math.inf if max_batch_size is None else max_batch_size
    require(top >= batch_size, "max_batch_size", max_batch_size, f"must be at least batch_size = {batch_size}")
    r = delta / gamma
    try:
        free, full = lr * gamma**m, lr * (top / (batch_size * r**m))
    except (OverflowError, ZeroDivisionError):
        require(False, "m", m, "is too late: by then delta^m or gamma^m leaves the range of a float")
    eta = min(free, max_lr, full)
    phase = "decay lr" if eta == full else "grow both" if eta == free and gamma > 1 else "grow batch"
    return StagePair(min(top, batch_size * (eta / lr) * r**m), eta, phase)


@broadcasting
def stage_ends(
    c: Constants, eps0: float, r: float, lr: float, lr_growth: float, max_lr: float, max_batch_size: float
) -> tuple[float, float]:
    """T7 [N]: the stages (real numbers) at which lr meets its cap and the batch its own; inf for never.

    On the path b_m = 2 C2 η_m/ε_m², C2 at max_lr, η_m = min(η₀γ^m, max_lr, max_batch_size ε_m²/(2 C2)).
    A batch that is full before lr meets its cap leaves no second phase, and lr then never meets its cap.
    """
    for field, value in (
        ("sigma2", c.sigma2), ("lr", lr), ("max_batch_size", max_batch_size), ("eps0", eps0), ("r", r),
        ("lr_growth", lr_growth), ("max_lr", max_lr),
    ):  # fmt: skip
        number(field, value)
    stable_lr(c.L, max_lr, "max_lr")
    norm_target(eps0, "eps0")
    require(r > 1, "r", r, "must be above 1")
    require(lr_growth >= 1, "lr_growth", lr_growth, "must be 1 or above")
    lr_capped = 0.0 if lr >= max_lr else np.log(max_lr / lr) / np.log(lr_growth) if lr_growth > 1 else np.inf
    start = min(lr, max_lr)
    full = np.log(max_batch_size / critical_batch_size(c, start, eps0, max_lr)) / np.log(r * lr_growth)
    if full >= lr_capped:
        full = np.log(max_batch_size / critical_batch_size(c, max_lr, eps0)) / np.log(r)
    return (float(lr_capped) if lr_capped <= full else np.inf), max(0.0, float(full))


# --------------------------------------------------------------- T8 – T10: noise, decaying lr, adaptive tests
@broadcasting
def step_noise(batch_size: ArrayLike, lr: ArrayLike, momentum: float = 0.0) -> Numbers:
    """T8 [S]: η/(b(1 − m)), on which alone the noise of a step depends (Smith et al.); same units as lr."""
    require(0 <= scalar("momentum", momentum) < 1, "momentum", momentum, "must be in [0, 1)")
    return plain(above_0("lr", lr) / above_0("batch_size", batch_size) / (1 - momentum))


def power_sum(a: float, steps: ArrayLike) -> Numbers:
    """Σ_{t=1}^{K} t^−a for K = steps, a ≥ 0, to rounding for any K (Euler–Maclaurin beyond 1000 terms)."""
    require(0 <= scalar("a", a) < math.inf, "a", a, "must be finite, 0 or above")
    steps, head = above_0("steps", steps), 1000
    require(bool(np.all(steps == np.floor(steps))), "steps", steps, "must be whole numbers")
    small = np.concatenate([[0.0], np.cumsum(np.arange(1.0, head + 1) ** -a)])
    far = np.maximum(steps, head)
    # ∫ t^−a from head to far; expm1 and no difference of powers, which would cancel near a = 1
    ln = np.log(far / head)
    tail = ln if a == 1 else head ** (1 - a) * np.expm1((1 - a) * ln) / (1 - a)
    for factor, power in ((0.5, a), (-a / 12, a + 1)):
        tail = tail + factor * (far**-power - float(head) ** -power)
    return plain(small[np.minimum(steps, head).astype(int)] + tail)


@broadcasting
def decaying_lr_bound(c: Constants, batch_size: ArrayLike, lr: float, a: float, steps: ArrayLike) -> Numbers:
    """T9 [S]: T1's bound after `steps` steps of η_t = η (t + 1)^−a, constant batch; it falls at every step.

    Its order in K is K^−a for 0 < a < 1/2, K^−½ ln K at a = 1/2 and K^−(1−a) for 1/2 < a < 1
    (Imaizumi & Iiduka 2024, arXiv 2402.15344).
    """
    lr, batch_size, a = stable_lr(c.L, lr), above_0("batch_size", batch_size), scalar("a", a)
    c1, c2 = _c1_c2(c, lr, None)
    return plain((c1 + c2 * lr**2 / batch_size * power_sum(2 * a, steps)) / (lr * power_sum(a, steps)))


@broadcasting
def decaying_lr_steps(c: Constants, batch_size: float, lr: float, a: float, eps: float) -> float:
    """T9 [S]: the first whole step of η (t + 1)^−a with T1's bound ≤ ε², for 0 < a < 1; scalars."""
    for field, value in (("batch_size", batch_size), ("lr", lr), ("a", a), ("eps", eps)):
        number(field, value)
    require(0 < a < 1, "a", a, "must be in (0, 1); a constant lr is steps_to")
    norm_target(eps)
    low, high = 0.0, 1.0  # the bound is above ε² at low (0 stands for no step) and not at high
    while decaying_lr_bound(c, batch_size, lr, a, high) > eps**2:
        low, high = high, 2 * high
        require(high <= 2.0**1023, "a", a, f"must be larger, or eps = {eps} needs more steps than a float can count")
    while high - low > 1 and low < (middle := np.floor((low + high) / 2)) < high:
        low, high = (low, middle) if decaying_lr_bound(c, batch_size, lr, a, middle) <= eps**2 else (middle, high)
    return float(high)


@broadcasting
def decaying_lr_samples(c: Constants, batch_size: float, lr: float, a: float, eps: float) -> float:
    """T9 [S]: gradient evaluations of `decaying_lr_steps`."""
    return decaying_lr_steps(c, batch_size, lr, a, eps) * batch_size


@broadcasting
def norm_test_batch_size(c: Constants, eta: ArrayLike, eps: ArrayLike) -> Numbers:
    """T10 [N]: σ²/(η_nt² ε²), the batch that the norm test with tolerance eta asks for where ‖∇f‖ = ε."""
    return plain(c.sigma2 / (above_0("eta", eta) * norm_target(eps)) ** 2)


@broadcasting
def norm_test_lr(c: Constants, eta: ArrayLike, own_batch: bool = False) -> Numbers:
    """T10 [N]: 2/(L(1 + 2w)), w = η_nt²: the lr whose critical batch the norm test with tolerance eta follows.

    own_batch: the test sees ‖ḡ‖² of its own batch in place of ‖∇f‖²; then it is 2(1 − w)/(L(1 + w)), eta below 1.
    """
    w = above_0("eta", eta) ** 2
    require(isinstance(own_batch, bool), "own_batch", own_batch, "must be True or False")
    if not own_batch:
        return plain(2 / (c.L * (1 + 2 * w)))
    require(bool(np.all(w < 1)), "eta", np.asarray(eta).tolist(), "must be below 1 where the test sees its own batch")
    return plain(2 * (1 - w) / (c.L * (1 + w)))


# ----------------------------------------------------------------------- T11, T12: the front of steps and SFO
@broadcasting
def noise_scale(c: Constants, eps: ArrayLike) -> Numbers:
    """T11 [N]: B = σ²/ε² = N_min/K_min, the front's critical batch: McCandlish et al.'s noise scale."""
    return plain(c.sigma2 / norm_target(eps) ** 2)


@broadcasting
def front_min_steps(c: Constants, eps: ArrayLike) -> Numbers:
    """T11 [N]: K_min = 2ΔL/ε² steps, approached as b → ∞."""
    return plain(2 * c.gap * c.L / norm_target(eps) ** 2)


@broadcasting
def front_min_samples(c: Constants, eps: ArrayLike) -> Numbers:
    """T11 [N]: N_min = 2ΔLσ²/ε⁴ gradient evaluations, approached as lr → 0."""
    return plain(front_min_steps(c, eps) * noise_scale(c, eps))


def _excess(c: Constants, steps: ArrayLike, eps: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """K/K_min − 1 (1 where K ≤ K_min), and where K > K_min."""
    excess = np.asarray(above_0("steps", steps) / front_min_steps(c, eps) - 1)
    return np.where(excess > 0, excess, 1.0), excess > 0


@broadcasting
def front_samples(c: Constants, steps: ArrayLike, eps: ArrayLike) -> Numbers:
    """T11 [N]: the least N over (lr, b) at K steps, (K/K_min − 1)(N/N_min − 1) = 1; inf for K ≤ K_min."""
    excess, above = _excess(c, steps, eps)
    return plain(np.where(above, front_min_samples(c, eps) * (1 + 1 / excess), np.inf))


@broadcasting
def front_batch_size(c: Constants, steps: ArrayLike, eps: ArrayLike) -> Numbers:
    """T11 [N]: b = B/(K/K_min − 1), the batch of the front at K steps; inf for K ≤ K_min."""
    excess, above = _excess(c, steps, eps)
    return plain(np.where(above, noise_scale(c, eps) / excess, np.inf))


@broadcasting
def front_steps(c: Constants, batch_size: ArrayLike, eps: ArrayLike) -> Numbers:
    """T11 [N]: K = K_min (1 + B/b), the steps of the front at this batch."""
    return plain(front_min_steps(c, eps) * (1 + noise_scale(c, eps) / above_0("batch_size", batch_size)))


@broadcasting
def optimal_lr(c: Constants, batch_size: ArrayLike, eps: ArrayLike) -> Numbers:
    """T11 [N]: η* = (1/L)/(1 + B/b), the lr of the front at this batch; the same as 2Δ/(ε² K)."""
    return plain(1 / (c.L * (1 + noise_scale(c, eps) / above_0("batch_size", batch_size))))


@broadcasting
def front_time(
    c: Constants, batch_size: ArrayLike, eps: ArrayLike, latency: ArrayLike, per_sample: ArrayLike
) -> Numbers:
    """T12 [N]: K (τ0 + τ1 b) on the front; latency τ0 is time a step, per_sample τ1 time an evaluation."""
    step_time = above_0("latency", latency) + above_0("per_sample", per_sample) * above_0("batch_size", batch_size)
    return plain(front_steps(c, batch_size, eps) * step_time)


@broadcasting
def time_optimal_batch_size(c: Constants, eps: ArrayLike, latency: ArrayLike, per_sample: ArrayLike) -> Numbers:
    """T12 [N]: b = √(B τ0/τ1) = √(τ0/τ1) σ/ε, the batch of the least `front_time`; its lr is `optimal_lr`."""
    require(c.sigma2 > 0, "sigma2", c.sigma2, "must be above 0: without noise the smallest batch is always the fastest")
    ratio = above_0("latency", latency) / above_0("per_sample", per_sample)
    return plain(np.sqrt(noise_scale(c, eps) * ratio))
