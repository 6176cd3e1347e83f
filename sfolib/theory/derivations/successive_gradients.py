"""T14: what the product of two successive gradients says about batch size and learning rate."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, gt, le, lt, ratio
from sfolib.theory.derivations.critical_batch_size import NEW, K_star, critical_batch_size
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import c, descent_bound, v, v_B
from sfolib.theory.derivations.local_front import b_local, decrease, local_front, stable
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.steps import Step, at_terms
from sfolib.theory.derivations.symbols import (
    C1,
    C2,
    G2,
    GHG,
    S2,
    L,
    Q,
    b,
    eps,
    j,
    lr,
    lr_max,
    lrs,
    n,
    size,
    t,
    tr_sigma,
)

d, i, k = sp.symbols("d i k", positive=True, integer=True)
grad, lam = sp.IndexedBase("G", real=True)[i], sp.IndexedBase("lambda", real=True)[i]
variance = sp.IndexedBase("v", nonnegative=True)[i]
noise, noise_next, p, w, bias = sp.symbols(r"\xi \xi' p w \bar{\xi}", real=True)
mean_p, mean_w = sp.symbols(r"\bar{p} \bar{w}", real=True)
q, q_next, mean_q = sp.symbols(r"q q' \bar{q}", nonnegative=True)
s, s_momentum, s_metric = (sp.Function(name)(b) for name in ("s", "s_v", "s_P"))
s_perm = sp.Symbol("s_perm", real=True)
m, m_sign, z = sp.symbols("m m_sign z", positive=True)
lam_max, mom, b_momentum = sp.symbols("lambda_max mu b_v", positive=True)


def over(term):
    """The sum over the coordinates of an eigenbasis of H."""
    return sp.Sum(term, (i, 1, d))


def _product(proof) -> tuple[Step, ...]:
    """The mean of g_t·g_{t+1} in one coordinate, for any covariance of their noise; the steps it is made of."""
    two = proof.assume(
        "f is quadratic. In an eigenbasis of H, coordinate i of g_t is G_i + ξ, and of g_{t+1}, after the step −ηg_t, "
        "G_i − ηλ_i(G_i + ξ) + ξ'; p is their product",
        eq(p, (grad + noise) * (grad - lr * lam * (grad + noise) + noise_next)),
    )
    cross = proof.assume("w = ξξ'", eq(w, noise * noise_next))
    square = proof.assume("q = ξ²", eq(q, noise**2))
    keep = 1 - lr * lam
    written = proof.combine(
        "expanded",
        eq(p, grad**2 * keep + grad * ((2 * keep - 1) * noise + noise_next) - lr * lam * q + w),
        two - cross + lr * lam * square,
    )
    unbiased = proof.assume("A2: the noise has mean 0", eq(bias, 0))
    averaged = proof.average(
        "over the draws (barred: means)",
        eq(mean_p, grad**2 * keep + grad * 2 * keep * bias - lr * lam * mean_q + mean_w),
        written,
        {p: mean_p, noise: bias, noise_next: bias, q: mean_q, w: mean_w},
    )
    centred = proof.combine(
        "where the noise has none",
        eq(mean_p, grad**2 * keep - lr * lam * mean_q + mean_w),
        averaged + 2 * grad * keep * unbiased,
    )
    return centred, cross, square, unbiased


def _sums(proof) -> tuple[Step, ...]:
    """‖G‖², GᵀHG, tr(HΣ) and tr Σ as sums over coordinates."""
    return tuple(
        proof.assume(words, eq(symbol, over(term)))
        for words, symbol, term in (
            ("‖G‖²", G2, grad**2),
            ("GᵀHG", GHG, lam * grad**2),
            ("Q = tr(HΣ), v_i the variance of one sample's gradient in coordinate i", Q, lam * variance),
            ("tr Σ", tr_sigma, variance),
        )
    )


def _independent(proof, centred, sums) -> Step:
    """s = ‖G‖² − η(GᵀHG + Q/b), for independent batches."""
    s_i, w_i, q_i = (sp.Symbol(name, real=True) for name in ("s_i", "w_i", "q_i"))
    s_i, w_i = (sp.IndexedBase(name, real=True)[i] for name in ("s", "w"))
    q_i = sp.IndexedBase("q", nonnegative=True)[i]
    apart = proof.assume("independent batches: no covariance of their noise", eq(w_i, 0))
    spread = proof.assume("drawn with replacement (T1), b read as a real number", eq(q_i, variance / b))
    here = proof.instance(
        "in coordinate i",
        eq(s_i, grad**2 * (1 - lr * lam) - lr * lam * q_i + w_i),
        centred,
        {mean_p: s_i, mean_q: q_i, mean_w: w_i},
    )
    each = proof.combine(
        "with these", eq(s_i, grad**2 - lr * (lam * grad**2 + lam * variance / b)), here + apart - lr * lam * spread
    )
    total = proof.total("summed", eq(over(s_i), over(each.fact.rhs)), each, (i, 1, d))
    named = proof.assume("s = E[g_t·g_{t+1}]", eq(s, over(s_i)))
    return proof.state.combine(
        "successive gradients",
        eq(s, G2 - lr * (GHG + Q / b)),
        named + total - sums[0] + lr * sums[1] + lr / b * sums[2],
    )


def _by_permutation(proof, centred, sums) -> None:
    """Two successive batches of one epoch's permutation, at its start: T1's covariance of two draws."""
    s_i, w_i = (sp.IndexedBase(name, real=True)[i] for name in ("s'", "w'"))
    q_i = sp.IndexedBase("q'", nonnegative=True)[i]
    more = (above(n, 1),)
    one = descent_bound()
    cross = proof.cite(
        "by permutation the b² pairs of two batches are different samples (T1)",
        eq(w_i, -variance / (n - 1)),
        one,
        {c: w_i, v: variance, lrs[t]: lr},
        on=more,
    )
    spread = proof.cite(
        "and a batch is a subset (T1)",
        eq(q_i, variance * (n - size) / (size * (n - 1))),
        one,
        {v_B: q_i, v: variance, lrs[t]: lr},
        on=more,
    )
    here = proof.instance(
        "in coordinate i",
        eq(s_i, grad**2 * (1 - lr * lam) - lr * lam * q_i + w_i),
        centred,
        {mean_p: s_i, mean_q: q_i, mean_w: w_i},
    )
    each = proof.combine(
        "with these",
        eq(s_i, grad**2 - lr * lam * (grad**2 + variance * (n - size) / (size * (n - 1))) - variance / (n - 1)),
        here + cross - lr * lam * spread,
        on=more,
    )
    total = proof.total("summed", eq(over(s_i), over(each.fact.rhs)), each, (i, 1, d), on=more)
    named = proof.assume("s of the first two batches of an epoch", eq(s_perm, over(s_i)))
    proof.state.combine(
        "by permutation s is lower by tr Σ/(n − 1), and Q/b carries (n − b)/(n − 1)",
        eq(s_perm, G2 - lr * (GHG + Q / size * (n - size) / (n - 1)) - tr_sigma / (n - 1)),
        named + total - sums[0] + lr * sums[1] + lr * (n - size) / (size * (n - 1)) * sums[2] + sums[3] / (n - 1),
        on=more,
    )


def _half_batches(proof, cross, square, unbiased, sums) -> None:
    """g_a·g_b and ‖g_a − g_b‖²/4 of the two halves of a batch."""
    other = proof.assume("q' = ξ'²", eq(q_next, noise_next**2))
    mean_half = sp.Symbol(r"\bar{q}_h", nonnegative=True)
    spread = proof.assume("a half batch of b/2 samples, drawn with replacement", eq(mean_half, variance / (b / 2)))
    apart = proof.assume("and independent of the other half", eq(mean_w, 0))
    a, a_i, e, e_i = sp.symbols("a a_i e e_i", real=True)
    a_i, e_i = (sp.IndexedBase(name, real=True)[i] for name in ("a", "e"))
    one = proof.assume("coordinate i of the product g_a·g_b", eq(a, (grad + noise) * (grad + noise_next)))
    two = proof.assume("and of ‖g_a − g_b‖²/4", eq(e, ((grad + noise) - (grad + noise_next)) ** 2 / 4))
    first = proof.combine("expanded", eq(a, grad**2 + grad * (noise + noise_next) + w), one - cross)
    second = proof.combine(
        "expanded",
        eq(e, (q - 2 * w + q_next) / 4),
        two - sp.Rational(1, 4) * square - sp.Rational(1, 4) * other + sp.S.Half * cross,
    )
    means = {noise: bias, noise_next: bias, w: mean_w, q: mean_half, q_next: mean_half}
    mean_a = proof.average(
        "over the draws",
        eq(a_i, grad**2 + 2 * grad * bias + mean_w),
        first,
        {a: a_i, **{x: means[x] for x in (noise, noise_next, w)}},
    )
    mean_e = proof.average(
        "over the draws",
        eq(e_i, (2 * mean_half - 2 * mean_w) / 4),
        second,
        {e: e_i, **{x: means[x] for x in (q, q_next, w)}},
    )
    each_a = proof.combine("with these", eq(a_i, grad**2), mean_a + 2 * grad * unbiased + apart)
    each_e = proof.combine("with these", eq(e_i, variance / b), mean_e + sp.S.Half * spread - sp.S.Half * apart)
    total_a = proof.total("summed", eq(over(a_i), over(grad**2)), each_a, (i, 1, d))
    total_e = proof.total("summed", eq(over(e_i), over(variance / b)), each_e, (i, 1, d))
    proof.state.combine("half batches, for free: E[g_a·g_b] is ‖G‖²", eq(over(a_i), G2), total_a - sums[0])
    proof.state.combine("and E‖g_a − g_b‖²/4 is tr Σ/b", eq(over(e_i), tr_sigma / b), total_e - sums[3] / b)


def _sign(proof, found) -> None:
    """s as the slope of the expected decrease, and where it is 0."""
    gain = proof.cite("T13's expected decrease", eq(decrease, lr * G2 - lr**2 / 2 * (GHG + Q / b)), local_front())
    proof.state.identity("s is its slope in η: the hypergradient", s, sp.Derivative(decrease, lr), uses=(found, gain))
    critical = proof.cite(
        "T13's critical batch size", eq(b_local, lr * Q / (G2 - lr * GHG)), local_front(), on=(stable,)
    )
    at = {"uses": (critical, found)}
    proof.state.root(
        "s is 0 there and nowhere else",
        s,
        above(b, 0),
        b_local,
        name=sp.Symbol("b_0", positive=True),
        on=(stable,),
        **at,
    )
    proof.state.sign("above 0 at larger batches", gt(s, 0), on=(stable, above(b, b_local)), **at)
    proof.state.sign("and below 0 at smaller ones", lt(s, 0), on=(stable, between(b, 0, b_local)), **at)


def _detection(proof) -> None:
    """How many steps it takes to see the sign, and why that is few for a growing batch."""
    covariance = sp.IndexedBase("Sigma", real=True)[i, k]
    spread, spread_all, lam_noise, gsg = sp.symbols("V_xi V_s lambda_Sigma G_SigmaG", positive=True)

    def pairs(term):
        return sp.Sum(term, (i, 1, d), (k, 1, d))

    trace = proof.assume("tr Σ²", eq(S2, pairs(covariance**2)))
    apart = proof.assume(
        "ξ and ξ' are independent, each of covariance Σ/b: the variance of ξ·ξ' is Σ_ik E[ξ_iξ_k] E[ξ'_iξ'_k]",
        eq(spread, pairs(covariance / b * covariance / b)),
    )
    noisy = proof.combine("so it is", eq(spread, S2 / b**2), apart - trace / b**2)
    rest = proof.assume("Var(g_t·g_{t+1}) to leading order in η", eq(spread_all, spread + 2 * gsg / b))
    largest = proof.assume("λ_Σ is the largest eigenvalue of Σ: GᵀΣG ≤ λ_Σ‖G‖²", le(gsg, lam_noise * G2))
    front = proof.assume("where b is critical to leading order in η", eq(lr * Q / b, G2))
    few = proof.state.combine(
        "the part of G·ξ' and G·ξ is at most",
        le(spread_all, S2 / b**2 + 2 * lam_noise * lr * Q / b**2),
        -rest - noisy + 2 / b * largest + 2 * lam_noise / b * front,
    )
    proof.state.limit(
        "which next to the other one vanishes with η", few.fact.rhs / spread, lr, sp.S.Zero, sp.S.One, uses=(noisy,)
    )
    needed = proof.state.root(
        "steps m after which the noise part ηQ/b of s is z standard errors of the mean of m products: b cancels",
        (lr * Q / b) ** 2 - z**2 * spread / m,
        above(m, 0),
        z**2 * S2 / (lr * Q) ** 2,
        name=m_sign,
        uses=(noisy,),
    )
    stage = proof.cite(
        "a stage at a fixed η takes T2's steps", eq(K_star, 2 * C1 / (lr * eps**2)), critical_batch_size()
    )
    proof.state.limit(
        "growing b at a fixed η: the test needs an ever smaller part of a stage",
        m_sign / K_star,
        eps,
        sp.S.Zero,
        sp.S.Zero,
        uses=(needed, stage),
    )
    held = proof.assume(
        "a fixed b, and η decays so that b stays T2's critical batch", eq(eps, sp.sqrt(2 * C2 * lr / b))
    )
    proof.state.identity(
        "decaying η at a fixed b: the same part at every η",
        ratio(m_sign, K_star),
        z**2 * S2 * C2 / (C1 * Q**2 * b),
        uses=(held, needed, stage),
    )


def _guard(proof, found, sums) -> None:
    """What tells noise from curvature where s ≤ 0."""
    share = sp.Symbol("x", positive=True)
    top = proof.assume("λ_max is the largest eigenvalue of H", le(lam, lam_max), every=(i,))
    each = proof.combine("so", le(lam * variance, lam_max * variance), variance * top)
    total = proof.total("summed", le(over(lam * variance), over(lam_max * variance)), each, (i, 1, d))
    most = proof.combine("that is", le(Q, lam_max * tr_sigma), total - sums[2] + lam_max * sums[3])
    noisy = proof.assume("if noise alone is the reason for s ≤ 0", le(G2, lr * Q / b))
    least = proof.state.combine(
        "then it is at least", ge(tr_sigma / b, G2 / (lr * lam_max)), noisy / (lr * lam_max) + most / (b * lam_max)
    )
    edge = proof.assume("below the edge of stability", le(lr * lam_max, 2))
    proof.state.combine("and so", ge(tr_sigma / b, G2 / 2), lr * lam_max / 2 * least + tr_sigma / (2 * b) * edge)
    low = proof.assume("in any case of s ≤ 0", le(s, 0))
    little = proof.assume("with noise of a part x of that", eq(tr_sigma / b, share * G2 / (lr * lam_max)))
    proof.state.combine(
        "curvature makes up the rest, and a larger batch does not help: lower η",
        ge(lr * GHG, (1 - share) * G2),
        low + found + lr / b * most - lr * lam_max * little,
    )


def _momentum(proof) -> None:
    """The buffer v in place of g_t, and the value at the critical batch size."""
    gone, x = sp.Symbol("k", positive=True), sp.Symbol("x", positive=True)
    J = sp.Symbol("J", positive=True, integer=True)
    lag, buffer = sp.Function("s_j")(j), sp.Function("s_J")(J)
    reach = proof.closed_sum(
        "with momentum μ the noise of g_{t−j} is in j + 1 steps",
        sp.Sum(mom**i, (i, 0, j)),
        (1 - mom ** (j + 1)) / (1 - mom),
        j,
        start=0,
    )
    moved = proof.assume(
        "and so moves θ_{t+1} by −η Σ μ^i of it: E[g_{t−j}·g_{t+1}] to leading order, without GᵀHG",
        eq(lag, G2 - lr * Q / b * reach.total),
    )
    each = proof.combine(
        "weighed by μ^j in the buffer",
        eq(mom**j * lag, mom**j * G2 - lr * Q / (b * (1 - mom)) * (mom**j - mom * (mom**2) ** j)),
        mom**j * moved - mom**j * lr * Q / b * reach,
    )
    total = proof.total(
        "summed", eq(sp.Sum(mom**j * lag, (j, 0, J)), sp.Sum(each.fact.rhs, (j, 0, J))), each, (j, 0, J)
    )
    named = proof.assume(
        "v = Σ μ^j g_{t−j} over J + 1 steps: E[v·g_{t+1}]", eq(buffer, sp.Sum(mom**j * lag, (j, 0, J)))
    )
    once, twice = (
        proof.closed_sum("geometric", sp.Sum(base**j, (j, 0, J)), (1 - base ** (J + 1)) / (1 - base), J, start=0)
        for base in (mom, mom**2)
    )
    closed = proof.combine(
        "in closed form",
        eq(buffer, (G2 - lr * Q / (b * (1 - mom))) * once.value + lr * Q * mom / (b * (1 - mom)) * twice.value),
        named + total + (G2 - lr * Q / (b * (1 - mom))) * once + lr * Q * mom / (b * (1 - mom)) * twice,
        on=(between(mom, 0, 1),),
    )
    below_one = proof.assume("0 < μ < 1, written", eq(mom, 1 / (1 + gone)))
    final = proof.state.limit(
        "in the long run",
        (1 - mom) * buffer.func(x),
        x,
        sp.oo,
        G2 - lr * Q / (b * (1 - mom**2)),
        uses=(below_one, closed),
    )
    meant = proof.assume("(1 − μ)E[v·g] there", eq(s_momentum, final.fact.lhs))
    value = proof.state.combine("is", eq(s_momentum, final.value), meant + final)
    critical = proof.assume(
        "momentum moves like η/(1 − μ) (T8), so the critical batch is, to leading order (T13)",
        eq(b_momentum, lr / (1 - mom) * Q / G2),
    )
    proof.state.identity(
        "the threshold: at the critical batch",
        s_momentum.func(b_momentum),
        mom / (1 + mom) * G2,
        uses=(critical, value),
    )
    proof.state.sign(
        "above it at larger batches",
        gt(s_momentum, mom / (1 + mom) * G2),
        on=(above(b, b_momentum),),
        uses=(below_one, critical, value),
    )


def _metric(proof, found, sums) -> None:
    """A preconditioner P: the same in coordinates P^{−1/2}θ."""
    entries = sp.symbols("r_11 r_12 r_22 h_11 h_12 h_22 c_11 c_12 c_22", real=True)
    R, H, C = (sp.Matrix([[x, y], [y, z]]) for x, y, z in zip(entries[::3], entries[1::3], entries[2::3], strict=True))
    G = sp.Matrix(sp.symbols("G_1 G_2'", real=True))
    P = R * R
    there = sp.symbols("G'_2 G'_HG Q'", positive=True)
    here = sp.symbols("G_PG G_PHPG Q_P", positive=True)
    moved = ((R * G).dot(R * G), ((R * G).T * (R * H * R) * (R * G))[0], (R * H * R * R * C * R).trace())
    meant = ((G.T * P * G)[0], (G.T * P * H * P * G)[0], (P * H * P * C).trace())
    words = (
        "the step −ηPg is −ηg in coordinates P^{−1/2}θ, with gradient P^{1/2}G: its square, in two dimensions",
        "with Hessian P^{1/2}HP^{1/2}",
        "and covariance P^{1/2}ΣP^{1/2}",
    )
    grad_there, lam_there = (sp.IndexedBase(name, real=True)[i] for name in ("G'", "lambda'"))
    at = {grad: grad_there, lam: lam_there, variance: sp.IndexedBase("v'", nonnegative=True)[i]}
    same = []
    for claim, names, total, one, other, written, short in zip(
        words, ("GᵀPG", "GᵀPHPG", "tr(PHPΣ)"), sums[:3], there, here, moved, meant, strict=True
    ):
        name, value = total.fact.args
        summed = at_terms(value, at)
        moves = {old: new for old, new in at.items() if value.has(old)}
        own = proof.instance("there, in an eigenbasis", eq(one, summed), total, {**moves, name: one})
        alike = proof.assume(claim, eq(summed, written))
        named = proof.assume(f"for short {names}", eq(other, short))
        same.append(proof.combine("is " + names, eq(one, other), own + alike - named))
    found_there = proof.instance(
        "in those coordinates",
        eq(s_metric, there[0] - lr * (there[1] + there[2] / b)),
        found,
        {**at, s: s_metric, G2: there[0], GHG: there[1], Q: there[2]},
    )
    proof.state.combine(
        "so E[gᵀPg'] is",
        eq(s_metric, here[0] - lr * (here[1] + here[2] / b)),
        found_there + same[0] - lr * same[1] - lr / b * same[2],
    )


@cache
def successive_gradients() -> Derivation:
    """T14: s = E[g_t·g_{t+1}] = ‖G‖² − η(GᵀHG + Q/b), what its sign means and how soon it is seen."""
    proof = Proof(
        "T14",
        "A test that costs nothing",
        f"{NEW}; Pflug 1990 (the statistic; Chee & Toulis 1710.06382), Baydin et al., arXiv 1703.04782 (the slope)",
        ranges=(between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]")),
    )
    centred, cross, square, unbiased = _product(proof)
    sums = _sums(proof)
    found = _independent(proof, centred, sums)
    _sign(proof, found)
    _detection(proof)
    _by_permutation(proof, centred, sums)
    _half_batches(proof, cross, square, unbiased, sums)
    _guard(proof, found, sums)
    _momentum(proof)
    _metric(proof, found, sums)
    return proof.done()
