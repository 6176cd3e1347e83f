"""T11: the front of steps against gradient evaluations."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, anywhere, between, eq, ge, gt, le, lt, ratio
from sfolib.theory.derivations.critical_batch_size import NEW, K_of_lr, N_of_lr, price
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import A, V, constant_sums, descent_bound, m
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import K, L, T, b, eps, gap, lr, lr_max, lrs, sigma, size, t

z = sp.Symbol("z", positive=True)
K_min, N_min, B = sp.symbols("K_min N_min B", positive=True)
K_least, N_least, B_crit = 2 * gap * L / eps**2, 2 * gap * L * sigma**2 / eps**4, sigma**2 / eps**2
bound_of, most, fastest_of = (
    sp.Function(name)(*of) for name, of in (("Q", (K, z, lr)), ("z_max", (K, lr)), ("K_at", (lr, b)))
)
lr_of_K, b_of_K, N_of_K, K_of_b, lr_of_b, over_of_lr = (
    sp.Function(name, positive=True)(of)
    for name, of in (
        ("eta_front", K),
        ("b_front", K),
        ("N_front", K),
        ("K_front", b),
        ("eta_best", b),
        ("overhead", lr),
    )
)
stable = (between(lr, 0, 2 / L),)


def _constant_is_best(proof) -> None:
    """Jensen: at the same K and N, the mean η and the mean b reach ε if any schedule does."""
    bs = sp.IndexedBase("b", positive=True)
    mean_lr, mean_b = sp.symbols(r"\bar\eta \bar{b}", positive=True)

    def over(term):
        return sp.Sum(term, (t, 0, T - 1))

    keep = lrs[t] * (1 - L * lrs[t] / 2)
    even = proof.sign(
        "η²/b lies above its tangent plane at the means",
        ge(lrs[t] ** 2 / bs[t], 2 * mean_lr / mean_b * lrs[t] - (mean_lr / mean_b) ** 2 * bs[t]),
    )
    square = proof.sign("η² lies above its tangent", ge(lrs[t] ** 2, 2 * mean_lr * lrs[t] - mean_lr**2))
    planes = proof.total(
        "summed",
        ge(over(lrs[t] ** 2 / bs[t]), over(2 * mean_lr / mean_b * lrs[t] - (mean_lr / mean_b) ** 2 * bs[t])),
        even,
        (t, 0, T - 1),
    )
    tangents = proof.total(
        "summed", ge(over(lrs[t] ** 2), over(2 * mean_lr * lrs[t] - mean_lr**2)), square, (t, 0, T - 1)
    )
    means = (
        proof.assume("the mean learning rate of K = T steps", eq(over(lrs[t]), T * mean_lr)),
        proof.assume("the mean batch, so N = T b̄ in both", eq(over(bs[t]), T * mean_b)),
    )
    count = proof.closed_sum("counting steps", over(sp.S.One), T, T)
    noise = proof.combine(
        "so V is smallest for the constant pair",
        ge(over(lrs[t] ** 2 / bs[t]), T * mean_lr**2 / mean_b),
        planes + 2 * mean_lr / mean_b * means[0] - (mean_lr / mean_b) ** 2 * means[1],
    )
    drift = proof.combine(
        "and A is largest",
        le(over(keep), T * mean_lr * (1 - L * mean_lr / 2)),
        L / 2 * tangents + (L * mean_lr - 1) * means[0] - L * mean_lr**2 / 2 * count,
    )
    reached = proof.assume(
        "a schedule whose bound (exact form) reaches ε",
        le(gap + L * sigma**2 / 2 * over(lrs[t] ** 2 / bs[t]), eps**2 * over(keep)),
    )
    proof.state.combine(
        "then the constant pair of its means, with the same K and N, reaches ε too: "
        "for one fixed ε nothing is gained by varying η or b",
        le(gap + L * sigma**2 / 2 * T * mean_lr**2 / mean_b, eps**2 * T * mean_lr * (1 - L * mean_lr / 2)),
        reached + L * sigma**2 / 2 * noise + eps**2 * drift,
    )


def _front(proof) -> tuple:
    """The least N over (η, b) at K steps, from T1's bound with the actual descent factor η(1 − Lη/2)."""
    general = proof.cite(
        "T1's bound with each step's own descent factor (so η_max = η), not the looser one",
        le(m, (gap + L * sigma**2 * V / 2) / A),
        descent_bound(),
        {lrs[t]: lr, lr_max: lr},
        on=stable,
    )
    real = proof.assume(
        "K and b are read as real numbers from here on, with z = 1/b, and ε is reached once the bound at constant "
        "(η, b) is",
        eq(bound_of, (gap + L * lr**2 * sigma**2 * K * z / 2) / (K * lr * (1 - L * lr / 2))),
    )
    proof.state.combine(
        "it bounds min E‖∇f‖² at K = T",
        le(m, bound_of.func(T, 1 / size, lr)),
        general,
        on=stable,
        uses=(real, *constant_sums(proof, "VA")),
    )
    proof.state.sign(
        "it rises with 1/b, so ε is reached for all 1/b up to a largest one",
        gt(sp.Derivative(bound_of, z), 0),
        on=stable,
        uses=(real,),
    )
    largest = proof.state.root(
        "the largest 1/b that reaches ε in K steps",
        bound_of - eps**2,
        anywhere(z),
        2 * (eps**2 * K * lr * (1 - L * lr / 2) - gap) / (L * lr**2 * sigma**2 * K),
        name=most,
        uses=(real,),
    )
    top = eps**2 * (eps**2 * K - 2 * gap * L) / (2 * gap * L * sigma**2)
    highest = proof.state.sign("no learning rate allows a smaller batch in K steps", le(most, top), uses=(largest,))
    best = proof.state.root(
        "and one alone allows this one", top - most, above(lr, 0), 2 * gap / (eps**2 * K), name=lr_of_K, uses=(largest,)
    )
    short = (between(K, 0, K_least, "(]"),)
    none = proof.sign("which is no batch at all up to 2ΔL/ε² steps", le(top, 0), on=short)
    proof.state.combine("so no pair reaches ε in these", le(most, 0), highest + none, on=short)
    steps = proof.state.root(
        "K_min, beyond which there is one",
        most.func(K, lr_of_K),
        above(K, 0),
        K_least,
        name=K_min,
        uses=(largest, best),
    )
    beyond = (above(K, K_least),)
    proof.state.sign("that learning rate is below 1/L there", lt(lr_of_K, 1 / L), on=beyond, uses=(best,))
    batch = proof.state.root(
        "the batch on the front",
        b * most.func(K, lr_of_K) - 1,
        above(b, 0),
        B_crit / (K / K_least - 1),
        on=beyond,
        name=b_of_K,
        uses=(largest, best),
    )
    samples = proof.assume("a step costs b gradient evaluations", eq(N_of_K, K * b_of_K))
    needed = proof.combine("N on the front", eq(N_of_K, K * batch.value), samples + K * batch, on=beyond)
    fewest = proof.state.limit(
        "many steps need the fewest gradient evaluations", N_of_K, K, sp.oo, N_least, side="-", uses=(needed,)
    )
    proof.state.limit("near K_min they grow without bound", N_of_K, K, K_least, sp.oo, uses=(needed,))
    named = proof.assume("a name for the fewest", eq(N_min, fewest.fact.lhs))
    least = proof.state.combine("that is", eq(N_min, N_least), named + fewest)
    proof.state.identity("critical batch size of the front", ratio(N_min, K_min), B_crit, name=B, uses=(steps, least))
    proof.state.identity(
        "the front is a hyperbola",
        (K / K_min - 1) * (N_of_K / N_min - 1),
        sp.S.One,
        on=beyond,
        uses=(steps, least, needed),
    )
    steps_of = proof.state.root(
        "the steps at a batch size b of the front",
        b_of_K - b,
        above(K, K_least),
        K_least * (1 + B_crit / b),
        name=K_of_b,
        uses=(batch,),
    )
    rule = proof.state.identity(
        "so its learning rate is", lr_of_K.func(K_of_b), 1 / (L * (1 + B_crit / b)), name=lr_of_b, uses=(best, steps_of)
    )
    drop = eps**2 * lr * (1 - L * lr / 2) - L * lr**2 * sigma**2 / (2 * b)
    other = proof.state.root(
        "the other way round: the steps at (η, b)",
        bound_of.func(K, 1 / b, lr) - eps**2,
        anywhere(K),
        gap / drop,
        name=fastest_of,
        uses=(real,),
    )
    proof.state.root(
        "at any fixed b they are fewest at the same learning rate",
        sp.Derivative(1 / fastest_of, lr),
        above(lr, 0),
        rule.rhs,
        name=sp.Function("eta_fastest")(b),
        uses=(other,),
    )
    proof.state.sign(
        "their reciprocal is concave in η, so that is the only one",
        lt(sp.Derivative(1 / fastest_of, (lr, 2)), 0),
        uses=(other,),
    )
    return needed, steps, least


