"""AdaScale with its S workers in the training loop, for all seeds at once, each at the pace of its own gain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfolib._utils.errors import require
from sfolib.problems.stacked import Task
from sfolib.schedules.adaptive.adascale import AdaScale, Parallel
from sfolib.training.spec import Workers


class WorkersTask(Task):
    """A task whose batches are taken in S parts, each seed's mean gradient times its gain; see `spec.Workers`.

    batch_size, lr: of the plan, that is of all workers together, and of a single worker.
    """

    def __init__(self, task: Task, workers: Workers, batch_size: int, lr: float, seeds: int):
        scale = workers.scale
        require(batch_size % scale == 0, "batch_size", batch_size, f"must be a multiple of workers.scale = {scale}")
        self.task, self.iterations, self._planned = task, workers.iterations, lr
        self.policies = [AdaScale(scale, batch_size=batch_size // scale, lr=lr) for _ in range(seeds)]
        self.samples_per_epoch, self.parameters, self.probes = task.samples_per_epoch, task.parameters, task.probes

    @property
    def finished(self) -> bool:
        return min(policy.tau for policy in self.policies) >= self.iterations

    def lr_factors(self) -> list[float]:
        return [policy.gain for policy in self.policies]

    def batch_size(self, samples: int, nominal: int) -> int:
        size = self.task.batch_size(samples, nominal)
        require(size == nominal, "sampling", "permutation", "must be 'replacement': workers need whole batches")
        return size

    def gradients(self, step: int, samples: int, batch_size: int) -> list[Tensor]:
        scale = self.policies[0].scale
        parts = self.task.of_parts(step * scale, samples, [batch_size // scale] * scale)
        mean = [sum(same) / scale for same in zip(*parts, strict=True)]
        sqnorms, of_mean = [_sqnorms(g) for g in parts], _sqnorms(mean)
        rates = []
        for seed, policy in enumerate(self.policies):
            rates.append(policy.lr / self._planned)
            policy.update(batch_size, Parallel.of([s[seed] for s in sqnorms], of_mean[seed]))
        return [g * torch.tensor(rates, dtype=g.dtype, device=g.device).view(-1, *[1] * (g.dim() - 1)) for g in mean]

    def measure(self) -> dict[str, Tensor]:
        now = {"tau": [policy.tau for policy in self.policies], "gain": self.lr_factors()}
        return self.task.measure() | {name: torch.tensor(v, dtype=torch.float64) for name, v in now.items()}

    def state_dict(self) -> dict[str, Any]:
        return self.task.state_dict() | {"workers": [policy.state_dict() for policy in self.policies]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task.load_state_dict(state)
        for policy, saved in zip(self.policies, state["workers"], strict=True):
            policy.load_state_dict(saved)

    def provenance(self) -> dict[str, Any]:
        return self.task.provenance()


def _sqnorms(gradients: list[Tensor]) -> list[float]:
    """‖g‖² of each seed's gradient."""
    return sum(g.double().square().flatten(1).sum(1) for g in gradients).tolist()
