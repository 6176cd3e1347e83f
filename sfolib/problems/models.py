"""The networks, as plain `nn.Module`s; `build` makes one by name, from a seed, leaving the global RNG alone.

The small ones (softmax, MLP, CNNs) have no batch statistics: their loss is one fixed function of the weights.
ResNet (He et al., "Deep Residual Learning for Image Recognition") and WideResNet (Zagoruyko & Komodakis,
"Wide Residual Networks") stand in their 32×32 variant: a 3×3 stem of stride 1, no max pool, BatchNorm. `cnn`, `cnn8`
and, with BatchNorm, `resnet8` are small enough for 28×28 images on a CPU.

Initial weights are torch's defaults, uniform within ±1/√fan_in for weights and biases alike, but for WideResNets, where
convolutions are normal with variance 2/fan_out and the last bias is 0. Both are as Umeda & Iiduka's program has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfolib._utils.errors import require


def softmax(classes: int, in_shape: tuple[int, ...]) -> nn.Module:
    """Softmax regression: flatten, then one Linear (64 → 10 on digits, 784 → 10 on MNIST)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(in_shape), classes))


def mlp(classes: int, in_shape: tuple[int, ...], hidden: int = 128) -> nn.Module:
    """One hidden layer of ReLUs."""
    inputs = math.prod(in_shape)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def cnn(classes: int, in_shape: tuple[int, ...], width: int = 16) -> nn.Module:
    """Two 3×3 convolutions, each with GroupNorm, ReLU and a 2×2 max pool, then a Linear."""
    channels, height, breadth = in_shape

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [conv, nn.GroupNorm(4, outputs), nn.ReLU(), nn.MaxPool2d(2)]

    head = nn.Linear(2 * width * (height // 4) * (breadth // 4), classes)
    return nn.Sequential(*block(channels, width), *block(width, 2 * width), nn.Flatten(), head)


def mnist_cnn(classes: int, in_shape: tuple[int, ...]) -> nn.Module:
    """Three layers: 5×5 convolutions of 16 and 32 channels, each with ReLU and 2×2 max pool, and a Linear."""
    channels, height, breadth = in_shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * (height // 4) * (breadth // 4), classes)),
    )


def cnn8(classes: int, in_shape: tuple[int, ...]) -> nn.Module:
    """Three 3×3 convolutions of stride 2, to 8, 16, 32 channels, each with GroupNorm and ReLU; mean pool, Linear."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((in_shape[0], 8), (8, 16), (16, 32)):
        layers += [_conv(inputs, outputs, 3, 2), nn.GroupNorm(4, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class ResidualBlock(nn.Module):
    """conv-BN-ReLU … conv-BN, plus a shortcut (a 1×1 conv-BN where the shape changes), then ReLU."""

    def __init__(self, widths: list[int], kernels: list[int], strides: list[int]):
        super().__init__()
        layers: list[nn.Module] = []
        for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            conv = _conv(widths[i], widths[i + 1], kernel, stride)
            layers += [conv, nn.BatchNorm2d(widths[i + 1]), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers[:-1])
        stride = math.prod(strides)
        self.shortcut = nn.Sequential()
        if stride != 1 or widths[0] != widths[-1]:
            conv = [_conv(widths[0], widths[-1], 1, stride)]
            if stride > 1 and widths[0] < 16:  # oneDNN writes past its memory there: its issue 6035
                conv = [nn.AvgPool2d(1, stride), _conv(widths[0], widths[-1], 1)]
            self.shortcut = nn.Sequential(*conv, nn.BatchNorm2d(widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


def resnet(
    classes: int, in_shape: tuple[int, ...], depths: list[int], bottleneck: bool = False, stem: int = 64
) -> nn.Module:
    """Stem of 64, four stages of 64, 128, 256, 512 channels (× 4 out of a bottleneck), mean pool, Linear; or another
    stem, and as many stages as depths."""
    layers: list[nn.Module] = [_conv(in_shape[0], stem, 3), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)]
    channels = stem
    for stage, depth in enumerate(depths):
        width = stem * 2**stage
        for i in range(depth):
            stride = 2 if stage > 0 and i == 0 else 1
            if bottleneck:
                layers.append(ResidualBlock([channels, width, width, 4 * width], [1, 3, 1], [1, stride, 1]))
                channels = 4 * width
            else:
                layers.append(ResidualBlock([channels, width, width], [3, 3], [stride, 1]))
                channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet8(classes: int, in_shape: tuple[int, ...]) -> nn.Module:
    """A small one with BatchNorm: a stem of stride 2, three blocks of 8, 16 and 32 channels, mean pool, Linear."""
    layers: list[nn.Module] = [_conv(in_shape[0], 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()]
    for inputs, width, stride in ((8, 8, 1), (8, 16, 2), (16, 32, 2)):
        layers.append(ResidualBlock([inputs, width, width], [3, 3], [stride, 1]))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


class WideBlock(nn.Module):
    """BN-ReLU-conv twice (pre-activation).

    Where the width changes, a 1×1 conv of the first activation is the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            *(_conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)),
            _conv(outputs, outputs, 3),
        )
        self.shortcut = _conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.first(x)
        return self.body(activated) + (x if self.shortcut is None else self.shortcut(activated))


