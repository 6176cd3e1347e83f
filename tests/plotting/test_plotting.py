"""Figures say what their records say; how they look is for eyes."""

from itertools import pairwise

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

from sfolib import plotting
from sfolib.plotting.style import number, style
from sfolib.training.estimates import Interval
from sfolib.training.records import Run


def frame(source, samples, eps2=1e-2):
    samples = np.array(samples, dtype=float)
    batch_size = 2 ** np.arange(len(samples))
    return pd.DataFrame(
        {
            "source": source,
            "eps2": eps2,
            "batch_size": batch_size,
            "samples": samples,
            "steps": samples / batch_size,
            "low": samples / 2,
            "high": samples * 2,
        }
    )


def test_what_was_not_reached_is_a_cross_and_no_point():
    measured = frame("measured", [np.inf, 400, 200, 300])
    axis = plotting.against_batch_size(
        {"a problem": pd.concat([measured, frame("bound", [np.inf, np.inf, 900, 800])])}, "samples"
    ).axes[0]
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[1]]
    curve = next(line for line in axis.lines if line.get_marker() == "o" and line.get_linestyle() == "-")
    assert list(curve.get_xdata()) == [2, 4, 8]
    assert list(curve.get_ydata()) == [400, 200, 300]
    marked = {
        line.get_marker(): (*line.get_xdata(), *line.get_ydata()) for line in axis.lines if len(line.get_xdata()) == 1
    }
    assert marked["o"] == (4, 200)
    assert marked["*"] == (8, 800)


def test_a_fitted_exponent_is_told_with_its_interval():
    x = np.array([1.0, 2.0])
    figure = plotting.power_laws(
        {"y": [plotting.Curve("digits: measured", "measured", x, x, Interval(-2.0, -2.5, -1.5))]}, "x"
    )
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "digits: measured, exponent -2.00 [-2.50, -1.50]"


def test_a_notebook_goes_on_showing_figures():
    """The inline backend turns itself on with the first figure; the style's context must not turn it off again."""
    drawn = "plotting.power_laws({'y': [plotting.Curve('a: b', 'bound', x, x)]}, 'x')"
    sources = ("import numpy as np; from sfolib import plotting; x = np.array([1.0, 2.0])", drawn, drawn + "; 1", drawn)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=120).execute()
    pictures = [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in notebook.cells]
    assert pictures == [0, 1, 0, 1]


def test_trajectories_draw_means_and_intervals_over_seeds():
    steps = np.array([0, 1, 2, 4, 8, 16])
    rows = [
        {
            "seed": s,
            "epoch": k / 8,
            "step": k,
            "samples": 4 * k,
            "batch_size": 4,
            "lr": 0.1 * (1 + s),
            "test_accuracy": 0.5,
        }
        for k in steps.tolist()
        for s in range(3)
    ]
    run = Run(None, {"status": "finished"}, pd.DataFrame(rows))
    figure = plotting.trajectories({"one": run}, ["lr", "test_error"], "epochs")
    rate, error = figure.axes
    assert list(rate.lines[0].get_xdata()) == list(steps[1:] / 8)
    assert rate.lines[0].get_ydata() == pytest.approx(np.full(5, 0.2))
    low, high = rate.collections[0].get_datalim(rate.transData).intervaly
    assert np.log([low, high]) == pytest.approx(np.log(0.2) + np.array([-1, 1]) * 4.303 * 0.1 / 3**0.5 / 0.2, rel=1e-3)
    assert list(error.lines[0].get_ydata()) == [0.5] * 5
    assert plotting.against_clocks({"one": run}, ["lr"]).axes[1].get_xlabel() == "steps"
    three = plotting.trajectories({"one": run}, ["batch_size", "lr", "test_error"], "epochs").axes[:3]
    assert [axis.get_xlabel() for axis in three] == ["", "epochs", "epochs"]
    assert [axis.xaxis.get_tick_params()["labelbottom"] for axis in three] == [False, True, True]
    runs = {f"a schedule that grows {by} at fixed times": run for by in "bη?"}
    many = plotting.trajectories(runs, ["lr", "test_error"], "epochs")
    (legend,) = many.legends
    assert legend.get_window_extent().width <= many.bbox.width
    beside = plotting.trajectories(runs, ["lr"], "epochs")
    assert not beside.legends
    assert len(beside.axes[1].get_legend().get_texts()) == 3


def test_a_band_that_goes_down_to_nothing_leaves_the_curves_their_room():
    rows = [
        {"seed": s, "epoch": k, "step": k, "samples": k, "batch_size": 1, "lr": 0.1, "loss": (1.0, 4.0)[s]}
        for k in range(4)
        for s in range(2)
    ]
    run = Run(None, {"status": "finished"}, pd.DataFrame(rows))
    mean, low, _ = (ends[-1] for ends in run.mean_ci("loss"))
    assert low < mean / 100  # two seeds
    assert plotting.trajectories({"one": run}, ["loss"]).axes[0].get_ylim()[0] == pytest.approx(mean / 3)


@pytest.mark.parametrize(("high", "last"), [(9e3, "5000"), (1e6, "$10^{6}$")])
def test_ticks_of_a_logarithmic_axis_are_written_in_one_way_and_do_not_overlap(high, last):
    with style():
        figure, axis = plt.subplots(figsize=(2.4, 2))
        axis.plot([1e3, high], [1, 2])
        axis.set(xscale="log", yscale="log", xlim=(1e3, high))
        axis.set_yticks([1, 2], ["one", "two"])
    figure.canvas.draw()
    assert [label.get_text() for label in axis.get_yticklabels()] == ["one", "two"]  # a figure's own stay
    boxes = {label.get_text(): label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()}
    assert last in boxes
    ordered = sorted(boxes.values(), key=lambda box: box.x0)
    assert all(a.x1 < b.x0 for a, b in pairwise(ordered))


def test_numbers_of_legends_are_those_of_axes():
    assert [number(x) for x in (0.0056234, 1e-4, 3.16e-4, 1e6, 4.12e7)] == [
        "0.0056", "$10^{-4}$", r"$3.2\cdot10^{-4}$", "$10^{6}$", r"$4.1\cdot10^{7}$",
    ]  # fmt: skip


def test_costs_show_what_was_not_reached_as_a_cross():
    frame = pd.DataFrame(
        {
            "group": ["g", "g"],
            "system": ["a", "b"],
            "samples": [10.0, np.inf],
            "low": [8.0, 9.0],
            "high": [12.0, np.inf],
        }
    )
    axis = plotting.costs(frame, ["g"]).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    marks = {line.get_marker(): list(line.get_ydata()) for line in axis.lines if len(line.get_xdata()) == 1}
    assert marks == {"o": [0], "x": [1]}
