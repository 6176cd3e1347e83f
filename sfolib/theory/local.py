"""T13 – T17 as plain numeric functions: local constants of the problem in place of worst-case ones.

Notation, all at one θ: G = ∇f, H the Hessian, Σ the covariance of one sample's gradient; G2 = ‖G‖², GHG = GᵀHG,
Q = tr(HΣ), S2 = tr(Σ²). Exact on a quadratic, first order elsewhere; batches are independent draws with replacement.
`lr` is η, `batch_size` is b, a real number here. Scalars or arrays in, broadcast against each other; floats or arrays
out. Every function raises `InputError` for numbers outside the range that its arguments list.

Sources: [N] = derived for this project; B and the lr rule of T13 are McCandlish et al. 2018, arXiv 1812.06162; the
statistic of T14 is Pflug 1990.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sfolib._utils.errors import number, real, require, scalar, whole
from sfolib.theory.bounds import Numbers, above_0, broadcasting, finite_population, norm_target, plain


def _nonnegative(field: str, value: ArrayLike) -> np.ndarray:
    value = real(field, value)
    require(bool(np.all(np.isfinite(value) & (value >= 0))), field, value.tolist(), "must be finite and 0 or above")
    return value


def _finite(field: str, value: ArrayLike) -> np.ndarray:
    value = real(field, value)
    require(bool(np.all(np.isfinite(value))), field, value.tolist(), "must be finite")
    return value


# ------------------------------------------------------------------------------- T13: the front where you are
@broadcasting
def critical_batch_size(lr: ArrayLike, G2: ArrayLike, Q: ArrayLike, GHG: ArrayLike = 0.0) -> Numbers:
    """T13 [N]: b_c = η Q/(‖G‖² − η GᵀHG), the b at which this lr is the best one; inf where no batch is enough.

    No batch is enough where η ≥ ‖G‖²/GᵀHG: there the lr is too large even without noise. With GHG = 0 (the
    default) it is the leading order ηQ/‖G‖² of small η.
    """
    lr, G2, Q, GHG = above_0("lr", lr), above_0("G2", G2), _nonnegative("Q", Q), _finite("GHG", GHG)
    room = G2 - lr * GHG
    return plain(np.where(room > 0, lr * Q / np.where(room > 0, room, 1.0), np.inf))


@broadcasting
def optimal_lr(batch_size: ArrayLike, G2: ArrayLike, GHG: ArrayLike, Q: ArrayLike) -> Numbers:
    """T13 [N]: η* = (‖G‖²/GᵀHG)/(1 + B/b), B = Q/GᵀHG: the lr of the largest expected decrease of f in one step."""
    batch_size, G2 = above_0("batch_size", batch_size), above_0("G2", G2)
    curvature = _finite("GHG", GHG) + _nonnegative("Q", Q) / batch_size
    require(bool(np.all(curvature > 0)), "GHG", np.asarray(GHG).tolist(), "must keep GHG + Q/b above 0")
    return plain(G2 / curvature)


# ------------------------------------------------------------------------------ T14: a test that costs nothing
@broadcasting
def successive_gradients(
    batch_size: ArrayLike,
    lr: ArrayLike,
    G2: ArrayLike,
    Q: ArrayLike,
    GHG: ArrayLike = 0.0,
    n: int | None = None,
    trace: ArrayLike = 0.0,
) -> Numbers:
    """T14 [N]: s = E[g_t·g_{t+1}] = ‖G‖² − η(GᵀHG + Q/b); 0 at b = b_c, above 0 for larger b.

    n: the number of samples, where the two batches are the first of one epoch's permutation; None: drawn with
    replacement. Slices of a permutation are anticorrelated: s is lower by tr Σ/(n − 1), and Q/b carries
    `bounds.finite_population`. trace: tr Σ, used with n only (divisor n, as Q).
    """
    batch_size, lr = above_0("batch_size", batch_size), above_0("lr", lr)
    G2, Q, GHG = _nonnegative("G2", G2), _nonnegative("Q", Q), _finite("GHG", GHG)
    if n is None:
        return plain(G2 - lr * (GHG + Q / batch_size))
    require(bool(np.all(2 * batch_size <= whole("n", n))), "n", n, "must hold two batches")
    share = finite_population(batch_size, n)
    return plain(G2 - lr * (GHG + share * Q / batch_size) - _nonnegative("trace", trace) / (n - 1))


@broadcasting
def noise_explains(
    batch_size: ArrayLike, lr: ArrayLike, G2: ArrayLike, trace: ArrayLike, largest: ArrayLike
) -> bool | np.ndarray:
    """T14 [N], the guard: whether tr Σ/b ≥ ‖G‖²/(ηλ_max), as it must be where noise alone makes s ≤ 0.

    trace: tr Σ. largest: λ_max of H; with 2/lr, the edge of stability, the right-hand side is ‖G‖²/2. Where s ≤ 0
    and this is False, curvature is the reason: a larger batch does not help, a smaller lr does.
    """
    batch_size, lr, largest = above_0("batch_size", batch_size), above_0("lr", lr), above_0("largest", largest)
    enough = _nonnegative("trace", trace) / batch_size >= _nonnegative("G2", G2) / (lr * largest)
    return bool(enough) if np.ndim(enough) == 0 else enough


def _momentum(value: ArrayLike) -> np.ndarray:
    value = _nonnegative("momentum", value)
    require(bool(np.all(value < 1)), "momentum", value.tolist(), "must be below 1")
    return value


@broadcasting
def momentum_product(batch_size: ArrayLike, lr: ArrayLike, momentum: ArrayLike, G2: ArrayLike, Q: ArrayLike) -> Numbers:
    """T14 [N]: (1 − μ) E[v_t·g_{t+1}] = ‖G‖² − ηQ/(b(1 − μ²)), v = Σ μ^j g_{t−j} the momentum buffer.

    To leading order in η, without GᵀHG. At the critical batch size it is `momentum_threshold`, not 0.
    """
    momentum, batch_size, lr = _momentum(momentum), above_0("batch_size", batch_size), above_0("lr", lr)
    return plain(_nonnegative("G2", G2) - lr * _nonnegative("Q", Q) / (batch_size * (1 - momentum**2)))


@broadcasting
def momentum_threshold(momentum: ArrayLike, G2: ArrayLike) -> Numbers:
    """T14 [N]: μ/(1 + μ) ‖G‖², the value of `momentum_product` at the critical batch size ηQ/((1 − μ)‖G‖²)."""
    momentum = _momentum(momentum)
    return plain(momentum / (1 + momentum) * _nonnegative("G2", G2))


@broadcasting
def momentum_critical_batch_size(lr: ArrayLike, momentum: ArrayLike, G2: ArrayLike, Q: ArrayLike) -> Numbers:
    """T14 [N]: ηQ/((1 − μ)‖G‖²): T13's batch, to leading order, at the learning rate η/(1 − μ) of T8."""
    return critical_batch_size(above_0("lr", lr) / (1 - _momentum(momentum)), G2, Q)


