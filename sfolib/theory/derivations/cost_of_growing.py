"""T6 and T7: what growing costs against the best constant batch, and growth under caps."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, at_least, between, eq, ge, le, lt, ratio
from sfolib.theory.derivations.critical_batch_size import NEW, N_star, critical_batch_size
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import S, V, descent_bound, m
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.stagewise_growth import stagewise
from sfolib.theory.derivations.symbols import C1, C2, K, L, M, b, c1, c2, delta, eps, gamma, j, lr, lr_max, lrs, r, t

x, y, N_m, N_0, rest = sp.symbols("x y N_m N_0 N_before", positive=True)
stable = (between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]"))


def _least_ratio(proof, words, worst, factored, at, least) -> None:
    """The global minimum of `worst` over r > 1 from `worst` − least = `factored`, a square over what is positive."""
    beyond = (above(r, 1),)
    gap_to = proof.identity(f"{words}: how far it is above {least}", worst - least, factored)
    never = proof.sign("which is never below 0", ge(factored, 0), on=beyond)
    proof.combine(
        "so this is its global minimum on r > 1", ge(worst, least), (gap_to, 1), (never, 1), on=beyond, stated=True
    )
    proof.root("reached at one r only", worst - least, beyond[0], at, stated=True)


@cache
def overhead() -> Derivation:
    """T6: stages of cost N_0 r^{2m} against the best constant batch for an ε between two of them."""
    proof = Proof("T6", "Growing costs a constant", NEW, ranges=(*stable, between(gamma * lr, 0, lr_max, "(]")))
    beyond = (above(r, 1),)
    two, four = critical_batch_size(), stagewise()
    proof.assume(
        "the gap f − f* at the start of every stage is at most Δ, so that T2 holds anew in each, with "
        "C1, C2 of one η_max; a stage costs",
        eq(N_m, N_0 * r ** (2 * M)),
    )
    proof.cite(
        "because the cost grows by r² a stage",
        eq(sp.Symbol("e", positive=True), r**2),
        four,
        on=(between(gamma * lr, 0, lr_max, "(]"),),
    )
    total = proof.closed_sum(
        "the stages up to m = M",
        sp.Sum(N_0 * r ** (2 * j), (j, 0, M)),
        N_0 * (r ** (2 * M + 2) - 1) / (r**2 - 1),
        M,
        start=0,
    )
    upto = proof.combine(
        "cost at most", le(total.total, N_0 * r ** (2 * M) * r**2 / (r**2 - 1)), (total, -1), on=beyond, stated=True
    )
    proof.identity("as a part of this bound", ratio(total.value, upto.fact.rhs), 1 - r ** (-2 * M - 2))
    proof.limit(
        "which nears 1 (r = 1 + x): no smaller factor will do for all m",
        1 - (1 + x) ** (-2 * y - 2),
        y,
        sp.oo,
        sp.S.One,
    )
    finish, early = r**4 / (r**2 - 1), r**2 / (r**2 - 1) + r**2 / (2 * r - 1)

    target = proof.cite(
        "the best constant batch for ε² = y ε_m², which knows ε",
        eq(N_star, 4 * C1 * C2 / (y**2 * eps**4)),
        two,
        {eps: sp.sqrt(y) * eps},
        on=stable,
    )
    here = proof.cite("stage m costs", eq(N_star, 4 * C1 * C2 / eps**4), two, on=stable)
    per = proof.identity(
        "finishing stage m for it: all the stages over it",
        ratio(here.fact.rhs * r**2 / (r**2 - 1), target.fact.rhs),
        y**2 * r**2 / (r**2 - 1),
    )
    proof.sign(
        "which grows with y, and 1 ≤ y < r between two stages: the worst case is y → r",
        lt(per.rhs, finish),
        on=(between(y, 1, r, "[)"), above(r, 1)),
    )
    proof.limit("worst case of finishing the stage", per.rhs, y, r, finish, side="-", stated=True)
    _least_ratio(proof, "finishing the stage", finish, (r**2 - 2) ** 2 / (r**2 - 1), sp.sqrt(2), 4)

    b_m = 2 * C2 * lr / eps**2
    run = proof.cite(
        "stopping early: T2's steps at b = b*(ε_m) for the target ε² = x ε_m²",
        eq(K, C1 * b_m / (lr * (x * eps**2 * b_m - C2 * lr))),
        two,
        {b: b_m, eps: sp.sqrt(x) * eps},
        on=(*stable, above(x, sp.S.Half)),
    )
    proof.identity(
        "in gradient evaluations, a part 1/(2x − 1) of N_m",
        sp.Mul(b_m, run.fact.rhs, evaluate=False),
        here.fact.rhs / (2 * x - 1),
        stated=True,
    )
    cost = x**2 / (r**2 - 1) + x**2 / (2 * x - 1)
    proof.identity(
        "with the stages before it, N_m/(r² − 1) at most, over the best constant batch's N_m/x²",
        ratio(N_m / (r**2 - 1) + N_m / (2 * x - 1), N_m / x**2),
        cost,
    )
    proof.identity(
        "the stages before stage m are r^−2 of the bound above", ratio(r**2 / (r**2 - 1), r**2), 1 / (r**2 - 1)
    )
    proof.sign(
        "it does not fall on 1 ≤ x ≤ r, so the worst case is x = r",
        ge(sp.Derivative(cost, x), 0),
        on=(at_least(x, 1), above(r, 1)),
    )
    proof.identity("worst case of stopping early", sp.Subs(cost, x, r), early, stated=True)
    _least_ratio(
        proof,
        "stopping early",
        early,
        (r - 2) ** 2 * (3 * r**2 + 2 * r - 2) / (3 * (r**2 - 1) * (2 * r - 1)),
        sp.Integer(2),
        sp.Rational(8, 3),
    )
    proof.root("with equal steps a stage, τ = r/γ = 1", r / gamma - 1, above(gamma, 0), r, stated=True)
    proof.identity("and then δ = γr", sp.Subs(gamma * r, gamma, r), r**2, name=delta, stated=True)

    bound = proof.cite(
        "without the assumption on the gap, T1 over the stages 0…M",
        le(m, (c1(lr_max) + c2(lr_max) * V) / S),
        descent_bound(),
        {lrs[t]: lr},
        on=stable,
    )
    names = (
        proof.assume("C1 = 2Δ/(2 − Lη_max)", eq(C1, c1(lr_max))),
        proof.assume("C2 = Lσ²/(2 − Lη_max)", eq(C2, c2(lr_max))),
    )
    e_j = sp.IndexedBase("epsilon", positive=True)

    def upto_M(term):
        return sp.Sum(term, (j, 0, M))

    part = 2 * C1 / e_j[j] ** 2
    s_def = proof.assume("a stage of T2 has T_m η_m = K*η = 2C1/ε_m²", eq(S, upto_M(part)))
    v_def = proof.assume(
        "and adds T_m η_m · η_m/b_m to V, where η_m/b_m = ε_m²/(2C2)", eq(V, upto_M(part * e_j[j] ** 2 / (2 * C2)))
    )
    count = proof.closed_sum("the same for every stage", upto_M(C1 / C2), C1 / C2 * (M + 1), M, start=0)
    proof.combine(
        "the same rate up to a factor that is linear in M",
        le(m, C1 * (M + 2) / upto_M(part)),
        (bound, 1),
        (names[0], 1 / S),
        (names[1], V / S),
        (v_def, -C2 / S),
        (count, -C2 / S),
        (s_def, C1 * (M + 2) / (S * upto_M(part))),
        on=stable,
        stated=True,
    )
    return proof.done()
