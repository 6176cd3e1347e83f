"""T1 … T17, in order."""

from __future__ import annotations

from sfolib._utils.errors import require
from sfolib.theory.derivations.caps_and_noise_scale import noise_scale, phases
from sfolib.theory.derivations.cost_of_growing import overhead
from sfolib.theory.derivations.critical_batch_size import critical_batch_size, price
from sfolib.theory.derivations.decaying_lr import decaying
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.descent_bound import descent_bound
from sfolib.theory.derivations.joint_growth import joint_growth
from sfolib.theory.derivations.late_ramp import late_ramp
from sfolib.theory.derivations.linear_noise import linear_noise
from sfolib.theory.derivations.local_front import local_front
from sfolib.theory.derivations.rate_exponent import rate_exponent
from sfolib.theory.derivations.stagewise_growth import stagewise
from sfolib.theory.derivations.steps import Cited
from sfolib.theory.derivations.successive_gradients import successive_gradients
from sfolib.theory.derivations.time_optimal_growth import time_optimum
from sfolib.theory.derivations.tradeoff_front import front
from sfolib.theory.derivations.variance_tests import tests

_ORDER = (
    descent_bound,
    critical_batch_size,
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
    local_front,
    successive_gradients,
    linear_noise,
    late_ramp,
    joint_growth,
)


def results() -> list[Derivation]:
    """T1 … T17, in order."""
    return [build() for build in _ORDER]


def result(key: str) -> Derivation:
    """The derivation called `key`, "T1" … "T17"; raises `InputError` for any other key."""
    found = {derivation.key: derivation for derivation in results()}
    require(key in found, "key", key, f"must be one of {', '.join(found)}")
    return found[key]


Cited.registered = staticmethod(results)
