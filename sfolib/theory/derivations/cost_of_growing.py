"""T6: what growing costs against the best constant batch size, which knows ε."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, le, lt, ratio
from sfolib.theory.derivations.critical_batch_size import NEW, K_star, N_star, b_star, critical_batch_size
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import S, V, m, named_bound
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.stagewise_growth import stagewise
from sfolib.theory.derivations.symbols import C1, C2, K, L, M, b, delta, eps, gamma, j, lr, lr_max, lrs, r, tau

x, y = sp.symbols("x y", positive=True)
b_M, K_early, N_early, gamma_even, delta_even = sp.symbols("b_M K_early N_early gamma_even delta_even", positive=True)
stage, best, finish, early = (
    sp.Function(name, positive=True)(at) for name, at in (("N_m", j), ("N_best", y), ("finish", y), ("early", x))
)
spent, worst_finish, worst_early = (
    sp.Function(name, positive=True)(at) for name, at in (("spent", M), ("worst_finish", r), ("worst_early", r))
)
eps_of, steps_of, size_of = (sp.IndexedBase(name, positive=True) for name in ("epsilon", "K", "b"))
growing = (above(r, 1),)
stable = (between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]"))


def _stages(proof) -> tuple:
    """What the stages of growth by r cost, and what the best constant batch size for ε² = y ε_M² does."""
    two = critical_batch_size()
    cost = proof.cite(
        "stage m aims at ε_m² = ε²/r^m and costs T2's N*",
        eq(stage, 4 * C1 * C2 * r ** (2 * j) / eps**4),
        two,
        {eps: eps * r ** (-j / 2), N_star: stage},
    )
    known = proof.cite(
        "the best constant batch size for ε² = y ε_M²",
        eq(best, 4 * C1 * C2 * r ** (2 * M) / (y**2 * eps**4)),
        two,
        {eps: sp.sqrt(y) * eps * r ** (-M / 2), N_star: best},
    )
    total = proof.assume(
        "the gap f − f* at the start of every stage is at most Δ, so that T2 holds anew in each, with C1, C2 of one "
        "η_max: stages 0 to M cost",
        eq(spent, sp.Sum(stage, (j, 0, M))),
    )
    sums = proof.closed_sum(
        "a geometric sum", sp.Sum(r ** (2 * j), (j, 0, M)), (r ** (2 * M + 2) - 1) / (r**2 - 1), M, start=0
    )
    most = proof.state.combine(
        "at most",
        le(spent, stage.func(M) * r**2 / (r**2 - 1)),
        -total - 4 * C1 * C2 / eps**4 * sums,
        on=growing,
        uses=(cost,),
    )
    return cost, known, most


def _least(proof, worst, uses, least, at, name) -> None:
    """The global minimum of the worst case over r > 1."""
    proof.state.sign("this is smallest", ge(worst, least), on=growing, uses=uses)
    proof.state.root("at one r only", worst - least, growing[0], at, name=name, uses=uses)


def _finishing(proof, cost, known, most) -> None:
    """The stage that reaches ε is run to its end: 1 ≤ y < r."""
    over = proof.identity(
        "finishing the stage: all stages over the best constant batch size, at most",
        ratio(stage.func(M) * r**2 / (r**2 - 1), best),
        y**2 * r**2 / (r**2 - 1),
        name=finish,
        uses=(cost, known),
    )
    limit = proof.state.limit(
        "which grows with y, 1 ≤ y < r between two stages, to the worst case",
        finish,
        y,
        r,
        r**4 / (r**2 - 1),
        side="-",
        uses=(over,),
    )
    named = proof.assume("the worst case of finishing the stage", eq(worst_finish, limit.fact.lhs))
    worst = proof.combine("that is", eq(worst_finish, limit.value), named + limit)
    inside = (between(y, 1, r, "[)"), *growing)
    below = proof.sign("no y is as bad", lt(finish, worst_finish), on=inside, uses=(over, worst))
    proof.state.combine(
        "so growth costs less than that times the best constant batch size",
        lt(spent, worst_finish * best),
        most + best * below,
        on=inside,
        uses=(cost, known, over, worst),
    )
    _least(proof, worst_finish, (worst,), sp.Integer(4), sp.sqrt(2), sp.Symbol("r_finish", positive=True))


def _stopping(proof, cost, known, most) -> None:
    """The stage that reaches ε² = x ε_M² is left there: 1 ≤ x < r."""
    two, target = critical_batch_size(), eps * r ** (-M / 2)
    size = proof.cite("stage M's batch size", eq(b_M, 2 * C2 * lr * r**M / eps**2), two, {eps: target, b_star: b_M})
    run = proof.cite(
        "stopping early: T2's steps at it for the target ε² = x ε_M²",
        eq(K_early, C1 * size.fact.rhs / (lr * C2 * lr * (2 * x - 1))),
        two,
        {b: size.fact.rhs, eps: sp.sqrt(x) * target, K: K_early},
        on=(above(x, sp.S.Half),),
    )
    inside = (between(x, 1, r, "[)"), *growing)
    part = proof.state.identity(
        "in gradient evaluations, a part 1/(2x − 1) of N_M",
        b_M * K_early,
        stage.func(M) / (2 * x - 1),
        name=N_early,
        on=(above(x, sp.S.Half),),
        uses=(size, run, cost),
    )
    over = proof.identity(
        "with the stages before it, N_M/(r² − 1) at most, over the best constant batch size",
        ratio(stage.func(M) / (r**2 - 1) + stage.func(M) / (2 * x - 1), best.func(x)),
        x**2 / (r**2 - 1) + x**2 / (2 * x - 1),
        name=early,
        uses=(cost, known),
    )
    worst = proof.state.identity(
        "the worst case of stopping early is x → r",
        early.func(r),
        r**2 / (r**2 - 1) + r**2 / (2 * r - 1),
        name=worst_early,
        uses=(over,),
    )
    below = proof.sign("no x is as bad", lt(early, worst_early), on=inside, uses=(over, worst))
    proof.state.combine(
        "so growth costs less than that times the best constant batch size",
        lt(spent - stage.func(M) + N_early, worst_early * best.func(x)),
        most + best.func(x) * below,
        on=inside,
        uses=(cost, known, over, worst, part),
    )
    _least(proof, worst_early, (worst,), sp.Rational(8, 3), sp.Integer(2), sp.Symbol("r_early", positive=True))


def _equal_steps(proof) -> None:
    """r in terms of δ and γ at equal steps a stage."""
    four, room = stagewise(), between(gamma_even * lr, 0, lr_max, "(]")
    steps = proof.cite("T4: the steps grow by", eq(tau, r / gamma), four)
    even = proof.state.root("equal steps a stage, τ = 1", tau - 1, above(gamma, 0), r, name=gamma_even, uses=(steps,))
    batch = proof.cite(
        "and the batch by", eq(delta_even, gamma_even * r), four, {gamma: gamma_even, delta: delta_even}, on=(room,)
    )
    proof.state.combine("that is", eq(delta_even, r**2), batch, on=(room,), uses=(even,))


def _without_the_gap(proof) -> None:
    """T1 over all stages: the same rate but for a factor that is linear in their number."""
    aim, pace, rate, batch = eps_of[j], steps_of[j], lrs[j], size_of[j]
    two, at = critical_batch_size(), {eps: aim, lr: rate}

    def stages(term):
        return sp.Sum(term, (j, 0, M))

    def added(words, symbol, term, value, uses):
        named = proof.assume(f"{symbol} of all stages", eq(symbol, stages(term)))
        each = proof.identity(f"{words} {symbol}", term, value, uses=uses)
        return named, proof.total("summed", eq(stages(term), stages(value)), each, (j, 0, M))

    size = proof.cite(
        "without the assumption on the gap: stage m has T2's b*",
        eq(batch, 2 * C2 * rate / aim**2),
        two,
        at | {b_star: batch},
    )
    steps = proof.cite("and K* steps", eq(pace, 2 * C1 / (rate * aim**2)), two, at | {K_star: pace})
    part = 2 * C1 / aim**2
    s_sum = added("so it adds to", S, pace * rate, part, (steps,))
    v_sum = added("and to", V, pace * rate**2 / batch, C1 / C2, (size, steps))
    count = proof.closed_sum("the same in every stage", stages(C1 / C2), C1 / C2 * (M + 1), M, start=0)
    share = C1 * (M + 2) / (S * stages(part))
    proof.state.combine(
        "the same rate up to a factor that is linear in M",
        le(m, C1 * (M + 2) / stages(part)),
        named_bound(proof, rate) - C2 / S * (v_sum[0] + v_sum[1] + count) + share * (s_sum[0] + s_sum[1]),
    )


@cache
def overhead() -> Derivation:
    """T6: stages of cost N_0 r^{2m} against the best constant batch size for an ε between two of them."""
    proof = Proof(
        "T6",
        "Growing costs a constant",
        NEW,
        ranges=(*stable, *(between(rate, 0, lr_max, "(]") for rate in (gamma * lr, lrs[j]))),
    )
    stages = _stages(proof)
    _finishing(proof, *stages)
    _stopping(proof, *stages)
    _equal_steps(proof)
    _without_the_gap(proof)
    return proof.done()
