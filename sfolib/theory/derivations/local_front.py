"""T13: the best learning rate and the critical batch size of one step, from local constants."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq
from sfolib.theory.derivations.derivation import Derivation, Proof
from sfolib.theory.derivations.inference import Combined
from sfolib.theory.derivations.steps import Assumed, Identity, Limit, Root
from sfolib.theory.derivations.symbols import L, b, eps, lr, sigma

G2, GHG, Q = sp.symbols("G_2 G_HG Q", positive=True)
decrease, lr_local, b_local = sp.symbols("D eta_local b_c", positive=True)
gain = lr * G2 - lr**2 / 2 * (GHG + Q / b)


@cache
def local_front() -> Derivation:
    """T13: G2 = ‖∇f‖², G_HG = GᵀHG, Q = tr(HΣ), D the expected decrease of f in one step on the local quadratic."""
    steps = Proof()
    model = steps.add(
        Assumed(
            "f is quadratic over one step (GᵀHG > 0) and the batch is drawn with replacement: D = f − E f(θ − ηg)",
            eq(decrease, gain),
        )
    )
    best_lr = G2 / (GHG + Q / b)
    shape = steps.add(
        Combined(
            "D is a parabola in η, below its top by the square of the distance",
            eq(decrease, best_lr * G2 / 2 - (GHG + Q / b) / 2 * (lr - best_lr) ** 2),
            ((model, 1),),
        )
    )
    best = steps.add(Root("so D is largest where its slope is 0", sp.diff(gain, lr), above(lr, 0), best_lr, lr_local))
    law = steps.add(Identity("McCandlish et al.'s law, B = Q/GᵀHG", best_lr, G2 / GHG / (1 + Q / GHG / b)))
    large = steps.add(Limit("at a large batch it is ‖G‖²/GᵀHG", best_lr, b, sp.oo, G2 / GHG))
    stable = (between(lr, 0, G2 / GHG),)
    critical = steps.add(
        Root(
            "the batch at which a fixed η is the best",
            sp.diff(gain, lr),
            above(b, 0),
            lr * Q / (G2 - lr * GHG),
            b_local,
            on=stable,
        )
    )
    worst = steps.add(
        Identity(
            "T11's η*(b) is the worst case GᵀHG = L‖G‖², Q = Lσ², ‖G‖² = ε²",
            best_lr.subs({GHG: L * G2, Q: L * sigma**2}, simultaneous=True).subs(G2, eps**2),
            1 / (L * (1 + sigma**2 / eps**2 / b)),
        )
    )
    facts = tuple(s.fact for s in (shape, best, law, large, critical, worst))
    return Derivation("T13", "The front where you are", "[N]; the law is McCandlish et al. 2018", tuple(steps), facts)
