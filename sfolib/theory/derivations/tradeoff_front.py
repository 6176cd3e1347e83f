"""T11: the front of steps against gradient evaluations."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, anywhere, between, eq, ge, gt, le, lt, ratio
from sfolib.theory.derivations.critical_batch_size import NEW, K_of_lr, K_star, N_of_lr, N_star, price
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import A, V, constant_sums, descent_bound, m
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import K, L, T, b, eps, gap, lr, lr_max, lrs, sigma, size, t

z = sp.Symbol("z", positive=True)
K_min, N_min, B, N = sp.symbols("K_min N_min B N", positive=True)
lr_best, batch_best = sp.symbols("eta_best b_best", positive=True)
K_least, N_least, B_crit = 2 * gap * L / eps**2, 2 * gap * L * sigma**2 / eps**4, sigma**2 / eps**2
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
        (planes, 1),
        (means[0], 2 * mean_lr / mean_b),
        (means[1], -((mean_lr / mean_b) ** 2)),
    )
    drift = proof.combine(
        "and A is largest",
        le(over(keep), T * mean_lr * (1 - L * mean_lr / 2)),
        (tangents, L / 2),
        (means[0], L * mean_lr - 1),
        (count, -L * mean_lr**2 / 2),
    )
    reached = proof.assume(
        "a schedule whose bound (exact form) reaches ε",
        le(gap + L * sigma**2 / 2 * over(lrs[t] ** 2 / bs[t]), eps**2 * over(keep)),
    )
    proof.combine(
        "then the constant pair of its means, with the same K and N, reaches ε too: "
        "for one fixed ε nothing is gained by varying η or b",
        le(gap + L * sigma**2 / 2 * T * mean_lr**2 / mean_b, eps**2 * T * mean_lr * (1 - L * mean_lr / 2)),
        (reached, 1),
        (noise, L * sigma**2 / 2),
        (drift, eps**2),
        stated=True,
    )


def _front(proof) -> None:
    """The least N over (η, b) at K steps, from T1's bound with the actual descent factor η(1 − Lη/2)."""
    V_T, A_T = constant_sums(proof, "VA")
    general = proof.cite(
        "T1's bound with each step's own descent factor (so η_max = η), not the looser one",
        le(m, (gap + L * sigma**2 * V / 2) / A),
        descent_bound(),
        {lrs[t]: lr, lr_max: lr},
        on=stable,
    )
    proof.instance(
        "at a constant pair",
        le(m, (gap + L * sigma**2 * V_T.value / 2) / A_T.value),
        general,
        {V: V_T.value, A: A_T.value},
        on=stable,
    )
    bound = (gap + L * lr**2 * sigma**2 * K * z / 2) / (K * lr * (1 - L * lr / 2))
    proof.assume(
        "K and b are read as real numbers from here on, with z = 1/b, and ε is reached once the bound is", le(m, bound)
    )
    proof.sign(
        "it rises with 1/b, so ε is reached for all 1/b up to a largest one",
        gt(sp.Derivative(bound, z), 0),
        on=stable,
        stated=True,
    )
    most = 2 * (eps**2 * K * lr * (1 - L * lr / 2) - gap) / (L * lr**2 * sigma**2 * K)
    proof.root("the largest 1/b that reaches ε in K steps", bound - eps**2, anywhere(z), most, stated=True)
    top = eps**2 * (eps**2 * K - 2 * gap * L) / (2 * gap * L * sigma**2)
    lr_of_K = 2 * gap / (eps**2 * K)
    square = 2 * gap / (L * sigma**2 * K) * (1 / lr - 1 / lr_of_K) ** 2
    off = proof.identity("a square in 1/η, below its top", top - most, square)
    never = proof.sign("which is never negative", ge(square, 0))
    proof.combine(
        "so no learning rate allows a smaller batch in K steps", le(most, top), (off, 1), (never, 1), stated=True
    )
    proof.root("and one alone allows this one", top - most, above(lr, 0), lr_of_K, name=lr_best, stated=True)
    beyond = (above(K, K_least),)
    proof.sign("up to K_min = 2ΔL/ε² steps there is no such batch", le(top, 0), on=(between(K, 0, K_least, "(]"),))
    proof.sign("beyond, that learning rate is below 1/L", lt(lr_of_K, 1 / L), on=beyond, stated=True)
    batch_size = proof.root(
        "the batch on the front",
        top * b - 1,
        above(b, 0),
        B_crit / (K / K_least - 1),
        on=beyond,
        name=batch_best,
        stated=True,
    )
    N_of = K * batch_size.value
    proof.limit("many steps need the fewest gradient evaluations", N_of, K, sp.oo, N_least, side="-", stated=True)
    proof.limit("near K_min they grow without bound", N_of, K, K_least, sp.oo, stated=True)
    proof.identity(
        "critical batch size of the front, N_min/K_min", ratio(N_least, K_least), B_crit, name=B, stated=True
    )
    proof.identity(
        "the front is a hyperbola",
        (K / K_least - 1) * (N_of / N_least - 1),
        sp.S.One,
        name=(K / K_min - 1) * (N / N_min - 1),
        stated=True,
    )
    steps_of = proof.root(
        "the steps at a batch size b of the front",
        b * (K / K_least - 1) - B_crit,
        above(K, 0),
        K_least * (1 + B_crit / b),
        stated=True,
    )
    rule = proof.identity(
        "so its learning rate is",
        sp.Subs(lr_of_K, K, steps_of.value),
        1 / (L * (1 + B_crit / b)),
        name=sp.Function("eta_best")(b),
        stated=True,
    )
    drop = eps**2 * lr * (1 - L * lr / 2) - L * lr**2 * sigma**2 / (2 * b)
    proof.root(
        "the other way round: the steps at (η, b)", bound.subs(z, 1 / b) - eps**2, anywhere(K), gap / drop, stated=True
    )
    proof.root(
        "at any fixed b they are fewest at the same learning rate",
        sp.Derivative(drop, lr),
        above(lr, 0),
        rule.rhs,
        name=sp.Function("eta_fastest")(b),
        stated=True,
    )
    proof.sign(
        "their reciprocal is concave in η, so that is the only one", lt(sp.Derivative(drop, (lr, 2)), 0), stated=True
    )


