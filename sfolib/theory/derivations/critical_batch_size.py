"""T2 and T3: the critical batch size of a constant pair (η, b), and what a larger learning rate costs."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, gt, le, lt, ratio
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import UMEDA, S, V, descent_bound, m
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import C1, C2, K, L, T, b, c1, c2, eps, gap, lr, lr_max, lrs, sigma, size, t

NEW = "[N] derived for this project"
b_star, N_star, K_star = sp.symbols("b_* N_* K_*", positive=True)

bound = C1 / (lr * K) + C2 * lr / b
steps_to = C1 * b / (lr * (eps**2 * b - C2 * lr))
floor = C2 * lr / eps**2


def constant_sums(proof, weight, which: str) -> list:
    """Of S, V and A of T1 those in `which`, for T steps at constant (η, b), in closed form; `weight` is ω."""
    each = {"S": lr, "V": lr**2 * weight, "A": lr * (1 - L * lr / 2)}
    words = {"S": "S at a constant η", "V": "V at constant η and b", "A": "A at a constant η"}
    return [proof.closed_sum(words[k], sp.Sum(each[k], (t, 0, T - 1)), each[k] * T, T) for k in which]


@cache
def critical_batch_size() -> Derivation:
    """T2: at constant η the fewest gradient evaluations are needed at b* = 2C2η/ε²."""
    proof = Proof("T2", "Critical batch size", UMEDA, ranges=(between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]")))
    pair = constant_sums(proof, 1 / size, "SV")
    general = proof.cite("the descent bound", le(m, (c1(lr_max) + c2(lr_max) * V) / S), descent_bound(), {lrs[t]: lr})
    names = (
        proof.assume("C1 = 2Δ/(2 − Lη_max)", eq(C1, c1(lr_max))),
        proof.assume("C2 = Lσ²/(2 − Lη_max)", eq(C2, c2(lr_max))),
    )
    named = proof.combine(
        "with these names", le(m, (C1 + C2 * V) / S), (general, 1), (names[0], 1 / S), (names[1], V / S)
    )
    constant = proof.instance(
        "the bound at T steps of (η, b)",
        le(m, (C1 + C2 * pair[1].value) / pair[0].value),
        named,
        {S: pair[0].value, V: pair[1].value},
    )
    proof.assume(
        "b and the number of steps K are read as real numbers from here on, and ε is reached once the "
        "bound is: Q(K, b) is the bound",
        eq(sp.Symbol("Q"), bound),
    )
    proof.identity("the bound of T steps is Q at K = T", constant.fact.rhs, bound.subs({K: T, b: size}))
    proof.sign(
        "with b at or below C2η/ε² no number of steps is enough",
        gt(bound, eps**2),
        on=(between(b, 0, floor, "(]"),),
        stated=True,
    )
    beyond = (above(b, floor),)
    proof.sign(
        "above it the bound falls with every step, so ε is reached from the root on", lt(sp.Derivative(bound, K), 0)
    )
    proof.root("the steps that are needed", bound - eps**2, above(K, 0), steps_to, on=beyond, stated=True)
    samples = b * steps_to
    proof.identity(
        "curvature of N(b) = K(b) b", sp.Derivative(samples, (b, 2)), 2 * C1 * C2**2 * lr / (eps**2 * b - C2 * lr) ** 3
    )
    proof.sign("N(b) is strictly convex where ε can be reached", gt(sp.Derivative(samples, (b, 2)), 0), on=beyond)
    best = proof.root(
        "the stationary point beyond the noise floor",
        sp.Derivative(samples, b),
        beyond[0],
        2 * C2 * lr / eps**2,
        name=b_star,
        stated=True,
    )
    least_samples = proof.identity(
        "N there", sp.Subs(samples, b, best.value), 4 * C1 * C2 / eps**4, name=N_star, stated=True
    )
    proof.identity("K there", sp.Subs(steps_to, b, best.value), 2 * C1 / (lr * eps**2), name=K_star, stated=True)
    proof.sign(
        "no other batch size needs fewer gradient evaluations", ge(samples, least_samples.rhs), on=beyond, stated=True
    )
    proof.root("nor as few", samples - least_samples.rhs, beyond[0], best.value)
    proof.identity(
        "N* depends on η through C1 and C2 only", sp.Derivative(sp.Subs(samples, b, best.value), lr), sp.S.Zero
    )
    return proof.done()


@cache
def price() -> Derivation:
    """T3: N* with C1 and C2 written out for η_max = η, its limit, and the learning rate of the fewest steps."""
    stable = (between(lr, 0, 2 / L),)
    proof = Proof("T3", "The price of parallelism", NEW, ranges=stable)
    two = critical_batch_size()
    written = {C1: c1(lr), C2: c2(lr), lr_max: lr}
    proof.assume("the maximal learning rate is the one in use, η_max = η < 2/L", eq(lr_max, lr))
    samples = proof.cite(
        "T2's gradient evaluations with C1 and C2 at η",
        eq(N_star, 8 * gap * L * sigma**2 / ((2 - L * lr) ** 2 * eps**4)),
        two,
        written,
        on=stable,
        stated=True,
    )
    steps = proof.cite(
        "T2's steps with C1 and C2 at η",
        eq(K_star, 4 * gap / ((2 - L * lr) * lr * eps**2)),
        two,
        written,
        on=stable,
        stated=True,
    )
    N_of, K_of = samples.fact.rhs, steps.fact.rhs
    low = proof.limit(
        "small learning rates need the fewest gradient evaluations",
        N_of,
        lr,
        sp.S.Zero,
        2 * gap * L * sigma**2 / eps**4,
        stated=True,
    )
    factor = proof.identity(
        "the price of a larger η",
        ratio(N_of, low.value),
        4 / (2 - L * lr) ** 2,
        name=sp.Symbol("price", positive=True),
        stated=True,
    )
    proof.sign("the price rises with η", gt(sp.Derivative(N_of, lr), 0), on=stable)
    proof.root(
        "the learning rate of the fewest steps",
        sp.Derivative(K_of, lr),
        stable[0],
        1 / L,
        name=sp.Symbol("eta_*", positive=True),
        stated=True,
    )
    fewest = proof.identity("steps there", sp.Subs(K_of, lr, 1 / L), 4 * gap * L / eps**2, stated=True)
    proof.sign("no other learning rate needs fewer", ge(K_of, fewest.rhs), on=stable, stated=True)
    proof.identity("the price there", sp.Subs(factor.lhs, lr, 1 / L), sp.Integer(4), stated=True)
    proof.limit("without bound as η nears 2/L", N_of, lr, 2 / L, sp.oo, side="-")
    return proof.done()
