"""What successive gradients, and the parts of a batch, say of the step just made: T14's signal, without a pass of its
own.

    halves = SuccessiveGradients()
    for x, y in loader:
        optimizer.zero_grad()
        for xp, yp in zip(x.chunk(2), y.chunk(2)):
            (loss_fn(model(xp), yp) * len(xp) / len(x)).backward()  # gradients accumulate, as they would anyway
            halves.part(model.parameters(), len(xp))
        halves.step(model.parameters())
        optimizer.step()
        policy.update(len(x), halves.take() if policy.needs_signal else None)

Products stay on the device; `take` is the one transfer. Bad input raises `InputError`.
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


class SuccessiveProducts(NamedTuple):
    """T14's numbers of some steps in a row, each (steps,), all in the metric P of the step −ηPv (P = 1 for SGD).

    product: a·g_t, a the mean of the gradients before with weights ∝ ν^j, ν = 1 − 1/memory (memory 1: g_{t−1}).
    between: ‖G‖² halfway between a and g_t, which `product` falls short of by ηQ/(b(1 − νμ)) in the mean, to first
    order in η, with momentum μ, G = ∇f and Q = tr(HΣ) [N]. sqnorm: of ‖G‖² at the step itself. variance: of tr Σ
    (divisor n − 1 for n samples by permutation). All without bias, but for what `SuccessiveGradients` says.
    nan where a step has none: the first of a run, those after a shorter batch, a batch of 1.
    """

    product: np.ndarray
    between: np.ndarray
    sqnorm: np.ndarray
    variance: np.ndarray


class SuccessiveGradients:
    """Collects `SuccessiveProducts` of the steps of a run with one seed.

    memory: steps, 1 or more, that a product goes back on the average; see `SuccessiveProducts`. n: the number of samples, where every epoch is a permutation of them; None:
    independent draws. By permutation the batches of an epoch, and the parts of one, are anticorrelated: products of
    two of them are lower by tr Σ/n, which is put back (T14 [N], of two batches; what earlier ones of the epoch leave in
    θ is not, see `schedules.adaptive.SuccessiveGradientTest`).
    """

    def __init__(self, memory: float = 1.0, n: int | None = None):
        require(1 <= memory < math.inf, "memory", memory, "must be finite, 1 or above")
        self._keep, self.n = 1 - 1 / memory, None if n is None else whole("n", n)
        self.buffer: list[Tensor] | None = None
        self.samples = self.in_epoch = 0  # of the epoch: samples and batches so far
        self.steps, self.mean = 0, math.nan  # in the buffer; mean of ‖G‖² with its weights
        self.largest = self.before = 0  # batch sizes: of the steps since the last change, and of the last step
        self.rows: list[Tensor] = []  # each: v·g, ‖g‖², Σ_r w_r²‖g_r‖²
        self.known: list[list[float]] = []  # each: Σ_r w_r², b, share of v in the epoch, of g_t in the next v
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
        gradients = zip(*(g for g, _ in parts), strict=True)
        mean = [sum(w * g for w, g in zip(weights, same, strict=True)) for same in gradients]
        squares = sum(w**2 * _dot(g, g, metric) for w, (g, _) in zip(weights, parts, strict=True))
        self._record(mean, squares, sum(w**2 for w in weights) if known else math.nan, size, metric)
        return mean

    def part(self, parameters: Iterable[nn.Parameter], size: int) -> None:
        """After a backward pass on `size` samples of the batch: parameters hold in `.grad` what the passes so far add
        to the gradient of its mean loss."""
        now = [p.grad.detach() for p in parameters if p.grad is not None]
        new = now if self._so_far is None else torch._foreach_sub(now, self._so_far)
        self._parts.append((_dot(new, new, None), whole("size", size)))
        self._so_far = [g.clone() for g in now]

    def step(self, parameters: Iterable[nn.Parameter], size: int | None = None) -> None:
        """Before the optimizer's step: `.grad` is the gradient of the batch.

        size: of the batch over all ranks, where `hook` saw the ranks' gradients in place of `part`; SGD only.
        """
        gradient = [p.grad.detach() for p in parameters if p.grad is not None]
        if self._local is not None:
            squares, ranks = self._local.clone(), dist.get_world_size()
            dist.all_reduce(squares)
            self._record(gradient, squares, 1 / ranks, whole("size", size), None)
        else:
            require(len(self._parts) > 0, "parts", 0, "call part() after every backward pass")
            total = sum(size for _, size in self._parts)
            share = sum((size / total) ** 2 for _, size in self._parts)
            self._record(gradient, sum(square for square, _ in self._parts), share, total, None)
        self._parts, self._so_far, self._local = [], None, None

    @staticmethod
    def hook(state: SuccessiveGradients, bucket: Any) -> Any:
        """For `DistributedDataParallel.register_comm_hook(halves, SuccessiveGradients.hook)`: the parts are the ranks'.

        Equal shares of the batch on every rank; torch's own all-reduce, and one number more at `step`.
        """
        square = (bucket.buffer() / dist.get_world_size()).square().sum()
        state._local = square if state._local is None else state._local + square
        return allreduce_hook(None, bucket)

    def take(self) -> SuccessiveProducts:
        """Of the steps since the last call."""
        if not self.rows:
            return SuccessiveProducts(*np.zeros((4, 0)))
        product, square, squares = torch.stack(self.rows).double().cpu().numpy().T
        share, size, in_epoch, newest = np.array(self.known).T
        self.rows, self.known = [], []
        with np.errstate(divide="ignore", invalid="ignore"):
            sqnorm = np.where(share < 1, (square - squares) / (1 - share), np.nan)  # of different parts alone
        variance = (square - sqnorm) * size
        if self.n is not None:
            sqnorm, product = sqnorm + variance / self.n, product + in_epoch * variance / self.n
        between = np.empty(len(sqnorm))
        for t, now in enumerate(sqnorm):
            between[t] = (self.mean + now) / 2
            if not np.isnan(now):
                self.mean = now if np.isnan(self.mean) else self.mean + newest[t] * (now - self.mean)
        return SuccessiveProducts(product, between, sqnorm, variance)

    def _record(self, mean: list[Tensor], squares: Tensor, share: float, size: int, metric: Any) -> None:
        nu = self._keep
        weight = 1 - nu**self.steps if self.steps else math.nan
        if not nu and self.before < self.largest:  # a shorter batch (an epoch's end) has more noise
            weight = math.nan
        product = mean[0].new_zeros(()) if self.buffer is None else _dot(self.buffer, mean, metric)
        self.rows.append(torch.stack([product * ((1 - nu) / weight), _dot(mean, mean, metric), squares]))
        self.known.append([share, size, (1 - nu**self.in_epoch) / weight, (1 - nu) / (1 - nu ** (self.steps + 1))])
        if self.buffer is None or not nu:
            self.buffer = [g.clone() for g in mean]
        else:
            torch._foreach_mul_(self.buffer, nu)
            torch._foreach_add_(self.buffer, mean)
        self.before, self.largest = size, max(self.largest, size)
        self.steps, self.samples, self.in_epoch = self.steps + 1, self.samples + size, self.in_epoch + 1
        if self.n is not None and self.samples >= self.n:
            self.samples = self.in_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        names = ("buffer", "samples", "in_epoch", "steps", "mean", "largest", "before", "rows", "known")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require(set(state) == set(self.state_dict()), "state", [*state], f"entries must be {[*self.state_dict()]}")
        for name, value in state.items():
            setattr(self, name, [*value] if isinstance(value, list) else value)


def _dot(left: Sequence[Tensor], right: Sequence[Tensor], metric: Sequence[Tensor] | None) -> Tensor:
    if metric is not None:
        left = torch._foreach_mul(list(left), list(metric))
    return sum(torch.dot(a.flatten(), b.flatten()) for a, b in zip(left, right, strict=True))
