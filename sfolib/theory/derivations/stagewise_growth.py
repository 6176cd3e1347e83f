"""T4: growth from stage to stage along the critical batch size."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ratio
from sfolib.theory.derivations.critical_batch_size import K_star, N_star, b_star, critical_batch_size
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import UMEDA
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import C1, C2, L, delta, eps, gamma, lr, lr_max, r, tau

e, delta_even = sp.symbols("e delta_even", positive=True)


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
    b_next, K_next, N_next = sp.symbols("b_next K_next N_next", positive=True)
    here = proof.cite("this stage's critical batch size", eq(b_star, 2 * C2 * lr / eps**2), two)
    then = proof.cite(
        "the next stage aims at ε²/r with learning rate γη",
        eq(b_next, 2 * C2 * gamma * lr * r / eps**2),
        two,
        aim | {b_star: b_next},
    )
    k_here = proof.cite("its steps", eq(K_star, 2 * C1 / (lr * eps**2)), two)
    k_then = proof.cite(
        "the next stage's steps", eq(K_next, 2 * C1 * r / (gamma * lr * eps**2)), two, aim | {K_star: K_next}
    )
    n_here = proof.cite("its gradient evaluations", eq(N_star, 4 * C1 * C2 / eps**4), two)
    n_then = proof.cite(
        "the next stage's gradient evaluations", eq(N_next, 4 * C1 * C2 * r**2 / eps**4), two, aim | {N_star: N_next}
    )
    batch = proof.state.identity("growth of the batch", ratio(b_next, b_star), gamma * r, name=delta, uses=(here, then))
    steps = proof.state.identity(
        "growth of the number of steps", ratio(K_next, K_star), r / gamma, name=tau, uses=(k_here, k_then)
    )
    epochs = proof.state.identity(
        "growth of the gradient evaluations", ratio(N_next, N_star), r**2, name=e, uses=(n_here, n_then)
    )
    speed = proof.state.combine("in terms of δ and γ: r", eq(r, delta / gamma), -batch / gamma)
    tau_of = proof.state.combine("so the steps grow by", eq(tau, delta / gamma**2), steps + speed / gamma)
    e_of = proof.state.combine(
        "and the gradient evaluations by", eq(e, (delta / gamma) ** 2), epochs + (r + delta / gamma) * speed
    )
    proof.state.combine("which is batch growth times step growth", eq(e, delta * tau), e_of - delta * tau_of)
    proof.state.root(
        "equal numbers of steps a stage, τ = 1", tau - 1, above(delta, 0), gamma**2, name=delta_even, uses=(tau_of,)
    )
    even = proof.state.root(
        "equal gradient evaluations a stage, e = 1",
        e - 1,
        above(delta, 0),
        gamma,
        name=sp.Symbol("delta_e", positive=True),
        uses=(e_of,),
    )
    proof.state.identity(
        "which aims at the same ε in every stage: no progress in the bound",
        even.name / gamma,
        sp.S.One,
        name=sp.Symbol("r_e", positive=True),
        uses=(even,),
    )
    return proof.done()
