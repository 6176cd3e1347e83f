"""Published plans against trajectories worked out by hand, and against what each of them promises to keep."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfolib._utils.errors import InputError
from sfolib.schedules import base as s
from sfolib.schedules import published
from sfolib.schedules.plan import Plan
from sfolib.theory.bounds import step_noise

SMITH = s.milestones(0.1, {60: 1 / 5, 120: 1 / 5, 160: 1 / 5})


def at(plan, times):
    return [plan.at(t) for t in times]


@pytest.mark.parametrize(
    ("share", "max_batch_size", "expected"),
    [
        (0.0, None, [(128, 0.1), (128, 0.02), (128, 0.004), (128, 0.0008)]),
        (1.0, None, [(128, 0.1), (640, 0.1), (3200, 0.1), (16000, 0.1)]),
        (1.0, 640, [(128, 0.1), (640, 0.1), (640, 0.02), (640, 0.004)]),  # the hybrid of Smith et al.
        (1.0, 1280, [(128, 0.1), (640, 0.1), (1280, 0.1 * 2 / 5), (1280, 0.1 * 2 / 25)]),
    ],
)
def test_the_batch_grows_where_lr_would_have_decayed(share, max_batch_size, expected):
    plan = published.increase_batch_size(128, SMITH, share, max_batch_size=max_batch_size)
    found = at(plan, (59, 60, 159, 160))
    assert [batch_size for batch_size, _ in found] == [batch_size for batch_size, _ in expected]
    assert [lr for _, lr in found] == pytest.approx([lr for _, lr in expected], rel=1e-12)


def stepping(batch_size, lr, milestones, factor, epochs):
    """Smith et al.'s rule as their scheduler steps along: at a milestone the batch in force × factor, lr as it is."""
    found = []
    for epoch in range(epochs):
        if epoch in milestones:
            batch_size *= factor
        found.append((batch_size, lr))
    return found


@pytest.mark.parametrize(
    ("batch_size", "milestones", "epochs"), [(128, (20, 30), 40), (128, (60, 120, 160), 200), (32, (1, 2), 3)]
)
def test_growing_is_the_published_scheduler_step_by_step(batch_size, milestones, epochs):
    plan = published.increase_batch_size(batch_size, s.milestones(0.1, dict.fromkeys(milestones, 1 / 5)))
    assert at(plan, range(epochs)) == [
        (b, pytest.approx(lr)) for b, lr in stepping(batch_size, 0.1, milestones, 5, epochs)
    ]


def test_updates_of_the_published_schedule():
    """Batch 128 × 5 at 60, 120 and 160 of 200 epochs of 5000 images, short last batches counted: ⌈n/b⌉ an epoch."""
    steps = [40 * 60, 8 * 60, 2 * 40, 1 * 40]
    assert len(published.increase_batch_size(128, SMITH).table(5000, 200)) == sum(steps) == 3000
    assert len(published.increase_batch_size(128, SMITH, 0.0).table(5000, 200)) == 40 * 200


def seesawing(batch_size, lr, schedule, factor, times):
    """Seesaw's rule stepping along: each time that the schedule has cut lr by factor, lr/√factor and batch × factor."""
    cut, found = schedule(0), []
    for t in times:
        while schedule(t) <= cut / factor * (1 + 1e-12):
            cut, batch_size, lr = cut / factor, batch_size * factor, lr / math.sqrt(factor)
        found.append((batch_size, lr))
    return found


@pytest.mark.parametrize("factor", [2, 5])
def test_seesaw_is_the_published_rule_step_by_step(factor):
    schedule = s.milestones(0.8, dict.fromkeys((10, 20, 21, 40), 1 / factor))
    plan = published.seesaw(64, schedule)
    for (batch_size, lr), (wanted, wanted_lr) in zip(
        at(plan, range(50)), seesawing(64, 0.8, schedule, factor, range(50)), strict=True
    ):
        assert (batch_size, lr) == (wanted, pytest.approx(wanted_lr))


