"""What leaves the theory, or the numbers, is told: in the validity report, in the figure and in the record."""

import numpy as np
import pandas as pd
import pytest
import torch
from archives import write_cifar

from sfolib import plotting
from sfolib.analysis import assumptions, crossings
from sfolib.analysis.claims import Check
from sfolib.problems import datasets
from sfolib.problems.specs import Digits, Images, Quadratic
from sfolib.schedules import diagnostics
from sfolib.schedules.adaptive import GradNormTrigger
from sfolib.schedules.base import exponential, linear
from sfolib.schedules.plan import Plan
from sfolib.theory.bounds import Constants
from sfolib.training.loop import Trainer
from sfolib.training.pooling import pooled
from sfolib.training.run import run
from sfolib.training.spec import Spec

C = Constants(L=1.0, sigma2=1.0, gap=1.0)


def short(run):
    return [mark.short for mark in assumptions.violations(run)]


def quadratic(lr, **settings):
    told = {"sampling": "replacement", "max_samples": 400, "eval_every": 1.1, "seeds": (0, 1)} | settings
    return Spec(problem=Quadratic(d=10, lam_min=0.01), plan=Plan(1, lr, "step"), **told)


def test_a_plan_says_where_it_leaves_the_bounds():
    growing = Plan(linear(60, 30), exponential(0.5, 2), "epoch")
    said = growing.report(C, 100, 4)
    assert said == [
        "lr = 2 at step 5 is not below 2/L = 2",  # epochs of 2, 2 and 1 steps: 60 + 40, 90 + 10, 100
        "at step 5 the batch is the whole data set: no noise is left in a step",
        "batch_size = 120 at step 5 is above the data set's 100 samples",
    ]
    assert diagnostics.validity(growing, C, 100, 4).warnings == tuple(said)
    assert diagnostics.validity(Plan(60, 0.5), C, 100, 4).warnings == ()


