"""Gradient statistics against per-sample gradients taken one sample at a time, and that nothing is left behind."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfolib._utils.errors import InputError
from sfolib.gradients import layers
from sfolib.gradients.statistics import (
    full_gradient_sqnorm,
    gradient_statistics,
    measure_constants,
    population_variance,
    sampled_gradient_sqnorm,
    smoothness,
)
from sfolib.problems.models import build

CE = F.cross_entropy
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
FIELDS = ("mean_sqnorm", "variance", "inner_product_variance", "orthogonal_variance")


def per_sample_gradients(model, loss_fn, x, y, l2=0.0):
    """One backward pass a sample, on a copy: {parameter: (n, numel)} in float64."""
    model = copy.deepcopy(model)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = []
    for i in range(len(x)):
        loss = loss_fn(model(x[i : i + 1]), y[i : i + 1])
        loss = loss + l2 / 2 * sum(p.square().sum() for p in named.values())
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
        rows.append([g.flatten().double() for g in grads])
    return dict(zip(named, map(torch.stack, zip(*rows, strict=True)), strict=True))


def t10(g):
    """T10 as it is written, from the matrix of per-sample gradients."""
    mean = g.mean(0)
    inner = g @ mean
    orthogonal = g - torch.outer(inner / mean.dot(mean), mean)
    return {
        "mean_sqnorm": mean.dot(mean).item(),
        "variance": g.var(0).sum().item(),
        "inner_product_variance": inner.var().item(),
        "orthogonal_variance": orthogonal.var(0).sum().item(),
    }


def assert_equal(statistics, expected, dtype):
    for field in FIELDS:
        assert getattr(statistics, field) == pytest.approx(expected[field], rel=TOLERANCE[dtype]), field


class ConvZoo(nn.Module):
    """Both ways of `_repeated`: large kernels on many positions, many channels on few; every option of Conv2d."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding="same"),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4, bias=False),
            nn.GELU(),
            nn.Conv2d(12, 24, (3, 2), padding=(2, 1), dilation=2, padding_mode="reflect"),
            nn.GroupNorm(3, 24),
            nn.ReLU(inplace=True),
            nn.Conv2d(24, 64, 3, stride=2, groups=2),
            nn.Flatten(),
        )
        self.head = nn.LazyLinear(5)

    def forward(self, x):
        return self.head(self.body(x))


class Tokens(nn.Module):
    """Embedding with repeated tokens and a padding index, LayerNorm and Linear on sequences."""

    def __init__(self, width=6, hidden=32):
        super().__init__()
        self.embedding = nn.Embedding(7, width, padding_idx=0)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm2d = nn.LayerNorm((9, width), bias=False)
        self.head = nn.Linear(width, 5)

    def forward(self, tokens):
        h = self.norm(self.embedding(tokens))
        h = h + self.down(torch.tanh(self.up(input=h)))
        return self.head(self.norm2d(h).mean(1))


class FixedBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(216, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 5))

    def forward(self, x):
        return self.head(self.body(x))


CASES = {
    "softmax": (lambda: build("softmax", 5, (2, 8, 8), 1), "image"),
    "mlp": (lambda: build("mlp", 5, (2, 8, 8), 1), "image"),
    "cnn": (lambda: build("cnn", 5, (2, 8, 8), 1), "image"),
    "mnist_cnn": (lambda: build("mnist_cnn", 5, (2, 8, 8), 1), "image"),
    "conv": (ConvZoo, "image"),
    "tokens": (Tokens, "tokens"),
    "tokens, long": (lambda: Tokens(width=3, hidden=4), "tokens"),
    "fixed batch norm": (FixedBatchNorm, "image"),
}


