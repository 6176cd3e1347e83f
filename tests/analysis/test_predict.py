"""Predictions: exact on the quadratic, T15 as it is written on softmax regression, and what runs then do."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from sfolib import cli, plotting
from sfolib._utils.errors import InputError
from sfolib._utils.rng import epoch_order
from sfolib.analysis import noise_free_path
from sfolib.analysis import predict as module
from sfolib.analysis.crossings import crossings
from sfolib.analysis.expected_adam import ExpectedAdam
from sfolib.analysis.local_path import local_path
from sfolib.analysis.mean_path import MeanPath, smoothed
from sfolib.analysis.noise_free_path import PlanClock
from sfolib.analysis.predict import predict, predict_constant
from sfolib.analysis.softmax import softmax_hessian, third_order
from sfolib.gradients.curvature import gradient_covariance, hessian
from sfolib.problems.modules import modules, training_data
from sfolib.problems.specs import Digits, Quadratic
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.theory.derivations import evaluate, result
from sfolib.training import updates
from sfolib.training.optimizers import Adam
from sfolib.training.run import run
from sfolib.training.spec import Spec

FEW = Digits(holdout=1000)  # 797 images
GROWING = Plan(exponential(4, 2.0, 60), exponential(0.5, 0.8, 60), clock="step")


def spec(problem, plan, **settings):
    told = {"sampling": "replacement", "dtype": "float64", "max_samples": 10**6, "max_steps": 300}
    return Spec(problem=problem, plan=plan, **told | settings)


# ------------------------------------------------------------------------------------------ the quadratic
@pytest.mark.parametrize("noise", ["white", "curvature"])
def test_the_quadratic_is_exact_for_any_schedule(noise):
    problem = Quadratic(d=50, L=1.5, lam_min=1e-3, sigma2=0.3, noise=noise)
    b, lr = (np.array(of) for of in zip(*(GROWING.at(t) for t in range(300)), strict=True))
    wanted, losses = problem.exact.grad_sqnorm_path(b, lr), problem.exact.loss_path(b, lr)
    found = predict(spec(problem, GROWING), "cpu")
    assert found.steps[-1] == 300
    assert found.grad_sqnorm == pytest.approx(wanted[found.steps], rel=1e-10)
    assert found.bias + found.noise == pytest.approx(found.grad_sqnorm)
    assert found.loss == pytest.approx(losses[found.steps], rel=1e-10)
    assert found.samples.tolist() == [0, *b.cumsum()[found.steps[1:] - 1]]


def test_constant_batch_sizes_on_the_quadratic_are_its_exact_crossings():
    problem, sizes, targets = Quadratic(lam_min=1e-3), [1, 8, 64], [0.1, 1e-2, 3e-3]
    found = predict_constant(spec(problem, Plan(1, 0.5), max_steps=2000), sizes, targets, "cpu")
    exact = problem.exact.steps_to(found["batch_size"].to_numpy(float), 0.5, found["eps2"].to_numpy() ** 0.5)
    assert np.isfinite(exact).sum() == 6
    assert np.isfinite(found["steps"]).tolist() == np.isfinite(exact).tolist()
    reached = np.isfinite(exact)
    # the exact ones are whole steps, and above 20 steps not every step is read
    assert found["steps"][reached].to_numpy() == pytest.approx(exact[reached], abs=1, rel=2e-3)
    assert found["samples"].to_numpy() == pytest.approx((found["steps"] * found["batch_size"]).to_numpy())


def test_what_the_budget_does_not_reach_is_never():
    found = predict_constant(spec(Quadratic(lam_min=1e-3), Plan(1, 0.5), max_samples=200), [8, 64], [1e-2], "cpu")
    assert found["samples"].tolist() == [np.inf, np.inf]
    crossing = predict(spec(Quadratic(), Plan(1, 0.5)), "cpu").first_crossing(1e-3)
    assert crossing == (np.inf, np.inf)


# -------------------------------------------------------------------------------------- softmax regression
def test_softmax_is_t15_as_it_is_written():
    """θ̄ by full gradients, C ← (I − ηH) C (I − ηH) + η²Σ/b and δ ← δ − η(Hδ + ½∇tr(HC)) with H and Σ of every step, on
    650 × 650 matrices."""
    asked = spec(FEW, Plan(exponential(8, 2.0, 4), 0.3, clock="step"), max_steps=14)
    found = predict(asked, "cpu")
    task = FEW.build_task((0,), "permutation", "cpu", "float64")
    (x, y), C, n, mean = training_data(task), 0.0, FEW.size, np.zeros(650)
    wanted = []
    for t in range(15):
        (model,) = modules(task)
        H = hessian(model, cross_entropy, x, y, l2=FEW.l2) if t < 3 else softmax_hessian(model[0], x, FEW.l2)
        measured = {name: float(value) for name, value in task.measure().items()}
        C = C if t else np.zeros_like(H)
        (gradient,) = task.gradients(t, 0, n)
        flat = torch.cat([gradient[0, :, :-1].flatten(), gradient[0, :, -1]]).numpy()
        noise, excess = np.sum((H @ C) * H), np.sum(H * C) / 2 + flat @ mean
        wanted.append((measured["grad_sqnorm"], noise, measured["loss"] + excess, excess))
        b, lr = asked.plan.at(t)
        mean = mean - lr * (H @ mean + third_order(model[0], x, C))
        step = np.eye(len(H)) - lr * H
        C = step @ C @ step + lr**2 / b * gradient_covariance(model, cross_entropy, x, y)
        task.parameters[0] -= lr * gradient
    bias, noise, loss, excess = np.array(wanted)[found.steps].T
    assert found.steps.tolist() == list(range(15))
    assert found.bias == pytest.approx(bias, rel=1e-10)
    assert found.noise[:7] == pytest.approx(noise[:7], rel=1e-8)  # H and Σ at every step
    assert found.noise == pytest.approx(noise, rel=0.02)  # and from there on every few
    assert found.loss_noise[:7] == pytest.approx(excess[:7], rel=1e-8)
    assert found.loss == pytest.approx(loss, rel=1e-3)


@pytest.fixture(scope="module")
def constant():
    return predict_constant(spec(FEW, Plan(1, 0.1), max_steps=2000), [4, 8, 32, 256], [1e-2], "cpu")


def test_runs_do_what_was_predicted(constant):
    runs = [run(spec(FEW, Plan(b, 0.1), seeds=tuple(range(24)), max_steps=900, dtype="float32", eval_every=1.02,
                     target_grad_norm=0.1), device="cpu") for b in (8, 32, 256)]  # fmt: skip
    measured = crossings(runs, [1e-2])
    both = measured.merge(constant, on="batch_size", suffixes=("", "_predicted"))
    ratio = both["samples_predicted"] / both["samples"]
    assert ratio.to_numpy() == pytest.approx(1.0, abs=0.05)
    assert ratio.iloc[2] == pytest.approx(1.0, abs=0.01)
    assert both["samples_predicted"].between(0.97 * both["low"], 1.03 * both["high"]).all()


def test_the_spectrum_does_what_the_matrices_do(constant, monkeypatch):
    monkeypatch.setattr(noise_free_path, "MATRICES", 0)
    found = predict_constant(spec(FEW, Plan(1, 0.1), max_steps=2000), [4, 8, 32, 256], [1e-2], "cpu")
    assert found["samples"].to_numpy() == pytest.approx(constant["samples"].to_numpy(), rel=0.1)
    assert (found["samples"] != constant["samples"]).all()


def test_one_prediction_of_single_samples_serves_every_batch_size():
    steps = {"max_steps": 40}
    found = predict(spec(FEW, Plan(1, 0.1), **steps), "cpu").with_batch_size(16)
    wanted = predict(spec(FEW, Plan(16, 0.1), **steps), "cpu")
    assert found.samples.tolist() == wanted.samples.tolist()
    for name in ("grad_sqnorm", "noise", "loss", "loss_noise"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-9), name
    with pytest.raises(InputError, match="samples"):
        wanted.with_batch_size(2)


def test_at_a_crossing_bias_and_noise_make_the_target(constant):
    found = predict(spec(FEW, Plan(32, 0.1), max_steps=2000, target_grad_norm=0.09), "cpu")
    row = constant.set_index("batch_size").loc[32]
    noise = np.interp(row.steps, found.steps, found.noise)
    assert row.bias + noise == pytest.approx(1e-2, rel=0.01)
    assert np.isnan(predict_constant(spec(FEW, Plan(1, 0.1), max_steps=5), [8], [1e-2], "cpu")["bias"]).all()


def test_constants_along_the_path_are_those_of_the_whole_matrices():
    found = local_path(spec(FEW, Plan(1, 0.1), max_steps=6), "cpu")
    assert found.steps.tolist() == [0, 1, 2, 3, 4, 6]
    assert found.time == pytest.approx(0.1 * found.steps)
    task = FEW.build_task((0,), "permutation", "cpu", "float64")
    for t in range(7):
        gradient = task.gradients(t, 0, FEW.size)[0]
        if t in (0, 6):
            (model,), (x, y) = modules(task), training_data(task)
            H = hessian(model, cross_entropy, x, y, l2=FEW.l2)
            covariance = gradient_covariance(model, cross_entropy, x, y)
            g = torch.cat([gradient[0, :, :-1].flatten(), gradient[0, :, -1]]).numpy()
            values, basis = np.linalg.eigh(H)
            noise = np.sum(basis * (covariance @ basis), 0)
            at = found.steps.tolist().index(t)
            assert found.G2[at] == pytest.approx(g @ g)
            assert found.GHG[at] == pytest.approx(g @ H @ g)
            for mine, exact in ((found.trace, noise.sum()), (found.Q, values @ noise)):
                assert mine[at] == pytest.approx(exact)
        task.parameters[0] -= 0.1 * gradient
    wanted = predict(spec(FEW, Plan(1, 0.1), max_steps=6), "cpu")
    assert found.noise(0.1)[1:] == pytest.approx(wanted.noise[found.steps[1:]], rel=0.1)


def test_pairs_of_a_path_meet_the_target_at_any_lr():
    found = local_path(spec(FEW, Plan(1, 0.2), max_steps=400), "cpu")
    pairs = found.pairs(0.1, 1e-2).sort_values("batch_size")
    wanted = predict_constant(spec(FEW, Plan(1, 0.1), max_steps=2000), [8, 32], [1e-2], "cpu")
    steps = np.exp(np.interp(np.log([8, 32]), np.log(pairs["batch_size"]), np.log(pairs["steps"])))
    assert steps == pytest.approx(wanted["steps"].to_numpy(), rel=0.15)


def test_by_permutation_there_is_less_noise_and_a_short_batch_brings_it_back():
    """256 divides 797 into 3 batches and one of 29; 200 into 3 and one of 197."""
    drawn, permuted = (
        predict(spec(FEW, Plan(200, 0.1), sampling=sampling, max_steps=40), "cpu")
        for sampling in ("replacement", "permutation")
    )
    ragged = predict(spec(FEW, Plan(256, 0.1), sampling="permutation", max_steps=40), "cpu")
    assert 0 < permuted.noise[-1] < 0.2 * drawn.noise[-1]
    assert ragged.noise[-1] > permuted.noise[-1]
    assert ragged.samples[-1] == 40 // 4 * 797


def test_each_batch_size_by_permutation_is_a_run_of_its_own():
    """One path for all, also where the large batches have spent the budget long before the small ones."""
    sizes, budget = [64, 256], {"sampling": "permutation", "max_samples": 4000, "max_steps": None}
    together = predict_constant(spec(FEW, Plan(1, 0.1), **budget), sizes, [0.18, 0.13], "cpu").set_index("batch_size")
    for b in sizes:
        alone = predict(spec(FEW, Plan(b, 0.1), **budget), "cpu")
        wanted = [alone.first_crossing(eps2**0.5).samples for eps2 in (0.18, 0.13)]
        assert together.loc[b, "samples"].tolist() == pytest.approx(wanted, rel=1e-3)
        assert np.isfinite(wanted).tolist() == [True, b == 64]


def test_where_the_theory_has_no_say_by_permutation_nothing_is_predicted():
    asked = spec(FEW, Plan(16, 4.0), sampling="permutation", max_steps=60)
    for call in (lambda: predict(asked, "cpu"), lambda: predict_constant(asked, [16], [0.01], "cpu")):
        with pytest.raises(InputError, match=r"lr = 4.0: is too large: \d+ steps in E‖∇f‖² is predicted as -"):
            call()


def test_noise_without_end_is_refused_with_replacement_too():
    asked = spec(FEW, Plan(16, 6.0), max_steps=200)
    for call in (lambda: predict(asked, "cpu"), lambda: predict_constant(asked, [1, 16], [0.01], "cpu")):
        with pytest.raises(
            InputError, match=r"plan = .*6\.0.*: has a learning rate too large: \d+ steps in the noise is"
        ):
            call()


def test_a_pilot_stands_for_the_noise_free_path():
    asked = spec(FEW, Plan(16, 0.1), max_steps=80)
    whole, pilot = predict(asked, "cpu"), predict(asked, "cpu", pilot_batch_size=128)
    late = whole.steps > 20
    assert pilot.bias[late] == pytest.approx(whole.bias[late], rel=0.2)
    assert pilot.noise == pytest.approx(whole.noise, rel=0.05)
    third_derivatives = 797 * (len(whole.steps) - 1 + 17 * 2 * 650)  # with ∇f at the readings, and from 17 nodes on
    assert pilot.probes == whole.probes - 80 * (797 - 128) - third_derivatives


# --------------------------------------------------------------------------------------------- the mean path
SMALL = Digits(hidden=(32,), holdout=1000)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": {"kind": "sgd", "momentum": 0.8, "weight_decay": 0.01}, "seeds": (3, 8)},
        {"optimizer": {"kind": "sgd", "momentum": 0.8, "nesterov": True}, "sampling": "permutation"},
    ],
)
def test_the_mean_path_is_as_it_is_written(settings):
    """Of each pair one is a run of its seed, the other its mirror image; μ by autograd, from the same batches."""
    asked, lr, pairs = spec(SMALL, Plan(300, 0.1), max_steps=7, **settings), 0.1, 4
    found, path = predict(asked, "cpu", pairs=pairs), MeanPath(asked, "cpu", pairs)
    path.advance(PlanClock(asked.plan, path.epoch, path.permuted, math.inf, 7).take(7))
    seeds, starts = path.cloud.batches.seeds[:pairs], len(asked.seeds)
    runs = SMALL.build_task(seeds, asked.sampling, "cpu", "float64")
    mean = SMALL.build_task(asked.seeds, "permutation", "cpu", "float64")
    whose = np.repeat(range(starts), pairs // starts)  # start of each pair
    for members, start in zip(runs.parameters, mean.parameters, strict=True):
        members.copy_(start[whose])
    steps = [updates.build(asked.optimizer, task.parameters) for task in (runs, mean)]
    x, y, samples = mean.x.T, mean.labels, 0

    def gradient(theta, rows):
        theta = [p.clone().requires_grad_() for p in theta]
        hidden = torch.relu(theta[0][:, :-1] @ x[:-1, rows] + theta[0][:, -1:])
        logits = theta[1][:, :-1] @ hidden + theta[1][:, -1:]
        l2 = SMALL.l2 / 2 * sum(p.square().sum() for p in theta)
        return torch.autograd.grad(cross_entropy(logits.T, y[rows]) + l2, theta)

    for t in range(7):
        b = runs.batch_size(samples, 300)
        curved = [torch.zeros_like(p) for p in mean.parameters]
        for j, (seed, s) in enumerate(zip(seeds, whose, strict=True)):
            epochs = [epoch_order(797, seed, samples // 797 + k, asked.sampling) for k in (0, 1)]
            rows = torch.cat(epochs)[samples % 797 :][:b]
            mu = [p[s] for p in mean.parameters]
            off = [p[j] - m for p, m in zip(runs.parameters, mu, strict=True)]
            each = [gradient([m + sign * d for m, d in zip(mu, off, strict=True)], rows) for sign in (1, -1, 0)]
            for total, plus, minus, middle in zip(curved, *each, strict=True):
                total[s] += ((plus + minus) / 2 - middle) / (pairs // starts)
        own = runs.gradients(t, samples, b)
        full = mean.gradients(t, 0, 797)
        steps[0](own, lr)
        steps[1]([g + c for g, c in zip(full, curved, strict=True)], lr)
        samples += b
    for members, of_runs, mu in zip(path.cloud.parameters, runs.parameters, mean.parameters, strict=True):
        wanted = torch.cat([of_runs, 2 * mu[whose] - of_runs, mu[whose]])
        assert members.numpy() == pytest.approx(wanted.numpy(), abs=1e-10)
    around = [[p[j] for p in path.cloud.parameters] for j in range(2 * pairs)]
    squares = [sum(g.square().sum().item() for g in gradient(theta, torch.arange(797))) for theta in around]
    assert path.around.measure()["grad_sqnorm"].numpy() == pytest.approx(squares)
    last = [g + c for g, c in zip(mean.gradients(7, 0, 797), curved, strict=True)]
    assert found.steps.tolist() == list(range(8))
    assert found.bias[-1] == pytest.approx(sum(g.square().sum().item() for g in last) / starts)


def test_noise_moves_the_mean_to_where_there_is_less_noise():
    """64 runs from the start that is predicted; on the noise-free path a quarter too much is predicted."""
    problem, runs, most = Digits(hidden=(64,), holdout=1000), 64, 120
    asked = spec(problem, Plan(4, 0.1), max_steps=most, dtype="float32")
    task = problem.build_task(tuple(range(runs)), "replacement", "cpu", "float32")
    task.parameters = [p[:1].repeat(runs, 1, 1) for p in task.parameters]
    update, measured = updates.build(asked.optimizer, task.parameters), []
    for t in range(most):
        update(task.gradients(t, 4 * t, 4), 0.1)
        if t % 5 == 4 and t > 20:
            measured.append((t + 1, task.measure()["grad_sqnorm"].mean().item()))
    at, measured = np.array(measured).T
    off = []
    for pairs in (0, 32):
        found = predict(asked, "cpu", pairs=pairs, vectors=16)
        off.append(np.log(np.mean(measured / np.interp(at, found.steps, found.grad_sqnorm))))
    assert off[0] < -0.15
    assert abs(off[1]) < 0.1


@pytest.mark.parametrize(("lr", "batch_size", "low", "high"), [(0.2, 4, 0.6, 0.9), (0.02, 32, 0.98, 1.02)])
def test_iterates_are_skewed_towards_large_gradients_where_noise_is_large(lr, batch_size, low, high):
    """What the mean path leaves out: ‖∇f‖² of the mirror images over that of the runs."""
    path = MeanPath(spec(SMALL, Plan(batch_size, lr), dtype="float32"), "cpu", 32)
    squares = []
    for t in range(100):
        path._move(batch_size, lr, batch_size * t)
        path.step += 1
        if t % 10 == 9:
            squares.append(path.around.measure()["grad_sqnorm"].view(2, -1).mean(1))
    runs, images = torch.stack(squares).mean(0)
    assert low < images / runs < high


def test_a_line_in_the_logarithm_of_the_steps_is_smooth_already():
    steps = np.array([0, *np.unique(np.round(1.05 ** np.arange(120)))])
    line = 3 - 0.2 * np.log(np.maximum(steps, 1))
    line[0] = 7.0  # of step 0, which has no logarithm
    assert smoothed(steps, line) == pytest.approx(line)
    noise = np.random.default_rng(0).standard_normal((200, len(steps)))
    spread = np.std([smoothed(steps, line + row)[60:] for row in noise], axis=0)
    assert np.all(spread[:-8] < 0.4)
    assert np.all(spread < 0.8)


def test_a_cloud_that_dips_has_not_crossed():
    found = predict(spec(Quadratic(), Plan(4, 0.1), max_steps=300), "cpu")
    level = found.grad_sqnorm[-20]
    dips = found.grad_sqnorm.copy()
    dips[len(dips) // 2] = level / 2
    cloud = replace(found, grad_sqnorm=dips, pairs=1)
    assert replace(cloud, pairs=0).first_crossing(level**0.5).steps < 0.5 * found.steps[-20]
    assert cloud.first_crossing(level**0.5).steps == pytest.approx(found.steps[-20], rel=0.02)
    assert cloud.first_crossing(1e-9) == (np.inf, np.inf)


def test_each_batch_size_of_a_network_has_a_path():
    asked = spec(SMALL, Plan(1, 0.1), max_steps=60)
    found = predict_constant(asked, [32, 128], [0.3], "cpu").set_index("batch_size")
    for b in (32, 128):
        alone = predict(asked.model_copy(update={"plan": Plan(b, 0.1)}), "cpu")
        assert alone.pairs == 32
        assert found.loc[b, "samples"] == pytest.approx(alone.first_crossing(0.3**0.5).samples, rel=0.02)
        assert np.isfinite(found.loc[b, "samples"])
    with pytest.raises(InputError, match=r"pairs = 32: .*predict each"):
        alone.with_batch_size(4)
    assert predict(asked, "cpu", pairs=0, vectors=4).with_batch_size(32).pairs == 0


def test_evaluations_of_a_mean_path_are_counted():
    for seeds, starts in (((0,), 1), ((0, 1, 2), 2)):  # which 2 pairs can share
        found = predict(spec(SMALL, Plan(8, 0.1), max_steps=3, seeds=seeds), "cpu", pairs=2)
        # a step: ∇f, and the batch at three points a pair; a reading: f, ∇f and the cloud; and f at the start
        wanted = 3 * (starts * 797 + 3 * 2 * 8) + 3 * 797 * (2 * starts + 2 * 2) + starts * 797
        assert found.probes == wanted


def test_a_mean_path_ends_where_the_run_would():
    asked = spec(SMALL, Plan(32, 0.1), max_steps=1000)
    found = predict(asked.model_copy(update={"target_grad_norm": 0.4}), "cpu", pairs=4)
    crossing = found.first_crossing(0.4).steps
    assert crossing < found.steps[-1] < 2 * crossing


@pytest.mark.parametrize(
    ("problem", "settings", "asked"),
    [
        (SMALL, {}, {"pairs": -1}),
        (SMALL, {}, {"pairs": 0.5}),
        (SMALL, {}, {"pairs": 2, "pilot_batch_size": 8}),
        (FEW, {"optimizer": "adam"}, {"pairs": 2}),
        (Quadratic(), {}, {"pairs": 2}),
        (Digits(model="cnn", holdout=1000), {}, {"pairs": 2}),
    ],
)
def test_what_has_no_mean_path_is_named(problem, settings, asked):
    with pytest.raises(InputError, match="pairs"):
        predict(spec(problem, Plan(4, 0.1), **settings), "cpu", **asked)


# ------------------------------------------------------------------------------------------------- Adam
@pytest.mark.parametrize(("lr", "batch_size"), [(0.01, 1), (0.03, 64)])
def test_adam_on_the_quadratic_does_what_was_predicted(lr, batch_size):
    """Torch's Adam, 400 seeds, from where the bias rules to where there is noise alone."""
    asked = spec(Quadratic(d=30, lam_min=1e-2), Plan(batch_size, lr), optimizer="adam", max_steps=1500, eval_every=1.1)
    found = predict(asked, "cpu")
    assert found.noise[-1] > 0.9 * found.grad_sqnorm[-1]
    measured = run(asked.model_copy(update={"seeds": tuple(range(400))}), device="cpu")
    at = np.interp(np.log(measured.steps[1:]), np.log(found.steps[1:]), np.log(found.grad_sqnorm[1:]))
    assert measured.mean_ci().value[1:] / np.exp(at) == pytest.approx(1.0, abs=0.05)


