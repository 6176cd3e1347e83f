"""False claims in place of true ones: how it is shown that a proof can fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import NamedTuple

import sympy as sp

from sfolib.theory.derivations.algebra import Range, eq, ge, gt, has_sign, le, lt, slack
from sfolib.theory.derivations.derivation import Derivation, DerivationError
from sfolib.theory.derivations.steps import Assumed, Cited, ClosedSum, Identity, Limit, Root, Step

OPPOSITE = {sp.Le: gt, sp.Lt: ge, sp.Ge: lt, sp.Gt: le}

# (result, kind of change, first words of the claim): why what is altered there may pass
HARMLESS = {
    ("T1", "assumption", "V = sum of the squares"): "a larger V makes a weaker bound",
    ("T1", "assumption", "and the noise that it lets in"): "a larger Y makes a weaker bound",
    ("T5", "assumption", "a name for its constant"): "a larger constant bounds N too",
    ("T5", "assumption", "a function of the stages"): "Q·N^y is above what is smaller too",
    ("T6", "assumption", "the gap f − f*"): "stages that cost less are within the bound too",
    ("T6", "assumption", "S of all stages"): "a larger S makes a smaller bound",
    ("T6", "assumption", "V of all stages"): "a smaller V makes a smaller bound",
    ("T8", "assumption", "0 < μ < 1, written"): "as true of every μ below 1/2",
    ("T9", "assumption", "S of η_t"): "a larger S makes a smaller bound",
    ("T9", "assumption", "a step costs b"): "a multiple of ln N is least at the same b",
    ("T10", "assumption", "w = η_nt²"): "η_nt enters as its square",
    ("T11", "assumption", "the mean batch"): "smaller batches make V larger still",
    ("T14", "assumption", "Var(g_t·g_{t+1})"): "a smaller variance is within the bound too",
    ("T14", "assumption", "where b is critical to leading"): "a smaller ‖G‖² is within the bound too",
    ("T14", "assumption", "a fixed b, and η decays"): "ε enters as ε²: its sign does not matter",
    ("T14", "assumption", "with noise of a part x"): "less noise leaves more to curvature",
    ("T14", "assumption", "0 < μ < 1, written"): "as true of every μ below 1/2",
    ("T15", "assumption", "f is quadratic"): "only the square of the distance enters",
    ("T16", "assumption", "and ν such that b* leaves just R"): "a b* that leaves more noise needs fewer evaluations",
    ("T16", "assumption", "and of κ"): "a larger Σκ makes the constant batch worse",
    ("T17", "assumption", "any-time: after x steps"): "ε enters as ε²: its sign does not matter",
    ("T17", "range", "the progress"): "γ > 1 keeps a quotient from being 0/0",
}


class Mutant(NamedTuple):
    """`twin` is a derivation with one thing changed, of `kind`; `what` says where; `sound`: the claim is still true."""

    kind: str
    what: str
    twin: Derivation
    sound: bool = False

    @property
    def outcome(self) -> str:
        """ "caught" where the twin does not verify; else "harmless" where that is right or listed, or "missed"."""
        try:
            self.twin.verify()
        except DerivationError:
            return "caught"
        listed = any(
            (self.twin.key, self.kind) == (key, kind) and self.what.startswith(words) for key, kind, words in HARMLESS
        )
        return "harmless" if self.sound or listed else "missed"


def broken(step: Step) -> Step:
    """The step with its value doubled (and moved where it may be 0), or its inequality turned round."""
    if isinstance(step, Identity):
        return replace(step, rhs=2 * step.rhs + 1)
    if isinstance(step, Root | ClosedSum):
        return replace(step, value=2 * step.value)
    if isinstance(step, Limit):
        return replace(step, value=sp.S.One if step.value == sp.oo else 2 * step.value + 1)
    lhs, rhs = step.fact.args
    return replace(step, fact=eq(lhs, 2 * rhs) if isinstance(step.fact, sp.Eq) else OPPOSITE[type(step.fact)](lhs, rhs))


def altered(step: Step) -> list[Step]:
    """An assumption made another one: its value doubled, halved, with the other sign, an inequality turned round."""
    (lhs, rhs), kind = step.fact.args, type(step.fact)
    values = [2 * rhs, rhs / 2, -rhs] if rhs != 0 else [sp.S.One, -sp.S.One]
    facts = [kind(lhs, value, evaluate=False) for value in values]
    if kind in OPPOSITE:
        facts.append(OPPOSITE[kind](lhs, rhs))
    return [replace(step, fact=fact) for fact in facts]


def narrowed(one: Range) -> Range:
    """The half of a range that is next to its lower end, or what is one above it."""
    return replace(one, low=one.low + 1) if one.high == sp.oo else replace(one, high=(one.low + one.high) / 2)


def mutants(derivation: Derivation) -> Iterator[Mutant]:
    """Every derivation in which one step, premise, range, citation or stated relation is another one or missing."""
    for k, one in enumerate(derivation.ranges):
        rest = (*derivation.ranges[:k], *derivation.ranges[k + 1 :])
        yield Mutant("range", f"throughout: {one.tex}", replace(derivation, ranges=rest))
        yield Mutant("range", f"throughout: {one.tex}", replace(derivation, ranges=(*rest, narrowed(one))), sound=True)
    for k, relation in enumerate(derivation.conclusion):
        value = 1 if relation.rhs == sp.oo else 2 * relation.rhs + 1
        other = (
            eq(relation.lhs, value)
            if isinstance(relation, sp.Eq)
            else relation.func(relation.lhs, value, evaluate=False)
        )
        stated = (*derivation.conclusion[:k], other, *derivation.conclusion[k + 1 :])
        yield Mutant("statement", str(relation), replace(derivation, conclusion=stated))
    for i, step in enumerate(derivation.steps):
        for kind, other, sound in _others(step):
            yield Mutant(kind, step.claim, derivation.with_step(i, other), sound)


def _others(step: Step) -> Iterator[tuple[str, Step | None, bool]]:
    """(kind, what stands in the step's place, whether it is still true)."""
    yield "left out", None, False
    if isinstance(step, Assumed):
        for other in altered(step):
            stronger = not isinstance(step.fact, sp.Eq) and has_sign(
                slack(step.fact) - slack(other.fact), (), strict=False
            )
            yield "assumption", other, stronger
    else:
        yield "step", broken(step), False
    for k, one in enumerate(step.on):
        rest = (*step.on[:k], *step.on[k + 1 :])
        yield "range", replace(step, on=rest), False
        yield "range", replace(step, on=(*rest, narrowed(one))), True
    for name in (f.name for f in fields(step) if isinstance(getattr(step, f.name), Mapping)):
        at = getattr(step, name)
        for old, new in at.items():
            yield "replaced term", replace(step, **{name: {**at, old: 2 * new if new != 0 else sp.S.One}}), False
    if isinstance(step, Cited):
        cited = step.result
        last = next(j for j in reversed(range(len(cited.steps))) if not isinstance(cited.steps[j], Assumed))
        for other in (cited.with_step(last, broken(cited.steps[last])), replace(cited, steps=(), conclusion=())):
            # under another key, as with its own it is refused at sight
            yield "citation", replace(step, result=replace(other, key=f"{cited.key}, broken")), False
