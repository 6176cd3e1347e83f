"""A plan or a policy in anyone's loop: its batch size by a batch sampler, its learning rate by a scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Sampler

from sfolib._utils.errors import positive, require
from sfolib._utils.rng import epoch_order
from sfolib.schedules.plan import Plan, Step


class Leader(Protocol):
    """What says the next step's batch size and lr: a `Plan`, or one of the policies of `sfolib.adaptive`."""

    def after(self, step: int, samples: int, samples_per_epoch: int) -> Step: ...


class ScheduledBatchSampler(Sampler[list[int]]):
    """Batches of the sizes that `plan` says, for a plain `DataLoader(data, batch_sampler=…)`; an iteration is an epoch.

    The indices are those of `epoch_order` by permutation, so that they are a function of n, seed and plan alone: the
    batches are `plan.table(n, epochs)` exactly, whatever workers prefetch. A policy must see each step before it can
    say the next batch size: with prefetching workers it raises `InputError` at the second batch.
    An iteration that is left before its end begins again where it began; to go on, load the state of that moment.
    """

    def __init__(self, n: int, plan: Leader, seed: int = 0):
        require(isinstance(n, int) and n > 0, "n", n, "must be a whole number above 0")
        require(hasattr(plan, "after"), "plan", plan, "must be a Plan or a policy")
        self.n, self.plan, self.seed = n, plan, seed
        self._start = (0, 0)  # steps and samples when the next iteration begins
        self._trail = [self._start]  # the same after each batch that was handed out since

    def __iter__(self) -> Iterator[list[int]]:
        step, samples = self._start
        self._trail = [self._start]
        epoch = samples // self.n
        order, first = epoch_order(self.n, self.seed, epoch, "permutation").tolist(), epoch * self.n
        while samples < first + self.n:
            row = self.plan.after(step, samples, self.n)
            indices = order[samples - first : row.samples - first]
            step, samples = row.step, row.samples
            self._trail.append((step, samples))
            yield indices
        self._start = (step, samples)

    def __len__(self) -> int:
        """Batches of the present iteration, or of the next one between two; a policy's cannot be known."""
        if not isinstance(self.plan, Plan):
            raise TypeError("the number of batches is the policy's to decide")
        (step, samples), batches = self._start, 0
        end = (samples // self.n + 1) * self.n
        while samples < end:
            row = self.plan.after(step, samples, self.n)
            step, samples, batches = row.step, row.samples, batches + 1
        return batches

    def state_dict(self, step: int) -> dict[str, int]:
        """Where a run stands after `step` optimizer steps (since the first epoch), which the sampler cannot know: with
        prefetching workers it has handed out batches that are still to be trained on."""
        first, last = self._trail[0][0], self._trail[-1][0]
        require(first <= step <= last, "step", step, f"must be among the steps of this epoch so far, {first} to {last}")
        step, samples = self._trail[step - first]
        return {"n": self.n, "seed": self.seed, "step": step, "samples": samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there. Raises `InputError` for the state of another order of samples."""
        for name in ("n", "seed"):
            require(state[name] == getattr(self, name), name, getattr(self, name), f"must be {state[name]} as saved")
        self._start = (state["step"], state["samples"])
        self._trail = [self._start]


class PlanLR(LRScheduler):
    """Sets the optimizer's lr to what `plan` says for the next step; call `step()` after every optimizer step.

    Its clock is its own: it counts steps, and out of them samples and epochs, as the plan batches
    `samples_per_epoch` of them. So it agrees with a `ScheduledBatchSampler` of the same plan, prefetching or not. With
    a policy, update the policy first. Parameter groups keep the ratio of their lr to that of the first.
    """

    def __init__(self, optimizer: Optimizer, plan: Leader, samples_per_epoch: int):
        ok = isinstance(samples_per_epoch, int) and samples_per_epoch > 0
        require(ok, "samples_per_epoch", samples_per_epoch, "must be a whole number above 0")
        positive("lr of the first parameter group", float(optimizer.param_groups[0]["lr"]))
        self.plan, self.samples_per_epoch = plan, samples_per_epoch
        self.samples = 0  # gradient evaluations so far
        super().__init__(optimizer)

    def step(self, epoch: None = None) -> None:
        require(epoch is None, "epoch", epoch, "is counted here; call step() after every optimizer step")
        if self.last_epoch >= 0:  # torch's name for the steps so far, −1 while it is being built
            self.samples = self._row.samples
        self._row = self.plan.after(self.last_epoch + 1, self.samples, self.samples_per_epoch)
        super().step()

    def get_lr(self) -> list[float]:
        return [self._row.lr * (base / self.base_lrs[0]) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Steps and samples so far: the plan is not stored."""
        return {"step": self.last_epoch, "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch, self.samples = state_dict["step"], state_dict["samples"]
        self._row = self.plan.after(self.last_epoch, self.samples, self.samples_per_epoch)
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr
