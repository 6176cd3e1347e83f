"""Plans: the run they predict against a loop, and the plans of the theory against T4, T6, T7, T11 and T12."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfolib._utils.errors import InputError
from sfolib.schedules.base import capped, constant, exponential, linear, piecewise
from sfolib.schedules.plan import Plan
from sfolib.schedules.theoretical import critical_plan, front_plan
from sfolib.theory import bounds
from sfolib.theory.bounds import Constants

C = Constants(L=2.0, sigma2=40.0, gap=1.5)


@pytest.mark.parametrize(("value", "batch_size"), [(7.49, 7), (7.5, 8), (8.5, 9), (0.2, 1), (16, 16), (99.0, 64)])
def test_a_batch_size_is_the_nearest_whole_number(value, batch_size):
    assert Plan(constant(value), 0.1, max_batch_size=64).at(0) == (batch_size, 0.1)


def test_numbers_are_constant_schedules():
    assert Plan(8, 0.1) == Plan(constant(8), constant(0.1))
    assert Plan(8, 0.1).at(10**6) == (8, 0.1)


def run_by_hand(batch_size_of, lr_of, clock: str, n: int, epochs: int) -> list[tuple]:
    """The slow twin of table: hand out samples one at a time."""
    rows, samples, size = [], 0, 0
    for epoch in range(epochs):
        for sample in range(n):
            if size == 0:
                t = {"epoch": epoch, "step": len(rows), "sample": samples}[clock]
                nominal, lr = batch_size_of(t), lr_of(t)
            size, samples = size + 1, samples + 1
            if size == nominal or sample == n - 1:
                rows.append((epoch, len(rows) + 1, samples, size, lr))
                size = 0
    return rows


@pytest.mark.parametrize("clock", ["epoch", "step", "sample"])
@pytest.mark.parametrize("n", [1, 10, 97])
def test_table_is_every_step_of_the_run(clock, n):
    every = {"epoch": 2, "step": 7, "sample": 53}[clock]
    plan = Plan(exponential(3, 2, every), linear(0.5, 0.25, every), clock, max_batch_size=40)
    table = plan.table(n, 6)
    by_hand = run_by_hand(lambda t: min(40, 3 * 2 ** (t // every)), lambda t: 0.5 + 0.25 * (t // every), clock, n, 6)
    assert [tuple(row) for row in table.itertuples(index=False)] == by_hand
    assert list(table.columns) == ["epoch", "step", "samples", "batch_size", "lr"]
    assert table.batch_size.sum() == table.samples.iloc[-1] == 6 * n


def test_plans_are_stored_as_json():
    plan = critical_plan(C, 1.0, stages=4, lr=0.01)
    for p in (plan, Plan(capped(exponential(8, 2, 5), 64), 0.1, "step", 64)):
        assert Plan.model_validate_json(p.model_dump_json()) == p
    with pytest.raises(ValueError, match="must be a Schedule to be stored"):
        Plan(lambda t: 8.0, 0.1).model_dump()
    assert Plan(lambda t: 8.0, 0.1).at(3) == (8, 0.1)


def stage_table(**kwargs):
    """From an eps0 so small that rounding the batch size (some 1e5) does not show."""
    return critical_plan(C, **{"eps0": 5e-4, "r": 2.0, "stages": 24, "lr": 1e-4, **kwargs}).stages


def test_the_critical_plan_has_three_phases_in_this_order():
    """Ends of phases as `stage_ends` has them, and in each phase the factors of T4 and T7."""
    limits = {"lr_growth": 1.5, "max_lr": 0.02, "max_batch_size": 10**13}
    t = stage_table(**limits)
    assert list(dict.fromkeys(t.phase)) == ["grow both", "grow batch", "decay lr"]
    lr_capped, full = bounds.stage_ends(C, 5e-4, 2.0, 1e-4, **limits)
    assert t.stage[t.phase == "grow both"].max() == math.floor(lr_capped)
    assert t.stage[t.phase == "decay lr"].min() == math.ceil(full)
    factors = {
        "grow both": (2.0 * 1.5, 1.5, 2.0 / 1.5),  # δ = γr, γ, τ = r/γ
        "grow batch": (2.0, 1.0, 2.0),
        "decay lr": (1.0, 0.5, 4.0),
    }
    for phase, (delta, gamma, tau) in factors.items():
        part = t[t.phase == phase]
        assert len(part) >= 3
        for name, factor in (("batch_size", delta), ("lr", gamma), ("steps", tau)):
            ratios = part[name].to_numpy()[1:] / part[name].to_numpy()[:-1]
            assert ratios == pytest.approx(factor, rel=1e-4), (phase, name)


def test_a_full_batch_ends_the_growth_of_the_learning_rate():
    t = stage_table(lr_growth=1.5, max_lr=0.9, max_batch_size=10**9)
    assert list(dict.fromkeys(t.phase)) == ["grow both", "decay lr"]
    assert t.lr.idxmax() in (t.index[t.phase == "decay lr"][0], t.index[t.phase == "grow both"][-1])
    assert bounds.stage_ends(C, 5e-4, 2.0, 1e-4, 1.5, 0.9, 10**9)[0] == math.inf


@settings(max_examples=60)
@given(st.floats(1.1, 5), st.floats(1, 2), st.floats(0.01, 1), st.integers(1, 5000), st.floats(0.05, 2))
def test_every_stage_of_the_critical_plan_reaches_what_it_aims_at(r, gamma, share, max_batch_size, eps0):
    """T1 over the stage alone, from the gap that T6 assumes; one step fewer is not enough."""
    top = 1 / C.L
    plan = critical_plan(C, eps0, r, 6, lr=share * top, lr_growth=gamma, max_lr=top, max_batch_size=max_batch_size)
    for row in plan.rows:
        after = bounds.gradient_bound(C, row.batch_size, np.full(min(row.steps, 10**5), row.lr), lr_max=top)
        if row.steps <= 10**5:
            assert after[-1] <= row.eps**2 * (1 + 1e-9)
            assert row.steps == 1 or after[-2] > row.eps**2 * (1 - 1e-9)
        assert row.samples == row.steps * row.batch_size
        assert row.lr <= top
        assert row.batch_size <= max_batch_size
    assert [row.eps for row in plan.rows] == pytest.approx([eps0 * r ** (-m / 2) for m in range(6)])


def test_equal_steps_a_stage_by_default():
    t = stage_table(stages=8)
    assert t.steps.to_numpy() == pytest.approx(t.steps[0], rel=1e-4)
    assert t.batch_size.to_numpy()[-1] / t.batch_size.to_numpy()[0] == pytest.approx(4**7, rel=1e-4)


def test_the_plan_plays_its_stages_by_samples():
    plan = critical_plan(C, 1.0, 2.0, 5, lr=0.02, lr_growth=1.2)
    begin = 0
    for row in plan.rows:
        assert plan.at(begin) == plan.at(begin + row.samples - 1) == (row.batch_size, row.lr)
        begin += row.samples
    assert plan.at(10 * begin) == (plan.rows[-1].batch_size, plan.rows[-1].lr)


@pytest.mark.parametrize("objective", ["samples", "time", "steps"])
def test_the_front_plan_stays_on_the_front(objective):
    plan = front_plan(C, 0.5, 2.0, 6, objective, latency=30.0, per_sample=1.0, max_batch_size=10**6, ratio=0.7)
    for row in plan.rows:
        exact = bounds.front_steps(C, row.batch_size, row.eps)
        assert exact <= row.steps < exact + 1
        path = bounds.gradient_bound(C, row.batch_size, np.full(row.steps, row.lr))
        assert path[-1] <= row.eps**2
        assert exact * row.batch_size == pytest.approx(bounds.front_samples(C, exact, row.eps), rel=1e-9)


def test_the_objectives_choose_different_points_of_the_front():
    def growths(**kwargs):
        t = front_plan(C, 1e-3, 2.0, 8, **kwargs).stages
        return t.batch_size.to_numpy()[-1] / t.batch_size.to_numpy()[-2], t.lr.to_numpy()[-1] / t.lr.to_numpy()[-2]

    assert growths(objective="samples") == pytest.approx((2, 1), rel=1e-3)
    time = growths(objective="time", latency=1.0, per_sample=1.0)
    assert time == pytest.approx((math.sqrt(2), math.sqrt(1 / 2)), rel=1e-3)
    steps = front_plan(C, 1.0, 2.0, 4, "steps", max_batch_size=10**7).stages
    assert list(steps.batch_size) == [10**7] * 4
    assert steps.lr.to_numpy() == pytest.approx(1 / C.L, rel=1e-3)


@pytest.mark.parametrize("ratio", [1e-3, 1.0, 1e3])
def test_the_time_optimal_plan_is_the_fastest_of_its_neighbours(ratio):
    row = front_plan(C, 0.01, 2.0, 1, "time", latency=ratio, per_sample=1.0).rows[0]
    at = bounds.front_time(C, row.batch_size, row.eps, ratio, 1.0)
    assert at < bounds.front_time(C, row.batch_size * 1.2, row.eps, ratio, 1.0)
    assert at < bounds.front_time(C, row.batch_size / 1.2, row.eps, ratio, 1.0)


def test_front_plan_caps_the_batch_and_stays_on_the_front():
    capped_plan = front_plan(C, 0.5, 2.0, 6, "samples", max_batch_size=100)
    assert set(capped_plan.stages.batch_size) == {100}
    for row in capped_plan.rows:
        assert row.lr == pytest.approx(bounds.optimal_lr(C, 100, row.eps))


def test_report_says_where_the_assumptions_are_left():
    assert Plan(8, 0.5).report(C, 100, 3) == []
    plan = Plan(piecewise([8, 200], [2]), linear(0.4, 0.4, 1))
    assert plan.report(C, 100, 4) == [
        "lr = 1.2 at step 27 is not below 2/L = 1",
        "at step 27 the batch is the whole data set: no noise is left in a step",
        "batch_size = 200 at step 27 is above the data set's 100 samples",
    ]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Plan(8, 0.1, "hour"), "clock = 'hour'"),
        (lambda: Plan(0, 0.1), "batch_size = 0"),
        (lambda: Plan(8, 0.1, max_batch_size=0), "max_batch_size = 0"),
        (lambda: Plan(8, linear(0.1, -0.1, 1)).at(1), "lr at epoch 1 = 0.0"),
        (lambda: Plan(exponential(8, 2, 1), 0.1, "step").at(5000), "batch at step 5000 = inf"),
        (lambda: Plan(8, 0.1).table(0, 3), "samples_per_epoch = 0"),
        (lambda: Plan(**{"batch_size": 8}), "lr: missing"),
        (lambda: critical_plan(C, 1.0, 1.0, lr=0.1), "r = 1.0"),
        (lambda: critical_plan(C, 1.0, lr=0.6), "lr = 0.6: must be at most max_lr = 0.5"),
        (lambda: critical_plan(C, 1.0, lr=0.1, max_lr=1.0), "max_lr = 1.0: must be below 2/L = 1"),
        (lambda: critical_plan(C, 1.0, lr=0.1, lr_growth=0.5), "lr_growth = 0.5"),
        (lambda: critical_plan(C, 1.0, lr=0.1, stages=0), "stages = 0"),
        (lambda: critical_plan(Constants(1.0, 0.0, 1.0), 1.0, lr=0.1), "sigma2 = 0.0"),
        (lambda: front_plan(C, 1.0, objective="money"), "objective = 'money'"),
        (lambda: front_plan(C, 1.0, objective="steps"), "max_batch_size = None"),
        (lambda: front_plan(C, 1.0, objective="time"), "latency = None"),
    ],
)
def test_bad_input_names_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        call()
    assert named in str(caught.value)
