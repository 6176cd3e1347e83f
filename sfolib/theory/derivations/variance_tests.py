"""T10: the adaptive tests of a batch size, and the norm test as critical-batch tracking."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq
from sfolib.theory.derivations.critical_batch_size import b_star, critical_batch_size
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import C1, C2, L, b, c1, c2, eps, lr, lr_max, sigma

TESTS = (
    "[S] Byrd et al. 2012; Bollapragada et al. 2018; AdAdaGrad. Equivalence of the norm test with T2 and the "
    "split of the variance [N]"
)
h, v, v_ip, v_orth = sp.symbols("h v v_ip v_orth", positive=True)
eta_nt, theta, nu = sp.symbols("eta_nt theta nu", positive=True)
b_norm, b_ip, b_orth, w = sp.symbols("b_norm b_ip b_orth w", positive=True)


@cache
def tests() -> Derivation:
    """T10: g_i are per-sample gradients of the whole model, ḡ is their mean, h = ‖ḡ‖² > 0."""
    proof = Proof("T10", "Adaptive tests", TESTS)
    size = above(b, 0)
    norm = proof.root(
        "norm test: the variance of the mean, v/b with v = Σ_j Var_i(g_ij), is at most η_nt² h; from equality on",
        v / b - eta_nt**2 * h,
        size,
        v / (eta_nt**2 * h),
        name=b_norm,
        stated=True,
    )
    inner = proof.root(
        "inner-product test: the variance of the mean of g_i·ḡ is at most θ² h²",
        v_ip / b - theta**2 * h**2,
        size,
        v_ip / (theta**2 * h**2),
        name=b_ip,
        stated=True,
    )
    orth = proof.root(
        "orthogonality test: the variance of the mean of g_i − (g_i·ḡ/h) ḡ is at most ν² h",
        v_orth / b - nu**2 * h,
        size,
        v_orth / (nu**2 * h),
        name=b_orth,
        stated=True,
    )

    square, mean, second = sp.symbols("Q_i p_i s_i", real=True)
    proof.identity(
        "Pythagoras, for p = g_i·ḡ and Q = ‖g_i‖²: ‖g_i − ḡ‖² along ḡ and across it",
        square - 2 * mean + h,
        (mean - h) ** 2 / h + (square - mean**2 / h),
    )
    whole = proof.assume("its mean over i is v, with Q the mean of ‖g_i‖² and h that of p", eq(v, square - 2 * h + h))
    along = proof.assume("s is the mean of p²: variance of the inner products", eq(v_ip, second - h**2))
    across = proof.assume(
        "the part across has mean 0: its variance is its mean square", eq(v_orth, square - second / h)
    )
    split = proof.combine(
        "so the variance splits", eq(v, v_ip / h + v_orth), (whole, 1), (along, -1 / h), (across, -1), stated=True
    )
    proof.combine(
        "and so do the batch sizes, each weighed by its tolerance",
        eq(eta_nt**2 * b_norm, theta**2 * b_ip + nu**2 * b_orth),
        (norm, eta_nt**2),
        (inner, -(theta**2)),
        (orth, -(nu**2)),
        (split, 1 / h),
        stated=True,
    )
    s11, s12, s22, m1, m2 = sp.symbols("s_11 s_12 s_22 m_1 m_2", real=True)
    proof.identity(
        "over two layers p = p_1 + p_2 (means m, second moments s): a sum of the layers' "
        "variances lacks the covariance",
        s11 + 2 * s12 + s22 - (m1 + m2) ** 2,
        (s11 - m1**2) + (s22 - m2**2) + 2 * (s12 - m1 * m2),
        stated=True,
    )

    at_eps = proof.instance(
        "norm test at h = ‖∇f‖² = ε² and v = σ²",
        eq(b_norm, sigma**2 / (eta_nt**2 * eps**2)),
        norm,
        {v: sigma**2, h: eps**2},
        stated=True,
    )
    critical = proof.cite(
        "T2's critical batch size with η_max = η",
        eq(b_star, 2 * c2(lr) * lr / eps**2),
        critical_batch_size(),
        {lr_max: lr, C1: c1(lr), C2: c2(lr)},
        on=(between(lr, 0, 2 / L),),
    )
    same = at_eps.fact.rhs - critical.fact.rhs
    proof.root(
        "they agree for the tolerance w = η_nt²",
        same.subs(eta_nt, sp.sqrt(w)),
        above(w, 0),
        (2 - L * lr) / (2 * L * lr),
        name=eta_nt**2,
        on=(between(lr, 0, 2 / L),),
        stated=True,
    )
    proof.root(
        "that is at one learning rate below 2/L",
        same,
        between(lr, 0, 2 / L),
        2 / (L * (1 + 2 * eta_nt**2)),
        stated=True,
    )
    return proof.done()
