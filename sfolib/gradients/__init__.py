"""Gradient variances without per-sample gradients, full gradients and the largest Hessian eigenvalue, of any model."""

from sfolib.gradients.layers import RULES
from sfolib.gradients.per_sample import Loss
from sfolib.gradients.statistics import (
    CHUNK,
    GradientStatistics,
    Population,
    full_gradient_sqnorm,
    gradient_statistics,
    measure_constants,
    population_variance,
    smoothness,
)

__all__ = [
    "CHUNK",
    "RULES",
    "GradientStatistics",
    "Loss",
    "Population",
    "full_gradient_sqnorm",
    "gradient_statistics",
    "measure_constants",
    "population_variance",
    "smoothness",
]
