"""Curvature by probes against the whole H and Σ taken the slow way: autograd's Hessian, one sample at a time."""

import copy
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import nn

from sfolib._utils.errors import InputError
from sfolib.gradients import curvature
from sfolib.gradients.curvature import (
    Hessian,
    curvature_noise,
    gradient_covariance,
    hessian,
    noise_spectrum,
    noise_vectors,
    smoothness,
)

CE, L2 = F.cross_entropy, 0.03


def made(kind, n=24):
    """A model in float64 and n samples; "mlp" has dropout, which eval mode must keep out."""
    torch.manual_seed(1)
    x, y = torch.randn(n, 5).double(), torch.arange(n) % 3
    layers = {
        "softmax": [nn.Linear(5, 3)],
        "mlp": [nn.Linear(5, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3)],
    }
    return nn.Sequential(*layers[kind]).double(), x, y


def slow(model, x, y, l2=0.0):
    """G, H and Σ: (P,), (P, P), (P, P)."""
    model = copy.deepcopy(model).eval()
    names, shapes = zip(*[(k, p.shape) for k, p in model.named_parameters()], strict=True)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(flat, x=x, y=y):
        parts = flat.split([shape.numel() for shape in shapes])
        values = {k: v.view(shape) for k, v, shape in zip(names, parts, shapes, strict=True)}
        return CE(torch.func.functional_call(model, values, x), y) + l2 / 2 * flat.square().sum()

    rows = [
        torch.autograd.functional.jacobian(lambda t, i=i: loss(t, x[i : i + 1], y[i : i + 1]), flat)
        for i in range(len(x))
    ]
    each = torch.stack(rows).numpy()
    h = torch.autograd.functional.hessian(loss, flat).numpy()
    return each.mean(0), h, np.cov(each.T, bias=True)


@pytest.mark.parametrize("kind", ["softmax", "mlp"])
def test_whole_matrices(kind):
    model, x, y = made(kind, n=70)  # more than one pass
    _, h, sigma = slow(model, x, y, L2)
    assert hessian(model, CE, x, y, l2=L2) == pytest.approx(h, abs=1e-12)
    assert gradient_covariance(model, CE, x, y) == pytest.approx(sigma, abs=1e-12)


@pytest.mark.parametrize("name", ["MultiheadAttention", "GRU"])
def test_curvature_of_attention_and_recurrence(name):
    """Whose fast forms have no second derivative, against differences of the gradient."""
    model, x, y, _ = zoo.build(name)
    weights = [*model.parameters()]
    gradient = lambda: torch.cat([g.flatten() for g in torch.autograd.grad(CE(model(x), y), weights)])  # noqa: E731
    h, flat = hessian(model, CE, x, y), nn.utils.parameters_to_vector(weights).detach()
    v = torch.randn(len(flat), generator=torch.Generator().manual_seed(0)).double()
    ends = []
    for sign in (1, -1):
        nn.utils.vector_to_parameters(flat + sign * 1e-5 * v, weights)
        ends.append(gradient())
    nn.utils.vector_to_parameters(flat, weights)
    assert h @ v.numpy() == pytest.approx(((ends[0] - ends[1]) / 2e-5).numpy(), rel=1e-5, abs=1e-8)
    found = curvature_noise(model, CE, x, y, vectors=3)
    assert found.lambda_max == pytest.approx(np.linalg.eigvalsh(h)[-1], rel=1e-8)


@pytest.mark.parametrize("kind", ["softmax", "mlp"])
def test_what_needs_no_probe_is_exact(kind):
    model, x, y = made(kind)
    g, h, _ = slow(model, x, y, L2)
    found = curvature_noise(model, CE, x, y, l2=L2, vectors=3)
    assert pytest.approx((g @ g, g @ h @ g), rel=1e-10) == (found.G2, found.GHG)
    assert found.lambda_max == pytest.approx(np.linalg.eigvalsh(h)[-1], rel=1e-10)
    assert found.lambda_max == smoothness(model, CE, x, y, l2=L2)


@pytest.mark.parametrize(("n", "sample"), [(4, 2), (4, 4), (5, 4), (5, None)])
def test_the_noise_vectors_covariance_is_sigma_over_all_draws(n, sample, monkeypatch):
    model, x, y = made("softmax", n)
    _, _, sigma = slow(model, x, y)
    orders = [torch.tensor(order) for order in permutations(range(n))]
    left = iter(orders)
    monkeypatch.setattr(curvature.torch, "randperm", lambda n, generator: next(left))
    v = noise_vectors(model, CE, x, y, len(orders), sample).numpy()
    assert v.T @ v / len(v) == pytest.approx(sigma, abs=1e-12)
    assert v.mean(0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["softmax", "mlp"])
