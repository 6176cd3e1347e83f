"""T11: the front of steps against gradient evaluations."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, anywhere, between, eq, ge, gt, le, lt, ratio
from sfolib.theory.derivations.critical_batch_size import NEW, K_star, N_star, constant_sums, price
from sfolib.theory.derivations.derivation import Derivation, Proof
from sfolib.theory.derivations.descent_bound import A, V, descent_bound, m
from sfolib.theory.derivations.inference import Combined, Instance, Summed
from sfolib.theory.derivations.steps import Assumed, Cited, ClosedSum, Identity, Limit, Root, Sign
from sfolib.theory.derivations.symbols import K, L, T, b, eps, gap, lr, lr_max, lrs, sigma, size, t

z = sp.Symbol("z", positive=True)
K_min, N_min, B, N = sp.symbols("K_min N_min B N", positive=True)
lr_best, batch_best = sp.symbols("eta_best b_best", positive=True)
K_least, N_least, B_crit = 2 * gap * L / eps**2, 2 * gap * L * sigma**2 / eps**4, sigma**2 / eps**2
stable = (between(lr, 0, 2 / L),)


def _constant_is_best(steps) -> Combined:
    """Jensen: at the same K and N, the mean η and the mean b reach ε if any schedule does."""
    bs = sp.IndexedBase("b", positive=True)
    mean_lr, mean_b = sp.symbols(r"\bar\eta \bar{b}", positive=True)

    def over(term):
        return sp.Sum(term, (t, 0, T - 1))

    keep = lrs[t] * (1 - L * lrs[t] / 2)
    even = steps.add(
        Sign(
            "η²/b lies above its tangent plane at the means",
            ge(lrs[t] ** 2 / bs[t], 2 * mean_lr / mean_b * lrs[t] - (mean_lr / mean_b) ** 2 * bs[t]),
        )
    )
    square = steps.add(Sign("η² lies above its tangent", ge(lrs[t] ** 2, 2 * mean_lr * lrs[t] - mean_lr**2)))
    planes = steps.add(
        Summed(
            "summed",
            ge(over(lrs[t] ** 2 / bs[t]), over(2 * mean_lr / mean_b * lrs[t] - (mean_lr / mean_b) ** 2 * bs[t])),
            even,
            (t, 0, T - 1),
        )
    )
    tangents = steps.add(
        Summed("summed", ge(over(lrs[t] ** 2), over(2 * mean_lr * lrs[t] - mean_lr**2)), square, (t, 0, T - 1))
    )
    means = (
        steps.add(Assumed("the mean learning rate of K = T steps", eq(over(lrs[t]), T * mean_lr))),
        steps.add(Assumed("the mean batch, so N = T b̄ in both", eq(over(bs[t]), T * mean_b))),
    )
    count = steps.add(ClosedSum("counting steps", over(sp.S.One), T, T))
    noise = steps.add(
        Combined(
            "so V is smallest for the constant pair",
            ge(over(lrs[t] ** 2 / bs[t]), T * mean_lr**2 / mean_b),
            ((planes, 1), (means[0], 2 * mean_lr / mean_b), (means[1], -((mean_lr / mean_b) ** 2))),
        )
    )
    drift = steps.add(
        Combined(
            "and A is largest",
            le(over(keep), T * mean_lr * (1 - L * mean_lr / 2)),
            ((tangents, L / 2), (means[0], L * mean_lr - 1), (count, -L * mean_lr**2 / 2)),
        )
    )
    reached = steps.add(
        Assumed(
            "a schedule whose bound (exact form) reaches ε",
            le(gap + L * sigma**2 / 2 * over(lrs[t] ** 2 / bs[t]), eps**2 * over(keep)),
        )
    )
    return steps.add(
        Combined(
            "then the constant pair of its means, with the same K and N, reaches ε too: "
            "for one fixed ε nothing is gained by varying η or b",
            le(gap + L * sigma**2 / 2 * T * mean_lr**2 / mean_b, eps**2 * T * mean_lr * (1 - L * mean_lr / 2)),
            ((reached, 1), (noise, L * sigma**2 / 2), (drift, eps**2)),
        )
    )


def _front(steps) -> tuple:
    """The least N over (η, b) at K steps, from T1's bound with the actual descent factor η(1 − Lη/2)."""
    V_T, A_T = (steps.add(total) for total in constant_sums(1 / size)[1:])
    general = steps.add(
        Cited(
            "T1's bound with each step's own descent factor (so η_max = η), not the looser one",
            le(m, (gap + L * sigma**2 * V / 2) / A),
            descent_bound(),
            {lrs[t]: lr, lr_max: lr},
            on=stable,
        )
    )
    steps.add(
        Instance(
            "at a constant pair",
            le(m, (gap + L * sigma**2 * V_T.value / 2) / A_T.value),
            general,
            {V: V_T.value, A: A_T.value},
            on=stable,
        )
    )
    bound = (gap + L * lr**2 * sigma**2 * K * z / 2) / (K * lr * (1 - L * lr / 2))
    steps.add(
        Assumed(
            "K and b are read as real numbers from here on, with z = 1/b, and ε is reached once the bound is",
            le(m, bound),
        )
    )
    rises = steps.add(
        Sign(
            "it rises with 1/b, so ε is reached for all 1/b up to a largest one",
            gt(sp.Derivative(bound, z), 0),
            on=stable,
        )
    )
    most = 2 * (eps**2 * K * lr * (1 - L * lr / 2) - gap) / (L * lr**2 * sigma**2 * K)
    largest = steps.add(Root("the largest 1/b that reaches ε in K steps", bound - eps**2, anywhere(z), most))
    top = eps**2 * (eps**2 * K - 2 * gap * L) / (2 * gap * L * sigma**2)
    lr_of_K = 2 * gap / (eps**2 * K)
    square = 2 * gap / (L * sigma**2 * K) * (1 / lr - 1 / lr_of_K) ** 2
    off = steps.add(Identity("a square in 1/η, below its top", top - most, square))
    never = steps.add(Sign("which is never negative", ge(square, 0)))
    least_b = steps.add(
        Combined("so no learning rate allows a smaller batch in K steps", le(most, top), ((off, 1), (never, 1)))
    )
    best = steps.add(Root("and one alone allows this one", top - most, above(lr, 0), lr_of_K, name=lr_best))
    beyond = (above(K, K_least),)
    steps.add(Sign("up to K_min = 2ΔL/ε² steps there is no such batch", le(top, 0), on=(between(K, 0, K_least, "(]"),)))
    inside = steps.add(Sign("beyond, that learning rate is below 1/L", lt(lr_of_K, 1 / L), on=beyond))
    batch_size = steps.add(
        Root("the batch on the front", top * b - 1, above(b, 0), B_crit / (K / K_least - 1), on=beyond, name=batch_best)
    )
    N_of = K * batch_size.value
    fewest = steps.add(Limit("many steps need the fewest gradient evaluations", N_of, K, sp.oo, N_least, side="-"))
    wall = steps.add(Limit("near K_min they grow without bound", N_of, K, K_least, sp.oo))
    crit = steps.add(Identity("critical batch size of the front, N_min/K_min", ratio(N_least, K_least), B_crit, name=B))
    hyperbola = steps.add(
        Identity(
            "the front is a hyperbola",
            (K / K_least - 1) * (N_of / N_least - 1),
            sp.S.One,
            name=(K / K_min - 1) * (N / N_min - 1),
        )
    )
    steps_of = steps.add(
        Root(
            "the steps at a batch size b of the front",
            b * (K / K_least - 1) - B_crit,
            above(K, 0),
            K_least * (1 + B_crit / b),
        )
    )
    rule = steps.add(
        Identity(
            "so its learning rate is",
            sp.Subs(lr_of_K, K, steps_of.value),
            1 / (L * (1 + B_crit / b)),
            name=sp.Function("eta_best")(b),
        )
    )
    drop = eps**2 * lr * (1 - L * lr / 2) - L * lr**2 * sigma**2 / (2 * b)
    needed = steps.add(
        Root("the other way round: the steps at (η, b)", bound.subs(z, 1 / b) - eps**2, anywhere(K), gap / drop)
    )
    same = steps.add(
        Root(
            "at any fixed b they are fewest at the same learning rate",
            sp.Derivative(drop, lr),
            above(lr, 0),
            rule.rhs,
            name=sp.Function("eta_fastest")(b),
        )
    )
    hump = steps.add(
        Sign("their reciprocal is concave in η, so that is the only one", lt(sp.Derivative(drop, (lr, 2)), 0))
    )
    return (
        rises,
        largest,
        least_b,
        best,
        inside,
        batch_size,
        fewest,
        wall,
        crit,
        hyperbola,
        steps_of,
        rule,
        needed,
        same,
        hump,
    )


