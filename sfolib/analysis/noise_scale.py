"""The noise scale along runs: from records of `Spec.noise_probes`, and a policy that follows it on the quadratic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sfolib._utils.errors import require
from sfolib.schedules.adaptive.noise_scale import critical_batch_size, local_critical_batch_size
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


def near(run: records.Run, column: str, samples: float) -> Interval:
    """Mean of `of_seeds`, with its 95 % interval."""
    return Interval(*map(float, estimates.mean(of_seeds(run, column, samples), log=False)))


def of_seeds(run: records.Run, column: str, samples: float, width: float = 1.25) -> np.ndarray:
    """A column's mean over the measuring points within a factor `width` of `samples`, (seeds,)."""
    shown = np.abs(np.log(np.maximum(run.samples, 1) / samples)) <= np.log(width)
    require(bool(shown.any()), "samples", samples, f"must be in the run, of {run.samples[-1]} gradient evaluations")
    return run.curves(column)[:, shown].mean(1)


def ratio_of_means(run: records.Run, columns: Sequence[str], samples: float) -> Interval:
    """Around `samples`, the mean of the first column over that of the second, times those of further pairs; the
    interval is that of `estimates.draws` of all together, inf where a divisor is not above 0."""
    values = np.stack([of_seeds(run, column, samples) for column in columns], 1)

    def ratio(means: np.ndarray) -> float:
        over, under = means[::2], means[1::2]
        return float(np.prod(over / under)) if (under > 0).all() else np.inf

    if len(values) == 1:
        return Interval(ratio(values[0]), np.nan, np.nan)
    return estimates.of_draws(ratio, values.mean(0), estimates.draws(values))


def critical_sizes(
    run: records.Run,
    column: str,
    eps2: Sequence[float],
    lr: float,
    L: float | None = None,
    curvature: float | None = None,
) -> dict[str, Interval]:
    """tr Σ/ε² (from `column`), T2's b* with it, and η tr(HΣ)/ε², each as the run passes ε, (targets,).

    L: proven, of a convex f, where tr(HΣ) is above 0. curvature: tr(HΣ) where it is known; else it is measured.
    """
    eps = np.array(eps2) ** 0.5
    at = [run.first_crossing(e).samples for e in eps]

    def mean(name: str) -> list[np.ndarray]:
        positive = name == column or L is not None
        ends = zip(*(estimates.mean(of_seeds(run, name, n), log=positive) for n in at), strict=True)
        return [np.maximum(of, 0.0) for of in ends]

    variance = mean(column)
    of_noise = [np.full(len(eps), curvature)] * 3 if curvature is not None else mean("curvature_noise")
    of_T2 = np.nan if L is None else 2 * L * lr / (2 - L * lr)
    return {
        "B": Interval(*(of / eps**2 for of in variance)),
        "T2": Interval(*(of_T2 * of / eps**2 for of in variance)),
        "curvature": Interval(*(local_critical_batch_size(of, lr, eps) for of in of_noise)),
    }


def of_search(sizes: np.ndarray, eps2: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """What a search over constant batch sizes finds, samples (targets, runs): b* of K(b) at each ε², nan where fewer
    than three sizes reached it; what the size nearest to it costs over the least; last b*'s exponent in ε."""
    best, steps = np.full(len(eps2), np.nan), samples / sizes
    for i in np.flatnonzero(np.isfinite(samples).sum(1) >= 3):
        best[i] = critical_batch_size(sizes, steps[i])
    with np.errstate(divide="ignore", invalid="ignore"):
        nearest = np.abs(np.log(sizes / best[:, None])).argmin(1)
        cost = np.where(np.isnan(best), np.nan, samples[np.arange(len(best)), nearest] / samples.min(1))
        x, y = np.log(eps2) / 2, np.log(best)
        slope = (x - x.mean()) @ y / ((x - x.mean()) @ x) if len(x) > 1 else np.nan
    return np.array([*best, *cost, slope])


class StronglyConvex(NamedTuple):
    """cost: what constant batch sizes cost to the first radius, by the bound and exactly (columns batch_size, bound,
    exact). rule: that knows the noise at the minimum; at_best: what its τ* costs over the least. learned: the batch
    sizes of runs that learn it, (label, gradient evaluations, mean, low, high) a radius; tended: where they go, by
    label; regret: what those runs cost over knowing it, at each radius."""

    cost: pd.DataFrame
    rule: OptimalBatch
    at_best: float
    learned: list[tuple]
    tended: dict[str, float]
    regret: list[Interval]


def strongly_convex(problem: PowerLawQuadratic, shares: Sequence[float], runs: int = 20) -> StronglyConvex:
    """On a strongly convex quadratic, to radii ‖θ − θ*‖² of so large shares of the start's."""
    start = float(np.square(problem.theta0).sum())
    known = {share: OptimalBatch(problem.sigma2, problem.L, problem.lam_min, share * start) for share in shares}
    h0 = problem.sigma2 + float(np.square(problem.eigenvalues * problem.theta0).sum())

    def exact_cost(rule: OptimalBatch, batch_size: float, radius: float) -> float:
        steps = int(rule.steps_at(batch_size, start)) + 1
        sqdistance = problem.moments(batch_size, np.full(steps, rule.lr_at(batch_size))).sum(1)
        return float(batch_size * np.argmax(sqdistance <= radius))

    rule, radius = known[shares[0]], shares[0] * start
    grid = np.unique(np.round(rule.exact * 2.0 ** np.arange(-5, 4.5, 0.5)))
    exact = [exact_cost(rule, b, radius) for b in grid]
    cost = pd.DataFrame({"batch_size": grid, "bound": grid * rule.steps_at(grid, start), "exact": exact})
    learned, tended, regret = [], {}, []
    for share, knowing in known.items():
        least = exact_cost(knowing, knowing.batch_size, share * start)
        budget = int(3 * least)
        rules = (OptimalBatch(h0, problem.L, problem.lam_min, share * start) for _ in range(runs))
        found = [adapt(problem, rule, budget, seed) for seed, rule in enumerate(rules)]
        clock = np.geomspace(200, budget, 400)
        sizes, sqdistance = (
            np.array([np.interp(clock, run["samples"], run[name]) for run in found]) for name in ("exact", "sqdistance")
        )
        label = f"$\\rho$ = {share:g} of the start"
        learned.append((label, clock, sizes.mean(0), *np.percentile(sizes, [2.5, 97.5], axis=0)))
        tended[label] = knowing.exact
        reached = estimates.first_crossing(clock, clock, sqdistance, share * start)
        regret.append(Interval(*(end / least for end in (reached.samples, reached.low, reached.high))))
    return StronglyConvex(cost, rule, exact_cost(rule, rule.batch_size, radius) / min(exact), learned, tended, regret)


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
