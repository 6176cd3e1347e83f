"""Steps that infer a fact from earlier ones: each rule says when it is valid, and checks that it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import sympy as sp

from sfolib.theory.derivations.algebra import (
    Range,
    at_least,
    between,
    defined,
    has_sign,
    is_strict,
    le,
    lt,
    on_range,
    slack,
    split_sums,
    vanishes,
)
from sfolib.theory.derivations.steps import (
    Assumed,
    Stated,
    Step,
    all_allowed,
    at_terms,
    head,
    heads,
    is_name,
    same,
    value_at,
)


@dataclass(frozen=True, eq=False)
class Combined(Stated):
    """A linear combination of earlier facts, inequalities with multipliers ≥ 0, with a remainder that is 0 or ≥ 0."""

    terms: tuple[tuple[Step, sp.Expr], ...]
    how: ClassVar[str] = "linear combination of earlier steps with multipliers of proved sign"

    def __post_init__(self):
        if any(self.fact == step.fact for step, _ in self.terms):
            raise ValueError(f"{self.claim}: this repeats a premise, so it could not fail")

    @property
    def premises(self):
        return *self.uses, *(step for step, _ in self.terms)

    @property
    def written(self):
        return slack(self.fact), *(sp.sympify(m) * slack(step.fact) for step, m in self.terms)

    @property
    def needs(self):
        return *super().needs, *(d.replaced(self.unfolded) for step, _ in self.terms for d in step.on)

    @cached_property
    def idle(self):
        """Those too whose multipliers come to 0."""
        total = {}
        for step, multiplier in self.terms:
            total[step] = total.get(step, 0) + multiplier
        return *super().idle, *(step for step, factor in total.items() if vanishes(self.unfolded(factor)))

    def holds(self) -> bool:
        remainder, strict = slack(self.fact), False
        for step, multiplier in self.terms:
            multiplier = self.unfolded(multiplier)
            if isinstance(step.fact, sp.Eq):
                if not defined(multiplier, self.domain):
                    return False
            else:
                if isinstance(self.fact, sp.Eq) or not has_sign(multiplier, self.domain, strict=False):
                    return False
                strict = strict or (is_strict(step.fact) and has_sign(multiplier, self.domain))
            remainder = remainder - multiplier * slack(step.fact)
        remainder = self.unfolded(remainder)
        if vanishes(remainder) or vanishes(on_range(remainder, self.domain)):
            return strict or not is_strict(self.fact)
        return not isinstance(self.fact, sp.Eq) and has_sign(
            sp.expand(split_sums(remainder)), self.domain, is_strict(self.fact) and not strict
        )


@dataclass(frozen=True, eq=False)
class Inferred(Stated):
    """A step that transforms one earlier fact, `of`."""

    of: Step

    @property
    def taken(self) -> Mapping:
        """The terms that the fact is taken at other values of, with what stands in their place, if anything does."""
        return {}

    def changed(self, behind) -> set:
        """The names whose value changes with these terms, and is not written as one at them."""
        facts = [step.fact.args for step in behind if isinstance(step.fact, sp.Eq) and is_name(step.fact.lhs)]
        known, changed = [(head(name), heads(name), heads(value)) for name, value in facts], set()
        for term in set().union(*(heads(term) for term in self.taken)):
            found = {term}
            while more := {n for n, at, inside in known if n not in found and term not in at and inside & found}:
                found |= more
            changed |= found
        return changed

    def misused(self, behind):
        changed = self.changed(behind)
        kept = changed - set().union(*(heads(term) for term in self.taken))
        kept |= {head(name) for step in behind for name, _ in step.defines(()) if self.taken.get(name, name) is None}
        for name in sorted(kept, key=str):
            if name in self.taken or name in heads(self.fact):
                return f"gives {name} a second value"
        for step in behind:
            if isinstance(step, Assumed) and not step.names:
                for name in sorted(changed - set(step.every), key=str):
                    if name in heads(step.fact):
                        return f"takes “{step.claim}” at another {name}, where it is not assumed for every one"
        return None

    @property
    def premises(self):
        return *self.uses, self.of

    @property
    def needs(self):
        return *super().needs, *(d.replaced(self.unfolded) for d in self.of.on)


@dataclass(frozen=True, eq=False)
class Instance(Inferred):
    """An earlier fact with symbols or terms replaced, `at`, within what they were declared to be."""

    at: Mapping

    @property
    def taken(self):
        return self.at

    def defines(self, behind):
        """What stands in the place of a name has its value, at what stands in the place of other terms."""
        given = [
            step.fact.args
            for step in behind
            if isinstance(step.fact, sp.Eq) and (step.names or (isinstance(step, Instance) and is_name(step.fact.lhs)))
        ]
        inner = {name: value for name, value in given if name not in self.at}
        found = []
        for name, new in self.at.items():
            for known, value in given:
                if head(known) == head(name) and (value := value_at(name, known, value)) is not None:
                    for _ in inner:
                        before, value = value, value.xreplace(inner)
                        if value == before:
                            break
                    found.append((sp.sympify(new), at_terms(value, self.at)))
        return found

    @property
    def needs(self):
        return tuple(d.mapped(self.at) for d in self.of.on)

    def holds(self) -> bool:
        return all_allowed(self.at, self.on) and same(self.fact, self.of.fact, self.at)

    @property
    def how(self) -> str:
        return "earlier step at " + ", ".join(f"${sp.latex(a)} = {sp.latex(b)}$" for a, b in self.at.items())


@dataclass(frozen=True, eq=False)
class Averaged(Inferred):
    """Expectation of an earlier fact that is affine in the random terms; `mean` names their expectations."""

    mean: Mapping
    how: ClassVar[str] = "expectation of an earlier step (monotone, and linear: no product of random terms)"

    @property
    def taken(self):
        return self.mean

    def holds(self) -> bool:
        affine = sp.Poly(slack(self.of.fact), *self.mean)
        return affine.total_degree() == 1 and same(self.fact, self.of.fact, self.mean)


@dataclass(frozen=True, eq=False)
class Integrated(Inferred):
    """An earlier inequality integrated over the limits `over` = (x, low, high)."""

    over: tuple
    how: ClassVar[str] = "integral of an earlier step (monotone)"

    @property
    def taken(self):
        return {self.over[0]: None}

    @property
    def granted(self):
        x, low, high = self.over
        return *(d for d in self.domain if d.x != x), between(x, low, high)

    def holds(self) -> bool:
        x, low, high = self.over
        return (
            has_sign(high - low)
            and has_sign(low, strict=False) >= bool(x.is_nonnegative)
            and not x.is_nonpositive
            and not x.is_integer
            and type(self.fact) is type(self.of.fact)
            and vanishes(slack(self.fact) - sp.integrate(sp.expand(slack(self.of.fact)), (x, low, high)))
        )


@dataclass(frozen=True, eq=False)
class Summed(Inferred):
    """An earlier fact summed over the limits `over` = (index, low, high)."""

    over: tuple
    how: ClassVar[str] = "sum of an earlier step (monotone)"

    @property
    def taken(self):
        return {self.over[0]: None}

    @property
    def granted(self):
        index, low, high = self.over
        return *(d for d in self.domain if d.x != index), at_least(index, low), at_least(high, index)

    @property
    def needs(self):
        return self.of.on

    def holds(self) -> bool:
        index, low, _ = self.over
        return (
            all_allowed({index: low}, self.on)
            and type(self.fact) is type(self.of.fact)
            and vanishes(slack(self.fact) - sp.Sum(slack(self.of.fact), self.over))
        )


@dataclass(frozen=True, eq=False)
class BoundedSum(Inferred):
    """A bound B(T) on Σ_{k=1}^T by induction: B(1) bounds the first term, and `of`, at k = T + 1, the increment."""

    how: ClassVar[str] = "induction: first case, and an earlier step bounds every further term by the increment"

    @property
    def taken(self):
        return {self.fact.lhs.variables[0]: None}

    @property
    def needs(self):
        ((index, _, size),) = self.fact.lhs.limits
        return tuple(d.mapped({index: size + 1}) for d in self.of.on)

    def holds(self) -> bool:
        ((index, low, size),) = self.fact.lhs.limits
        sign = 1 if isinstance(self.fact, sp.Le) else -1
        term, bound = self.fact.lhs.function, self.fact.rhs
        added = bound.subs(size, size + 1) - bound - term.subs(index, size + 1)
        return (
            low == 1
            and not is_strict(self.fact)
            and vanishes(sign * added - slack(self.of.fact).subs(index, size + 1))
            and has_sign(sign * (bound.subs(size, 1) - term.subs(index, 1)), self.on, strict=False)
        )


@dataclass(frozen=True, eq=False)
class Mapped(Inferred):
    """An earlier inequality between positive sides under a function whose derivative has a proved sign."""

    function: sp.Lambda
    how: ClassVar[str] = "monotone function of an earlier step (sign of the derivative)"

    def holds(self) -> bool:
        x = sp.Dummy("x", positive=True)
        slope = sp.simplify(sp.diff(self.function(x), x))
        before, after = self.of.fact, self.fact
        if not all(has_sign(side, self.on) for side in before.args):
            return False
        low, high = before.args if isinstance(before, (sp.Le, sp.Lt)) else before.args[::-1]
        if has_sign(-slope, self.on, is_strict(after)):
            low, high = high, low
        elif not has_sign(slope, self.on, is_strict(after)):
            return False
        return (is_strict(after) <= is_strict(before)) and vanishes(
            slack(after) - self.function(high) + self.function(low)
        )


@dataclass(frozen=True, eq=False)
class Tangent(Stated):
    """A convex function is ≥, a concave one ≤ its tangent at `at`, here at the point `point`."""

    function: sp.Lambda
    at: sp.Expr
    point: sp.Expr
    how: ClassVar[str] = "tangent of a convex or concave function (sign of the second derivative)"

    def holds(self) -> bool:
        x = sp.Dummy("x", positive=True)
        curvature = sp.simplify(sp.diff(self.function(x), x, 2))
        slope = sp.diff(self.function(x), x).subs(x, self.at)
        gap = self.function(self.point) - self.function(self.at) - slope * (self.point - self.at)
        places = has_sign(self.at, self.on) and has_sign(self.point, self.on)
        bent = 1 if has_sign(curvature, self.on) else -1 if has_sign(-curvature, self.on) else 0
        return places and bool(bent) and not is_strict(self.fact) and vanishes(slack(self.fact) - bent * gap)


@dataclass(frozen=True, eq=False)
class Cases(Stated):
    """A fact about a name that is defined by cases, proved for each value in turn.

    `definition` is name = Piecewise((value, x ≤ end), …, (value, True)); `steps` prove the fact with each value, on
    ranges of x that end where the condition says and together cover `whole`.
    """

    definition: Step
    steps: tuple[Step, ...]
    whole: Range
    how: ClassVar[str] = "in each of the cases, which cover the range"

    @property
    def premises(self):
        return *self.uses, self.definition, *self.steps

    def _pieces(self) -> list[Range]:
        return [r for step in self.steps for r in step.on if r.x == self.whole.x]

    @property
    def needs(self):
        pieces = self._pieces()
        return *super().needs, *(r for step in self.steps for r in step.on if r not in pieces)

    def holds(self) -> bool:
        name, values = self.definition.fact.args
        pieces, x = self._pieces(), self.whole.x
        ends = [le(x, r.high) if r.ends[1] == "]" else lt(x, r.high) for r in pieces[:-1]]
        joined = all(
            left.high == right.low and (left.ends[1] == "]") != (right.ends[0] == "[")
            for left, right in pairwise(pieces)
        )
        first, last, conditions = pieces[0], pieces[-1], [cond for _, cond in values.args]
        return (
            joined
            and len(pieces) == len(self.steps) == len(values.args)
            and Range(x, first.low, last.high, first.ends[0] + last.ends[1]) == self.whole
            and conditions[-1] == sp.true
            and all(same(cond, end, {}) for cond, end in zip(conditions, ends, strict=False))
            and all(
                same(step.fact, self.fact, {name: value})
                for (value, _), step in zip(values.args, self.steps, strict=True)
            )
        )
