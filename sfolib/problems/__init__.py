"""The problems: what is minimised, on which data, by which model, and how gradients of it are computed."""

from sfolib.problems.execution import PLAIN, Execution
from sfolib.problems.specs import HOLDOUT, Digits, Images, Minimum, Problem, Quadratic, named, split_digits

__all__ = [
    "HOLDOUT",
    "PLAIN",
    "Digits",
    "Execution",
    "Images",
    "Minimum",
    "Problem",
    "Quadratic",
    "named",
    "split_digits",
]
