"""Losses and models of which per-sample gradients make no sense are refused, whatever the batch."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfolib._utils.errors import InputError
from sfolib.gradients import (
    SuccessiveGradients,
    checks,
    curvature_noise,
    gradient_covariance,
    noise_vectors,
    smoothness,
)
from sfolib.gradients.statistics import CHUNK, full_gradient_sqnorm, gradient_statistics
from sfolib.problems.models import build


def _targets():
    y = torch.randint(2, (64,), generator=torch.Generator().manual_seed(0))
    balanced, half, first, odd = torch.tensor([0, 0, 0, 1] * 16), y.clone(), y.clone(), y.clone()
    half[[0, 32]], first[:33], odd[1::2] = -100, -100, -100
    weights = torch.tensor([1.0, 10.0])
    weighted = lambda o, t: F.cross_entropy(o, t, weights)  # noqa: E731
    total = lambda o, t: F.cross_entropy(o, t, reduction="sum")  # noqa: E731
    return [*((F.cross_entropy, t) for t in (half, first, odd)), (weighted, balanced), (total, y)]


@pytest.mark.parametrize(("loss", "y"), _targets())
def test_a_loss_that_is_no_mean(loss, y):
    """Of small chunks too, of which one label is not ignored or all weigh the same."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 2), torch.randn(64, 6)
    for call in (
        lambda: gradient_statistics(model, loss, x, y),
        lambda: full_gradient_sqnorm(model, loss, (x, y)),
        lambda: full_gradient_sqnorm(model, loss, (x, y), chunk=1),
        lambda: noise_vectors(model, loss, x, y, 1, 2),
        lambda: curvature_noise(model, loss, x, y),
        lambda: gradient_covariance(model, loss, x, y),
    ):
        with pytest.raises(InputError, match="must be the mean over the batch"):
            call()