def make(case, dtype=torch.float64, n=11):
    factory, kind = CASES[case]
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = factory()
        if kind == "tokens":
            x = torch.randint(7, (n, 9), generator=generator)
        else:
            x = torch.randn(n, 2, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
        model = model.to(dtype)
        model(x)  # lazy layers, and BatchNorm's running statistics
        model.eval()
        for p in model.parameters():  # affine layers off their trivial start
            p.data += 0.1 * torch.randn(p.shape, dtype=dtype)
    return model, x, torch.randint(5, (n,), generator=generator)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("case", CASES)
def test_against_one_backward_a_sample(case, l2):
    model, x, y = make(case)
    expected = t10(torch.cat(list(per_sample_gradients(model, CE, x, y, l2).values()), dim=1))
    statistics = gradient_statistics(model, CE, x, y, l2=l2)
    assert statistics.n == len(x)
    assert_equal(statistics, expected, torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_float32(case):
    model, x, y = make(case, torch.float32)
    wide = x if x.dtype == torch.int64 else x.double()
    expected = t10(torch.cat(list(per_sample_gradients(model.double(), CE, wide, y).values()), dim=1))
    assert_equal(gradient_statistics(model.float(), CE, x, y), expected, torch.float32)


@pytest.mark.parametrize("case", ["mlp", "cnn", "conv", "tokens"])
def test_in_small_chunks(case, monkeypatch):
    model, x, y = make(case)
    expected = t10(torch.cat(list(per_sample_gradients(model, CE, x, y).values()), dim=1))
    monkeypatch.setattr(layers, "SCRATCH", 7000)
    assert_equal(gradient_statistics(model, CE, x, y), expected, torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_per_tensor_is_the_published_sum(case):
    model, x, y = make(case)
    tensors = [t10(g) for g in per_sample_gradients(model, CE, x, y).values()]
    expected = {field: sum(t[field] for t in tensors) for field in FIELDS}
    per_tensor = gradient_statistics(model, CE, x, y, per_tensor=True)
    assert_equal(per_tensor, expected, torch.float64)
    whole = gradient_statistics(model, CE, x, y)
    assert per_tensor.variance == pytest.approx(whole.variance, rel=1e-12)
    assert per_tensor.inner_product_variance != pytest.approx(whole.inner_product_variance, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 2),
    st.booleans(),
)
def test_any_convolution(groups, width, kernel, stride, dilation, padding, bias):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(groups * 2, groups * width, kernel, stride, padding, dilation, groups, bias).double()
        x = torch.randn(4, groups * 2, 6, 7, dtype=torch.float64)
    y = torch.zeros(4, 1)

    def loss_fn(output, _y):
        return (output.sin() ** 2).flatten(1).sum(1).mean()

    expected = t10(torch.cat(list(per_sample_gradients(conv, loss_fn, x, y).values()), dim=1))
    assert_equal(gradient_statistics(conv, loss_fn, x, y), expected, torch.float64)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("kept", [0, layers.FORMED])
@pytest.mark.parametrize(
    ("conv", "space"),
    [
        (nn.Conv2d(8, 8, 3, padding=1), (9, 8)),
        (nn.Conv2d(8, 6, (3, 2), stride=(1, 2), padding=(0, 1), dilation=(2, 1)), (12, 13)),
        (nn.Conv2d(8, 8, 4, padding="same"), (12, 12)),  # one side has more
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), (9, 9)),
        (nn.Conv2d(12, 12, 3, stride=2, groups=12, bias=False), (11, 9)),
        (nn.Conv2d(4, 8, 3, groups=2), (9, 9)),
        (nn.Conv1d(9, 8, 5, padding=2), (40,)),
        (nn.Conv3d(8, 4, 2, stride=(1, 2, 1)), (6, 7, 8)),
    ],
    ids=str,
)
def test_convolutions_whose_gradients_one_dnn_forms(conv, space, kept, monkeypatch):
    """In float32, a few samples at a time and all at once."""
    monkeypatch.setattr(layers, "FORMED", kept)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(7, conv.in_channels, *space, generator=generator), torch.zeros(7, 1)
    for p in conv.parameters():
        p.data = torch.randn(p.shape, generator=generator) / 10
    assert layers._is_grouped(conv, x, conv(x))

    def loss_fn(output, _y):
        return (output.sin() ** 2).flatten(1).sum(1).mean()

    twin = copy.deepcopy(conv).double()
    expected = t10(torch.cat(list(per_sample_gradients(twin, loss_fn, x.double(), y).values()), dim=1))
    for scratch in (layers.SCRATCH, 3 * x[0].numel()):
        monkeypatch.setattr(layers, "SCRATCH", scratch)
        assert_equal(gradient_statistics(conv, loss_fn, x, y), expected, torch.float32)


