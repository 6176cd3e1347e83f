"""sfolib: how batch size and learning rate should grow in SGD, and what that costs in gradient evaluations.

The public names of the rooms read as `sfolib.X`; each room is imported at its first use, so that `import sfolib`
needs neither torch nor sympy.
"""

from importlib import import_module
from typing import Any

_ROOMS = {
    "adaptive": ("AugmentedInnerProductTest", "AutoWU", "EpsilonTrigger", "InnerProductTest", "NormTest"),
    "bounds": ("Constants",),
    "cases": ("validity",),
    "check": ("Check", "fit_exponent"),
    "data": ("ScheduledBatchSampler",),
    "derive": ("Derivation", "DerivationError", "result", "results"),
    "errors": ("InputError",),
    "follow": ("PlanLR",),
    "plan": ("Plan", "critical_plan", "front_plan"),
    "problems": ("Digits", "Quadratic"),
    "quadratic": ("PowerLawQuadratic",),
    "recipes": ("at_momentum", "increase_batch", "late_switch", "scaled", "seesaw", "stagewise"),
    "record": ("Run", "load", "save"),
    "spec": ("Spec",),
    "train": ("run", "run_all"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}
_MODULES = (*_ROOMS, "adam", "compare", "figures", "gradstats", "notebook", "report", "schedule")
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sfolib.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"sfolib.{name}")
    raise AttributeError(f"module 'sfolib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
