"""What each layer type adds to the per-sample gradients: for every sample i, ‖g_i‖ and g_i·direction.

A rule reads a layer's input a and the gradient d at its output, samples first, and never forms a whole model's
per-sample gradients: norms come from the ghost-norm identity. One convolution's or sequence layer's
gradients are formed, a few samples at a time, and only where they are smaller than its patches and d.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

Terms = Iterator[tuple[str, Tensor, Tensor]]  # (parameter, ‖g_i‖ for each i, g_i·direction for each i)

FORMED = 2**23  # elements of one layer's per-sample gradients that are kept
SCRATCH = 2**19  # elements of a layer's temporaries; they should stay in a core's cache
_NARROW = 16  # columns of a product that are too few to be fast
_GROUPED = 48  # elements of a weight's gradient for one position, up to which oneDNN forms them faster than products


def _chunks(scratch: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    n = len(tensors[0])
    size = math.ceil(n / math.ceil(n * scratch / SCRATCH)) if n else 1  # parts of one size
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)


def _norms(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


def _root(sqnorms: Tensor) -> Tensor:
    return sqnorms.clamp_(min=0).sqrt_()  # rounding alone can take a sum of products below 0


def _vectors(name: str, g: Tensor, v: Tensor) -> tuple[str, Tensor, Tensor]:
    g = g.flatten(1)
    return name, _norms(g), g @ v.flatten()


def _is_smaller(fan_in: int, out: int, positions: int) -> bool:
    """Whether a weight's gradient is smaller than what it is made of."""
    return fan_in * out <= positions * (fan_in + out)


def _repeated(a: Tensor, d: Tensor, v: Tensor, rows: Callable, apply: Callable) -> Terms:
    """Weight that acts at T positions, g_i = Σ_t d_it a_itᵀ: formed, or left to its two T×T Gram matrices.

    d (n, groups, T, out), v (groups, out, in); `rows(a)` (n, groups, T, in); `apply(a)`, the layer of v, like d.
    """
    (groups, out, fan_in), positions = v.shape, d.shape[2]
    formed = _is_smaller(fan_in, out, positions)
    scratch = groups * (fan_in * positions + (fan_in * out if formed else 2 * positions**2))
    norms, products = [], []
    for a_part, d_part in _chunks(scratch, a, d):
        inputs = rows(a_part)
        if formed:
            _, norm, product = _vectors("weight", d_part.mT @ inputs, v)
        else:
            norm = _root(_sum((d_part @ d_part.mT) * (inputs @ inputs.mT)))
            product = _sum(d_part * apply(a_part))
        norms.append(norm)
        products.append(product)
    yield "weight", torch.cat(norms), torch.cat(products)


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
    norms = _norms(d)
    if "bias" in v:
        yield "bias", norms, torch.mv(d, v["bias"])
    if "weight" in v:
        weight = v["weight"]
        out, fan_in = weight.shape
        if fan_in < out:  # the smaller product is kept
            along = (d @ weight).mul_(a).sum(1)
        elif out < _NARROW:
            along = (weight @ a.T).mul_(d.T).sum(0)
        else:
            along = F.linear(a, weight).mul_(d).sum(1)
        yield "weight", _norms(a) * norms, along


def _positions(t: Tensor, groups: int) -> Tensor:
    """(n, groups × channels, *space) as (n, groups, positions, channels)."""
    return t.flatten(2).unflatten(1, (groups, -1)).mT


