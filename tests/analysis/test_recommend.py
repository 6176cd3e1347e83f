"""The recommended plan: on the front that the measured constants give, within its budget, ready to run."""

import json

import numpy as np
import pytest

from sfolib import cli
from sfolib.analysis import constants, step_time
from sfolib.analysis.recommend import recommend
from sfolib.problems.specs import named
from sfolib.schedules.plan import Plan
from sfolib.theory import bounds
from sfolib.training import records
from sfolib.training.loop import Trainer
from sfolib.training.run import run
from sfolib.training.spec import Spec


def spec(model="softmax", epochs=200):
    problem = named("digits", model, l2=1e-3)
    return Spec(problem=problem, plan=Plan(16, 0.1), max_samples=epochs * problem.size, seeds=(2,))


@pytest.fixture
def machine(monkeypatch):
    """τ0 = 1 ms, τ1 = 20 µs, whatever this machine does."""
    monkeypatch.setattr(step_time, "measure_step_time", lambda _, batches, **__: 1e-3 + 2e-5 * np.array(batches))


@pytest.mark.parametrize("objective", ["time", "samples"])
def test_every_stage_is_on_the_front(objective, machine):
    found = recommend(spec(), objective, max_batch_size=100)
    c = constants.as_constants(found.estimates)
    assert found.step_time == pytest.approx((1e-3, 2e-5))
    start = Trainer(spec()).task.measure()["grad_sqnorm"].item()
    assert found.first_eps**2 == pytest.approx(start / 2)
    for m, row in enumerate(found.spec.plan.rows):
        assert row.eps**2 == pytest.approx(start / 2 ** (m + 1))
        if objective == "time":
            wanted = bounds.time_optimal_batch_size(c, row.eps, 1e-3, 2e-5)
        else:
            wanted = bounds.noise_scale(c, row.eps)
        assert row.batch_size == round(min(wanted, 100))
        assert row.lr == pytest.approx(bounds.optimal_lr(c, row.batch_size, row.eps))


def test_as_many_stages_as_the_budget_holds(machine):
    few, many = (recommend(spec(epochs=epochs)) for epochs in (1, 2000))
    assert len(few.spec.plan.rows) == 1
    spent = [row.samples for row in many.spec.plan.rows]
    assert len(spent) > 1
    assert sum(spent) <= many.spec.max_samples < 4 * sum(spent) + sum(spent)


def test_a_plan_from_the_command_line_is_ready_to_train(machine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = {"model": "softmax", "bs": 16, "bs_method": "constant", "lr": 0.1, "lr_method": "constant", "epochs": 3}
    (tmp_path / "config.json").write_text(json.dumps(told | {"csv_path": "csv"}))
    arguments = ["plan", "config.json", "--dataset", "digits"]
    assert cli.main(arguments) == 0
    assert "stage" in capsys.readouterr().out
    assert cli.main(arguments) == 1
    assert "plan.json" in capsys.readouterr().err
    assert cli.main(["train", "plan.json"]) == 1
    assert "add --out" in capsys.readouterr().err
    assert cli.main(["train", "plan.json", "--out", "run", "--seed", "4"]) == 1
    assert "seed = 4" in capsys.readouterr().err
    assert cli.main(["train", "plan.json", "--out", "run"]) == 0
    kept = Spec.model_validate_json((tmp_path / "plan.json").read_text())
    assert records.load("run").rows.equals(run(kept).rows)
    assert records.load("run").samples[-1] == 3 * 1437
    (tmp_path / "bad.json").write_text(json.dumps(kept.model_dump(mode="json") | {"max_samples": -1}))
    assert cli.main(["train", "bad.json", "--out", "other"]) == 1
    assert "max_samples = -1" in capsys.readouterr().err
