"""Records → matplotlib figures. No training and no files here. `style` holds what all figures share."""

from sfolib.figures.batch import against_batch
from sfolib.figures.claims import proofs, ratios
from sfolib.figures.front import best_lr, family_costs, front_paths, fronts, optimal_schedules
from sfolib.figures.growth import anytime, overheads, rate_exponents
from sfolib.figures.runs import against_clocks, costs, trajectories
from sfolib.figures.style import Band, Curve, power_laws

__all__ = [
    "Band",
    "Curve",
    "against_batch",
    "against_clocks",
    "anytime",
    "best_lr",
    "costs",
    "family_costs",
    "front_paths",
    "fronts",
    "optimal_schedules",
    "overheads",
    "power_laws",
    "proofs",
    "rate_exponents",
    "ratios",
    "trajectories",
]
