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
m_b, m1, m2 = sp.symbols("m_b m_1 m_2", real=True)
gamma_3, delta_2, tau_2, tau_3 = sp.symbols("gamma_3 delta_2 tau_2 tau_3", positive=True)
ray, K_of_lr = sp.Function("b_*", positive=True)(k, lr), sp.Function("K_*", positive=True)(lr)
rate, batch, alone = (sp.Function(name, positive=True)(k) for name in ("eta", "b", "b_alone"))


@cache
def phases() -> Derivation:
    """T7: grow both; from the cap of η on, b alone; from the cap of b on, shrink η. Stages are counted as reals."""
    in_range = (between(lr_max, 0, 2 / L), *(between(rate, 0, lr_max, "(]") for rate in (lr, gamma * lr, lr_0)))
    proof = Proof("T7", "Caps, and the three phases", NEW, ranges=in_range)
    two, four = critical_batch_size(), stagewise()

    def ends(words, size, end, first, factor, m, uses, above_one):
        """Where `size` = first·factor^k comes to `end`, through its logarithm, linear in k."""
        log = sp.Function(f"ln_{size.func.__name__}", real=True)(k)
        named = proof.identity("in logarithms", sp.log(size), sp.log(first) + k * sp.log(factor), name=log, uses=uses)
        proof.state.root(
            words,
            sp.log(end) - log,
            above(k, 0),
            sp.log(end / first) / sp.log(factor),
            name=m,
            on=(above(end, first), *(above(each, 1) for each in above_one)),
            uses=(named,),
        )

    on_ray = proof.cite(
        "stage k aims at ε_k² = ε² r^−k, for which T2's best batch sizes are on a ray of b/η",
        eq(ray, 2 * C2 * lr * r**k / eps**2),
        two,
        {eps: eps * r ** (-k / 2), b_star: ray},
    )
    proof.state.cite("all its pairs cost the same gradient evaluations", eq(N_star, 4 * C1 * C2 / eps**4), two)
    fewer = proof.cite("and differ in steps", eq(K_of_lr, 2 * C1 / (lr * eps**2)), two, {K_star: K_of_lr})
    proof.state.sign(
        "a larger η saves steps, so both grow up to the caps, η_max and b_max",
        lt(sp.Derivative(K_of_lr, lr), 0),
        uses=(fewer,),
    )
    grows = proof.assume("phase 1 begins at η_0: η_k = η_0 γ^k", eq(rate, lr_0 * gamma**k))
    first = proof.cite("on the ray, with", eq(b_0, 2 * C2 * lr_0 / eps**2), two, {lr: lr_0, b_star: b_0})
    follows = proof.assume("and follows it", eq(batch, ray.func(k, rate)))
    both = proof.state.combine(
        "in phase 1 the batch grows by γr",
        eq(batch, b_0 * (gamma * r) ** k),
        follows - (gamma * r) ** k * first,
        uses=(on_ray, grows),
    )
    ends("phase 1 ends where η_k = η_max", rate, lr_max, lr_0, gamma, m1, (grows,), (gamma,))
    ends(
        "or where b_k = b_max, if that is earlier: then there is no phase 2",
        batch, b_max, b_0, gamma * r, m_b, (both,), (gamma, r),
    )  # fmt: skip
    reached = proof.assume("phase 2 begins with the batch that phase 1 reached", eq(b_1, batch.func(m1)))
    proof.state.combine("that is", eq(b_1, b_0 * (gamma * r) ** m1), reached, uses=(both,))
    by = proof.state.cite("phase 2: γ = 1, so b grows by r", eq(delta_2, r), four, {gamma: sp.S.One, delta: delta_2})
    proof.state.cite("and the steps by r a stage", eq(tau_2, r), four, {gamma: sp.S.One, tau: tau_2})
    goes_on = proof.assume("the batch k stages later", eq(alone, b_1 * delta_2**k))
    ends("phase 2 ends where it is b_max", alone, b_max, b_1, r, m2, (by, goes_on), (r,))
    stays = proof.cite("T4: the batch grows by γr", eq(delta, gamma * r), four)
    proof.state.root(
        "phase 3: b stays, δ = 1, so η shrinks", delta - 1, above(gamma, 0), 1 / r, name=gamma_3, uses=(stays,)
    )
    proof.state.cite(
        "and the steps grow by r² a stage",
        eq(tau_3, r**2),
        four,
        {gamma: 1 / r, tau: tau_3},
        on=(in_range[1], above(r, 1)),
    )
    proof.state.cite(
        "in every phase the gradient evaluations grow by r² a stage", eq(sp.Symbol("e", positive=True), r**2), four
    )
    proof.state.root(
        "phase 3 stays on the ray, k counted from where the aim is ε",
        b_max - ray,
        above(lr, 0),
        b_max * eps**2 / (2 * C2) * r**-k,
        name=sp.Symbol("eta_3", positive=True),
        uses=(on_ray,),
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
    unit = proof.state.identity(
        "noise per unit of time s = Ση_t", ratio(noise, lr), lr / b * Sigma, name=scale, uses=(step,)
    )
    proof.state.identity("equal: this noise scale", *both(scale), uses=(unit,))
    acting = proof.assume(
        "with momentum μ one gradient acts on t + 1 later steps", eq(kicks, sp.Sum(mom**t, (t, 0, T - 1)))
    )
    closed = proof.closed_sum("by", sp.Sum(mom**t, (t, 0, T - 1)), (1 - mom**T) / (1 - mom), T)
    acted = proof.combine("that is", eq(kicks, closed.value), acting + closed)
    below_one = proof.assume("0 < μ < 1, written", eq(mom, 1 / (1 + lam)))
    end = proof.limit("in the end by", kicks.func(x), x, sp.oo, 1 / (1 - mom), uses=(below_one, acted))
    meant = proof.assume("so it acts like the learning rate", eq(far, lr * end.fact.lhs))
    acts = proof.combine("which is", eq(far, lr / (1 - mom)), meant + lr * end)
    proof.state.identity(
        "so drift and noise are those of the learning rate η/(1 − μ)",
        ratio(noise.func(far, b), far),
        lr / (b * (1 - mom)) * Sigma,
        uses=(acts, step),
    )
    count = proof.assume("N gradient evaluations allow K steps", eq(steps, N / b))
    s_sum = proof.assume("S = Kη", eq(S_of, steps * lr))
    v_sum = proof.assume("V = Kη²/b", eq(V_of, steps * lr**2 / b))
    proof.state.identity("written out, S", S_of, lr * N / b, uses=(count, s_sum))
    proof.state.identity("equal: S", *both(S_of), uses=(count, s_sum))
    proof.state.identity("equal: V, and so V/S", *both(V_of), uses=(count, v_sum))
    proof.state.identity("V/S is the noise scale", ratio(V_of, S_of), lr / b, uses=(s_sum, v_sum))
    proof.state.identity("not equal: the number of steps", ratio(steps, steps.func(a * b)), a, uses=(count,))
    general = proof.cite(
        "not equal: T1's bound with each step's own descent factor",
        le(m, (gap + L * sigma**2 * V / 2) / A),
        descent_bound(),
        {lrs[t]: lr, lr_max: lr},
        on=(stable,),
    )
    of_run = (proof.assume("V of this run", eq(V, V_of)), proof.assume("A of this run", eq(A, S_of * (1 - L * lr / 2))))
    written = proof.assume(
        "the bound of this run", eq(bound_of, (gap + L * sigma**2 * V_of / 2) / (S_of * (1 - L * lr / 2)))
    )
    proof.state.combine("bounds min E‖∇f‖²", le(m, bound_of), general, uses=(*of_run, written), on=(stable,))
    apart = proof.state.identity(
        "the smaller η has the smaller bound, by the factor",
        ratio(*both(bound_of)),
        (1 - L * lr / 2) / (1 - L * lr / (2 * a)),
        name=sp.Function("factor")(lr),
        uses=(count, s_sum, v_sum, written),
    )
    proof.state.sign("which is below 1", lt(apart.name, 1), on=(stable, smaller), uses=(apart,))
    kept = proof.assume("not equal: the exact dynamics. On curvature λ a step contracts by", eq(keep, 1 - lr * lam))
    proof.state.identity(
        "two steps of η/2 and one of η by factors that differ in second order",
        keep.func(lr / 2) ** 2 - keep,
        (lr * lam) ** 2 / 4,
        uses=(kept,),
    )
    return proof.done()
