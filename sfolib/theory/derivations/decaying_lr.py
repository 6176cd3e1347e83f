"""T9: decaying learning rates η_t = η(t + 1)^−a at constant b, for all a in (0, 1), and the noise floor at a = 0."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, anywhere, at_least, between, eq, ge, gt, le, lt
from sfolib.theory.derivations.critical_batch_size import bound as constant_bound
from sfolib.theory.derivations.critical_batch_size import critical_batch_size
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import S, V, descent_bound, m
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import C1, C2, K, L, T, b, c1, c2, eps, lr, lr_max, lrs, t

IMAIZUMI = "[S] Imaizumi & Iiduka 2024 (arXiv 2402.15344); the explicit constants [N]"
a, y, z = sp.symbols("a y z", positive=True)
k = sp.Symbol("k", positive=True, integer=True)
K_small, K_large = sp.symbols("K_small K_large", positive=True)  # a below, above 1/2: names of each case's own
b_small, b_half, b_large, N_half = sp.symbols("b_small b_half b_large N_half", positive=True)
stable = (between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]"))
later, any_a = at_least(k, 2), between(a, 0, 1)
small, large = between(a, 0, sp.S.Half), between(a, sp.S.Half, 1)
s = 1 - 2 * a


def _upto(term):
    return sp.Sum(term, (k, 1, T))


def _sum_bounds(proof) -> tuple:
    """Σ k^−a from below for any a; Σ k^−2a from above for a < 1/2, a = 1/2 and a > 1/2."""
    last = proof.sign("no index exceeds T", le(k, T), on=(at_least(T, k),))
    each = proof.map(
        "so no term is below the last one", ge(k**-a, T**-a), last, sp.Lambda(y, y**-a), on=(at_least(T, k),)
    )
    added = proof.total("summed", ge(_upto(k**-a), _upto(T**-a)), each, (k, 1, T))
    count = proof.closed_sum("counting them", _upto(sp.S.One), T, T)
    low = proof.combine("Σ k^−a from below", ge(_upto(k**-a), T ** (1 - a)), (added, 1), (count, T**-a))

    under = proof.tangent(
        "a < 1/2: x^(1−2a) is concave",
        le((k - 1) ** s, k**s - s * k ** (s - 1)),
        sp.Lambda(y, y**s),
        k,
        k - 1,
        on=(later, small),
    )
    term = proof.combine(
        "so each term is at most", le(k ** (-2 * a), (k**s - (k - 1) ** s) / s), (under, 1 / s), on=(later, small)
    )
    slow = proof.bounded_sum("Σ k^−2a for a < 1/2", le(_upto(k ** (-2 * a)), T**s / s), term, on=(small,))

    log_term = proof.tangent(
        "a = 1/2: ln is concave", le(sp.log(k - 1), sp.log(k) - 1 / k), sp.Lambda(y, sp.log(y)), k, k - 1, on=(later,)
    )
    log_each = proof.combine(
        "so each term is at most", le(1 / k, sp.log(k) - sp.log(k - 1)), (log_term, 1), on=(later,)
    )
    even = proof.bounded_sum("Σ 1/k", le(_upto(1 / k), 1 + sp.log(T)), log_each)

    over = proof.tangent(
        "a > 1/2: x^(1−2a) is convex",
        ge((k - 1) ** s, k**s - s * k ** (s - 1)),
        sp.Lambda(y, y**s),
        k,
        k - 1,
        on=(later, large),
    )
    fall = proof.combine(
        "so each term is at most",
        le(k ** (-2 * a), ((k - 1) ** s - k**s) / (2 * a - 1)),
        (over, 1 / (2 * a - 1)),
        on=(later, large),
    )
    summed = proof.bounded_sum(
        "Σ k^−2a for a > 1/2", le(_upto(k ** (-2 * a)), (2 * a - T**s) / (2 * a - 1)), fall, on=(large,)
    )
    fast = proof.combine("which stays bounded", le(_upto(k ** (-2 * a)), 2 * a / (2 * a - 1)), (summed, 1), on=(large,))
    return low, slow, even, fast


def _needed(proof, words, rate, power, D, on) -> tuple:
    """Steps and the best b from m ≤ (C1/η + D/b)/T^power."""
    A = C1 / lr
    count, batch = (K_small, b_small) if power == a else (K_large, b_large)
    steps_to = proof.root(
        f"{words}: steps that are enough, from z = K^{power}",
        (A + D / b) / z - eps**2,
        above(z, 0),
        (A + D / b) / eps**2,
        name=count**power,
        on=on,
        stated=True,
    )
    log_samples = sp.log(b) + sp.log(A + D / b) / power
    best = proof.root(
        "gradient evaluations N = bK: stationary point of ln N",
        sp.Derivative(log_samples, b),
        above(b, 0),
        (1 / power - 1) * D / A,
        name=batch,
        on=on,
        stated=True,
    )
    falls = proof.sign(
        "N falls before it", lt(sp.Derivative(log_samples, b), 0), on=(between(b, 0, best.value), *on), stated=True
    )
    rises = proof.sign(
        "and rises after it", gt(sp.Derivative(log_samples, b), 0), on=(above(b, best.value), *on), stated=True
    )
    return rate, steps_to, best, falls, rises


@cache
def decaying() -> Derivation:
    """T9: bounds, steps and best batch sizes for a < 1/2, a = 1/2 and a > 1/2."""
    proof = Proof(
        "T9", "Decaying learning rates", IMAIZUMI, ranges=(*stable, any_a, between(lr * (t + 1) ** -a, 0, lr_max, "(]"))
    )
    low, slow, even, fast = _sum_bounds(proof)
    general = proof.cite(
        "the descent bound",
        le(m, (c1(lr_max) + c2(lr_max) * V) / S),
        descent_bound(),
        {lrs[t]: lr * (t + 1) ** -a},
        on=stable,
    )
    names = (
        proof.assume("C1 = 2Δ/(2 − Lη_max), here with η_max ≥ η_0 = η", eq(C1, c1(lr_max))),
        proof.assume("C2 = Lσ²/(2 − Lη_max)", eq(C2, c2(lr_max))),
    )
    s_def = proof.assume("S of η_t = η(t + 1)^−a, with k = t + 1", eq(S, lr * _upto(k**-a)))
    cleared = proof.combine(
        "the bound, with these names", le(m * S, C1 + C2 * V), (general, S), (names[0], 1), (names[1], V), on=stable
    )
    scale = lr * T ** (1 - a)
    top = proof.combine(
        "and with S from below",
        le(m, (C1 + C2 * V) / scale),
        (cleared, 1 / scale),
        (s_def, m / scale),
        (low, m * lr / scale),
        on=stable,
    )
    v_def = proof.assume("V of it at constant b", eq(V, lr**2 / b * _upto(k ** (-2 * a))))

    D = C2 * lr / s
    plain = proof.combine(
        "a < 1/2",
        le(m, (C1 / lr + D / b * T**s) / T ** (1 - a)),
        (top, 1),
        (v_def, -C2 / scale),
        (slow, C2 * lr**2 / (b * scale)),
        on=(*stable, small),
        stated=True,
    )
    one = proof.sign("T is at least 1", ge(T, 1))
    power = proof.map("and so is T^(1−2a)", ge(T**s, 1), one, sp.Lambda(y, y**s), on=(small,))
    slow_rate = proof.combine(
        "so the rate is T^−a",
        le(m, (C1 / lr + D / b) / T**a),
        (plain, 1),
        (power, C1 / scale),
        on=(*stable, small),
        stated=True,
    )
    _needed(proof, "a < 1/2", slow_rate, a, D, (small,))

    half = {a: sp.S.Half}
    D = C2 * lr
    top_half = proof.instance("at a = 1/2", le(m, (C1 + C2 * V) / (lr * sp.sqrt(T))), top, half, on=stable)
    v_half = proof.instance("and V there", eq(V, lr**2 / b * _upto(1 / k)), v_def, half)
    proof.combine(
        "a = 1/2: the rate is T^−1/2 up to a logarithm",
        le(m, (C1 / lr + D / b * (1 + sp.log(T))) / sp.sqrt(T)),
        (top_half, 1),
        (v_half, -C2 / (lr * sp.sqrt(T))),
        (even, C2 * lr / (b * sp.sqrt(T))),
        on=stable,
        stated=True,
    )
    bound, enough = (C1 / lr + D / b * (1 + sp.log(K))) / sp.sqrt(K), 4 * C1**2 / (lr**2 * eps**4)
    matched = proof.root(
        "a = 1/2: K steps with √K > C1/(ηε²) are enough at",
        bound - eps**2,
        anywhere(b),
        D * (1 + sp.log(K)) / (eps**2 * sp.sqrt(K) - C1 / lr),
        name=b_half,
        stated=True,
    )
    proof.identity(
        "N = bK at K = 4C1²/(η²ε⁴), T2's N* times a logarithm",
        sp.Subs(K * matched.value, K, enough),
        4 * C1 * C2 / eps**4 * (1 + 2 * sp.log(2 * C1 / (lr * eps**2))),
        name=N_half,
        stated=True,
    )

    D = C2 * lr * 2 * a / (2 * a - 1)
    fast_rate = proof.combine(
        "a > 1/2: the rate is T^−(1−a)",
        le(m, (C1 / lr + D / b) / T ** (1 - a)),
        (top, 1),
        (v_def, -C2 / scale),
        (fast, C2 * lr**2 / (b * scale)),
        on=(*stable, large),
        stated=True,
    )
    _needed(proof, "a > 1/2", fast_rate, 1 - a, D, (large,))

    proof.limit(
        "a = 0, a constant η: the noise floor that no number of steps passes",
        constant_bound,
        K,
        sp.oo,
        C2 * lr / b,
        side="-",
        stated=True,
    )
    proof.cite(
        "so ε is out of reach unless ε² > C2η/b",
        gt(constant_bound, eps**2),
        critical_batch_size(),
        on=(*stable, between(b, 0, C2 * lr / eps**2, "(]")),
        stated=True,
    )
    return proof.done()
