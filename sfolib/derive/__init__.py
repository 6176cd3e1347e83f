"""The theory, derived with SymPy: each result lists its assumptions and its steps, and proves itself."""

from __future__ import annotations

from sfolib.derive.adaptive_tests import tests
from sfolib.derive.broken import broken
from sfolib.derive.core import Derivation, DerivationError, evaluate
from sfolib.derive.critical import critical_batch, price
from sfolib.derive.decay import decaying
from sfolib.derive.descent import descent_bound
from sfolib.derive.front import front
from sfolib.derive.growth import stagewise
from sfolib.derive.objectives import time_optimum
from sfolib.derive.overhead import overhead
from sfolib.derive.phases import noise_scale, phases
from sfolib.derive.rates import rate_exponent
from sfolib.errors import require

__all__ = ["Derivation", "DerivationError", "broken", "evaluate", "result", "results"]

_ORDER = (
    descent_bound,
    critical_batch,
    price,
    stagewise,
    rate_exponent,
    overhead,
    phases,
    noise_scale,
    decaying,
    tests,
    front,
    time_optimum,
)


def results() -> list[Derivation]:
    """T1 … T12, in order."""
    return [build() for build in _ORDER]


def result(key: str) -> Derivation:
    """The derivation called `key`, "T1" … "T12"; raises `InputError` for any other key."""
    found = {derivation.key: derivation for derivation in results()}
    require(key in found, "key", key, f"must be one of {', '.join(found)}")
    return found[key]