def test_adam_of_a_short_memory_is_refused():
    with pytest.raises(InputError, match=r"beta2 = 0\.5: must be 0\.9 or more"):
        predict(spec(FEW, Plan(4, 0.01), optimizer=Adam(beta2=0.5), max_steps=5), "cpu")


def test_adam_is_t15_as_it_is_written_in_its_metric():
    """θ̄, E v and the covariance of (δ, m) step by step, in the coordinates of θ; the step is −η P m. What the
    covariance adds to E g² is, in the P that moves it, that of the node before, here of the last step."""
    betas = 0.9, 0.99
    asked = spec(FEW, Plan(exponential(4, 2.0, 2), 0.02, clock="step"), optimizer=Adam(beta2=betas[1]), max_steps=5)
    found = predict(asked, "cpu")
    task = FEW.build_task((0,), "permutation", "cpu", "float64")
    x, y = training_data(task)
    m, v, C, before, wanted = 0.0, 0.0, None, 0.0, []
    for t in range(6):
        (model,) = modules(task)
        H, sigma = softmax_hessian(model[0], x, FEW.l2), gradient_covariance(model, cross_entropy, x, y)
        size, eye = len(H), np.eye(len(H))
        C = np.zeros((2 * size, 2 * size)) if C is None else C
        around = H @ C[:size, :size] @ H
        bias = float(task.measure()["grad_sqnorm"][0])
        wanted.append((bias, np.trace(around), np.sum(H * C[:size, :size]) / 2))
        b, lr = asked.plan.at(t)
        gradient = task.gradients(t, 0, FEW.size)[0][0]
        flat = torch.cat([gradient[:, :-1].flatten(), gradient[:, -1]]).numpy()
        squares = [flat**2 + added + np.diag(sigma) / b for added in (before, np.diag(around))]
        seconds = [betas[1] * v + (1 - betas[1]) * square for square in squares]
        P_of_C, P = (1 / (np.sqrt(second / (1 - betas[1] ** (t + 1))) + 1e-8) for second in seconds)
        before, v, eta = np.diag(around), seconds[1], lr / (1 - betas[0] ** (t + 1))
        kept = np.block([[eye, 0 * eye], [(1 - betas[0]) * H, betas[0] * eye]])  # m of g at θ, then the step
        moved = np.block([[eye, -eta * np.diag(P_of_C)], [0 * eye, eye]])
        push = moved @ np.concatenate([0 * eye, (1 - betas[0]) * eye])
        C = moved @ kept @ C @ kept.T @ moved.T + push @ sigma @ push.T / b
        m, (out, inputs) = betas[0] * m + (1 - betas[0]) * flat, model[0].weight.shape
        step = torch.from_numpy(eta * P * m)
        task.parameters[0][0] -= torch.cat([step[: out * inputs].view(out, inputs), step[out * inputs :, None]], 1)
    for values, of in zip(np.array(wanted).T, (found.bias, found.noise, found.loss_noise), strict=True):
        assert of == pytest.approx(values, rel=1e-9)


