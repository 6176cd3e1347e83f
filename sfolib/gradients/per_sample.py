"""One ordinary backward pass, its captures, and the linear pass over them that reads the per-sample terms.

Hooks keep each layer's input a (a chain of torch's own layers is called layer by layer, without them), the backward
pass gives the gradient d at its output; the rules of `layers` make of it ‖g_i‖ and g_i·direction for every sample i
and parameter tensor. Where a parameter has no rule, the model's per-sample gradients are formed (`one_by_one`), with a
warning. Either way the mean of g_i·direction must be ḡ·direction. No hook stays, whatever is raised.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import _global_forward_hooks
from torch.nn.parallel import DistributedDataParallel

from sfolib._utils.distributed import SINGLE, ProcessGroup
from sfolib._utils.errors import require
from sfolib.gradients.batches import Batch, call, device, mapped, n_samples, take, tensors, wide
from sfolib.gradients.checks import (
    Loss,
    chain,
    check_layers,
    check_mean,
    check_real,
    differentiable_rnns,
    is_mean_cross_entropy,
    samples_apart,
    tolerance,
    unmoved,
)
from sfolib.gradients.layers import RULES, formed, formed_terms, is_formed, weight_gradient
from sfolib.gradients.one_by_one import per_sample_gradients


@dataclass(slots=True)
class _Call:
    """One call of a layer: its input, where its output is in the graph, and after the backward pass the gradient there.

    terms: ‖g_i‖ and g_i·direction of its weight, where `layers` has formed g_i.
    """

    layer: nn.Module
    a: Tensor
    version: int  # of it, when it was seen
    edge: GradientEdge
    shape: torch.Size  # of its output
    dtype: torch.dtype
    d: Tensor | None = None
    terms: tuple[Tensor, Tensor] | None = None


def _record(calls: list[_Call], layer: nn.Module, a: Tensor, output: Tensor) -> None:
    """An edge is that of a layer's own output, whatever an in-place ReLU makes of it."""
    if isinstance(output, Tensor) and output.requires_grad:
        calls.append(_Call(layer, a, a._version, get_gradient_edge(output), output.shape, output.dtype))


