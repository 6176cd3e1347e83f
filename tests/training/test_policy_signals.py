"""Policies in the training loop beside a plain loop by autograd, one sample at a time where it matters."""

import copy

import numpy as np
import pytest
import torch
from spies import steps_of
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sfolib._utils.errors import InputError
from sfolib.gradients import GradientStatistics, SuccessiveGradients
from sfolib.problems.specs import Digits, Quadratic, split_digits
from sfolib.schedules import base as s
from sfolib.schedules.adaptive import NoiseAndLoss
from sfolib.schedules.adaptive.base import Description
from sfolib.schedules.plan import Plan
from sfolib.schedules.torch import PlanLR, ScheduledBatchSampler
from sfolib.training import policy_signals
from sfolib.training.loop import Trainer
from sfolib.training.run import run, run_in
from sfolib.training.spec import Spec
from sfolib.training.variance_tests import looks

L2, HOLDOUT = 1e-2, 997
N = 1797 - HOLDOUT
LR = s.warmup(s.constant(0.5), 100).model_dump()
POLICIES = {
    "epsilon": {"kind": "GradNormTrigger", "batch_size": 20, "lr": 0.3, "eps": 0.6, "delta": 2, "check_every": 5},
    "norm": {"kind": "NormTest", "eta": 0.7, "batch_size": 20, "lr": LR, "test_interval": 4, "max_batch_size": 300},
    "inner": {"kind": "InnerProductTest", "theta": 0.5, "batch_size": 20, "lr": 0.5, "max_batch_size": 300},
    "augmented": {
        "kind": "AugmentedInnerProductTest",
        "theta": 0.3,
        "nu": 2.0,
        "batch_size": 20,
        "lr": 0.5,
        "test_interval": 3,
    },
    "adascale": {"kind": "AdaScale", "scale": 4, "batch_size": 8, "lr": 0.3},
    "optimal": {
        "kind": "OptimalBatch",
        "h": 5.0,
        "L": 6.0,
        "mu": L2,
        "radius": 1.0,
        "L_max": 12.0,
        "n": N,
        "check_every": 3,
    },
    "successive": {"kind": "SuccessiveGradientTest", "batch_size": 20, "lr": 2.0, "error": 0.5, "memory": 2.0},
    "cabs": {"kind": "CABS", "batch_size": 2, "lr": 1.0, "every": 9, "max_batch_size": 300},
    "noise scale": {"kind": "NoiseScaleRule", "batch_size": 20, "lr": 0.5, "every": 3, "max_batch_size": 300},
    "autowu": {
        "kind": "AutoWU",
        "total_steps": 80,
        "steps_per_epoch": 16,
        "batch_size": 50,
        "min_lr": 0.01,
        "max_lr": 500.0,
    },
}


def spec(name, **kwargs):
    told = {"problem": Digits(l2=L2, holdout=HOLDOUT), "policy": POLICIES[name], "dtype": "float64", "seeds": (7,)}
    return Spec(**told | {"max_samples": 5 * N, "log_train_metrics": name in ("autowu", "cabs")} | kwargs)


def brute_force(model, x, y):
    """T10's statistics, a sample at a time."""
    parameters = list(model.parameters())

    def gradient(i):
        loss = cross_entropy(model(x[i : i + 1]), y[i : i + 1]) + L2 / 2 * sum((p**2).sum() for p in parameters)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).numpy()

    g = np.stack([gradient(i) for i in range(len(x))])
    mean = g.mean(0)
    inner = g @ mean
    along = g - np.outer(inner / (mean @ mean), mean)
    return GradientStatistics(len(g), mean @ mean, *(v.var(0, ddof=1).sum() for v in (g, inner[:, None], along)))


