"""T5: the rate exponent of geometric growth."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, gt, le, lt
from sfolib.theory.derivations.critical_batch_size import NEW
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import S, V, m, named_bound
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.steps import Step
from sfolib.theory.derivations.symbols import C1, C2, L, M, delta, gamma, j, lr, lr_max, tau

b0, lr0, T0, N, Q, p = sp.symbols("b_0 eta_0 T_0 N Q p", positive=True)
g, rho, x, y, u = sp.symbols("g rho x y u", positive=True)
R, g_epochs = sp.symbols("R g_epochs", positive=True)  # N at the end of stage M is at most R (gρ)^M
weight = lr0**2 * T0 / b0  # V of the first stage
S_flat, V_flat, N_even, N_flat, R_even, p_even = sp.symbols("S_flat V_flat N_even N_flat R_even p_even", positive=True)
log_g, log_rho = sp.log(g), sp.log(rho)


def _upto(term):
    return sp.Sum(term, (j, 0, M))


class _Cases(Proof):
    """The steps of T5: what all cases share, then each case."""

    def __init__(self, *heading):
        super().__init__(*heading, ranges=(between(lr_max, 0, 2 / L), between(lr, 0, lr_max, "(]")))
        self.growth = (
            self.assume("growth is told by g = γτ", eq(tau, g / gamma)),
            self.assume("and ρ = δ/γ", eq(delta, rho * gamma)),
        )
        self.s_sum = self.geometric(S, "a stage adds T_j η_j", T0 * tau**j * lr0 * gamma**j, lr0 * T0, g)
        self.v_sum = self.geometric(
            V, "a stage adds T_j η_j²/b_j", T0 * tau**j * (lr0 * gamma**j) ** 2 / (b0 * delta**j), weight, g / rho
        )
        self.n_sum = self.geometric(
            N, "a stage adds T_j b_j gradient evaluations", T0 * tau**j * b0 * delta**j, b0 * T0, g * rho
        )
        self.geometric_sum()
        bound = self.assume("Q is the bound of T1 at the end of stage M", eq(Q, (C1 + C2 * V) / S))
        self.state.combine("so it bounds min E‖∇f‖²", le(m, Q), named_bound(self, lr), uses=(bound,))
        self.balance = self.combine("cleared of its denominator", eq(Q * S, C1 + C2 * V), S * bound)
        self.exponent = self.assume("the exponent of all cases", eq(p, sp.log(sp.Min(g, rho)) / (log_g + log_rho)))
        many, both = (above(g, 1),), (above(rho, 1), above(g, 1))
        s_low, s_top = self.at(self.bottom, g, many), self.at(self.top, g, many)
        self.s_low = self.combine("S grows like g^M", ge(S, lr0 * T0 * g**M), self.s_sum + lr0 * T0 * s_low, on=many)
        self.s_top = self.combine(
            "and no faster", le(S, lr0 * T0 * g**M * g / (g - 1)), -self.s_sum + lr0 * T0 * s_top, on=many
        )
        n_top, n_low = self.at(self.top, g * rho, both), self.at(self.bottom, g * rho, both)
        self.named = self.assume("a name for its constant", eq(R, b0 * T0 * g * rho / (g * rho - 1)))
        self.n_end = self.combine(
            "N grows like (gρ)^M",
            le(N, R * (g * rho) ** M),
            -self.n_sum + b0 * T0 * n_top + (g * rho) ** M * self.named,
            on=both,
        )
        self.n_low = self.combine(
            "and no slower", ge(N, b0 * T0 * (g * rho) ** M), self.n_sum + b0 * T0 * n_low, on=both
        )
        self.state.combine(
            "and before the next stage ends, N stays below a constant times that",
            le(N + b0 * T0 * (g * rho) ** (M + 1), (1 + g * rho) * N),
            g * rho * self.n_low,
            on=both,
        )

    def geometric(self, symbol, words, term, first, base) -> Step:
        """`symbol`, the sum of `term` over the stages, as `first` times a geometric sum."""
        total = self.assume(words, eq(symbol, _upto(term)))
        used = tuple(named for named in self.growth if term.has(named.fact.lhs))
        power = self.identity("as a power", term, first * base**j, uses=used)
        added = self.total("summed over the stages", eq(_upto(term), first * _upto(base**j)), power, (j, 0, M))
        return self.combine(f"{symbol} as a geometric sum", eq(symbol, first * _upto(base**j)), total + added)

    def geometric_sum(self) -> None:
        """Σ_{j≤M} x^j: its closed form and bounds on both sides of x = 1."""
        closed = self.closed_sum("the geometric sum", _upto(x**j), (x ** (M + 1) - 1) / (x - 1), M, start=0)
        more, fewer = (above(x, 1),), (between(x, 0, 1),)
        self.top = self.combine(
            "for x > 1 the last term bounds it from above", le(_upto(x**j), x**M * x / (x - 1)), -closed, on=more
        )
        one = self.sign("a base above 1", gt(x, 1), on=more)
        self.power = self.map("and its powers", gt(x**M, 1), one, sp.Lambda(y, y**M), on=more)
        self.bottom = self.combine("and from below", ge(_upto(x**j), x**M), closed + self.power / (x - 1), on=more)
        self.less = self.combine("for x < 1 it stays bounded", le(_upto(x**j), 1 / (1 - x)), -closed, on=fewer)
        self.count = self.closed_sum("for x = 1 it counts the stages", _upto(sp.S.One), M + 1, M, start=0)

    def at(self, step, base, on) -> Step:
        """A bound on the geometric sum, or on a power, at another base."""
        fact = step.fact.func(*(side.subs(x, base) for side in step.fact.args), evaluate=False)
        return self.instance("the geometric sum in this base", fact, step, {x: base}, on=on)

    def decay(self, v_most, base, rate, here, on) -> None:
        """From Q ≤ (C1 + C2 v_most)/(η_0 T_0 base^M): Q·N^p ≤ a constant, where p = ln base/ln gρ."""
        const, power = (C1 + C2 * v_most) / (lr0 * T0), here.fact.rhs
        raised = self.map(
            "N to the power p", le(N**power, (R * (g * rho) ** M) ** power), self.n_end, sp.Lambda(y, y**power), on=on
        )
        same = self.identity("p turns (gρ)^M into what Q falls by", ((g * rho) ** M) ** power, base**M)
        self.state.combine(
            "so Q falls like N^−p, without a logarithm",
            le(Q * N**p, const * R**p),
            N**power * rate + const / base**M * raised - const * R**power / base**M * same,
            on=on,
            uses=(here,),
        )

    def below_half(self, small, large, here, on) -> None:
        """p < 1/2 where `small` < `large`."""
        apart = self.sign("one is larger", gt(large, small), on=on[:1])
        logs = self.map(
            "and so is its logarithm", gt(sp.log(large), sp.log(small)), apart, sp.Lambda(y, sp.log(y)), on=on[:1]
        )
        self.state.combine("p is below 1/2", lt(p, sp.S.Half), logs / (2 * (log_g + log_rho)), on=on, uses=(here,))

    def fast(self) -> None:
        """δ > γ²τ: V stays bounded."""
        on = (above(rho, g), above(g, 1))
        here = self.combine("δ > γ²τ, that is ρ > g", eq(p, log_g / (log_g + log_rho)), self.exponent, on=on[:1])
        self.below_half(g, rho, here, on)
        v_top = self.at(self.less, g / rho, on[:1])
        v_most, scale = weight / (1 - g / rho), lr0 * T0 * g**M
        small = self.combine("V stays bounded", le(V, v_most), -self.v_sum + weight * v_top, on=on[:1])
        rate = self.combine(
            "and Q falls like g^−M",
            le(Q, (C1 + C2 * v_most) / scale),
            -self.balance / scale + Q / scale * self.s_low + C2 / scale * small,
            on=on,
        )
        self.decay(v_most, g, rate, here, on)

    def slow(self) -> None:
        """δ < γ²τ: V grows like (g/ρ)^M."""
        on, base = (above(g, rho), above(rho, 1)), g / rho
        here = self.combine("δ < γ²τ, that is g > ρ", eq(p, log_rho / (log_g + log_rho)), self.exponent, on=on[:1])
        self.below_half(rho, g, here, on)
        v_top, v_low, large = (self.at(step, base, on[:1]) for step in (self.top, self.bottom, self.power))
        v_most, scale = weight * base / (base - 1), lr0 * T0 * g**M
        grown = self.combine("V grows like (g/ρ)^M", le(V, v_most * base**M), -self.v_sum + weight * v_top, on=on[:1])
        rate = self.combine(
            "and Q falls like ρ^−M",
            le(Q, (C1 + C2 * v_most) / (lr0 * T0 * rho**M)),
            -self.balance / scale + Q / scale * self.s_low + C2 / scale * grown + C1 / scale * large,
            on=on,
        )
        self.decay(v_most, rho, rate, here, on)
        least = self.combine("from below: V", ge(V, weight * base**M), self.v_sum + weight * v_low, on=on[:1])
        top = lr0 * T0 * g**M * g / (g - 1)
        self.state.combine(
            "Q falls no faster than that",
            ge(Q, C2 * weight * base**M / top),
            self.balance / top + Q / top * self.s_top + C2 / top * least,
            on=on,
        )

    def even(self) -> None:
        """δ = γ²τ: V grows by the same in every stage."""
        on, same = (above(g, 1),), {rho: g}
        self.state.root(
            "γτ = δ/γ is one surface",
            g - delta / gamma,
            above(g, 0),
            rho,
            name=sp.Symbol("g_even", positive=True),
            uses=(self.growth[1],),
        )
        here = self.state.instance("on it p is", eq(p_even, sp.S.Half), self.exponent, same | {p: p_even})
        flat = self.instance("V there", eq(V_flat, weight * _upto(sp.S.One)), self.v_sum, same | {V: V_flat})
        linear = self.combine("V counts the stages", eq(V_flat, weight * (M + 1)), flat + weight * self.count)
        n_end = self.instance(
            "N there", le(N_even, R_even * g ** (2 * M)), self.n_end, same | {N: N_even, R: R_even}, on=on
        )
        Q_even = sp.Symbol("Q_even", positive=True)
        balance = self.instance("Q there", eq(Q_even * S, C1 + C2 * V_flat), self.balance, {Q: Q_even, V: V_flat})
        const, scale = (C1 + C2 * weight * (M + 1)) / (lr0 * T0), lr0 * T0 * g**M
        rate = self.combine(
            "falls like (M + 1) g^−M",
            le(Q_even, const / g**M),
            -balance / scale + Q_even / scale * self.s_low - C2 / scale * linear,
            on=on,
        )
        root = self.map(
            "the root of N", le(sp.sqrt(N_even), sp.sqrt(R_even) * g**M), n_end, sp.Lambda(y, sp.sqrt(y)), on=on
        )
        self.state.combine(
            "so p = 1/2, with the factor M + 1, which is linear in ln N: the logarithm",
            le(Q_even * N_even**p_even, const * R_even**p_even),
            sp.sqrt(N_even) * rate + const / g**M * root,
            on=on,
            uses=(here,),
        )

    def floor(self) -> None:
        """What Q cannot fall below: for any growth, for γτ ≤ 1, and for δ ≤ γ."""
        top = lr0 * T0 * g**M * g / (g - 1)
        self.state.combine(
            "Q falls no faster than g^−M: p cannot be larger in this bound",
            ge(Q, C1 / top),
            self.balance / top + Q / top * self.s_top,
            on=(above(g, 1),),
        )
        Q_flat = sp.Symbol("Q_flat", positive=True)
        flat = self.instance("γτ = 1", eq(S_flat, lr0 * T0 * _upto(sp.S.One)), self.s_sum, {g: sp.S.One, S: S_flat})
        linear = self.combine("S counts the stages", eq(S_flat, lr0 * T0 * (M + 1)), flat + lr0 * T0 * self.count)
        balance = self.instance("Q there", eq(Q_flat * S_flat, C1 + C2 * V), self.balance, {Q: Q_flat, S: S_flat})
        most = lr0 * T0 * (M + 1)
        slow = self.state.combine(
            "γτ = 1: Q falls no faster than 1/(M + 1)", ge(Q_flat, C1 / most), balance / most - Q_flat / most * linear
        )
        grow = (above(rho, 1),)
        n_flat = self.instance("N there", eq(N_flat, b0 * T0 * _upto(rho**j)), self.n_sum, {g: sp.S.One, N: N_flat})
        n_low = self.combine(
            "N grows like ρ^M",
            ge(N_flat, b0 * T0 * rho**M),
            n_flat + b0 * T0 * self.at(self.bottom, rho, grow),
            on=grow,
        )
        power = self.map("and to any power", ge(N_flat**y, (b0 * T0 * rho**M) ** y), n_low, sp.Lambda(x, x**y), on=grow)
        least = sp.Function("Q_least")(x)
        named = self.assume("a function of the stages", eq(least, C1 * (b0 * T0 * rho**x) ** y / (lr0 * T0 * (x + 1))))
        self.state.combine(
            "so Q·N^y is at least",
            ge(Q_flat * N_flat**y, least.func(M)),
            N_flat**y * slow + C1 / most * power,
            uses=(named,),
            on=grow,
        )
        grown = self.assume("ρ > 1, written", eq(rho, sp.exp(u)))
        self.state.limit(
            "which no power y > 0 of N keeps bounded, be it ever so small", least, x, sp.oo, sp.oo, uses=(grown, named)
        )
        short = (between(g, 0, 1),)
        s_end = self.combine(
            "γτ < 1: S stays bounded",
            le(S, lr0 * T0 / (1 - g)),
            -self.s_sum + lr0 * T0 * self.at(self.less, g, short),
            on=short,
        )
        self.state.combine(
            "so Q does too, from below",
            ge(Q, C1 * (1 - g) / (lr0 * T0)),
            (1 - g) / (lr0 * T0) * self.balance + Q * (1 - g) / (lr0 * T0) * s_end,
            on=short,
        )
        epochs = self.root(
            "a fixed number of epochs a stage, τδ = 1, has γτ",
            tau * delta - 1,
            above(g, 0),
            1 / rho,
            name=g_epochs,
            uses=self.growth,
        )
        self.state.sign("and is such a case where γ < δ", lt(g_epochs, 1), on=grow, uses=(epochs,))
        scaled = (between(rho, 0, 1, "(]"),)
        ratio = self.sign("δ ≤ γ, that is ρ ≤ 1", ge(g / rho, g), on=scaled)
        powers = self.map("powers", ge((g / rho) ** j, g**j), ratio, sp.Lambda(y, y**j), on=scaled)
        added = self.total("summed", ge(_upto((g / rho) ** j), _upto(g**j)), powers, (j, 0, M), on=scaled)
        noise = self.combine(
            "V keeps up with S", ge(V, lr0 / b0 * S), self.v_sum - lr0 / b0 * self.s_sum + weight * added, on=scaled
        )
        self.state.combine(
            "so the noise term does not vanish (δ = γ is the linear scaling rule)",
            ge(Q, C2 * lr0 / b0),
            self.balance / S + C2 / S * noise,
            on=scaled,
        )


@cache
def rate_exponent() -> Derivation:
    """T5: Q = (C1 + C2 V)/S is O(N^−p), p = ln min(γτ, δ/γ)/ln δτ ≤ 1/2, equal exactly where δ = γ²τ."""
    proof = _Cases("T5", "Rate exponent", NEW)
    for case in (proof.fast, proof.slow, proof.even, proof.floor):
        case()
    return proof.done()
