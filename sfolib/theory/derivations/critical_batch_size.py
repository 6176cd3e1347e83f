"""T2 and T3: the critical batch size of a constant pair (η, b), and what a larger learning rate costs."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, gt, le, lt, ratio
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import UMEDA, S, V, descent_bound, m
from sfolib.theory.derivations.inference import Combined, Instance
from sfolib.theory.derivations.steps import Assumed, Cited, ClosedSum, Identity, Limit, Root, Sign
from sfolib.theory.derivations.symbols import C1, C2, K, L, T, b, c1, c2, eps, gap, lr, lr_max, lrs, sigma, size, t

NEW = "[N] derived for this project"
b_star, N_star, K_star = sp.symbols("b_* N_* K_*", positive=True)

bound = C1 / (lr * K) + C2 * lr / b
steps_to = C1 * b / (lr * (eps**2 * b - C2 * lr))
floor = C2 * lr / eps**2


def constant_sums(weight) -> tuple:
    """S, V and A of T1 for T steps at constant (η, b), in closed form; `weight` is ω."""

    def over(term):
        return sp.Sum(term, (t, 0, T - 1))

    return (
        ClosedSum("S at a constant η", over(lr), lr * T, T),
        ClosedSum("V at constant η and b", over(lr**2 * weight), lr**2 * T * weight, T),
        ClosedSum("A at a constant η", over(lr * (1 - L * lr / 2)), lr * (1 - L * lr / 2) * T, T),
    )


@cache
def critical_batch_size() -> Derivation:
    """T2: at constant η the fewest gradient evaluations are needed at b* = 2C2η/ε²."""
    pair = constant_sums(1 / size)[:2]
    general = Cited("the descent bound", le(m, (c1(lr_max) + c2(lr_max) * V) / S), descent_bound(), {lrs[t]: lr})
    names = (Assumed("C1 = 2Δ/(2 − Lη_max)", eq(C1, c1(lr_max))), Assumed("C2 = Lσ²/(2 − Lη_max)", eq(C2, c2(lr_max))))
    named = Combined("with these names", le(m, (C1 + C2 * V) / S), ((general, 1), (names[0], 1 / S), (names[1], V / S)))
    constant = Instance(
        "the bound at T steps of (η, b)",
        le(m, (C1 + C2 * pair[1].value) / pair[0].value),
        named,
        {S: pair[0].value, V: pair[1].value},
    )
    real = Assumed(
        "b and the number of steps K are read as real numbers from here on, and ε is reached once the "
        "bound is: Q(K, b) is the bound",
        eq(sp.Symbol("Q"), bound),
    )
    read = Identity("the bound of T steps is Q at K = T", constant.fact.rhs, bound.subs({K: T, b: size}))
    below = Sign(
        "with b at or below C2η/ε² no number of steps is enough", gt(bound, eps**2), on=(between(b, 0, floor, "(]"),)
    )
    beyond = (above(b, floor),)
    falls = Sign(
        "above it the bound falls with every step, so ε is reached from the root on", lt(sp.Derivative(bound, K), 0)
    )
    steps = Root("the steps that are needed", bound - eps**2, above(K, 0), steps_to, on=beyond)
    samples = b * steps_to
    second = Identity(
        "curvature of N(b) = K(b) b", sp.Derivative(samples, (b, 2)), 2 * C1 * C2**2 * lr / (eps**2 * b - C2 * lr) ** 3
    )
    convex = Sign("N(b) is strictly convex where ε can be reached", gt(sp.Derivative(samples, (b, 2)), 0), on=beyond)
    best = Root(
        "the stationary point beyond the noise floor",
        sp.Derivative(samples, b),
        beyond[0],
        2 * C2 * lr / eps**2,
        name=b_star,
    )
    least_samples = Identity("N there", sp.Subs(samples, b, best.value), 4 * C1 * C2 / eps**4, name=N_star)
    least_steps = Identity("K there", sp.Subs(steps_to, b, best.value), 2 * C1 / (lr * eps**2), name=K_star)
    lowest = Sign("no other batch size needs fewer gradient evaluations", ge(samples, least_samples.rhs), on=beyond)
    unique = Root("nor as few", samples - least_samples.rhs, beyond[0], best.value)
    free = Identity(
        "N* depends on η through C1 and C2 only", sp.Derivative(sp.Subs(samples, b, best.value), lr), sp.S.Zero
    )
    return Derivation(
        "T2",
        "Critical batch size",
        UMEDA,
        (
            *pair,
            general,
            *names,
            named,
            constant,
            real,
            read,
            below,
            falls,
            steps,
            second,
            convex,
            best,
            least_samples,
            least_steps,
            lowest,
            unique,
            free,
        ),
        (below.fact, steps.fact, best.fact, least_samples.fact, least_steps.fact, lowest.fact),
        ranges=(between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]")),
    )


@cache
def price() -> Derivation:
    """T3: N* with C1 and C2 written out for η_max = η, its limit, and the learning rate of the fewest steps."""
    two = critical_batch_size()
    written = {C1: c1(lr), C2: c2(lr), lr_max: lr}
    stable = (between(lr, 0, 2 / L),)
    own = Assumed("the maximal learning rate is the one in use, η_max = η < 2/L", eq(lr_max, lr))
    samples = Cited(
        "T2's gradient evaluations with C1 and C2 at η",
        eq(N_star, 8 * gap * L * sigma**2 / ((2 - L * lr) ** 2 * eps**4)),
        two,
        written,
        on=stable,
    )
    steps = Cited(
        "T2's steps with C1 and C2 at η", eq(K_star, 4 * gap / ((2 - L * lr) * lr * eps**2)), two, written, on=stable
    )
    N_of, K_of = samples.fact.rhs, steps.fact.rhs
    low = Limit(
        "small learning rates need the fewest gradient evaluations",
        N_of,
        lr,
        sp.S.Zero,
        2 * gap * L * sigma**2 / eps**4,
    )
    factor = Identity(
        "the price of a larger η", ratio(N_of, low.value), 4 / (2 - L * lr) ** 2, name=sp.Symbol("price", positive=True)
    )
    rises = Sign("the price rises with η", gt(sp.Derivative(N_of, lr), 0), on=stable)
    fastest = Root(
        "the learning rate of the fewest steps",
        sp.Derivative(K_of, lr),
        stable[0],
        1 / L,
        name=sp.Symbol("eta_*", positive=True),
    )
    fewest = Identity("steps there", sp.Subs(K_of, lr, 1 / L), 4 * gap * L / eps**2)
    lowest = Sign("no other learning rate needs fewer", ge(K_of, fewest.rhs), on=stable)
    four = Identity("the price there", sp.Subs(factor.lhs, lr, 1 / L), sp.Integer(4))
    edge = Limit("without bound as η nears 2/L", N_of, lr, 2 / L, sp.oo, side="-")
    return Derivation(
        "T3",
        "The price of parallelism",
        NEW,
        (own, samples, steps, low, factor, rises, fastest, fewest, lowest, four, edge),
        (samples.fact, steps.fact, low.fact, factor.fact, fastest.fact, fewest.fact, lowest.fact, four.fact),
        ranges=stable,
    )
