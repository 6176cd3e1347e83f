"""T2 and T3: the critical batch size of a constant pair (η, b), and what a larger learning rate costs."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, gt, le, lt, ratio
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import UMEDA, constant_sums, m, named_bound
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import C1, C2, K, L, T, b, c1, c2, eps, gap, lr, lr_max, sigma, size

NEW = "[N] derived for this project"
b_star, N_star, K_star = sp.symbols("b_* N_* K_*", positive=True)

bound = C1 / (lr * K) + C2 * lr / b
steps_to = C1 * b / (lr * (eps**2 * b - C2 * lr))
floor = C2 * lr / eps**2
bound_of, samples = sp.Function("Q", positive=True)(K, b), sp.Function("N", positive=True)(b)
N_of_lr, K_of_lr, price_of_lr = (sp.Function(name, positive=True)(lr) for name in ("N_*", "K_*", "price"))
N_low = sp.Symbol("N_0", positive=True)


@cache
def critical_batch_size() -> Derivation:
    """T2: at constant η the fewest gradient evaluations are needed at b* = 2C2η/ε²."""
    proof = Proof("T2", "Critical batch size", UMEDA, ranges=(between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]")))
    constant = proof.state.combine(
        "the bound at T steps of (η, b)",
        le(m, C1 / (lr * T) + C2 * lr / size),
        named_bound(proof, lr),
        uses=constant_sums(proof, "SV"),
    )
    real = proof.assume(
        "b and the number of steps K are read as real numbers from here on, and ε is reached once the bound is: "
        "Q(K, b) is the bound",
        eq(bound_of, bound),
    )
    proof.state.combine("it bounds min E‖∇f‖² at K = T", le(m, bound_of.func(T, size)), constant, uses=(real,))
    below = proof.sign(
        "with b at or below C2η/ε² no number of steps is enough",
        gt(bound_of, eps**2),
        on=(between(b, 0, floor, "(]"),),
        uses=(real,),
    )
    proof.state.combine("written out", gt(bound, eps**2), below - real, on=below.on)
    beyond = (above(b, floor),)
    proof.state.sign(
        "above it the bound falls with every step, so ε is reached from the root on",
        lt(sp.Derivative(bound_of, K), 0),
        uses=(real,),
    )
    steps = proof.state.root(
        "the steps that are needed", bound_of - eps**2, above(K, 0), steps_to, on=beyond, uses=(real,)
    )
    product = proof.assume("a step costs b gradient evaluations: N(b) = K(b) b", eq(samples, K * b))
    needed = proof.combine("N(b)", eq(samples, b * steps_to), product + b * steps, on=beyond)
    curved = proof.identity(
        "its curvature",
        sp.Derivative(samples, (b, 2)),
        2 * C1 * C2**2 * lr / (eps**2 * b - C2 * lr) ** 3,
        on=beyond,
        uses=(needed,),
    )
    positive = proof.sign("which is above 0", gt(curved.rhs, 0), on=beyond)
    proof.state.combine(
        "so N(b) is strictly convex where ε can be reached",
        gt(sp.Derivative(samples, (b, 2)), 0),
        curved + positive,
        on=beyond,
    )
    best = proof.state.root(
        "the stationary point beyond the noise floor",
        sp.Derivative(samples, b),
        beyond[0],
        2 * C2 * lr / eps**2,
        name=b_star,
        uses=(needed,),
    )
    at_best = {"uses": (best, needed)}
    fewest = proof.state.identity("N there", samples.func(b_star), 4 * C1 * C2 / eps**4, name=N_star, **at_best)
    proof.state.identity("K there", samples.func(b_star) / b_star, 2 * C1 / (lr * eps**2), name=K_star, **at_best)
    proof.state.sign(
        "no other batch size needs fewer gradient evaluations", ge(samples, N_star), on=beyond, uses=(fewest, needed)
    )
    proof.state.root(
        "nor as few",
        samples - N_star,
        beyond[0],
        b_star,
        name=sp.Symbol("b_fewest", positive=True),
        uses=(best, fewest, needed),
    )
    proof.state.identity(
        "N* depends on η through C1 and C2 only", sp.Derivative(samples.func(best.value), lr), sp.S.Zero, uses=(needed,)
    )
    return proof.done()


@cache
def price() -> Derivation:
    """T3: N* with C1 and C2 written out for η_max = η, its limit, and the learning rate of the fewest steps."""
    stable = (between(lr, 0, 2 / L),)
    proof = Proof("T3", "The price of parallelism", NEW, ranges=stable)
    two = critical_batch_size()
    samples = proof.state.cite(
        "T2's gradient evaluations with C1 and C2 at η: the maximal learning rate is the one in use, η_max = η < 2/L",
        eq(N_of_lr, 8 * gap * L * sigma**2 / ((2 - L * lr) ** 2 * eps**4)),
        two,
        {C1: c1(lr), C2: c2(lr), lr_max: lr, N_star: N_of_lr},
        on=stable,
    )
    steps = proof.state.cite(
        "and its steps",
        eq(K_of_lr, 4 * gap / ((2 - L * lr) * lr * eps**2)),
        two,
        {C1: c1(lr), lr_max: lr, K_star: K_of_lr},
        on=stable,
    )
    low = proof.state.limit(
        "small learning rates need the fewest gradient evaluations",
        N_of_lr,
        lr,
        sp.S.Zero,
        2 * gap * L * sigma**2 / eps**4,
        uses=(samples,),
    )
    named = proof.assume("a name for them", eq(N_low, low.fact.lhs))
    least = proof.combine("that is", eq(N_low, low.value), named + low)
    factor = proof.state.identity(
        "the price of a larger η", ratio(N_of_lr, N_low), 4 / (2 - L * lr) ** 2, name=price_of_lr, uses=(least, samples)
    )
    proof.state.sign("the price rises with η", gt(sp.Derivative(price_of_lr, lr), 0), on=stable, uses=(factor,))
    fastest = proof.state.root(
        "the learning rate of the fewest steps",
        sp.Derivative(K_of_lr, lr),
        stable[0],
        1 / L,
        name=sp.Symbol("eta_*", positive=True),
        uses=(steps,),
    )
    fewest = proof.state.identity(
        "steps there", K_of_lr.func(fastest.name), 4 * gap * L / eps**2, uses=(fastest, steps)
    )
    proof.state.sign("no other learning rate needs fewer", ge(K_of_lr, fewest.rhs), on=stable, uses=(steps,))
    proof.state.identity("the price there", price_of_lr.func(fastest.name), sp.Integer(4), uses=(fastest, factor))
    proof.state.limit("without bound as η nears 2/L", N_of_lr, lr, 2 / L, sp.oo, side="-", uses=(samples,))
    return proof.done()
