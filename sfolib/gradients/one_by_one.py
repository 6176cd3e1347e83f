"""Per-sample gradients of any model, formed: the slow and exact way, for what `layers` has no rule for.

By `torch.func`, some samples at a time; where it cannot follow the model, by a backward pass for every sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sfolib.gradients.batches import Batch, arguments, call, n_samples, one, rows, take
from sfolib.gradients.checks import Loss

_FORMED = 2**24  # elements of per-sample gradients at once
_MOST = 256  # samples at once


def per_sample_gradients(
    model: nn.Module, loss_fn: Loss, x: Batch, y: Batch, parameters: dict[str, nn.Parameter], vectorised: bool = True
) -> Iterator[list[Tensor]]:
    """Of some samples after the other: for every parameter (samples, *shape), in its dtype.

    parameters: by their names in `model`. Raises what vmap raises if vectorised.
    """
    n = n_samples(x, y)
    if not vectorised:
        for i in range(n):
            one_x, one_y = (take(value, slice(i, i + 1)) for value in (x, y))
            with torch.enable_grad():
                loss = loss_fn(call(model, one_x), one_y)
                if not loss.requires_grad:  # a sample on which no parameter has a say
                    yield [torch.zeros_like(p)[None] for p in parameters.values()]
                    continue
                found = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True, materialize_grads=True)
            yield [g[None].detach() for g in found]
        return

    def loss(values: dict[str, Tensor], x_rows: list[Tensor], y_rows: list[Tensor]) -> Tensor:
        args, kwargs = arguments(model, one(x, x_rows))
        return loss_fn(torch.func.functional_call(model, values, args, kwargs), one(y, y_rows))

    values = {name: p.detach() for name, p in parameters.items()}
    size = max(1, min(_MOST, _FORMED // max(1, sum(p.numel() for p in values.values()))))
    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
    for start in range(0, n, size):
        parts = [[t[start : start + size] for t in rows(value)] for value in (x, y)]
        # the fused attentions have no rule for vmap, and would go sample by sample
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            warnings.simplefilter("ignore")  # vmap's, of what it does one by one
            found = each(values, *parts)
        yield [found[name] for name in parameters]
