"""What the adaptive tests and the constants need of the gradients, measured without a trace on the model.

`gradient_statistics` gets the variances of the whole model's per-sample gradients out of one forward and
backward pass (`per_sample`) and one linear pass by the rules of `layers`; per-sample gradients of the
model are formed only where a rule is missing (`one_by_one`).

Nothing of the model moves: no `.grad` unless asked, no buffer, no RNG state, no hook stays, whatever is raised.
Work is in the parameters' dtype, float32 at least; sums over samples are in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations, islice, pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sfolib._utils.distributed import SINGLE, ProcessGroup
from sfolib._utils.errors import require, whole
from sfolib.gradients.batches import Batch, call, device, n_samples, rows, take, wide
from sfolib.gradients.checks import Loss, chain, unmoved
from sfolib.gradients.curvature import eval_mode, smoothness, trainable
from sfolib.gradients.per_sample import PerSample, check_samples, per_sample, scalar_loss
from sfolib.theory.bounds import Constants

# elements of x in one chunk of a full gradient, the fastest seen: on the CPU 255 images of 28×28, 65 of 32×32×3
CHUNK = {"cpu": 200_000, "cuda": 2**21}
GROUPS = 10  # of the samples that a sampled ‖∇f‖² is from
_TOKEN = 256  # elements that an integer of x counts for


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


class SampledSqnorm(NamedTuple):
    """‖∇f‖² from a sample: unbiased, and so perhaps below 0; and its standard error."""

    value: float
    error: float


class Population(NamedTuple):
    """Of a whole data set: ‖∇f‖² and the exact σ²(θ) = (1/n) Σ ‖∇f_i − ∇f‖² (A3, for one uniform draw)."""

    n: int
    mean_sqnorm: float
    variance: float


def gradient_statistics(
    model: nn.Module,
    loss_fn: Loss,
    x: Batch,
    y: Batch,
    *,
    l2: float = 0.0,
    per_tensor: bool = False,
    ranks: ProcessGroup = SINGLE,
    check: bool = True,
    backward: bool = False,
) -> GradientStatistics:
    """The statistics of T10 [S] for samples `x`, `y` (leading dimension n ≥ 2), the model in the mode it is in.

    `loss_fn(model(x), y)` must be the mean over the batch of losses of one sample each. With `check` this is seen on
    every sample alone, which takes calls of loss_fn and two passes of three samples (none for a chain of torch's own
    layers, which is known by its types): not for a loss that keeps a tally.
    `x`, `y` and the model's output are tensors, or dicts, tuples or dataclasses of tensors, every one with the samples
    as its first dimension; of `x`, a dict is passed as keyword arguments and a tuple as positional ones where the
    model's `forward` takes them so.
    `l2` adds (l2/2)‖θ‖² to every one. `per_tensor=True` takes inner products parameter tensor by parameter tensor and
    adds up their variances, as AdAdaGrad's published code does: the covariance between tensors is lost, and it is
    another quantity. `ranks`: the statistics of all ranks' samples together, of which `x`, `y` are this one's,
    exactly; every rank gets the same.

    `backward=True` also does what `loss_fn(model(x), y).backward()` does: adds ḡ (without l2; of all ranks) to every
    used parameter's `.grad`, or makes it that where there is none. A step that looks then costs no second pass. ḡ is
    not scaled for a GradScaler. Otherwise no `.grad` changes.

    A trainable parameter of a layer type that is not in `RULES`, or used more than once or outside its layer, is no
    error: every sample's gradient is then formed, which is as exact and slow, and a warning says how slow.
    Raises `InputError` for a loss that is no such mean and for a forward pass that mixes samples (BatchNorm on batch
    statistics), draws random numbers (Dropout in train mode) or changes buffers.
    """
    samples = per_sample(model, loss_fn, x, y, l2, ranks, check)
    n = int(ranks.total(samples.terms.shape[2]))
    if backward:
        _add_gradients(samples, ranks)
    columns = [v.tolist() for v in (samples.mean_sqnorms, samples.direction_sqnorms, *ranks.total(samples.sums))]
    products = samples.terms[1]
    if not per_tensor:
        columns, products = [[sum(v)] for v in columns], [products.sum(0)]
    centred = [p - total / n for p, total in zip(products, columns[3], strict=True)]
    columns[3] = ranks.total([p.dot(p) for p in centred]).tolist()
    variance = inner = orthogonal = 0.0
    for m, v, square, along in zip(*columns, strict=True):
        # Rounding alone can take these sums of squares below 0.
        each = max((square - n * m) / (n - 1), 0.0)
        variance, inner = variance + each, inner + along / (n - 1)
        # T10 with its sum over j done: the orthogonal parts have mean 0 and square sum Σ ‖g_i‖² − (g_i·ḡ)²/‖ḡ‖².
        orthogonal += max(each - (along / (n - 1) / v if v > 0 else 0.0), 0.0)
    return GradientStatistics(n, sum(columns[1]), variance, inner, orthogonal)


def _add_gradients(samples: PerSample, ranks: ProcessGroup) -> None:
    used = samples.used if ranks.size == 1 else ranks.total(np.array(samples.used, dtype=float)) > 0
    for p, mean, there in zip(samples.parameters, samples.means, used, strict=True):
        if there and p.grad is None:
            same = mean.stride() == p.stride() and mean.dtype == p.dtype
            p.grad = mean if same else torch.empty_like(p).copy_(mean)
        elif there:
            with torch.no_grad():
                p.grad += mean


def population_variance(
    model: nn.Module, loss_fn: Loss, x: Batch, y: Batch, *, chunk: int = 1024, check: bool = True
) -> Population:
    """Exact ‖∇f‖² and σ²(θ) of the data set `x`, `y`, `chunk` samples at a time, joined by Chan's formula.

    Costs n gradient evaluations. Conditions and errors as for `gradient_statistics`; chunk ≥ 2.
    """
    require(whole("chunk", chunk) >= 2, "chunk", chunk, "must be an integer of at least 2")
    n, squares, mean = 0, 0.0, np.zeros(())
    for part in _parts(n_samples(x, y), chunk):
        samples = per_sample(model, loss_fn, take(x, part), take(y, part), 0.0, check=check)
        m = samples.terms.shape[2]
        step = torch.cat([t.flatten() for t in samples.means]).cpu().double().numpy() - mean
        squares += samples.sums[0].sum() - m * samples.mean_sqnorms.sum() + step.dot(step) * n * m / (n + m)
        n += m
        mean = mean + step * (m / n)
    return Population(n, float(mean.dot(mean)), float(max(squares, 0.0) / n))


def _parts(n: int, chunk: int) -> Iterator[slice]:
    """Slices of `chunk` samples; a last one of a single sample joins the one before."""
    pieces = max(1, math.ceil(n / chunk) - (n % chunk == 1))
    return (slice(a, b) for a, b in pairwise([chunk * i for i in range(pieces)] + [n]))


# --- the full gradient and the constants ---


def full_gradient_sqnorm(
    model: nn.Module,
    loss_fn: Loss,
    data: tuple[Batch, Batch],
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
    check: "exact" sees what `gradient_statistics` sees with its `check`, in every chunk, which then has 2 samples at
    least; not for a loss with a tally.
    Raises `InputError` for an unknown mode, no data, a loss that is no mean over samples or a model that mixes them,
    draws random numbers or changes buffers ("exact"), a chunk below 1, or `augment` with "exact".
    """
    require(mode in ("exact", "as_published"), "mode", mode, "must be 'exact' or 'as_published'")
    x, y = data
    here = n_samples(x, y)
    n = here if mode == "as_published" else int(ranks.total(here))
    require(n > 0, "data", here, "must be at least one sample")
    parameters = trainable(model)
    if mode == "exact":
        require(augment is None, "augment", augment, "must be None in mode 'exact'")
        chunk = _chunk(x) if chunk is None else whole("chunk", chunk)
        chunk = max(chunk, 2) if check else chunk  # one sample says nothing of a mean, or of samples that are mixed
        parts = ((take(x, part), take(y, part)) for part in _slices(here, chunk))
        with eval_mode(model):
            total = _mean_gradient(model, loss_fn, parts, n, check)
    else:
        # it has buffers of its own, and the same weights
        replica = copy.deepcopy(model, {id(p): nn.Parameter(p.detach()) for p in parameters}).train()
        devices = [device(x)] if device(x).type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.random.default_generator.manual_seed(seed)
            for gpu in devices:
                torch.cuda.default_generators[gpu.index or 0].manual_seed(seed)
            order = torch.randperm(n).to(device(x)).split(100)
            batches = ((augment(take(x, i)) if augment else take(x, i), take(y, i)) for i in order)
            total = _mean_gradient(replica, loss_fn, islice(batches, ranks.rank, None, ranks.size), n)
    ranks.all_reduce_(total)
    gradient = [g + l2 * p.detach() for g, p in zip(total, parameters, strict=True)] if l2 else total
    return sum(g.double().square().sum() for g in gradient).item()


