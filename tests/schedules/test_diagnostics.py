"""The cases of T5 on plans built to be in them."""

import math

import pytest

from sfolib.schedules import base as s
from sfolib.schedules import published
from sfolib.schedules.diagnostics import validity
from sfolib.schedules.plan import Plan
from sfolib.schedules.theoretical import critical_plan
from sfolib.theory import bounds
from sfolib.theory.bounds import Constants

C = Constants(L=2.0, sigma2=40.0, gap=1.5)


def stages(delta, gamma, tau, count=5):
    """(plan, its samples): on the clock of steps, 400 τ^m steps a stage."""
    ends = [round(400 * sum(tau**j for j in range(m + 1))) for m in range(count - 1)]
    batches, rates = ([v * f**m for m in range(count)] for v, f in ((64, delta), (0.01, gamma)))
    samples = round(sum(400 * tau**m * batch_size for m, batch_size in enumerate(batches)))
    return Plan(s.piecewise(batches, ends), s.piecewise(rates, ends), "step"), samples


@pytest.mark.parametrize(
    ("factors", "case"),
    [
        ((4, 2, 1), "on the surface"),
        ((2, 1, 2), "on the surface"),
        ((4, 1, 2), "descent is slower"),
        ((2, 1.5, 2), "noise is slower"),
        ((2, 2, 1), "the noise does not vanish"),
        ((1.5, 2, 1), "the noise does not vanish"),
        ((4, 2, 0.5), "lr × steps does not grow"),
        ((2, 1, 0.8), "lr × steps does not grow"),
    ],
)
def test_the_cases(factors, case):
    plan, samples = stages(*factors)
    found = validity(plan, C, samples, 1)
    assert found.stages == 5
    assert (found.delta, found.gamma) == pytest.approx(factors[:2])
    assert found.tau == pytest.approx(factors[2], rel=0.01)  # whole steps
    assert found.case.startswith(case)
    assert found.exponent == pytest.approx(bounds.rate_exponent(*factors), abs=0.01)
    last = plan.at(10**6)
    assert found.noise_floor == pytest.approx(bounds.noise_floor(C, last[0], last[1]))
    assert found.lr_share == pytest.approx(0.01 * factors[1] ** 4)  # 2/L = 1


def test_fixed_epochs_a_stage_have_no_polynomial_rate():
    """T5: τ = 1/δ."""
    found = validity(published.stagewise(8, 0.01, 2, 1.2, 4, 40, exponent=0), C, 1024, 40)
    assert (found.tau, found.exponent) == (pytest.approx(0.5), 0.0)
    assert found.case.startswith("lr × steps does not grow")


def test_the_critical_plan_is_on_the_surface():
    plan = critical_plan(C, 0.2, 2.0, 4, lr=0.05)  # from b = 200, where rounding is small
    found = validity(plan, C, sum(row.samples for row in plan.rows), 1)
    assert found.case.startswith("on the surface")
    assert found.exponent == pytest.approx(0.5, abs=0.01)


def test_what_has_no_exponent():
    constant = validity(Plan(8, 0.1), C, 100, 3)
    assert (constant.stages, constant.exponent) == (1, 0.0)
    assert constant.case.startswith("constant")
    assert constant.noise_floor == pytest.approx(math.sqrt(C.L * C.sigma2 / (2 - C.L * 0.1) * 0.1 / 8))
    two = validity(Plan(s.exponential(8, 2, 2), 0.1), C, 100, 4)
    assert two.case == "too few stages to tell"
    for plan in (
        Plan(s.linear(8, 8), 0.1),
        Plan(8, s.cosine(0.1, 0.01, 5)),
        Plan(s.exponential(8, 2), 0.1, "epoch", 20),
    ):
        found = validity(plan, C, 100, 5)
        assert found.case == "growth is not geometric"
        assert math.isnan(found.exponent)


def test_an_lr_beyond_its_limit():
    found = validity(Plan(8, s.exponential(0.5, 2)), C, 100, 3)
    assert found.lr_share == pytest.approx(2.0)
    assert found.noise_floor == math.inf