class Between(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.a, self.b, self.f = nn.Linear(4, 6), nn.Linear(6, 3), f

    def forward(self, x):
        return self.b(self.f(self.a(x)))


class Running(nn.Module):
    """Centred by a running mean, in place or by a new buffer."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, h):
        mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        if self.in_place:
            self.mean.copy_(mean)
        else:
            self.mean = mean
        return h


def pairs(h):
    return h + h.view(-1, 2, 6).mean(1).repeat_interleave(2, 0)


def ghost(h):
    return (h.view(-1, 4, 6) - h.view(-1, 4, 6).mean(1, keepdim=True)).reshape(-1, 6)


GENERATOR = torch.Generator()


@pytest.mark.parametrize("n", [8, 4, 24])
@pytest.mark.parametrize(
    "f",
    [
        lambda h: F.batch_norm(h, None, None, training=True),
        lambda h: h - h.mean(0),
        lambda h: h / h.abs().max(),
        lambda h: h + 0.1 * h.roll(1, 0),
        lambda h: h + h[:1],
        lambda h: h * len(h),
        lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None])[0],
        pairs,
        ghost,
        F.dropout,
        lambda h: F.rrelu(h, training=True),
        lambda h: h * torch.bernoulli(torch.full_like(h, 0.5), generator=GENERATOR),
        lambda h: h * (random.random() < 0.99),
        lambda h: h * (np.random.rand() < 0.99),  # noqa: NPY002
        Running(in_place=True),
        Running(in_place=False),
    ],
)
def test_samples_that_are_mixed_and_random_numbers(f, n):
    torch.manual_seed(0)
    x, y, model = torch.randn(n, 4), torch.randint(3, (n,)), Between(f)
    buffers, states = copy.deepcopy(model.state_dict()), (random.getstate(), np.random.get_state()[2])  # noqa: NPY002
    said = r"depends on the others|without the others|random numbers|changes its buffers"
    for call in (
        lambda: gradient_statistics(model, F.cross_entropy, x, y, backward=True),
        lambda: full_gradient_sqnorm(model, F.cross_entropy, (x, y)),
    ):
        with pytest.raises(InputError, match=said):
            call()
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(buffers.values(), model.state_dict().values(), strict=True))
    assert states == (random.getstate(), np.random.get_state()[2])  # noqa: NPY002


def _mix(h):
    return h - h.mean(0)


class Mixed(nn.Sequential):
    def forward(self, x):
        return _mix(super().forward(x))


class Noisy(nn.Module):
    def forward(self, weight):
        return weight + torch.rand_like(weight)


def _hook(model):
    model[2].register_forward_hook(lambda _module, _args, output: _mix(output))


def _pre_hook(model):
    model[2].register_forward_pre_hook(lambda _module, args: (_mix(args[0]),))


def _hook_of_one_call(model):
    """It is gone when samples are taken alone."""
    handle = model.register_forward_hook(lambda _module, _args, output: (handle.remove(), _mix(output))[1])


def _own_forward(model):
    model[1].forward = lambda x: _mix(F.linear(x, model[1].weight))


def _bias_of_each(model):
    model[3].bias = nn.Parameter(torch.randn(24, 3))


CHANGES = {
    "hook": _hook,
    "pre-hook": _pre_hook,
    "hook of one call": _hook_of_one_call,
    "own forward": _own_forward,
    "compiled": lambda model: setattr(model[1], "_compiled_call_impl", lambda x: _mix(F.linear(x, model[1].weight))),
    "softmax over samples": lambda model: model.insert(2, nn.Softmax(0)),
    "layer norm over samples": lambda model: model.insert(2, nn.LayerNorm((24, 6))),
    "layer of one's own": lambda model: model.insert(2, Mixed(nn.Identity())),
    "batch norm": lambda model: model.insert(2, nn.BatchNorm1d(6)),
    "dropout": lambda model: model.insert(2, nn.Dropout(0.5)),
    "train mode": lambda model: model.train(),
    "class": lambda model: setattr(model, "__class__", Mixed),
    "bias of each sample": _bias_of_each,
    "random weight": lambda model: nn.utils.parametrize.register_parametrization(model[1], "weight", Noisy()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_after_a_look(change):
    """Nothing is remembered of a model that was found to have its samples apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Dropout(0.1)).eval()
    x, y = torch.randn(24, 2, 2), torch.arange(24) % 3
    gradient_statistics(model, F.cross_entropy, x, y, backward=True)
    full_gradient_sqnorm(model, F.cross_entropy, (x, y))
    CHANGES[change](model)
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    with pytest.raises(InputError, match=r"depends on the others|without the others|random numbers|batch statistics"):
        gradient_statistics(model, F.cross_entropy, x, y, backward=True)
    for p, before in zip(model.parameters(), gradients, strict=True):
        assert p.grad is before is None or torch.equal(p.grad, before)


def test_a_hook_on_every_module():
    model, x, y = nn.Sequential(nn.Linear(4, 3)), torch.randn(8, 4), torch.arange(8) % 3
    handle = nn.modules.module.register_module_forward_hook(lambda _module, _args, output: _mix(output))
    try:
        with pytest.raises(InputError, match="depends on the others"):
            gradient_statistics(model, F.cross_entropy, x, y)
    finally:
        handle.remove()


def test_a_forward_that_is_put_into_a_class(monkeypatch):
    model, x, y = nn.Sequential(nn.Linear(4, 3)), torch.randn(8, 4), torch.arange(8) % 3
    gradient_statistics(model, F.cross_entropy, x, y)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: _mix(F.linear(x, self.weight)))
    with pytest.raises(InputError, match="depends on the others"):
        gradient_statistics(model, F.cross_entropy, x, y)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(8, 3), (8,)),
        (nn.Conv1d(8, 8, 3, padding=1), (8, 3)),
        (nn.Conv2d(8, 8, 3, padding=1), (8, 3, 3)),
        (nn.Flatten(0, 1), (8, 2, 3)),
        (nn.LayerNorm((8, 3)), (8, 3)),
        (nn.MaxPool2d(1, return_indices=True), (8, 3, 4, 4)),
        (nn.Conv2d(3, 4, 1), (8, 3, 4)),
    ],
)
def test_layers_that_take_samples_for_something_else_are_no_chain(layer, shape):
    x = torch.randn(shape)
    assert not checks.chain(nn.Sequential(nn.Identity(), nn.Sequential(layer)), x)
    assert not checks.chain(layer, x)


