"""The largest stable lr: the edge where it is known, the signal of the sweep where curvature grows on the way."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import InputError
from sfolib.gradients.curvature import smoothness
from sfolib.gradients.stable_lr import largest_stable_lr
from sfolib.problems.specs import split_digits


def quadratic(model_out, y):
    return 0.5 * (model_out - y).square().sum(1).mean()


def regression(scales=(3.0, 1.0, 0.3), n=400, noise=0.1):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=rng, dtype=torch.float64) * torch.tensor(scales, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    y = x.sum(1, keepdim=True) + noise * torch.randn(n, 1, generator=rng, dtype=torch.float64)
    return model, x, y


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_on_a_quadratic_it_is_the_edge_and_the_sweep_meets_it(momentum):
    model, x, y = regression()
    before = copy.deepcopy(model.state_dict())
    found = largest_stable_lr(model, quadratic, x, y, momentum=momentum)
    largest = torch.linalg.eigvalsh(x.T @ x / len(x))[-1].item()
    assert found.edge == pytest.approx(2 * (1 + momentum) / largest, rel=0.05)
    assert found.edge / 2 <= found.swept <= 2.1 * found.edge
    assert found.lr == min(found.edge, found.swept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert largest_stable_lr(model, quadratic, x, y, momentum=momentum) == found


def test_a_network_is_trained_below_it_and_not_far_above():
    """40 steps of full gradients: the loss comes down below, and is higher at four times the lr than before."""
    (x, y), _ = split_digits(360)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    found = largest_stable_lr(model, cross_entropy, x, y)
    cost = 512 + 2 * 512 * 20  # about twenty products
    assert 0.2 * cost < found.samples < 4 * cost + 80 * 256

    def after(lr):
        trained = copy.deepcopy(model)
        optimizer, losses = torch.optim.SGD(trained.parameters(), lr), []
        for _ in range(40):
            loss = cross_entropy(trained(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    calm, wild = after(found.lr / 2), after(8 * found.lr)
    assert all(later < earlier for earlier, later in pairwise(calm))
    assert max(wild) > 1.2 * wild[0]
    assert found.edge == pytest.approx(2 / smoothness(model, cross_entropy, x, y), rel=0.2)  # of 512 samples


def test_without_a_sweep_it_is_the_edge():
    model, x, y = regression()
    found = largest_stable_lr(model, quadratic, x, y, sweep=False)
    assert found.swept is None
    assert found.lr == found.edge


def test_under_batch_norm_the_sweep_decides_and_its_buffers_do_not_move():
    _, x, y = regression()
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).double()
    before = copy.deepcopy(model.state_dict())
    found = largest_stable_lr(model, quadratic, x, y)
    assert found.lr == (found.edge if found.swept is None else found.swept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "named"),
    [({"momentum": 1.0}, "momentum = 1.0"), ({"batch_size": 0}, "batch_size = 0"), ({"n": 1}, "x = 1")],
)
def test_bad_input_names_the_field_and_the_value(change, named):
    model, x, y = regression(n=change.pop("n", 400))
    with pytest.raises(InputError, match=named):
        largest_stable_lr(model, quadratic, x, y, **change)


def spoilt(model, x, y):
    """Data and models that are none, by what the error says of them."""
    nan, lost = x.clone(), copy.deepcopy(model)
    nan[3, 1] = torch.nan
    with torch.no_grad():
        lost.weight[0, 0] = torch.nan
    yield r"x = \(400, 3\): must be finite", (model, quadratic, nan, y)
    yield r"y = \(400, 1\): must be finite", (model, quadratic, x, y + torch.inf)
    yield r"y = \(399, 1\): must have x's leading dimension, 400", (model, quadratic, x, y[1:])
    yield "x = 0: must hold at least 2", (model, quadratic, x[:0], y[:0])
    yield "x = 'x': Input should be an instance of Tensor", (model, quadratic, "x", y)
    yield "model = 3: Input should be an instance of Module", (3, quadratic, x, y)
    yield "model = 'Identity': must have trainable parameters", (nn.Identity(), quadratic, x, y)
    yield "model = 'Linear': must have finite parameters", (lost, quadratic, x, y)
    yield r"x, y = \(400, 2\).*: model and loss_fn must take them", (model, quadratic, x[:, :2], y)
    yield "and give one loss", (model, lambda output, y: output - y, x, y)


def test_data_and_models_that_are_none_are_named():
    for named, arguments in spoilt(*regression()):
        with pytest.raises(InputError, match=named):
            largest_stable_lr(*arguments)
