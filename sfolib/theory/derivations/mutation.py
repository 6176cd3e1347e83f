"""A false claim in place of a step's own: how it is shown that a proof can fail."""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from sfolib.theory.derivations.algebra import eq, ge, gt, le, lt
from sfolib.theory.derivations.steps import ClosedSum, Identity, Limit, Root, Step

OPPOSITE = {sp.Le: gt, sp.Lt: ge, sp.Ge: lt, sp.Gt: le}


def altered(step: Step) -> list[Step]:
    """An assumption made another one: its value doubled, halved, with the other sign, an inequality turned round."""
    lhs, rhs = step.fact.args
    kind = eq if isinstance(step.fact, sp.Eq) else step.fact.func
    values = [2 * rhs, rhs / 2, -rhs] if rhs != 0 else [sp.S.One, -sp.S.One]
    facts = [eq(lhs, v) if kind is eq else kind(lhs, v, evaluate=False) for v in values]
    if kind is not eq:
        facts.append(OPPOSITE[kind](lhs, rhs))
    return [replace(step, fact=fact) for fact in facts]


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