def preconditioned(
    gradient: ArrayLike, hessian: ArrayLike, covariance: ArrayLike, preconditioner: ArrayLike
) -> tuple[float, float, float]:
    """T14 [N]: (GᵀPG, GᵀPHPG, tr(PHPΣ)): what takes the place of (G2, GHG, Q) where a step is −ηPg and s is E[gᵀPg'].

    gradient: (d,). hessian, covariance: (d, d). preconditioner: (d, d) and symmetric, or (d,), its diagonal.
    """
    G, H, S, P = (
        _finite(*pair)
        for pair in (
            ("gradient", gradient),
            ("hessian", hessian),
            ("covariance", covariance),
            ("preconditioner", preconditioner),
        )
    )
    require(G.ndim == 1, "gradient", G.shape, "must be one-dimensional")
    P = np.diag(P) if P.ndim == 1 else P
    for field, value in (("hessian", H), ("covariance", S), ("preconditioner", P)):
        require(value.shape == (len(G), len(G)), field, value.shape, f"must have the shape {(len(G), len(G))}")
    return float(G @ P @ G), float(G @ P @ H @ P @ G), float(np.trace(P @ H @ P @ S))


@broadcasting
def detection_steps(lr: ArrayLike, Q: ArrayLike, S2: ArrayLike, z: float = 1.96) -> Numbers:
    """T14 [N]: m = z² tr(Σ²)/(ηQ)², steps until the noise part ηQ/b of s is z standard errors of its mean.

    Var(g_t·g_{t+1}) is tr(Σ²)/b² to leading order at b_c, so b cancels.
    """
    number("z", z)
    return plain(np.square(float(z)) * above_0("S2", S2) / (above_0("lr", lr) * above_0("Q", Q)) ** 2)


