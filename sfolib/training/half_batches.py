"""Every batch in two halves, for a policy that looks at successive gradients: no evaluation more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfolib._utils.errors import require
from sfolib.gradients.successive import SuccessiveGradients
from sfolib.problems.stacked import Task
from sfolib.schedules.adaptive.base import Policy
from sfolib.schedules.adaptive.successive_gradients import SuccessiveGradientTest
from sfolib.training.optimizers import SGD, Adam, Optimizer
from sfolib.training.updates import Update


class HalvedTask(Task):
    """A task of one seed that takes its batches in halves and collects `SuccessiveProducts` of them.

    Under BatchNorm the statistics are those of the halves. With `SuccessiveGradientTest` there are columns
    online_grad_sqnorm (‖∇f‖², in the metric of the optimizer) and critical_batch_size, each with _low and _high; nan
    before a stage's first look.
    `update` must be set before the first step.
    """

    update: Update

    def __init__(self, task: Task, policy: Policy, optimizer: Optimizer, permuted: bool):
        memory, self._tests = 1.0, isinstance(policy, SuccessiveGradientTest)
        if self._tests:
            _check(policy, optimizer)
            memory = policy.memory
        self.task, self.policy, self._adaptive = task, policy, self._tests and not isinstance(optimizer, SGD)
        self.samples_per_epoch, self.parameters, self.probes = task.samples_per_epoch, task.parameters, task.probes
        self.ranks, self.running_metrics = task.ranks, task.running_metrics
        n = task.samples_per_epoch if permuted else None
        self.products = SuccessiveGradients(memory, n, noise_alone=policy.signal == "noise_and_loss")

    def batch_size(self, samples: int, nominal: int) -> int:
        return self.task.batch_size(samples, nominal)

    def gradients(self, step: int, samples: int, batch_size: int) -> list[Tensor]:
        half = batch_size // 2
        sizes = [half, batch_size - half][half == 0 :]
        # its own step number for each, as the quadratic's noise depends on it
        parts = self.task.of_parts(2 * step + (half == 0), samples, sizes)
        return self.products.add(
            [*zip(parts, sizes, strict=True)],
            self.update.metric() if self._adaptive else None,
            known=not self._adaptive or step > 0,
        )

    def measure(self) -> dict[str, Tensor]:
        found = self.task.measure()
        if not self._tests:
            return found
        estimates = {"online_grad_sqnorm": self.policy.grad_sqnorm, "critical_batch_size": self.policy.critical}
        for name, estimate in estimates.items():
            for end, number in estimate._asdict().items():
                found[name if end == "value" else f"{name}_{end}"] = torch.tensor([number], dtype=torch.float64)
        return found

    def state_dict(self) -> dict[str, Any]:
        return self.task.state_dict() | {"products": self.products.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task.load_state_dict(state)
        self.products.load_state_dict(state["products"])

    def provenance(self) -> dict[str, Any]:
        return self.task.provenance()


def _check(policy: SuccessiveGradientTest, optimizer: Optimizer) -> None:
    kind, decay = type(policy).__name__, optimizer.weight_decay
    why = f"must be 0 with {kind}: its step is not along −∇f; use the problem's l2"
    require(decay == 0, "optimizer.weight_decay", decay, why)
    plain = not (isinstance(optimizer, SGD) and optimizer.nesterov)
    require(plain, "optimizer.nesterov", True, f"must be false with {kind}: T14 is of heavy-ball momentum")
    momentum = optimizer.momentum if isinstance(optimizer, SGD) else 0.9 if isinstance(optimizer, Adam) else 0.0
    require(policy.momentum == momentum, "policy.momentum", policy.momentum, f"must be the optimizer's, {momentum}")
