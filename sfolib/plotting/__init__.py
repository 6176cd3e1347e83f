"""Records → matplotlib figures. No training and no files here. `style` holds what all figures share."""

from sfolib.plotting.against_batch_size import against_batch_size
from sfolib.plotting.claims import proofs, ratios
from sfolib.plotting.ends import arrivals, ends, relative
from sfolib.plotting.front import best_lr, family_costs, front_paths, fronts, optimal_schedules
from sfolib.plotting.growth import anytime, overheads, rate_exponents
from sfolib.plotting.prediction import prediction, recommended
from sfolib.plotting.runs import against_clocks, costs, trajectories
from sfolib.plotting.style import Band, Curve, power_laws

__all__ = [
    "Band",
    "Curve",
    "against_batch_size",
    "against_clocks",
    "anytime",
    "arrivals",
    "best_lr",
    "costs",
    "ends",
    "family_costs",
    "front_paths",
    "fronts",
    "optimal_schedules",
    "overheads",
    "power_laws",
    "prediction",
    "proofs",
    "rate_exponents",
    "ratios",
    "recommended",
    "relative",
    "trajectories",
]