KINDS = [*sorted(checks._ELEMENTWISE, key=str), *checks._SPATIAL, nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_layers_of_a_chain_act_on_every_sample_alone(kind):
    torch.manual_seed(0)
    if kind in checks._SPATIAL:
        args = (4, 2, 3) if "Conv" in kind.__name__ else (2,)
    elif kind is nn.Linear:
        args = (3, 2)
    else:
        args = {nn.LayerNorm: (3,), nn.RMSNorm: (3,), nn.GroupNorm: (2, 4)}.get(kind, ())
    layer, n = kind(*args).double().eval(), 4
    for dims in (2, 3, 4, 5):
        x = torch.randn(n, 4, *[3] * (dims - 2)).double() if dims > 2 else torch.randn(n, 3).double()
        if not checks.chain(nn.Sequential(layer), x) or (kind is nn.GroupNorm and dims == 2):
            continue
        together = layer(x)
        assert checks._dims_after(layer, dims, []) == together.dim()
        torch.testing.assert_close(torch.cat([layer(x[i : i + 1]) for i in range(n)]), together, rtol=1e-12, atol=1e-12)
    wanted = checks._SPATIAL.get(kind, 3)
    assert checks.chain(layer, torch.randn(n, 4, *[3] * (wanted - 2)).double())


def test_a_chain_with_a_hook_on_its_backward_pass_is_called_as_it_is():
    x, seen = torch.randn(8, 4), []
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 3)), nn.Tanh())
    assert len(checks.chain(model, x)) == 2
    model[0].register_full_backward_pre_hook(lambda *_: seen.append(1))
    assert not checks.chain(model, x)
    gradient_statistics(model, F.cross_entropy, x, torch.arange(8) % 3)
    assert seen


@pytest.mark.filterwarnings("ignore:.*per-sample gradients are formed")
@pytest.mark.parametrize("also", ["x", "y"])
def test_an_input_that_is_made_of_the_parameters(also):
    """Of a chain too the loss's graph is looked at where it may go on."""
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(4, 3)), torch.randn(8, 4), torch.rand(8, 3)
    made = 1 + model[0].weight.sum() / 10
    x, y = (x * made, y) if also == "x" else (x, y * made)
    with pytest.raises(InputError, match="is not the mean of its samples' own"):
        gradient_statistics(model, F.cross_entropy, x, y)


@pytest.mark.parametrize("name", ["softmax", "mlp", "cnn", "mnist_cnn"])
def test_chains_need_no_pass_of_samples_alone(name, monkeypatch):
    monkeypatch.setattr("sfolib.gradients.per_sample.samples_apart", None)
    model, x, y = build(name, 3, (1, 8, 8), 0), torch.randn(8, 1, 8, 8), torch.arange(8) % 3
    gradient_statistics(model, F.cross_entropy, x, y)
    full_gradient_sqnorm(model, F.cross_entropy, (x, y))


def test_samples_too_large_for_a_chunk_of_two():
    """As images of 224×224 are on the CPU: by default two are taken all the same, and compared."""
    width = CHUNK["cpu"] // 2 + 1
    model, x, y = nn.Linear(width, 2), torch.randn(4, width), torch.arange(4) % 2
    weighted = nn.CrossEntropyLoss(torch.tensor([1.0, 10.0]))
    with pytest.raises(InputError, match="must be the mean over the batch"):
        full_gradient_sqnorm(model, weighted, (x, y))
    found = full_gradient_sqnorm(model, F.cross_entropy, (x, y))
    assert found == pytest.approx(full_gradient_sqnorm(model, F.cross_entropy, (x, y), chunk=1, check=False))


def test_complex_parameters_are_refused():
    model, x = nn.Linear(4, 3, dtype=torch.complex64), torch.randn(6, 4, dtype=torch.complex64)
    loss = lambda o, y: F.cross_entropy(o.abs(), y)  # noqa: E731
    for measure in (gradient_statistics, smoothness, lambda *a: full_gradient_sqnorm(*a[:2], a[2:])):
        with pytest.raises(InputError, match=r"weight: torch.complex64.*must be real"):
            measure(model, loss, x, torch.arange(6) % 3)