# ----------------------------------------------------------------------- T15: prediction in the eigenbasis of H
@broadcasting
def expected_path(
    batch_size: ArrayLike, lr: ArrayLike, eigenvalues: ArrayLike, start: ArrayLike, noise: ArrayLike
) -> np.ndarray:
    """T15 [N]: E‖∇f(θ_t)‖² = Σ_i λ_i² (θ̄_i² + C_i) for t = 0 … K, by C ← (1 − ηλ)² C + η² σ²/b; exact on a quadratic.

    batch_size, lr: (K,), or one of them a scalar. eigenvalues λ: (d,). start: (d,), θ_0 in the eigenbasis of H,
    measured from the minimum. noise: (d,), the diagonal of Σ in that basis. Returns (K + 1,).
    """
    lr, batch_size = np.broadcast_arrays(*np.atleast_1d(above_0("lr", lr), above_0("batch_size", batch_size)))
    require(lr.ndim == 1, "lr", lr.shape, "must be one-dimensional, one value a step")
    eigenvalues, start, noise = _spectrum(eigenvalues, _finite("start", start), noise)
    mean, covariance = start, np.zeros_like(start)
    squares = [float(np.sum((eigenvalues * mean) ** 2))]
    for eta, b in zip(lr, batch_size, strict=True):
        factor = 1 - eta * eigenvalues
        mean, covariance = factor * mean, factor**2 * covariance + eta**2 * noise / b
        squares.append(float(np.sum(eigenvalues**2 * (mean**2 + covariance))))
    return np.array(squares)


def _spectrum(eigenvalues: ArrayLike, start: ArrayLike | None, noise: ArrayLike) -> tuple[np.ndarray, ...]:
    eigenvalues = np.atleast_1d(above_0("eigenvalues", eigenvalues))
    start = np.zeros(eigenvalues.shape) if start is None else start
    start, noise = np.atleast_1d(_finite("start", start)), np.atleast_1d(_nonnegative("noise", noise))
    for field, value in (("start", start), ("noise", noise)):
        require(value.shape == eigenvalues.shape, field, value.shape, f"must have the shape {eigenvalues.shape}")
    return eigenvalues, start, noise


def stationary_noise(batch_size: float, lr: float, eigenvalues: ArrayLike, noise: ArrayLike, power: int = 2) -> float:
    """T15 [N]: Σ λ^power C, C = ησ²/(bλ(2 − ηλ)): what the noise adds at a constant pair in the long run.

    eigenvalues λ, noise σ² (the diagonal of Σ in the eigenbasis of H): (d,). power: 2 for E‖∇f‖², where small ηλ
    gives ηQ/(2b); 1 for twice the excess of f, where it gives η tr Σ/(2b). Raises `InputError` unless lr < 2/λ.
    """
    number("batch_size", batch_size)
    number("lr", lr)
    require(whole("power", power) in (1, 2), "power", power, "must be 1 (for f) or 2 (for the squared gradient norm)")
    eigenvalues, _, noise = _spectrum(eigenvalues, None, noise)
    top = eigenvalues.max()
    require(lr * top < 2, "lr", lr, f"must be below 2/λ = {2 / top:.6g}")
    return float(np.sum(lr * eigenvalues ** (power - 1) * noise / (batch_size * (2 - lr * eigenvalues))))