@cache
def front() -> Derivation:
    """T11: the front of T1's bound, its hyperbola and learning-rate rule, and T2's place above it."""
    proof = Proof(
        "T11",
        "The front of steps against gradient evaluations",
        f"{NEW}; the laws it arrives at were put forward as an empirical model by McCandlish et al., arXiv 1812.06162",
    )
    needed, steps, least = _front(proof)
    _constant_is_best(proof)
    three, N_two, K_two = price(), *(sp.Function(name, positive=True)(lr) for name in ("N_two", "K_two"))
    samples = proof.cite(
        "T2's best batch at η needs", eq(N_two, 4 * N_least / (2 - L * lr) ** 2), three, {N_of_lr: N_two}, on=stable
    )
    pace = proof.cite(
        "in so many steps", eq(K_two, 2 * K_least / ((2 - L * lr) * L * lr)), three, {K_of_lr: K_two}, on=stable
    )
    over = proof.state.identity(
        "over the front's N at the same number of steps",
        ratio(N_two, N_of_K.func(K_two)),
        1 + (L * lr) ** 2 / (2 - L * lr) ** 2,
        name=over_of_lr,
        on=stable,
        uses=(needed, samples, pace),
    )
    known = {"uses": (over,)}
    proof.state.sign("so T2's critical batch is not on the front but for η → 0", gt(over_of_lr, 1), on=stable, **known)
    proof.state.limit("where it joins it", over_of_lr, lr, sp.S.Zero, sp.S.One, **known)
    proof.state.identity("at η = 1/L it is twice the front", over_of_lr.func(1 / L), sp.Integer(2), **known)
    proof.state.identity(
        "there K = 4ΔL/ε², and the front's N", N_of_K.func(2 * K_min), 2 * N_min, uses=(needed, steps, least)
    )
    return proof.done()