def test_traces_are_unbiased_and_their_errors_are_the_scatter(kind):
    model, x, y = made(kind)
    _, h, sigma = slow(model, x, y, L2)
    found = [curvature_noise(model, CE, x, y, l2=L2, vectors=8, sample=8, seed=seed) for seed in range(200)]
    for name, wanted in (("Q", np.trace(h @ sigma)), ("S2", np.trace(sigma @ sigma))):
        values, errors = (np.array([getattr(f, name + end) for f in found]) for end in ("", "_error"))
        assert abs(values.mean() - wanted) < 3.5 * values.std() / len(found) ** 0.5
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.25)
        assert values.std() < wanted  # an estimate it is


@pytest.mark.parametrize("kind", ["softmax", "mlp"])
def test_the_spectrum_is_a_gauss_quadrature(kind):
    model, x, y = made(kind)
    _, h, _ = slow(model, x, y, L2)
    found = noise_spectrum(model, CE, x, y, l2=L2, vectors=3, products=4, seed=5)
    v = noise_vectors(model, CE, x, y, 3, seed=5).numpy()
    for power in range(8):  # below 2 × 4
        each = [row @ np.linalg.matrix_power(h, power) @ row for row in v]
        assert np.sum(found.weights * found.eigenvalues**power, 1) == pytest.approx(each, rel=1e-9)
        assert found.moment(power) == pytest.approx((np.mean(each), np.std(each, ddof=1) / 3**0.5), rel=1e-8)


def test_the_kernel_is_that_of_the_whole_matrices():
    model, x, y = made("softmax")
    _, h, _ = slow(model, x, y, L2)
    v = noise_vectors(model, CE, x, y, 4, seed=2).numpy()
    sigma, lr = v.T @ v / 4, np.array([0.4, 0.1, 0.7, 0.2])
    for power, m in ((2, h @ h), (1, h)):
        wanted = []
        for eta in lr[::-1]:  # T16: κ_t = η_t² tr(M_{t+1}Σ)
            wanted.append(eta**2 * np.trace(m @ sigma))
            m = (np.eye(len(h)) - eta * h) @ m @ (np.eye(len(h)) - eta * h)
        found = noise_spectrum(model, CE, x, y, l2=L2, vectors=4, products=len(h), seed=2)
        assert found.kernel(lr, power) == pytest.approx(wanted[::-1], rel=1e-9)


def test_negative_curvature_is_left_out_of_the_kernel():
    model, x, y = made("mlp")
    found = noise_spectrum(model, CE, x, y, products=12)
    assert found.eigenvalues.min() < 0
    bent = np.where(found.eigenvalues > 0, found.eigenvalues, 0.0)
    assert found.kernel([0.1])[0] == pytest.approx(0.01 * np.sum(found.weights * bent**2) / 4)


def test_evaluations_are_counted(monkeypatch):
    model, x, y = made("softmax")
    n, products = len(x), []
    plain = Hessian.product
    monkeypatch.setattr(Hessian, "product", lambda self, v: products.append(1) or plain(self, v))
    assert curvature_noise(model, CE, x, y, vectors=5, sample=6).probes == n + 2 * n * len(products) + 5 * 6
    assert noise_spectrum(model, CE, x, y, vectors=3, products=7).probes == n + 3 * (2 * n * 7 + n)
    assert Hessian(model, CE, x, y).samples == n


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_is_left_as_it_was(dtype):
    model, x, y = made("mlp")
    model, x = model.to(dtype), x.to(dtype)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    curvature_noise(model, CE, x, y, vectors=3)
    noise_spectrum(model, CE, x, y, products=3)
    hessian(model, CE, x, y)
    gradient_covariance(model, CE, x, y)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda m, x, y: curvature_noise(m, CE, x, y, vectors=2), "vectors"),
        (lambda m, x, y: curvature_noise(m, CE, x, y, sample=3), "sample"),
        (lambda m, x, y: curvature_noise(m, CE, x, y, sample=26), "sample"),
        (lambda m, x, y: noise_spectrum(m, CE, x, y, products=0), "products"),
        (lambda m, x, y: noise_spectrum(m, CE, x[:1], y[:1]), "x"),
        (lambda m, x, y: hessian(m, CE, x, y[:3]), "x"),
        (lambda m, x, y: gradient_covariance(nn.Flatten(), CE, x, y), "model"),
    ],
)
def test_bad_input_is_named(call, field):
    with pytest.raises(InputError, match=field):
        call(*made("softmax"))