def sampled_gradient_sqnorm(
    model: nn.Module,
    loss_fn: Loss,
    data: tuple[Batch, Batch],
    population: int,
    *,
    l2: float = 0.0,
    chunk: int | None = None,
    ranks: ProcessGroup = SINGLE,
    check: bool = True,
) -> SampledSqnorm:
    """‖∇f‖² over n = `population` samples from m of them, `data` = (x, y), drawn without replacement; eval mode.

    With g_k the mean gradients of K = 10 groups of m/K samples, and ḡ their mean:
        ‖∇f‖² ≈ ‖ḡ‖² − (1/m − 1/n) S²,  S² = (m/K) Σ ‖g_k − ḡ‖²/(K − 1), the variance of a sample's gradient.
    error: √V, V = V₁ (1 − m/n) + V₂ (1 − m/n)². V₂ = 2 tr(Σ²)/(K(K − 1)), Σ the covariance of a g_k, is of products of
    noise, and V₁ what the jackknife over groups finds beside it (of V₂ it finds 2 (K − 1)/(K − 2) times).
    Costs m evaluations, and the memory of K gradients.
    l2, chunk, check: as for `full_gradient_sqnorm`. ranks: each has all of `data`, and takes its part of a group.
    Raises `InputError` for m that is no multiple of 10, below 20 or above n, and as `full_gradient_sqnorm` does.
    Source: sampling without replacement (Cochran 1977, ch. 2), jackknife (Efron & Stein 1981).
    """
    x, y = data
    m, n, group = n_samples(x, y), whole("population", population), n_samples(x, y) // GROUPS
    require(m >= 2 * GROUPS and m % GROUPS == 0, "data", m, f"must be a multiple of {GROUPS} samples, at least 20")
    require(m <= n, "population", n, f"must be at least the {m} samples of data")
    size = _chunk(x) if chunk is None else whole("chunk", chunk)
    size, share, gradients = max(size, 2) if check else size, ranks.shard(group), []
    with eval_mode(model):
        for first in range(share.start, m, group):
            here = _slices(share.stop - share.start, size)
            parts = (slice(first + part.start, first + part.stop) for part in here)
            mean = _mean_gradient(model, loss_fn, ((take(x, i), take(y, i)) for i in parts), group, check)
            ranks.all_reduce_(mean)
            gradients.append([g + l2 * p.detach() for g, p in zip(mean, trainable(model), strict=True)] if l2 else mean)
    stacked = (torch.stack([g.flatten() for g in same]).double() for same in zip(*gradients, strict=True))
    products = sum(g @ g.T for g in stacked).cpu().numpy()
    own, total = products.diagonal(), products.sum()

    def estimate(count: int, total: np.ndarray, own: np.ndarray) -> np.ndarray:
        """From the sum of all products g_j · g_k of so many groups, and that of their squares."""
        spread = (own - total / count) / (count - 1)  # of one group's mean
        return (total - own) / (count * (count - 1)) + group / n * spread

    without = estimate(GROUPS - 1, total - 2 * products.sum(1) + own, own.sum() - own)
    jackknife = (GROUPS - 1) / GROUPS * ((without - without.mean()) ** 2).sum()
    noise = _squared_covariance(products)
    linear = max(0.0, jackknife - 4 * noise / (GROUPS * (GROUPS - 2)))
    quadratic = 2 * noise / (GROUPS * (GROUPS - 1))
    error = math.sqrt(linear * (1 - m / n) + quadratic * (1 - m / n) ** 2)
    return SampledSqnorm(float(estimate(GROUPS, total, own.sum())), error)


