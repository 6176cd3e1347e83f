"""The schedule to use: predicted, the same at every call, at or below what it is compared with when it is trained; and
worst-case plans on the front that the measured constants give."""

import json

import numpy as np
import pytest

from sfolib import cli
from sfolib._utils.errors import InputError
from sfolib.analysis import constants, horizon, step_time
from sfolib.analysis.recommend import _cooled, recommend, worst_case
from sfolib.problems.specs import Quadratic, named
from sfolib.schedules.base import polynomial
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import late_ramp
from sfolib.theory import bounds
from sfolib.theory.local import best_batch_sizes, noise_kernel
from sfolib.training import records
from sfolib.training.loop import Trainer
from sfolib.training.optimizers import SGD
from sfolib.training.run import run
from sfolib.training.spec import Spec


def spec(model="softmax", epochs=200, **how):
    problem = named("digits", model, l2=1e-3)
    settings = {"plan": Plan(16, 0.1), "max_samples": epochs * problem.size, "seeds": (2,), "eval_every": 1e9}
    return Spec(problem=problem, **settings | how)


QUADRATIC = Spec(
    problem=Quadratic(d=40, lam_min=1e-3, sigma2=30.0), plan=Plan(8, 0.2), max_samples=60_000, sampling="replacement"
)


@pytest.fixture
def machine(monkeypatch):
    """τ0 = 1 ms, τ1 = 20 µs, whatever this machine does."""
    monkeypatch.setattr(step_time, "measure_step_time", lambda _, batches, **__: 1e-3 + 2e-5 * np.array(batches))


# ------------------------------------------------------------------------------------------- the schedule to use
def test_what_is_predicted_for_the_quadratic_is_exact():
    """By the recursion of the second moments, step by step."""
    q, lr = QUADRATIC.problem.exact, 0.3
    path = horizon.noise_free_path(QUADRATIC, lr, 1500.0)
    sizes, rates = horizon.steps_of(late_ramp(8, lr, 30_000), 30_000, 1024, False)
    m = q.theta0**2
    for b, eta in zip(sizes, rates, strict=True):
        m = (1 - eta * q.eigenvalues) ** 2 * m + eta**2 * q.noise_variance / b
    found = path.judge(sizes, rates)
    assert found.grad_sqnorm == pytest.approx(np.sum(q.eigenvalues**2 * m), rel=0.02)
    assert found.loss == pytest.approx(np.sum(q.eigenvalues * m) / 2, rel=0.02)
    assert (found.steps, found.samples) == (len(sizes), 30_000)


def test_ramps_are_water_filling_where_nothing_bounds_them():
    q, lr = QUADRATIC.problem.exact, 0.3
    path = horizon.noise_free_path(QUADRATIC, lr, 1500.0)
    made = max(horizon.ramps(path, lr, 2, lambda steps: 60_000), key=lambda ramp: ramp.sizes.max())
    kappa = noise_kernel(np.full(round(made.steps), lr), q.eigenvalues, q.noise_variance)
    noise = made.grad_sqnorm - path.at(made.steps * lr)[0]
    best = best_batch_sizes(kappa, noise, minimum=made.batch_size)
    assert best.sum() == pytest.approx(60_000, rel=0.03)


def test_by_permutation_the_noise_of_an_epoch_is_less_its_mean():
    """A mode, two epochs and a half of 12 samples in batches of 4, drawn many times."""
    lam, variance, lr, n = 0.3, 2.0, 0.5, 12
    spectrum = horizon.Spectrum(1.0, np.array([lam]), np.array([variance]))
    ones = np.ones(3)
    path = horizon.Path(np.array([0.0, 1.0, 99.0]), 1e-12 * ones, 1e-12 * ones, [spectrum], 0, n, 0.0)
    sizes = np.array([4, 4, 4, 4, 4, 4, 4, 2.0])
    rng, runs = np.random.default_rng(0), 20_000
    samples = rng.standard_normal(n)
    samples = (samples - samples.mean()) / samples.std() * variance**0.5
    draws = np.concatenate([rng.permuted(np.tile(samples, (runs, 1)), axis=1) for _ in range(3)], 1)
    theta = np.zeros(runs)
    for b, end in zip(sizes.astype(int), np.cumsum(sizes).astype(int), strict=True):
        theta -= lr * (lam * theta + draws[:, end - b : end].mean(1))
    found = path.judge(sizes, np.full(8, lr)).grad_sqnorm
    assert found == pytest.approx(lam**2 * np.mean(np.square(theta)), rel=0.05)


