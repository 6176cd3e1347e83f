"""Closed forms of softmax regression against autograd; what noise adds to f, against runs."""

import math

import numpy as np
import pytest
import torch
from torch.autograd.functional import hessian
from torch.nn.functional import cross_entropy

from sfolib.analysis.noise_free_path import NoiseFreePath, PlanClock, windows
from sfolib.analysis.softmax import sample_correlation, softmax_hessian, third_order
from sfolib.problems.specs import Digits
from sfolib.schedules.plan import Plan
from sfolib.training import updates
from sfolib.training.spec import Spec

RNG = np.random.default_rng(0)


def loss(theta, x, y):
    """3 classes, 2 inputs; the biases last."""
    return cross_entropy(x @ theta[:6].reshape(3, 2).T + theta[6:], y)


@pytest.fixture
def small():
    layer, x = torch.nn.Linear(2, 3).double(), torch.from_numpy(RNG.standard_normal((7, 2)))
    return layer, torch.cat([p.detach().flatten() for p in layer.parameters()]), x, torch.arange(7) % 3


def test_the_hessian_is_autograds(small):
    layer, theta, x, y = small
    wanted = hessian(lambda at: loss(at, x, y), theta) + 0.1 * torch.eye(9)
    assert softmax_hessian(layer, x, 0.1) == pytest.approx(wanted.numpy())


def test_what_pulls_the_mean_is_half_the_gradient_of_tr_hc(small):
    layer, theta, x, y = small
    C = np.cov(RNG.standard_normal((9, 30)))
    theta.requires_grad_()
    H = hessian(lambda at: loss(at, x, y), theta, create_graph=True)
    (wanted,) = torch.autograd.grad((H * torch.from_numpy(C)).sum() / 2, theta)
    assert third_order(layer, x, C) == pytest.approx(wanted.numpy())


def test_a_samples_curvature_goes_with_its_gradient(small):
    layer, theta, x, y = small
    R, alone = RNG.standard_normal((9, 9)), [(x[i : i + 1], y[i : i + 1]) for i in range(7)]
    H = np.array([hessian(lambda at, of=of: loss(at, *of), theta).numpy() for of in alone])
    theta.requires_grad_()
    g = np.array([torch.autograd.grad(loss(theta, *of), theta)[0].numpy() for of in alone])
    wanted = np.mean((H - H.mean(0)) @ R @ (g - g.mean(0))[:, :, None], axis=0)[:, 0]
    assert sample_correlation(layer, x, y, R) == pytest.approx(wanted)


@pytest.mark.parametrize("sampling", ["replacement", "permutation"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_noise_adds_less_to_f_than_its_curvature_says_as_it_moves_the_mean(sampling, momentum):
    """512 runs: what they add to f is predicted, of which ½ tr(HC) alone is decidedly too much."""
    seeds, batch_size, lr, steps = tuple(range(512)), 32, 0.5 * (1 - momentum), 75  # three epochs
    asked = Spec(
        problem=Digits(holdout=1000), plan=Plan(batch_size, lr), sampling=sampling, max_steps=steps, max_samples=10**6,
        optimizer={"kind": "sgd", "momentum": momentum},
    )  # fmt: skip
    task, samples, added = asked.problem.build_task(seeds, sampling, "cpu", "float32"), 0, {}
    update = updates.build(asked.optimizer, task.parameters)
    for t in range(steps):
        taken = task.batch_size(samples, batch_size)
        update(task.gradients(t, samples, taken), lr)
        samples += taken
    for with_mean in (True, False):
        path = NoiseFreePath(asked, "cpu", None)
        clock = PlanClock(asked.plan, path.epoch, path.permuted, math.inf, steps)
        *_, ((*_, last),) = windows(path, [(clock, path.covariance(with_mean=with_mean))])
        _, _, _, quiet, _, added[with_mean] = last
    measured = task.measure()["loss"].double() - quiet
    mean, error = measured.mean().item(), measured.std().item() / len(seeds) ** 0.5
    print(mean, error, added)
    assert abs(mean - added[True]) < 3 * error
    assert added[False] - mean > 4 * error