def plain_loop(name, seed, epochs):
    """(true batch, lr) of each step of a loop that anyone would write."""
    (images, labels), _ = split_digits(HOLDOUT)
    x, y = torch.tensor(images), torch.tensor(labels)
    model = nn.Linear(64, 10, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    def f(x, y):
        return cross_entropy(model(x), y) + L2 / 2 * sum((p**2).sum() for p in model.parameters())

    policy = Description.of(POLICIES[name]).build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler, rows = PlanLR(optimizer, policy, N), []
    halves = SuccessiveGradients(getattr(policy, "memory", 1.0), N)
    loader = DataLoader(TensorDataset(x, y), batch_sampler=ScheduledBatchSampler(N, policy, seed))
    for _ in range(epochs):
        for xb, yb in loader:
            rows.append((len(xb), optimizer.param_groups[0]["lr"]))
            due, signal = policy.needs_signal, None
            if due and policy.signal in ("gradient_statistics", "second_moment"):
                signal = brute_force(model, xb, yb)
            if due and name == "optimal":
                signal = signal.mean_sqnorm + (signal.n - 1) / signal.n * signal.variance
            loss, before = cross_entropy(model(xb), yb), copy.deepcopy(model)
            optimizer.zero_grad()
            for part in torch.arange(len(xb)).tensor_split([len(xb) // 2]):
                if len(part):
                    (f(xb[part], yb[part]) * len(part) / len(xb)).backward()
                    halves.part(model.parameters(), len(part))
            halves.step(model.parameters())
            optimizer.step()
            if due and policy.signal in ("successive_gradients", "noise_and_loss"):
                signal = halves.take()
            if due and name == "cabs":
                parts = [p for p in torch.arange(len(xb)).tensor_split([len(xb) // 2]) if len(p)]
                with torch.no_grad():
                    losses = [cross_entropy(before(xb[p]), yb[p]).item() for p in parts]
                signal = NoiseAndLoss(np.nanmean(signal.variance), np.mean(losses))
            if due and name == "epsilon":
                whole = torch.autograd.grad(f(x, y), list(model.parameters()))
                signal = sum((g**2).sum() for g in whole).item() ** 0.5
            policy.update(len(xb), loss.item() if name == "autowu" else signal)
            scheduler.step()
    return rows


@pytest.mark.parametrize("name", POLICIES)
def test_the_training_loop_does_what_a_plain_loop_does(name):
    rows = [row[2:] for row in steps_of(Trainer(spec(name), "cpu"))]
    plain = plain_loop(name, 7, 5)
    assert [batch_size for batch_size, _ in rows] == [batch_size for batch_size, _ in plain]
    assert [lr for _, lr in rows] == pytest.approx([lr for _, lr in plain], rel=1e-6)
    assert len({batch_size for batch_size, _ in rows}) > 2 or len({lr for _, lr in rows}) > 2  # it adapted


@pytest.mark.parametrize("problem", [{"hidden": (6,)}, {"model": "cnn"}])
def test_statistics_of_a_batch_against_one_sample_at_a_time(problem):
    told = spec("norm", problem=Digits(l2=L2, holdout=HOLDOUT, **problem))
    task = Trainer(told, "cpu").task
    x, y = (t[0] for t in task.batches.take(30, 12))
    if "model" in problem:
        expected = brute_force(task.models[0], x, y)
    else:
        expected = brute_force(task.module(), x[:, :-1], y.argmax(1))
    found = policy_signals.statistics(task, 30, 12)
    assert vars(found) == {k: pytest.approx(v, rel=1e-6) for k, v in vars(expected).items()}


def test_probes_are_counted_apart():
    """Measured at start and after each epoch (N each), and at every fifth step; or as many as the batches tested."""
    found = run(spec("epsilon"), device="cpu").rows.iloc[-1]
    assert (found.samples, found.probes) == (5 * N, 6 * N + found.step // 5 * N)
    found = run(spec("inner"), device="cpu").rows.iloc[-1]
    assert (found.samples, found.probes) == (5 * N, 6 * N + 5 * N)


def test_a_test_costs_nothing_once_the_batch_is_at_its_cap():
    """The first test, on 20 samples, asks for more than 40; there are five epochs, each measured at its end."""
    told = spec("norm", policy=POLICIES["norm"] | {"eta": 0.01, "max_batch_size": 40})
    found = run(told, device="cpu").rows.iloc[-1]
    assert (found.batch_size, found.probes) == (40, 6 * N + 20)


@pytest.mark.parametrize("per_tensor", [False, True])
def test_looks_are_means_over_fresh_batches(per_tensor):
    told = spec("norm", plan=Plan(50, 0.3), policy=None, sampling="replacement")
    found = looks(told, [0, 2 * N], [20, 30], 70, per_tensor=per_tensor)
    assert found[["samples", "batch_size"]].values.tolist() == [[0, 20], [0, 30], [2 * N, 20], [2 * N, 30]]
    trainer = Trainer(told, "cpu")
    while trainer.samples < 2 * N:
        trainer.advance()
    start = 10**6 * N
    seen = [policy_signals.statistics(trainer.task, start + 30 * i, 30, per_tensor) for i in range(3)]
    last = found.iloc[-1]
    for name in ("mean_sqnorm", "variance", "inner_product_variance", "orthogonal_variance"):
        assert last[name] == pytest.approx(np.mean([getattr(each, name) for each in seen]))
    assert last["asked"] == pytest.approx(last["variance"] / last["mean_sqnorm"])
    assert last["asked_low"] < last["asked"] < last["asked_high"]
    assert last["grad_sqnorm"] == trainer.task.measure()["grad_sqnorm"].item()


def test_a_look_at_the_whole_data_set_is_the_gradient_itself():
    found = looks(spec("norm", plan=Plan(50, 0.3), policy=None), [0, N], [N], N)
    assert found["mean_sqnorm"].values == pytest.approx(found["grad_sqnorm"].values)


@pytest.mark.parametrize("name", ["epsilon", "norm", "autowu", "successive"])
def test_a_killed_run_goes_on_to_the_same_rows(name, tmp_path):
    class Killed(Exception):
        pass

    def kill(trainer, rows):
        if trainer.samples >= 3 * N:
            raise Killed

    whole = run(spec(name), device="cpu").rows
    with pytest.raises(Killed):
        run_in(tmp_path, spec(name), "cpu", checkpoint_every=0.0, watch=kill)
    again = run_in(tmp_path, spec(name), "cpu")
    assert again.rows.equals(whole)
    assert again.spec.key == spec(name).key


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: spec("norm", seeds=(1, 2)), "seeds = (1, 2): must be one"),
        (lambda: spec("norm", log_train_metrics=True), "log_train_metrics = True"),
        (lambda: spec("autowu", log_train_metrics=False), "log_train_metrics = False: must be true for AutoWU"),
        (lambda: spec("norm", problem=Quadratic(), sampling="replacement"), "policy = 'NormTest'"),
        (lambda: spec("cabs", log_train_metrics=False), "log_train_metrics = False: must be true for CABS"),
        (lambda: spec("successive", optimizer={"kind": "sgd", "momentum": 0.9}), "policy.momentum = 0.0: must be"),
        (lambda: spec("successive", optimizer={"kind": "sgd", "weight_decay": 0.1}), "optimizer.weight_decay = 0.1"),
        (
            lambda: spec("successive", optimizer={"kind": "sgd", "momentum": 0.9, "nesterov": True}),
            "optimizer.nesterov = True",
        ),
        (lambda: spec("norm", plan=Plan(8, 0.1)), "either a plan or a policy"),
        (lambda: spec("norm", policy=None), "either a plan or a policy"),
        (lambda: spec("norm", policy={"kind": "Guess"}), "kind = 'Guess': must be one of"),
        (lambda: spec("norm", policy=POLICIES["norm"] | {"theta": 1}), "theta: unknown name"),
        (lambda: spec("norm", policy={"kind": "NormTest", "eta": 1}), "batch_size: missing; lr: missing"),
        (lambda: spec("norm", policy=POLICIES["norm"] | {"eta": 0}), "eta = 0"),
        (lambda: looks(spec("norm", plan=Plan(8, 0.1), policy=None), [N, 0], [8], 8), "marks = [800, 0]"),
        (lambda: looks(spec("norm", plan=Plan(8, 0.1), policy=None), [6 * N], [8], 8), "marks = [4800]"),
        (lambda: looks(spec("norm", plan=Plan(8, 0.1), policy=None, seeds=(0, 1)), [0], [8], 8), "seeds = (0, 1)"),
    ],
)
def test_bad_input_names_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        Trainer(call(), "cpu")
    assert named in str(caught.value)
