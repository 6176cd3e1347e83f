"""What the adaptive tests and the constants need of the gradients, measured without a trace on the model.

`gradient_statistics` gets the variances of the whole model's per-sample gradients out of one forward and
backward pass (`persample`) and one linear pass by the rules of `layers`; per-sample gradients of the
model are never formed.

Nothing of the model moves: no `.grad`, no buffer, no RNG state, no hook stays, whatever is raised.
Work is in the parameters' dtype; sums over samples are in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sfolib._utils.distributed import SINGLE, ProcessGroup
from sfolib._utils.errors import require
from sfolib.gradients.curvature import eval_mode, smoothness, trainable
from sfolib.gradients.per_sample import Loss, check_mean, per_sample
from sfolib.theory.bounds import Constants

# elements of x in one chunk of a full gradient, the fastest seen: on the CPU 255 images of 28×28, 65 of 32×32×3
CHUNK = {"cpu": 200_000, "cuda": 2**21}


@dataclass(frozen=True)
class GradientStatistics:
    """T10 [S] over n per-sample gradients g_i with mean ḡ: whole-model vectors, sample variances (n − 1).

    mean_sqnorm: ‖ḡ‖². variance: Σ_j Var_i(g_ij). inner_product_variance: Var_i(g_i·ḡ). orthogonal_variance:
    Σ_j Var_i((g_i − (g_i·ḡ/‖ḡ‖²) ḡ)_j), which is `variance` where ḡ = 0. They cost n gradient evaluations.
    """

    n: int
    mean_sqnorm: float
    variance: float
    inner_product_variance: float
    orthogonal_variance: float

    @property
    def second_moment(self) -> float:
        """Mean of ‖g_i‖²."""
        return self.mean_sqnorm + (self.n - 1) / self.n * self.variance


class Population(NamedTuple):
    """Of a whole data set: ‖∇f‖² and the exact σ²(θ) = (1/n) Σ ‖∇f_i − ∇f‖² (A3, for one uniform draw)."""

    n: int
    mean_sqnorm: float
    variance: float


def gradient_statistics(
    model: nn.Module,
    loss_fn: Loss,
    x: Tensor,
    y: Tensor,
    *,
    l2: float = 0.0,
    per_tensor: bool = False,
    ranks: ProcessGroup = SINGLE,
    check: bool = True,
) -> GradientStatistics:
    """The statistics of T10 [S] for samples `x`, `y` (leading dimension n ≥ 2), the model in the mode it is in.

    `loss_fn(model(x), y)` must be the mean over the batch of losses of one sample each. With `check` this is seen on
    every sample alone, which takes calls of loss_fn and a pass of eight samples: not for a loss that keeps a tally.
    `l2` adds (l2/2)‖θ‖² to every one. `per_tensor=True` takes inner products parameter tensor by parameter tensor and
    adds up their variances, as AdAdaGrad's published code does: the covariance between tensors is lost, and it is
    another quantity. `ranks`: the statistics of all ranks' samples together, of which `x`, `y` are this one's,
    exactly; every rank gets the same.

    Raises `InputError` for a loss that is no such mean, a trainable parameter of a layer type that is not in
    `RULES`, or used more than once or outside its layer, BatchNorm on batch statistics, Dropout in train mode.
    """
    samples = per_sample(model, loss_fn, x, y, l2, ranks, check)
    n = int(ranks.total(len(x)))
    _, mean, direction, sqnorms, products = samples
    if not per_tensor:
        mean, direction, sqnorms, products = (t.sum(0, keepdims=True) for t in samples[1:])
    # Rounding alone can take these sums of squares below 0.
    variance = np.maximum((ranks.total(sqnorms.sum(1)) - n * mean) / (n - 1), 0.0)
    centred = products - ranks.total(products.sum(1, keepdims=True)) / n
    inner = ranks.total(np.square(centred).sum(1)) / (n - 1)
    # T10 with its sum over j done: the orthogonal parts have mean 0 and square sum Σ ‖g_i‖² − (g_i·ḡ)²/‖ḡ‖².
    along = np.divide(inner, direction, out=np.zeros_like(inner), where=direction > 0)
    orthogonal = np.maximum(variance - along, 0.0)
    return GradientStatistics(n, *(float(t.sum()) for t in (direction, variance, inner, orthogonal)))


def population_variance(
    model: nn.Module, loss_fn: Loss, x: Tensor, y: Tensor, *, chunk: int = 1024, check: bool = True
) -> Population:
    """Exact ‖∇f‖² and σ²(θ) of the data set `x`, `y`, `chunk` samples at a time, joined by Chan's formula.

    Costs n gradient evaluations. Conditions and errors as for `gradient_statistics`; chunk ≥ 2.
    """
    require(isinstance(chunk, int) and chunk >= 2, "chunk", chunk, "must be an integer of at least 2")
    n, squares, mean = 0, 0.0, np.zeros(())
    for x_part, y_part in _parts(x, y, chunk):
        m, samples = len(x_part), per_sample(model, loss_fn, x_part, y_part, 0.0, check=check)
        step = torch.cat([t.flatten() for t in samples.means]).cpu().double().numpy() - mean
        squares += samples.sqnorms.sum() - m * samples.mean_sqnorms.sum() + step.dot(step) * n * m / (n + m)
        n += m
        mean = mean + step * (m / n)
    return Population(n, float(mean.dot(mean)), float(max(squares, 0.0) / n))


def _parts(x: Tensor, y: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Slices of `chunk` samples; a last one of a single sample joins the one before."""
    count = max(1, math.ceil(len(x) / chunk) - (len(x) % chunk == 1))
    ends = [chunk * i for i in range(count)] + [len(x)]
    return ((x[a:b], y[a:b]) for a, b in pairwise(ends))


