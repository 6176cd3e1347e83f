"""The kinds of step: each is a claim in words, a fact as a SymPy relation, and a way to prove it that can fail.

A step may rest on the facts of earlier steps, its `premises`, where these were proved; nothing else is taken as
known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import ClassVar

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.polys.polyerrors import BasePolynomialError

from sfolib.theory.derivations.algebra import Range, eq, evaluated, has_sign, is_strict, slack, vanishes

# what SymPy raises where it cannot work with an expression
UNDECIDED = (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError, BasePolynomialError)


class Weighable:
    """What a weighted sum of steps is written with: `a + 2 * b - c / x`, for steps a, b and c."""

    weights: tuple[tuple[Step, sp.Expr], ...]

    def __mul__(self, factor) -> Weighted:
        return Weighted(tuple((step, weight * factor) for step, weight in self.weights))

    __rmul__ = __mul__

    def __truediv__(self, divisor) -> Weighted:
        return self * (1 / sp.sympify(divisor))

    def __add__(self, other: Weighable) -> Weighted:
        return Weighted(self.weights + other.weights)

    def __neg__(self) -> Weighted:
        return self * -1

    def __sub__(self, other: Weighable) -> Weighted:
        return self + -other


@dataclass(frozen=True)
class Weighted(Weighable):
    """Steps, each with its multiplier."""

    weights: tuple[tuple[Step, sp.Expr], ...]


@dataclass(frozen=True, eq=False)
class Step(Weighable):
    """A claim (words). `fact` is the relation that it establishes, for all values that its symbols are declared
    to have and that lie in the ranges `on`; `how` says in words how it is confirmed.

    `uses` are earlier equations, name = value: the step is proved with each name replaced by its value.
    """

    claim: str
    on: tuple[Range, ...] = field(default=(), kw_only=True)
    uses: tuple[Step, ...] = field(default=(), kw_only=True)
    how: ClassVar[str]

    @property
    def weights(self) -> tuple[tuple[Step, sp.Expr], ...]:
        return ((self, sp.S.One),)

    @property
    def names(self) -> bool:
        """Whether the fact, an equation, says what its left-hand side stands for."""
        return False

    def defines(self, behind: Iterable[Step]) -> list[tuple[sp.Basic, sp.Expr]]:
        """The names that this step gives a value, with the value."""
        return [self.fact.args] if self.names else []

    @property
    def circular(self) -> bool:
        """Whether a name is given a value that depends on it."""
        return False

    def misused(self, behind: Iterable[Step]) -> str | None:
        """What this step says of a value for which the steps `behind` it do not say it, or None."""
        return None

    @property
    def premises(self) -> tuple[Step, ...]:
        """The steps that this one rests on."""
        return self.uses

    @property
    def written(self) -> tuple[sp.Basic, ...]:
        """The expressions of this step in which names may stand."""
        return (slack(self.fact),)

    def unfolded(self, expr) -> sp.Expr:
        """`expr` with the names that `uses` define replaced, the last one first."""
        for step in reversed(self.uses):
            expr = _replaced(expr, step)
        return expr

    @property
    def domain(self) -> tuple[Range, ...]:
        """`on` with names replaced."""
        return tuple(d.replaced(self.unfolded) for d in self.on)

    @property
    def granted(self) -> tuple[Range, ...]:
        """The ranges that what this step rests on may count on."""
        return self.domain

    @cached_property
    def unmet(self) -> tuple[Range, ...]:
        """What of `needs` is not proved to be `granted`."""
        granted = self.granted
        return tuple(d for d in self.needs if d not in granted and not d.inside(d.x, granted))

    @cached_property
    def idle(self) -> tuple[Step, ...]:
        """The steps in `uses` whose names do not occur."""
        found, exprs = [], (*self.written, *(e for d in self.on for e in (d.x, d.low, d.high)))
        for step in reversed(self.uses):
            after = tuple(_replaced(expr, step) for expr in exprs)
            if after == exprs:
                found.append(step)
            exprs = after
        return tuple(found)

    @property
    def needs(self) -> tuple[Range, ...]:
        """The ranges that the premises were proved on, as this step uses them."""
        found, exprs = [], self.written
        for step in reversed(self.uses):
            name = step.fact.lhs
            ats = [{}]
            if isinstance(name, AppliedUndef):
                calls = set().union(*(sp.sympify(expr).atoms(name.func) for expr in exprs))
                ats = [dict(zip(name.args, call.args, strict=True)) for call in calls]
            found += [d.mapped(at) for at in ats for d in step.on]
            exprs = tuple(_replaced(expr, step) for expr in exprs)
        return tuple(d.replaced(self.unfolded) for d in found)

    def holds(self) -> bool:
        """Whether the fact is proved, taking the premises as known."""
        raise NotImplementedError

    @cached_property
    def proved(self) -> bool:
        """`holds()`, asked once, as a step never changes; what SymPy cannot work with is not proved."""
        try:
            return self.holds()
        except UNDECIDED:
            return False

    @property
    def stated_tex(self) -> str:
        """The fact and where it holds."""
        return sp.latex(self.fact) + "".join(rf", \quad {r.tex}" for r in self.on)

    @property
    def tex(self) -> str:
        """What is confirmed, in full where the fact is a short form of it."""
        return self.stated_tex


@dataclass(frozen=True, eq=False)
class Stated(Step):
    """A step whose fact is written out."""

    fact: sp.Basic


def _replaced(expr, step: Step):
    """`expr` with the left-hand side of the step's equation, a function at any arguments, replaced by the right."""
    name, value = step.fact.args
    expr = sp.sympify(expr)
    if isinstance(name, AppliedUndef):
        return expr.replace(name.func, sp.Lambda(name.args, value))
    return expr.xreplace({name: value})


