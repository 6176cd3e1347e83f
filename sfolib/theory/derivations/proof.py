"""A derivation in the making: each method adds a step of its kind and hands it back for later steps to rest on."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from sfolib.theory.derivations.algebra import Range
from sfolib.theory.derivations.derivation import Derivation, DerivationError
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
from sfolib.theory.derivations.steps import Assumed, Cited, ClosedSum, Identity, Limit, Root, Sign, Step, Weighable


def _adds(kind: type[Step]) -> Callable[..., Step]:
    def add(self, *args, **options) -> Step:
        return self.add(kind(*args, **options))

    add.__doc__ = f"{kind.__doc__}\n\nTakes the fields of `{kind.__name__}` in order."
    return add


class Proof:
    """Steps in order; `proof.state.sign(…)` adds one as `proof.sign(…)` does, whose fact is part of the result.

    `on` and `uses` are keywords of every method (see `Step`); `ranges` are assumed throughout.
    """

    def __init__(self, key: str, title: str, source: str, ranges: tuple[Range, ...] = ()):
        self.heading, self.ranges = (key, title, source), ranges
        self.steps: list[Step] = []
        self.conclusion: list = []
        self.stating = False

    @property
    def state(self) -> Proof:
        """The same proof, whose next step is part of what the result states."""
        stating = copy(self)
        stating.stating = True
        return stating

    def add(self, step: Step) -> Step:
        """Append a step and hand it back."""
        self.steps.append(step)
        if self.stating:
            self.conclusion.append(step.fact)
        return step

    assume, cite = _adds(Assumed), _adds(Cited)
    identity, sign, root, limit, closed_sum = (_adds(kind) for kind in (Identity, Sign, Root, Limit, ClosedSum))
    instance, average, integrate, total = (_adds(kind) for kind in (Instance, Averaged, Integrated, Summed))
    bounded_sum, map, tangent, cases = (_adds(kind) for kind in (BoundedSum, Mapped, Tangent, Cases))

    def combine(self, claim: str, fact, total: Weighable, **options) -> Step:
        """`fact` as a weighted sum of earlier steps, written as one (`a + 2 * b - c / x`): see `Combined`."""
        return self.add(Combined(claim, fact, total.weights, **options))

    def done(self) -> Derivation:
        """The derivation, not yet verified. Raises `DerivationError` where nothing is stated."""
        if not self.conclusion:
            raise DerivationError(f"{self.heading[0]}: states nothing; add what the result says by `state`")
        return Derivation(*self.heading, tuple(self.steps), tuple(self.conclusion), self.ranges)