# --- the full gradient and the constants ---


def full_gradient_sqnorm(
    model: nn.Module,
    loss_fn: Loss,
    data: tuple[Tensor, Tensor],
    mode: Literal["exact", "as_published"] = "exact",
    *,
    l2: float = 0.0,
    chunk: int | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    ranks: ProcessGroup = SINGLE,
    check: bool = True,
) -> float:
    """‖∇f‖² over the whole of `data` = (x, y); f is the mean of `loss_fn`, plus (l2/2)‖θ‖². Costs n evaluations.

    "exact": the eval-mode function of the data as they are, `chunk` samples at a time (default: see `CHUNK`).
    "as_published": what the authors' program calls the full gradient: train mode, a shuffled pass of batches of
    100 under `augment(x)`, weighted by their sizes. It is not the gradient of one function (BatchNorm,
    augmentation). Run on a copy, torch's RNG seeded by `seed` and then put back.
    ranks: the gradient over all ranks' data, of which `data` is this one's part; "as_published" wants the whole data
    on every rank, and they take its batches in turn.
    check: "exact" calls loss_fn on single samples too, to see that it is a mean; not for one that keeps a tally.
    Raises `InputError` for an unknown mode, no data, a loss that is no mean over samples ("exact"),
    a chunk below 1, or `augment` with "exact".
    """
    require(mode in ("exact", "as_published"), "mode", mode, "must be 'exact' or 'as_published'")
    x, y = data
    n = len(x) if mode == "as_published" else int(ranks.total(len(x)))
    require(len(x) == len(y) and n > 0, "data", (len(x), len(y)), "must be as many labels as samples, at least one")
    parameters = trainable(model)
    if mode == "exact":
        require(augment is None, "augment", augment, "must be None in mode 'exact'")
        if chunk is None:
            chunk = max(1, CHUNK.get(x.device.type, CHUNK["cuda"]) // max(1, x.shape[1:].numel()))
        require(isinstance(chunk, int) and chunk >= 1, "chunk", chunk, "must be an integer of at least 1")
        with eval_mode(model):
            total = _mean_gradient(
                model, loss_fn, zip(x.split(chunk), y.split(chunk), strict=True), n, check_mean if check else None
            )
    else:
        replica = copy.deepcopy(model).train()
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.random.default_generator.manual_seed(seed)
            for device in devices:
                torch.cuda.default_generators[device.index or 0].manual_seed(seed)
            order = torch.randperm(len(x)).to(x.device).split(100)
            batches = ((augment(x[i]) if augment else x[i], y[i]) for i in order)
            total = _mean_gradient(replica, loss_fn, islice(batches, ranks.rank, None, ranks.size), n)
    ranks.all_reduce_(total)
    gradient = [g + l2 * p.detach() for g, p in zip(total, parameters, strict=True)] if l2 else total
    return sum(g.double().square().sum() for g in gradient).item()


def _mean_gradient(
    model: nn.Module,
    loss_fn: Loss,
    batches: Iterable[tuple[Tensor, Tensor]],
    n: int,
    check: Callable[[Loss, Tensor, Tensor], None] | None = None,
) -> list[Tensor]:
    """Mean of the batches' gradients, weighted by their sizes over n."""
    parameters, total = trainable(model), []
    for x, y in batches:
        if not len(x):
            continue
        with torch.enable_grad():
            output = model(x)
            loss = loss_fn(output, y)
            if check is not None:
                check(loss_fn, output.detach(), y)
            if n != len(x):
                loss = loss * (len(x) / n)
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        total = [a.add_(b) for a, b in zip(total, gradient, strict=True)] if total else list(gradient)
    return total or [torch.zeros_like(p) for p in parameters]


def measure_constants(
    model: nn.Module, loss_fn: Loss, x: Tensor, y: Tensor, *, f_star: float = 0.0, l2: float = 0.0
) -> Constants:
    """L, σ² and Δ of A1–A3 as they are at this θ: `smoothness`, `population_variance`, and f(θ) − `f_star`.

    L and σ² are suprema in the theory; what is measured at one point bounds them from below.
    """
    with eval_mode(model):
        variance = population_variance(model, loss_fn, x, y).variance
        with torch.no_grad():
            weights = sum(p.double().square().sum().item() for p in trainable(model))
            loss = loss_fn(model(x), y).item() + l2 / 2 * weights
    return Constants(L=smoothness(model, loss_fn, x, y, l2=l2), sigma2=variance, gap=loss - f_star)