def test_seesaw_of_a_cosine_meets_the_published_rule_where_that_steps():
    """Between two cuts the rule waits and ours goes on: never behind it, and less than a cut ahead."""
    schedule = s.cosine(0.8, 0.01, 2000)
    plan = published.seesaw(64, schedule)
    for t, (batch_size, lr) in enumerate(seesawing(64, 0.8, schedule, 2, range(2001))):
        assert batch_size <= plan.batch_size(t) * (1 + 1e-9)
        assert plan.batch_size(t) < 2 * batch_size
        assert lr / math.sqrt(2) < plan.lr(t) <= lr * (1 + 1e-9)


def test_a_factor_is_shared_between_batch_and_lr():
    """4 = 2 · 2: half of every decay (in the exponent) to each."""
    plan = published.increase_batch_size(50, s.milestones(1.0, {3: 1 / 4, 5: 1 / 4}), 0.5, max_batch_size=150)
    assert [batch_size for batch_size, _ in at(plan, (0, 3, 5))] == [50, 100, 150]
    assert [lr for _, lr in at(plan, (0, 3, 5))] == pytest.approx([1.0, 0.5, 3 / 16])


DECAYS = [s.cosine(0.3, 0.003, 50), s.polynomial(2.0, 0.01, 40, 2), s.exponential(0.7, 0.8, 6), SMITH]


@given(st.sampled_from(DECAYS), st.floats(0, 1), st.integers(1, 500), st.integers(0, 200), st.booleans())
def test_every_share_keeps_the_noise_of_the_decaying_plan(lr, share, batch_size, t, cap):
    """T8 with real batch sizes: η/b for SGD; η/√b for Seesaw."""
    top = 3 * batch_size if cap else None
    plan = published.increase_batch_size(batch_size, lr, share, max_batch_size=top)
    assert step_noise(plan.batch_size(t), plan.lr(t)) == pytest.approx(step_noise(batch_size, lr(t)), rel=1e-9)
    assert plan.batch_size(t) == pytest.approx(min(batch_size * (lr(0) / lr(t)) ** share, top or math.inf), rel=1e-9)
    plan = published.seesaw(batch_size, lr, share / 2, max_batch_size=top)
    assert plan.lr(t) / plan.batch_size(t) ** 0.5 == pytest.approx(lr(t) / batch_size**0.5, rel=1e-9)
    assert plan.batch_size(t) == pytest.approx(min(batch_size * (lr(0) / lr(t)) ** share, top or math.inf), rel=1e-9)


def test_seesaw_halvings_by_hand():
    plan = published.seesaw(256, s.milestones(0.8, {10: 0.5, 20: 0.5, 30: 0.5}), max_batch_size=1024)
    found = at(plan, (0, 10, 20, 30))
    assert [batch_size for batch_size, _ in found] == [256, 512, 1024, 1024]
    assert [lr for _, lr in found] == pytest.approx([0.8, 0.8 / 2**0.5, 0.4, 0.2])


def test_a_warmup_stays_a_warmup_of_the_learning_rate():
    plan = published.seesaw(64, s.warmup(s.milestones(1.0, {8: 0.25}), 4))
    assert [plan.at(t)[0] for t in range(10)] == [64] * 8 + [256] * 2
    assert [plan.at(t)[1] for t in range(10)] == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 5, 0.5, 0.5])


def test_scaling_rules():
    plan = Plan(s.linear(8, 8), s.milestones(0.1, {3: 0.5}), max_batch_size=24)
    assert at(published.scaled(plan, 4), (0, 2, 3)) == [(32, 0.4), (96, pytest.approx(0.4)), (96, pytest.approx(0.2))]
    assert at(published.scaled(plan, 4, "sqrt"), (0, 2, 3)) == [(32, 0.2), (96, 0.2), (96, 0.1)]


def test_more_momentum_needs_a_larger_batch():
    plan = published.at_momentum(Plan(s.exponential(16, 2), 0.1), 0.9)
    assert at(plan, (0, 1)) == [(160, 0.1), (320, 0.1)]
    again = published.at_momentum(plan, 0.98, before=0.9)
    assert [again.at(t)[0] for t in (0, 1)] == [800, 1600]
    noises = [step_noise(p.batch_size(1), 0.1, m) for p, m in ((plan, 0.9), (again, 0.98))]
    assert noises == pytest.approx([step_noise(32, 0.1)] * 2)


