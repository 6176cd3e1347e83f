"""T17: what is optimal for every ε on the way, what for a horizon, and what growing η and b together costs."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, at_least, between, eq, gt, le, lt, ratio
from sfolib.theory.derivations.critical_batch_size import NEW
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.late_ramp import best as best_b
from sfolib.theory.derivations.late_ramp import late_ramp
from sfolib.theory.derivations.late_ramp import room as R_16
from sfolib.theory.derivations.linear_noise import C_limit, b_best, lam, linear_noise, p, variance
from sfolib.theory.derivations.local_front import b_local, local_front
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.steps import Step
from sfolib.theory.derivations.symbols import G2, K, M, Q, T, b, eps, gamma, j, lr, t

lr_0, path, progress = sp.symbols("eta_0 rho s", positive=True)
batch, steps, b_room, rho_small = sp.symbols("b_s K_s b_R rho_0", positive=True)
K_joint, K_flat = sp.symbols("K_joint K_flat", positive=True)
stable = between(lam, 0, 2 / lr)


def _criteria(proof) -> Step:
    """The noise in f, the noise in ‖∇f‖², and how long each is remembered."""
    steady = proof.cite(
        "T15's stationary covariance in one coordinate",
        eq(C_limit, lr * variance / (b * lam * (2 - lr * lam))),
        linear_noise(),
        on=(stable,),
    )
    proof.state.limit(
        "the noise in f, λC/2, for small ηλ: blind to λ, summed η tr Σ/(4b)",
        lam * C_limit / (2 * lr),
        lr,
        sp.S.Zero,
        variance / (4 * b),
        on=(stable,),
        uses=(steady,),
    )
    proof.state.limit(
        "and in ‖∇f‖², λ²C: weighed by λ, summed ηQ/(2b)",
        lam**2 * C_limit / lr,
        lr,
        sp.S.Zero,
        lam * variance / (2 * b),
        on=(stable,),
        uses=(steady,),
    )
    return steady


def _in_steps(proof) -> None:
    """T13: along s = 0 gradient evaluations do not depend on η and steps do; growing η geometrically."""
    slope = proof.cite(
        "T13: to leading order s = 0 keeps b/η at", eq(sp.Limit(b_local / lr, lr, sp.S.Zero), Q / G2), local_front()
    )
    along = proof.assume("ρ is what it keeps, a function of the place", eq(path, slope.fact.lhs))
    place = proof.combine("so it depends on the place alone", eq(path, Q / G2), along + slope)
    followed = proof.assume("a run that follows it, however its η grows, has", eq(batch, lr * path))
    pace = proof.assume("steps for one unit of progress Σ η", eq(steps, 1 / lr))
    proof.state.identity(
        "its gradient evaluations for one unit of progress do not depend on η",
        steps * batch,
        Q / G2,
        uses=(place, followed, pace),
    )
    proof.state.sign(
        "its steps do: joint growth from a low η costs steps", lt(sp.Derivative(steps, lr), 0), uses=(pace,)
    )

    grows, k, x, up = (above(gamma, 1),), *sp.symbols("k x u", positive=True)
    made = proof.assume(
        "M + 1 stages of k steps, η_j = η_0 γ^j: their progress", eq(progress, sp.Sum(k * lr_0 * gamma**j, (j, 0, M)))
    )
    joint = proof.assume("their steps", eq(K_joint, (M + 1) * k))
    flat = proof.assume(
        "steps for the same progress at their largest η from the start", eq(K_flat, progress / (lr_0 * gamma**M))
    )
    closed = proof.closed_sum(
        "geometric", sp.Sum(gamma**j, (j, 0, M)), (gamma ** (M + 1) - 1) / (gamma - 1), M, start=0
    )
    total = proof.combine("the progress", eq(progress, k * lr_0 * closed.value), made + k * lr_0 * closed, on=grows)
    over = proof.state.identity(
        "joint growth takes more steps by the factor",
        ratio(K_joint, K_flat),
        (M + 1) * (gamma - 1) * gamma**M / (gamma ** (M + 1) - 1),
        name=sp.Function("overhead")(M),
        uses=(total, joint, flat),
        on=grows,
    )
    last = proof.sign("no stage is after the last", le(j + 1, M + 1), on=(at_least(M, j),))
    power = proof.map(
        "so no η is above the last",
        le(gamma**j, gamma**M),
        last,
        sp.Lambda(x, gamma ** (x - 1)),
        on=(*grows, at_least(M, j)),
    )
    added = proof.total(
        "summed", le(sp.Sum(gamma**j, (j, 0, M)), sp.Sum(gamma**M, (j, 0, M))), power, (j, 0, M), on=grows
    )
    count = proof.closed_sum("counting stages", sp.Sum(sp.S.One, (j, 0, M)), M + 1, M, start=0)
    proof.state.combine(
        "which is never below 1",
        le(K_flat, K_joint),
        -flat - made / (lr_0 * gamma**M) + joint + k / gamma**M * added - k * count,
        on=grows,
    )
    rate = proof.assume("with γ = 1 + u", eq(gamma, 1 + up))
    proof.state.limit(
        "and in the long run grows like the number of stages, times 1 − 1/γ",
        over.fact.lhs.func(x) / (x + 1),
        x,
        sp.oo,
        up / (1 + up),
        uses=(rate, over),
    )


def _in_evaluations(proof, steady) -> None:
    """T15: to second order a larger η needs more gradient evaluations for the same noise."""
    room = sp.Symbol("R", positive=True)
    needed = proof.root(
        "T15: the batch that leaves noise R in ‖∇f‖², one coordinate",
        lam**2 * C_limit - room,
        above(b, 0),
        lr * lam * variance / (room * (2 - lr * lam)),
        name=b_room,
        on=(stable,),
        uses=(steady,),
    )
    unit = proof.limit(
        "for one unit of progress at a small η, b/η is",
        b_room / lr,
        lr,
        sp.S.Zero,
        lam * variance / (2 * room),
        on=(stable,),
        uses=(needed,),
    )
    named = proof.assume("a name for it", eq(rho_small, unit.fact.lhs))
    small_value = proof.combine("that is", eq(rho_small, unit.value), named + unit, on=(stable,))
    price = proof.state.identity(
        "at any η it is larger by",
        ratio(b_room / lr, rho_small),
        2 / (2 - lr * lam),
        name=sp.Function("price")(lr),
        uses=(needed, small_value),
        on=(stable,),
    )
    proof.state.sign(
        "which rises with η (T3 has its square)", gt(sp.Derivative(price.name, lr), 0), on=(stable,), uses=(price,)
    )


def _any_time(proof) -> None:
    """Best at every ε on the way, and best for one horizon, against the best constant batch."""
    scale, x, tau, tau0, q, A, room = sp.symbols("c x tau tau_0 q A R", positive=True)
    best = proof.cite("T15's batch for ε", eq(b_best, (1 + p) * lr * Q / (2 * p * eps**2)), linear_noise())
    goal = proof.assume(
        "any-time: after x steps ε² is what they can reach, β/(1 − p/(1 + p)) with β = c x^−p",
        eq(eps, sp.sqrt((1 + p) * scale * x**-p)),
    )
    batch_at = proof.state.identity(
        "so the batch grows like",
        b_best,
        lr * Q * x**p / (2 * p * scale),
        name=sp.Function("b_any")(x),
        uses=(goal, best),
    )
    proof.state.identity(
        "any-time growth up to K needs 1/(1 + p) of the gradient evaluations of the constant batch that is best for K",
        sp.Integral(batch_at.name, (x, 0, K)),
        K * batch_at.name.func(K) / (1 + p),
        uses=(batch_at,),
    )
    kernel = sp.Function("kappa")(tau)
    family = proof.assume(
        "horizon: T16's kernel, τ steps before the end, a power above 2, sums read as integrals",
        eq(kernel, A * (tau + tau0) ** -(2 + q)),
    )
    roots, squares = sp.symbols("I_root I_kappa", positive=True)
    root_sum = proof.identity(
        "the sum of √κ stays bounded",
        sp.Integral(sp.sqrt(kernel), (tau, 0, sp.oo)),
        2 * sp.sqrt(A) * tau0 ** (-q / 2) / q,
        name=roots,
        uses=(family,),
    )
    all_sum = proof.identity(
        "and of κ", sp.Integral(kernel, (tau, 0, sp.oo)), A * tau0 ** -(1 + q) / (1 + q), name=squares, uses=(family,)
    )
    T_b = sp.Sum(best_b[t], (t, 0, T - 1))
    S_root = sp.Symbol("S_root", positive=True)
    water = proof.cite(
        "T16: gradient evaluations of the best schedule that leaves noise R",
        eq(T_b, roots**2 / room),
        late_ramp(),
        {S_root: roots, R_16: room},
    )
    ramp, flat = sp.symbols("N_ramp N_flat", positive=True)
    named = proof.assume("a name for them", eq(ramp, T_b))
    ramped = proof.combine("that is", eq(ramp, roots**2 / room), named + water)
    constant = proof.assume("the constant batch that leaves R over K steps (T16)", eq(flat, K * squares / room))
    part = proof.state.identity(
        "the best schedule for a horizon needs the part",
        ratio(ramp, flat),
        4 * (1 + q) * tau0 / (q**2 * K),
        name=sp.Function("part")(K),
        uses=(root_sum, all_sum, ramped, constant),
    )
    proof.state.limit(
        "which any-time growth, a fixed part of it, cannot follow", part.name, K, sp.oo, sp.S.Zero, uses=(part,)
    )


@cache
def joint_growth() -> Derivation:
    """T17: the two criteria, and joint growth of η and b in the terms of T13 and T15."""
    proof = Proof("T17", "Two criteria, two answers, and what joint growth costs", NEW)
    steady = _criteria(proof)
    _in_steps(proof)
    _in_evaluations(proof, steady)
    _any_time(proof)
    return proof.done()