@cache
def front() -> Derivation:
    """T11: the front of T1's bound, its hyperbola and learning-rate rule, and T2's place above it."""
    proof = Proof(
        "T11",
        "The front of steps against gradient evaluations",
        f"{NEW}; the laws it arrives at were put forward as an empirical model by McCandlish et al., arXiv 1812.06162",
    )
    _front(proof)
    _constant_is_best(proof)
    three = price()
    N_two = proof.cite(
        "T2's best batch at η needs", eq(N_star, 4 * N_least / (2 - L * lr) ** 2), three, {N_of_lr: N_star}, on=stable
    )
    K_two = proof.cite(
        "in so many steps", eq(K_star, 2 * K_least / ((2 - L * lr) * L * lr)), three, {K_of_lr: K_star}, on=stable
    )
    on_front = K * B_crit / (K / K_least - 1)
    over = proof.identity(
        "over the front's N at the same number of steps",
        N_two.fact.rhs / sp.Subs(on_front, K, K_two.fact.rhs),
        1 + (L * lr) ** 2 / (2 - L * lr) ** 2,
        name=sp.Function("overhead")(lr),
        stated=True,
    )
    proof.sign("so T2's critical batch is not on the front but for η → 0", gt(over.rhs, 1), on=stable, stated=True)
    proof.limit("where it joins it", over.rhs, lr, sp.S.Zero, sp.S.One, stated=True)
    proof.identity(
        "at η = 1/L it is twice the front: 4 N_min against 2 N_min at 2 K_min steps",
        sp.Subs(over.rhs, lr, 1 / L),
        sp.Integer(2),
        stated=True,
    )
    proof.identity("the front's N at K = 4ΔL/ε²", sp.Subs(on_front, K, 2 * K_least), 2 * N_least, stated=True)
    return proof.done()
