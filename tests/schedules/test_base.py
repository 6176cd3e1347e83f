"""Schedules at their boundaries, as values (repr, equality, dicts) and with bad arguments."""

import json
import math
from typing import Literal

import numpy as np
import pytest
from pydantic import ValidationError

from sfolib._utils.errors import InputError
from sfolib.schedules import base as s

ALL = [
    s.constant(0.1),
    s.linear(8, 4, 3),
    s.exponential(0.5, 1.5, 2),
    s.milestones(1.0, {5: 0.1, 2: 0.5}),
    s.piecewise([1.0, 2.5, 0.5], [3, 7]),
    s.polynomial(1.0, 0.1, 10, 2),
    s.cosine(1.0, 0.2, 8),
    s.ramp(1.0, 8.0, 3, 9, -0.5),
    s.interpolated([1.0, 8.0, 2.0], [3, 6, 9]),
    s.fitted(s.linear(4, 1, 3), 50),
    s.warmup(s.constant(0.4), 4),
    s.join([s.constant(1.0), s.linear(5, 1, 1), s.exponential(2, 2, 1)], [2, 6]),
    s.capped(s.exponential(8, 2, 1), 100),
    s.floored(s.cosine(8, 2, 10), 3),
    s.cyclic(8, 2, 3, 2, "cosine", 0.5, 0.9),
    s.warm_restarts(8, 32, 2, 2),
    s.function(s.linear(1, 1, 2), 3.0),
    s.multiplicative(2.0, s.piecewise([1.0, 1.5, 1.0], [2, 5])),
    s.power(s.linear(4, 1, 2), -0.5, 3.0),
    s.product([s.constant(3.0), s.linear(1, 1, 1)]),
]


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (s.constant(0.1), {0: 0.1, 10**9: 0.1}),
        (s.linear(8, 4, 3), {0: 8, 2: 8, 3: 12, 5: 12, 6: 16, 30: 48}),
        (s.exponential(16, 2, 20), {0: 16, 19: 16, 20: 32, 39: 32, 40: 64, 199: 16 * 2**9}),
        (s.milestones(1.0, {5: 0.1, 2: 0.5}), {0: 1, 1: 1, 2: 0.5, 4: 0.5, 5: 0.05, 99: 0.05}),
        (s.piecewise([1.0, 2.5, 0.5], [3, 7]), {0: 1, 2: 1, 3: 2.5, 6: 2.5, 7: 0.5, 99: 0.5}),
        (s.polynomial(1.0, 0.2, 10, 2), {0: 1, 5: 0.2 + 0.8 / 4, 10: 0.2, 11: 0.2}),
        (s.cosine(1.0, 0.2, 8), {0: 1, 4: 0.6, 8: 0.2, 9: 0.2}),
        (s.ramp(2, 32, 4, 12), {0: 2, 4: 2, 6: 4, 8: 8, 10: 16, 12: 32, 99: 32}),
        (s.ramp(2, 32, 4, 12, 1), {4: 2, 6: 9.5, 12: 32}),
        (s.ramp(2, 32, 4, 12, -1), {4: 2, 10: 1 / (0.25 / 2 + 0.75 / 32), 12: 32}),
        (s.ramp(0.5, 0.1, 0, 4, 1), {0: 0.5, 1: 0.4, 3: 0.2, 4: 0.1}),
        (s.interpolated([1, 8, 2], [3, 6, 8]), {0: 1, 3: 1, 4: 2, 5: 4, 6: 8, 7: 4, 8: 2, 99: 2}),
        (s.fitted(s.constant(8), 30), {0: 8, 8: 8, 16: 7, 23: 7, 30: 8, 99: 8}),
        (s.fitted(s.linear(3.4, 10, 6), 20), {0: 3, 6: 7, 13: 7, 19: 1, 20: 33}),
        (s.warmup(s.linear(4, 4, 2), 4), {0: 1, 1: 2, 2: 6, 3: 8, 4: 12}),
        (s.join([s.constant(1), s.linear(5, 1, 1), s.constant(0)], [2, 6]), {1: 1, 2: 5, 5: 8, 6: 0, 99: 0}),
        (s.capped(s.exponential(8, 2, 1), 100), {0: 8, 3: 64, 4: 100, 10**6: 100}),
        (s.exponential(8, 2, 1), {10**6: math.inf}),
        (s.power(s.linear(4, 5, 1), 0.5, 3), {0: 6, 1: 9}),
        (s.power(s.polynomial(2, 0, 4), -2, 8), {0: 2, 2: 8, 3: 32, 4: math.inf}),
        (s.product([s.linear(1, 1, 1), s.linear(0, 3, 2), s.constant(2)]), {0: 0, 1: 0, 2: 18, 3: 24}),
        (s.parse("0:16 50K:32 1M:64"), {0: 16, 49_999: 16, 50_000: 32, 999_999: 32, 10**6: 64, 10**12: 64}),
        (s.parse(" 0:0.5  1.001k:1e-3\n2b:7"), {0: 0.5, 1000: 0.5, 1001: 1e-3, 2 * 10**9 - 1: 1e-3, 2 * 10**9: 7}),
        (s.parse("0:8"), {0: 8, 10**9: 8}),
        (s.parse("0:8 1T:16 2.5t:32"), {10**12 - 1: 8, 10**12: 16, 25 * 10**11: 32}),
        (s.floored(s.capped(s.linear(0, 3, 1), 10), 5), {0: 5, 1: 5, 2: 6, 3: 9, 4: 10, 9: 10}),
        (s.cyclic(2, 8, 3), {0: 2, 1: 4, 3: 8, 4: 6, 6: 2, 8: 6, 9: 8}),
        (s.cyclic(8, 0, 2, 4, cycle_factor=0.5), {0: 8, 1: 4, 2: 0, 3: 2, 6: 8, 8: 4, 9: 5, 14: 6}),
        (s.cyclic(2, 8, 4, shape="cosine", step_factor=0.5), {0: 2, 2: 2 + 3 / 4, 4: 2 + 6 / 16, 8: 2}),
        (s.warm_restarts(2, 8, 2), {0: 2, 1: 5, 2: 8, 3: 2, 4: 5, 5: 8, 300: 2}),
        (s.warm_restarts(2, 8, 2, 2), {2: 8, 3: 2, 5: 5, 7: 8, 8: 2, 12: 5, 16: 8, 17: 2}),
        (s.function(lambda t: t * t, 3), {0: 0, 2: 12}),
        (s.multiplicative(3, lambda t: t), {4: 72, 0: 3, 1: 3, 3: 18}),
    ],
)
def test_values(schedule, values):
    assert {t: schedule(t) for t in values} == pytest.approx(values)
    assert all(type(schedule(t)) is float for t in values)


