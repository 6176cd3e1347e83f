"""T13: the best learning rate and the critical batch size of one step, from local constants."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, lt
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import G2, GHG, L, Q, b, eps, lr, sigma

decrease = sp.Function("D")(lr, b)
lr_local, b_local, lr_full, B = sp.symbols("eta_step b_c eta_full B", positive=True)
stable = between(lr, 0, G2 / GHG)


@cache
def local_front() -> Derivation:
    """T13: D(η, b) is the expected decrease of f in one step, G_2 = ‖G‖², G_HG = GᵀHG, Q = tr(HΣ)."""
    proof = Proof("T13", "The front where you are", "[N]; the law is McCandlish et al. 2018, arXiv 1812.06162")
    mean, square = sp.symbols("E_p E_gHg", real=True)
    start, end = sp.symbols("f_0 f_1", real=True)
    model = proof.assume(
        "f is its quadratic model over one step: f(θ − ηg) = f(θ) − ηp + η²/2 · gᵀHg with p = G·g, in the mean",
        eq(end, start - lr * mean + lr**2 / 2 * square),
    )
    unbiased = proof.assume("A2: the batch gradient is unbiased, E p = ‖G‖²", eq(mean, G2))
    spread = proof.assume(
        "the batch is drawn with replacement, so its covariance is Σ/b and E gᵀHg = GᵀHG + tr(HΣ)/b, GᵀHG > 0",
        eq(square, GHG + Q / b),
    )
    named = proof.assume("D is the expected decrease", eq(decrease, start - end))
    gain = proof.state.combine(
        "the expected decrease of one step",
        eq(decrease, lr * G2 - lr**2 / 2 * (GHG + Q / b)),
        named - model + lr * unbiased - (lr**2) / 2 * spread,
    )
    best = proof.state.root(
        "its slope in η is 0 at one η",
        sp.Derivative(decrease, lr),
        above(lr, 0),
        G2 / (GHG + Q / b),
        name=lr_local,
        uses=(gain,),
    )
    proof.state.sign("and it is concave in η", lt(sp.Derivative(decrease, (lr, 2)), 0), uses=(gain,))
    full = proof.state.limit("at a large batch that η is", lr_local, b, sp.oo, G2 / GHG, uses=(best,))
    names = (
        proof.assume("a name for it", eq(lr_full, full.value)),
        proof.assume("McCandlish et al.'s noise scale", eq(B, Q / GHG)),
    )
    proof.state.identity("so their law is exact here", lr_local, lr_full / (1 + B / b), uses=(*names, best))
    critical = proof.state.root(
        "the batch at which a fixed η is the best",
        sp.Derivative(decrease, lr),
        above(b, 0),
        lr * Q / (G2 - lr * GHG),
        name=b_local,
        on=(stable,),
        uses=(gain,),
    )
    proof.state.limit("to leading order in η", b_local / lr, lr, sp.S.Zero, Q / G2, uses=(critical,))
    proof.state.sign(
        "beyond η_full no batch makes η the best",
        lt(sp.Derivative(decrease, lr), 0),
        on=(above(lr, G2 / GHG),),
        uses=(gain,),
    )
    lr_worst = sp.Symbol("eta_worst", positive=True)
    worst = proof.instance(
        "in the worst case GᵀHG = L‖G‖², Q = Lσ², ‖G‖² = ε²",
        eq(lr_worst, eps**2 / (L * eps**2 + L * sigma**2 / b)),
        best,
        {GHG: L * eps**2, Q: L * sigma**2, G2: eps**2, lr_local: lr_worst},
    )
    proof.state.identity("it is T11's η*(b)", lr_worst, 1 / (L * (1 + sigma**2 / eps**2 / b)), uses=(worst,))
    return proof.done()
