"""A derivation: assumptions and steps that prove themselves, and the statement that they establish."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import sympy as sp

from sfolib._utils.errors import require
from sfolib.theory.derivations.algebra import Range, vanishes
from sfolib.theory.derivations.steps import Assumed, Step


class DerivationError(AssertionError):
    """A derivation does not hold; the message names the result and its first failing step."""


@dataclass(frozen=True, repr=False)
class Derivation:
    """One result of the theory, from its assumptions to its statement.

    `steps` are `Step`s in order; `conclusion` are the relations that the result states, each of which must be
    the fact of a step that proves something; `ranges` are assumed throughout.
    """

    key: str
    title: str
    source: str
    steps: tuple[Step, ...]
    conclusion: tuple[sp.Basic, ...]
    ranges: tuple[Range, ...] = ()

    @property
    def assumptions(self) -> tuple[Assumed, ...]:
        """The steps that are taken, not proved."""
        return tuple(step for step in self.steps if isinstance(step, Assumed))

    @property
    def statement(self) -> sp.Basic:
        """The result: one SymPy relation, or the conjunction of several."""
        return self.conclusion[0] if len(self.conclusion) == 1 else sp.And(*self.conclusion, evaluate=False)

    def step_of(self, relation) -> Step | None:
        """The first step that proves `relation`."""
        return next((s for s in self.steps if not isinstance(s, Assumed) and s.fact == relation), None)

    def value(self, name: str) -> sp.Expr:
        """The right-hand side of the stated equation whose left-hand side prints as `name`."""
        for relation in self.conclusion:
            if isinstance(relation, sp.Eq) and str(relation.lhs) == name:
                return relation.rhs
        raise KeyError(f"{self.key} states no {name!r}")

    @cached_property
    def proved(self) -> bool:
        """Whether `verify` passes, asked once: a derivation never changes."""
        try:
            self.verify()
        except DerivationError:
            return False
        return True

    def verify(self) -> None:
        """Prove every step from those before it; raise `DerivationError` at the first one that fails."""
        defined = {}
        for i, step in enumerate(self.steps):
            where = f"{self.key}, step {i + 1} ({type(step).__name__}: {step.claim})"
            name = getattr(step, "name", None)
            if name is not None and not vanishes(step.fact.rhs - defined.setdefault(name, step.fact.rhs)):
                raise DerivationError(f"{where} gives {name} a second value")
            if any(premise not in self.steps[:i] for premise in step.premises):
                raise DerivationError(f"{where} rests on a step that was not established before it")
            if step.idle:
                raise DerivationError(f"{where} does not use {step.idle[0].claim}")
            if not step.proved:
                raise DerivationError(f"{where} does not hold: {step.fact}")
            for needed in step.needs:
                if needed not in (*self.ranges, *step.granted) and not needed.inside(needed.x, step.granted):
                    raise DerivationError(f"{where} uses an earlier step outside its range {needed.tex}")
        for relation in self.conclusion:
            if self.step_of(relation) is None:
                raise DerivationError(f"{self.key}: no step establishes the statement {relation}")

    def with_step(self, i: int, step: Step) -> Derivation:
        """The same derivation with step `i` (from 0) replaced: how a broken twin is made."""
        return replace(self, steps=(*self.steps[:i], step, *self.steps[i + 1 :]))

    def __repr__(self) -> str:
        return f"<{self.key}. {self.title}: {len(self.steps)} steps>"

    def _repr_markdown_(self) -> str:
        symbols = set().union(*(step.fact.free_symbols for step in self.steps))
        positive = ", ".join(sorted({sp.latex(s) for s in symbols if s.is_positive}))
        assumed = [
            f"- ${positive} > 0$",
            *(f"- ${r.tex}$" for r in self.ranges),
            *(f"- {step.claim}: ${sp.latex(step.fact)}$" for step in self.assumptions),
        ]
        steps = [f"{i}. {step.claim}  \n   ${step.tex}$  \n   *{step.how}*" for i, step in enumerate(self.steps, 1)]
        stated = [f"$${self.step_of(relation).stated_tex}$$" for relation in self.conclusion]
        return "\n\n".join(
            (
                f"### {self.key}. {self.title}",
                f"*{self.source}*",
                "**Assumptions**",
                "\n".join(assumed),
                "**Steps**",
                "\n".join(steps),
                "**Statement**",
                *stated,
            )
        )


def evaluate(expr: sp.Expr, **values):
    """`expr` as a number, or an array where values are arrays; a value for each symbol, by the name it prints with.

    Raises `InputError` that names the symbols without a value.
    """
    symbols = sorted(expr.free_symbols, key=str)
    missing = [s.name for s in symbols if s.name not in values]
    require(not missing, "values", sorted(values), f"must also give {', '.join(missing)}")
    return sp.lambdify(symbols, expr, "numpy")(*(values[s.name] for s in symbols))