@pytest.mark.parametrize("schedule", ALL, ids=lambda x: x.kind)
def test_a_schedule_is_a_value(schedule):
    names = {cls.__name__: cls for cls in (type(x) for x in ALL)}
    assert eval(repr(schedule), names) == schedule
    assert hash(eval(repr(schedule), names)) == hash(schedule)
    stored = json.loads(schedule.model_dump_json())
    assert s.Schedule.of(stored) == schedule
    assert [s.Schedule.of(stored)(t) for t in range(20)] == [schedule(t) for t in range(20)]
    assert s.Schedule.of(stored) == schedule
    assert schedule(np.int64(3)) == schedule(3)
    with pytest.raises(ValidationError, match="frozen"):
        schedule.kind = 1.0


def test_every_kind_is_covered_here():
    assert {x.kind for x in ALL} == set(s.Schedule.kinds)


@pytest.mark.parametrize("t", [-1, 0.5, "3", None])
@pytest.mark.parametrize("schedule", ALL, ids=lambda x: x.kind)
def test_a_clock_is_a_whole_number(schedule, t):
    with pytest.raises(InputError, match=r"t = .*whole number, 0 or above"):
        schedule(t)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: s.constant(math.nan), "v = nan"),
        (lambda: s.constant("0.1"), "v = '0.1'"),
        (lambda: s.linear(1, 1, 0), "every = 0"),
        (lambda: s.linear(1, 1, 2.5), "every = 2.5"),
        (lambda: s.exponential(1, 0, 1), "factor = 0"),
        (lambda: s.milestones(1, {-1: 0.1}), "factors.0.0 = -1"),
        (lambda: s.milestones(1, [(3, 0.1), (3, 0.2)]), "factors = "),
        (lambda: s.piecewise([1, 2], [3, 4]), "boundaries = (3, 4): must be 1, rising"),
        (lambda: s.join([s.constant(1)] * 3, [4, 4]), "boundaries = (4, 4)"),
        (lambda: s.polynomial(1, 0, 10, 0), "power = 0"),
        (lambda: s.cosine(1, 0, -1), "duration = -1"),
        (lambda: s.ramp(1, 2, 5, 5), "duration = 5: must be above start = 5"),
        (lambda: s.ramp(0, 2, 1, 5), "v0 = 0"),
        (lambda: s.interpolated([1, 2], [3]), "times = (3,): must rise, one a value"),
        (lambda: s.interpolated([1, 2], [3, 3]), "times = (3, 3)"),
        (lambda: s.fitted(s.constant(1), 0), "total = 0"),
        (lambda: s.warmup(s.constant(1), 0), "duration = 0"),
        (lambda: s.capped(s.constant(1), math.inf), "maximum = inf"),
        (lambda: s.floored(s.constant(1), math.nan), "minimum = nan"),
        (lambda: s.cyclic(1, 2, 0), "duration = 0"),
        (lambda: s.cyclic(1, 2, 3, shape="round"), "shape = 'round'"),
        (lambda: s.warm_restarts(1, 2, 3, 1.5), "factor = 1.5"),
        (lambda: s.function(3), "f"),
        (lambda: s.warmup(0.1, 5), "schedule = 0.1"),
        (lambda: s.capped(8, 16), "schedule = 8"),
        (lambda: s.join([8, 16], [3]), "schedules.0 = 8"),
        (lambda: s.power(2.0, 1), "schedule = 2.0"),
        (lambda: s.power(s.constant(2), 1, 0), "factor = 0"),
        (lambda: s.power(s.linear(1, -1), 0.5)(2), "schedule at 2 = -1.0"),
        (lambda: s.product([s.constant(1), 2]), "schedules.1 = 2"),
        (lambda: s.parse(" "), "text = ' '"),
        (lambda: s.parse("0:16 50K=32"), "entry = '50K=32': must be threshold:value"),
        (lambda: s.parse("0:16 50Q:32"), "entry = '50Q:32'"),
        (lambda: s.parse("10:16"), "entry = '10:16': thresholds must start at 0"),
        (lambda: s.parse("0:16 2M:32 2000K:64"), "entry = '2000K:64': thresholds must start at 0 and rise"),
        (lambda: s.parse("0:16 1.0001K:32"), "entry = '1.0001K:32': the threshold must be a whole number"),
        (lambda: s.parse("0:16 1K:many"), "entry = '1K:many': the value must be a number"),
        (lambda: s.parse("0:-16"), "entry = '0:-16': the value must be finite and above 0"),
        (lambda: s.parse("0:inf"), "entry = '0:inf'"),
        (lambda: s.Schedule.of({"kind": "stairs"}), "kind = 'stairs': must be one of ['constant', "),
        (lambda: s.Schedule.of({"kind": "constant", "value": 1}), "v: missing; value: unknown name"),
    ],
)
def test_bad_arguments_name_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        call()
    assert named in str(caught.value)


def test_a_schedule_of_ones_own_is_stored_under_its_kind():
    class Stairs(s.Schedule):
        kind: Literal["stairs of a test"] = "stairs of a test"
        height: int

        def _value(self, t):
            return self.height * (t + 1)

    try:
        stored = json.loads(s.capped(Stairs(3), 10).model_dump_json())
        assert [s.Schedule.of(stored)(t) for t in range(4)] == [3, 6, 9, 10]
        with pytest.raises(InputError, match="kind = 'stairs of a test': Steeper needs one of its own"):
            type("Steeper", (Stairs,), {"__module__": __name__})
    finally:
        del s.Schedule.kinds["stairs of a test"]