def test_adams_metric_is_t15s_where_it_has_settled():
    task = Quadratic(d=5).build_task((0,), "replacement", "cpu", "float64")
    gradient, variance = (of[0][0].numpy() for of in task.moments())
    for b in (1e-6, 4, 1e9):
        P = next(c.rhs for c in (s.fact for s in result("T15").steps) if str(c.lhs) == "P(b)")
        wanted = [evaluate(P, g=g, v=v, b=b) for g, v in zip(abs(gradient), variance, strict=True)]
        assert ExpectedAdam(task, Adam(beta2=0.0)).metric(b) == pytest.approx(wanted, rel=1e-5)  # but for Adam's 1e-8


def test_noise_of_adam_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_NO_END", 1e-3)
    with pytest.raises(InputError, match="max_steps = 300: must be below"):
        predict(spec(Quadratic(d=5), Plan(4, 0.1), optimizer="adam"), "cpu")


def test_adams_batch_sizes_are_runs_of_their_own():
    asked = spec(Quadratic(d=20, lam_min=0.01), Plan(1, 0.02), optimizer="adam", max_steps=400)
    found = predict_constant(asked, [4, 64], [0.1, 0.01], "cpu").set_index(["batch_size", "eps2"])
    for b in (4, 64):
        alone = predict(asked.model_copy(update={"plan": Plan(b, 0.02)}), "cpu")
        assert found.loc[(b, 0.1), "samples"] == alone.first_crossing(0.1**0.5).samples
    with pytest.raises(InputError, match="optimizer"):
        predict(asked, "cpu").with_batch_size(4)