def best_constant_batch_size(lr: float, Q: float, eps: float, path: ArrayLike) -> tuple[float, int]:
    """T15 [N]: (b*, K*): b* = ηQ/(2(ε² − β(K*))), K* = argmin K/(ε² − β(K)), from the noise-free ‖∇f‖² β.

    path: β(K) after K = 0, 1, … steps at this lr. b* is a real number. Raises `InputError` where the path ends
    before it is below ε², or where K* is its end: it must be longer.
    """
    for field, value in (("lr", lr), ("Q", Q), ("eps", eps)):
        number(field, value)
    path = _nonnegative("path", path)
    require(path.ndim == 1 and len(path) > 1, "path", path.shape, "must be one-dimensional, of at least one step")
    room = float(norm_target(eps)) ** 2 - path
    require(bool(np.any(room[1:] > 0)), "path", float(path.min()), f"must fall below eps² = {eps**2:.6g}")
    steps = np.arange(len(path))
    cost = np.where(room > 0, steps / np.where(room > 0, room, 1.0), np.inf)
    cost[0] = np.inf
    best = int(np.argmin(cost))
    require(best < len(path) - 1, "path", len(path), "must be longer: the fewest gradient evaluations lie at its end")
    return float(lr * Q / (2 * room[best])), best


@broadcasting
def stationary_best_batch_size(lr: ArrayLike, Q: ArrayLike, eps: ArrayLike, p: ArrayLike = 1.0) -> Numbers:
    """T15 [N]: b* = (1 + p)ηQ/(2p ε²), best constant b for ε where the noise-free ‖∇f‖² β falls like t^−p; ηλ small.

    From b* = ηQ/(2(ε² − β(K*))) with K* = argmin K Q/(ε² − β(K)): β(K*) = ε²/(1 + p), and p/(1 + p) of ε² is left
    for noise. p = 1 gives ηQ/ε² and one half.
    """
    lr, Q, eps, p = above_0("lr", lr), above_0("Q", Q), above_0("eps", eps), above_0("p", p)
    return plain((1 + p) * lr * Q / (2 * p * eps**2))


# ------------------------------------------------------------------------ T16: the best schedule for a horizon
def noise_kernel(lr: ArrayLike, eigenvalues: ArrayLike, noise: ArrayLike, power: int = 2) -> np.ndarray:
    """T16 [N]: κ_t = η_t² Σ_i λ_i^power σ_i² Π_{s>t} (1 − η_sλ_i)²: what the noise of step t adds at the end, × b_t.

    lr: (K,). eigenvalues λ, noise (the diagonal of Σ in the eigenbasis of H): (d,). power: 2 for E‖∇f(θ_K)‖²; 1
    for twice the excess of f. Returns (K,); the end value is the noise-free one plus Σ_t κ_t/b_t.
    """
    lr = np.atleast_1d(above_0("lr", lr))
    require(lr.ndim == 1, "lr", lr.shape, "must be one-dimensional, one value a step")
    require(whole("power", power) in (1, 2), "power", power, "must be 1 (for f) or 2 (for the squared gradient norm)")
    eigenvalues, _, noise = _spectrum(eigenvalues, None, noise)
    left, kernel = eigenvalues**power * noise, np.empty(len(lr))
    for t in range(len(lr) - 1, -1, -1):
        kernel[t] = lr[t] ** 2 * left.sum()
        left = left * (1 - lr[t] * eigenvalues) ** 2
    return kernel