@cache
def front() -> Derivation:
    """T11: the front of T1's bound, its hyperbola and learning-rate rule, and T2's place above it."""
    steps = Proof()
    stated = _front(steps)
    jensen = _constant_is_best(steps)
    three = price()
    N_two = steps.add(
        Cited("T2's best batch at η needs", eq(N_star, 4 * N_least / (2 - L * lr) ** 2), three, on=stable)
    )
    K_two = steps.add(Cited("in so many steps", eq(K_star, 2 * K_least / ((2 - L * lr) * L * lr)), three, on=stable))
    on_front = K * B_crit / (K / K_least - 1)
    over = steps.add(
        Identity(
            "over the front's N at the same number of steps",
            N_two.fact.rhs / sp.Subs(on_front, K, K_two.fact.rhs),
            1 + (L * lr) ** 2 / (2 - L * lr) ** 2,
            name=sp.Function("overhead")(lr),
        )
    )
    above_one = steps.add(Sign("so T2's critical batch is not on the front but for η → 0", gt(over.rhs, 1), on=stable))
    joins = steps.add(Limit("where it joins it", over.rhs, lr, sp.S.Zero, sp.S.One))
    twice = steps.add(
        Identity(
            "at η = 1/L it is twice the front: 4 N_min against 2 N_min at 2 K_min steps",
            sp.Subs(over.rhs, lr, 1 / L),
            sp.Integer(2),
        )
    )
    two_min = steps.add(Identity("the front's N at K = 4ΔL/ε²", sp.Subs(on_front, K, 2 * K_least), 2 * N_least))
    return Derivation(
        "T11",
        "The front of steps against gradient evaluations",
        f"{NEW}; the laws it arrives at were put forward as an empirical model by McCandlish et al., arXiv 1812.06162",
        tuple(steps),
        tuple(s.fact for s in (*stated, jensen, over, above_one, joins, twice, two_min)),
    )
