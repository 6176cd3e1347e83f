"""Growing runs, made ready for figures: against hand-computed runs, and against what a run really took."""

import numpy as np
import pandas as pd
import pytest

from sfolib._utils.errors import InputError
from sfolib.plotting.schedules import (
    at_step,
    exact_paths,
    exponents,
    goals,
    rising,
    spending,
    taken,
    value_at,
    without_noise,
)
from sfolib.problems.specs import Digits
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training.estimates import Interval
from sfolib.training.records import Run
from sfolib.training.run import run
from sfolib.training.spec import Spec


def run_of(steps, samples, batch_size, values, seeds=(0, 1), **columns):
    """A run whose seeds have ‖∇f‖² of `values` times 1 − 0.1, 1 + 0.1."""
    rows = [
        {"seed": seed, "epoch": n / 8, "step": k, "samples": n, "batch_size": b, "lr": 0.1 * b}
        | {"grad_sqnorm": v * (0.9 + 0.2 * seed)}
        | {name: column[i] for name, column in columns.items()}
        for i, (k, n, b, v) in enumerate(zip(steps, samples, batch_size, values, strict=True))
        for seed in seeds
    ]  # fmt: skip
    return Run(None, {"status": "finished"}, pd.DataFrame(rows))


LATE = run_of([0, 100, 101, 102], [0, 100, 200, 300], [1, 100, 100, 100], [1.0, 1e-1, 1e-2, 1e-3])


def test_late_stages_of_few_steps_are_not_averaged_into_one():
    """By steps the last three would be one window."""
    mean = np.array([1.0, 1e-1, 1e-2, 1e-3])
    assert LATE.expected == pytest.approx(mean)
    value, low, high = LATE.mean_ci()
    half = 12.706 * 0.1  # Student's t at one degree of freedom; two seeds 0.1 from their mean
    assert value == pytest.approx(mean)
    assert low == pytest.approx(mean * np.exp(-half), rel=1e-4)
    assert high == pytest.approx(mean * np.exp(half), rel=1e-4)


def test_values_at_a_step():
    assert value_at(LATE, "grad_sqnorm") == tuple(part[-1] for part in LATE.mean_ci())
    assert value_at(LATE, "grad_sqnorm", 101.5).value == pytest.approx(1e-2)
    straight = run_of([0, 1, 100], [0, 4, 400], [4] * 3, [1.0, 1.0, 1.0], loss=[9.0, 4.0, 2.0])
    assert at_step(straight, "loss", 10) == pytest.approx([3.0, 3.0])
    with pytest.raises(InputError, match="step = -1"):
        value_at(LATE, "grad_sqnorm", -1)
    with pytest.raises(InputError, match="step = 101"):
        at_step(straight, "loss", 101)


def test_pairs_taken_at_each_step_by_hand_and_in_a_run():
    batch_size, lr = taken(run_of([0, 2, 5], [0, 8, 32], [4, 8, 16], [1.0] * 3))
    assert list(batch_size) == [4, 4, 8, 8, 8]
    assert lr == pytest.approx([0.4, 0.4, 0.8, 0.8, 0.8])

    plan, problem = Plan(exponential(100, 3.0, 2), exponential(0.1, 2.0, 2)), Digits(holdout=360)
    spec = Spec(problem=problem, plan=plan, max_samples=5 * problem.size, sampling="replacement")
    wanted, samples = [], 0
    while samples < spec.max_samples:
        wanted.append(plan.at(samples // problem.size))
        samples += wanted[-1][0]
    batch_size, lr = taken(run(spec))
    assert [*zip(batch_size, lr, strict=True)] == wanted


def test_the_same_steps_without_noise():
    noisy = run_of([0, 2, 5, 9], [0, 8, 32, 64], [4, 8, 8, 16], [1.0] * 4)
    plan = without_noise(noisy, 100)
    assert [plan.at(t) for t in range(9)] == [(100, float(lr)) for lr in taken(noisy)[1]]


def test_values_rise_only_beyond_their_intervals():
    low, high = Interval(1.0, 0.9, 1.1), Interval(2.0, 1.2, 3.0)
    assert rising("a claim", [low, high], "T1 [S]", "a figure").verdict == "reproduced"
    assert rising("a claim", [low, high._replace(low=1.05)], "T1 [S]", "a figure").verdict == "undecided"
    assert rising("a claim", [high, low], "T1 [S]", "a figure").verdict == "not reproduced"


def test_goals_tell_gradient_evaluations_and_what_was_never_reached():
    points = [0, 1, 2, 4], [0, 10, 20, 40], [10] * 4
    runs = {
        "fast": run_of(*points, [1.0, 0.5, 0.1, 0.01], test_accuracy=[0.1, 0.5, 0.9, 0.9]),
        "slow": run_of(*points, [1.0, 0.9, 0.8, 0.7], test_accuracy=[0.1, 0.1, 0.1, 0.9]),
    }
    frame = goals(runs, 0.1, "a group")
    assert list(frame["system"]) == ["fast", "slow"]
    assert list(frame["samples"]) == pytest.approx([20, np.inf])
    assert set(frame["group"]) == {"a group"}
    assert list(goals(runs, 0.5, "", "test_accuracy")["samples"]) == pytest.approx([10, 20 * 2**0.5])


def test_stages_of_so_many_gradient_evaluations():
    assert spending(0.5, [16, 32, 1000], 100, total=2000) == [(16, 0.5, 6), (32, 0.5, 3), (1000, 0.5, 1)]
    assert spending(0.5, [16, 32, 1000], [100, 200, 0], total=300) == [(16, 0.5, 6), (32, 0.5, 6)]


def test_exact_paths_are_drawn_in_one_colour_each():
    q = PowerLawQuadratic(d=10, lam_min=1e-2)
    slow, fast = (q.stage_path([(4, lr, 8), (8, lr, 8)]) for lr in (0.1, 0.5))
    figure = exact_paths({"one": ("samples", {"slow": slow, "fast": fast}), "two": ("steps", {"fast": fast})})
    left, right = figure.axes
    assert [list(line.get_xdata()) for line in left.lines] == [[32, 96]] * 2
    assert [list(line.get_ydata()) for line in left.lines] == [list(p.grad_sqnorm[1:]) for p in (slow, fast)]
    assert list(right.lines[0].get_xdata()) == [8, 16]
    assert right.lines[0].get_color() == left.lines[1].get_color() != left.lines[0].get_color()


def test_exponents_stand_beside_their_prediction():
    axis = exponents(np.array([1.0, 2.0]), np.array([0.0, 0.5]), {"measured": ([1.5], [0.3])}).axes[0]
    theory, measured = axis.lines
    assert list(theory.get_ydata()) == [0.0, 0.5]
    assert (*measured.get_xdata(), *measured.get_ydata()) == (1.5, 0.3)
