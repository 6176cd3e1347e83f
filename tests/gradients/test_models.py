"""Statistics of models as people have them, against one backward pass a sample; what is told of those without rules."""

import copy
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
import zoo
from torch import nn
from zoo import slowly, t10, values

from sfolib._utils.errors import InputError
from sfolib.gradients import checks, layers, per_sample
from sfolib.gradients.batches import mapped, take
from sfolib.gradients.curvature import gradient_covariance, noise_vectors, smoothness
from sfolib.gradients.statistics import full_gradient_sqnorm, gradient_statistics, population_variance
from sfolib.problems.models import build

CE = F.cross_entropy


@pytest.mark.parametrize("name", zoo.CASES)
def test_against_one_backward_a_sample(name):
    model, x, y, loss_fn = zoo.build(name)
    slow = zoo.CASES[name].slow
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = gradient_statistics(model, loss_fn, x, y, l2=0.2)
    told = [str(w.message) for w in told if "per-sample" in str(w.message)]
    assert values(found) == pytest.approx(t10(slowly(model, loss_fn, x, y, 0.2)), rel=1e-10)
    if not slow:
        assert not told
    else:
        (message,) = told
        assert all(part in message for part in (*slow, "times a forward and backward pass"))


@pytest.mark.parametrize("name", ["dict", "tuple", "dataclass", "own parameters", "positions", "GRU"])
@pytest.mark.filterwarnings("ignore:.*per-sample gradients are formed")
def test_all_that_is_measured(name):
    model, x, y, loss_fn = zoo.build(name)
    g = slowly(model, loss_fn, x, y)
    mean, variance = g.mean(0).square().sum().item(), g.var(0, correction=0).sum().item()
    population = population_variance(model, loss_fn, x, y, chunk=np.int64(4))
    assert (population.mean_sqnorm, population.variance) == pytest.approx((mean, variance), rel=1e-10)
    assert full_gradient_sqnorm(model, loss_fn, (x, y), chunk=np.int32(4)) == pytest.approx(mean, rel=1e-10)
    as_published = full_gradient_sqnorm(model, loss_fn, (x, y), "as_published")
    assert as_published == pytest.approx(mean, rel=1e-10)
    assert smoothness(model, loss_fn, x, y) > 0
    assert noise_vectors(model, loss_fn, x, y, 2, np.int64(2)).shape == (2, g.shape[1])
    wanted = np.cov(g.numpy().T, bias=True)
    assert gradient_covariance(model, loss_fn, x, y) == pytest.approx(wanted, abs=1e-12)


# --- the mean gradient that is handed back ---


def some(name, n=12):
    torch.manual_seed(0)
    model = build(name, 5, (2, 8, 8), 1).double()
    return model, torch.randn(n, 2, 8, 8).double(), torch.arange(n) % 5


class WithSpare(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.spare = model, nn.Linear(2, 2)

    def forward(self, x):
        return self.model(x)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_backward_does_what_the_losss_backward_does(name, l2):
    """Where there is no .grad and where there is one, with frozen and unused parameters, and weights of convolutions,
    whose gradient is the sum of formed ones."""
    model, x, y = some(name)
    model = WithSpare(model).eval()
    first = next(model.parameters())
    first.requires_grad_(False)
    twin = copy.deepcopy(model)
    plain = gradient_statistics(model, CE, x, y, l2=l2)
    assert all(p.grad is None for p in model.parameters())
    for _ in range(2):
        assert gradient_statistics(model, CE, x, y, l2=l2, backward=True) == plain
        CE(twin(x), y).backward()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            if p.grad is not None:
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-13)
                assert p.grad.stride() == q.grad.stride()


class Twice(nn.Module):
    """A convolution of which one of two calls has no say in the loss."""

    def __init__(self, last):
        super().__init__()
        self.conv, self.head, self.last = nn.Conv2d(2, 3, 3, bias=False), nn.Linear(3, 5), last

    def forward(self, x):
        first = self.conv(x)
        second = self.conv(2 * x)
        return self.head((second if self.last else first).tanh().mean((2, 3)))


