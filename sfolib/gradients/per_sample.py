"""One ordinary backward pass, its captures, and the linear pass over them that reads the per-sample terms.

Hooks keep each layer's input a and the gradient d at its output; the rules of `layers` make of them ‖g_i‖² and
g_i·direction for every sample i and parameter tensor. No hook stays, whatever is raised.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from sfolib._utils.distributed import SINGLE, ProcessGroup
from sfolib._utils.errors import require
from sfolib.gradients.layers import RULES

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class _Call:
    """One call of a layer: its input and, after the backward pass, the gradient at its output."""

    layer: str
    a: Tensor
    dtype: torch.dtype  # of its output
    d: Tensor | None = None

    def receive(self, d: Tensor) -> None:
        self.d = d


@contextmanager
def _captured(layers: dict[str, nn.Module]) -> Iterator[list[_Call]]:
    """Record the calls of `layers`. A tensor's hook, unlike a module's, sees d before an in-place ReLU has."""
    calls: list[_Call] = []

    def hook(name: str) -> Callable:
        def record(_module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            if output.requires_grad:
                calls.append(_Call(name, (*args, *kwargs.values())[0].detach(), output.dtype))
                output.register_hook(calls[-1].receive)

        return record

    handles = [m.register_forward_hook(hook(name), with_kwargs=True) for name, m in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that own trainable parameters, by name; `InputError` where per-sample gradients make no sense."""
    layers = {}
    for name, module in model.named_modules():
        what = f"{name or 'model'}: {type(module).__name__}"
        if isinstance(module, _BatchNorm):
            fixed = not module.training and module.track_running_stats
            why = "batch statistics make a sample's loss depend on the others; use model.eval()"
            require(fixed, "model", what, why)
        if isinstance(module, _DropoutNd):
            still = not module.training or module.p == 0
            require(still, "model", what, "draws random numbers; use model.eval()")
        if isinstance(module, nn.Embedding):
            plain = module.max_norm is None and not module.sparse and not module.scale_grad_by_freq
            require(plain, "model", what, "must have no max_norm, sparse or scale_grad_by_freq")
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            known = ", ".join(rule.__name__ for rule in RULES)
            require(type(module) in RULES, "model", what, f"trainable parameters must belong to {known}")
            layers[name] = module
    require(bool(layers), "model", type(model).__name__, "must have trainable parameters")
    return layers


def _uses(loss: Tensor) -> Counter[Tensor]:
    """How often the graph of `loss` uses each leaf."""
    uses: Counter[Tensor] = Counter()
    seen, stack = set(), [loss.grad_fn]
    while stack:
        for parent, _ in stack.pop().next_functions:
            if hasattr(parent, "variable"):
                uses[parent.variable] += 1
            elif parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return uses


def check_mean(loss_fn: Loss, output: Tensor, y: Tensor) -> None:
    """Require that the loss of a batch is the mean of the losses of its samples, each taken alone."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one sample a loss may have no value; then it is no such mean
        whole = loss_fn(output, y)
        try:
            single = torch.vmap(lambda o, t: loss_fn(o.unsqueeze(0), t.unsqueeze(0)))(output, y)
        except Exception:  # what vmap cannot follow, it says in many ways
            single = torch.stack([loss_fn(output[i : i + 1], y[i : i + 1]) for i in range(len(output))])
    gap, size = (whole - single.mean()).abs().item(), single.abs().mean().item()
    # a loss that is not a number is no proof, unless the batch's is one
    other = bool(whole.isfinite()) and not gap <= size * torch.finfo(whole.dtype).eps ** 0.5
    require(not other, "loss_fn", whole.item(), "must be the mean over the batch of losses of one sample each")


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _check_alone(model: nn.Module, x: Tensor, output: Tensor, calls: list[_Call]) -> None:
    """Require that some samples' outputs are the same without the other samples."""
    few = x[: min(8, len(x) - 1)]
    dtypes = [output.dtype, *(call.dtype for call in calls)]
    tolerance = 1e-2 if x.is_cuda else max(torch.finfo(dtype).eps for dtype in dtypes) ** 0.5
    with torch.no_grad():
        alone = model(few)
    same = len(alone) == len(few) and alone.shape[1:] == output.shape[1:]
    gap = (alone - output[: len(few)]).abs().max() if same else output.new_tensor(torch.inf)
    mixes = not same or bool(gap > tolerance * output.abs().max())
    require(not mixes, "model", type(model).__name__, "a sample's output depends on the others, or on random numbers")