# --------------------------------------------------------------------------------------------- all the rest
@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
@pytest.mark.parametrize("clock", ["epoch", "step", "sample"])
def test_the_clock_is_the_training_loops(sampling, clock):
    every = {"epoch": 2, "step": 9, "sample": 700}[clock]
    plan = Plan(exponential(100, 1.7, every), exponential(0.1, 1.2, every), clock=clock)
    asked = spec(FEW, plan, sampling=sampling, max_samples=6000, max_steps=None, eval_every=1.01)
    rows = run(asked, device="cpu").rows
    predicted = predict(asked, "cpu")
    assert predicted.steps[-1] == rows["step"].iloc[-1]
    at = rows.set_index("step").loc[predicted.steps, "samples"]
    assert predicted.samples.tolist() == at.tolist()
    steps = PlanClock(plan, 797, sampling == "permutation", 6000, None).take(10**6)
    assert steps.lr[rows["step"].iloc[1:-1]].tolist() == rows["lr"].iloc[1:-1].tolist()


def test_it_ends_where_the_run_would():
    found = predict(spec(Quadratic(), Plan(64, 0.5), target_grad_norm=0.1, max_steps=None), "cpu")
    below = found.grad_sqnorm <= 0.01
    assert below.sum() == 10
    assert below[-10:].all()
    steps, samples = found.first_crossing(0.1)
    assert found.steps[-11] < steps <= found.steps[-10]
    assert samples == pytest.approx(64 * steps)


