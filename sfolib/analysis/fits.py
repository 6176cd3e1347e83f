"""Power laws and T11's hyperbola, fitted to points."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sfolib._utils.errors import positive, require
from sfolib.training.estimates import Interval


def fit_exponent(x: Any, y: Any, confidence: float = 0.95) -> Interval:
    """Least-squares slope of log y against log x, with Student's interval from the residuals (3 points or more)."""
    from scipy import stats

    positive("x", x)
    positive("y", y)
    require(np.size(x) >= 3, "x", x, "an exponent with an interval needs 3 points or more")
    fit = stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf((1 + confidence) / 2, np.size(x) - 2) * fit.stderr
    return Interval(float(fit.slope), float(fit.slope - half), float(fit.slope + half))


class Front(NamedTuple):
    """A hyperbola (K/K_min − 1)(N/N_min − 1) = 1 fitted to points; scatter: rms distance from it in ln K, ln N."""

    min_steps: float
    min_samples: float
    scatter: float

    @property
    def batch_size(self) -> float:
        """B = N_min/K_min, T11's critical batch size."""
        return self.min_samples / self.min_steps

    def samples(self, steps: Any) -> np.ndarray:
        """N at K steps; inf for K ≤ K_min."""
        excess = np.asarray(steps, dtype=float) / self.min_steps - 1
        return self.min_samples * (1 + np.where(excess > 0, 1 / np.where(excess > 0, excess, 1.0), np.inf))


def fit_front(steps: Any, samples: Any) -> Front:
    """T11 [N]: K_min and N_min of the hyperbola nearest to points (K, N), least squares of the distance in ln K, ln N.

    Each point's foot on the curve, K_min (1 + 1/u) and N_min (1 + u), is found with it. 3 points or more.
    """
    from scipy.optimize import least_squares

    for field, value in (("steps", steps), ("samples", samples)):
        positive(field, value)
        require(np.size(value) >= 3, field, value, "a front with a scatter needs 3 points or more")
    points = np.log(np.array([steps, samples], dtype=float))

    def distance(z: np.ndarray) -> np.ndarray:
        log_u = z[2:]
        return (points - z[:2, None] - np.logaddexp(0.0, [-log_u, log_u])).ravel()

    log_batch_size = points[1] - points[0]
    start = np.concatenate([points.min(1) - 0.1, log_batch_size - np.mean(log_batch_size)])
    fit = least_squares(distance, start, xtol=1e-12, ftol=1e-12)
    return Front(*map(float, np.exp(fit.x[:2])), float(np.sqrt(2 * fit.cost / points.shape[1])))


def power_law_scatter(x: Any, y: Any) -> float:
    """rms distance of points (x, y), in ln x and ln y, from the nearest power law: a straight line in any direction."""
    for field, value in (("x", x), ("y", y)):
        positive(field, value)
    points = np.log(np.array([x, y], dtype=float))
    return float(np.linalg.svd(points - points.mean(1, keepdims=True), compute_uv=False)[-1] / points.shape[1] ** 0.5)
