"""What a client's callback tells a policy after each step: the size of its batch and, where it is due, the signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sfolib._utils.distributed import SINGLE, ProcessGroup
from sfolib._utils.errors import require
from sfolib.gradients.per_sample import Loss
from sfolib.gradients.statistics import gradient_statistics
from sfolib.schedules.adaptive.base import Policy
from sfolib.schedules.torch import ScheduledBatchSampler

Measure = Callable[[nn.Module, Any], Any]
_BEFORE = ("gradient_statistics", "second_moment")  # signals of the parameters that the step begins at


class Looks:
    """Answers the looks of the policy of `sampler` in a loop that draws one batch ahead.

    The batch that was drawn before a look has the size from before it, so a look takes effect a batch later; with
    workers, which draw more, say `lookahead=` to the sampler.

    loss_fn: loss_fn(model(x), y), the mean over a batch (x, y), for policies that look at per-sample gradients; with
    several ranks these are those of all. signal: signal(model, batch) in its place, the same on every rank; called
    before the step for per-sample gradients, else behind it. A policy that looks at losses needs neither.
    """

    def __init__(self, sampler: ScheduledBatchSampler, loss_fn: Loss | None = None, signal: Measure | None = None):
        policy = getattr(sampler, "plan", None)
        require(isinstance(policy, Policy), "sampler", sampler, "must be of a policy; for a plan PlanLR is enough")
        require(sampler.max_micro_batch is None, "max_micro_batch", sampler.max_micro_batch, "is not for policies here")
        per_sample = policy.signal in _BEFORE
        answered = signal is not None or policy.signal == "loss" or (per_sample and loss_fn is not None)
        why = f"is needed: {type(policy).__name__} looks at {policy.signal!r}" + (", or loss_fn" if per_sample else "")
        require(answered, "signal", None, why)
        self.sampler, self.policy, self._loss_fn, self._own = sampler, policy, loss_fn, signal
        self._found: Any = None
        self._last: Any = None  # the batch before, for one of a single sample
        sampler.lookahead = max(sampler.lookahead, 1)

    @property
    def measures_before(self) -> bool:
        """Whether `before` will look at the batch."""
        return self.policy.needs_signal and self.policy.signal in _BEFORE

    def before(self, model: nn.Module, batch: Any) -> None:
        """Before the step on `batch`, this rank's part of it; leaves no trace on the model."""
        if not self.measures_before:
            return
        if self._own is not None:
            self._found = self._own(model, batch)
            return
        x, y = batch
        group, second_moment = ranks(), self.policy.signal == "second_moment"
        if group.size == len(x) == 1:  # twice the one, or with the sample before it
            before = batch if second_moment else self._last
            require(before is not None, "samples of the first look", 1, "must be 2 or more: one has no variance")
            x, y = (torch.cat([a[-1:], b]) for a, b in zip(before, batch, strict=True))
        found = gradient_statistics(model, self._loss_fn, x, y, ranks=group)
        self._found = found.second_moment if second_moment else found

    def after(self, model: nn.Module, batch: Any, loss: Tensor | None) -> None:
        """After the step: updates the policy. loss: this rank's mean loss of the batch."""
        policy, taken, group, self._last = self.policy, self.sampler.taken, ranks(), batch
        signal, self._found = self._found, None
        looked = policy.needs_signal
        if looked and signal is None:
            if self._own is not None:
                signal = self._own(model, batch)
            else:
                share = group.shard(taken)
                signal = group.mean([loss.detach().double()], (share.stop - share.start) / taken)[0].item()
        policy.update(taken, signal)
        if looked:
            group.agree("what the policy was told", policy.batch_size, policy.lr)


def ranks() -> ProcessGroup:
    """The processes of this run."""
    if not (dist.is_available() and dist.is_initialized()):
        return SINGLE
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


def one_batch_a_step(accumulate: int) -> None:
    """Refuse accumulation: what a policy sizes is the batch of a step."""
    require(accumulate == 1, "accumulated batches", accumulate, "must be 1: a policy says the batch of each step")
