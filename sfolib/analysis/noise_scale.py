"""The noise scale along runs: from records of `Spec.noise_probes`, and a policy that follows it on the quadratic."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sfolib._utils.errors import require
from sfolib.schedules.adaptive.optimal_batch import OptimalBatch
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training import estimates, records
from sfolib.training.estimates import Interval


def noise_scale_band(run: records.Run, prefix: str = "", confidence: float = 0.95) -> Interval:
    """B along a run, each (points,): means over seeds of tr Σ and of ‖G‖² first, then their ratio.

    prefix: "loop_" or "probe_" of `Spec.noise_probes`, or "" for what is measured on all samples. The interval is that
    of `estimates.draws` of both means together; inf where that of ‖G‖² is not above 0.
    """
    both = np.stack([run.curves(prefix + "variance"), run.curves(prefix + ("sqnorm" if prefix else "grad_sqnorm"))], 1)

    def ratio(means: np.ndarray) -> np.ndarray:
        variance, sqnorm = np.maximum(means[..., 0, :], 0), means[..., 1, :]
        with np.errstate(divide="ignore"):
            return np.where(sqnorm > 0, variance / np.where(sqnorm > 0, sqnorm, 1.0), np.inf)

    value = ratio(both.mean(0))
    if len(both) == 1:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    return Interval(value, *estimates.percentiles(ratio(estimates.draws(both)), confidence))


def near(run: records.Run, column: str, samples: float, width: float = 1.25) -> Interval:
    """A column's mean over seeds and over the measuring points within a factor `width` of `samples`, with its 95 %
    interval over seeds."""
    shown = np.abs(np.log(np.maximum(run.samples, 1) / samples)) <= np.log(width)
    require(bool(shown.any()), "samples", samples, f"must be in the run, of {run.samples[-1]} gradient evaluations")
    return Interval(*map(float, estimates.mean(run.curves(column)[:, shown].mean(1), log=False)))


def adapt(problem: PowerLawQuadratic, policy: OptimalBatch, max_samples: int, seed: int) -> pd.DataFrame:
    """A run of `policy` on the quadratic, for max_samples gradient evaluations; h from each step's own batch.

    Columns steps, samples, batch, exact, lr, sqdistance; one row a step and one before the first. The mean of
    ‖∇f_i‖² over τ samples is drawn as ‖ḡ‖² + Σ_j s_j χ²_{τ−1}/τ, which is its distribution.
    """
    rng, theta = np.random.default_rng(seed), problem.theta0.copy()
    rows = [(0, 0, policy.batch_size, policy.exact, policy.lr, theta @ theta)]
    while policy.samples < max_samples:
        batch_size, lr = policy.batch_size, policy.lr
        noise = rng.standard_normal(len(theta)) * np.sqrt(problem.noise_variance / batch_size)
        gradient = problem.eigenvalues * theta + noise
        scatter = rng.chisquare(batch_size - 1, len(theta)) / batch_size if batch_size > 1 else np.zeros(len(theta))
        theta = theta - lr * gradient
        policy.update(
            batch_size, gradient @ gradient + problem.noise_variance @ scatter if policy.needs_signal else None
        )
        rows.append((policy.step, policy.samples, policy.batch_size, policy.exact, policy.lr, theta @ theta))
    return pd.DataFrame(rows, columns=["steps", "samples", "batch_size", "exact", "lr", "sqdistance"])
