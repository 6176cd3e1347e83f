"""Gradient variances without per-sample gradients, full gradients, curvature and its noise, of any model."""

from sfolib.gradients.checks import Loss
from sfolib.gradients.curvature import (
    CurvatureNoise,
    Hessian,
    NoiseSpectrum,
    curvature_noise,
    gradient_covariance,
    hessian,
    largest_eigenvalue,
    noise_spectrum,
    noise_vectors,
    smoothness,
)
from sfolib.gradients.layers import RULES
from sfolib.gradients.stable_lr import StableLr, largest_stable_lr
from sfolib.gradients.statistics import (
    CHUNK,
    GradientStatistics,
    Population,
    SampledSqnorm,
    full_gradient_sqnorm,
    gradient_statistics,
    measure_constants,
    population_variance,
    sampled_gradient_sqnorm,
)
from sfolib.gradients.successive import SuccessiveGradients, SuccessiveProducts

__all__ = [
    "CHUNK",
    "RULES",
    "CurvatureNoise",
    "GradientStatistics",
    "Hessian",
    "Loss",
    "NoiseSpectrum",
    "Population",
    "SampledSqnorm",
    "StableLr",
    "SuccessiveGradients",
    "SuccessiveProducts",
    "curvature_noise",
    "full_gradient_sqnorm",
    "gradient_covariance",
    "gradient_statistics",
    "hessian",
    "largest_eigenvalue",
    "largest_stable_lr",
    "measure_constants",
    "noise_spectrum",
    "noise_vectors",
    "population_variance",
    "sampled_gradient_sqnorm",
    "smoothness",
]
