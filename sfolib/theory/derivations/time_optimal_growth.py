"""T12: what is optimal on the front when a step has a price, and the growth that each objective asks for."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, lt, ratio
from sfolib.theory.derivations.critical_batch_size import NEW
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.stagewise_growth import stagewise
from sfolib.theory.derivations.symbols import K, L, b, delta, eps, gamma, lr, lr_max, r, sigma
from sfolib.theory.derivations.tradeoff_front import (
    B,
    B_crit,
    K_least,
    K_min,
    N,
    N_min,
    batch_best,
    front,
    lr_best,
    stable,
)

kappa, u = sp.symbols("kappa u", positive=True)


@cache
def time_optimum() -> Derivation:
    """T12: on the front, what is optimal when a step takes τ_0 + τ_1 b, and the growth that each objective asks for."""
    capped = (between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]"))
    proof = Proof(
        "T12",
        "The optimal growth depends on what a step costs",
        NEW,
        ranges=(*capped, between(gamma * lr, 0, lr_max, "(]")),
    )
    eleven, four = front(), stagewise()
    t0, t1 = sp.symbols("tau_0 tau_1", positive=True)
    proof.cite("the front", eq((K / K_min - 1) * (N / N_min - 1), 1), eleven)
    samples = proof.root("on it, with u = K/K_min − 1", u * (N / N_min - 1) - 1, above(N, 0), N_min * (1 + 1 / u))
    seconds = t0 * K_min * (1 + u) + t1 * samples.value
    u_best = sp.sqrt(t1 * N_min / (t0 * K_min))
    proof.root("the time τ_0 K + τ_1 N is stationary at", sp.Derivative(seconds, u), above(u, 0), u_best, stated=True)
    least = (sp.sqrt(t0 * K_min) + sp.sqrt(t1 * N_min)) ** 2
    gap_to = proof.identity("how far it is above its value there", seconds - least, t0 * K_min * (u - u_best) ** 2 / u)
    never = proof.sign("never below 0", ge(gap_to.rhs, 0))
    proof.combine("so this is the least time", ge(seconds, least), (gap_to, 1), (never, 1), stated=True)
    ratio_best = proof.identity(
        "since N_min = B K_min",
        sp.Subs(u_best, N_min, B * K_min),
        sp.sqrt(B * t1 / t0),
        name=sp.Symbol("u_best", positive=True),
        stated=True,
    )
    u_eps = ratio_best.rhs.subs(B, B_crit)
    batch_size = proof.identity(
        "its batch size b = B/u", ratio(B_crit, u_eps), sp.sqrt(t0 / t1) * sigma / eps, name=batch_best, stated=True
    )
    rule = proof.cite("the front's learning rate", eq(sp.Function("eta_best")(b), 1 / (L * (1 + B_crit / b))), eleven)
    rate = proof.identity(
        "at that batch size",
        sp.Subs(rule.fact.rhs, b, batch_size.rhs),
        1 / (L * (1 + u_eps)),
        name=lr_best,
        stated=True,
    )
    finer = {eps: eps / sp.sqrt(r)}
    proof.identity(
        "counting time: from ε² to ε²/r the batch grows by",
        ratio(batch_size.rhs.subs(finer), batch_size.rhs),
        sp.sqrt(r),
        name=sp.Symbol("delta_time"),
        stated=True,
    )
    proof.limit(
        "and the learning rate shrinks, for small ε by (the direction of Seesaw, arXiv 2510.14717)",
        rate.rhs.subs(finer) / rate.rhs,
        eps,
        sp.S.Zero,
        1 / sp.sqrt(r),
        stated=True,
    )
    proof.identity(
        "counting gradient evaluations at a fixed κ = b/B, b grows by",
        ratio(kappa * B_crit.subs(finer), kappa * B_crit),
        r,
        name=sp.Symbol("delta_samples"),
        stated=True,
    )
    proof.identity(
        "and η stays",
        sp.Subs(rule.fact.rhs, b, kappa * B_crit),
        1 / (L * (1 + 1 / kappa)),
        name=sp.Symbol("eta_samples"),
        stated=True,
    )
    proof.identity("N/N_min there (u = 1/κ)", sp.Subs(samples.value / N_min, u, 1 / kappa), 1 + kappa, stated=True)
    proof.limit("counting steps only: b without bound, η to", rule.fact.rhs, b, sp.oo, 1 / L, side="-", stated=True)
    proof.limit("and K to K_min", K_least * (1 + B_crit / b), b, sp.oo, K_least, side="-", stated=True)
    paper = proof.cite("the published growth at equal steps a stage, δ = γ²", eq(delta, gamma**2), four, on=capped)
    follows = proof.cite(
        "along the critical batch size, δ = γr, which makes it (r², r)", eq(r, delta / gamma), four, on=capped
    )
    proof.combine("γ there", eq(gamma, r), (paper, -1 / gamma), (follows, -1), stated=True)
    own = proof.root(
        "the front's κ at learning rate η",
        lr - 1 / (L * (1 + 1 / kappa)),
        above(kappa, 0),
        L * lr / (1 - L * lr),
        on=(between(lr, 0, 1 / L),),
        stated=True,
    )
    theirs = 2 * L * lr / (2 - L * lr)
    proof.identity(
        "the critical batch size in units of B",
        ratio(2 * L * sigma**2 * lr / ((2 - L * lr) * eps**2), B_crit),
        theirs,
        stated=True,
    )
    proof.limit("joins the front while η ≪ 1/L", theirs / own.value, lr, sp.S.Zero, sp.S.One, stated=True)
    proof.sign(
        "walks towards fewer steps (K*/K_min falls with η up to 1/L)",
        lt(sp.Derivative(2 / ((2 - L * lr) * L * lr), lr), 0),
        on=(between(lr, 0, 1 / L),),
        stated=True,
    )
    proof.cite(
        "and leaves it by",
        eq(sp.Function("overhead")(lr), 1 + (L * lr) ** 2 / (2 - L * lr) ** 2),
        eleven,
        on=stable,
        stated=True,
    )
    return proof.done()
