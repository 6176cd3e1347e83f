"""What the figures of growing and decaying say: the numbers of the runs, and which row is whose."""

import numpy as np
import pandas as pd
import pytest

from sfolib.plotting.cifar import norms
from sfolib.plotting.decay import Panel, run_distances, schedules
from sfolib.training.records import Run


def made(sqnorm, published=None):
    """Two seeds, measured after 0, 1 and 2 steps of batch 4."""
    rows = [
        {"seed": seed, "step": k, "samples": 4 * k, "epoch": float(k), "batch_size": 4 + k, "grad_sqnorm": v,
         "test_accuracy": 0.9 - 0.1 * k, "published_sqnorm": 2 * v if published is None else published}
        for seed, of_seed in enumerate(sqnorm)
        for k, v in enumerate(of_seed)
    ]  # fmt: skip
    return Run(None, {"status": "finished"}, pd.DataFrame(rows))


def test_schedules_show_means_as_measured_from_the_first_step_on():
    run = made([[9.0, 1.0, 4.0], [9.0, 3.0, 4.0]])
    runs = {"a": run}
    panels = [Panel(runs, "grad_sqnorm"), Panel(runs, "batch_size"), Panel(runs, "test_error", "steps", "late", 1)]
    norm, batch_size, error = (axis for axis in schedules(panels).axes if axis.get_visible())
    assert list(norm.lines[0].get_xdata()) == [4, 8]
    assert list(norm.lines[0].get_ydata()) == [2.0, 4.0]
    assert list(batch_size.lines[0].get_xdata()) == [0, 4, 8]
    assert list(error.lines[0].get_xdata()) == [1, 2]
    assert list(error.lines[0].get_ydata()) == pytest.approx([0.2, 0.3])


def test_a_likeness_stands_in_the_row_of_its_system():
    rows = [("SGD", "x", 0.5, 2.0), ("Adam", "x", 3.0, 1.0), ("SGD", "y", 0.7, 1.5)]
    frame = pd.DataFrame(
        [dict(group=g, system=s, column="loss", value=v, low=v / 2, high=v * 2, fewer=f) for g, s, v, f in rows]
    )
    axis = run_distances(frame, {"loss": "loss"}).axes[0]
    labels = {tick: label.get_text() for tick, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)}
    points = {labels[line.get_ydata()[0]]: line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"}
    assert list(labels.values()) == ["SGD", "x  (2×)", "y  (1.5×)", "Adam", "x  (1×)"]
    assert points == {"x  (2×)": 0.5, "y  (1.5×)": 0.7, "x  (1×)": 3.0}


def test_norms_show_the_ratio_of_each_variant():
    plain, other = made([[1.0, 4.0, 16.0]] * 2, published=1.0), made([[1.0, 4.0, 16.0]] * 2)
    left, right = norms(plain, {"plain": plain, "other": other}).axes
    assert list(left.lines[0].get_ydata()) == pytest.approx([1, 2, 4])
    assert list(left.lines[1].get_ydata()) == pytest.approx([1, 1, 1])
    assert np.array([line.get_ydata() for line in right.lines]) == pytest.approx(
        np.array([[1, 0.5, 0.25], [2**0.5] * 3])
    )
