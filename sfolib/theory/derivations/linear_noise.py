"""T15: E‖∇f‖² along a run as the noise-free path plus noise, and the best constant batch size."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, gt, le, lt
from sfolib.theory.derivations.critical_batch_size import NEW
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.steps import Root
from sfolib.theory.derivations.symbols import K, Q, b, eps, lr

lam = sp.Symbol("lambda", positive=True)
variance = sp.Symbol("v", positive=True)
C, C_next, C_limit, mean_path = sp.symbols(r"C C' C_infty \bar\theta", nonnegative=True)
y, p, scale = sp.symbols("beta p c", positive=True)
expected, beta, b_needed = sp.Function("E")(y, b), sp.Function("beta", positive=True)(K), sp.Function("b_needed")(y)
b_best, beta_best, b_one, K_best = sp.symbols("b_best beta_best b_one K_best", positive=True)
slow = between(lam, 0, 1 / lr, "(]")


def recursion(proof) -> tuple:
    """C' = (1 − ηλ)²C + η²v/b in one coordinate, and E(λθ)² = λ²(θ̄² + C)."""
    e, e_next, xi, mixed, bias = sp.symbols(r"e e' \xi w \bar{e}", real=True)
    square, square_next, noise, spread = sp.symbols(r"e^2 e'^2 \xi^2 \bar{q}", nonnegative=True)
    cross = sp.Symbol(r"\bar{w}", real=True)
    step = proof.assume(
        "f is quadratic. In an eigenbasis of H one coordinate, e its distance from the noise-free path θ̄ of the same "
        "learning rates, becomes",
        eq(e_next, (1 - lr * lam) * e - lr * xi),
    )
    squares = tuple(
        proof.assume(words, eq(symbol, term))
        for words, symbol, term in (
            ("the square after the step", square_next, e_next**2),
            ("before it", square, e**2),
            ("of the noise", noise, xi**2),
            ("and their product", mixed, e * xi),
        )
    )
    keep = 1 - lr * lam
    written = proof.identity(
        "expanded", square_next, keep**2 * square - 2 * lr * keep * mixed + lr**2 * noise, uses=(step, *squares)
    )
    apart = proof.assume("A2: the noise of a step has mean 0, given what was before", eq(cross, 0))
    drawn = proof.assume("and variance v/b, with replacement", eq(spread, variance / b))
    mean = proof.average(
        "over the draws, C = E e²",
        eq(C_next, keep**2 * C - 2 * lr * keep * cross + lr**2 * spread),
        written,
        {square_next: C_next, square: C, mixed: cross, noise: spread},
    )
    covariance = proof.state.combine(
        "the recursion of the covariance",
        eq(C_next, keep**2 * C + lr**2 * variance / b),
        mean - 2 * lr * keep * apart + lr**2 * drawn,
    )
    here, total = sp.symbols("g E_g", nonnegative=True)
    gradient = proof.assume("the squared gradient in this coordinate", eq(here, lam**2 * (mean_path + e) ** 2))
    wide = proof.combine(
        "expanded", eq(here, lam**2 * (mean_path**2 + 2 * mean_path * e + square)), gradient - lam**2 * squares[1]
    )
    centred = proof.assume("the mean path is the noise-free one", eq(bias, 0))
    spread_path = proof.average(
        "over the draws",
        eq(total, lam**2 * (mean_path**2 + 2 * mean_path * bias + C)),
        wide,
        {here: total, e: bias, square: C},
    )
    proof.state.combine(
        "E‖∇f‖², coordinate by coordinate, is that of the noise-free path plus λ²C",
        eq(total, lam**2 * mean_path**2 + lam**2 * C),
        spread_path + 2 * lam**2 * mean_path * centred,
    )
    return covariance


def _stationary(proof, covariance) -> Root:
    """The limit of C at a constant pair, between its value for small ηλ and twice that; returns the former."""
    steady = proof.state.root(
        "at a constant pair C settles where a step leaves it as it is",
        C - C_next,
        above(C, 0),
        lr * variance / (b * lam * (2 - lr * lam)),
        name=C_limit,
        on=(between(lam, 0, 2 / lr),),
        uses=(covariance,),
    )
    proof.state.limit(
        "in ‖∇f‖², for small ηλ: half of ηλv/b",
        lam**2 * C_limit / lr,
        lr,
        sp.S.Zero,
        lam * variance / (2 * b),
        on=(between(lam, 0, 2 / lr),),
        uses=(steady,),
    )
    for words, relation in (
        ("never less than that", ge(lam**2 * C_limit, lr * lam * variance / (2 * b))),
        ("and for η ≤ 1/λ at most twice that", le(lam**2 * C_limit, lr * lam * variance / b)),
    ):
        proof.state.sign(words, relation, on=(slow,), uses=(steady,))
    return steady