@dataclass(frozen=True, eq=False)
class Assumed(Stated):
    """An assumption or a definition, name = value: taken, and listed as such.

    An assumption is about one value of each symbol, unless the symbol is in `every`: then it is about all of them.
    """

    every: tuple[sp.Symbol, ...] = field(default=(), kw_only=True)
    how: ClassVar[str] = "assumed"

    @property
    def names(self):
        return isinstance(self.fact, sp.Eq) and is_name(self.fact.lhs)

    def holds(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class Cited(Stated):
    """What another derivation states, with `at` its symbols replaced."""

    registered: ClassVar[Callable[[], Sequence]] = tuple  # the registry, which imports this, says what is

    result: object
    at: Mapping = field(default_factory=dict)

    @property
    def names(self):
        return isinstance(self.fact, sp.Eq) and is_name(self.fact.lhs)

    @property
    def cited(self) -> Step | None:
        return next(
            (
                self.result.step_of(relation)
                for relation in self.result.conclusion
                if same(self.fact, relation, self.at)
            ),
            None,
        )

    @property
    def needs(self):
        return tuple(d.mapped(self.at) for d in (*self.result.ranges, *(self.cited.on if self.cited else ())))

    def holds(self) -> bool:
        registered = {found.key: found for found in self.registered()}.get(self.result.key, self.result)
        return (
            self.result == registered
            and self.cited is not None
            and all_allowed(self.at, self.on)
            and self.result.proved
        )

    @property
    def how(self) -> str:
        return f"stated and proved in {self.result.key}"


@dataclass(frozen=True, eq=False)
class Identity(Step):
    """lhs = rhs because the difference simplifies to exactly 0; `name` is a new symbol for both."""

    lhs: sp.Expr
    rhs: sp.Expr
    name: sp.Symbol | None = None
    how: ClassVar[str] = "identity: the difference simplifies to 0"

    def __post_init__(self):
        if self.lhs == self.rhs:
            raise ValueError(f"{self.claim}: both sides are written alike, so this could not fail")

    @property
    def names(self):
        return self.name is not None

    @property
    def fact(self):
        return eq(self.lhs if self.name is None else self.name, self.rhs)

    def holds(self) -> bool:
        return vanishes(self.unfolded(self.lhs - self.rhs))

    @property
    def circular(self):
        return self.name is not None and (self.lhs.has(head(self.name)) or self.rhs.has(head(self.name)))

    @property
    def written(self):
        return self.lhs, self.rhs

    @property
    def tex(self) -> str:
        name = "" if self.name is None else f"{sp.latex(self.name)} = "
        return f"{name}{sp.latex(self.lhs)} = {sp.latex(self.rhs)}"


@dataclass(frozen=True, eq=False)
class Sign(Stated):
    """An inequality proved on all of `on` (ranges of its symbols)."""

    how: ClassVar[str] = "sign: one-signed coefficients, squares or exact root counting on the whole range"

    def holds(self) -> bool:
        return has_sign(self.unfolded(slack(self.fact)), self.domain, is_strict(self.fact))


@dataclass(frozen=True, eq=False)
class Root(Step):
    """The one root of a polynomial `equation` (an expression that must be 0) in a range of its unknown.

    Every complex root is found, exactly one is proved to be in the range, each other one proved to be outside.
    """

    equation: sp.Expr
    inside: Range
    value: sp.Expr
    name: sp.Symbol | None = None
    how: ClassVar[str] = "root: all roots found, exactly one of them in the range"

    @property
    def names(self):
        return True

    @property
    def fact(self):
        return eq(self.inside.x if self.name is None else self.name, self.value)

    @property
    def written(self):
        return self.equation, self.value

    @property
    def circular(self):
        return self.name is not None and any(expr.has(head(self.name)) for expr in self.written)

    @property
    def granted(self):
        return (*self.domain, *([] if self.inside.low == -sp.oo else [self.inside.replaced(self.unfolded)]))

    def holds(self) -> bool:
        x, value = sp.Dummy("x"), self.unfolded(self.value)
        numerator = sp.fraction(sp.together(evaluated(self.unfolded(self.equation)).subs(self.inside.x, x)))[0]
        if not numerator.is_polynomial(x):
            return False
        polynomial = sp.Poly(numerator, x)
        roots = sp.roots(polynomial)
        if not polynomial.degree() or sum(roots.values()) != polynomial.degree():
            return False
        others = [root for root in roots if not vanishes(root - value)]
        return (
            len(others) == len(roots) - 1
            and self.inside.replaced(self.unfolded).inside(value, self.domain)
            and all(self.inside.replaced(self.unfolded).outside(root, self.domain) for root in others)
        )

    @property
    def tex(self) -> str:
        ranges = "".join(rf", \; {r.tex}" for r in (self.inside, *self.on))
        return rf"{sp.latex(self.equation)} = 0{ranges} \;\Rightarrow\; {sp.latex(self.fact)}"


@dataclass(frozen=True, eq=False)
class Limit(Step):
    """The limit of `expr` as `x` goes to `to` (from the side `side`)."""

    expr: sp.Expr
    x: sp.Symbol
    to: sp.Expr
    value: sp.Expr
    side: str = "+"
    how: ClassVar[str] = "limit"

    @property
    def fact(self):
        return eq(sp.Limit(self.expr, self.x, self.to, self.side), self.value)

    @property
    def written(self):
        return self.expr, self.value

    @property
    def needs(self):
        """Of x only a neighbourhood of `to` on its side is asked for."""
        near = (self.x, self.to)
        return tuple(d for d in super().needs if near != (d.x, d.high if self.side == "-" else d.low))

    def holds(self) -> bool:
        expr, value = (evaluated(self.unfolded(e)) for e in self.written)
        found = _limit(expr, self.x, self.to, self.side)
        return found == value or (found.is_finite is not False and vanishes(found - value))


_limit = lru_cache(maxsize=2**10)(sp.limit)  # takes seconds, and a twin with another value asks for the same


@dataclass(frozen=True, eq=False)
class ClosedSum(Step):
    """A finite sum in closed form, by induction over `size` (in its upper limit) from the value `start`."""

    total: sp.Sum
    value: sp.Expr
    size: sp.Symbol
    start: int = 1
    how: ClassVar[str] = "induction: first case, and one more term"

    @property
    def fact(self):
        return eq(self.total, self.value)

    def holds(self) -> bool:
        ((index, lower, upper),) = self.total.limits
        if self.size not in upper.free_symbols or upper.subs(self.size, self.start) != lower:
            return False
        first = self.total.function.subs(index, lower)
        after = upper.subs(self.size, self.size + 1)
        term = self.total.function.subs(index, after)
        return (
            after - upper == 1
            and vanishes(self.value.subs(self.size, self.start) - first)
            and vanishes(self.value.subs(self.size, self.size + 1) - self.value - term)
        )


def head(name):
    """What tells a name from others: of f(x) the function, of a[i] the base."""
    return name.func if isinstance(name, AppliedUndef) else name.base if isinstance(name, sp.Indexed) else name


@lru_cache(maxsize=2**14)
def heads(expr) -> frozenset:
    """The names that occur free in `expr`."""
    expr = sp.sympify(expr)
    terms = {term: sp.Function(str(term.base))(*term.indices) for term in expr.atoms(sp.Indexed)}
    free = expr.xreplace(terms).free_symbols  # without the labels of the bases
    return frozenset(head(name) for name in free | expr.atoms(AppliedUndef) | set(terms))


@lru_cache(maxsize=2**14, typed=True)
def value_at(name, known, value):
    """What `known` = `value` says of `name`, where `known` is of the same head; None where it is of other terms."""
    terms, at = ((one.indices if isinstance(one, sp.Indexed) else one.args) for one in (known, name))
    if len(terms) == len(at) and all(isinstance(term, sp.Symbol) for term in terms):
        return sp.sympify(value).subs(dict(zip(terms, at, strict=True)), simultaneous=True)
    return value if known == name else None


def at_terms(expr, at):
    """`expr` with the terms in `at` replaced; a sequence that becomes another one, a[i] → c[i], in sums over i too."""
    renamed = {a: c for a, c in at.items() if all(isinstance(e, sp.Indexed) for e in (a, c)) and a.indices == c.indices}
    found = sp.sympify(expr).xreplace(renamed)
    if any(found.has(old.base) for old in renamed):  # at another index
        raise ValueError(f"{expr}: not all of {', '.join(map(str, renamed))} can be replaced")
    return found.subs({old: new for old, new in at.items() if old not in renamed}, simultaneous=True)


def is_name(expr) -> bool:
    """Whether `expr` is a symbol or a function of symbols, and so may stand for a value."""
    return isinstance(expr, sp.Symbol | sp.Indexed | AppliedUndef)


def same(fact, relation, at) -> bool:
    """Whether `fact` is `relation` with `at` replaced: the same kind, and the same slack."""
    kinds = tuple({isinstance(r, sp.Eq): "=", is_strict(r): "<"}.get(True, "≤") for r in (fact, relation))
    return kinds[0] == kinds[1] and vanishes(slack(fact) - at_terms(slack(relation), at))


def all_allowed(at, ranges) -> bool:
    """Whether what was declared of every replaced term is true of what replaces it."""
    return all(_allowed(old, sp.sympify(new), ranges) for old, new in at.items())


def _allowed(old, new, ranges) -> bool:
    if old.is_integer and not new.is_integer:
        return False
    if old.is_nonnegative or old.is_nonpositive:
        strict = bool(old.is_positive or old.is_negative)
        return has_sign(new if old.is_nonnegative else -new, ranges, strict)
    slopes = {slope: sp.Dummy(real=True) for slope in new.atoms(sp.Derivative) if slope.expr.is_real}
    return not old.is_real or bool(new.xreplace(slopes).is_real)
