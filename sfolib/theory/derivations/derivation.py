"""A derivation: assumptions and steps that prove themselves, and the statement that they establish."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import sympy as sp
from sympy import Basic

from sfolib._utils.errors import require
from sfolib.theory.derivations.algebra import Range, has_sign, is_strict, slack, vanishes
from sfolib.theory.derivations.inference import Averaged
from sfolib.theory.derivations.steps import UNDECIDED, Assumed, Cited, Step, all_allowed, head, heads, is_name, value_at


class DerivationError(AssertionError):
    """A derivation does not hold; the message names the result and its first failing step."""


class Verified(NamedTuple):
    """What `Derivation.verify` checked: how many steps were proved, are cited from other results (and proved there) or
    assumed, and how many relations of the statement they establish."""

    key: str
    proved: int
    cited: int
    assumed: int
    statements: int

    def __str__(self) -> str:
        return (
            f"{self.key} holds: {self.proved} steps proved by SymPy, each from those before it and within its ranges; "
            f"{self.cited} cited from other results; {self.assumed} assumed. "
            f"They establish all {self.statements} relations of the statement."
        )

    __repr__ = __str__


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
        stated = [str(relation.lhs) for relation in self.conclusion if isinstance(relation, sp.Eq)]
        raise KeyError(f"{self.key} states no {name!r}, but {', '.join(stated) or 'no equation'}")

    @cached_property
    def proved(self) -> bool:
        """Whether `verify` passes, asked once: a derivation never changes."""
        try:
            self.verify()
        except DerivationError:
            return False
        return True

    def verify(self) -> Verified:
        """Prove every step from those before it; raise `DerivationError` at the first one that fails.

        Each name has one value, given before its first use, each fact of the conclusion rests on an assumption or on
        another result, and each step is one that the conclusion rests on. Returns what was checked.
        """
        values, used, behind = {}, set(), self._behind()
        for i, step in enumerate(self.steps):
            where = f"{self.key}, step {i + 1} ({type(step).__name__}: {step.claim})"
            try:
                fault = self._fault(i, values, used, behind)
            except UNDECIDED as error:
                fault = f"cannot be decided: {error!r}"
            if fault:
                raise DerivationError(f"{where} {fault}")
        given = [pair for known in values.values() for pair in known]
        numbers = {name: value for name, value in given if sp.sympify(value).is_number}
        for step in self.assumptions:
            if not _possible(step.fact, numbers):
                raise DerivationError(f"{self.key}: {step.claim} is assumed and false: {step.fact}")
        for relation in self.conclusion:
            if self.step_of(relation) is None:
                raise DerivationError(f"{self.key}: no step establishes the statement {relation}")
        for steps, fault in ((self.baseless, "rests on no assumption and no other result"), (self.unused, "is idle")):
            if steps:
                raise DerivationError(f"{self.key}: {steps[0].claim} {fault}")
        cited = sum(isinstance(step, Cited) for step in self.steps)
        assumed = len(self.assumptions)
        return Verified(self.key, len(self.steps) - assumed - cited, cited, assumed, len(self.conclusion))

    def _fault(self, i: int, values: dict, used: set, behind: dict[Step, set[Step]]) -> str | None:
        """What is wrong with step i, or None.

        `values` are those of the names so far, by what tells them apart, and `used` are the names in what was taken
        and in values; the step's own are added.
        """
        step = self.steps[i]
        before = behind[step] - {step}
        defined = step.defines(before)
        for name, value in defined:
            known = values.setdefault(head(name), [])
            if not all(_agree(name, value, *one) for one in known):
                return f"gives {name} a second value"
            recurs = isinstance(name, sp.Indexed) and not all(at.is_Symbol for at in name.indices)
            inside = used if recurs else used | heads(value)
            own = {head(name)} if is_name(name) else heads(name.base if name.is_Pow else name)
            if step.circular or (not known and not isinstance(step, Assumed) and (not own or own & inside)):
                return f"gives {name} a value after its use"
            known.append((name, value))
            used |= heads(value) - heads(name)
        if isinstance(step, Assumed | Cited | Averaged) and not defined:
            used |= heads(step.fact)
        if any(premise not in self.steps[:i] for premise in step.premises):
            return "rests on a step that was not established before it"
        if misused := step.misused(before):
            return misused
        if step.idle:
            return f"does not use {step.idle[0].claim}"
        if not step.proved:
            return f"does not hold: {step.fact}"
        beyond = [needed for needed in step.unmet if needed not in self.ranges]
        return f"uses an earlier step outside its range {beyond[0].tex}" if beyond else None

    def with_step(self, i: int, step: Step | None) -> Derivation:
        """The same derivation with step `i` (from 0) replaced, or removed where `step` is None: a broken twin.

        Later steps rest on the new step where they rested on the old one, and are proved anew; on a removed step
        they rest in vain.
        """
        require(0 <= i < len(self.steps), "i", i, f"must be a step's number less 1: 0 to {len(self.steps) - 1}")
        new, steps = {self.steps[i]: step} if step is not None else {}, []
        for old in self.steps[i + 1 :]:
            relinked = _relinked(old, new)
            if relinked is not old:
                new[old] = relinked
            steps.append(relinked)
        return replace(self, steps=(*self.steps[:i], *([step] if step is not None else []), *steps))

    @property
    def baseless(self) -> tuple[Step, ...]:
        """The stated steps that rest on no assumption and no other result: mathematics without a premise."""
        behind = self._behind()
        return tuple(s for s in self._stating() if not any(isinstance(p, Assumed | Cited) for p in behind[s]))

    @property
    def unused(self) -> tuple[Step, ...]:
        """The steps that nothing stated rests on; none where nothing is stated."""
        if not self.conclusion:
            return ()
        behind = self._behind()
        used = set().union(*(behind[s] for s in self._stating()))
        return tuple(s for s in self.steps if s not in used)

    def _stating(self) -> list[Step]:
        return [s for s in self.steps if not isinstance(s, Assumed) and s.fact in self.conclusion]

    def _behind(self) -> dict[Step, set[Step]]:
        """Each step with all that it rests on, itself included."""
        behind = {}
        for step in self.steps:
            behind[step] = {step}.union(*(behind[p] for p in step.premises if p in behind))
        return behind

    def __repr__(self) -> str:
        return f"<{self.key}. {self.title}: {len(self.steps)} steps>"

    def __str__(self) -> str:
        """The derivation as a terminal shows it: assumptions, steps and statement, numbered in one row."""
        number = {step: i for i, step in enumerate(self.steps, 1)}
        lines = [f"{self.key}. {self.title}", f"Source: {self.source}", "\nAssumptions"]
        lines += [f"  - {words}" for words in self._from_others()]
        lines += [f"  - {r.words}" for r in self.ranges]
        lines += [_shown(f"{number[step]}. {step.claim}{_where(step)}:", step.fact) for step in self.assumptions]
        lines += ["\nSteps"]
        for step, i in number.items():
            if not isinstance(step, Assumed):
                premises = ", ".join(str(n) for n in sorted(number[p] for p in step.premises if p in number))
                how = f"from {premises}; {step.how}" if premises else step.how
                lines += [f"{_shown(f'{i}. {step.claim}{_where(step)}', step.fact)}\n     [{how}]"]
        lines += ["\nStatement"]
        for relation in self.conclusion:
            step = self.step_of(relation)
            lines += [_shown(f"{number[step]}. {step.claim}{_where(step)}" if step else "", relation)]
        return "\n".join(lines)

    def _from_others(self) -> list[str]:
        """What is assumed elsewhere: the results that steps cite."""
        keys = dict.fromkeys(step.result.key for step in self.steps if isinstance(step, Cited))
        return [f'what {key} assumes: print(sfolib.result("{key}"))' for key in keys]

    def _repr_markdown_(self) -> str:
        symbols = set().union(*(step.fact.free_symbols for step in self.steps))
        positive = ", ".join(sorted({sp.latex(s) for s in symbols if s.is_positive}))
        assumed = [
            *(f"- {words}" for words in self._from_others()),
            f"- ${positive} > 0$",
            *(f"- ${r.tex}$" for r in self.ranges),
            *(f"- {step.claim}{_where(step)}: ${sp.latex(step.fact)}$" for step in self.assumptions),
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


def _possible(fact, numbers: dict) -> bool:
    """Whether an assumption is not plainly false where names are `numbers`, each one that its name may be."""
    value = sp.sympify(slack(fact)).subs(numbers)
    if not value.is_number:
        return True
    holds = vanishes(value) if isinstance(fact, sp.Eq) else has_sign(value, (), is_strict(fact))
    return holds and all_allowed({name: new for name, new in numbers.items() if fact.has(name)}, ())


def _agree(name, value, known, other) -> bool:
    """Whether name = value and known = other, of one head, say the same, or are of different terms."""
    if (there := value_at(name, known, other)) is not None:
        return vanishes(value - there)
    there = value_at(known, name, value)
    return there is None or vanishes(other - there)


def _where(step: Step) -> str:
    every = ", ".join(map(str, step.every)) if isinstance(step, Assumed) else ""
    return (f", for every {every}" if every else "") + "".join(f", for {r.words}" for r in step.on)


def _shown(words: str, fact: sp.Basic) -> str:
    """A relation as text of several lines, below the words that introduce it."""
    formula = sp.pretty(fact, use_unicode=True, wrap_line=False)
    return "\n".join(filter(None, [words and f"  {words}", *(f"       {line}" for line in formula.splitlines()), " "]))


def _relinked(step: Step, new: dict[Step, Step]) -> Step:
    """`step` resting on the new steps in place of the old ones."""

    def swapped(value):
        if isinstance(value, Step):
            return new.get(value, value)
        return tuple(swapped(v) for v in value) if isinstance(value, tuple) and not isinstance(value, Basic) else value

    values = {f.name: getattr(step, f.name) for f in fields(step)}
    changed = {name: after for name, value in values.items() if (after := swapped(value)) != value}
    return replace(step, **changed) if changed else step


def evaluate(expr: sp.Expr, **values):
    """`expr` as a number, or an array where values are arrays; a value for each symbol, by the name it prints with.

    Raises `InputError` that names the symbols without a value.
    """
    symbols = sorted(expr.free_symbols, key=str)
    missing = [s.name for s in symbols if s.name not in values]
    require(not missing, "values", sorted(values), f"must also give {', '.join(missing)}")
    return sp.lambdify(symbols, expr, "numpy")(*(values[s.name] for s in symbols))