def test_the_warning_is_in_the_figure():
    above = run(quadratic(linear(0.5, 0.05), max_samples=36))
    (mark,) = assumptions.violations(above)
    assert mark.column == "lr"
    assert (
        mark.text
        == f"lr = {above.rows['lr'][2 * mark.point]:.6g} at step {above.steps[mark.point]} is not below 2/L = 2"
    )
    assert above.steps[mark.point - 1] < 30 <= above.steps[mark.point]  # 0.5 + 0.05·30 = 2
    below = run(quadratic(0.5))
    assert assumptions.violations(below) == []
    figure = plotting.trajectories({"above": above, "below": below}, ["lr", "grad_sqnorm"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "above, η ≥ 2/L",
        "below",
        "leaves what the theory assumes",
    ]
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "H"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [
        (above.samples[mark.point], pytest.approx(above.curves("lr").mean(0)[mark.point]))
    ]


def test_a_batch_above_n_is_told():
    spec = Spec(problem=Digits(holdout=1000), plan=Plan(linear(500, 200), 0.05), max_samples=4 * 797)
    (mark,) = assumptions.violations(run(spec))
    assert (mark.short, mark.point) == ("b > n", 2)
    assert mark.text == "batch_size = 900 at step 4 is above the data set's 797 samples"


def test_softmax_is_held_to_its_proven_bound():
    problem = Digits(holdout=1000)
    limit = 2 / problem.smoothness_bound
    for lr, found in ((0.99 * limit, []), (1.01 * limit, ["η ≥ 2/L"])):
        assert short(run(Spec(problem=problem, plan=Plan(100, lr), max_samples=797))) == found


def test_a_diverged_run_is_shown_as_such_and_reaches_nothing():
    lost = run(quadratic(1e6, max_samples=10**6))
    assert lost.status == "diverged"
    assert lost.provenance["diverged"] == {"step": int(lost.steps[-1]), "seeds": [0, 1]}
    assert np.isfinite(lost.rows["grad_sqnorm"].iloc[:-2]).all()
    assert short(lost) == ["η ≥ 2/L", "diverged"]
    assert assumptions.violations(lost)[1].text == f"diverged at step {lost.steps[-1]}"
    for figure in (plotting.trajectories({"lost": lost}), plotting.against_clocks({"lost": lost}, ["grad_sqnorm"])):
        assert "diverged" in figure.legends[0].get_texts()[0].get_text()
        figure.canvas.draw()
    panel = plotting.trajectories({"lost": lost}).axes[3]
    (cross,) = [line for line in panel.lines if line.get_marker() == "X"]
    assert cross.get_xdata()[0] == lost.samples[-2]
    assert not crossings.crossings([lost], [1e-2])["samples"].apply(np.isfinite).any()
    assert Check("", "upper_bound", lost.first_crossing(1e-2).samples, 1e9, exact=True).verdict == "not reproduced"
    both = pooled([run(quadratic(0.1, seeds=(5,))), run(quadratic(1e6, seeds=(6,), max_samples=10**6))])
    assert both.status == "diverged"


@pytest.mark.parametrize("kind", ["GradNormTrigger", "NormTest", "AutoWU"])
def test_a_policy_that_sees_no_number_ends_its_run(kind):
    arguments = {
        "GradNormTrigger": {"batch_size": 8, "lr": 1e38, "eps": 0.1, "delta": 2.0, "check_every": 2},
        "NormTest": {"eta": 1.0, "batch_size": 8, "lr": 1e38, "test_interval": 2, "max_batch_size": 64},
        "AutoWU": {"total_steps": 100, "steps_per_epoch": 50, "batch_size": 8, "min_lr": 1e37, "max_lr": 1e38},
    }[kind]
    spec = Spec(problem=Digits(hidden=(4,), holdout=900), policy={"kind": kind, **arguments}, max_samples=10**5,
                log_train_metrics=kind == "AutoWU")  # fmt: skip
    found = run(spec)
    assert found.status == "diverged"
    assert found.steps[-1] < 100  # at the step, not at the end of an epoch of 113


def test_a_signal_that_is_not_finite_is_not_shown(monkeypatch):
    shown = []
    policy = GradNormTrigger(8, 0.1, eps=0.1, delta=2.0, check_every=1)
    trainer = Trainer(Spec(problem=Digits(holdout=900), policy=policy, max_samples=1000), "cpu")
    monkeypatch.setattr(trainer.leader, "update", lambda *given: shown.append(given))
    monkeypatch.setattr(trainer.task, "measure", lambda: {"grad_sqnorm": torch.tensor([torch.nan])})
    trainer.advance()
    assert (trainer.step, trainer.samples, trainer.probes) == (1, 8, trainer.task.probes)
    assert shown == []


@pytest.mark.parametrize(
    "problem", [Digits(hidden=(12,), holdout=900), Quadratic(d=50), Digits(model="cnn", holdout=1000)]
)
def test_numbers_do_not_depend_on_the_number_of_threads(problem):
    """To the last digit: these problems run on one thread, however many there are."""
    sampling = "replacement" if isinstance(problem, Quadratic) else "permutation"
    spec = Spec(problem=problem, plan=Plan(64, 0.05), max_samples=640, eval_every=2.0, sampling=sampling)
    pd.testing.assert_frame_equal(*on_threads(spec), check_exact=True)


def test_on_images_they_do_not_beyond_rounding(tmp_path, monkeypatch):
    """They run on all threads, which take sums in another order: nothing else shows in double precision."""
    write_cifar(tmp_path / "data", monkeypatch)
    datasets.load.cache_clear()
    problem = Images(dataset="cifar10", model="resnet8", data_dir=str(tmp_path / "data"))
    spec = Spec(problem=problem, plan=Plan(16, 0.01), max_samples=100, dtype="float64")
    pd.testing.assert_frame_equal(*on_threads(spec), rtol=1e-9)


def on_threads(spec):
    """The rows of the same run on one thread and on three."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(run(spec, device="cpu").rows)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    return found
