"""What SymPy is asked to decide: that an expression is 0, and that it has one sign on a whole range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp
from sympy.core.function import AppliedUndef

from sfolib._utils.errors import require


def eq(a, b):
    """The relation a = b, left as written."""
    return sp.Eq(a, b, evaluate=False)


def le(a, b):
    """The relation a ≤ b, left as written."""
    return sp.Le(a, b, evaluate=False)


def lt(a, b):
    """The relation a < b, left as written."""
    return sp.Lt(a, b, evaluate=False)


def ge(a, b):
    """The relation a ≥ b, left as written."""
    return sp.Ge(a, b, evaluate=False)


def gt(a, b):
    """The relation a > b, left as written."""
    return sp.Gt(a, b, evaluate=False)


def ratio(a, b):
    """a/b, left as written."""
    return sp.Mul(a, 1 / sp.sympify(b), evaluate=False)


def slack(relation):
    """The expression that the relation says is ≥ 0, > 0 or, for an equation, 0."""
    return relation.rhs - relation.lhs if isinstance(relation, (sp.Le, sp.Lt)) else relation.lhs - relation.rhs


def is_strict(relation) -> bool:
    """Whether the relation is < or >."""
    return isinstance(relation, (sp.Lt, sp.Gt))


@dataclass(frozen=True)
class Range:
    """The values of x between low and high; each end is open, "(" and ")", or one of them closed, "[" or "]".

    Raises `InputError` where both are closed, or no value of x is between them.
    """

    x: sp.Expr
    low: sp.Expr
    high: sp.Expr = sp.oo
    ends: str = "()"

    def __post_init__(self):
        require(self.ends in ("()", "(]", "[)"), "ends", self.ends, 'must be "()", "(]" or "[)"')
        require(self.low != -sp.oo or self.high == sp.oo, "low", self.low, "must be finite where high is")
        empty = (self.high - self.low).is_nonpositive or (self.x.is_positive and self.high.is_nonpositive)
        require(not empty, "high", self.high, f"must be above low = {self.low}, and {self.x} must reach below it")

    @property
    def words(self) -> str:
        """As text: "0 < x ≤ high"."""
        left, right = ("<" if end in "()" else "≤" for end in self.ends)
        low, high = (
            "" if self.low == -sp.oo else f"{self.low} {left} ",
            "" if self.high == sp.oo else f" {right} {self.high}",
        )
        return f"{low}{self.x}{high}"

    def covered(self) -> sp.Expr:
        """An expression that runs through exactly this range as its own u runs through (0, ∞), or [0, ∞)."""
        u = sp.Dummy("u", positive=True) if self.ends == "()" else sp.Dummy("u", nonnegative=True)
        if self.high == sp.oo:
            return self.low + u
        near, far = (self.high, self.low) if self.ends == "(]" else (self.low, self.high)
        return (near + far * u) / (1 + u)

    def inside(self, value, ranges=()) -> bool:
        """Whether `value` is proved to lie in this range."""
        return (self.low == -sp.oo or has_sign(value - self.low, ranges, strict=self.ends[0] == "(")) and (
            self.high == sp.oo or has_sign(self.high - value, ranges, strict=self.ends[1] == ")")
        )

    def outside(self, value, ranges=()) -> bool:
        """Whether `value` is proved to lie outside this range."""
        return (self.low != -sp.oo and has_sign(self.low - value, ranges, strict=self.ends[0] == "[")) or (
            self.high != sp.oo and has_sign(value - self.high, ranges, strict=self.ends[1] == "]")
        )

    def replaced(self, new: Callable) -> Range:
        """The range with `new` applied to its term and ends."""
        return Range(new(self.x), new(self.low), new(self.high), self.ends)

    def mapped(self, at) -> Range:
        """The range that is meant once terms are replaced."""
        return self.replaced(lambda e: sp.sympify(e).subs(dict(at), simultaneous=True))

    @property
    def tex(self) -> str:
        if (self.low, self.high) == (-sp.oo, sp.oo):
            return rf"{sp.latex(self.x)} \in \mathbb{{R}}"
        signs = {"(": "<", ")": "<", "[": r"\le", "]": r"\le"}
        left = f"{sp.latex(self.low)} {signs[self.ends[0]]} "
        right = "" if self.high == sp.oo else f" {signs[self.ends[1]]} {sp.latex(self.high)}"
        return left + sp.latex(self.x) + right


def above(x, low) -> Range:
    """x > low."""
    return Range(x, sp.sympify(low))


def at_least(x, low) -> Range:
    """x ≥ low."""
    return Range(x, sp.sympify(low), ends="[)")


def between(x, low, high, ends="()") -> Range:
    """low < x < high, or with one end included."""
    return Range(x, sp.sympify(low), sp.sympify(high), ends)


def anywhere(x) -> Range:
    """Any real x; only for the unknown of a root."""
    return Range(x, -sp.oo)


def on_range(expr, ranges):
    """`expr` with each bounded symbol replaced by a form that covers its range."""
    covers = [(r.x, r.covered()) for r in ranges if r.low != -sp.oo]
    for _ in covers:  # the ends of a range may themselves lie in ranges
        for x, cover in covers:
            expr = expr.subs(x, cover)
    return expr


def defined(expr, ranges=()) -> bool:
    """Whether `expr` is finite for all values that its symbols and `ranges` allow: no divisor and no log of 0."""
    expr = evaluated(expr)
    divisors = {power.base for power in expr.atoms(sp.Pow) if not power.exp.is_nonnegative}
    logs = {log.args[0] for log in expr.atoms(sp.log)}
    return (
        not expr.has(sp.oo, -sp.oo, sp.zoo, sp.nan)
        and all(has_sign(base, ranges) or has_sign(-base, ranges) for base in divisors)
        and all(has_sign(arg, ranges) for arg in logs)
    )


def split_sums(expr):
    """Sums split into their terms, constants pulled out: linearity, and nothing more."""

    def split(total):
        terms = []
        for term in sp.Add.make_args(sp.expand(total.function)):
            constant, rest = term.as_independent(*total.variables, as_Add=False)
            terms.append(constant * sp.Sum(rest, *total.limits))
        return sp.Add(*terms)

    return expr.replace(lambda e: isinstance(e, sp.Sum), split)


def evaluated(expr):
    """`expr` with its derivatives, integrals and substitutions carried out; sums stay as written."""
    pending = (sp.Derivative, sp.Integral, sp.Subs)
    return sp.sympify(expr).replace(lambda e: isinstance(e, pending), lambda e: e.doit())


@lru_cache(maxsize=2**14)
def vanishes(expr) -> bool:
    """Whether SymPy brings `expr` to exactly 0."""
    expr = split_sums(evaluated(expr))
    expr = expr.xreplace({whole: sp.Dummy() for whole in expr.atoms(sp.Sum, sp.Limit)})
    if _differs_from_zero(expr):
        return False
    forms = (
        sp.expand,
        lambda e: sp.cancel(sp.together(e)),
        lambda e: sp.expand(sp.expand_log(e)),
        _one_exponential,
        lambda e: sp.simplify(e.rewrite(sp.Abs)),
        lambda e: sp.simplify(sp.powsimp(sp.expand_power_base(sp.expand(e)))),
    )
    return any(form(expr) == 0 for form in forms)


def _one_exponential(expr):
    """Powers as exponentials, their exponents brought together and cancelled."""
    expr = sp.powsimp(sp.expand(expr.rewrite(sp.exp)))
    return sp.expand(expr.replace(sp.exp, lambda a: sp.exp(sp.cancel(sp.expand_log(a)))))


def _differs_from_zero(expr) -> bool:
    """Whether a value at one point already shows that `expr` is not 0: only a shortcut to False."""
    atoms = sorted(expr.atoms(sp.Symbol, sp.Indexed, AppliedUndef) - expr.atoms(sp.IndexedBase), key=str)
    point = {a: sp.Rational(1297 + 366 * k, 1000) for k, a in enumerate(atoms) if not a.is_integer}
    point |= {a: sp.Integer(2 + k) for k, a in enumerate(atoms) if a.is_integer}
    value = expr.xreplace(point).evalf(40)
    return bool(value.is_number and value.is_finite and abs(value) > 1e-20)


@lru_cache(maxsize=2**14)
def has_sign(expr, ranges=(), strict: bool = True) -> bool:
    """Whether `expr` > 0 (≥ 0 unless `strict`) is proved for all values that its symbols and `ranges` allow.

    Each factor of numerator and denominator must have coefficients of one sign in positive generators, be an even
    power, or be a polynomial in one generator without a root on the half line (counted exactly).
    """
    expr = on_range(evaluated(expr), ranges)
    expr = sp.expand_power_exp(sp.powsimp(expr)).replace(sp.log, lambda e: sp.log(sp.expand(e)))
    powers = [power for power in expr.atoms(sp.Pow) if power.exp.free_symbols and power.is_positive]
    expr = expr.xreplace({power: sp.Dummy("power", positive=True) for power in powers})
    numerator, denominator = sp.fraction(sp.together(expr))
    above_line, below_line = _sign(numerator), _sign(denominator)
    if above_line is None or below_line is None or not below_line[1]:
        return False
    sign = above_line[0] * below_line[0]
    return bool(sign > 0 and above_line[1] if strict else sign >= 0)


def _sign(expr):
    """(sign, never 0) of an expression of one sign, or None where none is proved."""
    if expr.is_zero:
        return 0, False
    sign, strict = 1, True
    for part in sp.Mul.make_args(expr):
        if part.is_Add and (expanded := sp.expand(part)).is_number:
            part = expanded
        if part.is_positive or part.is_negative:
            sign *= 1 if part.is_positive else -1
            continue
        constant, factors = sp.factor_list(part)
        sign *= int(sp.sign(constant))
        for factor, power in factors:
            found = _sign_of_factor(factor)
            if found is None and power % 2 == 0 and factor.is_real:
                found = 1, False
            if found is None:
                return None
            sign, strict = sign * found[0] ** power, strict and found[1]
    return sign, strict


def _sign_of_factor(factor):
    if factor.is_positive or factor.is_negative:
        return (1 if factor.is_positive else -1), True
    gens = sorted(factor.free_symbols, key=str) if factor.is_polynomial() else None
    polynomial = sp.Poly(factor, *gens) if gens else sp.Poly(factor)
    if all(g.is_nonnegative for g in polynomial.gens):
        signs = {sp.sign(c) for c in polynomial.coeffs()}
        if len(signs) == 1 and (sign := signs.pop()) in (1, -1):
            positive = [
                all(g.is_positive for g, k in zip(polynomial.gens, powers, strict=True) if k)
                for powers in polynomial.monoms()
            ]
            return int(sign), any(positive)
        if (
            len(polynomial.gens) == 1
            and polynomial.domain.is_Exact
            and polynomial.domain.is_Numerical
            and polynomial.count_roots(0, None) == 0
        ):
            return int(sp.sign(polynomial.eval(1))), True
    return (1, False) if factor.is_nonnegative else None