@pytest.mark.parametrize("model", [Twice(True), Twice(False)])
def test_a_layer_that_is_called_in_vain(model):
    model, (_, x, y) = model.double(), some("cnn")
    found = gradient_statistics(model, CE, x, y, backward=True)
    assert values(found) == pytest.approx(t10(slowly(model, CE, x, y)), rel=1e-10)
    (wanted,) = torch.autograd.grad(CE(model(x), y), [model.conv.weight])
    torch.testing.assert_close(model.conv.weight.grad, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.filterwarnings("ignore:.*per-sample gradients are formed")
def test_a_weight_that_is_used_outside_its_layer_which_is_called_in_vain():
    class Aside(Twice):
        def forward(self, x):
            self.conv(x)
            return self.head(F.conv2d(x, self.conv.weight).tanh().mean((2, 3)))

    model, (_, x, y) = Aside(True).double(), some("cnn")
    found = gradient_statistics(model, CE, x, y, backward=True)
    assert values(found) == pytest.approx(t10(slowly(model, CE, x, y)), rel=1e-10)
    (wanted,) = torch.autograd.grad(CE(model(x), y), [model.conv.weight])
    torch.testing.assert_close(model.conv.weight.grad, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.filterwarnings("ignore:.*per-sample gradients are formed")
@pytest.mark.parametrize("where", ["layer", "child", "sequence"])
def test_parameters_that_a_chains_layers_do_not_use(where):
    """They have no gradient, and the others theirs."""
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.randn(8, 4), torch.arange(8) % 3
    wanted = gradient_statistics(model, CE, x, y)
    unused = nn.Linear(4, 3)
    if where == "child":
        model[0].child = unused
    else:
        (model[0] if where == "layer" else model).register_parameter("other", unused.bias)
    assert values(gradient_statistics(model, CE, x, y, backward=True)) == pytest.approx(values(wanted))
    assert unused.bias.grad is None
    assert torch.allclose(model[0].weight.grad, torch.autograd.grad(CE(model(x), y), model[0].weight)[0])


def test_an_input_that_is_changed_in_place_is_refused_as_autograd_does():
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 3, 3, bias=False), nn.Linear(3, 5)

        def forward(self, x):
            x = x.clone()
            h = self.conv(x)
            x.zero_()
            return self.head(h.tanh().mean((2, 3)))

    _, x, y = some("cnn")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient_statistics(Changes().double(), CE, x, y)


def test_checkpointed_layers():
    class Checkpointed(WithSpare):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint_sequential(self.model, 2, x, use_reentrant=False)

    model, x, y = some("cnn")
    found = gradient_statistics(Checkpointed(model), CE, x, y, backward=True)
    assert values(found) == pytest.approx(t10(slowly(model, CE, x, y)), rel=1e-10)


def test_channels_last():
    model, x, y = some("cnn")
    wanted = torch.autograd.grad(CE(model(x), y), [*model.parameters()])
    model = model.to(memory_format=torch.channels_last)
    gradient_statistics(model, CE, x.to(memory_format=torch.channels_last), y, backward=True)
    for p, g in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-13)
        assert p.grad.stride() == p.stride()


def test_a_refused_call_leaves_gradients_as_they_were():
    model, x, y = some("mlp")
    with pytest.raises(InputError, match="mean"):
        gradient_statistics(model, lambda o, y: CE(o, y, reduction="sum"), x, y, backward=True)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.filterwarnings("ignore:.*per-sample gradients are formed")
def test_backward_where_gradients_are_formed():
    model, x, y, loss_fn = zoo.build("own parameters")
    gradient_statistics(model, loss_fn, x, y, backward=True)
    wanted = torch.autograd.grad(loss_fn(model(x), y), [*model.parameters()])
    for p, g in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kept", [0, 2**23])
def test_convolutions_with_and_without_kept_gradients(kept, monkeypatch):
    monkeypatch.setattr(layers, "FORMED", kept)
    model, x, y = some("cnn")
    wanted = t10(slowly(model, CE, x, y))
    assert values(gradient_statistics(model, CE, x, y)) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("change", ["output", "weight"])
