"""15: ends, and what it takes to each ε, as claims and tables say them."""

import numpy as np
import pytest

from sfolib.analysis.claims import Check, LeftOut
from sfolib.experiments import notebook
from sfolib.experiments import the_schedule_to_use as experiment

METHODS = ["late ramp", "horizon ramp", "successive gradients", "b × 2, η × 1.4", "b × 2", "b₀", "16 b₀"]
LATENCY, PER_SAMPLE = 1e-3, 1e-5


@pytest.fixture(scope="module")
def runs_of(tmp_path_factory):
    p = experiment.Parameters(
        scale="smoke", problems=["digits/softmax"], methods=METHODS, budget=9000, eps2=[0.1, 0.03, 1e-9], factors=[3.0],
        seeds=2, policy_seeds=2, out=str(tmp_path_factory.mktemp("figures")), jobs=1,
    )  # fmt: skip
    return p, notebook.train(experiment, p)


@pytest.fixture
def res(runs_of, monkeypatch):
    timed = LATENCY + PER_SAMPLE * np.array(experiment.TIMED)
    monkeypatch.setattr(experiment, "measure_step_time", lambda *_, **__: timed)
    return experiment.results(*runs_of)


def row(res, method, eps2, factor=1.0):
    return res.arrivals.query("method == @method and eps2 == @eps2 and factor == @factor").iloc[0]


def test_what_it_takes_to_an_eps_is_the_crossing_with_the_looks_before_it(runs_of, res):
    run = runs_of[1]["digits/softmax", "b₀", 1.0, 0]
    crossing, found = run.first_crossing(0.03**0.5), row(res, "b₀", 0.03)
    assert found["evaluations"] == crossing.samples
    assert (found["evaluations_low"], found["evaluations_high"]) == (crossing.low, crossing.high)
    assert found["steps"] == pytest.approx(crossing.steps, rel=0.01)
    assert found[experiment.HERE] == pytest.approx(LATENCY * found["steps"] + PER_SAMPLE * found["evaluations"])
    ramp = res.curves["digits/softmax", "horizon ramp"]
    looked = ramp.curves("looked").mean(0)
    end = row(res, "horizon ramp", 0.03)["evaluations"]
    assert looked[0] == 0 < looked[-1] <= 9000 / 20  # at most a twentieth of the budget
    assert end == pytest.approx(ramp.first_crossing(0.03**0.5).samples + np.interp(end, ramp.samples + looked, looked))
    assert experiment._seconds(ramp, res.machines["digits/softmax"][experiment.HERE])[-1] == pytest.approx(
        LATENCY * ramp.steps[-1] + PER_SAMPLE * (ramp.samples[-1] + looked[-1])
    )


def test_who_never_gets_there_is_said_to(res):
    shown = experiment.to_eps(res)
    assert (shown.loc["digits/softmax"][1e-9] == "never").all(axis=None)
    of = shown.loc[("digits/softmax", "16 b₀"), 0.03]
    best = min(row(res, "16 b₀", 0.03, factor)["evaluations"] for factor in (1.0, 3.0))
    assert of["evaluations"] == ("never" if np.isinf(best) else best)


def test_claims_to_each_eps_are_ratios_to_the_best_of_the_papers(res):
    told = {c.claim: c for c in experiment.claims(res) if isinstance(c, Check)}
    check = told[
        "digits/softmax: the late ramp at η₀ takes no more gradient evaluations, looks included, to each ε² than the "
        "paper's plans at their best η"
    ]
    paper = min(row(res, name, 0.03, factor)["evaluations"] for name in experiment.PAPER for factor in (1.0, 3.0))
    assert check.measured[1] == row(res, "late ramp", 0.03)["evaluations"] / paper
    both = told[
        "digits/softmax: each at its best η, the test of successive gradients takes no more gradient evaluations, "
        "looks included, to each ε² than the paper's plans"
    ]
    mine = min(row(res, "successive gradients", 0.03, factor)["evaluations"] for factor in (1.0, 3.0))
    assert both.measured[1] == mine / paper
    assert np.isnan(check.measured[2])  # neither gets to 1e-9
    assert check.to_dict()["measured"][2] is None
    assert {c.figure for c in told.values()} <= {*experiment.figures(res)}


def test_of_runs_with_few_measuring_points_no_arrival_is_told(runs_of, res, monkeypatch):
    monkeypatch.setattr(experiment, "POINTS", 99)
    few = experiment.results(*runs_of)
    left_out = [c for c in experiment.claims(few) if isinstance(c, LeftOut)]
    assert len(left_out) == 5
    assert "to_eps" not in experiment.figures(few)
    assert experiment.to_eps(few).empty


def test_ends_over_the_papers_are_those_of_the_best_of_the_search(res):
    over = experiment._over_paper(res).set_index(["method", "criterion"])
    best = res.best("digits/softmax", "loss", experiment.PAPER)
    end = res.at("digits/softmax", "late ramp", "loss")
    found = over.loc["late ramp", "loss"]
    assert found["ratio"] == end["value"] / best["value"]
    assert (found["low"], found["high"]) == (end["low"] / best["high"], end["high"] / best["low"])
    assert over.loc[best["method"], "loss"]["ratio"] == 1


@pytest.mark.parametrize("seconds", [[2e-3, 1e-3], [1e-3, 9e-3]])
def test_times_are_told_whatever_the_machine_does_meanwhile(tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(experiment, "measure_step_time", lambda *_, **__: np.array(seconds))
    how = {"scale": "smoke", "problems": ["digits/softmax"], "methods": ["b₀", "4 b₀"], "budget": 1437}
    p = experiment.Parameters(**how, seeds=2, out=str(tmp_path), jobs=1)
    here, there = experiment.times(experiment.results(p, notebook.train(experiment, p))).T.to_numpy()
    assert np.isnan(here).all() == (seconds[0] > seconds[1])
    steps = np.array([90, 23])  # the last batch of each is short
    assert there == pytest.approx((1000 * steps + 1437) / (1000 / 16 + 1) / 1437)