def test_the_norm_of_many_weights():
    """Sums over a million float32 squares are exact to a few units in the last place."""
    generator = torch.Generator().manual_seed(1)
    model, x, y = nn.Linear(20000, 50, bias=False), torch.rand(4, 20000, generator=generator), torch.arange(4)
    model.weight.data = torch.randn(model.weight.shape, generator=generator) / 100
    found = gradient_statistics(model, CE, x, y)
    expected = gradient_statistics(model.double(), CE, x.double(), y)
    assert found.mean_sqnorm == pytest.approx(expected.mean_sqnorm, rel=2e-6)


def test_orthogonal_variance_is_what_the_inner_products_leave():
    """Variance = orthogonal + along, and all of it is along where the per-sample gradients are parallel."""
    model = nn.Linear(1, 1, bias=False).double()
    x = torch.tensor([[1.0], [2.0], [5.0]], dtype=torch.float64)
    statistics = gradient_statistics(model, lambda out, y: (out - y).mean(), x, torch.zeros(3, 1))
    assert statistics.mean_sqnorm == pytest.approx((8 / 3) ** 2)
    assert statistics.variance == pytest.approx(13 / 3)  # of 1, 2, 5
    assert statistics.inner_product_variance == pytest.approx(13 / 3 * (8 / 3) ** 2)
    assert statistics.orthogonal_variance == pytest.approx(0.0, abs=1e-14)


def test_zero_mean_gradient_has_no_direction():
    model = nn.Linear(1, 1, bias=False).double()
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    statistics = gradient_statistics(model, lambda out, y: (out - y).mean(), x, torch.zeros(2, 1))
    assert statistics.mean_sqnorm == statistics.inner_product_variance == 0.0
    assert statistics.orthogonal_variance == statistics.variance == 2.0


def test_frozen_and_unused_parameters():
    model, x, y = make("cnn")
    model[0].weight.requires_grad_(False)
    model[5].bias.requires_grad_(False)
    model[9].weight.requires_grad_(False)
    model.spare = None
    expected = t10(torch.cat(list(per_sample_gradients(model, CE, x, y).values()), dim=1))
    assert_equal(gradient_statistics(model, CE, x, y), expected, torch.float64)

    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(128, 5).double(), nn.Linear(3, 3).double()

        def forward(self, x):
            return self.used(x.flatten(1))

    model = Spare()
    expected = t10(torch.cat(list(per_sample_gradients(model, CE, x, y, 0.5).values()), dim=1))
    assert_equal(gradient_statistics(model, CE, x, y, l2=0.5), expected, torch.float64)


# --- no trace ---


def snapshot(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return state, grads, modes, hooks, torch.random.get_rng_state()


def assert_same(before, after):
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name]), name
    for a, b in zip(before[1], after[1], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert before[2:4] == after[2:4]
    assert torch.equal(before[4], after[4])


def random_flip(x):
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)


def exploding(output, y):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "measure",
    [
        gradient_statistics,
        population_variance,
        smoothness,
        measure_constants,
        lambda m, loss_fn, x, y: full_gradient_sqnorm(m, loss_fn, (x, y)),
        lambda m, loss_fn, x, y: full_gradient_sqnorm(m, loss_fn, (x, y), "as_published", augment=random_flip),
    ],
    ids=["statistics", "population", "smoothness", "constants", "exact", "as_published"],
)
@pytest.mark.parametrize("loss_fn", [CE, exploding])
def test_leaves_no_trace(measure, loss_fn):
    model, x, y = make("fixed batch norm")
    CE(model(x), y).backward()
    model.head[0].weight.grad = None
    model.body[1].train(measure not in (gradient_statistics, population_variance))
    before = snapshot(model)
    if loss_fn is exploding:
        with pytest.raises(ZeroDivisionError):
            measure(model, loss_fn, x, y)
    else:
        measure(model, loss_fn, x, y)
    assert_same(before, snapshot(model))


def test_works_under_no_grad():
    model, x, y = make("cnn")
    expected = gradient_statistics(model, CE, x, y)
    with torch.no_grad():
        assert gradient_statistics(model, CE, x, y) == expected
        assert full_gradient_sqnorm(model, CE, (x, y)) == pytest.approx(expected.mean_sqnorm, rel=1e-12)


