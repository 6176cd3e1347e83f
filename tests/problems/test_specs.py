"""Constants of the problems, against brute force."""

import numpy as np
import pytest
import torch

from sfolib._utils.errors import InputError
from sfolib.problems.specs import Digits, Quadratic, split_digits
from sfolib.problems.stacked import MLP
from sfolib.theory.bounds import Constants


def loss_of(problem):
    (images, labels), _ = split_digits(problem.holdout)
    x = torch.tensor(np.column_stack([images, np.ones(len(images))]))
    y = torch.tensor(labels)

    def loss(theta):
        logits = x @ theta.reshape(x.shape[1], 10)
        return torch.nn.functional.cross_entropy(logits, y) + 0.5 * problem.l2 * theta @ theta

    return loss, x.shape[1] * 10


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_smoothness_bound_is_above_every_hessian(l2):
    problem = Digits(l2=l2, holdout=1000)
    loss, d = loss_of(problem)
    rng = torch.Generator().manual_seed(0)
    largest = 0.0
    for scale in (0.0, 0.1, 1.0, 10.0):
        theta = scale * torch.randn(d, generator=rng, dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(loss, theta, vectorize=True)
        largest = max(largest, torch.linalg.eigvalsh(hessian)[-1].item())
    assert largest <= problem.smoothness_bound <= 10 * largest


def test_minimum_is_certified():
    problem = Digits(l2=1e-2, holdout=1000)
    loss, d = loss_of(problem)
    assert problem.minimum.error < 1e-10
    assert problem.start_loss() == pytest.approx(loss(torch.zeros(d, dtype=torch.float64)).item(), rel=1e-12)
    gap = problem.start_loss() - problem.minimum.value
    assert problem.constants(2.5) == Constants(L=problem.smoothness_bound, sigma2=2.5, gap=gap)
    theta = torch.zeros(d, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=5000, tolerance_grad=1e-10, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(theta)
        value.backward()
        return value

    optimizer.step(closure)
    assert problem.minimum.value == pytest.approx(loss(theta).item(), abs=1e-9)


def test_split_is_fixed_stratified_and_complete():
    (x, y), (x_test, y_test) = split_digits(360)
    assert (len(x), len(x_test)) == (1437, 360)
    assert np.abs(np.bincount(y) / 1437 - np.bincount(y_test) / 360).max() < 0.005
    whole = split_digits(0)[0][0]
    assert whole.shape == (1797, 64)
    assert np.array_equal(np.sort(np.concatenate([x, x_test]).sum(1)), np.sort(whole.sum(1)))
    assert (whole.min(), whole.max()) == (0.0, 1.0)


def test_test_set_is_measured_apart():
    task = Digits(holdout=360).build_task((0, 1), "permutation", "cpu", "float64")
    assert isinstance(task, MLP)
    assert set(task.measure()) >= {"test_loss", "test_accuracy"}
    assert "test_loss" not in Digits().build_task((0,), "permutation", "cpu", "float64").measure()


def test_only_what_has_constants_tells_them():
    with pytest.raises(InputError, match="hidden"):
        _ = Digits(hidden=(5,)).smoothness_bound
    with pytest.raises(InputError, match="l2"):
        _ = Digits(l2=0.0).minimum


def test_quadratic_is_its_exact_twin():
    problem = Quadratic(d=7, lam_min=0.1, sigma2=2.0, gap=3.0)
    task = problem.build_task((0, 1), "replacement", "cpu", "float64")
    measured = task.measure()
    assert measured["loss"].numpy() == pytest.approx([3.0, 3.0], rel=1e-12)
    assert problem.exact.noise_variance.sum() == pytest.approx(2.0, rel=1e-12)
