"""One ordinary backward pass, its captures, and the linear pass over them that reads the per-sample terms.

Hooks keep each layer's input a (a chain of torch's own layers is called layer by layer, without them), the backward
pass gives the gradient d at its output; the rules of `layers` make of it ‖g_i‖² and g_i·direction for every sample i
and parameter tensor. Where a parameter has no rule, the model's per-sample gradients are formed (`one_by_one`), with a
warning. Either way the mean of g_i·direction must be ḡ·direction. No hook stays, whatever is raised.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
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
from sfolib.gradients.layers import RULES, formed, formed_terms, is_formed
from sfolib.gradients.one_by_one import per_sample_gradients


@dataclass
class _Call:
    """One call of a layer: its input, where its output is in the graph, and after the backward pass the gradient there.

    terms: ‖g_i‖² and g_i·direction of its weight, where `layers` has formed g_i.
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
        a = a.detach()
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


def _walked(chained: list[nn.Module], layers: Collection[nn.Module], x: Tensor) -> tuple[Tensor, list[_Call]]:
    """The output of a chain, and the calls of `layers`, without hooks."""
    calls: list[_Call] = []
    for layer in chained:
        a, x = x, layer(x)
        if layer in layers:
            _record(calls, layer, a, x)
    return x, calls


def _owners(modules: dict[str, nn.Module]) -> tuple[dict[nn.Module, str], dict[str, nn.Parameter]]:
    """The modules that own trainable parameters, and these, each once, by name as `named_parameters` has it."""
    layers, parameters = {}, {}
    for name, module in modules.items():
        for key, p in module._parameters.items():
            if p is not None and p.requires_grad:
                layers[module] = name
                parameters.setdefault(p, f"{name}.{key}" if name else key)
    return layers, {name: p for p, name in parameters.items()}


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
    """For t parameter tensors: ḡ, ‖ḡ‖² and ‖direction‖² (t,), and as terms ‖g_i‖² and g_i·direction (2, t, n), float64.

    means: ḡ in float32 at least; 0 where the loss does not use the parameter, which `used` tells of this rank.
    """

    parameters: list[nn.Parameter]
    means: list[Tensor]
    used: list[bool]
    mean_sqnorms: np.ndarray
    direction_sqnorms: np.ndarray
    terms: np.ndarray


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
    model = getattr(model, "_orig_mod", model)  # hooks do not run in what torch.compile has made
    modules = dict(model.named_modules())
    check_layers(modules)
    layers, named = _owners(modules)
    require(bool(named), "model", type(model).__name__, "must have trainable parameters")
    check_real(named)
    parameters = [*named.values()]
    if n:
        with differentiable_rnns(modules.values()):
            done = _backward(model, modules, loss_fn, x, y, n, l2 if ranks.size == 1 else None, layers, named, check)
    else:  # a rank may have no sample of its own
        done = _Backward([None] * len(named), [], Counter(), "", 1, 0.0, 0.0)
    with torch.no_grad():
        local = [
            torch.zeros_like(wide(p)) if g is None else wide(g) for p, g in zip(parameters, done.gradients, strict=True)
        ]
        if done.scale > 1:
            torch._foreach_div_(local, done.scale)
        means = ranks.mean(local, n / total)
        directions = [mean + l2 * wide(p) for mean, p in zip(means, parameters, strict=True)] if l2 else means
        pairs = [(means, means)]
        if l2 or ranks.size > 1:
            pairs += [(directions, directions), (local, directions)]
        numbers = [(a * b).sum() for pair in pairs for a, b in zip(*pair, strict=True)]
        rows, why = [], done.why
        if n and not why:
            rows, why = _by_rules(layers, done.calls, named, directions, done.uses, n)
        numbers = torch.cat([torch.stack(numbers), *rows]).to("cpu", torch.float64).numpy()
        dots = numbers[: len(pairs) * len(named)].reshape(-1, len(named))
        terms = numbers[dots.size :].reshape(2, len(named), n if rows else 0)
        mean_sqnorms, direction_sqnorms, along = dots[0], dots[len(dots) // 2], dots[-1]
        if n:
            first_other = partial(_first_other, [*named], along, direction_sqnorms, done.gap)
            if rows:
                times = n / done.scale  # d is of scale × the mean loss
                terms[0] *= times**2
                terms[1] *= times
                other = first_other(terms)
                why = f"{other}: its layer is not what its rule is for" if other else ""
            if why:
                with differentiable_rnns(modules.values()):
                    terms = _formed(model, loss_fn, x, y, named, directions, first_other, why, done.seconds)
    used = [g is not None for g in done.gradients]
    return PerSample(parameters, means, used, mean_sqnorms, direction_sqnorms, terms)


class _Backward(NamedTuple):
    """gradients: of scale × the loss; None where it does not use a parameter. why: there is no way by rules."""

    gradients: list[Tensor | None]
    calls: list[_Call]
    uses: Counter[Tensor]
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
    layers: dict[nn.Module, str],
    named: dict[str, nn.Parameter],
    check: bool,
) -> _Backward:
    """The forward and backward pass, and what is to be seen of it. l2: None where the direction is other ranks' too."""
    uses: Counter[Tensor] = Counter()
    why = next((f"{name or 'model'}: {type(m).__name__}" for m, name in layers.items() if type(m) not in RULES), "")
    if why:
        layers, why = {}, f"{why} has no rule"
    chained, start = chain(model, x), time.perf_counter()
    apart, other = check and bool(chained), []
    if chained and is_mean_cross_entropy(loss_fn, x, y) and not (x.requires_grad or y.requires_grad):
        # by what they are they draw nothing, change no buffer, and use every parameter as often as its layer is called
        with torch.enable_grad():
            output, calls = _walked(chained, layers, x)
            loss = scalar_loss(loss_fn, output, y)
        seconds = time.perf_counter() - start
        uses.update(p for layer in chained for p in layer._parameters.values() if p is not None and p.requires_grad)
    else:
        with torch.enable_grad(), unmoved(modules, device(x)), _captured(layers) as calls:
            output = call(model, x)
            loss = scalar_loss(loss_fn, output, y)
        seconds = time.perf_counter() - start
        of_samples = _of_samples(calls, n)
        if check and n > 1:
            of_samples = check_samples(model, loss_fn, x, y, loss, output, (layers, calls), apart)
        other = [layers[c.layer] for c, ok in zip(calls, of_samples, strict=True) if not ok]
        uses = Counter() if why else _uses(loss)
    why = why or _shared(layers, uses) or (f"{other[0]}: samples are not the first dimension" if other else "")
    # a sample's part of a mean could be below what float16 holds
    dtypes = {p.dtype for p in named.values()} | {c.dtype for c in calls}
    scale = n if torch.float16 in dtypes else 1
    start = time.perf_counter()
    scaled = torch.full_like(loss, scale) if scale > 1 else None
    times = Counter(c.layer for c in calls)
    once = [] if why or l2 is None else [c for c in calls if times[c.layer] == 1]
    kept = {c.layer.weight: c for c in once if _is_kept(c.layer, c)}
    wanted = [p for p in named.values() if p not in kept]
    edges = [] if why else [c.edge for c in calls]
    found = torch.autograd.grad(loss, [*wanted, *edges], scaled, allow_unused=True)
    gradients = dict(zip(wanted, found, strict=False))
    with torch.no_grad():
        for c, d in zip(calls if edges else [], found[len(wanted) :], strict=True):
            c.d = d
        for weight, c in kept.items():
            if c.d is not None:
                g = formed(c.layer, *(t.to(wide(weight).dtype) for t in (c.a, c.d)))
                gradients[weight] = g.sum(0).view(weight.shape)
                c.terms = formed_terms(g, gradients[weight] / scale + l2 * wide(weight))
    gradients, gap = [gradients.get(p) for p in named.values()], tolerance(device(x), dtypes)
    return _Backward(gradients, calls, uses, why, scale, gap, seconds + time.perf_counter() - start)