# --- refusals ---


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "1: BatchNorm1d.*model.eval"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)), "BatchNorm1d"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval(), "BatchNorm1d"),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), "1: Dropout"),
        (nn.Identity(), "trainable"),
    ],
)
def test_refused_models(model, said):
    x = torch.linspace(-1, 1, 24).reshape(6, 4)
    before = snapshot(model)
    with pytest.raises(InputError, match=said):
        gradient_statistics(model, CE, x, torch.tensor([0, 1, 2, 3, 0, 1]))
    assert_same(before, snapshot(model))


@pytest.mark.parametrize(
    "loss_fn",
    [
        partial(CE, reduction="sum"),
        partial(CE, weight=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)),
        lambda out, y: CE(out, y) ** 2,
        lambda out, y: CE(out, y) + out.var(0).sum(),
    ],
    ids=["sum", "class weights", "squared", "batch variance"],
)
def test_refused_losses(loss_fn):
    model, x, y = make("mlp")
    with pytest.raises(InputError, match=r"loss_fn = .*mean over the batch"):
        gradient_statistics(model, loss_fn, x, y)


def many(x, y):
    return x.repeat_interleave(20, 0), y.repeat_interleave(20, 0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, x, y: gradient_statistics(m, CE, x[:1], y[:1]), "at least 2"),
        (lambda m, x, y: gradient_statistics(m, CE, x, y[:3]), "leading dimension, 11"),
        (lambda m, x, y: gradient_statistics(m, partial(CE, reduction="none"), x, y), "scalar"),
        (lambda m, x, y: population_variance(m, CE, x, y, chunk=1), "chunk = 1"),
        (lambda m, x, y: full_gradient_sqnorm(m, CE, (x, y), "published"), "mode = 'published'"),
        (lambda m, x, y: full_gradient_sqnorm(m, CE, (x, y), augment=random_flip), "augment"),
        (lambda m, x, y: full_gradient_sqnorm(m, CE, (x[:0], y[:0])), "data"),
        (lambda m, x, y: full_gradient_sqnorm(m, CE, (x, y), chunk=0), "chunk = 0"),
        (lambda m, x, y: sampled_gradient_sqnorm(m, CE, (x, y), 100), "data = 11"),
        (lambda m, x, y: sampled_gradient_sqnorm(m, CE, (x[:10], y[:10]), 100), "data = 10"),
        (lambda m, x, y: sampled_gradient_sqnorm(m, CE, many(x, y), 219), "population = 219"),
    ],
)
def test_refused_calls(call, said):
    with pytest.raises(InputError, match=said):
        call(*make("mlp"))


def test_refused_embedding():
    model = nn.Sequential(nn.Embedding(7, 5, max_norm=1.0), nn.Flatten(), nn.Linear(45, 5))
    before = snapshot(model)
    with pytest.raises(InputError, match=r"0: Embedding.*max_norm"):
        gradient_statistics(model, CE, torch.ones(3, 9, dtype=torch.int64), torch.tensor([0, 1, 2]))
    assert_same(before, snapshot(model))  # its forward pass would have rescaled the weights


# --- the data set as a whole ---


@pytest.mark.parametrize("chunk", [2, 5, 10, 11, 1024])
def test_population_variance(chunk):
    """Chunks that divide n, leave a rest, leave a single sample (11 = 2·5 + 1), or hold everything."""
    model, x, y = make("cnn")
    g = torch.cat(list(per_sample_gradients(model, CE, x, y).values()), dim=1)
    population = population_variance(model, CE, x, y, chunk=chunk)
    assert population.n == 11
    assert population.variance == pytest.approx(g.var(0, correction=0).sum().item(), rel=1e-12)
    assert population.mean_sqnorm == pytest.approx(g.mean(0).square().sum().item(), rel=1e-12)


@pytest.mark.parametrize("l2", [0.0, 0.2])
@pytest.mark.parametrize("chunk", [1, 4, 11, None])
def test_exact_full_gradient(l2, chunk):
    model, x, y = make("fixed batch norm")
    g = torch.cat(list(per_sample_gradients(model, CE, x, y, l2).values()), dim=1)
    expected = g.mean(0).square().sum().item()
    model.train()  # the eval-mode function is meant all the same
    assert full_gradient_sqnorm(model, CE, (x, y), l2=l2, chunk=chunk) == pytest.approx(expected, rel=1e-12)


