"""Losses and models of which per-sample gradients make no sense are refused, whatever the batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfolib._utils.errors import InputError
from sfolib.gradients.statistics import full_gradient_sqnorm, gradient_statistics, smoothness


def _targets():
    y = torch.randint(2, (64,), generator=torch.Generator().manual_seed(0))
    balanced, half, first, odd = torch.tensor([0, 0, 0, 1] * 16), y.clone(), y.clone(), y.clone()
    half[[0, 32]], first[:32], odd[1::2] = -100, -100, -100
    weights = torch.tensor([1.0, 10.0])
    weighted = lambda o, t: F.cross_entropy(o, t, weights)  # noqa: E731
    total = lambda o, t: F.cross_entropy(o, t, reduction="sum")  # noqa: E731
    return [*((F.cross_entropy, t) for t in (half, first, odd)), (weighted, balanced), (total, y)]


@pytest.mark.parametrize(("loss", "y"), _targets())
def test_a_loss_that_is_no_mean(loss, y):
    torch.manual_seed(0)
    model, x = nn.Linear(6, 2), torch.randn(64, 6)
    for call in (lambda: gradient_statistics(model, loss, x, y), lambda: full_gradient_sqnorm(model, loss, (x, y))):
        with pytest.raises(InputError, match="must be the mean over the batch"):
            call()


class Between(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.a, self.b, self.f = nn.Linear(4, 6), nn.Linear(6, 3), f

    def forward(self, x):
        return self.b(self.f(self.a(x)))


@pytest.mark.parametrize(
    "f",
    [
        lambda h: F.batch_norm(h, None, None, training=True),
        lambda h: h - h.mean(0),
        F.dropout,
        lambda h: F.rrelu(h, training=True),
    ],
)
def test_samples_that_are_mixed_and_random_numbers(f):
    torch.manual_seed(0)
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    with pytest.raises(InputError, match=r"depends on the others|random numbers"):
        gradient_statistics(Between(f), F.cross_entropy, x, y)


def test_autocast_inside_the_model():
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randint(3, (64,))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 3)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.a(x).float()

    model = Model()
    found = gradient_statistics(model, F.cross_entropy, x, y)
    wanted = gradient_statistics(model.a, F.cross_entropy, x, y)
    assert found.variance == pytest.approx(wanted.variance, rel=0.02)


def test_unused_parameters_have_no_curvature():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.spare = nn.Linear(4, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.a(x)

    torch.manual_seed(0)
    model, x, y = Spare(), torch.randn(8, 4), torch.randint(3, (8,))
    alone = smoothness(model.a, F.cross_entropy, x, y)
    assert smoothness(model, F.cross_entropy, x, y) == pytest.approx(alone, rel=1e-3)