def test_late_switch():
    plan = published.late_switch(32, 512, 8000, s.cosine(0.1, 0.01, 10_000))
    assert at(plan, (0, 7999)) == [(32, 0.1), (32, s.cosine(0.1, 0.01, 10_000)(7999))]
    assert plan.at(8000)[0] == 512
    assert list(plan.table(4000, 3).batch_size.unique()) == [32, 512, 4000 % 512]


def test_a_late_ramp_is_held_and_then_rises_to_the_end():
    plan = published.late_ramp(16, 0.1, 200_000)
    assert at(plan, (0, 160_000, 168_000, 180_000)) == [(16, 0.1), (16, 0.1), (32, 0.1), (91, 0.1)]
    mirror = published.late_ramp(16, 0.1, 200_000, share=0, q=1)  # the linear cool-down
    assert at(mirror, (0, 160_000, 180_000)) == [(16, 0.1), (16, 0.1), (16, pytest.approx(0.1 * 33 / 64))]
    capped = published.late_ramp(16, 0.1, 200_000, max_batch_size=64)
    assert capped.at(180_000) == (64, pytest.approx(0.1 * 64 / (16 * 32**0.5)))


@pytest.mark.parametrize("q", [0.5, 1, 2, 5, 1000])
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_the_ramp_is_a_power_of_the_steps_that_are_left_and_eta_over_b_falls_alike_at_any_share(q, share):
    """b = A (τ + τ0)^(−q/2) by definition, step by step at one lr, from 4 × 8 at the end back to 8."""
    tau0 = 4000 / (4 ** (2 / q) - 1)
    sizes = np.array([32 * (1 + tau / tau0) ** (-q / 2) for tau in range(4000)])
    left = np.cumsum(sizes)  # gradient evaluations from the beginning of the step on
    budget = round(2 * left[-1])
    plan = published.late_ramp(8, 0.1, budget, start=0.5, growth=4, q=q, share=share)
    clock = [budget - round(samples) for samples in left[::100]]
    found = [plan.batch_size.schedule(t) / plan.lr(t) for t in clock]
    assert found == pytest.approx(sizes[::100] / 0.1, rel=0.02)
    lrs = [plan.lr(t) for t in clock]
    assert lrs == pytest.approx(0.1 * (sizes[::100] / 8) ** (share - 1), rel=0.02)


@given(
    st.integers(1, 40), st.integers(1, 4000), st.floats(0, 0.99), st.floats(1.1, 100), st.floats(0.3, 9),
    st.floats(0, 1), st.integers(40, 500),
)  # fmt: skip
def test_a_late_ramp_spends_its_budget_to_the_last_sample(batch_size, budget, start, growth, q, share, most):
    budget = max(budget, batch_size)
    plan = published.late_ramp(
        batch_size, 0.1, budget, start=start, growth=growth, q=q, share=share, max_batch_size=most
    )
    samples, sizes = 0, []
    while samples < budget:
        sizes.append(plan.at(samples)[0])
        samples += sizes[-1]
    assert samples == budget
    assert max(sizes) <= most
    assert len(sizes) == 1 or sizes[-1] >= min(batch_size, budget) / 2


def test_stages_last_as_the_critical_batch_size_asks():
    """δ = 4, γ = 2: four times the epochs a stage (T4), 5 + 20 + 80 of 105."""
    plan = published.stagewise(8, 0.1, 4, 2, 3, 105)
    assert at(plan, (0, 4, 5, 24, 25, 104)) == [(8, 0.1)] * 2 + [(32, 0.2)] * 2 + [(128, 0.4)] * 2
    steps = plan.table(1024, 105).groupby("batch_size").size()
    assert dict(steps) == {8: 640, 32: 640, 128: 640}  # τ = δ/γ² = 1: equal steps


@pytest.mark.parametrize(("exponent", "lengths"), [(0, [7, 7, 7]), (1, [3, 6, 12]), (2, [1, 4, 16]), (-1, [12, 6, 3])])
def test_any_power_allocates_the_epochs(exponent, lengths):
    plan = published.stagewise(10, 0.1, 2, 1, 3, 21, exponent=exponent)
    assert [plan.at(t)[0] for t in range(21)] == [
        b for b, n in zip((10, 20, 40), lengths, strict=True) for _ in range(n)
    ]


