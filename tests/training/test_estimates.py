"""Estimates over seeds: crossings beside the isotonic regression by its definition, intervals beside their coverage."""

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from sfolib.training import estimates

SAMPLES = np.unique(np.ceil(1.05 ** np.arange(140))).astype(int) * 4.0
WEIGHTS = np.gradient(np.log(SAMPLES))


def noisy(expected, seeds, rng, spread=0.5):
    """Seeds whose neighbouring points fluctuate together, as a run's do."""
    z = rng.normal(size=(seeds, len(expected)))
    for i in range(1, len(expected)):
        z[:, i] = 0.7 * z[:, i - 1] + 0.7 * z[:, i]
    return expected * np.exp(spread * z - spread**2 / 2)


def test_the_crossing_is_that_of_the_isotonic_regression():
    rng = np.random.default_rng(0)
    for _ in range(50):
        curve = noisy(0.1 + 10 / SAMPLES, 1, rng)
        regression = isotonic_regression(curve[0], weights=WEIGHTS, increasing=False).x
        at = estimates._isotonic_crossings(curve, WEIGHTS, 0.3, log=True)[0]
        below = int((regression > 0.3).sum())
        assert below - 1 <= at <= below
        ends = np.log(regression[below - 1 : below + 1])
        assert at == pytest.approx(below - 1 + (ends[0] - np.log(0.3)) / (ends[0] - ends[1]))


def test_a_level_below_the_floor_is_seldom_crossed_and_one_above_it_always():
    rng = np.random.default_rng(1)
    groups = [noisy(0.1 + 10 / SAMPLES, 8, rng) for _ in range(40)]
    floor = 0.1 + 10 / SAMPLES[-1]
    reached = {
        f: [np.isfinite(estimates.first_crossing(SAMPLES, SAMPLES, g, f * floor).samples) for g in groups]
        for f in (0.8, 2.0)
    }
    assert np.mean(reached[0.8]) <= 0.1
    assert all(reached[2.0])
    assert np.mean([(g.mean(0) < 0.8 * floor).any() for g in groups]) > 0.8  # which is where a mean first gets to


def test_a_crossing_may_be_the_start_or_never_and_one_seed_has_no_interval():
    falling = np.array([[8.0, 4.0, 2.0, 1.0]] * 3)
    x = np.array([0.0, 10.0, 20.0, 40.0])
    assert estimates.first_crossing(x / 10, x, falling, 9.0) == (0, 0, 0, 0)
    assert estimates.first_crossing(x / 10, x, falling, 2.0) == pytest.approx((2, 20, 20, 20))
    assert estimates.first_crossing(x / 10, x, falling, 0.5) == (np.inf, np.inf, 40, np.inf)  # not in this budget
    alone = estimates.first_crossing(x / 10, x, falling[:1], 2.0)
    assert alone[:2] == pytest.approx((2, 20))
    assert np.isnan(alone[2:]).all()


def test_what_is_not_finite_ends_a_run():
    x = np.arange(1.0, 6.0)
    curves = np.array([[8.0, 4.0, np.nan, 0.1, 0.1]] * 2)
    assert estimates.first_crossing(x, x, curves, 1.0).samples == np.inf
    assert estimates.first_crossing(x, x, curves[:, 2:], 1.0).samples == np.inf
    assert estimates.first_crossing(x, x, curves, 4.0).samples == 2


def test_the_interval_of_a_mean_covers_and_draws_agree_with_it():
    rng = np.random.default_rng(2)
    values = rng.normal(3.0, 1.0, (5, 2000))
    value, low, high = estimates.mean(values, log=False)
    assert value == pytest.approx(values.mean(0))
    assert np.mean((low <= 3) & (high >= 3)) == pytest.approx(0.95, abs=0.02)
    drawn = estimates.percentiles(estimates.draws(values[:, :20], 20_000))
    assert drawn == pytest.approx(np.array([low, high])[:, :20], abs=0.1)
    values = np.exp(values)
    value, low, high = estimates.mean(values)
    assert low.min() > 0
    assert np.log(low * high) == pytest.approx(2 * np.log(value))
    assert np.isnan(estimates.mean(values[:1])[1:]).all()


def test_first_points_are_linear_in_the_logarithm_of_the_clock():
    x = np.array([0.0, 1.0, 4.0])
    curves = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [3.0, 3.0, 3.0], [3.0, 1.0, 1.0]])
    assert estimates.first_points(x, curves, 1.5) == pytest.approx([2, 0, np.inf, 1])


def test_a_statistic_of_draws_has_their_percentiles_and_what_has_no_value_opens_them():
    drawn = np.random.default_rng(3).permutation(np.arange(1.0, 1001.0))[:, None] * [1.0, 2.0]
    found = estimates.of_draws(lambda row: [row.sum(), row[1]], np.array([500.0, 1000.0]), drawn)
    assert found.value.tolist() == [1500, 1000]
    assert np.abs(found.low - [75, 50]).max() <= 3
    assert np.abs(found.high - [3 * 975, 2 * 975]).max() <= 3
    few, many = (
        estimates.of_draws(lambda row, n=n: row[0] if row[0] > n else np.nan, np.array([500.0]), drawn)
        for n in (20, 30)
    )
    assert few.low == found.low[0] / 3
    assert few.high == pytest.approx(found.high[0] / 3 + 20, abs=1)
    assert (many.low, many.high) == (-np.inf, np.inf)


def test_a_statistic_of_means_has_the_interval_of_its_linear_part():
    """Of a mean it is Student's; of the log of a ratio of means it covers the truth."""
    rng = np.random.default_rng(3)
    values = rng.normal(2.0, 0.3, (5, 4))
    of_mean, student = estimates.of_means(lambda x: 3 * x, values), estimates.mean(3 * values, log=False)
    assert np.allclose(of_mean, student)
    held = []
    for _ in range(400):
        shared = rng.normal(size=(5, 1))
        first, second = (np.exp(0.3 * shared + 0.2 * rng.normal(size=(5, 1))) for _ in range(2))
        _, low, high = estimates.of_means(lambda a, b: np.log(a / b)[0], first, second)
        held.append(low <= 0 <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)
    assert np.isnan(estimates.of_means(np.sum, values[:1])[1:]).all()


def test_one_more_seed_falls_into_its_interval():
    rng = np.random.default_rng(4)
    seen = rng.normal(size=(4000, 6))
    _, low, high = estimates.further(seen[:, :5].T)
    assert ((low <= seen[:, 5]) & (seen[:, 5] <= high)).mean() == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(("apart", "least", "most"), [(0.0, 0.88, 0.1), (0.3, 0.94, 0.93)])
def test_what_is_picked_as_the_least_needs_the_wide_interval(apart, least, most):
    """The least of ten expectations, so far apart, each a mean over eight seeds: percentiles alone lie below the truth,
    0, and hold it in at most `most` of the cases."""
    rng, held = np.random.default_rng(5), {"percentiles": [], "wide": []}
    for _ in range(400):
        values = rng.normal(size=(8, 10)) + apart * np.arange(10)
        narrow = estimates.of_draws(np.min, values.mean(0), estimates.draws(values, 400))
        for name, (_, low, high) in (("percentiles", narrow), ("wide", estimates.wide(narrow))):
            held[name].append(low <= 0 <= high)
    assert np.mean(held["percentiles"]) < most
    assert np.mean(held["wide"]) > least
