"""T4: growth from stage to stage along the critical batch size."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ratio
from sfolib.theory.derivations.critical_batch_size import b_star, critical_batch_size
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import UMEDA
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import C1, C2, L, delta, eps, gamma, lr, lr_max, r, tau

e = sp.Symbol("e", positive=True)


@cache
def stagewise() -> Derivation:
    """T4: growth factors of batch, learning rate, steps and gradient evaluations along the critical batch size,
    with C1 and C2 those of one η_max for the whole run."""
    proof = Proof(
        "T4",
        "Stage-wise growth",
        UMEDA,
        ranges=(between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]"), between(gamma * lr, 0, lr_max, "(]")),
    )
    two = critical_batch_size()
    aim = {eps: eps / sp.sqrt(r), lr: gamma * lr}
    here = proof.cite("this stage's critical batch size", eq(b_star, 2 * C2 * lr / eps**2), two)
    then = proof.cite(
        "the next stage aims at ε²/r with learning rate γη", eq(b_star, 2 * C2 * gamma * lr * r / eps**2), two, aim
    )
    K, N = sp.symbols("K_* N_*", positive=True)
    k_here = proof.cite("its steps", eq(K, 2 * C1 / (lr * eps**2)), two)
    k_then = proof.cite("the next stage's steps", eq(K, 2 * C1 * r / (gamma * lr * eps**2)), two, aim)
    n_here = proof.cite("its gradient evaluations", eq(N, 4 * C1 * C2 / eps**4), two)
    n_then = proof.cite("the next stage's gradient evaluations", eq(N, 4 * C1 * C2 * r**2 / eps**4), two, aim)
    proof.identity("growth of the batch", ratio(then.fact.rhs, here.fact.rhs), gamma * r, name=delta, stated=True)
    steps = proof.identity(
        "growth of the number of steps", ratio(k_then.fact.rhs, k_here.fact.rhs), r / gamma, name=tau, stated=True
    )
    proof.identity(
        "growth of the gradient evaluations", ratio(n_then.fact.rhs, n_here.fact.rhs), r**2, name=e, stated=True
    )
    speed = proof.root("in terms of δ and γ: r", gamma * r - delta, above(r, 0), delta / gamma, stated=True)
    tau_of = proof.combine(
        "so the steps grow by", eq(tau, delta / gamma**2), (steps, 1), (speed, 1 / gamma), stated=True
    )
    e_of = proof.identity(
        "and the gradient evaluations by", sp.Subs(r**2, r, delta / gamma), (delta / gamma) ** 2, stated=True
    )
    proof.identity("which is batch growth times step growth", sp.Mul(delta, tau_of.fact.rhs, evaluate=False), e_of.rhs)
    proof.root("equal numbers of steps a stage, τ = 1", delta / gamma**2 - 1, above(delta, 0), gamma**2, stated=True)
    proof.root(
        "equal gradient evaluations a stage, e = 1",
        (delta / gamma) ** 2 - 1,
        above(delta, 0),
        gamma,
        name=sp.Symbol("delta_e", positive=True),
        stated=True,
    )
    proof.identity(
        "which aims at the same ε in every stage: no progress in the bound",
        sp.Subs(delta / gamma, delta, gamma),
        sp.S.One,
        name=sp.Symbol("r_e", positive=True),
        stated=True,
    )
    return proof.done()
