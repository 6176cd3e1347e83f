"""numpy's numbers count as Python's, and are held as these."""

import json

import numpy as np
import pytest

from sfolib import Digits, InputError, NormTest, Plan, ScheduledBatchSampler, Spec
from sfolib._utils.errors import whole
from sfolib.problems.models import build
from sfolib.schedules.base import piecewise

N = np.int64


def test_whole():
    assert [type(whole("n", n)) for n in (3, N(3), np.uint8(3))] == [int] * 3
    for bad in (N(0), np.float64(3.0), np.True_, True, "3"):
        with pytest.raises(InputError, match="must be a whole number"):
            whole("n", bad)


def test_what_takes_numbers():
    plan = Plan(N(16), np.float64(0.5))
    assert plan == Plan(16, 0.5)
    assert Plan(batch_size=piecewise(np.array([4, 8]), [N(100)]), lr=1).at(0)[0] == 4
    spec = Spec(problem=Digits(), plan=plan, max_samples=N(100), eval_every=np.float32(1.5), seeds=(N(0), N(1)))
    assert spec == Spec(problem=Digits(), plan=Plan(16, 0.5), max_samples=100, eval_every=1.5, seeds=(0, 1))
    policy = NormTest(0.5, batch_size=N(8), lr=np.float32(0.5), test_interval=N(5), max_batch_size=N(64))
    assert json.loads(json.dumps(policy.state_dict()))["batch_size"] == 8
    assert json.loads(policy.description.model_dump_json())["lr"] == 0.5
    assert [len(batch) for batch in ScheduledBatchSampler(N(40), plan)] == [16, 16, 8]
    build("mlp", N(3), (N(1), N(4), N(4)), N(0))