def test_successive_gradients_of_parameters_that_are_not_always_used():
    """A part that does not use one has gradient 0 there; others than before are refused."""
    model, x = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)]), torch.randn(4, 3)
    parts, halves, weights = [], SuccessiveGradients(), [*model.parameters()]
    for used, half in ((1, x[:2]), (2, x[2:])):
        loss = sum(layer(half).square().mean() / 2 for layer in model[:used])
        gradients = torch.autograd.grad(loss, weights, None, True, allow_unused=True, materialize_grads=True)
        parts.append(([2 * g for g in gradients], 2))
        loss.backward()
        halves.part(weights, 2)
    halves.step(weights)
    twin = SuccessiveGradients()
    twin.add(parts)
    for found, wanted in zip(halves.take(), twin.take(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    model[0].requires_grad_(False)
    with pytest.raises(InputError, match="begin with a new SuccessiveGradients"):
        halves.step(weights)


def test_power_iteration_in_train_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Tanh())
    with pytest.raises(InputError, match="changes its buffers"):
        gradient_statistics(model, F.cross_entropy, torch.randn(6, 4), torch.randint(4, (6,)))


def _token_losses():
    """Of (n, T, classes) and labels (n, T): a loss, the labels, and whether it is a mean over samples."""
    y = torch.randint(4, (64, 7), generator=torch.Generator().manual_seed(0))
    one, even = y.clone(), y.clone()
    one[0, 0], even[:, 0] = -100, -100
    flat = lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten())  # noqa: E731
    turned = lambda o, t: F.cross_entropy(o.mT, t)  # noqa: E731
    total = lambda o, t: F.cross_entropy(o.mT, t, reduction="sum")  # noqa: E731
    means = [(flat, y, True), (turned, y, True), (flat, even, True)]
    return [*means, (flat, one, False), (turned, one, False), (total, y, False)]


@pytest.mark.parametrize(("loss", "y", "mean"), _token_losses())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_means(loss, y, mean, dtype):
    """One label of 448 that is left out is seen."""
    torch.manual_seed(0)
    model, x = nn.Linear(5, 4).to(dtype), torch.randn(64, 7, 5).to(dtype)
    for call in (lambda: gradient_statistics(model, loss, x, y), lambda: full_gradient_sqnorm(model, loss, (x, y))):
        if mean:
            call()
        else:
            with pytest.raises(InputError, match="must be the mean over the batch"):
                call()


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    ("loss", "features", "y"),
    [
        (F.mse_loss, 1, torch.randn(12)),  # (12, 1) against (12,): every sample with every label
        (lambda o, t: F.kl_div(o.log_softmax(1), t, reduction="sum"), 3, torch.rand(12, 3)),
        (lambda o, t: F.cross_entropy(o @ o.T, torch.arange(len(o))), 3, torch.zeros(12)),
        (lambda o, t: F.cross_entropy(o, t, reduction="sum") / 64, 3, torch.arange(12) % 3),
        (lambda o, t: F.cross_entropy(o[:, 0], t), 3, torch.rand(12)),  # the scores of one sample
        (nn.CrossEntropyLoss(ignore_index=2), 3, torch.arange(12) % 3),
        (nn.CrossEntropyLoss(torch.tensor([1.0, 1.01, 1.0])), 3, torch.arange(12) % 3),
    ],
)
def test_more_losses_that_are_no_mean(loss, features, y):
    torch.manual_seed(0)
    model, x = nn.Linear(4, features), torch.randn(12, 4)
    for call in (lambda: gradient_statistics(model, loss, x, y), lambda: full_gradient_sqnorm(model, loss, (x, y))):
        with pytest.raises(InputError, match="must be the mean over the batch"):
            call()


def test_wrappers():
    """What torch.compile made is measured as the module in it; DDP would lose its all-reduce."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.arange(6) % 3
    wanted = gradient_statistics(model, F.cross_entropy, x, y)
    assert gradient_statistics(torch.compile(model, backend="eager"), F.cross_entropy, x, y) == wanted
    ddp = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    with pytest.raises(InputError, match=r"model\.module"):
        gradient_statistics(ddp, F.cross_entropy, x, y)


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
