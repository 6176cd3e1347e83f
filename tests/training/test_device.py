"""A training step asks no number of a device and leaves nothing on the CPU: every task takes one on device "meta",
where tensors have no values, which a step that asks for one cannot do."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sfolib.problems.batches import crop_and_flip
from sfolib.problems.execution import Execution
from sfolib.problems.network import ImageData, NetworkTask
from sfolib.problems.specs import Digits, Quadratic
from sfolib.training import updates
from sfolib.training.optimizers import SGD, AdaGradNorm


class OnMeta(TorchDispatchMode):
    """Fails at an operation that reads or makes a tensor that is not on "meta"."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, found))
        places = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        assert places <= {"meta"}, f"{func} on {places}"
        return found


def network(model, **how):
    x, y = np.zeros((40, 3, 32, 32), np.uint8), np.arange(40) % 10
    data = ImageData((x, y), (x[:10], y[:10]), 10, (0.5,) * 3, (0.25,) * 3, crop_and_flip)
    return lambda *asked: NetworkTask(model, data, 1e-3, *asked, Execution(log_train_metrics=True, **how))


def described(problem, sampling="permutation", log=True):
    return lambda seeds, _, *place: problem.build_task(seeds, sampling, *place, Execution(log_train_metrics=log))


@pytest.mark.parametrize(
    "build",
    [
        described(Quadratic(d=5), "replacement", log=False),
        described(Digits()),
        described(Digits(hidden=(7,)), "replacement"),
        described(Digits(model="cnn", l2=1e-3)),
        network("cnn"),
        network("cnn", max_micro_batch=5),
        network("resnet8", channels_last=True),
    ],
)
def test_a_step_needs_no_value_and_no_other_device(build):
    task = build((0, 1), "permutation", "meta", "float32")
    optimizers = [SGD(), SGD(momentum=0.9, weight_decay=1e-3), AdaGradNorm()]  # torch's Adam counts on the CPU
    optimizers = [updates.build(optimizer, task.parameters) for optimizer in optimizers]
    task.gradients(0, 0, 8)  # gathers the epoch: its order is drawn on the CPU
    with OnMeta():
        for step, update in enumerate(optimizers):
            gradients = task.gradients(1 + step, 8, 8)
            update(gradients, 0.1)
    shapes = [(g.shape, g.device.type) for g in gradients]
    assert shapes == [(p.shape, "meta") for p in task.parameters]
