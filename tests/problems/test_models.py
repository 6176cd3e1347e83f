"""The networks: parameter counts against the papers' layer tables, determinism, shapes, refusals."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from sfolib._utils.errors import InputError
from sfolib.problems.models import MODELS, ResidualBlock, build

SMALL = {"softmax", "logistic", "mlp", "cnn", "mnist_cnn", "cnn8", "resnet8", "resnet8_16"}
LARGE = {"resnet50", "resnet101", "resnet152", "WideResNet28_10", "WideResNet28_12"}
# Norm of all convolutions' initial weights in the authors' program after torch.manual_seed(0), 100 classes.
PUBLISHED_NORM = {
    "resnet18": 39.99957,
    "resnet34": 53.28624,
    "resnet50": 94.09752,
    "resnet101": 132.51971,
    "resnet152": 158.88059,
    "WideResNet40_4": 103.40130,
    "WideResNet16_8": 83.56468,
    "WideResNet28_10": 132.95856,
    "WideResNet28_12": 145.56487,
}


def count(model):
    return sum(p.numel() for p in model.parameters())


def conv_bn(inputs, outputs, kernel):
    return inputs * outputs * kernel**2 + 2 * outputs


def resnet_count(depths, bottleneck, classes):
    """Summed from the table of He et al.: stem, blocks, projection shortcuts, classifier."""
    total, channels = conv_bn(3, 64, 3), 64
    for width, depth in zip([64, 128, 256, 512], depths, strict=True):
        out = width * (4 if bottleneck else 1)
        for _ in range(depth):
            if bottleneck:
                total += conv_bn(channels, width, 1) + conv_bn(width, width, 3) + conv_bn(width, out, 1)
            else:
                total += conv_bn(channels, width, 3) + conv_bn(width, width, 3)
            # The projection shortcut, where a stage changes the shape.
            total += conv_bn(channels, out, 1) if channels != out else 0
            channels = out
    return total + channels * classes + classes


def wrn_count(depth, k, classes):
    """From the table of Zagoruyko & Komodakis (pre-activation, projection where the width changes)."""
    blocks = (depth - 4) // 6
    widths = [16, 16 * k, 32 * k, 64 * k]
    total = 3 * 16 * 9 + 2 * widths[3] + widths[3] * classes + classes
    for before, width in pairwise(widths):
        total += 9 * before * width + before * width + 2 * before + 2 * width + 9 * width**2
        total += (blocks - 1) * (2 * 9 * width**2 + 4 * width)
    return total


@pytest.mark.parametrize(
    ("name", "depths", "bottleneck", "classes", "published"),
    [
        ("resnet18", [2, 2, 2, 2], False, 10, 11_173_962),
        ("ResNet18", [2, 2, 2, 2], False, 100, 11_220_132),
        ("resnet34", [3, 4, 6, 3], False, 10, 21_282_122),
        ("resnet50", [3, 4, 6, 3], True, 10, 23_520_842),
        ("resnet101", [3, 4, 23, 3], True, 100, 42_697_380),
        ("resnet152", [3, 8, 36, 3], True, 100, 58_341_028),
    ],
)
def test_resnet_counts(name, depths, bottleneck, classes, published):
    with torch.device("meta"):
        model = build(name, classes, (3, 32, 32), 0)
    assert count(model) == resnet_count(depths, bottleneck, classes) == published


@pytest.mark.parametrize(
    ("name", "depth", "k", "published_millions"),
    [
        ("WideResNet28_10", 28, 10, 36.5),
        ("WideResNet28_12", 28, 12, 52.5),
        ("WideResNet40_4", 40, 4, 8.9),
        ("WideResNet16_8", 16, 8, 11.0),
    ],
)
def test_wide_resnet_counts(name, depth, k, published_millions):
    with torch.device("meta"):
        model = build(name, 100, (3, 32, 32), 0)
    assert count(model) == wrn_count(depth, k, 100)
    assert wrn_count(depth, k, 10) / 1e6 == pytest.approx(published_millions, abs=0.06)


def test_small_counts():
    assert count(build("softmax", 10, (64,), 0)) == 64 * 10 + 10
    assert count(build("logistic", 10, (1, 28, 28), 0)) == 784 * 10 + 10
    assert count(build("mlp", 10, (1, 8, 8), 0)) == 65 * 128 + 129 * 10
    assert count(build("cnn", 10, (1, 8, 8), 0)) == 9 * 16 + 2 * 16 + 9 * 16 * 32 + 2 * 32 + 32 * 4 * 10 + 10
    stages = [(16, 16), (16, 32), (32, 64)]
    blocks = [conv_bn(a, b, 3) + conv_bn(b, b, 3) + (conv_bn(a, b, 1) if a != b else 0) for a, b in stages]
    assert count(build("resnet8_16", 10, (1, 8, 8), 0)) == conv_bn(1, 16, 3) + sum(blocks) + 64 * 10 + 10
    blocks = [
        conv_bn(i, o, 3) + conv_bn(o, o, 3) + (conv_bn(i, o, 1) if i != o else 0)
        for i, o in ((8, 8), (8, 16), (16, 32))
    ]
    assert count(build("resnet8", 10, (1, 28, 28), 0)) == conv_bn(1, 8, 3) + sum(blocks) + 33 * 10
    assert count(build("cnn8", 10, (1, 28, 28), 0)) == 9 * (8 + 8 * 16 + 16 * 32) + 2 * (8 + 16 + 32) + 33 * 10
    assert count(build("mnist_cnn", 10, (1, 28, 28), 0)) == 26 * 16 + (25 * 16 + 1) * 32 + 32 * 49 * 10 + 10


@pytest.mark.parametrize("name", [name for name in MODELS if name not in LARGE])
def test_output_shape_and_full_gradient(name):
    shape = (1, 8, 8) if name in SMALL else (3, 8, 8)
    model = build(name, 7, shape, 3)
    out = model(torch.linspace(-1, 1, 2 * shape[0] * 64).reshape(2, *shape))
    assert out.shape == (2, 7)
    # Raises if a parameter is not connected.
    grads = torch.autograd.grad(out.square().sum(), list(model.parameters()))
    assert all(torch.isfinite(grad).all() for grad in grads)


def fans(weight):
    return weight[0].numel(), weight[:, 0].numel()  # in, out


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_have_the_published_moments(name):
    """Every layer: mean 0 and the stated variance within 6 standard errors; and inside ±1/√fan_in where uniform."""
    model = build(name, 100, (1, 8, 8) if name in SMALL else (3, 32, 32), 0)
    layers = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    for layer in layers:
        weight, bias = layer.weight.detach(), getattr(layer, "bias", None)
        if not isinstance(layer, nn.Conv2d | nn.Linear):  # norms start as the identity
            assert (weight == 1).all()
            assert (bias == 0).all()
            continue
        fan_in, fan_out = fans(weight)
        normal = "Wide" in name and isinstance(layer, nn.Conv2d)
        variance, kurtosis = (2 / fan_out, 3.0) if normal else (1 / (3 * fan_in), 1.8)
        values = weight.double()
        assert abs(values.mean()) < 6 * (variance / values.numel()) ** 0.5
        assert abs(values.var() / variance - 1) < 6 * ((kurtosis - 1) / values.numel()) ** 0.5
        if not normal:
            assert values.abs().max() <= fan_in**-0.5 * (1 + 2**-22)  # float32's rounding of the end
        if bias is not None:
            assert bias.abs().max() <= fan_in**-0.5 * (1 + 2**-22)
            assert (bias == 0).all() == ("Wide" in name)


@pytest.mark.parametrize("name", PUBLISHED_NORM)
def test_a_seed_draws_what_the_authors_program_draws(name):
    model = build(name, 100, (3, 32, 32), 0)
    squares = [m.weight.double().square().sum() for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert sum(squares).item() ** 0.5 == pytest.approx(PUBLISHED_NORM[name], rel=1e-6)


def test_resnet_spatial_sizes():
    """No early down-sampling: 32×32 until the second stage, 4×4 at the pool."""
    model = build("resnet18", 10, (3, 32, 32), 0)
    sizes = []
    for layer in model:
        layer.register_forward_hook(lambda _m, _a, out: sizes.append(tuple(out.shape[1:])))
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert sizes[0] == (64, 32, 32)
    assert sizes[4] == (64, 32, 32)
    assert sizes[-4] == (512, 4, 4)


def test_seed_alone_decides():
    state = torch.random.get_rng_state()
    a = build("cnn", 10, (1, 8, 8), 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    b, c = build("CNN", 10, (1, 8, 8), 5), build("cnn", 10, (1, 8, 8), 6)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a[0].weight, c[0].weight)


def test_spellings():
    for name in ("WideResNet16_8", "wideresnet16_8", "wide-resnet-16-8"):
        with torch.device("meta"):
            assert count(build(name, 10, (3, 32, 32), 0)) == wrn_count(16, 8, 10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("resnet19", 10, (3, 32, 32), 0), "resnet18"),
        ((18, 10, (3, 32, 32), 0), "model = 18"),
        (("resnet18", 10, (3072,), 0), "in_shape"),
        (("cnn", 10, (1, 2, 8), 0), "in_shape"),
        (("mlp", 10, (), 0), "in_shape"),
        (("mlp", 1, (64,), 0), "classes = 1"),
        (("mlp", 10, (64,), -1), "seed = -1"),
    ],
)
def test_bad_input(arguments, said):
    with pytest.raises(InputError, match=said):
        build(*arguments)


def test_no_model_meets_onednn_issue_6035():
    """A strided 1×1 convolution of fewer than 16 channels, channels last, writes past its memory in the backward."""
    for name in MODELS:
        with torch.device("meta"):
            model = build(name, 10, (3, 32, 32) if name not in SMALL else (1, 28, 28), 0)
        for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)):
            assert conv.stride == (1, 1) or conv.in_channels >= 16, (name, conv)
    block = ResidualBlock([8, 16, 16], [3, 3], [2, 1])
    pool, conv, _ = block.shortcut
    x = torch.randn(3, 8, 7, 7)
    torch.testing.assert_close(conv(pool(x)), nn.functional.conv2d(x, conv.weight, stride=2))
