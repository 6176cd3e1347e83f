"""What the dense networks do at once, to the bits of what is done one after the other."""

import pytest

from sfolib.problems import stacked
from sfolib.problems.execution import Execution
from sfolib.problems.specs import Digits


def task(seeds=(3,), sampling="permutation"):
    how = Execution(log_train_metrics=True)
    return Digits(hidden=(16,), holdout=360).build_task(seeds, sampling, "cpu", "float32", how)


@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
@pytest.mark.parametrize("sizes", [[8, 8], [4, 4, 4, 4], [7, 8], [1, 1], [5]])
def test_parts_side_by_side(sizes, sampling):
    at_once, each = task(sampling=sampling), task(sampling=sampling)
    found = at_once.of_parts(10, 64, sizes)
    expected = stacked.Task.of_parts(each, 10, 64, sizes)
    for part, wanted in zip(found, expected, strict=True):
        assert all(g.equal(w) for g, w in zip(part, wanted, strict=True))
    assert at_once.running_metrics.steps == each.running_metrics.steps
    assert at_once.running_metrics.loss.equal(each.running_metrics.loss)


def test_seeds_measured_a_few_at_a_time(monkeypatch):
    whole = task(range(5)).measure()
    monkeypatch.setattr(stacked, "_AT_ONCE", 2 * 1437 * 64)
    some = task(range(5)).measure()
    assert whole.keys() == some.keys()
    assert all(whole[name].equal(some[name]) for name in whole if not name.startswith("running"))
