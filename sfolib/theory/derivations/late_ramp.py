"""T16: the batch sizes of the fewest gradient evaluations for a horizon."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, at_least, between, eq, ge, le
from sfolib.theory.derivations.critical_batch_size import NEW
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.linear_noise import C, C_next, lam, linear_noise, variance
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.successive_gradients import d, i, over
from sfolib.theory.derivations.symbols import T, b, lr, lrs, t

M_b = sp.IndexedBase("M", nonnegative=True)
C_b = sp.IndexedBase("C", nonnegative=True)
lams, variances = sp.IndexedBase("lambda", positive=True), sp.IndexedBase("v", positive=True)
kappas, bs, best = (sp.IndexedBase(name, positive=True) for name in ("kappa", "b", r"b^*"))
left = sp.IndexedBase("E", nonnegative=True)
low, high, level, room, x, found = sp.symbols("b_min b_max nu R x b_t", positive=True)


def _kernel(proof) -> None:
    """E_T = Σ_t κ_t/b_t: what is left of the noise of each step at the end."""
    step = proof.cite(
        "T15's recursion, at step t in coordinate i",
        eq(C_b[i, t + 1], (1 - lrs[t] * lams[i]) ** 2 * C_b[i, t] + lrs[t] ** 2 * variances[i] / bs[t]),
        linear_noise(),
        {C_next: C_b[i, t + 1], C: C_b[i, t], lr: lrs[t], lam: lams[i], variance: variances[i], b: bs[t]},
    )
    back = proof.assume(
        "M says what is left at the end: M_T = λ² for ‖∇f‖², λ for 2(f − f*), and backwards",
        eq(M_b[i, t], (1 - lrs[t] * lams[i]) ** 2 * M_b[i, t + 1]),
    )
    each = proof.combine(
        "so M C changes by the noise of the step alone",
        eq(M_b[i, t + 1] * C_b[i, t + 1] - M_b[i, t] * C_b[i, t], M_b[i, t + 1] * lrs[t] ** 2 * variances[i] / bs[t]),
        M_b[i, t + 1] * step - C_b[i, t] * back,
    )
    added = proof.total(
        "over the coordinates",
        eq(over(M_b[i, t + 1] * C_b[i, t + 1]) - over(M_b[i, t] * C_b[i, t]), over(each.fact.rhs)),
        each,
        (i, 1, d),
    )
    after, before = (
        proof.assume(words, eq(left[at], over(M_b[i, at] * C_b[i, at])))
        for words, at in (("E_t = Σ M C, at the end the noise part of E‖∇f(θ_T)‖²", t + 1), ("and one step before", t))
    )
    kernel = proof.assume("κ_t = η_t² Σ M_{t+1} v", eq(kappas[t], lrs[t] ** 2 * over(M_b[i, t + 1] * variances[i])))
    change = proof.combine(
        "in these names", eq(left[t + 1] - left[t], kappas[t] / bs[t]), added + after - before - kernel / bs[t]
    )
    total = proof.total(
        "over the steps", eq(steps(left[t + 1] - left[t]), steps(kappas[t] / bs[t])), change, (t, 0, T - 1)
    )
    telescope = proof.closed_sum("the left-hand side telescopes", steps(left[t + 1] - left[t]), left[T] - left[0], T)
    start = proof.assume("the run starts at a point", eq(C_b[i, 0], 0))
    first = proof.instance("there E is", eq(left[0], over(M_b[i, 0] * C_b[i, 0])), before, {t: sp.S.Zero})
    nothing = proof.identity("that is", left[0], sp.S.Zero, uses=(start, first))
    proof.state.combine(
        "what the noise leaves at the end", eq(left[T], steps(kappas[t] / bs[t])), total - telescope + nothing
    )


def steps(term):
    """The sum over the T steps of a run."""
    return sp.Sum(term, (t, 0, T - 1))


def _water_filling(proof) -> None:
    """b_t = ν√κ_t between a floor and a cap is optimal: the Lagrangian is least at it, step by step."""
    above_floor, below_cap = at_least(b, low), between(b, 0, high, "(]")
    clipped = proof.assume(
        "x = ν√κ_t is the water level; b* is x, b_min below it, b_max above it (b_min ≤ b_max)",
        eq(found, sp.Piecewise((low, x <= low), (x, x < high), (high, True))),
    )
    cases = (
        proof.sign(
            "at the floor no larger b has a smaller b + x²/b",
            ge(b + x**2 / b, low + x**2 / low),
            on=(between(x, 0, low, "(]"), above_floor),
        ),
        proof.sign("between the bounds no b has", ge(b + x**2 / b, 2 * x), on=(between(x, low, high),)),
        proof.sign(
            "at the cap no smaller b has", ge(b + x**2 / b, high + x**2 / high), on=(at_least(x, high), below_cap)
        ),
    )
    any_b = proof.cases(
        "so b* has the least of all b between floor and cap",
        ge(b + x**2 / b, found + x**2 / found),
        clipped,
        cases,
        above(x, 0),
        on=(above_floor, below_cap),
    )
    allowed = (at_least(bs[t], low), between(bs[t], 0, high, "(]"))
    each = proof.instance(
        "at step t",
        ge(bs[t] + level**2 * kappas[t] / bs[t], best[t] + level**2 * kappas[t] / best[t]),
        any_b,
        {b: bs[t], x: level * sp.sqrt(kappas[t]), found: best[t]},
        on=allowed,
    )
    total = proof.total(
        "over the steps",
        ge(steps(bs[t] + level**2 * kappas[t] / bs[t]), steps(best[t] + level**2 * kappas[t] / best[t])),
        each,
        (t, 0, T - 1),
        on=allowed,
    )
    kept = proof.assume("a schedule that leaves noise R at most", le(steps(kappas[t] / bs[t]), room))
    used = proof.assume(
        "and ν such that b* leaves just R (unless the floor leaves less)", eq(steps(kappas[t] / best[t]), room)
    )
    proof.state.combine(
        "needs at least as many gradient evaluations as water filling",
        ge(steps(bs[t]), steps(best[t])),
        total + level**2 * kept + level**2 * used,
        on=allowed,
    )


def _unbounded(proof) -> None:
    """Where no bound is met: Σ b* = (Σ√κ)²/R, and what the best constant batch needs."""
    roots, squares, mean = sp.symbols("S_root S_kappa r", positive=True)
    free = proof.assume("where neither bound is met", eq(level * sp.sqrt(kappas[t]), best[t]), every=(t,))
    root_sum = proof.assume("the sum of the roots", eq(roots, steps(sp.sqrt(kappas[t]))))
    all_sum = proof.assume("and of κ", eq(squares, steps(kappas[t])))
    spent = proof.root(
        "the level that leaves just R",
        roots / level - room,
        above(level, 0),
        roots / room,
        name=sp.Symbol("nu_*", positive=True),
    )
    total = proof.total("Σ b*", eq(steps(level * sp.sqrt(kappas[t])), steps(best[t])), free, (t, 0, T - 1))
    summed = proof.combine("in this sum", eq(steps(best[t]), level * roots), -total - level * root_sum)
    at = proof.assume("at that level", eq(level, spent.name))
    least = proof.state.combine(
        "gradient evaluations of water filling",
        eq(steps(best[t]), roots**2 / room),
        summed + roots * at + roots * spent,
    )
    constant = proof.root(
        "a constant batch that leaves R",
        squares / b - room,
        above(b, 0),
        squares / room,
        name=sp.Symbol("b_flat", positive=True),
    )
    square = proof.sign("a square", ge((sp.sqrt(kappas[t]) - mean) ** 2, 0))
    added = proof.total("summed", ge(steps((sp.sqrt(kappas[t]) - mean) ** 2), 0), square, (t, 0, T - 1))
    count = proof.closed_sum("counting steps", steps(sp.S.One), T, T)
    spread = proof.combine(
        "so (Σ√κ)² ≤ T Σκ",
        ge(squares, 2 * mean * roots - mean**2 * T),
        added + all_sum - 2 * mean * root_sum - mean**2 * count,
    )
    tight = proof.instance("at the mean root", ge(squares, roots**2 / T), spread, {mean: roots / T})
    proof.state.combine(
        "and it needs at least as many, T b_flat",
        ge(T * constant.name, steps(best[t])),
        T * constant + T / room * tight - least,
    )


def _shape(proof) -> None:
    """The kernel forgets: exponentially in one coordinate, like a power over a spectrum that does."""
    tau, tau0, q, span, A = sp.symbols("tau tau_0 q s A", positive=True)
    kernel = sp.Function("kappa")(tau)
    back = proof.assume(
        "at a constant η, τ steps before the end, M is", eq(sp.Function("M")(tau), lam**2 * (1 - lr * lam) ** (2 * tau))
    )
    proof.state.limit(
        "in units of Σ η: exponential forgetting, at a rate of twice the eigenvalue",
        sp.Function("M")(span / lr) / lam**2,
        lr,
        sp.S.Zero,
        sp.exp(-2 * lam * span),
        uses=(back,),
    )
    density = proof.assume("where λ²v has over λ a density that goes like", eq(sp.Function("w")(lam), lam ** (q - 1)))
    proof.state.identity(
        "the sum of that is a power",
        sp.Integral(sp.Function("w")(lam) * sp.exp(-2 * lam * span), (lam, 0, sp.oo)),
        sp.gamma(q) / (2 * span) ** q,
        uses=(density,),
    )
    family = proof.assume("so for a family: κ, τ steps before the end", eq(kernel, A * (tau + tau0) ** -q))
    proof.state.identity(
        "the ramp is a power of the steps that are left",
        level * sp.sqrt(kernel),
        level * sp.sqrt(A) * (tau + tau0) ** (-q / 2),
        uses=(family,),
    )


@cache
def late_ramp() -> Derivation:
    """T16: the kernel κ of a horizon, water filling b_t ∝ √κ_t between floor and cap, and its shape."""
    proof = Proof("T16", "The best schedule for a horizon", f"{NEW}; late switching is arXiv 2602.14208")
    _kernel(proof)
    _water_filling(proof)
    _unbounded(proof)
    _shape(proof)
    return proof.done()