def wide_resnet(classes: int, in_shape: tuple[int, ...], depth: int, widen: int) -> nn.Module:
    """WRN-depth-k, k = `widen`: stem of 16, three stages of (depth − 4)/6 blocks with 16k, 32k, 64k channels,
    then BN, ReLU, average pool and a Linear."""
    layers: list[nn.Module] = [_conv(in_shape[0], 16, 3)]
    channels = 16
    for stage in range(3):
        width = 16 * widen * 2**stage
        for i in range((depth - 4) // 6):
            layers.append(WideBlock(channels, width, 2 if stage > 0 and i == 0 else 1))
            channels = width
    layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(channels, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(model[-1].bias)
    return model


MODELS: dict[str, Callable[[int, tuple[int, ...]], nn.Module]] = {
    "softmax": softmax,
    "logistic": softmax,
    "mlp": mlp,
    "cnn": cnn,
    "mnist_cnn": mnist_cnn,
    "cnn8": cnn8,
    "resnet8": resnet8,
    "resnet8_16": lambda classes, shape: resnet(classes, shape, [1, 1, 1], stem=16),
    "resnet18": lambda classes, shape: resnet(classes, shape, [2, 2, 2, 2]),
    "resnet34": lambda classes, shape: resnet(classes, shape, [3, 4, 6, 3]),
    "resnet50": lambda classes, shape: resnet(classes, shape, [3, 4, 6, 3], bottleneck=True),
    "resnet101": lambda classes, shape: resnet(classes, shape, [3, 4, 23, 3], bottleneck=True),
    "resnet152": lambda classes, shape: resnet(classes, shape, [3, 8, 36, 3], bottleneck=True),
    "WideResNet28_10": lambda classes, shape: wide_resnet(classes, shape, 28, 10),
    "WideResNet28_12": lambda classes, shape: wide_resnet(classes, shape, 28, 12),
    "WideResNet40_4": lambda classes, shape: wide_resnet(classes, shape, 40, 4),
    "WideResNet16_8": lambda classes, shape: wide_resnet(classes, shape, 16, 8),
}
_VECTOR_MODELS = {"softmax", "logistic", "mlp"}  # these flatten whatever they are given


def build(name: str, classes: int, in_shape: tuple[int, ...], seed: int) -> nn.Module:
    """The network `name` with weights drawn from `seed` alone; the global RNG is left as it was.

    `name` is a key of `MODELS`, in any case and with or without `_` and `-`; `in_shape` is the shape of one
    input, (channels, height, width) or (features,). Float32, on the CPU, in train mode.
    Raises `InputError` for an unknown name, a bad shape, fewer than 2 classes or a negative seed.
    """
    keys = {_plain(key): key for key in MODELS}
    known = isinstance(name, str) and _plain(name) in keys
    require(known, "model", name, f"must be one of {', '.join(MODELS)}")
    key = keys[_plain(name)]
    require(
        isinstance(classes, int | np.integer) and classes >= 2, "classes", classes, "must be an integer of at least 2"
    )
    require(
        isinstance(seed, int | np.integer) and 0 <= seed < 2**63, "seed", seed, "must be an integer, 0 to 2**63 − 1"
    )
    in_shape = tuple(in_shape)
    sizes_ok = len(in_shape) > 0 and all(isinstance(size, int | np.integer) and size > 0 for size in in_shape)
    require(sizes_ok, "in_shape", in_shape, "must be positive integers")
    if key not in _VECTOR_MODELS:
        spatial_ok = len(in_shape) == 3 and min(in_shape[1:]) >= 4
        require(spatial_ok, "in_shape", in_shape, f"{key} needs (channels, height, width), at least 4×4")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(int(seed))
        return MODELS[key](classes, in_shape)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
