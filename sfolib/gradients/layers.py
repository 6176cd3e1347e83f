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
from torch.nn import grad
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

Terms = Iterator[tuple[str, Tensor, Tensor]]  # (parameter, ‖g_i‖² for each i, g_i·direction for each i)

FORMED = 2**23  # elements of one layer's per-sample gradients that are kept
SCRATCH = 2**19  # elements of a layer's temporaries; they should stay in a core's cache
_NARROW = 8  # columns of a product that are too few to be fast
_GROUPED = 32  # elements of a weight's gradient for one position, up to which oneDNN forms them faster than products


def _chunks(scratch: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = max(1, SCRATCH // scratch)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)


def _squares(t: Tensor) -> Tensor:
    return torch.linalg.vector_norm(t if t.dim() == 2 else t.flatten(1), dim=1).square()


def _vectors(name: str, g: Tensor, v: Tensor) -> tuple[str, Tensor, Tensor]:
    g = g.flatten(1)
    return name, _squares(g), g @ v.flatten()


def _is_smaller(fan_in: int, out: int, positions: int) -> bool:
    """Whether a weight's gradient is smaller than what it is made of."""
    return fan_in * out <= positions * (fan_in + out)


def _outer(d: Tensor, inputs: list[Tensor]) -> Tensor:
    """Σ_t d_t a_tᵀ, (…, out, in), of d (…, T, out) and the parts of a, (…, T, columns)."""
    if inputs[0].shape[-1] < _NARROW:
        inputs = [torch.cat(inputs, -1)]
    found = [d.mT @ part for part in inputs]
    return found[0] if len(found) == 1 else torch.cat(found, -1)


def _repeated(a: Tensor, d: Tensor, v: Tensor, rows: Callable, apply: Callable) -> Terms:
    """Weight that acts at T positions, g_i = Σ_t d_it a_itᵀ: formed, or left to its two T×T Gram matrices.

    d (n, groups, T, out), v (groups, out, in); `rows(a)` (n, groups, T, in), in parts of its columns; `apply(a)`, the
    layer of v, like d.
    """
    (groups, out, fan_in), positions = v.shape, d.shape[2]
    formed = _is_smaller(fan_in, out, positions)
    scratch = groups * (fan_in * positions + (fan_in * out if formed else 2 * positions**2))
    sqnorms, products = [], []
    for a_part, d_part in _chunks(scratch, a, d):
        inputs = rows(a_part)
        if formed:
            _, sqnorm, product = _vectors("weight", _outer(d_part, inputs), v)
        else:
            sqnorm = _sum((d_part @ d_part.mT) * sum(part @ part.mT for part in inputs))
            product = _sum(d_part * apply(a_part))
        sqnorms.append(sqnorm)
        products.append(product)
    yield "weight", torch.cat(sqnorms), torch.cat(products)


def _linear(layer: nn.Linear, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    if d.dim() > 2:  # a sequence: the weight acts at every position
        a, d = a.flatten(1, -2), d.flatten(1, -2)
        if "weight" in v:
            weight, rows = v["weight"], lambda a: [a.unsqueeze(1)]
            apply = lambda a: F.linear(a, weight).unsqueeze(1)  # noqa: E731
            yield from _repeated(a, d.unsqueeze(1), weight.unsqueeze(0), rows, apply)
        if "bias" in v:
            yield _vectors("bias", d.sum(1), v["bias"])
        return
    sqnorms = _squares(d)
    if "weight" in v:
        weight = v["weight"]
        out, fan_in = weight.shape
        along = (d @ weight).mul_(a) if fan_in < out else F.linear(a, weight).mul_(d)  # the smaller one is kept
        yield "weight", _squares(a) * sqnorms, along.sum(1)
    if "bias" in v:
        yield "bias", sqnorms, torch.mv(d, v["bias"])


def _positions(t: Tensor, groups: int) -> Tensor:
    """(n, groups × channels, *space) as (n, groups, positions, channels)."""
    return t.flatten(2).unflatten(1, (groups, -1)).mT


def _kernels(v: Tensor, groups: int) -> Tensor:
    """A convolution's weight (out, in, *kernel) as (groups, out, kernel × in), like `_patches`."""
    return v.movedim(1, -1).reshape(groups, len(v) // groups, -1)


def _patches(layer: _ConvNd, a: Tensor, size: torch.Size) -> list[Tensor]:
    """What the kernel sees of (n, channels, *space) at `size` positions, for each of its first indices:
    (n, groups, positions, rest of the kernel × in), channels innermost.

    These are views of one copy, in which a position has what the rest of the kernel sees; `F.unfold` copies for every
    index of the kernel, and element by element.
    """
    if layer.transposed:
        padding = [p for p in reversed(layer.padding) for _ in range(2)]
    else:
        padding = [*layer._reversed_padding_repeated_twice]
    if layer.padding_mode != "zeros":
        a, padding = F.pad(a, padding, layer.padding_mode), [0] * len(padding)
    # rows of the first dimension by their remainder after its stride, so that one position follows the other
    stride, firsts = layer.stride[0], [i * layer.dilation[0] for i in range(layer.kernel_size[0])]
    remainders, length = min(stride, firsts[-1] + 1), firsts[-1] // stride + size[0]
    padding[-1] += max(0, stride * length - a.shape[2] - sum(padding[-2:]))
    a = F.pad(a.movedim(1, -1), (0, 0, *padding)).contiguous()
    n, per_group, (first, *space) = len(a), a.shape[-1] // layer.groups, a.stride()[1:-1]
    shape = (n, layer.groups, remainders, length, *size[1:], *layer.kernel_size[1:], per_group)
    steps = [s * stride for s, stride in zip(space, layer.stride[1:], strict=True)]
    inside = [s * dilation for s, dilation in zip(space, layer.dilation[1:], strict=True)]
    seen = a.as_strided(shape, (a.stride(0), per_group, first, stride * first, *steps, *inside, 1))
    rest = size[1:].numel()
    seen = seen.reshape(n, layer.groups, remainders, length * rest, -1)
    return [seen[:, :, i % stride].narrow(2, i // stride * rest, size.numel()) for i in firsts]


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
    if _is_grouped(layer, a, d):
        parts = [_vectors("weight", g, v["weight"])[1:] for g in _grouped(layer, a, d)]
        yield "weight", *(torch.cat(terms) for terms in zip(*parts, strict=True))
        return
    weight, groups = v["weight"], layer.groups
    source, at = (d, a) if layer.transposed else (a, d)
    size = at.shape[2:]

    def rows(source: Tensor) -> list[Tensor]:
        return _patches(layer, source, size)

    def apply(source: Tensor) -> Tensor:
        return _positions(_convolved(layer, source, weight, size), groups)

    yield from _repeated(source, _positions(at, groups), _kernels(weight, groups), rows, apply)


def is_formed(layer: nn.Module, a: torch.Size, d: torch.Size) -> bool:
    """Whether per-sample gradients of this layer's weight are small enough to be kept: their mean is then the weight's
    gradient, which the backward pass need not take. a, d: the shapes of its input and output."""
    if type(layer) not in _CONVOLUTIONS:
        return False
    weight, at = layer.weight, a if layer.transposed else d
    out, fan_in = len(weight) // layer.groups, weight[0].numel()
    return _is_smaller(fan_in, out, at[2:].numel()) and at[0] * weight.numel() <= FORMED


def _is_grouped(layer: _ConvNd, a: Tensor, d: Tensor) -> bool:
    """Whether oneDNN forms them; it does where a layer has few channels at many positions."""
    one_dnn = a.device.type == "cpu" and a.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    return one_dnn and not layer.transposed and layer.weight.numel() <= _GROUPED * d.shape[2:].numel()


def _grouped(layer: _ConvNd, a: Tensor, d: Tensor) -> Iterator[Tensor]:
    """g_i of its weight, a few (n, elements) at a time: the weight's gradient where samples are groups of channels."""
    weight, padding = layer.weight, layer._reversed_padding_repeated_twice
    if layer.padding_mode != "zeros" or padding[::2] != padding[1::2]:
        mode = layer.padding_mode.replace("zeros", "constant")
        a, padding = F.pad(a, padding, mode), [0] * len(padding)
    gradient = (grad.conv1d_weight, grad.conv2d_weight, grad.conv3d_weight)[a.dim() - 3]
    for part, d_part in _chunks(a[0].numel() + d[0].numel() + weight.numel(), a, d):
        n = len(part)
        shape, options = (n * len(weight), *weight.shape[1:]), (layer.stride, padding[::-2], layer.dilation)
        part, d_part = (t.reshape(1, -1, *t.shape[2:]) for t in (part, d_part))
        yield gradient(part, shape, d_part, *options, n * layer.groups).view(n, -1)


def formed(layer: _ConvNd, a: Tensor, d: Tensor) -> Tensor:
    """g_i of its weight, (n, groups, out, kernel × in), or (n, elements) in the weight's own order."""
    if _is_grouped(layer, a, d):
        return torch.cat([*_grouped(layer, a, d)])
    source, at = (d, a) if layer.transposed else (a, d)
    size, at = at.shape[2:], _positions(at, layer.groups)
    scratch = layer.weight.numel() + source[0].numel() * math.prod(layer.kernel_size[1:])
    parts = [_outer(d_part, _patches(layer, part, size)) for part, d_part in _chunks(scratch, source, at)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def formed_sum(layer: _ConvNd, g: Tensor) -> Tensor:
    """Σ_i g_i in the form of the weight."""
    weight = layer.weight
    if g.dim() == 2:
        return g.sum(0).view(weight.shape)
    return g.sum(0).reshape(len(weight), *weight.shape[2:], weight.shape[1]).movedim(-1, 1)


def formed_terms(layer: _ConvNd, g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return _vectors("weight", g, v if g.dim() == 2 else _kernels(v, layer.groups))[1:]


def _embedding(layer: nn.Embedding, a: Tensor, d: Tensor, v: dict[str, Tensor]) -> Terms:
    tokens, d = a.reshape(len(a), -1), d.reshape(len(a), -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        d = d * (tokens != layer.padding_idx).unsqueeze(2)
    sqnorms = [
        _sum((d_part @ d_part.mT) * (t.unsqueeze(1) == t.unsqueeze(2)))
        for t, d_part in _chunks(2 * tokens.shape[1] ** 2, tokens, d)
    ]
    yield "weight", torch.cat(sqnorms), _sum(d * F.embedding(tokens, v["weight"]))


def _affine(
    a: Tensor, d: Tensor, normalised: Callable[[Tensor], Tensor], pool: Callable, v: dict[str, Tensor]
) -> Terms:
    """`normalised(a)` times a weight, plus a bias; `pool` sums d, or d times it, over where these are the same."""
    if "weight" in v:
        parts = _chunks(4 * math.prod(a.shape[1:]), a, d)
        yield _vectors("weight", torch.cat([pool(d_part * normalised(part)) for part, d_part in parts]), v["weight"])
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
