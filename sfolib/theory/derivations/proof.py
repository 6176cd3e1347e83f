"""A derivation in the making: each method adds a step of its kind and hands it back for later steps to rest on."""

from __future__ import annotations

from collections.abc import Callable

from sfolib.theory.derivations.algebra import Range
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.inference import (
    Averaged,
    BoundedSum,
    Cases,
    Combined,
    Instance,
    Integrated,
    Mapped,
    Summed,
    Tangent,
)
from sfolib.theory.derivations.steps import Assumed, Cited, ClosedSum, Identity, Limit, Root, Sign, Step


def _adds(kind: type[Step]) -> Callable[..., Step]:
    def add(self, *args, stated: bool = False, **options) -> Step:
        return self.add(kind(*args, **options), stated)

    add.__doc__ = f"{kind.__doc__}\n\nTakes the fields of `{kind.__name__}` in order."
    return add


class Proof:
    """Steps in order, of which those added with `stated` are what the result states.

    `on` and `uses` are keywords of every method (see `Step`); `ranges` are assumed throughout.
    """

    def __init__(self, key: str, title: str, source: str, ranges: tuple[Range, ...] = ()):
        self.heading, self.ranges = (key, title, source), ranges
        self.steps: list[Step] = []
        self.conclusion: list = []

    def add(self, step: Step, stated: bool = False) -> Step:
        """Append a step; `stated`: its fact is part of the result."""
        self.steps.append(step)
        if stated:
            self.conclusion.append(step.fact)
        return step

    assume, cite = _adds(Assumed), _adds(Cited)
    identity, sign, root, limit, closed_sum = (_adds(kind) for kind in (Identity, Sign, Root, Limit, ClosedSum))
    instance, average, integrate, total = (_adds(kind) for kind in (Instance, Averaged, Integrated, Summed))
    bounded_sum, map, tangent, cases = (_adds(kind) for kind in (BoundedSum, Mapped, Tangent, Cases))

    def combine(self, claim: str, fact, *terms: tuple, stated: bool = False, **options) -> Step:
        """`fact` as a sum of earlier steps, each given as (step, multiplier): see `Combined`."""
        return self.add(Combined(claim, fact, terms, **options), stated)

    def done(self) -> Derivation:
        """The derivation, not yet verified."""
        return Derivation(*self.heading, tuple(self.steps), tuple(self.conclusion), self.ranges)