@pytest.mark.parametrize(
    ("own", "objective"),
    [(spec(epochs=10), "grad_norm"), (QUADRATIC.model_copy(update={"seeds": tuple(range(999))}), "loss")],
)
def test_the_recommended_schedule_ends_at_or_below_the_configs_own_as_predicted(own, objective):
    found = recommend(own, objective=objective)
    budget = own.max_samples
    assert found.spec.max_samples <= budget
    predicted = found.table.set_index("schedule")
    ends = {
        name: run(s).rows.groupby("samples").mean(numeric_only=True).reset_index().iloc[-1]
        for name, s in (("recommended", found.spec), ("config", own))
    }
    assert ends["recommended"].samples <= budget
    assert ends["recommended"].grad_sqnorm < ends["config"].grad_sqnorm
    assert ends["recommended"].loss < 1.01 * ends["config"].loss
    assert ends["recommended"].grad_sqnorm == pytest.approx(predicted.grad_sqnorm["recommended"], rel=0.8)
    for name, end in ends.items():
        assert end.loss == pytest.approx(predicted.loss[name], rel=0.03)
        assert end.step == predicted.steps[name]
        assert found.paths[name].samples.iloc[-1] == predicted.samples[name]


def test_five_calls_agree():
    for own, calls in ((QUADRATIC, 5), (spec(epochs=1), 2)):
        found = [recommend(own) for _ in range(calls)]
        assert len({r.spec.key for r in found}) == 1
        assert len({str(r) for r in found}) == 1


def test_timings_that_do_not_decide_are_said_not_to(machine, monkeypatch):
    short = QUADRATIC.model_copy(update={"max_samples": 5000})
    told = recommend(short, objective="time")
    assert not any("do not decide" in note for note in told.notes)
    assert "seconds" in told.table
    noisy = iter([(1e-3, 2e-5), (1e-6, 2e-5), (1e-2, 1e-7)] * 2)
    monkeypatch.setattr("sfolib.analysis.recommend._step_time", lambda *_: step_time.StepTime(*next(noisy)))
    again = [recommend(short, objective="time", eps=0.1) for _ in range(2)]
    for found in again:
        assert any("do not decide" in note for note in found.notes)
        assert found.spec == recommend(short, eps=0.1).spec


def test_an_lr_that_the_start_does_not_bear_is_said_beside_its_prediction():
    for lr, beyond in ((3.0, True), (0.5, False)):
        notes = recommend(QUADRATIC.model_copy(update={"plan": Plan(8, lr)})).notes
        assert any("config: its lr reaches 3, beyond" in note for note in notes) == beyond


def test_where_the_configs_own_is_better_it_is_said():
    """Its lr is beyond half of what the start bears, and falls."""
    for plan, worse in ((late_ramp(64, 1.2, 4000, growth=8), "loss"), (falling(64, 1.2, 4000), "‖∇f‖² and loss")):
        found = recommend(QUADRATIC.model_copy(update={"plan": plan, "max_samples": 4000}))
        assert any(f"above the config's own in {worse}: " in note for note in found.notes)


def falling(batch_size, lr, samples):
    return Plan(batch_size, polynomial(lr, 0.0, samples), "sample")


@pytest.mark.parametrize(("cap", "told"), [(None, ["begins at"]), (512, ["begins at", "falls to"])])
def test_an_lr_in_the_table_that_is_not_the_notes_is_explained(cap, told):
    found = recommend(QUADRATIC, max_batch_size=cap)
    (why,) = [note for note in found.notes if note.startswith("the table's lr")]
    ends = found.table["lr"][0].split(" to ")
    assert found.notes[0].startswith("lr 1: ")
    assert ends[0] != "1"
    assert (ends[0] != ends[1]) == ("falls to" in told)
    assert [word for word in ("begins at", "falls to") if word in why] == told
    assert all(f"{word} {end}" in why for word, end in zip(told, ends, strict=False))
    assert _cooled(1.0, np.array([8, 16]), np.array([1.0, 1.0])) == []


def test_a_cap_below_the_batch_that_is_held_is_kept():
    """With less lr in its place, and more steps."""
    free, capped = recommend(QUADRATIC), recommend(QUADRATIC, max_batch_size=4)
    (b, lr), (small, low) = (found.spec.plan.at(0) for found in (free, capped))
    assert b > small == 4
    assert low == pytest.approx(lr * 4 / b, rel=0.3)
    assert horizon.steps_of(capped.spec.plan, capped.spec.max_samples, 1024, False)[0].max() == 4
    ends = [found.table["grad_sqnorm"][0] for found in (free, capped)]
    assert ends[1] == pytest.approx(ends[0], rel=0.3)