def _squared_covariance(products: np.ndarray) -> float:
    """tr(Σ²), unbiased, of the vectors g_k with these products: a quarter of the mean of ((g_i − g_j) · (g_k − g_l))²
    over four that differ."""
    i, j = np.array([*combinations(range(len(products)), 2)]).T
    rows = products[i] - products[j]
    squares = (rows[:, i] - rows[:, j]) ** 2
    shared = (i[:, None] == i) | (i[:, None] == j) | (j[:, None] == i) | (j[:, None] == j)
    return squares[~shared].mean() / 4


def _chunk(x: Batch) -> int:
    """A default for `chunk`; a token counts as the vector that a model makes of it."""
    widths = (t[0].numel() * (1 if t.is_floating_point() else _TOKEN) for t in rows(x) if len(t))
    return max(1, CHUNK.get(device(x).type, CHUNK["cuda"]) // max(1, sum(widths)))


def _slices(n: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(n, start + chunk)) for start in range(0, n, chunk))


def _mean_gradient(
    model: nn.Module, loss_fn: Loss, batches: Iterable[tuple[Batch, Batch]], n: int, check: bool = False
) -> list[Tensor]:
    """Mean of the batches' gradients, weighted by their sizes over n; in float32 at least."""
    parameters, modules, total = trainable(model), dict(model.named_modules()), []
    for x, y in batches:
        m, apart = n_samples(x, y), check and bool(chain(model, x))
        with torch.enable_grad(), unmoved(modules, device(x)) if check else nullcontext():
            output = call(model, x)
            loss = scalar_loss(loss_fn, output, y)
        if check and m > 1:
            check_samples(model, loss_fn, x, y, loss, output, apart=apart)
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradient = [wide(g.detach()) if n == m else wide(g.detach()) * (m / n) for g in gradient]
        total = [a.add_(b) for a, b in zip(total, gradient, strict=True)] if total else gradient
        del output, loss, gradient  # not beside the next batch's
    return total or [torch.zeros_like(wide(p)) for p in parameters]


def measure_constants(
    model: nn.Module, loss_fn: Loss, x: Batch, y: Batch, *, f_star: float = 0.0, l2: float = 0.0
) -> Constants:
    """L, σ² and Δ of A1–A3 as they are at this θ: `smoothness`, `population_variance`, and f(θ) − `f_star`.

    L and σ² are suprema in the theory; what is measured at one point bounds them from below.
    """
    with eval_mode(model):
        variance = population_variance(model, loss_fn, x, y).variance
        with torch.no_grad():
            weights = sum(p.double().square().sum().item() for p in trainable(model))
            loss = loss_fn(call(model, x), y).item() + l2 / 2 * weights
    return Constants(L=smoothness(model, loss_fn, x, y, l2=l2), sigma2=variance, gap=loss - f_star)