def best_batch_sizes(kappa: ArrayLike, room: float, minimum: float = 1.0, maximum: float = np.inf) -> np.ndarray:
    """T16 [N]: the b_t of least Σ b_t with Σ κ_t/b_t ≤ room: b_t = √κ_t · scale, between minimum and maximum.

    kappa: (K,), 0 or above, what the noise of each step adds (`noise_kernel`). room: above 0, what the target leaves
    for noise. minimum, maximum: the bounds on every b_t. Returns (K,), real numbers.
    Raises `InputError` where even maximum at every step leaves more noise than room.
    """
    kappa = np.atleast_1d(_nonnegative("kappa", kappa))
    require(kappa.ndim == 1, "kappa", kappa.shape, "must be one-dimensional, one value a step")
    number("room", room)
    number("minimum", minimum)
    require(scalar("maximum", maximum) >= minimum, "maximum", maximum, f"must be at least minimum = {minimum}")
    least = kappa.sum() / maximum
    require(room > least or (room == least and np.isfinite(maximum)), "room", room, f"must be at least {least:.6g}")
    # As scale grows, steps leave the floor and meet the cap in order of √κ. Between two such events the noise is
    # rest + active/scale, so the scale that meets `room` is found exactly.
    root = np.sqrt(kappa)
    seen = root[root > 0]
    if not len(seen) or kappa.sum() / minimum <= room:
        return np.full(kappa.shape, float(minimum))
    events = np.unique(np.concatenate([minimum / seen, maximum / seen if np.isfinite(maximum) else []]))

    def sizes(scale: float) -> np.ndarray:
        return np.clip(scale * root, minimum, maximum)

    noise = np.array([np.sum(kappa / sizes(scale)) for scale in events])
    last = int(np.flatnonzero(noise > room)[-1])
    low = events[last]
    high = events[last + 1] if last + 1 < len(events) else np.inf
    between = root * (2 * low if np.isinf(high) else (low + high) / 2)
    active = (between > minimum) & (between < maximum)
    if not active.any():  # room is exactly what is left at the cap
        return sizes(low if np.isinf(high) else high)
    rest = np.sum(kappa[~active] / np.clip(between[~active], minimum, maximum))
    return sizes(root[active].sum() / (room - rest))


# -------------------------------------------------------- T17: two criteria, two answers, the costs of joint growth
@broadcasting
def joint_growth_steps(gamma: ArrayLike, stages: ArrayLike) -> Numbers:
    """T17 [N]: M(γ − 1)γ^{M−1}/(γ^M − 1): steps of M equal stages with η growing by γ, over those at the last η alone.

    For the same Σ η and the same path of η/b, so for the same gradient evaluations (T13). Never below 1; in the
    long run M(1 − 1/γ). gamma: above 1. stages: M, 1 or above.
    """
    gamma, stages = above_0("gamma", gamma), above_0("stages", stages)
    require(bool(np.all(gamma > 1)), "gamma", gamma.tolist(), "must be above 1")
    require(bool(np.all(stages >= 1)), "stages", stages.tolist(), "must be 1 or above")
    return plain(stages * (1 - 1 / gamma) / (1 - gamma**-stages))


@broadcasting
def lr_price(lr: ArrayLike, eigenvalue: ArrayLike) -> Numbers:
    """T17 [N]: 2/(2 − ηλ): gradient evaluations for the same progress and noise in ‖∇f‖², over those at small η (T15).

    eigenvalue: λ, of the direction whose noise counts. Raises `InputError` unless lr < 2/λ.
    """
    lr, eigenvalue = above_0("lr", lr), above_0("eigenvalue", eigenvalue)
    require(bool(np.all(lr * eigenvalue < 2)), "lr", lr.tolist(), "must be below 2/λ")
    return plain(2 / (2 - lr * eigenvalue))


def anytime_part(p: ArrayLike = 1.0) -> Numbers:
    """T17 [N]: 1/(1 + p): gradient evaluations of b_t ∝ t^p, best at every ε on the way, over T15's best constant's.

    p: the noise-free ‖∇f‖² falls like t^−p.
    """
    return plain(1 / (1 + above_0("p", p)))


def horizon_part(kappa: ArrayLike) -> float:
    """T17 [N]: (Σ√κ)²/(T Σκ): gradient evaluations of b_t ∝ √κ_t over those of the constant b of the same noise.

    kappa: (T,), `noise_kernel`. Without the bounds on b_t that `best_batch_sizes` keeps. At most 1.
    """
    kappa = np.atleast_1d(_nonnegative("kappa", kappa))
    require(kappa.sum() > 0, "kappa", kappa.tolist(), "must not be 0 everywhere")
    return float(np.sum(np.sqrt(kappa)) ** 2 / (len(kappa) * kappa.sum()))
