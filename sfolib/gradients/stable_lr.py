"""The largest learning rate that a model bears: 2/λ_max, and what successive gradients say on the way up."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfolib._utils.errors import InputError, require
from sfolib._utils.model import Below1, Count, Index, Nonnegative, checked
from sfolib.gradients.batches import n_samples
from sfolib.gradients.checks import Loss
from sfolib.gradients.curvature import Hessian, largest_eigenvalue, trainable

_SAMPLE = 512  # of λ_max
_ACCURACY = 0.02  # of λ_max
_FROM, _FACTOR, _EACH = 1 / 32, 2**0.25, 4  # the sweep: its first lr × λ_max/2, growth, steps at each lr
_WINDOW = 3  # lr's over which the signal is averaged
_HIGHEST = 64  # × 2/λ_max


class StableLr(NamedTuple):
    """lr: the largest stable one, the smaller of edge and swept (under BatchNorm: swept); edge: 2/λ_max at the start.
    swept: the last lr below the sweep's end, None where it met none. samples: gradient evaluations that it cost."""

    lr: float
    edge: float
    swept: float | None
    samples: int


@checked
def largest_stable_lr(
    model: nn.Module,
    loss_fn: Loss,
    x: Tensor,
    y: Tensor,
    *,
    l2: Nonnegative = 0.0,
    momentum: Below1 = 0.0,
    batch_size: Count = 256,
    sweep: bool = True,
    seed: Index = 0,
) -> StableLr:
    """The lr above which curvature throws the iterates about, of SGD with this momentum; nothing of the model moves.

    edge: 2/λ_max in eval mode, of 512 samples at most; × (1 + m) with momentum m. Under BatchNorm it is of another
    function than the one that is trained. As a network is trained λ_max moves, up to
    2/lr in the end, and past it a step may still go down.
    swept: SGD on a copy in train mode, batches of batch_size, lr × 2^(1/4) every 4 steps from edge/32 on, ends at the
    first lr where successive gradients say curvature (T14 [N]): s = g_t·g_{t+1} ≤ 0 on average while tr Σ/b, by the
    halves of the batches, is too small to make it so, tr Σ/b < ‖G‖²/2; or where the loss is no number. In
    batches so small that noise hides the signal it is not met. Then, and with sweep=False, lr is the edge.
    Costs 512 a product for λ_max (about 20) and 8 batch_size a doubling of lr.
    Raises `InputError` for data that model and loss_fn do not take, and where the gradient is not finite.
    """
    n = n_samples(x, y)
    require(n >= 2, "x", n, "must hold at least 2 samples")
    for name, values in (("x", x), ("y", y)):
        require(bool(values.isfinite().all()), name, tuple(values.shape), "must be finite: it holds nan or inf")
    trainable(model)
    rng = torch.Generator().manual_seed(int(seed))
    chosen = torch.randperm(len(x), generator=rng)[:_SAMPLE].to(x.device)
    try:
        hessian = Hessian(model, loss_fn, x[chosen], y[chosen], l2)
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # of the user's model and loss
        shapes = f"{tuple(x.shape)} {x.dtype}, {tuple(y.shape)} {y.dtype}"
        raise InputError(f"x, y = {shapes}: model and loss_fn must take them and give one loss ({error})") from error
    finite = bool(hessian.gradient.isfinite().all())
    require(finite, "model", type(model).__name__, "must have finite parameters, and a finite gradient on x and y")
    largest = largest_eigenvalue(hessian, accuracy=_ACCURACY)
    require(largest > 0, "λ_max", largest, "must be above 0 where the model is: train it a little, or initialise it")
    edge = 2 * (1 + momentum) / largest
    if not sweep:
        return StableLr(edge, edge, None, hessian.samples)
    size = min(batch_size, len(x)) // 2 * 2
    swept, spent = _sweep(copy.deepcopy(model), loss_fn, x, y, l2, momentum, size, edge, rng)
    limits = [edge] if swept is None else [swept, edge]
    if swept is not None and any(isinstance(module, _BatchNorm) for module in model.modules()):
        limits.remove(edge)
    return StableLr(min(limits), edge, swept, hessian.samples + spent)


def _sweep(model, loss_fn, x, y, l2, momentum, size, edge, rng) -> tuple[float | None, int]:
    parameters = trainable(model)
    optimizer = torch.optim.SGD(parameters, edge * _FROM, momentum=momentum)
    steps = math.ceil(math.log(_HIGHEST / _FROM) / math.log(_FACTOR)) * _EACH
    before, signals, rates = None, [], []
    model.train()
    with torch.enable_grad():
        for step in range(steps):
            rates.append(edge * _FROM * _FACTOR ** (step // _EACH))
            optimizer.param_groups[0]["lr"] = rates[-1]
            halves = torch.randperm(len(x), generator=rng)[:size].to(x.device).chunk(2)
            parts = []
            for half in halves:
                loss = loss_fn(model(x[half]), y[half])
                grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
                parts.append(torch.cat([g.reshape(-1) for g in grads]).detach())
            a, b = (part + l2 * torch.cat([p.detach().reshape(-1) for p in parameters]) for part in parts)
            gradient = (a + b) / 2
            along = a @ b if before is None else before @ gradient
            signals.append(torch.stack([along, a @ b, (a - b).square().sum() / 4]))
            before = gradient
            for p, g in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
                p.grad = g.reshape(p.shape)
            optimizer.step()
            if (step + 1) % _EACH == 0:
                s, squared, noise = torch.stack(signals[-_WINDOW * _EACH :]).double().mean(0).tolist()
                finite = math.isfinite(s) and math.isfinite(squared)
                if not finite or (s <= 0 and noise < squared / 2):
                    return rates[max(0, step - _EACH)], (step + 1) * size
    return None, steps * size
