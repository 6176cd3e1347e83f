"""T12: what is optimal on the front when a step has a price, and the growth that each objective asks for."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, lt, ratio
from sfolib.theory.derivations.critical_batch_size import NEW, K_of_lr, b_star, critical_batch_size, price
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.stagewise_growth import delta_even, stagewise
from sfolib.theory.derivations.steps import Step
from sfolib.theory.derivations.symbols import C2, K, L, b, c2, delta, eps, gamma, gap, lr, lr_max, r, sigma
from sfolib.theory.derivations.tradeoff_front import (
    B,
    B_crit,
    K_least,
    K_min,
    K_of_b,
    N_least,
    N_min,
    N_of_K,
    b_of_K,
    front,
    lr_of_b,
    over_of_lr,
    stable,
)

kappa, u, N = sp.symbols("kappa u N", positive=True)
t0, t1 = sp.symbols("tau_0 tau_1", positive=True)
u_time, u_best, r_even = sp.symbols("u_time u_best r_even", positive=True)
time_of = sp.Function("time", positive=True)(u)
b_time, lr_time, B_of, b_kappa = (
    sp.Function(name, positive=True)(eps) for name in ("b_time", "eta_time", "B", "b_kappa")
)
lr_kappa, kappa_front, kappa_two = (
    sp.Function(name, positive=True)(of) for name, of in (("eta_kappa", kappa), ("kappa_front", lr), ("kappa_two", lr))
)
finer = eps / sp.sqrt(r)


def _least_time(proof, eleven, steps, fewest) -> Step:
    """Where τ0 K + τ1 N is least on the front, and how that place moves with ε."""
    curve = proof.cite(
        "the front", eq((K / K_min - 1) * (N / N_min - 1), 1), eleven, {N_of_K: N}, on=(above(K, K_least),)
    )
    place = proof.assume("u > 0 tells the place on it", eq(K, K_least * (1 + u)))
    samples = proof.combine("N there", eq(N, N_min * (1 + 1 / u)), N_min / u * curve, uses=(steps, place))
    taken = proof.assume("a step of b gradient evaluations takes τ_0 + τ_1 b", eq(time_of, t0 * K + t1 * N))
    written = (steps, place, samples, taken)
    stationary = proof.state.root(
        "the time is stationary at",
        sp.Derivative(time_of, u),
        above(u, 0),
        sp.sqrt(t1 * N_min / (t0 * K_min)),
        name=u_time,
        uses=written,
    )
    least = (sp.sqrt(t0 * K_min) + sp.sqrt(t1 * N_min)) ** 2
    over = proof.identity(
        "it is above its value there by",
        time_of - least,
        t0 * K_min * (u - u_time) ** 2 / u,
        uses=(*written, stationary),
    )
    never = proof.sign("which is never below 0", ge(over.rhs, 0))
    proof.state.combine("so this is the least time", ge(time_of, least), over + never)
    best = proof.state.identity(
        "in terms of ε", u_time, sp.sqrt(t1 / t0) * sigma / eps, name=u_best, uses=(steps, fewest, stationary)
    )
    batch = proof.cite("T11's batch", eq(b_of_K, B_crit / (K / K_least - 1)), eleven, on=(above(K, K_least),))
    size = proof.state.identity(
        "there",
        b_of_K.func(K_min * (1 + u_best)),
        sp.sqrt(t0 / t1) * sigma / eps,
        name=b_time,
        uses=(batch, steps, best),
    )
    return size


@cache
def time_optimum() -> Derivation:
    """T12: on the front, what is optimal when a step takes τ_0 + τ_1 b, and the growth that each objective asks for."""
    capped = (between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]"), between(gamma * lr, 0, lr_max, "(]"))
    proof = Proof("T12", "The optimal growth depends on what a step costs", NEW, ranges=capped)
    eleven, four = front(), stagewise()
    steps = proof.cite("T11: the front begins at", eq(K_min, K_least), eleven)
    fewest = proof.cite("and comes down to", eq(N_min, N_least), eleven)
    rule = proof.cite("its learning rate", eq(lr_of_b, 1 / (L * (1 + B_crit / b))), eleven)
    pace = proof.cite("its steps", eq(K_of_b, K_least * (1 + B_crit / b)), eleven)
    scale = proof.cite("its critical batch size", eq(B_of, B_crit), eleven, {B: B_of})

    size = _least_time(proof, eleven, steps, fewest)
    rate = proof.state.identity(
        "and the learning rate",
        lr_of_b.func(b_time),
        1 / (L * (1 + sp.sqrt(t1 / t0) * sigma / eps)),
        name=lr_time,
        uses=(rule, size),
    )
    proof.state.identity(
        "counting time: from ε² to ε²/r the batch grows by",
        ratio(b_time.func(finer), b_time),
        sp.sqrt(r),
        name=sp.Symbol("delta_time"),
        uses=(size,),
    )
    proof.state.limit(
        "and the learning rate shrinks, for small ε by (the direction of Seesaw, arXiv 2510.14717)",
        lr_time.func(finer) / lr_time,
        eps,
        sp.S.Zero,
        1 / sp.sqrt(r),
        uses=(rate,),
    )

    fixed = proof.assume("counting gradient evaluations: a fixed κ = b/B", eq(b_kappa, kappa * B_of))
    proof.state.identity(
        "b grows by", ratio(b_kappa.func(finer), b_kappa), r, name=sp.Symbol("delta_samples"), uses=(scale, fixed)
    )
    stays = proof.state.identity(
        "and η stays", lr_of_b.func(b_kappa), 1 / (L * (1 + 1 / kappa)), name=lr_kappa, uses=(rule, scale, fixed)
    )
    proof.state.identity(
        "N/N_min there", b_kappa * K_of_b.func(b_kappa) / N_min, 1 + kappa, uses=(fewest, pace, scale, fixed)
    )
    proof.state.limit("counting steps only: b without bound, η to", lr_of_b, b, sp.oo, 1 / L, side="-", uses=(rule,))
    proof.state.limit("and K to K_min", K_of_b - K_min, b, sp.oo, sp.S.Zero, side="-", uses=(steps, pace))

    paper = proof.cite("the published growth at equal steps a stage", eq(delta_even, gamma**2), four)
    follows = proof.cite(
        "along the critical batch size, δ = γr", eq(r_even, delta_even / gamma), four, {delta: delta_even, r: r_even}
    )
    proof.state.combine("which makes it (r², r): γ there", eq(gamma, r_even), -follows, uses=(paper,))
    own = proof.state.root(
        "the front's κ at learning rate η",
        lr - lr_kappa,
        above(kappa, 0),
        L * lr / (1 - L * lr),
        name=kappa_front,
        on=(between(lr, 0, 1 / L),),
        uses=(stays,),
    )
    critical = proof.cite(
        "T2's critical batch size with η_max = η",
        eq(b_star, 2 * c2(lr) * lr / eps**2),
        critical_batch_size(),
        {lr_max: lr, C2: c2(lr)},
        on=stable,
    )
    theirs = proof.state.identity(
        "in units of B",
        ratio(b_star, B_of),
        2 * L * lr / (2 - L * lr),
        name=kappa_two,
        on=stable,
        uses=(scale, critical),
    )
    proof.state.limit(
        "joins the front while η ≪ 1/L", kappa_two / kappa_front, lr, sp.S.Zero, sp.S.One, uses=(own, theirs)
    )
    taken = proof.cite("T3's steps", eq(K_of_lr, 4 * gap / ((2 - L * lr) * lr * eps**2)), price(), on=stable)
    proof.state.sign(
        "walks towards fewer steps as η grows up to 1/L",
        lt(sp.Derivative(K_of_lr, lr), 0),
        on=(between(lr, 0, 1 / L),),
        uses=(taken,),
    )
    proof.state.cite("and leaves it by", eq(over_of_lr, 1 + (L * lr) ** 2 / (2 - L * lr) ** 2), eleven, on=stable)
    return proof.done()
