"""A plan's learning rate in anyone's loop; its batch size is `data.ScheduledBatchSampler`'s part."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sfolib.data import Followed
from sfolib.errors import positive, require


class PlanLR(LRScheduler):
    """Sets the optimizer's lr to what `plan` says for the next step; call `step()` after every optimizer step.

    Its clock is its own: it counts steps, and out of them samples and epochs, as the plan batches
    `samples_per_epoch` of them. So it agrees with a `ScheduledBatchSampler` of the same plan, prefetching or not. With
    a policy, update the policy first. Parameter groups keep the ratio of their lr to that of the first.
    """

    def __init__(self, optimizer: Optimizer, plan: Followed, samples_per_epoch: int):
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
