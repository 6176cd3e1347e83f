"""What each layer type adds to the per-sample gradients: for every sample i, ‖g_i‖² and g_i·direction.

A rule reads a layer's input a and the gradient d at its output, samples first, and never forms a whole model's
per-sample gradients: squared norms come from the ghost-norm identity. One convolution's or sequence layer's
gradients are formed, a few samples at a time, and only where they are smaller than its patches and d.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Terms = Iterator[tuple[str, Tensor, Tensor]]  # (parameter, ‖g_i‖² for each i, g_i·direction for each i)

SCRATCH = 2**19  # elements of a layer's temporaries; they should stay in a core's cache


def _chunks(scratch: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = max(1, SCRATCH // scratch)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)


def _vectors(name: str, g: Tensor, v: Tensor) -> tuple[str, Tensor, Tensor]:
    g = g.flatten(1)
    return name, _sum(g.square()), g @ v.flatten()


def _repeated(a: Tensor, d: Tensor, v: Tensor, rows: Callable, apply: Callable) -> Terms:
    """Weight that acts at T positions, g_i = Σ_t d_it a_itᵀ: formed, or left to its two T×T Gram matrices.

    d (n, groups, T, out), v (groups, out, in); `rows(a)` (n, groups, T, in); `apply(a)`, the layer of v, like d.
    """
    (groups, out, fan_in), positions = v.shape, d.shape[2]
    formed = fan_in * out <= positions * (fan_in + out)
    scratch = groups * (fan_in * positions + (fan_in * out if formed else 2 * positions**2))
    sqnorms, products = [], []
    for a_part, d_part in _chunks(scratch, a, d):
        inputs = rows(a_part)
        if formed:
            _, sqnorm, product = _vectors("weight", d_part.mT @ inputs, v)
        else:
            sqnorm = _sum((d_part @ d_part.mT) * (inputs @ inputs.mT))
            product = _sum(d_part * apply(a_part))
        sqnorms.append(sqnorm)
        products.append(product)
    yield "weight", torch.cat(sqnorms), torch.cat(products)


def _linear(layer: nn.Linear, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    if d.dim() > 2:  # a sequence: the weight acts at every position
        a, d = a.flatten(1, -2), d.flatten(1, -2)
        if "weight" in v:
            weight, rows = v["weight"], lambda a: a.unsqueeze(1)
            apply = lambda a: F.linear(a, weight).unsqueeze(1)  # noqa: E731
            yield from _repeated(a, d.unsqueeze(1), weight.unsqueeze(0), rows, apply)
        if "bias" in v:
            yield _vectors("bias", d.sum(1), v["bias"])
        return
    sqnorms = _sum(d.square())
    if "weight" in v:
        yield "weight", _sum(a.square()) * sqnorms, _sum(d * F.linear(a, v["weight"]))
    if "bias" in v:
        yield "bias", sqnorms, d @ v["bias"]


def _conv2d(layer: nn.Conv2d, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    if "bias" in v:
        yield _vectors("bias", d.flatten(2).sum(2), v["bias"])
    if "weight" not in v:
        return
    weight, groups, size = v["weight"], layer.groups, d.shape[2:]
    left, right, top, bottom = layer._reversed_padding_repeated_twice

    def by_position(t: Tensor) -> Tensor:
        return t.flatten(2).unflatten(1, (groups, -1)).mT

    def rows(a: Tensor) -> Tensor:
        """The patches, channels innermost: copied in runs, where `F.unfold` goes element by element."""
        if layer.padding_mode == "zeros":
            a = F.pad(a.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom)).contiguous()
        else:
            a = F.pad(a, (left, right, top, bottom), layer.padding_mode).permute(0, 2, 3, 1).contiguous()
        n, _, _, channels = a.shape
        per_group = channels // groups
        shape = (n, groups, *size, *layer.kernel_size, per_group)
        (sh, sw), (dh, dw), (_, h, w, _) = layer.stride, layer.dilation, a.stride()
        patches = a.as_strided(shape, (a.stride(0), per_group, h * sh, w * sw, h * dh, w * dw, 1))
        return patches.reshape(n, groups, size.numel(), -1)

    def apply(a: Tensor) -> Tensor:
        return by_position(layer._conv_forward(a, weight, None))

    direction = weight.permute(0, 2, 3, 1).reshape(groups, layer.out_channels // groups, -1)
    yield from _repeated(a, by_position(d), direction, rows, apply)


def _embedding(layer: nn.Embedding, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    tokens, d = a.reshape(len(a), -1), d.reshape(len(a), -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        d = d * (tokens != layer.padding_idx).unsqueeze(2)
    sqnorms = [
        _sum((d_part @ d_part.mT) * (t.unsqueeze(1) == t.unsqueeze(2)))
        for t, d_part in _chunks(2 * tokens.shape[1] ** 2, tokens, d)
    ]
    yield "weight", torch.cat(sqnorms), _sum(d * F.embedding(tokens, v["weight"]))


def _affine(d: Tensor, normalised: Callable[[], Tensor], pool: Callable, v: dict[str, Tensor]) -> Terms:
    if "weight" in v:
        yield _vectors("weight", pool(d * normalised()), v["weight"])
    if "bias" in v:
        yield _vectors("bias", pool(d), v["bias"])


def _over_space(t: Tensor) -> Tensor:
    return t.reshape(*t.shape[:2], -1).sum(2)


def _group_norm(layer: nn.GroupNorm, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    return _affine(d, lambda: F.group_norm(a, layer.num_groups, eps=layer.eps), _over_space, v)


def _layer_norm(layer: nn.LayerNorm, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    size = math.prod(layer.normalized_shape)

    def pool(t: Tensor) -> Tensor:
        return t.reshape(len(t), -1, size).sum(1)

    return _affine(d, lambda: F.layer_norm(a, layer.normalized_shape, eps=layer.eps), pool, v)


def _batch_norm(layer: _BatchNorm, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    def normalised() -> Tensor:
        return F.batch_norm(a, layer.running_mean, layer.running_var, eps=layer.eps)

    return _affine(d, normalised, _over_space, v)


RULES: dict[type[nn.Module], Callable[..., Terms]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.Embedding: _embedding,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}
