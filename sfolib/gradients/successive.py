"""What successive gradients, and the parts of a batch, tell of the step just made: T14's signal, without a pass of its
own.

    halves = SuccessiveGradients(policy.memory)
    for x, y in loader:
        optimizer.zero_grad()
        for xp, yp in zip(x.chunk(2), y.chunk(2)):  # gradients accumulate, as they would anyway
            (loss_fn(model(xp), yp) * len(xp) / len(x)).backward()
            halves.part(model.parameters(), len(xp))
        halves.step(model.parameters())
        optimizer.step()
        policy.update(len(x), halves.take() if policy.needs_signal else None)

Numbers stay on the device until `take`. Bad input raises `InputError`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from sfolib._utils.errors import require, whole
from sfolib.gradients.batches import wide

_STATE = (
    "rows", "known", "buffer", "steps", "mean", "largest", "before", "samples", "batches", "last", "epoch",
    "last_sqnorm", "epoch_sqnorm",
)  # fmt: skip


class SuccessiveProducts(NamedTuple):
    """T14's numbers of some steps in a row, each (steps,); all in the metric P of the step −ηPv (P = 1 for SGD).

    With G = ∇f, H the Hessian, Q = tr(HΣ), ν = 1 − 1/memory and μ the optimizer's momentum, in the mean:
    - product: a·g_t, a the mean of the gradients before with weights ∝ ν^j (memory 1: g_{t−1}): to first order in η,
      between − ηQ/(b(1 − νμ)); noise in directions with ηλ above 1/memory counts less [N].
    - between: ‖G‖² halfway between a and g_t; for memory 1 that is ‖G‖² − ηGᵀHG at the step of g_{t−1} [N].
    - sqnorm: ‖G‖² at the step of g_t. variance: tr Σ (by permutation of n samples with the divisor n − 1).
    - returned: 0, or by permutation what the noise of the epoch's earlier batches, which is in θ, adds to product,
      and twice to between and sqnorm, as the rest of the epoch takes it back (`SuccessiveGradients`). seen: the share
      of the epoch that is over; `returned` is at most so much of what product falls short by.
    nan where a step has none: the first of a run, those after a shorter batch, a batch of 1.
    """

    product: np.ndarray
    between: np.ndarray
    sqnorm: np.ndarray
    variance: np.ndarray
    returned: np.ndarray
    seen: np.ndarray


class SuccessiveGradients:
    """Collects `SuccessiveProducts` of the steps of a run with one seed.

    memory: steps, 1 or more, that a product goes back on the average. n: the number of samples, where every epoch is a
    permutation of them; None: independent draws. By permutation
    - the batches of an epoch, and the parts of one, are anticorrelated: their products are lower by tr Σ/n (divisor
      n − 1, T14). That is put back.
    - so are g_t and the epoch's earlier noise, which is in θ: with T_t the sum of the (1 − ηλ)^j that is left of it,
      g_t·G is too high by ηQT_t/n. It is told apart by lags [N]: (c_t + c_j)/2 − g_t·g_j, c the estimate of ‖G‖², is
      ηQ/b at lag 1 and, where θ moves in a stationary way, ηQ(1 + (1 − ηλ)^j)/2b at lag j. Summed over the epoch's k
      batches before, twice, less k times the first, it is the sum of what is left. Where ∇f itself changes much within
      an epoch, this is too much.

    noise_alone: sqnorm and variance are known, which takes no other step's gradient; the rest is nan.
    """

    def __init__(self, memory: float = 1.0, n: int | None = None, noise_alone: bool = False):
        require(1 <= memory < math.inf, "memory", memory, "must be finite, 1 or above")
        self._keep, self.n = 1 - 1 / memory, None if n is None else whole("n", n)
        self.noise_alone = noise_alone
        # each: a·g, ‖g‖², Σ_r w_r²‖g_r‖², and by permutation g_{t−1}·g, Σ_j b_j g_j·g
        self.rows: list[list[Tensor]] = []
        self.known: list[list[float]] = []  # each: Σ_r w_r², b, share of a in the epoch, of g in the next a, Σ_j b_j
        self.buffer: list[Tensor] | None = None
        self.steps, self.mean = 0, math.nan  # in the buffer; the mean of sqnorm with its weights
        self.largest = self.before = 0  # batch sizes
        self.samples = self.batches = 0  # of the epoch so far
        self.last: list[Tensor] | None = None  # by permutation: the gradient before; Σ_j b_j g_j of the epoch
        self.epoch: list[Tensor] | None = None
        self.last_sqnorm, self.epoch_sqnorm = math.nan, 0.0
        self._parts: list[tuple[Tensor, int]] = []
        self._so_far: list[Tensor] | None = None
        self._local: Tensor | None = None

    def add(
        self,
        parts: Sequence[tuple[Sequence[Tensor], int]],
        metric: Sequence[Tensor] | None = None,
        known: bool = True,
    ) -> list[Tensor]:
        """A step on a batch whose parts have these mean gradients and sizes; returns the mean gradient of all.

        metric: the diagonal of P, a tensor for each gradient, made of the gradients before this step (Adam:
        1/(√v̂ + ε)); None: SGD. known: False where there is no P yet, and nothing to be told of this step.
        """
        size = sum(size for _, size in parts)
        weights = [each / size for _, each in parts]
        mean, *others = (torch._foreach_mul([*g], w) for w, (g, _) in zip(weights, parts, strict=True))
        for other in others:
            torch._foreach_add_(mean, other)
        squares = sum(w**2 * _dot(g, g, metric) for w, (g, _) in zip(weights, parts, strict=True))
        self._record(mean, squares, sum(w**2 for w in weights) if known else math.nan, size, metric)
        return mean

    def part(self, parameters: Iterable[nn.Parameter], size: int) -> None:
        """After a backward pass on `size` samples of the batch: parameters hold in `.grad` what the passes so far add
        to the gradient of its mean loss."""
        now = _gradients(parameters)
        self._check_same(now, self._so_far)
        new = now if self._so_far is None else torch._foreach_sub(now, self._so_far)
        self._parts.append((_dot(new, new, None), whole("size", size)))
        self._so_far = [g.clone() for g in now]

    def step(self, parameters: Iterable[nn.Parameter], size: int | None = None) -> None:
        """Before the optimizer's step, SGD: `.grad` is the gradient of the batch.

        size: of the batch over all ranks, where `hook` saw the ranks' gradients in place of `part`.
        """
        gradient = _gradients(parameters)
        self._check_same(gradient, self.buffer)
        if self._local is not None:
            dist.all_reduce(self._local)
            self._record(gradient, self._local, 1 / dist.get_world_size(), whole("size", size), None)
        else:
            require(len(self._parts) > 0, "parts", 0, "call part() after every backward pass")
            total = sum(size for _, size in self._parts)
            share = sum((size / total) ** 2 for _, size in self._parts)
            self._record(gradient, sum(square for square, _ in self._parts), share, total, None)
        self._parts, self._so_far, self._local = [], None, None

    def _check_same(self, gradient: Sequence[Tensor], before: Sequence[Tensor] | None) -> None:
        same = before is None or [g.shape for g in gradient] == [g.shape for g in before]
        why = "must be those of the step before: begin with a new SuccessiveGradients where other parameters train"
        require(same, "parameters", len(gradient), why)

    @staticmethod
    def hook(state, bucket):  # torch refuses annotations that are strings
        """For `DistributedDataParallel.register_comm_hook(halves, SuccessiveGradients.hook)`: the parts are the ranks'.

        Equal shares of the batch on every rank; torch's own all-reduce, and one number more at `step`.
        """
        square = (wide(bucket.buffer()) / dist.get_world_size()).square().sum()
        state._local = square if state._local is None else state._local + square
        return allreduce_hook(None, bucket)

    def take(self) -> SuccessiveProducts:
        """Of the steps since the last call."""
        if not self.rows:
            return SuccessiveProducts(*np.zeros((6, 0)))
        flat = torch.stack([number for row in self.rows for number in row])
        product, square, squares, *permuted = flat.detach().double().cpu().numpy().reshape(len(self.rows), -1).T
        share, size, in_epoch, newest, seen = np.array(self.known).T
        self.rows, self.known = [], []
        with np.errstate(divide="ignore", invalid="ignore"):
            sqnorm = np.where(share < 1, (square - squares) / (1 - share), np.nan)  # of different parts alone
        variance = (square - sqnorm) * size
        returned = over = np.zeros(len(size))
        if self.noise_alone:
            unknown = np.full(len(size), np.nan)
            sqnorm = sqnorm if self.n is None else sqnorm + variance / self.n
            return SuccessiveProducts(unknown, unknown, sqnorm, variance, unknown, unknown)
        if self.n is not None:
            lower = variance / self.n
            sqnorm, product = sqnorm + lower, product + in_epoch * lower
            over = seen / self.n
            returned = self._returned(sqnorm, lower, size, seen, *permuted)
        between = np.empty(len(size))
        for t, now in enumerate(sqnorm.tolist()):
            between[t] = (self.mean + now) / 2
            if not np.isnan(now):
                self.mean = now if np.isnan(self.mean) else self.mean + float(newest[t]) * (now - self.mean)
        return SuccessiveProducts(product, between, sqnorm, variance, returned, over)

    def _returned(
        self, sqnorm: np.ndarray, lower: np.ndarray, size: np.ndarray, seen: np.ndarray, lag_one: np.ndarray,
        epoch: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """ηQT_t/n; seen: samples of the epoch before each step."""
        found = np.zeros(len(sqnorm))
        for t, now in enumerate(sqnorm.tolist()):
            if seen[t]:
                first = (self.last_sqnorm + now) / 2 - lag_one[t] - lower[t]
                each = (seen[t] * now + self.epoch_sqnorm) / 2 - epoch[t] - seen[t] * lower[t]
                found[t] = (2 * each - seen[t] * first) / self.n
            else:
                self.epoch_sqnorm = 0.0
            self.last_sqnorm, self.epoch_sqnorm = now, self.epoch_sqnorm + float(size[t]) * now
        return found

    def _record(self, mean: list[Tensor], squares: Tensor, share: float, size: int, metric: Any) -> None:
        nu, none = self._keep, mean[0].new_zeros(())
        if self.noise_alone:
            self.rows.append([none, _dot(mean, mean, metric), squares])
            self.known.append([share, size, 0.0, 0.0, 0])
            return
        weight = 1 - nu**self.steps if self.steps else math.nan
        if not nu and self.before < self.largest:  # a shorter batch (an epoch's end) has more noise
            weight = math.nan
        product = none + math.nan if self.buffer is None else _dot(self.buffer, mean, metric) * ((1 - nu) / weight)
        row = [product, _dot(mean, mean, metric), squares]
        if self.n is not None:
            row += [none if other is None else _dot(other, mean, metric) for other in (self.last, self.epoch)]
        self.rows.append(row)
        in_epoch, newest = (1 - nu**self.batches) / weight, (1 - nu) / (1 - nu ** (self.steps + 1))
        self.known.append([share, size, in_epoch, newest, self.samples])
        if self.buffer is None or not nu:
            self.buffer = [g.clone() for g in mean]
        else:
            torch._foreach_mul_(self.buffer, nu)
            torch._foreach_add_(self.buffer, mean)
        self.steps, self.before, self.largest = self.steps + 1, size, max(self.largest, size)
        if self.n is not None:
            self.last, scaled = [g.clone() for g in mean], torch._foreach_mul(mean, float(size))
            if self.epoch is None:
                self.epoch = scaled
            else:
                torch._foreach_add_(self.epoch, scaled)
            self.samples, self.batches = self.samples + size, self.batches + 1
            if self.samples >= self.n:
                self.samples, self.batches, self.epoch = 0, 0, None

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require(set(state) == set(_STATE), "state", [*state], f"entries must be {[*_STATE]}")
        for name, value in state.items():
            setattr(self, name, [*value] if isinstance(value, list) else value)


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """`.grad` of what is trained, in float32 at least; 0 where the loss has not used it."""
    trained = [p for p in parameters if p.requires_grad]
    return [torch.zeros_like(wide(p.detach())) if p.grad is None else wide(p.grad.detach()) for p in trained]


def _dot(left: Sequence[Tensor], right: Sequence[Tensor], metric: Sequence[Tensor] | None) -> Tensor:
    if metric is not None:
        left = torch._foreach_mul(list(left), list(metric))
    first, *others = (torch.dot(wide(a).flatten(), wide(b).flatten()) for a, b in zip(left, right, strict=True))
    for other in others:
        first = first + other
    return first
