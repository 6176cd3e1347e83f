"""T10: the adaptive tests of a batch size, and the norm test as critical-batch tracking."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq
from sfolib.theory.derivations.critical_batch_size import b_star, critical_batch_size
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import C2, L, b, c2, eps, lr, lr_max, sigma

TESTS = (
    "[S] Byrd et al. 2012; Bollapragada et al. 2018; AdAdaGrad. Equivalence of the norm test with T2 and the "
    "split of the variance [N]"
)
h, v, v_ip, v_orth = sp.symbols("h v v_ip v_orth", positive=True)
eta_nt, theta, nu = sp.symbols("eta_nt theta nu", positive=True)
b_norm, b_ip, b_orth, b_own, b_true, w = sp.symbols("b_norm b_ip b_orth b_own b_true w", positive=True)
seen_norm, seen_ip, seen_orth = (sp.Function(f"V_{name}")(b) for name in ("norm", "ip", "orth"))
h_own = sp.Function("h_own")(b)


@cache
def tests() -> Derivation:
    """T10: g_i are per-sample gradients of the whole model, ḡ is their mean, h = ‖ḡ‖² > 0."""
    proof = Proof("T10", "Adaptive tests", TESTS)
    norm, inner, orth = (
        proof.state.root(
            f"{words}: from equality on",
            seen - allowed,
            above(b, 0),
            one / allowed,
            name=name,
            uses=(proof.assume(f"{words}: the variance of the mean of {what}, at most {most}", eq(seen, one / b)),),
        )
        for words, what, most, seen, one, allowed, name in (
            ("norm test", "g_i, v = Σ_j Var_i(g_ij)", "η_nt² h", seen_norm, v, eta_nt**2 * h, b_norm),
            ("inner-product test", "g_i·ḡ", "θ² h²", seen_ip, v_ip, theta**2 * h**2, b_ip),
            ("orthogonality test", "g_i − (g_i·ḡ/h) ḡ", "ν² h", seen_orth, v_orth, nu**2 * h, b_orth),
        )
    )
    far, square, mean, second, mean_square = sp.symbols(r"d_i Q_i p_i s_i \bar{Q}", real=True)
    apart = proof.assume("d = ‖g_i − ḡ‖², with p = g_i·ḡ and Q = ‖g_i‖²", eq(far, square - 2 * mean + h))
    proof.state.identity(
        "Pythagoras: along ḡ and across it", far, (mean - h) ** 2 / h + (square - mean**2 / h), uses=(apart,)
    )
    whole = proof.average(
        "its mean over i is v; that of p is h", eq(v, mean_square - h), apart, {far: v, square: mean_square, mean: h}
    )
    along = proof.assume("s is the mean of p²: variance of the inner products", eq(v_ip, second - h**2))
    across = proof.assume(
        "the part across has mean 0: its variance is its mean square", eq(v_orth, mean_square - second / h)
    )
    split = proof.state.combine("so the variance splits", eq(v, v_ip / h + v_orth), whole - along / h - across)
    proof.state.combine(
        "and so do the batch sizes, each weighed by its tolerance",
        eq(eta_nt**2 * b_norm, theta**2 * b_ip + nu**2 * b_orth),
        eta_nt**2 * norm - theta**2 * inner - nu**2 * orth + split / h,
    )
    s11, s12, s22, m1, m2, v_p = sp.symbols("s_11 s_12 s_22 m_1 m_2 v_p", real=True)
    layers = proof.assume(
        "over two layers p = p_1 + p_2 (means m, second moments s): its variance",
        eq(v_p, s11 + 2 * s12 + s22 - (m1 + m2) ** 2),
    )
    proof.state.identity(
        "a sum of the layers' variances lacks the covariance",
        v_p,
        (s11 - m1**2) + (s22 - m2**2) + 2 * (s12 - m1 * m2),
        uses=(layers,),
    )

    stable = between(lr, 0, 2 / L)
    critical = proof.cite(
        "T2's critical batch size with η_max = η",
        eq(b_star, 2 * c2(lr) * lr / eps**2),
        critical_batch_size(),
        {lr_max: lr, C2: c2(lr)},
        on=(stable,),
    )
    tight = between(w, 0, 1)
    own = proof.assume(
        "a test that sees ḡ of its own batch, where ‖∇f‖² = ε² and v = σ²: E‖ḡ‖²", eq(h_own, eps**2 + sigma**2 / b)
    )
    asked = proof.state.root(
        "it asks for the tolerance w = η_nt² < 1 for",
        sigma**2 / b - w * h_own,
        above(b, 0),
        sigma**2 * (1 - w) / (w * eps**2),
        name=b_own,
        on=(tight,),
        uses=(own,),
    )
    proof.state.root(
        "which is T2's critical batch size at one learning rate",
        b_own - b_star,
        stable,
        2 * (1 - w) / (L * (1 + w)),
        name=sp.Symbol("eta_own", positive=True),
        on=(tight,),
        uses=(asked, critical),
    )
    at_eps = proof.state.instance(
        "a norm test that sees the true gradient, h = ‖∇f‖² = ε², asks for",
        eq(b_true, sigma**2 / (eta_nt**2 * eps**2)),
        norm,
        {v: sigma**2, h: eps**2, b_norm: b_true},
    )
    root = proof.assume("w = η_nt²", eq(eta_nt, sp.sqrt(w)))
    proof.state.root(
        "that is the critical batch size for the tolerance",
        b_true - b_star,
        above(w, 0),
        (2 - L * lr) / (2 * L * lr),
        name=sp.Symbol("eta_nt*", positive=True) ** 2,
        on=(stable,),
        uses=(root, at_eps, critical),
    )
    proof.state.root(
        "that is at one learning rate below 2/L",
        b_true - b_star,
        stable,
        2 / (L * (1 + 2 * eta_nt**2)),
        name=sp.Symbol("eta_*", positive=True),
        uses=(at_eps, critical),
    )
    return proof.done()
