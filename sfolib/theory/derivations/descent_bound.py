"""T1: the descent bound, from the Lipschitz gradient to the sum over all steps."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, le
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.steps import Step
from sfolib.theory.derivations.symbols import C1, C2, L, T, c1, c2, gap, lr, lr_max, lrs, n, sigma, size, t

UMEDA = "[S] Umeda & Iiduka 2025 (arXiv 2508.05297) and the papers it builds on"

# what the bound is about, and the sums it is made of
m = sp.Symbol("m", nonnegative=True)
S, V, A = sp.symbols("S V A", positive=True)
omega = sp.Symbol("omega", nonnegative=True)
omegas = sp.IndexedBase("omega", nonnegative=True)

f0, f1, p = sp.symbols("f_0 f_1 p", real=True)
G, h, v_B, v_R = sp.symbols("G h v_B v_R", nonnegative=True)
# of the draws of a batch: variance of one, covariance of two
v = sp.Symbol("v", nonnegative=True)
c = sp.Symbol("c", real=True)


def _one_step(proof):
    """f(θ − ηg) ≤ f(θ) − η⟨∇f, g⟩ + (Lη²/2)‖g‖², from the Lipschitz gradient."""
    s = sp.Symbol("s", positive=True)
    w, P, slope = sp.symbols(r"w P \phi'_0", real=True)
    U, D = sp.symbols("U D", nonnegative=True)
    phi = sp.Function("phi", real=True)
    square = proof.assume(
        "a squared norm is never negative: 0 ≤ ‖u − w d‖² = U − 2wP + w²D for any real w, where "
        "u = ∇f(θ + s d) − ∇f(θ), U = ‖u‖², P = ⟨u, d⟩, D = ‖d‖²",
        ge(U - 2 * w * P + w**2 * D, 0),
        every=(w, P, D),
    )
    lipschitz = proof.assume("A1: f is L-smooth, ‖u‖ ≤ L s ‖d‖", le(U, L**2 * s**2 * D), every=(s, D))
    at = proof.instance("the square at w = L s", ge(U - 2 * L * s * P + L**2 * s**2 * D, 0), square, {w: L * s})
    slopes = proof.combine(
        "the slope along d rises no faster than L s ‖d‖²", le(P, L * s * D), at / (2 * L * s) + lipschitz / (2 * L * s)
    )
    path = proof.instance(
        "with φ(s) = f(θ + s d), that slope is φ'(s) − φ'(0)",
        le(sp.diff(phi(s), s) - slope, L * s * D),
        slopes,
        {P: sp.diff(phi(s), s) - slope},
    )
    lemma = proof.integrate(
        "over the segment from θ to θ + d: the descent lemma", le(phi(1) - phi(0) - slope, L * D / 2), path, (s, 0, 1)
    )
    return proof.instance(
        "one step d = −ηg, with p = ⟨∇f, g⟩ and G = ‖g‖²",
        le(f1 - f0 + lr * p, L * lr**2 * G / 2),
        lemma,
        {phi(1): f1, phi(0): f0, slope: -lr * p, D: lr**2 * G},
    )


def _batch_variance(proof) -> None:
    """The variance of the mean of b draws, with replacement and as a fresh subset of the n samples."""
    q = sp.Symbol("q", nonnegative=True)
    drawn = proof.assume(
        "x_i = ∇f_i − ∇f at the draws, v = E‖x_i‖², c = E⟨x_i, x_j⟩ for two different draws: draw "
        "number t + 1 adds to q = E‖x_1 + … + x_b‖² its own v and 2t products",
        eq(q, sp.Sum(v + 2 * t * c, (t, 0, size - 1))),
    )
    mean = proof.assume("the variance of the mean", eq(v_B, q / size**2))
    sample = proof.assume("A3: the variance of one sample", le(v, sigma**2))
    count = proof.closed_sum("counting squares and pairs", drawn.fact.rhs, size * v + size * (size - 1) * c, size)
    both = proof.combine(
        "so for any two-draw mean c", eq(v_B, (v + (size - 1) * c) / size), size**-2 * drawn + mean + size**-2 * count
    )
    apart = proof.state.instance(
        "with replacement the draws are independent and c = 0, v_R in place of v_B",
        eq(v_R, v / size),
        both,
        {c: 0, v_B: v_R},
    )
    proof.state.combine("with replacement", le(v_R, sigma**2 / size), -apart + sample / size)
    everything = proof.assume(
        "without replacement all n samples sum to 0: their n squares and n(n − 1) ordered pairs",
        eq(n * v + n * (n - 1) * c, 0),
    )
    pair = proof.state.combine(
        "so two draws are anticorrelated", eq(c, -v / (n - 1)), everything / (n * (n - 1)), on=(above(n, 1),)
    )
    fresh = proof.state.combine(
        "as a fresh uniform subset",
        eq(v_B, v * (n - size) / (size * (n - 1))),
        both + (size - 1) / size * pair,
        on=(above(n, 1),),
    )
    proof.state.combine(
        "as a fresh uniform subset of 1 ≤ b ≤ n, drawn anew at each step given θ_t. Slices of one "
        "epoch's permutation are not that: θ_t depends on the earlier slices, and what is left for the "
        "later ones is not uniform given θ_t; for them the bound is not claimed",
        le(v_B, sigma**2 * (n - size) / (size * (n - 1))),
        -fresh + (n - size) / (size * (n - 1)) * sample,
        on=(between(size, 0, n, "(]"), above(n, 1)),
    )


@cache
def descent_bound() -> Derivation:
    """T1: min_{t<T} E‖∇f(θ_t)‖² ≤ (C1 + C2 V)/S, and before η_t is bounded by η_max, (Δ + Lσ²V/2)/A."""
    below_cap, stable = in_range = between(lrs[t], 0, lr_max, "(]"), between(lr_max, 0, 2 / L)
    proof = Proof("T1", "Descent bound", f"{UMEDA}; finite-population factor and exact form [N]", ranges=in_range)
    before = _one_step(proof)
    _batch_variance(proof)
    e1, ep = sp.symbols("f'_1 p'", real=True)
    eG = sp.Symbol("G'", nonnegative=True)
    F, H = sp.IndexedBase("F"), sp.IndexedBase("H", nonnegative=True)
    X, Y = sp.symbols("X Y", nonnegative=True)  # of one step; of step t, in the mean:
    Xs, Ys = (sp.IndexedBase(name, nonnegative=True) for name in ("X", "Y"))

    mean = proof.average(
        "given θ_t, over the draw of the batch (primes are means)",
        le(e1 - f0 + lr * ep, L * lr**2 * eG / 2),
        before,
        {f1: e1, p: ep, G: eG},
    )
    unbiased = proof.assume("A2: the batch gradient is unbiased, with h = ‖∇f(θ_t)‖²", eq(ep, h))
    spread = proof.assume("v_B = E‖g − ∇f‖², the square expanded", eq(eG - 2 * ep + h, v_B))
    small = proof.assume(
        "v_B ≤ σ²ω: ω = 1/b with replacement, ω = (n − b)/(b(n − 1)) for a fresh subset (both above); for a slice of "
        "an epoch's permutation neither is claimed",
        le(v_B, sigma**2 * omega),
    )
    split = proof.combine("mean square = square of the mean + variance", eq(eG, h + v_B), spread + 2 * unbiased)
    given = proof.combine(
        "descent given θ_t",
        le(e1, f0 - lr * (1 - L * lr / 2) * h + L * lr**2 * sigma**2 * omega / 2),
        mean + lr * unbiased - L * lr**2 / 2 * split + L * lr**2 / 2 * small,
    )
    names = (
        proof.assume("its descent", eq(X, lr * (1 - L * lr / 2) * h)),
        proof.assume("and the noise that it lets in", eq(Y, lr**2 * omega)),
    )
    in_names = proof.combine(
        "in these names", le(e1, f0 - X + L * sigma**2 * Y / 2), given - names[0] + L * sigma**2 / 2 * names[1]
    )
    each = proof.average(
        "over all that went before, which may have decided η_t and b_t, with F_t = E f(θ_t)",
        le(F[t + 1], F[t] - Xs[t] + L * sigma**2 * Ys[t] / 2),
        in_names,
        {e1: F[t + 1], f0: F[t], X: Xs[t], Y: Ys[t]},
    )

    def over(term):
        return sp.Sum(term, (t, 0, T - 1))

    added = proof.total(
        "added over all steps",
        le(over(F[t + 1]), over(F[t]) - over(Xs[t]) + L * sigma**2 / 2 * over(Ys[t])),
        each,
        (t, 0, T - 1),
    )
    telescope = proof.closed_sum("the left-hand side telescopes", over(F[t] - F[t + 1]), F[0] - F[T], T)
    floor = proof.assume("f is bounded below by f*, and Δ = f(θ_0) − f*", le(F[0] - F[T], gap))
    looking = proof.state.combine(
        "a schedule that looks at the run: its mean descents are no more than its mean noise allows",
        le(over(Xs[t]), gap + L * sigma**2 / 2 * over(Ys[t])),
        added - telescope + floor,
    )
    keep = lrs[t] * (1 - L * lrs[t] / 2)
    fixed = (
        proof.assume(
            "η_t and b_t are fixed in advance and leave the mean, with H_t = E‖∇f(θ_t)‖²", eq(Xs[t], keep * H[t])
        ),
        proof.assume("and", eq(Ys[t], lrs[t] ** 2 * omegas[t])),
    )
    proof.state.combine(
        "the descent of such a step",
        le(F[t + 1], F[t] - keep * H[t] + L * lrs[t] ** 2 * sigma**2 * omegas[t] / 2),
        each + fixed[0] - L * sigma**2 / 2 * fixed[1],
    )
    of_steps = [
        proof.total("over the steps", eq(over(side), over(value)), step, (t, 0, T - 1))
        for step in fixed
        for side, value in [step.fact.args]
    ]
    least = proof.assume("m = min_{t<T} E‖∇f(θ_t)‖²", le(m, H[t]), every=(t,))
    weighted = proof.combine(
        "for 0 < η_t < 2/L the descent factor is positive", le(keep * m, keep * H[t]), keep * least, on=in_range
    )
    weights = proof.total("added over all steps", le(m * over(keep), over(keep * H[t])), weighted, (t, 0, T - 1))
    names = (
        proof.assume("S = sum of the learning rates", eq(S, over(lrs[t]))),
        proof.assume(
            "V = sum of the squares, each with the ω of its batch (η_t²/b_t with replacement)",
            eq(V, over(lrs[t] ** 2 * omegas[t])),
        ),
        proof.assume("A = sum of the descent factors, positive since 0 < η_t < 2/L", eq(A, over(keep))),
    )
    exact = proof.state.combine(
        "the bound with each step's own descent factor",
        le(m, (gap + L * sigma**2 * V / 2) / A),
        (looking + of_steps[0] + weights - m * names[2] + L * sigma**2 / 2 * (names[1] - of_steps[1])) / A,
    )
    cap = proof.sign("no learning rate exceeds η_max", le(lrs[t], lr_max), on=(below_cap,))
    factor = proof.combine(
        "every descent factor is at least that of η_max", le(lrs[t] * (1 - L * lr_max / 2), keep), L * lrs[t] / 2 * cap
    )
    factors = proof.total(
        "added over all steps", le((1 - L * lr_max / 2) * over(lrs[t]), over(keep)), factor, (t, 0, T - 1)
    )
    enough = proof.combine(
        "so A is at least S times it",
        le((1 - L * lr_max / 2) * S, A),
        factors + (L * lr_max / 2 - 1) * names[0] + names[2],
    )
    cleared = proof.combine("the bound cleared of its denominator", le(m * A, gap + L * sigma**2 * V / 2), A * exact)
    scale = S * (1 - L * lr_max / 2)
    proof.state.combine(
        "the bound, with C1 = 2Δ/(2 − Lη_max) and C2 = Lσ²/(2 − Lη_max)",
        le(m, (c1(lr_max) + c2(lr_max) * V) / S),
        cleared / scale + m / scale * enough,
        on=(stable,),
    )
    return proof.done()


def named_bound(proof: Proof, rate, on=()) -> Step:
    """T1's min E‖∇f‖² ≤ (C1 + C2 V)/S in `proof`, C1 and C2 as names, for learning rates like `rate`."""
    general = proof.cite(
        "the descent bound", le(m, (c1(lr_max) + c2(lr_max) * V) / S), descent_bound(), {lrs[t]: rate}, on=on
    )
    first = proof.assume("C1 = 2Δ/(2 − Lη_max)", eq(C1, c1(lr_max)))
    second = proof.assume("C2 = Lσ²/(2 − Lη_max)", eq(C2, c2(lr_max)))
    return proof.combine("with these names", le(m, (C1 + C2 * V) / S), general + first / S + V / S * second, on=on)


def constant_sums(proof: Proof, which: str) -> tuple[Step, ...]:
    """Of S, V and A of T1 those in `which`, named and in closed form, for T steps at constant (η, b)."""
    each = {"S": (S, lr), "V": (V, lr**2 / size), "A": (A, lr * (1 - L * lr / 2))}
    found = []
    for symbol, term in (each[name] for name in which):
        total = proof.closed_sum(f"{symbol} at constant η and b", sp.Sum(term, (t, 0, T - 1)), term * T, T)
        named = proof.assume(f"{symbol} of T1 at T steps of (η, b)", eq(symbol, total.total))
        found.append(proof.combine(f"so {symbol} is", eq(symbol, total.value), named + total))
    return tuple(found)
