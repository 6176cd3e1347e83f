"""T5: the rate exponent of geometric growth."""

from __future__ import annotations

from functools import cache

import sympy as sp

from sfolib.theory.derivations.algebra import above, between, eq, ge, gt, le, lt
from sfolib.theory.derivations.critical_batch_size import NEW
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import S, V
from sfolib.theory.derivations.inference import Instance
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.symbols import C1, C2, M, delta, gamma, j, tau

b0, lr0, T0, N, Q = sp.symbols("b_0 eta_0 T_0 N Q", positive=True)
g, rho, x, y = sp.symbols("g rho x y", positive=True)
weight = lr0**2 * T0 / b0  # V of the first stage
first_crossing = sp.Symbol("R", positive=True)  # N at the end of stage M is at most this times (gρ)^M


def _upto(term):
    return sp.Sum(term, (j, 0, M))


def _stage_sums(proof) -> tuple:
    """S, V and N up to the end of stage M as geometric sums in g = γτ, q = g/ρ and gρ, where ρ = δ/γ."""
    named = []
    for symbol, words, term, base, plain in (
        (S, "a stage adds T_j η_j", T0 * tau**j * (lr0 * gamma**j), gamma * tau, lr0 * T0),
        (
            V,
            "a stage adds T_j η_j²/b_j",
            T0 * tau**j * (lr0 * gamma**j) ** 2 / (b0 * delta**j),
            gamma**2 * tau / delta,
            weight,
        ),
        (N, "a stage adds T_j b_j gradient evaluations", T0 * tau**j * (b0 * delta**j), delta * tau, b0 * T0),
    ):
        total = proof.assume(words, eq(symbol, _upto(term)))
        power = proof.identity("as a power", term, plain * base**j)
        added = proof.total("summed over the stages", eq(_upto(term), plain * _upto(base**j)), power, (j, 0, M))
        geometric = proof.combine(
            f"{symbol} as a geometric sum", eq(symbol, plain * _upto(base**j)), (total, 1), (added, 1)
        )
        ways = {tau: g / gamma, delta: rho * gamma}
        named.append(
            proof.instance("with g = γτ and ρ = δ/γ", eq(symbol, geometric.fact.rhs.subs(ways)), geometric, ways)
        )
    return named


def _geometric(proof) -> tuple:
    """Σ_{j≤M} x^j: its closed form and bounds on both sides of x = 1."""
    closed = proof.closed_sum("the geometric sum", _upto(x**j), (x ** (M + 1) - 1) / (x - 1), M, start=0)
    more = (above(x, 1),)
    top = proof.combine(
        "for x > 1 the last term bounds it from above", le(_upto(x**j), x**M * x / (x - 1)), (closed, -1), on=more
    )
    one = proof.sign("a base above 1", gt(x, 1), on=more)
    power = proof.map("and its powers", gt(x**M, 1), one, sp.Lambda(y, y**M), on=more)
    bottom = proof.combine("and from below", ge(_upto(x**j), x**M), (closed, 1), (power, 1 / (x - 1)), on=more)
    less = proof.combine(
        "for x < 1 it stays bounded", le(_upto(x**j), 1 / (1 - x)), (closed, -1), on=(between(x, 0, 1),)
    )
    count = proof.closed_sum("for x = 1 it counts the stages", _upto(sp.S.One), M + 1, M, start=0)
    return top, power, bottom, less, count


def _decay(proof, words, v_most, base, rate, on) -> None:
    """From V ≤ v_most at q^M (or 1) on: Q·N^p ≤ a constant, where Q falls like base^−M and p = ln base/ln gρ."""
    const = (C1 + C2 * v_most) / (lr0 * T0)
    p = sp.log(base) / sp.log(g * rho)
    power = proof.map(
        "N to the power p", le(N**p, (first_crossing * (g * rho) ** M) ** p), proof.n_end, sp.Lambda(y, y**p), on=on
    )
    same = proof.identity("p is the exponent that turns (gρ)^M into what Q falls by", ((g * rho) ** M) ** p, base**M)
    proof.combine(
        words,
        le(Q * N**p, const * first_crossing**p),
        (rate, N**p),
        (power, const / base**M),
        (same, -const * first_crossing**p / base**M),
        on=on,
        stated=True,
    )