@given(st.floats(0.2, 5), st.integers(1, 9), st.integers(1, 10**6))
def test_an_allocation_is_whole_and_within_one_of_its_shares(ratio, stages, total):
    shares = [ratio**m for m in range(stages)]
    wanted = [total * share / sum(shares) for share in shares]
    try:
        found = published.allocation(ratio, stages, total)
    except InputError:
        assert min(wanted) < 1
        return
    assert sum(found) == total
    assert all(abs(a - b) <= 1 + 1e-6 for a, b in zip(found, wanted, strict=True))


PLANS = [
    published.increase_batch_size(7, SMITH, 0.5, max_batch_size=100),
    published.seesaw(7, s.cosine(1.0, 0.1, 900), max_batch_size=60),
    published.scaled(Plan(7, 0.1), 3),
    published.at_momentum(Plan(7, 0.1), 0.9),
    published.late_switch(3, 40, 100, 0.1),
    published.late_ramp(3, 0.1, 4000, share=0.4, max_batch_size=20),
    published.stagewise(3, 0.1, 3, 2, 3, 40, max_lr=0.3, max_batch_size=20),
]


@pytest.mark.parametrize("plan", PLANS)
def test_every_recipe_is_stored_as_json(plan):
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: published.increase_batch_size(0, SMITH), "batch_size = 0"),
        (lambda: published.increase_batch_size(8, 0.1), "lr = 0.1: Input should be an instance of Schedule"),
        (lambda: published.increase_batch_size(8, SMITH, 1.5), "share = 1.5: Input should be less than or equal to 1"),
        (
            lambda: published.increase_batch_size(8, SMITH, max_batch_size=4),
            "max_batch_size = 4: must be at least batch_size = 8",
        ),
        (lambda: published.increase_batch_size(8, s.linear(0, 1)), "lr at 0 = 0.0"),
        (lambda: published.seesaw(8, SMITH, 0.6), "share = 0.6: must be at most 0.5"),
        (lambda: published.seesaw(8, SMITH, -0.1), "share = -0.1: Input should be greater than or equal to 0"),
        (lambda: published.seesaw(8, s.cosine(1, 0, 5)).at(5), "lr at sample 5 = nan"),
        (lambda: published.scaled(Plan(8, 0.1), 2, "cubic"), "rule = 'cubic'"),
        (lambda: published.scaled(Plan(8, 0.1), 0), "factor = 0"),
        (lambda: published.scaled(Plan(8, 0.1, "step"), 2), "clock = 'step'"),
        (lambda: published.at_momentum(Plan(8, 0.1), 1.0), "momentum = 1.0"),
        (lambda: published.late_switch(8, 8, 100, 0.1), "large = 8: must be above batch_size = 8"),
        (lambda: published.late_switch(8, 16, 0, 0.1), "at = 0"),
        (lambda: published.late_ramp(8, 0.1, 0), "budget = 0: must be a whole number, 1 or above"),
        (lambda: published.late_ramp(8, 0, 100), "lr = 0"),
        (lambda: published.late_ramp(8, 0.1, 100, start=1), "start = 1: Input should be less than 1"),
        (lambda: published.late_ramp(8, 0.1, 100, growth=1), "growth = 1: Input should be greater than 1"),
        (lambda: published.late_ramp(8, 0.1, 100, q=0), "q = 0"),
        (lambda: published.late_ramp(8, 0.1, 100, share=2), "share = 2"),
        (lambda: published.late_ramp(8, 0.1, 7), "budget = 7: must be at least batch_size = 8"),
        (lambda: published.stagewise(8, 0.1, 4, 2, 5, 20), "total = 20: is too little for 5 stages"),
        (lambda: published.stagewise(8, 0.1, 4, 2, 0, 20), "stages = 0"),
        (lambda: published.stagewise(8, 0.1, 4, 2, 2, 20, max_lr=0.05), "max_lr = 0.05"),
        (lambda: published.stagewise(8, 0.1, 0, 2, 2, 20), "delta = 0"),
    ],
)
def test_bad_input_names_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        call()
    assert named in str(caught.value)
