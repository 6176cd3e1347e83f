"""Statistics of many runs' crossings, with the intervals that draws of them all make."""

import numpy as np
import pandas as pd
import pytest

from sfolib.analysis.crossings import drawn_crossings, minimizers, places_apart
from sfolib.analysis.fits import Front
from sfolib.experiments import tradeoff_front
from sfolib.training.records import Run


def falling(batch_size, needed, seeds=8, spread=0.1):
    """E‖∇f‖² = 1/steps, so that ε² is reached after 1/ε² steps; each seed off by a factor of its own."""
    steps = np.unique(np.geomspace(1, 4 * needed, 120).astype(int))
    off = np.exp(spread * np.random.default_rng(batch_size).standard_normal(seeds))
    rows = [
        {
            "seed": seed,
            "step": step,
            "samples": batch_size * step,
            "batch_size": batch_size,
            "grad_sqnorm": off[seed] / step,
        }
        for step in steps
        for seed in range(seeds)
    ]
    return Run(None, {"status": "finished"}, pd.DataFrame(rows))


def test_draws_of_crossings_are_those_of_each_run_and_of_none_that_never_got_there():
    runs = [falling(b, 400 // b) for b in (1, 4)] + [falling(2, 10)]
    found, drawn = drawn_crossings(runs, 0.01, 300)
    assert np.isfinite(found[:2]).tolist() == [True, True]
    assert np.isinf(found[2])
    assert np.isinf(drawn[2]).all()
    for i in (0, 1):
        reached = runs[i].first_crossing(0.1)
        assert found[i] == reached.samples
        assert np.quantile(drawn[i], [0.025, 0.975]) == pytest.approx([reached.low, reached.high], rel=0.03)
    assert np.isnan(drawn_crossings([falling(1, 200, seeds=1)], 0.01)[1]).all()
    assert minimizers(runs, [0.01])["batch_size"].tolist() == [1]


def test_places_are_counted_on_the_grid_and_what_is_unknown_stays_open():
    columns = ["batch_size", "batch_low", "batch_high"]
    found = pd.DataFrame([(8, 4, 8), (4, 2, 32), (32, 32, 128), (2, np.nan, np.nan)], columns=columns)
    off = places_apart(found, np.array([8, 32, 4, 4]), [2, 4, 8, 32, 128])
    assert off["measured"] == pytest.approx([0, 2, 2, 1])
    assert off["interval"][:3] == pytest.approx(np.array([[0, 1], [0, 3], [2, 3]]))
    assert np.isnan(off["interval"][3]).all()


def test_what_is_told_of_a_grid_is_that_of_the_hyperbola_it_lies_on():
    """N(b) of the front K = K_min(1 + B/b), and slower pairs behind it at another η."""
    sizes, K_min, B = 2.0 ** np.arange(2, 13), 50.0, 200.0
    assert Front(K_min, B * K_min, 0.0).batch_size == B
    N = K_min * (1 + B / sizes) * sizes
    p = tradeoff_front.Parameters(scale="smoke", time_ratios=[1, 50])
    lr, batch_size = np.repeat([0.1, 0.4], len(sizes)), np.tile(sizes, 2)
    K, samples, B_found, scatter, mean, *others = tradeoff_front.statistics(
        p, batch_size, lr, np.concatenate([3 * N, N])
    )
    assert (K, samples, B_found) == pytest.approx((K_min, B * K_min, B), rel=1e-4)
    assert scatter < 1e-3
    time = {x: N * (1 + x / sizes) for x in (1, 50)}  # x latency and one a sample: K (x + b)

    def regret(x, b):
        return time[x][np.abs(np.log(sizes / b)).argmin()] / time[x].min()

    asked = [regret(x, (B * x) ** 0.5) for x in (1, 50)]
    assert others[:2] == pytest.approx(asked)
    assert mean == pytest.approx(np.mean(asked) / np.mean([regret(x, B) for x in (1, 50)]))
    assert others[2:] == [0.4] * len(sizes)
