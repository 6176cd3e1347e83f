"""T9: decaying learning rates η_t = η(t + 1)^−a at constant b, for all a in (0, 1), and the noise floor at a = 0."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, anywhere, at_least, between, eq, ge, gt, le, lt
from sfolib.theory.derivations.critical_batch_size import critical_batch_size
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import S, V, m, named_bound
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import C1, C2, K, L, T, b, eps, lr, lr_max, t

IMAIZUMI = "[S] Imaizumi & Iiduka 2024 (arXiv 2402.15344); the explicit constants [N]"
a, y, z = sp.symbols("a y z", positive=True)
k = sp.Symbol("k", positive=True, integer=True)
stable = (between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]"))
later = at_least(k, 2)
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
    low = proof.combine("Σ k^−a from below", ge(_upto(k**-a), T ** (1 - a)), added + T**-a * count)

    under = proof.tangent(
        "a < 1/2: x^(1−2a) is concave",
        le((k - 1) ** s, k**s - s * k ** (s - 1)),
        sp.Lambda(y, y**s),
        k,
        k - 1,
        on=(later, small),
    )
    term = proof.combine(
        "so each term is at most", le(k ** (-2 * a), (k**s - (k - 1) ** s) / s), under / s, on=(later, small)
    )
    slow = proof.bounded_sum("Σ k^−2a for a < 1/2", le(_upto(k ** (-2 * a)), T**s / s), term, on=(small,))

    log_term = proof.tangent(
        "a = 1/2: ln is concave", le(sp.log(k - 1), sp.log(k) - 1 / k), sp.Lambda(y, sp.log(y)), k, k - 1, on=(later,)
    )
    log_each = proof.combine("so each term is at most", le(1 / k, sp.log(k) - sp.log(k - 1)), log_term, on=(later,))
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
        over / (2 * a - 1),
        on=(later, large),
    )
    summed = proof.bounded_sum(
        "Σ k^−2a for a > 1/2", le(_upto(k ** (-2 * a)), (2 * a - T**s) / (2 * a - 1)), fall, on=(large,)
    )
    fast = proof.combine("which stays bounded", le(_upto(k ** (-2 * a)), 2 * a / (2 * a - 1)), summed, on=(large,))
    return low, slow, even, fast


def _needed(proof, words, rate, power, D) -> None:
    """Steps and the best b from m ≤ (C1/η + D/b)/T^power, the last fact of the case a < 1/2 or a > 1/2."""
    on, case = rate.on, "small" if power == a else "large"
    count, best_b = (sp.Symbol(f"{name}_{case}", positive=True) for name in ("K", "b"))
    bound = sp.Function(f"Q_{case}", positive=True)(z)
    log_samples = sp.Function(f"ln_N_{case}", real=True)(b)
    real = proof.assume(
        f"{words}: the number of steps K, and with it z = K^({power}), is read as a real number, and ε is reached once "
        "the bound is",
        eq(bound, (C1 / lr + D / b) / z),
    )
    proof.state.combine("it bounds min E‖∇f‖² at K = T", le(m, bound.func(T**power)), rate, on=on, uses=(real,))
    enough = proof.state.root(
        "steps that are enough",
        bound - eps**2,
        above(z, 0),
        (C1 / lr + D / b) / eps**2,
        name=count**power,
        on=on,
        uses=(real,),
    )
    samples = proof.assume(
        "a step costs b gradient evaluations: N = bK, in logarithms",
        eq(log_samples, sp.log(b) + sp.log(count**power) / power),
    )
    best = proof.state.root(
        "the stationary point of N",
        sp.Derivative(log_samples, b),
        above(b, 0),
        (1 / power - 1) * D * lr / C1,
        name=best_b,
        on=on,
        uses=(enough, samples),
    )
    slope, known = sp.Derivative(log_samples, b), {"uses": (enough, samples)}
    proof.state.sign("N falls before it", lt(slope, 0), on=(between(b, 0, best.value), *on), **known)
    proof.state.sign("and rises after it", gt(slope, 0), on=(above(b, best.value), *on), **known)


@cache
def decaying() -> Derivation:
    """T9: bounds, steps and best batch sizes for a < 1/2, a = 1/2 and a > 1/2."""
    proof = Proof(
        "T9", "Decaying learning rates", IMAIZUMI, ranges=(*stable, between(lr * (t + 1) ** -a, 0, lr_max, "(]"))
    )
    low, slow, even, fast = _sum_bounds(proof)
    bound = named_bound(proof, lr * (t + 1) ** -a)
    s_def = proof.assume("S of η_t = η(t + 1)^−a, with k = t + 1", eq(S, lr * _upto(k**-a)))
    cleared = proof.combine("the bound cleared of its denominator", le(m * S, C1 + C2 * V), S * bound)
    scale = lr * T ** (1 - a)
    top = proof.combine(
        "and with S from below",
        le(m, (C1 + C2 * V) / scale),
        cleared / scale + m / scale * s_def + m * lr / scale * low,
    )
    v_def = proof.assume("V of it at constant b", eq(V, lr**2 / b * _upto(k ** (-2 * a))))

    D = C2 * lr / s
    plain = proof.state.combine(
        "a < 1/2",
        le(m, (C1 / lr + D / b * T**s) / T ** (1 - a)),
        top - C2 / scale * v_def + C2 * lr**2 / (b * scale) * slow,
        on=(small,),
    )
    one = proof.sign("T is at least 1", ge(T, 1))
    power = proof.map("and so is T^(1−2a)", ge(T**s, 1), one, sp.Lambda(y, y**s), on=(small,))
    slow_rate = proof.state.combine(
        "so the rate is T^−a", le(m, (C1 / lr + D / b) / T**a), plain + C1 / scale * power, on=(small,)
    )
    _needed(proof, "a < 1/2", slow_rate, a, D)

    half, V_half = {a: sp.S.Half}, sp.Symbol("V_half", positive=True)
    D, Q_half, b_half, N_of = C2 * lr, *(sp.Function(name, positive=True)(K) for name in ("Q_half", "b_half", "N"))
    top_half = proof.instance("at a = 1/2", le(m, (C1 + C2 * V_half) / (lr * sp.sqrt(T))), top, half | {V: V_half})
    v_half = proof.instance("and V there", eq(V_half, lr**2 / b * _upto(1 / k)), v_def, half | {V: V_half})
    rate = proof.state.combine(
        "a = 1/2: the rate is T^−1/2 up to a logarithm",
        le(m, (C1 / lr + D / b * (1 + sp.log(T))) / sp.sqrt(T)),
        top_half - C2 / (lr * sp.sqrt(T)) * v_half + C2 * lr / (b * sp.sqrt(T)) * even,
    )
    real = proof.assume(
        "a = 1/2: K is read as a real number", eq(Q_half, (C1 / lr + D / b * (1 + sp.log(K))) / sp.sqrt(K))
    )
    proof.state.combine("it bounds min E‖∇f‖² at K = T", le(m, Q_half.func(T)), rate, uses=(real,))
    matched = proof.state.root(
        "K steps with √K > C1/(ηε²) are enough at",
        Q_half - eps**2,
        anywhere(b),
        D * (1 + sp.log(K)) / (eps**2 * sp.sqrt(K) - C1 / lr),
        name=b_half,
        uses=(real,),
    )
    samples = proof.assume("a step costs b gradient evaluations", eq(N_of, K * b_half))
    proof.state.identity(
        "at K = 4C1²/(η²ε⁴) this is T2's N* times a logarithm",
        N_of.func(4 * C1**2 / (lr**2 * eps**4)),
        4 * C1 * C2 / eps**4 * (1 + 2 * sp.log(2 * C1 / (lr * eps**2))),
        name=sp.Symbol("N_half", positive=True),
        uses=(matched, samples),
    )

    D = C2 * lr * 2 * a / (2 * a - 1)
    fast_rate = proof.state.combine(
        "a > 1/2: the rate is T^−(1−a)",
        le(m, (C1 / lr + D / b) / T ** (1 - a)),
        top - C2 / scale * v_def + C2 * lr**2 / (b * scale) * fast,
        on=(large,),
    )
    _needed(proof, "a > 1/2", fast_rate, 1 - a, D)

    proof.state.cite(
        "a = 0, a constant η: ε is out of reach unless ε² > C2η/b",
        gt(C1 / (lr * K) + C2 * lr / b, eps**2),
        critical_batch_size(),
        on=(between(b, 0, C2 * lr / eps**2, "(]"),),
    )
    return proof.done()