def _patches(layer: _ConvNd, a: Tensor, size: torch.Size, last: bool = False) -> Tensor:
    """What the kernel sees of (n, channels, *space) at `size` positions: (n, groups, in × kernel, positions), or with
    channels last (n, groups, positions, kernel × in), which is the faster copy where there are many channels.

    `F.unfold` copies element by element, and images only.
    """
    padding = layer._reversed_padding_repeated_twice
    if layer.transposed:
        padding = [p for p in reversed(layer.padding) for _ in range(2)]
    a = F.pad(a, padding, layer.padding_mode.replace("zeros", "constant"))
    a = a.movedim(1, -1).contiguous().movedim(-1, 1) if last else a.contiguous()
    per_sample, channel, *space = a.stride()
    per_group = a.shape[1] // layer.groups
    steps = [s * stride for s, stride in zip(space, layer.stride, strict=True)]
    inside = [s * dilation for s, dilation in zip(space, layer.dilation, strict=True)]
    shape, strides = (per_group, *layer.kernel_size, *size), (channel, *inside, *steps)
    if last:
        shape, strides = (*size, *layer.kernel_size, per_group), (*steps, *inside, channel)
    seen = a.as_strided((len(a), layer.groups, *shape), (per_sample, per_group * channel, *strides))
    split = (size.numel(), -1) if last else (-1, size.numel())
    return seen.reshape(len(a), layer.groups, *split)