def _is_kept(layer: nn.Module, call: _Call) -> bool:
    """Not where someone else's hook may have changed the output or is to see the weight's gradient, nor where the input
    has been changed in place, which the backward pass will refuse."""
    own = call.a._version == call.version
    own = own and not (layer._forward_hooks or "forward" in layer.__dict__ or _global_forward_hooks)
    weight = getattr(layer, "weight", None)
    own = own and weight is not None and weight.requires_grad and not weight._backward_hooks
    return own and is_formed(layer, call.a.shape, call.shape)


def _shared(layers: dict[nn.Module, str], uses: Counter[Tensor]) -> str:
    """The first parameter that the loss goes through more than once."""
    owners: Counter[Tensor] = Counter()
    for layer, name in layers.items():
        for key, p in layer._parameters.items():
            owners[p] += 1
            if p is not None and p.requires_grad and (owners[p] > 1 or uses[p] > 1):
                return f"{name}.{key} is used more than once"
    return ""


def _by_rules(
    layers: dict[nn.Module, str],
    calls: list[_Call],
    named: dict[str, nn.Parameter],
    directions: list[Tensor],
    uses: Counter[Tensor],
    n: int,
) -> tuple[list[Tensor], str]:
    """The linear pass: ‖g_i‖² of every parameter, then g_i·direction, or why there are none. Each capture is let go as
    soon as it has been read."""
    of, found = dict(zip(named.values(), directions, strict=True)), {}
    while calls:
        call = calls.pop()
        if call.d is None:
            continue
        if call.d.shape[:1] != (n,):
            return [], f"{layers[call.layer]}: samples are not the first dimension"
        layer = call.layer
        wanted = {key: of[p] for key, p in layer._parameters.items() if p in of}
        if call.terms is not None:
            found[layer.weight] = call.terms
            del wanted["weight"]
        if not wanted:
            continue
        dtype = next(iter(wanted.values())).dtype  # under autocast the captures are of another
        a = call.a.to(dtype) if call.a.is_floating_point() else call.a
        for key, *terms in RULES[type(layer)](layer, a, call.d.to(dtype), wanted):
            found[layer._parameters[key]] = terms
    outside = next((name for name, p in named.items() if uses[p] and p not in found), "")
    if outside:
        return [], f"{outside} is used outside its own layer"
    if len(found) < len(named):
        none = [directions[0].new_zeros(n)] * 2
        found = {p: found.get(p, none) for p in named.values()}
    both = zip(*(found[p] for p in named.values()), strict=True)
    return [t for terms in both for t in terms], ""