def test_sampled_full_gradient_is_unbiased_and_knows_its_error():
    """Over 500 draws of 40 of 200 samples, where noise alone makes the sample's own ‖ḡ‖² too large by half."""
    torch.manual_seed(0)
    x, y, model, l2 = torch.randn(200, 3, dtype=torch.float64), torch.randint(2, (200,)), nn.Linear(3, 2).double(), 0.1
    for _ in range(7):
        gradient = torch.autograd.grad(CE(model(x), y), list(model.parameters()))
        torch._foreach_sub_([p.data for p in model.parameters()], gradient, alpha=0.3)
    exact = full_gradient_sqnorm(model, CE, (x, y), l2=l2)
    found = []
    for _ in range(500):
        i = torch.randperm(200)[:40]
        found.append(sampled_gradient_sqnorm(model, CE, (x[i], y[i]), 200, l2=l2, chunk=40, check=False))
    values, errors = np.array(found).T
    assert abs(values.mean() - exact) < 3 * values.std() / 500**0.5 < 0.2 * exact
    assert (errors**2).mean() == pytest.approx(values.var(), rel=0.25)
    biased = np.mean([full_gradient_sqnorm(model, CE, (x[i], y[i]), l2=l2) for i in torch.randperm(200).split(40)])
    assert biased > 1.5 * exact


@pytest.mark.parametrize(("l2", "chunk"), [(0.0, 1), (0.2, 3), (0.2, None)])
def test_a_sample_of_all_is_exact(l2, chunk):
    model, x, y = make("fixed batch norm", n=30)
    exact = full_gradient_sqnorm(model, CE, (x, y), l2=l2)
    found = sampled_gradient_sqnorm(model.train(), CE, (x, y), 30, l2=l2, chunk=chunk)
    assert found == (pytest.approx(exact, rel=1e-10), 0)


def test_as_published_full_gradient():
    """Batches of 100 in train mode, by size: 250 samples are 100, 100 and 50."""
    model, x, y = make("fixed batch norm", n=250)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        order = torch.randperm(250).split(100)
        twin, total = copy.deepcopy(model).train(), 0
        for i in order:
            grads = torch.autograd.grad(CE(twin(random_flip(x[i])), y[i]), list(twin.parameters()))
            total = total + torch.cat([g.flatten() for g in grads]) * len(i)
    expected = (total / 250).square().sum().item()
    measured = full_gradient_sqnorm(model, CE, (x, y), "as_published", augment=random_flip, seed=4)
    assert measured == pytest.approx(expected, rel=1e-12)
    assert measured != pytest.approx(full_gradient_sqnorm(model, CE, (x, y)), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_smoothness_against_the_whole_hessian(dtype):
    model, x, y = make("softmax", dtype)
    parameters = dict(model.named_parameters())

    def loss(flat):
        parts = flat.split([p.numel() for p in parameters.values()])
        values = {k: v.view(p.shape) for (k, p), v in zip(parameters.items(), parts, strict=True)}
        return CE(torch.func.functional_call(model, values, x), y)

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    hessian = torch.autograd.functional.hessian(loss, flat).double().numpy()
    expected = np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1]
    assert smoothness(model, CE, x, y) == pytest.approx(expected, rel=TOLERANCE[dtype])
    assert smoothness(model, CE, x, y, l2=0.25) == pytest.approx(expected + 0.25, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_smoothness_of_a_tiny_quadratic(size):
    model = nn.Linear(size, 1, bias=False).double()
    x = torch.diag(torch.tensor([2.0, 3.0, 1.0], dtype=torch.float64))[:, :size]
    largest = max([4, 9, 1][:size])
    half_square = lambda out, y: (out - y).square().mean() / 2  # noqa: E731
    assert smoothness(model, half_square, x, torch.ones(3, 1).double()) == pytest.approx(largest / 3, rel=1e-12)


def test_measured_constants():
    model, x, y = make("cnn")
    constants = measure_constants(model, CE, x, y, f_star=0.01, l2=0.1)
    weights = sum(p.square().sum() for p in model.parameters())
    assert smoothness(model, CE, x, y, l2=0.1) == constants.L
    assert constants.sigma2 == population_variance(model, CE, x, y).variance
    assert constants.gap == pytest.approx((CE(model(x), y) + 0.05 * weights).item() - 0.01, rel=1e-12)