def _adam(proof, steady) -> None:
    """Adam's metric holds the noise of its batch: what that makes of a coordinate's noise, at small b and at large."""
    metric, C_adam = sp.Function("P", positive=True)(b), sp.Function("C_P", nonnegative=True)(b)
    g, stable = sp.Symbol("g", positive=True), between(lam, 0, 2 / (lr * metric))
    moved = proof.state.instance(
        "Adam steps by −ηP times the gradient, but for momentum: where H and P are diagonal (else in T14's "
        "coordinates) C settles as at the learning rate ηP",
        eq(C_adam, lr * metric * variance / (b * lam * (2 - lr * metric * lam))),
        steady,
        {lr: lr * metric, C_limit: C_adam},
        on=(stable,),
    )
    settled = proof.assume(
        "P is one over the root of the mean of squared batch gradients, here with g the gradient on the noise-free "
        "path, without Adam's small constant",
        eq(metric, 1 / sp.sqrt(g**2 + variance / b)),
    )
    proof.state.limit(
        "where noise rules, the learning rate ηP is as √b",
        metric / sp.sqrt(b),
        b,
        sp.S.Zero,
        1 / sp.sqrt(variance),
        uses=(settled,),
    )
    both = {"on": (stable,), "uses": (settled, moved)}
    proof.state.limit(
        "so that the noise in ‖∇f‖² is as 1/√b",
        sp.sqrt(b) * lam**2 * C_adam,
        b,
        sp.S.Zero,
        lr * lam * sp.sqrt(variance) / 2,
        **both,
    )
    proof.state.limit(
        "and where the gradient does it is as 1/b, that of SGD at the learning rate η/g",
        b * lam**2 * C_adam,
        b,
        sp.oo,
        lr / g * lam * variance / (2 - lr / g * lam),
        **both,
    )


def _best_batch(proof) -> None:
    """The constant batch of the fewest gradient evaluations where the noise-free ‖∇f‖² falls like K^−p."""
    model = proof.assume(
        "quasi-stationary: H and Σ change slowly, ηλ is small, and the noise is the sum of that half over the "
        "coordinates, ηQ/(2b) with Q = Σ λ_i v_i = tr(HΣ). E‖∇f‖² at (β, b), with β that of the noise-free path",
        eq(expected, y + lr * Q / (2 * b)),
    )
    room = between(y, 0, eps**2)
    needed = proof.state.root(
        "the batch size that reaches ε where the noise-free path is at β",
        expected - eps**2,
        above(b, 0),
        lr * Q / (2 * (eps**2 - y)),
        name=b_needed,
        on=(room,),
        uses=(model,),
    )
    family = proof.assume("after K steps β falls like", eq(beta, scale * K**-p))
    reachable = between(beta, 0, eps**2)
    slope = proof.identity(
        "how N = K b changes with K: K dN/dK over N",
        K * sp.Derivative(sp.log(K * b_needed.func(beta)), K),
        1 - p * beta / (eps**2 - beta),
        name=sp.Function("s_N")(K),
        on=(reachable,),
        uses=(family, needed),
    )
    best = proof.state.root(
        "N is stationary at one K, where β is", slope.name, reachable, eps**2 / (1 + p), name=beta_best, uses=(slope,)
    )
    proof.state.sign("before it N falls", lt(slope.name, 0), on=(between(beta, beta_best, eps**2),), uses=(best, slope))
    proof.state.sign("and after it N rises", gt(slope.name, 0), on=(between(beta, 0, beta_best),), uses=(best, slope))
    batch = proof.state.identity(
        "so the best constant batch size is",
        b_needed.func(beta_best),
        (1 + p) * lr * Q / (2 * p * eps**2),
        name=b_best,
        uses=(best, needed),
    )
    proof.state.identity(
        "which leaves to noise the part p/(1 + p) of ε²", lr * Q / (2 * b_best), p / (1 + p) * eps**2, uses=(batch,)
    )
    proof.state.instance("for p = 1, half of it, and", eq(b_one, lr * Q / eps**2), batch, {p: 1, b_best: b_one})
    last = (scale * (1 + p) / eps**2) ** (1 / p)
    count = proof.assume("a name", eq(K_best, last))
    proof.state.identity("the steps to that β are K_best", beta.func(K_best), beta_best, uses=(best, count, family))
    proof.state.identity(
        "so N* = K b* grows like ε² to the −(1 + 1/p)",
        eps / 2 * sp.Derivative(sp.log(K_best * b_best), eps),
        -(1 + 1 / p),
        uses=(count, batch),
    )


@cache
def linear_noise() -> Derivation:
    """T15: the noise-free path and the covariance around it, the quasi-stationary noise and Adam's, the best b."""
    proof = Proof("T15", "Prediction", f"{NEW}; the linear noise approximation")
    covariance = recursion(proof)
    _adam(proof, _stationary(proof, covariance))
    _best_batch(proof)
    return proof.done()