def test_a_network_is_predicted_and_left_alone():
    asked = spec(Digits(model="cnn", holdout=1000), Plan(32, 0.05), max_steps=3, dtype="float32")
    state = torch.random.get_rng_state()
    found = predict(asked, "cpu", vectors=2, sample=400)
    assert np.all(found.noise[1:] > 0)
    assert found.loss[-1] < found.loss[0]
    assert torch.equal(state, torch.random.get_rng_state())


def test_evaluations_are_counted():
    found = predict(spec(Quadratic(), Plan(1, 0.5), max_steps=7), "cpu")
    assert found.probes == 7 + 8  # a step, a measurement
    found = predict(spec(FEW, Plan(1, 0.5), max_steps=2), "cpu")
    third_derivatives = 2 * (1 + 2 * 650)  # and ∇f
    assert found.probes == 797 * (2 + 3 + 3 * (1 + 2 * 650 + 1) + third_derivatives)  # and H, as if by products, and Σ


@pytest.mark.parametrize(
    ("problem", "settings", "field"),
    [
        (FEW, {"optimizer": "adagrad"}, "optimizer"),
        (FEW, {"optimizer": {"kind": "adam", "weight_decay": 0.1}}, "weight_decay"),
        (FEW, {"optimizer": "adam", "sampling": "permutation"}, "sampling"),
        (Digits(hidden=(3,)), {"optimizer": "adam"}, "problem"),
        (FEW, {"workers": {"scale": 2, "iterations": 3}}, "workers"),
        (FEW, {"plan": None, "policy": {"kind": "NormTest", "batch_size": 8, "lr": 0.1, "eta": 1.0}}, "policy"),
        (Quadratic(), {"sampling": "permutation"}, "sampling"),
        (Quadratic(), {"plan": Plan(1, 3.0), "max_steps": 10**4}, "plan"),
    ],
)
def test_what_cannot_be_predicted_is_named(problem, settings, field):
    with pytest.raises(InputError, match=field):
        predict(spec(problem, **{"plan": Plan(4, 0.1)} | settings), "cpu")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"batch_sizes": []}, r"batch_sizes = \[\]: must be a list"),
        ({"batch_sizes": 8}, "batch_sizes = 8: must be a list"),
        ({"batch_sizes": [0]}, "batch_sizes"),
        ({"eps2": []}, r"eps2 = \[\]: must be a number, or a list"),
        ({"eps2": [[0.1, 0.2]]}, "eps2"),
        ({"eps2": "small"}, "eps2"),
        ({"eps2": [-1.0]}, "eps2"),
        ({"spec": spec(FEW, GROWING)}, "plan"),
        ({"pilot_batch_size": 0}, "pilot_batch_size"),
    ],
)
def test_bad_input_of_constant_batch_sizes_is_named(change, field):
    with pytest.raises(InputError, match=field):
        predict_constant(**{"spec": spec(FEW, Plan(4, 0.1)), "batch_sizes": [1], "eps2": 0.1, "device": "cpu"} | change)