class _Cases(Proof):
    """The steps of T5: what all cases share, then each case."""

    def __init__(self, *heading):
        super().__init__(*heading)
        self.s_sum, self.v_sum, self.n_sum = _stage_sums(self)
        self.top, self.power, self.bottom, self.less, self.count = _geometric(self)
        bound = self.assume("Q is the bound of T1 at the end of stage M", eq(Q, (C1 + C2 * V) / S))
        self.balance = self.combine("cleared of its denominator", eq(Q * S, C1 + C2 * V), (bound, S))
        many, both = (above(g, 1),), (above(rho, 1), above(g, 1))
        s_low = self.at(self.bottom, g, many)
        self.s_low = self.combine(
            "S grows like g^M", ge(S, lr0 * T0 * g**M), (self.s_sum, 1), (s_low, lr0 * T0), on=many
        )
        s_top = self.at(self.top, g, many)
        self.s_top = self.combine(
            "and no faster", le(S, lr0 * T0 * g**M * g / (g - 1)), (self.s_sum, -1), (s_top, lr0 * T0), on=many
        )
        n_top = self.at(self.top, g * rho, both)
        named = self.assume("a name for its constant", eq(first_crossing, b0 * T0 * g * rho / (g * rho - 1)))
        self.n_end = self.combine(
            "N grows like (gρ)^M",
            le(N, first_crossing * (g * rho) ** M),
            (self.n_sum, -1),
            (n_top, b0 * T0),
            (named, (g * rho) ** M),
            on=both,
        )
        n_low = self.at(self.bottom, g * rho, both)
        self.n_low = self.combine(
            "and no slower", ge(N, b0 * T0 * (g * rho) ** M), (self.n_sum, 1), (n_low, b0 * T0), on=both
        )

        self.between = self.combine(
            "and before the next stage ends, N stays below a constant times that",
            le(N + b0 * T0 * (g * rho) ** (M + 1), (1 + g * rho) * N),
            (self.n_low, g * rho),
            on=both,
            stated=True,
        )

    def at(self, step, base, on) -> Instance:
        """A bound on the geometric sum at another base."""
        fact = step.fact.func(*(side.subs(x, base) for side in step.fact.args), evaluate=False)
        return self.instance("the geometric sum in this base", fact, step, {x: base}, on=on)

    def fast(self) -> None:
        """δ > γ²τ: V stays bounded."""
        on = (above(rho, g), above(g, 1))
        v_top = self.at(self.less, g / rho, on)
        v_most = weight / (1 - g / rho)
        small = self.combine(
            "δ > γ²τ, that is ρ > g: V stays bounded", le(V, v_most), (self.v_sum, -1), (v_top, weight), on=on
        )
        scale = lr0 * T0 * g**M
        rate = self.combine(
            "and Q falls like g^−M",
            le(Q, (C1 + C2 * v_most) / scale),
            (self.balance, -1 / scale),
            (self.s_low, Q / scale),
            (small, C2 / scale),
            on=on,
        )
        _decay(self, "so with p = ln g/ln gρ, without a logarithm", v_most, g, rate, on)

    def slow(self) -> None:
        """δ < γ²τ: V grows like q^M."""
        on = (above(g, rho), above(rho, 1))
        base = g / rho
        v_top, large = self.at(self.top, base, on), self.at(self.power, base, on)
        v_most = weight * base / (base - 1)
        grown = self.combine(
            "δ < γ²τ, that is g > ρ: V grows like (g/ρ)^M",
            le(V, v_most * base**M),
            (self.v_sum, -1),
            (v_top, weight),
            on=on,
        )
        scale = lr0 * T0 * g**M
        rate = self.combine(
            "and Q falls like ρ^−M",
            le(Q, (C1 + C2 * v_most) * base**M / scale),
            (self.balance, -1 / scale),
            (self.s_low, Q / scale),
            (grown, C2 / scale),
            (large, C1 / scale),
            on=on,
        )
        v_low = self.at(self.bottom, base, on)
        self.v_low = self.combine("from below: V", ge(V, weight * base**M), (self.v_sum, 1), (v_low, weight), on=on)
        top = lr0 * T0 * g**M * g / (g - 1)
        self.combine(
            "Q falls no faster than that",
            ge(Q, C2 * weight * base**M / top),
            (self.balance, 1 / top),
            (self.s_top, Q / top),
            (self.v_low, C2 / top),
            on=on,
        )
        plain = self.combine(
            "the same, in powers of ρ", le(Q, (C1 + C2 * v_most) / (lr0 * T0 * rho**M)), (rate, 1), on=on
        )
        _decay(self, "so with p = ln ρ/ln gρ, without a logarithm", v_most, rho, plain, on)

    def even(self) -> None:
        """δ = γ²τ: V grows by the same in every stage."""
        on = (above(g, 1),)
        flat = self.instance("δ = γ²τ, that is ρ = g", eq(V, weight * _upto(sp.S.One)), self.v_sum, {rho: g})
        linear = self.combine("V counts the stages", eq(V, weight * (M + 1)), (flat, 1), (self.count, weight))
        n_end = self.instance("N at ρ = g", le(N, first_crossing * g ** (2 * M)), self.n_end, {rho: g}, on=on)
        const, scale = (C1 + C2 * weight * (M + 1)) / (lr0 * T0), lr0 * T0 * g**M
        rate = self.combine(
            "and Q falls like (M + 1) g^−M",
            le(Q, const / g**M),
            (self.balance, -1 / scale),
            (self.s_low, Q / scale),
            (linear, -C2 / scale),
            on=on,
        )
        root = self.map(
            "the root of N", le(sp.sqrt(N), sp.sqrt(first_crossing) * g**M), n_end, sp.Lambda(y, sp.sqrt(y)), on=on
        )
        self.combine(
            "so p = 1/2, with the factor M + 1, which is linear in ln N: the logarithm",
            le(Q * sp.sqrt(N), const * sp.sqrt(first_crossing)),
            (rate, sp.sqrt(N)),
            (root, const / g**M),
            on=on,
            stated=True,
        )

    def floor(self) -> None:
        """What Q cannot fall below: for any growth, for γτ ≤ 1, and for δ ≤ γ."""
        top = lr0 * T0 * g**M * g / (g - 1)
        self.combine(
            "Q falls no faster than g^−M: p cannot be larger in this bound",
            ge(Q, C1 / top),
            (self.balance, 1 / top),
            (self.s_top, Q / top),
            on=(above(g, 1),),
            stated=True,
        )
        flat = self.instance("γτ = 1", eq(S, lr0 * T0 * _upto(sp.S.One)), self.s_sum, {g: sp.S.One})
        linear = self.combine("S counts the stages", eq(S, lr0 * T0 * (M + 1)), (flat, 1), (self.count, lr0 * T0))
        self.combine(
            "γτ = 1: Q falls no faster than 1/(M + 1)",
            ge(Q, C1 / (lr0 * T0 * (M + 1))),
            (self.balance, 1 / (lr0 * T0 * (M + 1))),
            (linear, -Q / (lr0 * T0 * (M + 1))),
            stated=True,
        )
        self.limit(
            "while N grows like ρ^M: no power of N, be it y/ln ρ ever so small, is reached",
            sp.exp(y * x) / (x + 1),
            x,
            sp.oo,
            sp.oo,
            stated=True,
        )
        short = (between(g, 0, 1),)
        s_most = self.at(self.less, g, short)
        s_end = self.combine(
            "γτ < 1: S stays bounded", le(S, lr0 * T0 / (1 - g)), (self.s_sum, -1), (s_most, lr0 * T0), on=short
        )
        self.combine(
            "so Q does too, from below",
            ge(Q, C1 * (1 - g) / (lr0 * T0)),
            (self.balance, (1 - g) / (lr0 * T0)),
            (s_end, Q * (1 - g) / (lr0 * T0)),
            on=short,
            stated=True,
        )
        self.sign(
            "a fixed number of epochs a stage, τ = 1/δ, with γ < δ is such a case",
            lt(gamma * (1 / delta), 1),
            on=(above(delta, gamma),),
            stated=True,
        )
        scaled = (between(rho, 0, 1, "(]"),)
        ratio = self.sign("δ ≤ γ, that is ρ ≤ 1", ge(g / rho, g), on=scaled)
        powers = self.map("powers", ge((g / rho) ** j, g**j), ratio, sp.Lambda(y, y**j), on=scaled)
        added = self.total("summed", ge(_upto((g / rho) ** j), _upto(g**j)), powers, (j, 0, M), on=scaled)
        noise = self.combine(
            "V keeps up with S",
            ge(V, lr0 / b0 * S),
            (self.v_sum, 1),
            (self.s_sum, -lr0 / b0),
            (added, weight),
            on=scaled,
        )
        self.combine(
            "so the noise term does not vanish (δ = γ is the linear scaling rule)",
            ge(Q, C2 * lr0 / b0),
            (self.balance, 1 / S),
            (noise, C2 / S),
            on=scaled,
            stated=True,
        )

    def exponent(self) -> None:
        """p = min(x, y)/(x + y) ≤ 1/2 with x = ln γτ, y = ln δ/γ."""
        p = sp.Min(x, y) / (x + y)
        half = self.identity(
            "p with x = ln γτ > 0, y = ln δ/γ > 0: how far it is below 1/2",
            sp.S.Half - p,
            sp.Abs(x - y) / (2 * (x + y)),
        )
        most = self.sign("which is never negative", ge(half.rhs, 0))
        bounded = self.combine("so p ≤ 1/2", le(p, sp.S.Half), (half, 1), (most, 1))
        self.sign("p < 1/2 where y > x", lt(p, sp.S.Half), on=(above(y, x),), stated=True)
        self.sign("and where x > y", lt(p, sp.S.Half), on=(above(x, y),), stated=True)
        of = sp.Min(sp.log(gamma * tau), sp.log(delta / gamma)) / sp.log(delta * tau)
        grow = (above(tau, 1 / gamma), above(delta, gamma))
        self.instance(
            "in the growth factors",
            le(of, sp.S.Half),
            bounded,
            {x: sp.log(gamma * tau), y: sp.log(delta / gamma)},
            on=grow,
            stated=True,
        )
        self.root(
            "x = y, where γτ = δ/γ, is one surface",
            gamma * tau - delta / gamma,
            above(delta, 0),
            gamma**2 * tau,
            stated=True,
        )
        self.identity("and on it p is", sp.Subs(of, delta, gamma**2 * tau), sp.S.Half, stated=True)


@cache
def rate_exponent() -> Derivation:
    """T5: Q = (C1 + C2 V)/S is O(N^−p), p = min(ln γτ, ln δ/γ)/ln δτ ≤ 1/2, equal exactly where δ = γ²τ."""
    proof = _Cases("T5", "Rate exponent", NEW)
    for case in (proof.fast, proof.slow, proof.even, proof.floor, proof.exponent):
        case()
    return proof.done()