def _convolved(layer: _ConvNd, a: Tensor, v: Tensor, size: torch.Size) -> Tensor:
    if not layer.transposed:
        return layer._conv_forward(a, v, None)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    found = convolve(a, v, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    for axis, length in enumerate(size, 2):  # output_padding may add positions
        found = found.narrow(axis, 0, length)
    return found


def _conv(layer: _ConvNd, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    """A transposed one's weight (in, out, *kernel) acts as that of a convolution of d with gradient a."""
    if "bias" in v:
        yield _vectors("bias", _over_space(d), v["bias"])
    if "weight" not in v:
        return
    weight, groups = v["weight"], layer.groups
    source, at = (d, a) if layer.transposed else (a, d)
    size, per_group = at.shape[2:], len(weight) // groups
    if _is_smaller(weight[0].numel(), per_group, size.numel()):
        parts = [_vectors("weight", g, weight)[1:] for g in _formed_parts(layer, a, d)]
        yield "weight", *(torch.cat(terms) for terms in zip(*parts, strict=True))
        return

    def rows(source: Tensor) -> Tensor:
        return _patches(layer, source, size, last=True)

    def apply(source: Tensor) -> Tensor:
        return _positions(_convolved(layer, source, weight, size), groups)

    yield from _repeated(source, _positions(at, groups), weight.reshape(groups, per_group, -1), rows, apply)


def is_formed(layer: nn.Module, a: torch.Size, d: torch.Size) -> bool:
    """Whether per-sample gradients of this layer's weight are small enough to be kept: their mean is then the weight's
    gradient, which the backward pass need not take. a, d: the shapes of its input and output."""
    if type(layer) not in _CONVOLUTIONS:
        return False
    weight, at = layer.weight, a if layer.transposed else d
    out, fan_in = len(weight) // layer.groups, weight[0].numel()
    return _is_smaller(fan_in, out, at[2:].numel()) and at[0] * weight.numel() <= FORMED


def _is_grouped(layer: _ConvNd, a: Tensor, d: Tensor) -> bool:
    """Whether oneDNN forms them; it does where a kernel that is not 1×1 has few weights and many positions."""
    one_dnn = a.device.type == "cpu" and a.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    one_dnn = one_dnn and not layer.transposed and (layer.groups > 1 or layer.in_channels >= 8)
    one_dnn = one_dnn and math.prod(layer.kernel_size) > 1
    return one_dnn and layer.weight.numel() <= _GROUPED * d.shape[2:].numel()


def _formed_parts(layer: _ConvNd, a: Tensor, d: Tensor) -> Iterator[Tensor]:
    """g_i of its weight, (n, elements), a few samples at a time."""
    weight, groups = layer.weight, layer.groups
    if not _is_grouped(layer, a, d):
        source, at = (d, a) if layer.transposed else (a, d)
        size, at = at.shape[2:], _positions(at, groups)
        for part, d_part in _chunks(weight.numel() + groups * weight[0].numel() * size.numel(), source, at):
            yield (d_part.mT @ _patches(layer, part, size).mT).flatten(1)
        return
    # the weight's gradient of a convolution of which samples are groups of channels
    padding = layer._reversed_padding_repeated_twice
    if layer.padding_mode != "zeros" or padding[::2] != padding[1::2]:
        a, padding = F.pad(a, padding, layer.padding_mode.replace("zeros", "constant")), [0] * len(padding)
    gradient = (grad.conv1d_weight, grad.conv2d_weight, grad.conv3d_weight)[a.dim() - 3]
    for part, d_part in _chunks(a[0].numel() + d[0].numel(), a, d):
        n = len(part)
        shape, options = (n * len(weight), *weight.shape[1:]), (layer.stride, padding[::-2], layer.dilation)
        part, d_part = (t.reshape(1, -1, *t.shape[2:]) for t in (part, d_part))
        yield gradient(part, shape, d_part, *options, n * groups).view(n, -1)


def formed(layer: _ConvNd, a: Tensor, d: Tensor) -> Tensor:
    """g_i of its weight, (n, elements)."""
    parts = [*_formed_parts(layer, a, d)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def weight_gradient(layer: _ConvNd, a: Tensor, d: Tensor) -> Tensor:
    """The sum of `formed` over samples, in the shape of the weight."""
    return sum(part.sum(0) for part in _formed_parts(layer, a, d)).view(layer.weight.shape)


def formed_terms(g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return _vectors("weight", g, v)[1:]


def _embedding(layer: nn.Embedding, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    tokens, d = a.reshape(len(a), -1), d.reshape(len(a), -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        d = d * (tokens != layer.padding_idx).unsqueeze(2)
    sqnorms = [
        _sum((d_part @ d_part.mT) * (t.unsqueeze(1) == t.unsqueeze(2)))
        for t, d_part in _chunks(2 * tokens.shape[1] ** 2, tokens, d)
    ]
    yield "weight", _root(torch.cat(sqnorms)), _sum(d * F.embedding(tokens, v["weight"]))


def _affine(
    a: Tensor, d: Tensor, normalised: Callable[[Tensor], Tensor], pool: Callable, v: dict[str, Tensor]
) -> Terms:
    """`normalised(a)` times a weight, plus a bias; `pool` sums d, or d times it, over where these are the same."""
    if "weight" in v:
        parts = _chunks(2 * math.prod(a.shape[1:]), a, d)
        g = torch.cat([pool(normalised(part).mul_(d_part)) for part, d_part in parts])
        yield _vectors("weight", g, v["weight"])
    if "bias" in v:
        yield _vectors("bias", pool(d), v["bias"])


def _over_space(t: Tensor) -> Tensor:
    return t.reshape(*t.shape[:2], -1).sum(2)


def _group_norm(layer: nn.GroupNorm, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    return _affine(a, d, lambda a: F.group_norm(a, layer.num_groups, eps=layer.eps), _over_space, v)


def _over_positions(layer: nn.LayerNorm | nn.RMSNorm) -> Callable[[Tensor], Tensor]:
    size = math.prod(layer.normalized_shape)
    return lambda t: t.reshape(len(t), -1, size).sum(1)


def _layer_norm(layer: nn.LayerNorm, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    normalised = lambda a: F.layer_norm(a, layer.normalized_shape, eps=layer.eps)  # noqa: E731
    return _affine(a, d, normalised, _over_positions(layer), v)


def _rms_norm(layer: nn.RMSNorm, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    return _affine(a, d, lambda a: F.rms_norm(a, layer.normalized_shape, eps=layer.eps), _over_positions(layer), v)


def _batch_norm(layer: _BatchNorm, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    normalised = lambda a: F.batch_norm(a, layer.running_mean, layer.running_var, eps=layer.eps)  # noqa: E731
    return _affine(a, d, normalised, _over_space, v)


_CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
RULES: dict[type[nn.Module], Callable[..., Terms]] = {
    nn.Linear: _linear,
    **dict.fromkeys(_CONVOLUTIONS, _conv),
    nn.Embedding: _embedding,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
}