@pytest.mark.parametrize("value", ["x", None, {"plan": 3}])
def test_what_is_no_spec_is_named(value):
    for call in (predict, local_path, lambda asked, device: predict_constant(asked, [8], 0.1, device)):
        with pytest.raises(InputError, match=r"^spec = .*: must be a sfolib\.Spec"):
            call(value, "cpu")


@pytest.mark.parametrize(("field", "value"), [("vectors", 0), ("vectors", 1.5), ("sample", 0), ("sample", 1)])
@pytest.mark.parametrize("function", [predict, local_path])
def test_bad_settings_of_a_noise_spectrum_have_the_callers_names(function, field, value):
    with pytest.raises(InputError, match=rf"^{field} = {value}: must be"):
        function(spec(FEW, Plan(4, 0.1), max_steps=1), "cpu", **{field: value})


# ------------------------------------------------------------------------------------------ the command line
@pytest.fixture
def command(tmp_path, capsys):
    def call(asked, *more):
        (tmp_path / "config.json").write_text(asked.model_dump_json())
        status = cli.main(["predict", str(tmp_path / "config.json"), "--out", str(tmp_path / "made.png"), *more])
        return status, *capsys.readouterr()

    return call


def test_the_command_tells_the_run_the_batch_sizes_and_draws_both(command, tmp_path):
    asked = spec(Quadratic(lam_min=1e-3), Plan(32, 0.5))
    status, out, _ = command(asked)
    assert status == 0
    along = predict(asked, "cpu")
    last = f"300 9600 {along.grad_sqnorm[-1]:.4g} {along.bias[-1]:.4g}"
    assert any(" ".join(line.split()).startswith(last) for line in out.splitlines())
    assert f"cost: {along.probes} gradient evaluations" in out
    wanted = predict_constant(asked, [2**k for k in range(15)], [0.1, 0.01], "cpu")
    best = wanted[wanted["eps2"] == 0.01].set_index("batch_size")["samples"]
    assert f"b* = {best.idxmin()}, N* = {best.min():.4g} to ε² = 0.01" in out
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")
    status, _, told = command(asked)
    assert status == 1
    assert "exists" in told