class PerSample(NamedTuple):
    """For t parameter tensors: ḡ, ‖ḡ‖² and ‖direction‖² (t,), and ‖g_i‖² and g_i·direction (t, n), in float64."""

    means: list[Tensor]
    mean_sqnorms: np.ndarray
    direction_sqnorms: np.ndarray
    sqnorms: np.ndarray
    products: np.ndarray


def per_sample(
    model: nn.Module, loss_fn: Loss, x: Tensor, y: Tensor, l2: float, ranks: ProcessGroup = SINGLE, check: bool = True
) -> PerSample:
    """check: that the loss is a mean of samples' losses, and that samples are apart. The direction of the inner
    products is ḡ + l2·θ; g_i and ḡ are without l2. Of several ranks' samples `x`, `y` are this one's: n, g_i and the
    products are of these, ḡ and the direction of all."""
    n = len(x)
    total = int(ranks.total(n))
    require(total >= 2, "x", tuple(x.shape), "must hold at least 2 samples")
    require(len(y) == n, "y", tuple(y.shape), f"must have x's leading dimension, {n}")
    layers = _layers(model)
    parameters = {
        (name, key): p
        for name, layer in layers.items()
        for key, p in layer.named_parameters(recurse=False)
        if p.requires_grad
    }
    calls, uses = [], Counter()
    means = [torch.zeros_like(p) for p in parameters.values()]
    if n:  # a rank may have no sample of its own
        before = _random_states(x.device)
        with torch.enable_grad(), _captured(layers) as calls:
            output = model(x)
            loss = loss_fn(output, y)
        drawn = any(not torch.equal(a, b) for a, b in zip(before, _random_states(x.device), strict=True))
        if drawn:
            torch.set_rng_state(before[0])
            if x.is_cuda:
                torch.cuda.set_rng_state(before[1], x.device)
        require(not drawn, "model", type(model).__name__, "draws random numbers; use model.eval()")
        scalar = loss.dim() == 0 and loss.requires_grad
        require(scalar, "loss_fn", loss, "must return a scalar that depends on trainable parameters")
        if check and n > 1:
            check_mean(loss_fn, output.detach(), y)
            _check_alone(model, x, output.detach(), calls)
        owners, uses = Counter(parameters.values()), _uses(loss)
        for key, p in parameters.items():
            require(owners[p] == 1 and uses[p] <= 1, "model", ".".join(key), "a parameter may be used only once")
        means = list(torch.autograd.grad(loss, [*parameters.values()], allow_unused=True, materialize_grads=True))
        del output, loss
    means = ranks.mean(means, n / total)
    with torch.no_grad():
        directions = [mean + l2 * p if l2 else mean for mean, p in zip(means, parameters.values(), strict=True)]
        terms = _terms(layers, calls, dict(zip(parameters, directions, strict=True)), n)
        for key, p in parameters.items():
            require(key in terms or not uses[p], "model", ".".join(key), "is used outside its own layer")
        none = (means[0].new_zeros(n),) * 2
        sqnorms, products = (_numbers(t) for t in zip(*(terms.get(key, none) for key in parameters), strict=True))
        mean_sqnorms = _numbers([m.square().sum() for m in means])
        direction_sqnorms = _numbers([v.square().sum() for v in directions]) if l2 else mean_sqnorms
    # d is of the mean loss, 1/n of what it is of the sample's own.
    return PerSample(means, mean_sqnorms, direction_sqnorms, sqnorms * n**2, products * n)


def _terms(layers: dict, calls: list[_Call], directions: dict, n: int) -> dict[tuple[str, str], tuple]:
    """The linear pass. Each capture is let go as soon as it has been read."""
    terms = {}
    while calls:
        call = calls.pop()
        if call.d is None:
            continue
        layer = layers[call.layer]
        require(len(call.a) == len(call.d) == n, "model", call.layer, "must keep the samples as first dimension")
        wanted = {key: v for (name, key), v in directions.items() if name == call.layer}
        dtype = next(iter(wanted.values())).dtype  # under autocast the captures are of another
        a = call.a.to(dtype) if call.a.is_floating_point() else call.a
        for key, sqnorms, products in RULES[type(layer)](layer, a, call.d.to(dtype), wanted):
            terms[call.layer, key] = sqnorms, products
    return terms


def _numbers(tensors: Iterable[Tensor]) -> np.ndarray:
    return torch.stack(list(tensors)).cpu().double().numpy()
