"""Distances of runs on curves worked out by hand, and what plans that grow and decay have in common."""

import numpy as np
import pandas as pd
import pytest

from sfolib._utils.errors import InputError
from sfolib.analysis.run_distance import compare, exponent
from sfolib.schedules import base as s
from sfolib.schedules import published
from sfolib.training.records import Run


def made(curves, samples=(0, 10, 20), column="loss", batch_size=2):
    """A run of as many seeds as curves; its column is e to the curve, or the curve itself for an accuracy."""
    values = curves if column.endswith("accuracy") else np.exp(curves)
    rows = [
        {"seed": seed, "step": x // batch_size, "samples": x, column: float(v)}
        for seed, of_seed in enumerate(values)
        for x, v in zip(samples, of_seed, strict=True)
    ]
    return Run(None, {"status": "finished"}, pd.DataFrame(rows))


FIRST = np.array([[0.0, 0.0, 0.0], [3.0, 3.0, 3.0], [6.0, 6.0, 6.0]])


@pytest.mark.parametrize("column", ["loss", "test_accuracy"])
def test_distances_by_hand(column):
    """Seeds 3, 3 and 6 apart; the second schedule moves them by 1, 1 and −2."""
    second = FIRST + np.array([[1.0], [1.0], [-2.0]])
    found = compare(made(FIRST, column=column), made(second, column=column), column)
    assert found.distance.value == pytest.approx((6 / 3) ** 0.5)
    assert found.seeds == pytest.approx(((9 + 9 + 36) / 3) ** 0.5)
    assert found.ratio.value == pytest.approx((2 / 18) ** 0.5)
    assert found.shift.value == pytest.approx(0.0)
    t = 4.302653  # Student's, two degrees of freedom
    assert found.shift[1:] == pytest.approx((-t, t))  # 1, 1, −2 have standard error 1
    assert found.distance[1:] == pytest.approx([2**0.5 * np.exp(s * t / 4) for s in (-1, 1)])  # 1, 1, 4 as well


def test_curves_are_compared_between_their_measuring_points_and_where_both_are():
    """ln loss falls like x/10 in both, measured at other points; one run goes on."""
    first = made(np.array([[0.0, -1.0, -2.0], [1.0, 0.0, -1.0]]))
    second = made(np.array([[0.0, -0.4, -4.0], [1.0, 0.6, -3.0]]), samples=(0, 4, 40))
    assert compare(first, second).distance.value == pytest.approx(0, abs=1e-12)
    bent = made(np.array([[0.0, -1.0, -9.0], [1.0, 0.0, -8.0]]))
    assert compare(first, bent, stop=10).distance.value == pytest.approx(0, abs=1e-12)
    assert compare(first, bent, start=10).shift.value == pytest.approx(-3.5)  # from 0 to −7
    slower = made(np.array([[0.0, -1.0, -2.0], [1.0, 0.0, -1.0]]), samples=(0, 20, 40), batch_size=4)
    assert compare(first, slower, clock="steps").distance.value == pytest.approx(0, abs=1e-12)
    assert compare(first, slower).shift.value == pytest.approx(0.5)  # −x/20 against −x/10, up to 20


def test_growing_and_decaying_have_equal_sums():
    """T8 [S], where every batch is full: S and V equal, K not."""
    lr = s.milestones(0.1, {2: 1 / 4})
    decay, grow = (published.increase_batch_size(4, lr, share).table(64, 4) for share in (0.0, 1.0))
    assert (len(decay), len(grow)) == (64, 32 + 8)
    for of_step in (lambda steps: steps["lr"], lambda steps: steps["lr"] ** 2 / steps["batch_size"]):
        assert of_step(grow).sum() == pytest.approx(of_step(decay).sum(), rel=1e-12)


def test_the_exponent_of_a_power_law_is_found_and_its_interval_is_that_of_the_seeds():
    """Distances c_i x^1.5, a c_i for each seed: no seed changes the slope. One seed with another power does."""
    x = [1.0, 2.0, 4.0]
    offset = np.array([0.3, 0.1, 0.2])[:, None]

    def run_distances(power):
        return [compare(made(FIRST), made(np.array(FIRST) + offset * v**power)) for v in x]

    found = exponent(x, run_distances(1.5))
    assert found == pytest.approx((1.5, 1.5, 1.5))
    assert exponent(x, run_distances(np.array([[1.5], [1.5], [0.5]]))).low < 1.4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare(made(FIRST), made(FIRST[:2])), r"seeds = \[0, 1\]: must be \[0, 1, 2\]"),
        (lambda: compare(made(FIRST[:1]), made(FIRST[:1])), r"seeds = \[0\]: a distance"),
        (lambda: compare(made(FIRST), made(FIRST), start=20), "start = 20: must be before samples = 20"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
