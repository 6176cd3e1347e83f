"""A task's networks as modules, and its training data as they read them: what `sfolib.gradients` asks for."""

from __future__ import annotations

from torch import Tensor, nn

from sfolib._utils.errors import require
from sfolib.problems.network import NetworkTask
from sfolib.problems.stacked import MLP, Task, dense


def modules(task: Task) -> list[nn.Module]:
    """A module a seed: the network's own, or a copy of the dense network as it is now; the quadratic has none."""
    require(isinstance(task, MLP | NetworkTask), "task", type(task).__name__, "has no network")
    if isinstance(task, NetworkTask):
        return task.models
    return [dense([p[seed] for p in task.parameters]) for seed in range(len(task.parameters[0]))]


def training_data(task: MLP | NetworkTask) -> tuple[Tensor, Tensor]:
    """(x, labels) of the whole training set, for `modules`."""
    if isinstance(task, NetworkTask):
        return task.x, task.y
    return task.x[:, :-1], task.labels
