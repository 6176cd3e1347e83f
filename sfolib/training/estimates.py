"""What a few seeds tell of an expectation: its value, and when it first gets to a level and stays there; each with
an interval. Every interval over seeds in this package is made here.

A few seeds fluctuate below a level long before their expectation gets there. So the crossing is not where their mean
first is below, but where the run splits best into a part above the level and a part below it: with means ȳ_i at clock
x_i (gradient evaluations), weights w_i = Δ ln x_i and level c, after as many points as make Σ_{i<j} w_i (ȳ_i − c)
largest. That is where the decreasing least-squares (isotonic) regression of ȳ on ln x crosses c.
Bias, coverage and false crossings: `python -m benchmarks.crossings`, and docs/intervals.md. Source: [N].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_DRAWS = 1000
_LASTING = 1.2  # ratio of the clock over which a crossing must be seen to last
_ERROR = 0.05  # of the test that it does


class Interval(NamedTuple):
    """An estimate with its confidence interval: numbers, or arrays of one shape; nan where one seed alone is known."""

    value: Any
    low: Any
    high: Any


class Crossing(NamedTuple):
    """When the expectation of a run first got to a level.

    steps: updates; samples: gradient evaluations; both inf where it never did, or where what follows does not show
    that it did. low, high: confidence interval of samples, nan with one seed; high is inf where "never" is in it, low
    at most what the run spent: that it would not have got there later, a run does not tell.
    """

    steps: float
    samples: float
    low: float
    high: float


def first_crossing(
    steps: np.ndarray, samples: np.ndarray, curves: np.ndarray, level: float, confidence: float = 0.95, log: bool = True
) -> Crossing:
    """When the expectation of which `curves` (seeds, points) are draws first fell to `level`, if that lasted.

    Estimate: the isotonic crossing of the mean over seeds, see above. It counts if the mean from there to the end of
    the run is below the level by more than Student's one-sided 95 % over seeds allows, whose standard error is taken
    over the last sixth of the samples at least: with less to go by, the lowest of many fluctuations would pass.
    Interval: percentiles of the same crossing over draws of the expectation from its distribution given the seeds,
    multivariate t with seeds − 1 degrees of freedom. Percentiles of resampled seeds cover far less.

    steps, samples: of the measuring points, (points,). log: interpolate between points in the logarithm of the curve.
    A run is looked at up to its first value that is not finite.
    """
    samples, curves, weights = _finite_part(samples, curves)
    if len(samples) == 0:
        return Crossing(np.inf, np.inf, np.nan, np.nan)
    found = _isotonic_crossings(curves.mean(0, keepdims=True), weights, level, log)
    late = int(np.searchsorted(samples, samples[-1] / _LASTING))
    lasts = _lasts(curves, weights, level, found[0], late)
    low = high = np.nan
    if len(curves) > 1:
        low, high = map(float, percentiles(crossing_draws(samples, curves, level, log), confidence))
        low, high = min(low, float(samples[-1])), high if lasts else np.inf
    at = found if lasts else np.array([np.inf])
    return Crossing(float(_at(steps, at)[0]), float(_at(samples, at)[0]), low, high)


def isotonic_crossing(x: np.ndarray, curve: np.ndarray, level: float) -> float:
    """Where the decreasing regression of one curve (points,) over ln x falls to `level`; inf where it does not."""
    weights = np.gradient(np.log(np.maximum(x, x[1] / 2)))
    return float(_at(x, _isotonic_crossings(curve[None], weights, level, True))[0])


def crossing_draws(
    samples: np.ndarray, curves: np.ndarray, level: float, log: bool = True, count: int = _DRAWS
) -> np.ndarray:
    """Crossings of `draws` of the expectation, in gradient evaluations, (count,); as in `first_crossing`."""
    samples, curves, weights = _finite_part(samples, curves)
    return _at(samples, _isotonic_crossings(draws(curves, count), weights, level, log))


def _finite_part(samples: np.ndarray, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is before the first value that is not finite, and the weights of its points."""
    finite = np.isfinite(curves).all(0)
    last = len(samples) if finite.all() else int(finite.argmin())
    samples, curves = samples[:last], curves[:, :last]
    weights = np.gradient(np.log(np.maximum(samples, samples[1] / 2))) if last > 1 else np.ones(last)
    return samples, curves, weights