def test_other_peoples_hooks_are_heard(change):
    """A hook that doubles the layer's output is part of the model; one on the weight sees its gradient."""
    model, x, y = some("cnn")
    seen = []
    if change == "output":
        model[0].register_forward_hook(lambda m, a, out: 2 * out)
    else:
        model[0].weight.register_hook(lambda g: seen.append(g))
    wanted = t10(slowly(model, CE, x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gradient_statistics(model, CE, x, y, backward=True)
    seen = seen[-1] if seen else None
    assert values(found) == pytest.approx(wanted, rel=1e-10)
    assert seen is None or torch.equal(seen, model[0].weight.grad)
    assert (seen is None) == (change == "output")


@pytest.mark.parametrize("key", ["weight", "bias"])
def test_hooks_on_a_chains_parameters_are_heard(key):
    """They see and may change the gradient, as in the loss's own backward pass."""
    model, x, y = some("mlp")
    model[1].bias.requires_grad_(key == "bias")
    p, seen = getattr(model[1], key), []
    gradient_statistics(model, CE, x, y, backward=True)
    before = p.grad
    model.zero_grad()
    p.register_hook(lambda g: seen.append(g))
    gradient_statistics(model, CE, x, y, backward=True)
    torch.testing.assert_close(seen, [before], rtol=1e-10, atol=1e-13)
    assert torch.equal(p.grad, seen[0])


def test_the_example_of_the_docs():
    """The batch grows at looks, and the run is that of a loop in which every step takes its own backward pass."""
    page = Path(__file__).parents[2] / "docs" / "your_own_loop.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    (code,) = (block for block in blocks if "backward=True" in block)
    apart = code.replace(", backward=True)", ")").replace("        else:\n            loss_fn", "        loss_fn")
    assert apart.count("\n") == code.count("\n") - 1
    ends = []
    for block in (code, apart):
        names = {}
        torch.manual_seed(0)
        exec(block, names)
        assert names["policy"].batch_size > 8
        ends.append((names["model"].weight, names["policy"].state_dict()))
    torch.testing.assert_close(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


# --- other precisions ---


class Inside(nn.Module):
    def __init__(self, model, dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x):
        with torch.autocast("cpu", self.dtype):
            return self.model(x).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_low_precision(name, dtype, inside):
    """Near to the float64 of the same weights, which sums over samples in that dtype are not."""
    torch.manual_seed(0)
    n, low = 2048, build(name, 5, (1, 4, 4), 1).to(dtype)
    x, y = torch.randn(n, 1, 4, 4).to(dtype), torch.arange(n) % 5
    wanted = values(gradient_statistics(copy.deepcopy(low).double(), CE, x.double(), y))
    model = Inside(low.float(), dtype) if inside else low
    x = x.float() if inside else x
    found = gradient_statistics(model, CE, x, y)
    assert values(found) == pytest.approx(wanted, rel=0.01)
    assert full_gradient_sqnorm(model, CE, (x, y), chunk=100) == pytest.approx(wanted[0], rel=0.01)


def test_float16_holds_a_samples_part_of_the_mean():
    """Of 4096 samples it is below 6e-8, where the sample's own gradient is not."""
    model, x = nn.Linear(4, 1, bias=False).half(), torch.full((4096, 4), 0.01).half()
    x[::2] *= -1
    found = gradient_statistics(model, lambda out, y: (out.float() * y).mean(), x, torch.full((4096, 1), 0.02))
    assert found.variance == pytest.approx(4 * (0.01 * 0.02) ** 2, rel=0.01)


# --- the checks themselves ---


@pytest.mark.parametrize("n", [*range(2, 40), 100])
def test_the_samples_that_are_looked_at_alone(n):
    """Disjoint, no neighbours but where there are no others, and never whole groups."""
    few = [t.tolist() for t in checks._few(n)]
    assert len({*few[0], *few[1]}) == len(few[0]) + len(few[1]) <= n
    for size in range(2, 5):
        groups = {tuple(range(i, i + size)) for i in range(0, n, size)}
        assert not any(tuple(sorted(f)) in groups for f in few)


def test_a_rule_that_is_wrong_is_found_out(monkeypatch):
    """Then gradients are formed: every time the mean of g_i·ḡ must be ‖ḡ‖²."""

    def wrong(layer, a, d, v):
        for key, sqnorm, product in layers._linear(layer, a, d, v):
            yield key, sqnorm, product * (1.01 if key == "weight" else 1)

    monkeypatch.setitem(per_sample.RULES, nn.Linear, wrong)
    model, x, y = some("softmax")
    with pytest.warns(UserWarning, match="1.weight: its layer is not what its rule is for"):
        found = gradient_statistics(model, CE, x, y)
    assert values(found) == pytest.approx(t10(slowly(model, CE, x, y)), rel=1e-10)


def test_forms_go_through_and_back():
    pair = zoo.Pair(torch.arange(3), torch.arange(6).view(3, 2))
    batch = {"a": [pair, None], "b": (torch.tensor(1.0), "text")}
    taken = take(batch, torch.tensor([2, 0]))
    first, nothing = taken["a"]
    assert (first.left.tolist(), first.right.tolist(), nothing) == ([2, 0], [[4, 5], [0, 1]], None)
    assert taken["b"] == (1.0, "text")
    assert mapped(lambda t: t + 1, pair).left.tolist() == [1, 2, 3]
    assert pair.left.tolist() == [0, 1, 2]