@contextmanager
def _captured(layers: Iterable[nn.Module]) -> Iterator[list[_Call]]:
    """Record the calls of `layers`."""
    calls: list[_Call] = []

    def hook(layer: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        _record(calls, layer, (*args, *kwargs.values())[0], output)

    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _walked(chained: list[nn.Module], layers: dict[nn.Module, _Owner], x: Tensor) -> tuple[Tensor, list[_Call]]:
    """The output of a chain, and the calls of `layers`, without hooks, which nobody has there."""
    calls: list[_Call] = []
    for layer in chained:
        a, x = x, layer.forward(x)
        if layer in layers:
            edge = GradientEdge(x.grad_fn, x.output_nr)
            calls.append(_Call(layer, a, a._version, edge, x.shape, x.dtype))
    return x, calls


class _Owner(NamedTuple):
    """A module's name, and where among the model's trainable parameters its own are, by their names in it."""

    name: str
    own: dict[str, int]


def _owners(modules: dict[str, nn.Module]) -> tuple[dict[nn.Module, _Owner], dict[str, nn.Parameter]]:
    """The modules that own trainable parameters, and these, each once, by name as `named_parameters` has it."""
    layers, named, at = {}, {}, {}
    for name, module in modules.items():
        own = {}
        for key, p in module._parameters.items():
            if p is not None and p.requires_grad:
                own[key] = at.setdefault(id(p), len(at))
                if len(at) > len(named):
                    named[f"{name}.{key}" if name else key] = p
        if own:
            layers[module] = _Owner(name, own)
    return layers, named


def _uses(loss: Tensor, parameters: Iterable[nn.Parameter]) -> tuple[list[int], set[Any]]:
    """How often the graph of `loss` uses each parameter, and the graph's nodes."""
    uses: Counter[int] = Counter()
    seen, stack = {loss.grad_fn}, [loss.grad_fn]
    while stack:
        for parent, _ in stack.pop().next_functions:
            if hasattr(parent, "variable"):
                uses[id(parent.variable)] += 1
            elif parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return [uses[id(p)] for p in parameters], seen


def scalar_loss(loss_fn: Loss, output: Batch, y: Batch) -> Tensor:
    loss = loss_fn(output, y)
    ok = isinstance(loss, Tensor) and loss.dim() == 0 and loss.requires_grad
    require(ok, "loss_fn", loss, "must return a scalar that depends on trainable parameters")
    return loss


def check_samples(
    model: nn.Module,
    loss_fn: Loss,
    x: Batch,
    y: Batch,
    loss: Tensor,
    output: Batch,
    captures: tuple = ((), []),
    apart: bool = False,
) -> list[bool]:
    """Require that the loss is a mean of samples' losses, and that samples are apart.

    captures: layers, and their calls in the forward pass. apart: that `chain` has found them to be. Returns for each
    call whether samples are its input's first dimension.
    """
    if apart and is_mean_cross_entropy(loss_fn, output, y):
        return _of_samples(captures[1], len(output))
    layers, calls = captures
    n, output = n_samples(x, y), _detached(output)

    def run(few: Batch, capture: bool) -> tuple[Batch, list[Tensor]]:
        with torch.enable_grad(), _captured(layers if capture else ()) as again:  # torch may go another way without
            alone = call(model, few)
        return _detached(alone), [c.a for c in again]

    def alone(i: int) -> Tensor:
        one = slice(i, i + 1)
        return loss_fn(call(model, take(x, one)), take(y, one))

    gap = tolerance(device(x), [t.dtype for t in tensors(output)] + [c.dtype for c in calls])
    of_samples = _of_samples(calls, n)
    if not apart:
        apart, of_samples = samples_apart(run, x, n, output, [c.a for c in calls], gap)
    check_mean(loss_fn, loss.detach(), output, y, n, None if apart else alone, gap)
    return of_samples


def _of_samples(calls: list[_Call], n: int) -> list[bool]:
    return [c.a.shape[:1] == (n,) for c in calls]


def _detached(output: Batch) -> Batch:
    return mapped(Tensor.detach, output)


class PerSample(NamedTuple):
    """For t parameter tensors: ḡ, ‖ḡ‖² and ‖direction‖² (t,), and as terms ‖g_i‖² and g_i·direction (2, t, n), with
    their sums over i (2, t), float64.

    means: ḡ in float32 at least; 0 where the loss does not use the parameter, which `used` tells of this rank.
    """

    parameters: list[nn.Parameter]
    means: list[Tensor]
    used: list[bool]
    mean_sqnorms: np.ndarray
    direction_sqnorms: np.ndarray
    terms: np.ndarray
    sums: np.ndarray


def per_sample(
    model: nn.Module, loss_fn: Loss, x: Batch, y: Batch, l2: float, ranks: ProcessGroup = SINGLE, check: bool = True
) -> PerSample:
    """check: that the loss is a mean of samples' losses, and that samples are apart. The direction of the inner
    products is ḡ + l2·θ; g_i and ḡ are without l2. Of several ranks' samples `x`, `y` are this one's: n, g_i and the
    products are of these, ḡ and the direction of all."""
    n = n_samples(x, y)
    total = int(ranks.total(n))
    require(total >= 2, "x", total, "must hold at least 2 samples")
    wrapped = isinstance(model, DistributedDataParallel)
    require(not wrapped, "model", type(model).__name__, "is a wrapper: give model.module, and ranks= for all processes")
    model = model._modules.get("_orig_mod", model)  # hooks do not run in what torch.compile has made
    modules = dict(model.named_modules())
    check_layers(modules)
    layers, named = _owners(modules)
    require(bool(named), "model", type(model).__name__, "must have trainable parameters")
    check_real(named)
    parameters = [*named.values()]
    with torch.no_grad():
        if n:
            with differentiable_rnns(modules.values()):
                l2_here = l2 if ranks.size == 1 else None
                done = _backward(model, modules, loss_fn, x, y, n, l2_here, layers, parameters, check)
        else:  # a rank may have no sample of its own
            done = _Backward([None] * len(named), [], [0] * len(named), "", 1, 0.0, 0.0)
        local = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, done.gradients, strict=True)]
        local = [wide(g) for g in local]
        if done.scale > 1:
            torch._foreach_div_(local, done.scale)
        means = ranks.mean(local, n / total)
        directions = [mean + l2 * wide(p) for mean, p in zip(means, parameters, strict=True)] if l2 else means
        dots = _products(means, means)
        if l2 or ranks.size > 1:
            dots += _products(directions, directions) + _products(local, directions)
        rows, why = [], done.why
        if n and not why:
            rows, why = _by_rules(layers, done, named, directions, n)
        numbers = torch.cat([torch.stack(dots), *rows]).to("cpu", torch.float64).numpy()
        t, k = len(named), len(dots)
        dots, terms = numbers[:k].reshape(-1, t), numbers[k:].reshape(2, t, n if rows else 0)
        if rows:
            terms *= n / done.scale  # d is of scale × the mean loss
            np.square(terms[0], out=terms[0])
        sums = terms.sum(2)
        if n:
            other = partial(_first_other, named, dots, done.gap)
            found = other(n, sums) if rows else ""
            why = f"{found}: its layer is not what its rule is for" if found else why
            if why:
                with differentiable_rnns(modules.values()):
                    terms = _formed(model, loss_fn, x, y, named, directions, other, why, done.seconds)
                sums = terms.sum(2)
    used = [g is not None for g in done.gradients]
    return PerSample(parameters, means, used, dots[0], dots[len(dots) // 2], terms, sums)


def _products(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [t.sum() for t in torch._foreach_mul(a, b)]


class _Backward(NamedTuple):
    """gradients: of scale × the loss; None where it does not use a parameter. uses: how often it does. why: there is no
    way by rules."""

    gradients: list[Tensor | None]
    calls: list[_Call]
    uses: list[int]
    why: str
    scale: int
    gap: float  # that rounding explains
    seconds: float


def _backward(
    model: nn.Module,
    modules: dict[str, nn.Module],
    loss_fn: Loss,
    x: Batch,
    y: Batch,
    n: int,
    l2: float | None,
    layers: dict[nn.Module, _Owner],
    parameters: list[nn.Parameter],
    check: bool,
) -> _Backward:
    """The forward and backward pass, and what is to be seen of it. l2: None where the direction is other ranks' too."""
    without = ((name or "model", type(m).__name__) for m, (name, _) in layers.items() if type(m) not in RULES)
    why = ": ".join(next(without, ()))
    if why:
        layers, why = {}, f"{why} has no rule"
    chained, start, uses = chain(model, x), time.perf_counter(), [0] * len(parameters)
    apart, other, linear, nodes = check and bool(chained), [], [], None
    if chained and is_mean_cross_entropy(loss_fn, x, y) and not (x.requires_grad or y.requires_grad):
        # by what they are they draw nothing, change no buffer, and use every parameter as often as its layer is called
        with torch.enable_grad():
            output, calls = _walked(chained, layers, x)
            loss = scalar_loss(loss_fn, output, y)
        seconds = time.perf_counter() - start
        for c in calls:
            for i in layers[c.layer].own.values():
                uses[i] += 1
        linear = [c for c in calls if _is_summed(c)]
    else:
        with torch.enable_grad(), unmoved(modules, device(x)), _captured(layers) as calls:
            output = call(model, x)
            loss = scalar_loss(loss_fn, output, y)
        seconds = time.perf_counter() - start
        of_samples = _of_samples(calls, n)
        if check and n > 1:
            of_samples = check_samples(model, loss_fn, x, y, loss, output, (layers, calls), apart)
        other = [layers[c.layer].name for c, ok in zip(calls, of_samples, strict=True) if not ok]
        if not why:
            uses, nodes = _uses(loss, parameters)
    why = why or _shared(layers, uses) or (f"{other[0]}: samples are not the first dimension" if other else "")
    # a sample's part of a mean could be below what float16 holds
    dtypes = {p.dtype for p in parameters} | {c.dtype for c in calls}
    scale = n if torch.float16 in dtypes else 1
    start = time.perf_counter()
    scaled = torch.full_like(loss, scale) if scale > 1 else None
    read = [] if why else calls
    formable = [] if l2 is None else [c for c in read if _is_kept(c.layer, c)]
    if nodes is not None:  # of a call in vain, its weight may be used elsewhere
        formable = [c for c in formable if c.edge.node in nodes]
    times = Counter(c.layer for c in read) if formable else {}
    kept = {layers[c.layer].own["weight"]: c for c in formable if times[c.layer] == 1}
    summed = {i: (key, c) for c in (linear if read else ()) for key, i in layers[c.layer].own.items()}
    here = {*kept, *summed}
    wanted = [p for i, p in enumerate(parameters) if i not in here]
    found = torch.autograd.grad(loss, wanted + [c.edge for c in read], scaled, allow_unused=True)
    gradients = [*found[: len(wanted)]]
    for i in sorted(here):
        gradients.insert(i, None)
    for c, d in zip(read, found[len(wanted) :], strict=True):
        c.d = d
    for i, (key, c) in summed.items():
        gradients[i] = c.d.T @ c.a if key == "weight" else c.d.sum(0)
    for i, c in kept.items():
        if c.d is not None:
            weight = wide(parameters[i])
            g = formed(c.layer, c.a.to(weight.dtype), c.d.to(weight.dtype))
            gradients[i] = g.sum(0).view(weight.shape)
            c.terms = formed_terms(g, gradients[i] / scale + l2 * weight if l2 or scale > 1 else gradients[i])
    for c in read if device(x).type == "cpu" else ():
        # without bfloat16 of its own a CPU adds up a convolution's samples in it, and is 13 % off over 2,048
        i = layers[c.layer].own.get("weight") if isinstance(c.layer, _ConvNd) and c.dtype.itemsize < 4 else None
        if i is not None and i not in kept and uses[i] == 1 and c.d is not None and not parameters[i]._backward_hooks:
            gradients[i] = weight_gradient(c.layer, wide(c.a), wide(c.d))
    gap = tolerance(device(x), dtypes)
    return _Backward(gradients, calls, uses, why, scale, gap, seconds + time.perf_counter() - start)


def _is_summed(call: _Call) -> bool:
    """Whether dᵀa is the weight's gradient and the sum of d the bias's, with no hook that is to see them: the backward
    pass, which takes as long for them, then has less to do besides."""
    if type(call.layer) is not nn.Linear or call.a.dim() != 2 or call.a.dtype != call.dtype:
        return False
    return not any(p is not None and p._backward_hooks for p in call.layer._parameters.values())


def _is_kept(layer: nn.Module, call: _Call) -> bool:
    """Not where someone else's hook may have changed the output or is to see the weight's gradient, nor where the input
    has been changed in place, which the backward pass will refuse."""
    if not is_formed(layer, call.a.shape, call.shape):
        return False
    weight = layer._parameters["weight"]
    own = call.a._version == call.version and weight.requires_grad and not weight._backward_hooks
    return own and not (layer._forward_hooks or "forward" in layer.__dict__ or _global_forward_hooks)


def _shared(layers: dict[nn.Module, _Owner], uses: list[int]) -> str:
    """The first parameter that the loss goes through more than once."""
    owned = [0] * len(uses)
    for name, own in layers.values():
        for key, i in own.items():
            owned[i] += 1
            if owned[i] > 1 or uses[i] > 1:
                return f"{name}.{key} is used more than once"
    return ""


def _by_rules(
    layers: dict[nn.Module, _Owner],
    done: _Backward,
    named: dict[str, nn.Parameter],
    directions: list[Tensor],
    n: int,
) -> tuple[list[Tensor], str]:
    """The linear pass: ‖g_i‖ of every parameter, then g_i·direction, or why there are none. Each capture is let go as
    soon as it has been read."""
    found: list[tuple[Tensor, Tensor] | None] = [None] * len(named)
    while done.calls:
        call = done.calls.pop(0)  # of the first layer d came last, and may still be in a cache
        layer, d = call.layer, call.d
        if d is None:
            continue
        name, own = layers[layer]
        if d.shape[:1] != (n,):
            return [], f"{name}: samples are not the first dimension"
        wanted = {key: directions[i] for key, i in own.items()}
        if call.terms is not None:
            found[own["weight"]] = call.terms
            del wanted["weight"]
        if not wanted:
            continue
        dtype, a = next(iter(wanted.values())).dtype, call.a  # under autocast the captures are of another
        a = a.to(dtype) if a.dtype != dtype and a.is_floating_point() else a
        for key, norm, product in RULES[type(layer)](layer, a, d if d.dtype == dtype else d.to(dtype), wanted):
            found[own[key]] = norm, product
    if None in found:
        outside = [name for name, uses, terms in zip(named, done.uses, found, strict=True) if uses and terms is None]
        if outside:
            return [], f"{outside[0]} is used outside its own layer"
        none = directions[0].new_zeros(n)
        found = [(none, none) if terms is None else terms for terms in found]
    return [t for terms in zip(*found, strict=True) for t in terms], ""


def _formed(
    model: nn.Module,
    loss_fn: Loss,
    x: Batch,
    y: Batch,
    named: dict[str, nn.Parameter],
    directions: list[Tensor],
    other: Callable[[int, np.ndarray], str],
    why: str,
    taken: float,
) -> np.ndarray:
    """The same from the per-sample gradients themselves. taken: seconds of a forward and backward pass."""
    apart = ""
    torch.func.grad(torch.square)(torch.zeros(()))  # the first call takes seconds, to import
    for vectorised in (True, False):
        start, parts = time.perf_counter(), []
        try:
            for chunk in per_sample_gradients(model, loss_fn, x, y, named, vectorised):
                flat = [wide(g).reshape(len(g), -1) for g in chunk]
                squares = torch.stack([g.square().sum(1) for g in flat])
                products = torch.stack([g @ v.flatten() for g, v in zip(flat, directions, strict=True)])
                parts.append(torch.stack([squares, products]).cpu().double())
        except Exception:  # of what torch.func cannot follow, it says so in many ways
            if not vectorised:
                raise
            continue
        terms = torch.cat(parts, 2).numpy()
        apart = other(terms.shape[2], terms.sum(2))
        if not apart:
            times = 2 ** max(0, round(math.log2((time.perf_counter() - start) / taken)))  # few different texts
            how = "by torch.func" if vectorised else "by a backward pass for each"
            what = f"per-sample gradients are formed, {how}: some {times} times a forward and backward pass"
            warnings.warn(f"{why}: {what}", stacklevel=4)
            return terms
    what = "the batch's gradient is not the mean of its samples' own: they are mixed, or the loss is no mean over them"
    require(False, "model", apart, what)


def _first_other(names: Iterable[str], dots: np.ndarray, gap: float, n: int, sums: np.ndarray) -> str:
    """The first parameter for which the mean of g_i·direction is not ḡ·direction; nan says nothing."""
    dots = dots.tolist()
    rows = [*zip(names, *sums.tolist(), dots[len(dots) // 2], dots[-1], strict=True)]
    # a gradient that is 0, as an attention's key bias has it, is rounding of the others'
    least = gap**2 * math.sqrt(n * len(rows) * sum(sqnorm * direction for _, sqnorm, _, direction, _ in rows))
    for name, sqnorm, product, direction, mean in rows:
        if abs(product - n * mean) > gap * math.sqrt(n * sqnorm * direction) + least:
            return name
    return ""
