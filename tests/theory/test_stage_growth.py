"""T4–T6 on the exact quadratic: the protocols against slow twins, and the rates that they must show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfolib._utils.errors import InputError
from sfolib.theory import bounds, stage_growth
from sfolib.theory.quadratic import PowerLawQuadratic

Q = PowerLawQuadratic(d=50, lam_min=1e-4, sigma2=100.0)
SLACK = 1 + 1e-9  # of the batch sizes, so that rounding does not make a stage miss its aim


def walked(stages, eps):
    """SFO at which stages, walked step by step, first are at each eps."""
    batch_size, lr = (np.repeat([stage[i] for stage in stages], [int(stage[2]) for stage in stages]) for i in (0, 1))
    path, spent = Q.grad_sqnorm_path(batch_size, lr), np.concatenate([[0.0], np.cumsum(batch_size)])
    return np.array([spent[np.argmax(path <= x**2)] for x in eps])


def test_stages_from_the_start_each_time_pay_what_was_walked():
    eps, pairs = stage_growth.critical_stages(Q, 0.2, 0.1, 2.0, 4)
    paid = stage_growth.overhead(Q, eps, pairs, restart=True, points=3)
    cost = np.cumsum([pair.samples for pair in pairs])
    for target, finish, stop in zip(*paid, strict=True):
        m = int(np.argmax(eps <= target))
        least = Q.best_constant_batch_size(0.2, target).samples
        last = walked([(pairs[m].batch_size * SLACK, 0.2, pairs[m].steps)], [target])[0]
        assert finish == pytest.approx(cost[m] / least, rel=1e-6)
        assert stop == pytest.approx((cost[m - 1] + last) / least, rel=1e-6)


def test_stages_that_go_on_pay_what_was_walked():
    eps, pairs = stage_growth.critical_stages(Q, 0.2, 0.1, 2.0, 4)
    paid = stage_growth.overhead(Q, eps, pairs, restart=False, points=3)
    least = [Q.best_constant_batch_size(0.2, float(x)).samples for x in paid.eps]
    stages = [(pair.batch_size * SLACK, pair.lr, pair.steps) for pair in pairs]
    assert paid.stop == pytest.approx(walked(stages, paid.eps) / least, rel=1e-6)
    assert np.all(paid.stop <= paid.finish)


def test_the_worst_target_is_the_one_just_missed():
    eps, pairs = stage_growth.critical_stages(Q, 0.2, 0.1, 2.0, 4)
    few, many = (stage_growth.overhead(Q, eps, pairs, True, points) for points in (2, 9))
    assert few.finish.max() == pytest.approx(many.finish.max())
    assert few.stop.max() == pytest.approx(many.stop.max())


@given(st.floats(1.05, 1.9), st.floats(0.6, 3.0))
def test_on_the_surface_the_exact_exponent_is_one_half(gamma, tau):
    if gamma * tau < 1.2:
        tau = 1.2 / gamma
    assert stage_growth.exact_exponent(gamma**2 * tau, gamma, tau) == pytest.approx(0.5, abs=0.02)


def test_off_the_surface_both_exponents_are_the_predicted():
    for design in stage_growth.random_designs(12):
        predicted = bounds.rate_exponent(*design)
        assert stage_growth.bound_exponent(*design) == pytest.approx(predicted, abs=0.02)
        assert stage_growth.exact_exponent(*design) == pytest.approx(predicted, abs=0.02)


@pytest.mark.parametrize("design", [(2.0, 2.0, 1.0), (2.0, 1.5, 0.5)], ids=["linear scaling", "equal epochs"])
def test_no_rate_where_there_is_none(design):
    assert bounds.rate_exponent(*design) == 0
    assert stage_growth.exact_exponent(*design) == pytest.approx(0, abs=1e-3)
    assert stage_growth.bound_exponent(*design) == pytest.approx(0, abs=1e-3)


def test_stages_stay_where_the_bias_falls_like_one_over_the_sum_of_lr():
    for design in [(4.0, 2.0, 1.0), (2.0, 0.8, 2.0), (2.0, 1.5, 0.5)]:
        batch_size, lr, steps = np.array(stage_growth.growing_stages(*design)).T
        assert lr.max() <= 0.25 / stage_growth.WIDE.L * (1 + 1e-12)
        assert (lr * steps).sum() * stage_growth.WIDE.lam_min < 0.1
        assert batch_size[1:] / batch_size[:-1] == pytest.approx(design[0])
        assert lr[1:] / lr[:-1] == pytest.approx(design[1])


def test_bad_input_names_the_field_and_the_value():
    with pytest.raises(InputError, match=r"gamma = -1"):
        stage_growth.bound_exponent(2.0, -1, 1.0)
    with pytest.raises(InputError, match=r"delta = 0"):
        stage_growth.exact_exponent(0, 1.0, 1.0)
    with pytest.raises(InputError, match=r"r = 1"):
        stage_growth.critical_stages(Q, 0.2, 0.1, 1, 4)
    with pytest.raises(InputError, match=r"stages = 1"):
        stage_growth.critical_stages(Q, 0.2, 0.1, 2.0, 1)
