"""T7 and T8: growth under caps in three phases, and what a smaller η shares with a larger b."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, le, lt, ratio
from sfolib.theory.derivations.critical_batch_size import NEW, K_star, N_star, b_star, critical_batch_size
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import A, V, descent_bound, m
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.stagewise_growth import stagewise
from sfolib.theory.derivations.symbols import C1, C2, L, T, b, delta, eps, gamma, gap, lr, lr_max, lrs, r, sigma, t, tau

stable = (between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]"))
b_0, b_1, lr_0, b_max, k = sp.symbols("b_0 b_1 eta_0 b_max k", positive=True)
m1, m2 = sp.symbols("m_1 m_2", real=True)


@cache
def phases() -> Derivation:
    """T7: grow both; from the cap of η on, b alone; from the cap of b on, shrink η. Stages are counted as reals."""
    proof = Proof("T7", "Caps, and the three phases", NEW, ranges=(*stable, between(gamma * lr, 0, lr_max, "(]")))
    two, four = critical_batch_size(), stagewise()
    proof.cite("T2's best batch: all pairs on the ray b/η = 2C2/ε²", eq(b_star, 2 * C2 * lr / eps**2), two, on=stable)
    proof.cite("cost the same gradient evaluations", eq(N_star, 4 * C1 * C2 / eps**4), two, on=stable, stated=True)
    fewer = proof.cite("and differ in steps", eq(K_star, 2 * C1 / (lr * eps**2)), two, on=stable)
    proof.sign(
        "a larger η saves steps, so both grow up to the caps", lt(sp.Derivative(fewer.fact.rhs, lr), 0), stated=True
    )
    proof.assume(
        "the first stage is on the ray; stage k aims at ε_k² = ε² r^−k; the learning rate's cap is "
        "η_max, the batch's b_max",
        eq(b_0, 2 * C2 * lr_0 / eps**2),
    )
    proof.identity(
        "phase 1: with η_k = η_0 γ^k the ray asks for",
        2 * C2 * (lr_0 * gamma**k) * r**k / eps**2,
        2 * C2 * lr_0 / eps**2 * (gamma * r) ** k,
        stated=True,
    )
    proof.root(
        "phase 1 ends where η_0 γ^k = η_max, in logarithms",
        sp.log(lr_max / lr_0) - k * sp.log(gamma),
        above(k, 0),
        sp.log(lr_max / lr_0) / sp.log(gamma),
        name=m1,
        on=(above(lr_max, lr_0), above(gamma, 1)),
        stated=True,
    )
    proof.root(
        "or where b_0 (γr)^k = b_max, if that is earlier: then there is no phase 2",
        sp.log(b_max / b_0) - k * sp.log(gamma * r),
        above(k, 0),
        sp.log(b_max / b_0) / sp.log(gamma * r),
        name=sp.Symbol("m_b", real=True),
        on=(above(b_max, b_0), above(gamma, 1), above(r, 1)),
        stated=True,
    )
    proof.cite(
        "phase 2: γ = 1, so b grows by r", eq(delta, sp.S.One * r), four, {gamma: sp.S.One}, on=stable, stated=True
    )
    proof.cite("and the steps by r a stage", eq(tau, r / sp.S.One), four, {gamma: sp.S.One}, on=stable, stated=True)
    proof.assume("phase 2 begins with the batch that phase 1 reached", eq(b_1, b_0 * (gamma * r) ** m1))
    proof.root(
        "and ends where b_1 r^k = b_max",
        sp.log(b_max / b_1) - k * sp.log(r),
        above(k, 0),
        sp.log(b_max / b_1) / sp.log(r),
        name=m2,
        on=(above(b_max, b_1), above(r, 1)),
        stated=True,
    )
    proof.root("phase 3: b stays, δ = 1, so η shrinks", gamma * r - 1, above(gamma, 0), 1 / r, stated=True)
    proof.cite(
        "and the steps grow by r² a stage", eq(tau, r**2), four, {gamma: 1 / r}, on=(*stable, above(r, 1)), stated=True
    )
    proof.cite(
        "in every phase the gradient evaluations grow by r² a stage",
        eq(sp.Symbol("e", positive=True), r**2),
        four,
        on=stable,
        stated=True,
    )
    proof.root(
        "phase 3 stays on the ray, k counted from where the aim is ε",
        b_max - 2 * C2 * lr * r**k / eps**2,
        above(lr, 0),
        b_max * eps**2 / (2 * C2) * r**-k,
        stated=True,
    )
    return proof.done()


@cache
def noise_scale() -> Derivation:
    """T8: (η/α, b) and (η, αb) on the same samples: what is equal, and what is not."""
    proof = Proof(
        "T8",
        "Noise-scale equivalence",
        "[S] Smith et al., Don't decay the learning rate, increase the batch size; exact differences [N]",
    )
    a = sp.Symbol("alpha", positive=True)
    Sigma, lam, N = sp.symbols("Sigma lambda N", positive=True)
    mom, far, x = sp.symbols("mu eta_far x", positive=True)
    noise, scale, S_of, V_of, bound_of = (sp.Function(name)(lr, b) for name in ("Var", "g", "S", "V", "bound"))
    steps, kicks, keep = sp.Function("K")(b), sp.Function("kicks")(T), sp.Function("rho")(lr)
    stable, smaller = between(lr, 0, 2 / L), above(a, 1)

    def both(function):
        """At (η/α, b) and at (η, αb)."""
        return function.func(lr / a, b), function.func(lr, a * b)

    step = proof.assume("a step moves by −η∇f + ηξ, ξ of covariance Σ/b", eq(noise, lr**2 * Sigma / b))
    unit = proof.identity(
        "noise per unit of time s = Ση_t", ratio(noise, lr), lr / b * Sigma, name=scale, uses=(step,), stated=True
    )
    proof.identity("equal: this noise scale", *both(scale), uses=(unit,), stated=True)
    acting = proof.assume(
        "with momentum μ one gradient acts on t + 1 later steps", eq(kicks, sp.Sum(mom**t, (t, 0, T - 1)))
    )
    closed = proof.closed_sum("by", sp.Sum(mom**t, (t, 0, T - 1)), (1 - mom**T) / (1 - mom), T)
    acted = proof.combine("that is", eq(kicks, closed.value), (acting, 1), (closed, 1))
    below_one = proof.assume("0 < μ < 1, written", eq(mom, 1 / (1 + lam)))
    end = proof.limit("in the end by", kicks.func(x), x, sp.oo, 1 / (1 - mom), uses=(below_one, acted))
    meant = proof.assume("so it acts like the learning rate", eq(far, lr * end.fact.lhs))
    acts = proof.combine("which is", eq(far, lr / (1 - mom)), (meant, 1), (end, lr))
    proof.identity(
        "so drift and noise are those of the learning rate η/(1 − μ)",
        ratio(noise.func(far, b), far),
        lr / (b * (1 - mom)) * Sigma,
        uses=(acts, step),
        stated=True,
    )
    count = proof.assume("N gradient evaluations allow K steps", eq(steps, N / b))
    s_sum = proof.assume("S = Kη", eq(S_of, steps * lr))
    v_sum = proof.assume("V = Kη²/b", eq(V_of, steps * lr**2 / b))
    proof.identity("written out, S", S_of, lr * N / b, uses=(count, s_sum), stated=True)
    proof.identity("equal: S", *both(S_of), uses=(count, s_sum), stated=True)
    proof.identity("equal: V, and so V/S", *both(V_of), uses=(count, v_sum), stated=True)
    proof.identity("V/S is the noise scale", ratio(V_of, S_of), lr / b, uses=(s_sum, v_sum), stated=True)
    proof.identity("not equal: the number of steps", ratio(steps, steps.func(a * b)), a, uses=(count,), stated=True)
    general = proof.cite(
        "not equal: T1's bound with each step's own descent factor",
        le(m, (gap + L * sigma**2 * V / 2) / A),
        descent_bound(),
        {lrs[t]: lr, lr_max: lr},
        on=(stable,),
    )
    of_run = (
        proof.assume("V of this run", eq(V, V_of)),
        proof.assume("A of this run", eq(A, S_of * (1 - L * lr / 2))),
    )
    written = proof.assume(
        "the bound of this run", eq(bound_of, (gap + L * sigma**2 * V_of / 2) / (S_of * (1 - L * lr / 2)))
    )
    proof.combine(
        "bounds min E‖∇f‖²", le(m, bound_of), (general, 1), uses=(*of_run, written), on=(stable,), stated=True
    )
    apart = proof.identity(
        "the smaller η has the smaller bound, by the factor",
        ratio(*both(bound_of)),
        (1 - L * lr / 2) / (1 - L * lr / (2 * a)),
        name=sp.Function("factor")(lr),
        uses=(count, s_sum, v_sum, written),
        stated=True,
    )
    proof.sign("which is below 1", lt(apart.name, 1), on=(stable, smaller), uses=(apart,), stated=True)
    kept = proof.assume("not equal: the exact dynamics. On curvature λ a step contracts by", eq(keep, 1 - lr * lam))
    proof.identity(
        "two steps of η/2 and one of η by factors that differ in second order",
        keep.func(lr / 2) ** 2 - keep,
        (lr * lam) ** 2 / 4,
        uses=(kept,),
        stated=True,
    )
    return proof.done()