def test_with_momentum_the_lr_makes_steps_as_long_as_without():
    found = recommend(QUADRATIC.model_copy(update={"optimizer": SGD(momentum=0.9)}))
    assert 0.05 < found.spec.plan.at(0)[1] <= 0.1  # 0.1 of 2/λ_max / 2
    assert found.notes[0].startswith("lr 0.1: half of the largest stable one, 3.8 (")
    assert "(2(1 + m)/λ_max 3.8), times (1 − m)/(1 + m) for momentum m = 0.9" in found.notes[0]


def test_fewest_gradient_evaluations_to_a_target():
    found = recommend(QUADRATIC, eps=0.02)
    end = run(found.spec.model_copy(update={"seeds": tuple(range(200))})).rows.groupby("samples").grad_sqnorm.mean()
    assert end.iloc[-1] == pytest.approx(0.02**2, rel=0.1)
    best = QUADRATIC.problem.exact.best_constant_batch_size(0.2, 0.02)
    assert end.index[-1] < 0.5 * best.samples


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: recommend(spec(), budget=100, eps=0.1), "budget and eps = True: one of them at most"),
        (lambda: recommend(spec(), budget=0.5), "budget = 0.5"),
        (lambda: recommend(spec(), eps=-1.0), "eps = -1.0"),
        (lambda: recommend(spec(), objective="steps"), "objective = 'steps'"),
        (
            lambda: recommend(spec(), objective="loss", eps=0.1),
            "objective = 'loss': must be grad_norm or time with eps",
        ),
        (lambda: recommend(spec(optimizer="adam")), "optimizer = 'adam': must be 'sgd'"),
        (lambda: recommend(QUADRATIC, eps=1e-9), "eps = 1e-09: is not reached"),
    ],
)
def test_bad_input_names_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        call()
    assert named in str(caught.value)


def test_a_plan_from_the_command_line_is_ready_to_train(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = {"model": "softmax", "bs": 16, "bs_method": "constant", "lr": 0.1, "lr_method": "constant", "epochs": 3}
    (tmp_path / "config.json").write_text(json.dumps(told | {"csv_path": "csv"}))
    arguments = ["plan", "config.json", "--dataset", "digits"]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "recommended" in out
    assert err == ""  # no bar where there is no terminal
    assert (tmp_path / "plan.png").exists()
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
    assert cli.main([*arguments, "--out", "worst.json", "--worst-case", "--budget", "2000"]) == 0
    assert "stage" in capsys.readouterr().out
    assert Spec.model_validate_json((tmp_path / "worst.json").read_text()).max_samples == 2000
    assert cli.main([*arguments, "--out", "more.json", "--worst-case", "--eps", "0.1"]) == 1
    assert "worst-case = True" in capsys.readouterr().err


def test_the_bar_comes_after_the_checks(tmp_path, monkeypatch, capsys):
    """On a terminal too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    told = {"model": "softmax", "bs": 16, "bs_method": "constant", "lr": 0.1, "lr_method": "constant", "epochs": 1}
    (tmp_path / "config.json").write_text(json.dumps(told | {"csv_path": "csv"}))
    arguments = ["plan", "config.json", "--dataset", "digits"]
    for option, value, said in (("--eps", "-1", "eps = -1.0"), ("--budget", "0", "budget = 0")):
        assert cli.main([*arguments, option, value]) == 1
        assert capsys.readouterr().err.startswith(f"sfolib: {said}")
    assert cli.main(arguments) == 0
    assert "path without noise" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- worst cases
@pytest.mark.parametrize("objective", ["time", "samples"])
def test_every_stage_is_on_the_front(objective, machine):
    found = worst_case(spec(), objective, max_batch_size=100)
    c = constants.as_constants(found.estimates)
    assert found.step_time == (pytest.approx((1e-3, 2e-5)) if objective == "time" else None)
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
    few, many = (worst_case(spec(epochs=epochs), "time") for epochs in (1, 2000))
    assert len(few.spec.plan.rows) == 1
    spent = [row.samples for row in many.spec.plan.rows]
    assert len(spent) > 1
    assert sum(spent) <= many.spec.max_samples < 4 * sum(spent) + sum(spent)


def test_what_adapts_is_ready_to_train():
    """From a spec of the command line, which logs the losses of batches: the policy's halves would empty them."""
    asked = spec(epochs=2, log_train_metrics=True)
    trainer = Trainer(recommend(asked, anytime=True).spec, "cpu")
    trainer.advance()
    assert trainer.step > 0
