"""A task's networks as modules: the same function of the same data, as it is now."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import InputError
from sfolib.problems.modules import modules, training_data
from sfolib.problems.specs import Digits, Quadratic


@pytest.mark.parametrize("model", ["softmax", "mlp", "cnn"])
def test_they_are_what_the_task_measures(model):
    task = Digits(model=model, l2=0.0, holdout=1000).build_task((3, 4), "replacement", "cpu", "float64")
    for step in range(2):
        for parameter in task.parameters:
            parameter += 0.01 * step  # what was handed out before does not matter
        x, y = training_data(task)
        losses = [cross_entropy(module.eval()(x), y).item() for module in modules(task)]
        assert losses == pytest.approx(task.measure()["loss"].tolist(), rel=1e-10)
    assert len(losses) == 2


def test_a_dense_module_is_a_copy():
    task = Digits(hidden=(4,), holdout=1000).build_task((0,), "replacement", "cpu", "float32")
    before = [parameter.clone() for parameter in task.parameters]
    for parameter in modules(task)[0].parameters():
        parameter.data.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, task.parameters, strict=True))


def test_the_quadratic_has_none():
    with pytest.raises(InputError, match="no network"):
        modules(Quadratic(d=4).build_task((0,), "replacement", "cpu", "float64"))
