"""Bad input is run or refused in a line that names it, never a traceback; `make torture` tries forty times as much."""

import json
import math
import re

import garbage
import pytest
import torture
from garbage import CONFIG, PLAN, QUADRATIC, SPEC, TEST, TRIGGER

from sfolib.schedules import base


def test_five_hundred_inputs():
    for name, found in torture.garbled(500, derandomize=True):
        refused = found.get(1, 0) + found.get(False, 0)
        accepted = sum(found.get(status, 0) for status in (0, 130)) + found.get(True, 0)
        assert min(refused, accepted) >= 3, (name, found)  # neither all refused nor all run


@pytest.mark.parametrize("name", garbage.CALLS)
def test_a_strange_argument_is_named(name):
    function, arguments = garbage.CALLS[name]
    if name not in garbage.SLOW:
        function(**{argument: value for argument, (value, _) in arguments.items()})
    refused = garbage.try_arguments(name)
    assert {argument for argument, _ in refused} == set(arguments)


def plan(**changes):
    return SPEC | {"plan": PLAN | changes}


def policy(**changes):
    return SPEC | {"plan": None, "policy": changes}


REFUSED = {
    "nested": ("[" * 20_000, "config = .*is not JSON"),
    "no stages": (plan(rows=5), "plan: rows = 5"),
    "kind of a schedule": (plan(lr={"kind": ["constant"]}), r"lr: kind = \['constant'\]: must be one of"),
    "milestones": (plan(batch_size={"kind": "milestones", "v0": 8, "factors": [True]}), "factors.0 = True"),
    "huge integer": (plan(lr={"kind": "constant", "v": 10**400}), "v = .*must be a finite number"),
    "batch of a policy": (policy(**TRIGGER | {"batch_size": [8]}), "batch_size = .8.: "),
    "lr of a policy": (policy(**TRIGGER | {"lr": "16"}), "lr = '16'"),
    "gamma of a policy": (policy(**TRIGGER | {"gamma": 0}), "gamma = 0: .*greater than 0"),
    "two test images": (SPEC | {"problem": SPEC["problem"] | {"holdout": 2}}, "holdout = 2: .*10 or more"),
    "eps whose square overflows": (SPEC | {"target_grad_norm": 1e200}, "target_grad_norm = 1e\\+200"),
    "wide layer": (SPEC | {"problem": {"kind": "digits", "hidden": [10**9]}}, "hidden.0 = 1000000000"),
    "infinite L": (SPEC | {"problem": QUADRATIC | {"L": math.inf}}, "L = inf"),
    "batch that overflows": (plan(batch_size=base.exponential(8, 1e300).model_dump()), "batch at epoch"),
    "huge batch": (
        plan(batch_size={"kind": "constant", "v": 1e12}) | {"sampling": "replacement"},
        "batch_size = 10.*max_batch_size",
    ),
    "more epochs than any run": (CONFIG | {"epochs": 2**31}, "epochs = 2147483648"),
    "batch that falls below 1": (CONFIG | {"bs_method": "linear_growth", "coefficient": -300}, "bs at epoch 1 = -100"),
    "no file name": (CONFIG | {"csv_path": "a\x00b"}, "folder = .*null"),
    "name of a field": (SPEC | {"a\nb\x1b[31m": 1}, r"a\\nb\\x1b\[31m: unknown name"),
    "a file in the way": (CONFIG | {"csv_path": "config.json"}, "folder = 'config.json': cannot be written"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_a_traceback_once_is_a_line(name, capsys):
    data, message = REFUSED[name]
    said = []
    assert garbage.try_file(data, said) == 1
    assert len(said) == 1
    assert re.search(message, said[0])


@pytest.mark.parametrize(
    "data",
    [
        plan(lr={"kind": "constant", "v": 1e39}),  # beyond float32
        policy(**TEST | {"batch_size": 1}),  # statistics of one sample, at the start
        SPEC | {"optimizer": {"kind": "adam", "weight_decay": 1e30}},
        SPEC | {"problem": QUADRATIC, "sampling": "replacement", "eval_every": 1e15, "max_samples": 10**15},
        CONFIG | {"bs_exp_rate": 1e300, "epochs": 1000, "csv_path": "é ✗"},
    ],
)
def test_extremes_that_are_allowed_run(data):
    assert garbage.try_file(data) in (0, 1, 130)
    json.dumps(data)
