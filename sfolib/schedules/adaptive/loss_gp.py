"""A loss curve as a Gaussian process sees it: constant + variance × RBF(0.2) + noise, over [0, 1], the run so far.

Two ways to fit its constants to points of the curve, and what it says of the whole curve, given points of it. The
kernel is so smooth that some twenty features are all of it, to rounding: conditioning needs no n × n matrix.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

LENGTHSCALE = 0.2
_POINTS, _NEGLIGIBLE = 60, 1e-13
_BOUNDS = {"variance": (1e-5, 1e5), "noise": (1e-4, 1e3)}  # of what is fitted; the lowest noise is gpytorch's
_RATE, _DECAY, _ROUNDS = 0.01, (0.9, 0.999), 100
ADAM_START = [0.0, float(np.log(np.expm1(1e-3 - 1e-4))), *[0.0] * 7]  # gpytorch's variance ln 2, and noise 1e-3


class Process(NamedTuple):
    """mean: the constant; variance: of the curve about it; noise: variance of a loss about the curve."""

    mean: float
    variance: float
    noise: float


def maximize_likelihood(x: np.ndarray, y: np.ndarray, mean: float) -> Process:
    """The variance and noise of the greatest likelihood for losses `y` at `x`, about a given mean."""
    spectrum, z, _ = _spectrum(x, y, mean)

    def objective(logs: np.ndarray) -> tuple[float, np.ndarray]:
        values = np.exp(logs)
        value, slopes = _negative_log_likelihood(*values, spectrum, z)
        return value, slopes * values

    start = np.log([max(1e-4, y.var()), 1e-3])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=np.log([*_BOUNDS.values()]))
    return Process(float(mean), *map(float, np.exp(found.x)))


def adam(x: np.ndarray, y: np.ndarray, mean: float, state: list[float]) -> Process:
    """As AutoWU's authors fit: 100 Adam steps on the likelihood a point, from where the last fit ended.

    The mean is fitted too, each time from `mean`. `state`, at first `ADAM_START`, is changed in place: gpytorch's raw
    variance and noise, the two moments of (variance, noise, mean), and the number of steps. Noise is above 1e-4.
    """
    spectrum, z, ones = _spectrum(x, y, mean)
    raw, first, second, count = np.array([*state[:2], 0.0]), np.array(state[2:5]), np.array(state[5:8]), state[8]
    for _ in range(_ROUNDS):
        variance, noise = np.logaddexp(0, raw[0]), 1e-4 + np.logaddexp(0, raw[1])
        left = z - raw[2] * ones
        _, slopes = _negative_log_likelihood(variance, noise, spectrum, left)
        pull = -(ones * left / (variance * spectrum + noise)).sum()
        slope = np.append(slopes * expit(raw[:2]), pull) / len(x)
        count += 1
        first = _DECAY[0] * first + (1 - _DECAY[0]) * slope
        second = _DECAY[1] * second + (1 - _DECAY[1]) * slope**2
        scale = np.sqrt(second / (1 - _DECAY[1] ** count)) + 1e-8
        raw -= _RATE * first / (1 - _DECAY[0] ** count) / scale
    state[:] = map(float, [*raw[:2], *first, *second, count])
    return Process(float(mean + raw[2]), float(np.logaddexp(0, raw[0])), float(1e-4 + np.logaddexp(0, raw[1])))


def condition(process: Process, x: np.ndarray, y: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (k,) and covariance (k, k) of the curve itself, without the noise, on the grid, given losses `y` at `x`."""
    mean, variance, noise = process
    seen, wanted = features(x), features(grid)
    precision = seen.T @ seen / noise + np.eye(seen.shape[1]) / variance
    covariance = np.linalg.solve(precision, wanted.T)
    return mean + (seen.T @ (y - mean) / noise) @ covariance, wanted @ covariance


def features(x: np.ndarray) -> np.ndarray:
    """Φ of shape (len(x), rank) with ΦΦᵀ = RBF(x, x) to rounding, for x in [0, 1]."""
    points, whitening = _basis()
    return _rbf(x, points) @ whitening


@cache
def _basis() -> tuple[np.ndarray, np.ndarray]:
    points = np.linspace(0, 1, _POINTS)
    values, vectors = np.linalg.eigh(_rbf(points, points))
    kept = values > _NEGLIGIBLE * values[-1]
    return points, vectors[:, kept] / np.sqrt(values[kept])


def _rbf(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * ((a[:, None] - b) / LENGTHSCALE) ** 2)


def _spectrum(x: np.ndarray, y: np.ndarray, mean: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues of RBF(x, x), and y − mean and a vector of ones in its eigenvectors: each (n,)."""
    vectors, singular, _ = np.linalg.svd(features(x))
    spectrum = np.zeros(len(x))
    spectrum[: len(singular)] = singular**2
    return spectrum, vectors.T @ (y - mean), vectors.sum(0)


def _negative_log_likelihood(
    variance: float, noise: float, spectrum: np.ndarray, z: np.ndarray
) -> tuple[float, np.ndarray]:
    """−ln p(y), without its constant, and its derivatives by variance and noise."""
    total = variance * spectrum + noise
    slope = (1 - z**2 / total) / total / 2
    return float((z**2 / total + np.log(total)).sum() / 2), np.array([(slope * spectrum).sum(), slope.sum()])