def mean(values: np.ndarray, confidence: float = 0.95, log: bool = True) -> Interval:
    """Mean over the first axis, the seeds, with Student's interval.

    log: where all values are positive the interval is that of ln mean, mean · exp(± t s/(√n mean)) with s the standard
    deviation over n seeds; say False for what can have either sign and is positive by chance.
    """
    from scipy import stats

    n = len(values)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a diverged run has no value from there on
        centre = values.mean(0)
        if n == 1:
            return Interval(centre, np.full_like(centre, np.nan), np.full_like(centre, np.nan))
        half = stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(0, ddof=1) / n**0.5
        if log and (values > 0).all():
            return Interval(centre, centre * np.exp(-half / centre), centre * np.exp(half / centre))
        return Interval(centre, centre - half, centre + half)


def further(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Mean of values (seeds, …), with the interval in which one more seed falls: mean ± t s √(1 + 1/n)."""
    centre, low, high = mean(values, confidence, log=False)
    return Interval(centre, *(centre + (end - centre) * (len(values) + 1) ** 0.5 for end in (low, high)))


def of_means(statistic: Callable[..., Any], *values: np.ndarray, confidence: float = 0.95) -> Interval:
    """statistic(means over the first axis of each of values), with Student's interval of the jackknife.

    values: (seeds, …), the same seeds in all; a statistic may be a number or an array, and should be smooth: a
    logarithm in place of a ratio. Interval: θ ± t s/√n, with s the deviation of Tukey's pseudo-values
    nθ − (n − 1)θ₍ₛ₎, θ₍ₛ₎ being the statistic without seed s. nan with one seed.
    """
    centre, n = statistic(*(of.mean(0) for of in values)), len(values[0])
    if n == 1:
        return Interval(centre, centre * np.nan, centre * np.nan)
    without = np.array([statistic(*(np.delete(of, s, 0).mean(0) for of in values)) for s in range(n)])
    _, low, high = mean((n - 1) * (without.mean(0) - without), confidence, log=False)
    return Interval(centre, centre + low, centre + high)


def ratio_of_means(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> Interval:
    """mean first / mean second of the same seeds (seeds, …), with the interval of its logarithm."""
    return Interval(*np.exp(of_means(lambda a, b: np.log(a / b), first, second, confidence=confidence)))


def draws(values: np.ndarray, count: int = _DRAWS) -> np.ndarray:
    """Draws (count, …) of the expectation given values (seeds ≥ 2, …); always the same ones.

    mean + Σ_s z_s (y_s − mean)/√(n(n − 1)) · √((n − 1)/χ²_{n−1}), z standard normal: Student's t in every direction.
    """
    n, rng = len(values), np.random.default_rng(0)
    z = rng.standard_normal((count, n))
    scale = 1 / np.sqrt(n * rng.chisquare(n - 1, size=(count, 1)))
    with np.errstate(over="ignore", invalid="ignore"):
        centre = values.mean(0)
        return centre + np.tensordot(z * scale, values - centre, 1)


def of_draws(
    statistic: Callable[..., Any], values: np.ndarray, drawn: np.ndarray, confidence: float = 0.95
) -> Interval:
    """A statistic of `values`, numbers or an array of them, with percentiles of it over `drawn`, (draws, …), each of
    the shape of `values`. A draw that has no value (nan) counts as below the interval's low end and above its high."""
    found = np.array([statistic(draw) for draw in drawn], dtype=float)
    low, _ = percentiles(np.where(np.isnan(found), -np.inf, found), confidence)
    _, high = percentiles(np.where(np.isnan(found), np.inf, found), confidence)
    return Interval(np.asarray(statistic(values), dtype=float), low, high)


def wide(found: Interval) -> Interval:
    """Both the interval of percentiles of draws and the basic one, 2θ̂ − percentiles.

    For what is fitted to the least of several noisy values: the estimate has the winner's curse, and each draw has it
    again, so that percentiles alone lie too far to its side. Of the least of ten means over eight seeds, equal ones to
    ones 0.3 deviations apart, it covers 92 to 97 %, percentiles 1 to 89 %
    (`test_what_is_picked_as_the_least_needs_the_wide_interval`).
    """
    value, low, high = found
    return Interval(value, np.minimum(low, 2 * value - high), np.maximum(high, 2 * value - low))


def percentiles(values: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Percentiles (low, high) along the first axis; picks a draw, so that no interpolation meets an infinity."""
    tail = (1 - confidence) / 2
    return np.quantile(values, [tail, 1 - tail], axis=0, method="inverted_cdf")


def first_points(x: np.ndarray, curves: np.ndarray, level: float) -> np.ndarray:
    """Where each of the curves (k, points) over x first is at or below `level`: shape (k,), inf where it never is.

    Between points a curve is taken for linear in log x.
    """
    below = curves <= level
    index = below.argmax(1)
    before = np.maximum(index - 1, 0)
    rows = np.arange(len(curves))
    with np.errstate(divide="ignore", invalid="ignore"):
        part = (level - curves[rows, before]) / (curves[rows, index] - curves[rows, before])
    position = np.where(index > 0, before + part, 0.0)
    return _at(x, np.where(below.any(1), position, np.inf))


def _isotonic_crossings(curves: np.ndarray, weights: np.ndarray, level: float, log: bool) -> np.ndarray:
    """Where the decreasing regression of each of curves (k, points) crosses the level: indices of points and parts of
    the way to the next, (k,); inf where it ends above."""
    points = curves.shape[1]
    after = _sums_to_end((curves - level) * weights)
    above = after.argmin(1)  # this many points are above; sums from the end, for what is large comes first
    found = np.where(above == 0, 0.0, np.inf)
    inside = np.flatnonzero((above > 0) & (above < points))
    k, index = above[inside, None], np.arange(points + 1)
    total, weight = _sums_to_end(curves[inside] * weights), _sums_to_end(weights[None])[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (total - np.take_along_axis(total, k, 1)) / (weight - weight[k])  # of the points between index and k
        left, right = np.where(index < k, means, np.inf).min(1), np.where(index > k, means, -np.inf).max(1)
        if log:
            left, right, level = np.log(left), np.log(np.maximum(right, 1e-300)), np.log(level)
        found[inside] = above[inside] - 1 + (left - level) / (left - right)
    return found


def _sums_to_end(values: np.ndarray) -> np.ndarray:
    """Σ_{i ≥ j} values[:, i] for j = 0 … points, (k, points + 1)."""
    sums = np.zeros((len(values), values.shape[1] + 1))
    sums[:, :-1] = np.cumsum(values[:, ::-1], axis=1)[:, ::-1]
    return sums


def _lasts(curves: np.ndarray, weights: np.ndarray, level: float, position: float, late: int) -> bool:
    """Whether the mean from `position` on is below the level, by Student's test over seeds."""
    from scipy import stats

    if not np.isfinite(position):
        return False
    first = int(np.ceil(position))
    below = (level - curves) * weights
    fall, n = below[:, first:].sum(1).mean(), len(curves)
    if n == 1:
        return bool(fall >= 0)
    error = below[:, min(first, late) :].sum(1).std(ddof=1) / n**0.5
    return bool(fall >= stats.t.ppf(1 - _ERROR, n - 1) * error)


def _at(x: np.ndarray, position: np.ndarray) -> np.ndarray:
    """x at indices that lie between points, on a logarithmic scale; inf where there is none."""
    inside = np.isfinite(position)
    at = np.where(inside, position, 0.0)
    first = np.floor(at).astype(int)
    x0, x1 = x[first], x[np.minimum(first + 1, len(x) - 1)]
    # before the first step there is no logarithm to interpolate in: the step itself is the crossing
    between = np.where(x0 > 0, np.maximum(x0, 1e-300) ** (1 - at + first) * x1 ** (at - first), x1)
    return np.where(inside, np.where(at == first, x0, between), np.inf)
