"""Figures of promises and of allotments: what is drawn where."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sfolib.plotting import Band
from sfolib.plotting.predicted import against_target, beside, factors, plane, ratios
from sfolib.plotting.stage_lengths import allotments, budget_ends, exponents

X = np.array([1e-2, 5e-3, 2.5e-3])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_label_has_one_colour_in_all_panels_and_targets_fall():
    rows = {
        "N": {
            "one": [Band("b", "measured", X, X), Band("a", "bound", X, 2 * X)],
            "two": [Band("a", "measured", X, X, X / 2, 2 * X)],
        }
    }
    figure = against_target(rows, level=1.0)
    one, two = figure.axes
    assert two.lines[0].get_color() == one.lines[1].get_color() != one.lines[0].get_color()
    assert [axis.get_title() for axis in figure.axes] == ["one", "two"]
    assert one.xaxis_inverted()
    assert [tick.get_text() for tick in one.get_xticklabels()] == ["0.0025", "0.005", "0.01"]
    assert len(two.collections) == 1  # the band
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b", "a", "theory (bound)"]


def test_a_plan_is_a_point_with_its_interval():
    pairs = pd.DataFrame({"steps": [10.0, 100.0, 90.0], "samples": [500.0, 200.0, 300.0]})
    figure = plane({"p": (pairs, pairs[:2], [Band("plan", "measured", 50.0, 150.0, 120.0, 170.0)])})
    cloud, front, point = figure.axes[0].lines
    assert cloud.get_xdata().tolist() == [10.0, 100.0, 90.0]
    assert front.get_ydata().tolist() == [500.0, 200.0]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (50.0, 150.0)
    assert figure.axes[0].collections[0].get_segments()[0][:, 1].tolist() == [120.0, 170.0]


def test_the_predicted_rate_peaks_at_two():
    tested = pd.DataFrame({"delta": 2.0, "gamma": 1.4, "k": [1.5, 2.0, 4.0], "bound": 0.3, "exact": [0.33, 0.5, 0.25]})
    path = Band("k = 2", "exact", np.geomspace(1, 1e6, 20), np.geomspace(1, 1e-3, 20))
    rate, fall = exponents(tested, [path], (10.0, 1e5)).axes
    k, p = rate.lines[0].get_data()
    assert k[p.argmax()] == pytest.approx(2.0, abs=0.01)
    assert p[k <= 1].max() == 0.0
    assert p.max() == pytest.approx(0.5, abs=0.01)
    assert fall.get_xlim() == (10.0, 1e5)


def test_allotments_are_told_apart_by_colour_and_source():
    budget = np.geomspace(1e3, 1e6, 4)
    best = [Band("bound", "bound", budget, budget**0), Band("exact", "exact", budget, -(budget**0))]
    ends = {
        name: [Band(name, source, budget, 1 + budget**0) for source in ("bound", "exact")]
        for name in ("k = 0", "k = 2")
    }
    right = allotments(best, ends).axes[1]
    assert right.lines[0].get_color() == right.lines[1].get_color() != right.lines[2].get_color()
    assert right.lines[0].get_linestyle() != right.lines[1].get_linestyle()


def test_budgets_are_the_ticks():
    x = np.array([14.0, 56.0])
    figure = budget_ends({"digits": [Band("k = 0", "measured", x, 1 / x, 0.9 / x, 1.1 / x)]})
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["14", "56"]
    assert figure.axes[0].get_ylabel().startswith("$\\min")


def test_bars_of_factors_end_at_their_product():
    frame = pd.DataFrame({"a": [4.0, 2.0], "b": [0.5, 3.0]}, index=[1e-2, 1e-3])
    (axis,) = factors(frame).axes
    ends = [bar.get_x() + bar.get_width() for bar in axis.patches]
    assert ends == pytest.approx([4.0, 2.0, 2.0, 6.0])
    assert [text.get_text() for text in axis.texts] == [" × 2", " × 6"]


def test_what_was_predicted_lies_on_what_was_measured():
    panels = {"one": [Band("m", "measured", X, X, X / 2, 2 * X), Band("p", "predicted", X, X)], "none": []}
    one, none = beside({"y": panels}).axes
    assert one.lines[1].get_color() == "k" != one.lines[0].get_color()
    assert len(one.collections) == 1
    assert not none.get_visible()
    (axis,) = ratios({"t": ("b", [Band("m", "measured", X, X, X, X)])}, 0.1).axes
    assert axis.lines[1].get_ydata().tolist() == X.tolist()