@pytest.mark.parametrize("settings", [{"plan": GROWING}, {"plan": Plan(8, 0.5), "max_steps": 1}])
def test_a_schedule_or_a_run_too_short_has_no_table_of_batch_sizes(settings, command):
    status, out, _ = command(spec(Quadratic(), **settings))
    assert status == 0
    assert "N(b)" not in out


def test_the_command_names_what_cannot_be_predicted(command):
    status, _, told = command(spec(FEW, Plan(4, 0.1), optimizer="adagrad"))
    assert (status, told.count("\n")) == (1, 1)
    assert "optimizer = 'adagrad'" in told


@pytest.mark.parametrize(
    ("out", "why"), [("nowhere/a.png", "cannot be written"), ("a.what", r"must end in one of .*png")]
)
def test_where_no_picture_can_be_written_is_known_before_anything_is_predicted(
    command, out, why, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "predict", None)  # a call would fail
    status, _, told = command(spec(Quadratic(), Plan(4, 0.5)), "--out", str(tmp_path / out))
    assert status == 1
    assert re.search(rf"out = .*{out}.*: {why}", told)
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize(("more", "pairs"), [([], 0), (["--pairs", "2"], 2)])
def test_the_table_of_a_network_is_of_the_path_that_is_asked_for(more, pairs, command, monkeypatch):
    asked = {}

    def constant(*_, pairs, **__):
        asked["pairs"] = pairs
        return predict_constant(spec(Quadratic(), Plan(1, 0.5)), [8], [0.1], "cpu")

    monkeypatch.setattr(module, "predict_constant", constant)
    network = spec(Digits(hidden=(4,), holdout=1000), Plan(64, 0.2), max_steps=30)
    status, out, _ = command(network, "--device", "cpu", *more)
    assert status == 0
    assert f"cost: {predict(network, 'cpu', pairs=pairs or None).probes} " in out
    assert asked["pairs"] == pairs
    assert ("is of the noise-free path" in out) == (not more)


def test_the_picture_shows_what_it_is_given():
    asked = spec(Quadratic(lam_min=1e-3), Plan(32, 0.5))
    along, constant = predict(asked, "cpu"), predict_constant(asked, [8, 16, 64], [0.1, 0.01, 1e-9], "cpu")
    first, second, third = plotting.prediction(along.table, constant).axes
    assert first.lines[0].get_ydata().tolist() == along.grad_sqnorm[1:].tolist()
    assert second.lines[0].get_ydata().tolist() == along.loss[1:].tolist()
    assert [text.get_text() for text in third.get_legend().get_texts()] == ["0.1", "0.01"]
    assert len(plotting.prediction(along.table).axes) == 2