def _formed(
    model: nn.Module,
    loss_fn: Loss,
    x: Batch,
    y: Batch,
    named: dict[str, nn.Parameter],
    directions: list[Tensor],
    other: Callable[[np.ndarray], str],
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
        apart = other(terms)
        if not apart:
            times = 2 ** max(0, round(math.log2((time.perf_counter() - start) / taken)))  # few different texts
            how = "by torch.func" if vectorised else "by a backward pass for each"
            what = f"per-sample gradients are formed, {how}: some {times} times a forward and backward pass"
            warnings.warn(f"{why}: {what}", stacklevel=4)
            return terms
    what = "the batch's gradient is not the mean of its samples' own: they are mixed, or the loss is no mean over them"
    require(False, "model", apart, what)


def _first_other(
    names: list[str],
    along: np.ndarray,
    direction_sqnorms: np.ndarray,
    gap: float,
    terms: np.ndarray,
) -> str:
    """The first parameter for which the mean of g_i·direction is not ḡ·direction; nan says nothing."""
    n, sums = terms.shape[2], terms.sum(2).tolist()
    rows = [*zip(names, *sums, direction_sqnorms.tolist(), along.tolist(), strict=True)]
    # a gradient that is 0, as an attention's key bias has it, is rounding of the others'
    least = gap**2 * math.sqrt(n * len(rows) * sum(sqnorm * direction for _, sqnorm, _, direction, _ in rows))
    for name, sqnorm, product, direction, mean in rows:
        if abs(product - n * mean) > gap * math.sqrt(n * sqnorm * direction) + least:
            return name
    return ""
