"""What must hold for a sample to have a gradient of its own: the loss is a mean of samples' losses, no sample's output
depends on the others, and the forward pass is a function: it draws nothing and changes no buffer."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as of_all
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from sfolib._utils.errors import InputError, require
from sfolib.gradients.batches import Batch, mapped, one, rows, take, tensors, wide

Loss = Callable[[Any, Any], Tensor]

_DOUBLED = 2**24  # elements of an output that is copied in float64
_HOOKS_OF_ALL = [  # of every module there is
    getattr(of_all, f"_global_{kind}_hooks") for kind in ("forward", "forward_pre", "backward", "backward_pre")
]
_DRAWS = "draws random numbers; use model.eval()"


def tolerance(on: torch.device, dtypes: Iterable[torch.dtype]) -> float:
    """Relative gap that the arithmetic explains; some models go through float32 whatever their parameters are of."""
    return max(max(map(_eps, dtypes), default=0.0) ** 0.5, 1e-6 if on.type == "cpu" else 1e-2)


@cache
def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def check_layers(modules: dict[str, nn.Module]) -> None:
    """Require that no module is of a kind that mixes samples or draws numbers in the mode it is in."""
    for name, module in modules.items():
        ok, why = True, ""
        if isinstance(module, _BatchNorm):
            ok = not module.training and module.track_running_stats
            why = "batch statistics make a sample's loss depend on the others; use model.eval()"
        elif isinstance(module, _DropoutNd):
            ok, why = not module.training or module.p == 0, _DRAWS
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
            ok = module.max_norm is None and not module.sparse and not module.scale_grad_by_freq
            why = "must have no max_norm, sparse or scale_grad_by_freq"
        if not ok:
            require(False, "model", f"{name or 'model'}: {type(module).__name__}", why)


def check_real(named: dict[str, nn.Parameter]) -> None:
    other = next((f"{name}: {p.dtype}" for name, p in named.items() if p.is_complex()), "")
    require(not other, "model", other, "must be real; hold it as torch.view_as_real and use torch.view_as_complex")


def differentiable_rnns(modules: Iterable[nn.Module]) -> AbstractContextManager:
    """Without cuDNN where there are LSTMs or GRUs: it has no backward pass of them in eval mode, and no second."""
    there = any(isinstance(module, nn.RNNBase) for module in modules)
    return torch.backends.cudnn.flags(enabled=False) if there else nullcontext()


@contextmanager
def unmoved(modules: dict[str, nn.Module], on: torch.device) -> Iterator[None]:
    """Put random states and buffers back, and require that what went on inside had moved neither."""
    states = _random_states(modules, on)
    buffers = [
        (module, key, b, b._version, b.clone())
        for module in modules.values()
        for key, b in module._buffers.items()
        if b is not None
    ]
    drawn = moved = False
    try:
        yield
    finally:
        for (now, put_back), (before, _) in zip(_random_states(modules, on), states, strict=True):
            if not _equal(before, now):
                drawn = True
                put_back(before)
        for module, key, b, version, value in buffers:
            now = module._buffers.get(key)
            other = now is not b and now is not None and now.shape == b.shape and not torch.equal(now, value)
            if other or b._version != version:
                moved = True
                with torch.no_grad():
                    b.copy_(value)
                module._buffers[key] = b
    name = type(modules[""]).__name__
    require(not drawn, "model", name, _DRAWS)
    require(not moved, "model", name, "changes its buffers in the forward pass; use model.eval()")


def _random_states(modules: dict[str, nn.Module], on: torch.device) -> list[tuple[Any, Callable[[Any], None]]]:
    """Of torch on the CPU and on the device, and of numpy and Python, each with what sets it."""
    states = [(torch.get_rng_state(), torch.set_rng_state)]
    if any(not type(module).__module__.startswith("torch.") for module in modules.values()):  # torch's draw torch's
        states.append((np.random.get_state(), np.random.set_state))  # noqa: NPY002
        states.append((random.getstate(), random.setstate))
    if on.type == "cuda":
        states.append((torch.cuda.get_rng_state(on), partial(torch.cuda.set_rng_state, device=on)))
    return states


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a[1], np.ndarray):
        return a[2:] == b[2:] and np.array_equal(a[1], b[1])
    return a == b


# layers of torch that act on every element alone
_ELEMENTWISE = {
    *(nn.Identity, nn.Dropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign),
    *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Tanhshrink, nn.Softshrink),
}
# and on every sample alone, if their input has this many dimensions
_SPATIAL = {
    kind: dims
    for dims, kinds in {
        3: (nn.Conv1d, nn.ConvTranspose1d, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d),
        4: (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
        5: (nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d),
    }.items()
    for kind in kinds
}
# what a module may have in place of its class's
_REPLACED = {"forward", "_conv_forward", "_compiled_call_impl"}
_CHAIN = {nn.Sequential, nn.Linear, nn.Flatten, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, *_ELEMENTWISE, *_SPATIAL}


def chain(model: nn.Module, x: Batch) -> list[nn.Module]:
    """The layers that `model` calls one after the other where samples are apart by what it is: a chain of torch's own
    layers that act on every sample alone, as they come, with nobody's hooks; otherwise none. Nothing is remembered:
    what is changed between two calls is seen."""
    layers: list[nn.Module] = []
    plain = type(x) is Tensor and not any(_HOOKS_OF_ALL)
    return layers if plain and x.dim() >= 2 and _dims_after(model, x.dim(), layers) else []


def _dims_after(module: nn.Module, dims: int, layers: list[nn.Module]) -> int:
    """How many dimensions the output of a chain has, the first of which is the samples as it is in the input of `dims`
    dimensions; 0 where that is not known. Its layers are added to `layers`."""
    kind, own = type(module), module.__dict__
    if kind not in _CHAIN or kind.forward.__module__ != kind.__module__:  # somebody may have put another in the class
        return 0
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return 0
    if not own.keys().isdisjoint(_REPLACED):
        return 0
    parameters, children = own["_parameters"], own["_modules"]
    if kind is nn.Sequential:
        for child in children.values():
            dims = _dims_after(child, dims, layers)
            if not dims:
                return 0
        return 0 if parameters else dims
    for key, p in parameters.items():  # somebody may have added what its forward pass does not use
        if p is not None and (type(p) is not nn.Parameter or key not in ("weight", "bias")):
            return 0
    if children:
        return 0
    layers.append(module)
    if kind is nn.Linear:
        weight, bias = (own["_parameters"].get(key) for key in ("weight", "bias"))
        plain = weight is not None and weight.dim() == 2 and (bias is None or bias.dim() == 1)
        return dims if plain and dims >= 2 else 0
    if kind is nn.Flatten:
        return 1 + module.start_dim if module.end_dim == -1 and 1 <= module.start_dim < dims else 0
    if kind in _SPATIAL:
        return dims if dims == _SPATIAL[kind] and not getattr(module, "return_indices", False) else 0
    if kind is nn.LayerNorm or kind is nn.RMSNorm:
        return dims if dims > len(module.normalized_shape) else 0
    return dims


def samples_apart(
    run: Callable[[Batch, bool], tuple[Batch, list[Tensor]]],
    x: Batch,
    n: int,
    output: Batch,
    inputs: list[Tensor],
    gap: float,
) -> tuple[bool, list[bool]]:
    """Whether samples are the first dimension of the output, and of each of `inputs`: layers' inputs in the full pass.

    run(samples, True) gives both for some samples without the others. Raises `InputError` where a sample's output is
    another then.
    """
    outputs, apart, each = tensors(output), True, [False] * len(inputs)
    for few, first in zip(_few(n), (True, False), strict=True):
        try:
            alone, again = run(take(x, few), first)
        except Exception as error:  # of a reshape to groups of samples, for one
            raise InputError(f"model: cannot take {len(few)} of {n} samples without the others: {error}") from error
        alone = tensors(alone)
        found = [_like(a, b, few, n, gap) for a, b in zip(alone, outputs, strict=False)]
        why = "a sample's output depends on the others, or on random numbers"
        require(False not in found, "model", "its output", why)
        apart = apart and None not in found and len(alone) == len(outputs)
        if first and len(again) == len(inputs):
            each = [bool(_like(a, b, few, n, gap)) for a, b in zip(again, inputs, strict=True)]
    return apart, each


def _few(n: int) -> list[Tensor]:
    """Two disjoint sets of samples, apart and in another order: what is taken over neighbours, over groups, or from the
    largest of all is another in one of them at least."""
    few = [[0], [n - 1]] if n < 4 else [[n // 2, 0], [n - 1, 1]]
    few = few if n < 12 else [[n - 1, n // 2, 0], [3 * n // 4, n // 4, 1]]
    return [torch.tensor(indices) for indices in few]


def _like(alone: Tensor, together: Tensor, few: Tensor, n: int, gap: float) -> bool | None:
    """Whether `alone` is `together` of the samples `few`; None where its first dimension is not the samples."""
    if not alone.dim() or together.shape[:1] != (n,) or alone.shape != (len(few), *together.shape[1:]):
        return None
    together = together[few]
    if torch.equal(alone, together) or not alone.numel():
        return True
    if not alone.is_floating_point():
        return False
    largest = torch.linalg.vector_norm(torch.stack([alone - together, together]).flatten(1), torch.inf, 1)
    off, size = largest.tolist()
    return not off > gap * size  # nan says nothing


def check_mean(
    loss_fn: Loss, loss: Tensor, output: Batch, y: Batch, n: int, alone: Callable[[int], Tensor] | None, gap: float
) -> None:
    """Require that the loss of a batch is the mean of the losses of its samples, each taken alone.

    alone: None if samples are the first dimension of all the output; otherwise alone(i) is the loss of sample i, and
    gap a relative rounding error of outputs.
    """
    if alone is None and is_mean_cross_entropy(loss_fn, output, y):
        return
    of, allowed = loss, [gap / 10]  # of a mean over samples
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one sample a loss may have no value; then it is no such mean
        if alone is not None:
            each = torch.stack([alone(i).double() for i in range(n)])
        else:
            # in float64 it shows where one label of thousands is left out; some losses take their own dtype only
            small = sum(t.numel() for t in tensors(output)) <= _DOUBLED
            for to in [Tensor.double] * small + [wide]:
                o, t = (mapped(lambda t, to=to: to(t) if t.is_floating_point() else t, v) for v in (output, y))
                try:
                    of, each = loss_fn(o, t), _each_slice(loss_fn, o, t, n)
                    break
                except Exception:
                    of, each = loss, loss.new_full((n,), torch.nan)
            allowed = [1e-6, 80 * torch.finfo(of.dtype).eps]
        off, size = (of - each.mean()).abs().item(), each.abs().mean().item()
    # a loss that is not a number is no proof, unless the batch's is one
    ok = not bool(loss.isfinite()) or off <= size * max(allowed)
    require(ok, "loss_fn", loss.item(), "must be the mean over the batch of losses of one sample each")


def _each_slice(loss_fn: Loss, output: Batch, y: Batch, n: int) -> Tensor:
    def of_one(o: list[Tensor], t: list[Tensor]) -> Tensor:
        return loss_fn(one(output, o), one(y, t))

    try:
        return torch.vmap(of_one)(rows(output), rows(y))
    except Exception:  # what vmap cannot follow, it says in many ways
        parts = (slice(i, i + 1) for i in range(n))
        return torch.stack([loss_fn(take(output, part), take(y, part)) for part in parts])


def is_mean_cross_entropy(loss_fn: Loss, output: Batch, y: Batch) -> bool:
    """Whether this is torch's cross-entropy as it comes, and no label is ignored."""
    module = type(loss_fn) is nn.CrossEntropyLoss and loss_fn.weight is None and loss_fn.reduction == "mean"
    if not (module or loss_fn is F.cross_entropy) or not (isinstance(output, Tensor) and isinstance(y, Tensor)):
        return False
    if output.dim() < 2:  # the scores of one sample
        return False
    ignored = loss_fn.ignore_index if module else -100
    return y.is_floating_point() or not (y.numel() and y.min().item() <= ignored and bool((y == ignored).any()))
