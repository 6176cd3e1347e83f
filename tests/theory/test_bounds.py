"""The bounds against brute force: minimisation over b and (η, b), plain loops, and recounted sums."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from sfolib._utils.errors import InputError
from sfolib.theory import bounds
from sfolib.theory.bounds import Constants

log_uniform = st.floats(-2, 2).map(lambda x: 10.0**x)
constants = st.builds(Constants, L=log_uniform, sigma2=log_uniform, gap=log_uniform)
shares = st.floats(0.01, 0.95)  # of 2/L, or of anything else
norms = st.floats(-2, 0.5).map(lambda x: 10.0**x)


def bound_after(c: Constants, batch_size: float, lr: float, steps: float) -> float:
    """T1 at a constant pair, written out once more, from the descent inequality itself."""
    descent = lr * (1 - c.L * lr / 2)
    return (c.gap + steps * c.L * lr**2 * c.sigma2 / (2 * batch_size)) / (steps * descent)


# ------------------------------------------------------------------------------------------------ T1
@given(constants, st.lists(st.tuples(shares, st.integers(1, 500)), min_size=1, max_size=30))
def test_gradient_bound_is_the_summed_descent_with_the_largest_lr(c, schedule):
    lr = np.array([share * 2 / c.L for share, _ in schedule])
    batch_size = np.array([b for _, b in schedule])
    room = 2 - c.L * max(lr)
    for steps in range(1, len(lr) + 1):
        total = sum(lr[:steps])
        noise = sum(eta**2 / b for eta, b in zip(lr[:steps], batch_size[:steps], strict=True))
        expected = (2 * c.gap / room + c.L * c.sigma2 / room * noise) / total
        assert bounds.gradient_bound(c, batch_size, lr)[steps - 1] == pytest.approx(expected, rel=1e-12)


@given(constants, shares, st.integers(1, 64))
def test_gradient_bound_at_a_constant_pair_is_the_exact_descent(c, share, batch_size):
    lr = share * 2 / c.L
    path = bounds.gradient_bound(c, batch_size, np.full(20, lr))
    assert path == pytest.approx([bound_after(c, batch_size, lr, k) for k in range(1, 21)], rel=1e-12)


def test_finite_population_is_the_variance_of_a_subsets_mean_by_counting():
    from itertools import combinations, product

    x, n = np.array([0.3, -1.0, 2.5, 4.0, 0.0]), 5
    for b in range(1, n + 1):
        without = np.var([np.mean(s) for s in combinations(x, b)])
        replaced = np.var([np.mean(s) for s in product(x, repeat=b)])
        assert bounds.finite_population(b, n) == pytest.approx(without / replaced, abs=1e-14)


def test_gradient_bound_of_fresh_subsets_has_no_noise_at_the_full_batch():
    c = Constants(L=2.0, sigma2=3.0, gap=0.5)
    full = bounds.gradient_bound(c, 10, np.full(4, 0.3), n=10)
    assert full == pytest.approx(bounds.gradient_bound(Constants(2.0, 0.0, 0.5), 10, np.full(4, 0.3)))
    part = bounds.gradient_bound(c, 4, np.full(4, 0.3), n=10)
    assert part == pytest.approx(bounds.gradient_bound(Constants(2.0, 3.0 * 6 / 9, 0.5), 4, np.full(4, 0.3)))


# ------------------------------------------------------------------------------------------- T2 and T3
@given(constants, shares, st.floats(1.01, 50), norms)
def test_steps_to_bring_the_bound_to_eps(c, share, above, eps):
    lr = share * 2 / c.L
    batch_size = above * bounds.critical_batch_size(c, lr, eps) / 2  # half of it is where the floor is eps
    steps = bounds.steps_to(c, batch_size, lr, eps)
    assert bound_after(c, batch_size, lr, steps) == pytest.approx(eps**2, rel=1e-9)
    assert bounds.samples_to(c, batch_size, lr, eps) == pytest.approx(steps * batch_size)


@given(constants, shares, st.floats(0.01, 1), norms)
def test_no_number_of_steps_is_enough_at_or_below_the_floor(c, share, below, eps):
    lr = share * 2 / c.L
    batch_size = below * bounds.critical_batch_size(c, lr, eps) / 2 * (1 - 1e-9)
    assert bounds.steps_to(c, batch_size, lr, eps) == math.inf
    assert bound_after(c, batch_size, lr, 1e12) > eps**2
    floor = bounds.noise_floor(c, batch_size, lr)
    assert bounds.steps_to(c, batch_size, lr, floor * (1 + 1e-6)) < math.inf


@given(constants, shares, norms)
def test_critical_batch_is_the_minimiser_of_sfo(c, share, eps):
    lr = share * 2 / c.L
    scale = bounds.critical_batch_size(c, lr, eps)

    def samples(x: float) -> float:
        return bounds.samples_to(c, scale * np.exp(x), lr, eps) / bounds.minimal_samples(c, lr, eps)

    found = minimize_scalar(samples, bounds=(-0.69, 5), method="bounded", options={"xatol": 1e-10})
    assert found.x == pytest.approx(0, abs=1e-5)
    assert found.fun == pytest.approx(1, rel=1e-9)
    assert bounds.minimal_steps(c, lr, eps) == pytest.approx(bounds.steps_to(c, scale, lr, eps), rel=1e-9)


@given(constants, shares, norms)
def test_price_of_parallelism_is_the_ratio_to_tiny_lr(c, share, eps):
    lr = share * 2 / c.L
    ratio = bounds.minimal_samples(c, lr, eps) / bounds.minimal_samples(c, 1e-9 / c.L, eps)
    assert bounds.price_of_parallelism(c, lr) == pytest.approx(ratio, rel=1e-6)
    assert bounds.price_of_parallelism(c, 1 / c.L) == pytest.approx(4, rel=1e-14)


# ------------------------------------------------------------------------------------------- T4 to T7
@given(constants, st.floats(1.1, 4), st.floats(1, 3), norms)
def test_growth_is_what_the_critical_batch_does_from_stage_to_stage(c, r, gamma, eps):
    top = 1 / c.L
    lr, smaller = 0.1 * top, eps / math.sqrt(r)
    delta = bounds.critical_batch_size(c, lr * gamma, smaller, top) / bounds.critical_batch_size(c, lr, eps, top)
    assert delta == pytest.approx(gamma * r)
    grows = bounds.growth(delta, gamma)
    assert grows.r == pytest.approx(r)
    steps = [bounds.minimal_steps(c, x, e, top) for x, e in ((lr, eps), (lr * gamma, smaller))]
    assert grows.tau == pytest.approx(steps[1] / steps[0])
    assert grows.epochs == pytest.approx(grows.tau * delta)


def log_sums(log_first: float, log_ratio: float, stages: int) -> np.ndarray:
    """Logarithms of the partial sums of a geometric sequence, by adding up."""
    return np.logaddexp.accumulate(log_first + log_ratio * np.arange(stages))


def fitted_exponent(delta: float, gamma: float, tau: float, divide: bool = False, stages: int = 200) -> float:
    """−d ln(bound)/d ln N over the second half of the stages of b δ^m, η γ^m, T τ^m.

    T1 with C1 = C2 = 1 (fixed, as in T5), from logarithms: δ^200 does not fit into a float. The first half is left
    out because T5 is about large N. `divide` takes out the factor that T5 means by "up to a logarithm": on the
    surface V is the number of stages.
    """
    ln_d, ln_g, ln_t = math.log(delta), math.log(gamma), math.log(tau)
    noise = log_sums(0.0, 2 * ln_g + ln_t - ln_d, stages)
    bound = np.logaddexp(0.0, noise) - log_sums(0.0, ln_g + ln_t, stages)
    if divide:
        bound -= np.log(np.arange(1, stages + 1))
    late = slice(stages // 2, None)
    return -np.polyfit(log_sums(0.0, ln_d + ln_t, stages)[late], bound[late], 1)[0]


def random_growths(on_surface: bool, count: int = 30) -> list[tuple[float, float, float]]:
    """δ, γ, τ with γτ and δ/γ from 1.2 to 4; off the surface their logarithms differ by 10 % at least.

    On it the logarithm alone takes 1/(150 ln δτ) off a fitted exponent, which for γτ = 1.1 is more than 0.03.
    """
    rng, found = np.random.default_rng(5), []
    while len(found) < count:
        gamma, descent = rng.uniform(0.7, 2.0), rng.uniform(math.log(1.2), math.log(4))
        noise = descent if on_surface else rng.uniform(math.log(1.2), math.log(4))
        if on_surface or abs(descent - noise) > 0.1 * max(descent, noise):
            found.append((gamma * math.exp(noise), gamma, math.exp(descent) / gamma))
    return found


def test_exponents_fitted_from_the_bound_off_the_surface():
    for growth in random_growths(on_surface=False):
        predicted = bounds.rate_exponent(*growth)
        assert predicted < 0.5
        assert fitted_exponent(*growth) == pytest.approx(predicted, abs=0.02), growth


def test_exponents_fitted_from_the_bound_on_the_surface():
    for growth in random_growths(on_surface=True):
        assert bounds.rate_exponent(*growth) == pytest.approx(0.5, abs=1e-12)
        assert fitted_exponent(*growth) == pytest.approx(0.5, abs=0.03), growth
        assert fitted_exponent(*growth) < fitted_exponent(*growth, divide=True)
        assert fitted_exponent(*growth, divide=True) == pytest.approx(0.5, abs=0.001), growth


def test_fitted_exponent_and_gradient_bound_are_of_the_same_bound():
    c, (delta, gamma, tau) = Constants(L=1e-6, sigma2=2e6, gap=1.0), (2.0, 1.2, 2.0)  # C1 ≈ 1, C2 ≈ 1
    steps = [round(2.0**m) for m in range(12)]
    lr, batch_size = (np.repeat([x**m for m in range(12)], steps) for x in (gamma, delta))
    path = bounds.gradient_bound(c, batch_size, lr)[np.cumsum(steps) - 1]
    sums, noise = log_sums(0, math.log(gamma * tau), 12), log_sums(0, math.log(gamma**2 * tau / delta), 12)
    assert np.log(path) == pytest.approx(np.logaddexp(0, noise) - sums, abs=1e-5)


@pytest.mark.parametrize(("growth", "why"), [((2, 2, 2), "δ = γ"), ((2, 1, 0.5), "γτ < 1"), ((2, 1, 1), "γτ = 1")])
def test_no_polynomial_rate(growth, why):
    assert bounds.rate_exponent(*growth) == 0, why
    assert fitted_exponent(*growth) < 0.02, why


@given(st.floats(1.05, 6), st.floats(0, 1))
def test_stopping_early_is_at_worst_anytime_ratio(r, where):
    """SFO of stages 0 … m − 1 in full and of stage m until x ε_m², over the best constant batch that knew it."""
    c, m = Constants(1.0, 1.0, 1.0), 40
    x = r**where  # stage m is needed for targets between ε_{m−1}² = r ε_m² and ε_m²
    cost = [bounds.minimal_samples(c, 0.1, 0.5 * r ** (-j / 2)) for j in range(m + 1)]
    eps = 0.5 * r ** (-m / 2)
    batch_size = bounds.critical_batch_size(c, 0.1, eps)
    spent = sum(cost[:m]) + bounds.samples_to(c, batch_size, 0.1, eps * math.sqrt(x))
    ratio = spent / bounds.minimal_samples(c, 0.1, eps * math.sqrt(x))
    assert ratio <= bounds.anytime_ratio(r, stop_early=True) * (1 + 1e-9)
    finished = sum(cost) / bounds.minimal_samples(c, 0.1, eps * math.sqrt(x))
    assert finished <= bounds.anytime_ratio(r) * (1 + 1e-9)


@pytest.mark.parametrize(("early", "r", "least"), [(False, math.sqrt(2), 4), (True, 2, 8 / 3)])
def test_anytime_ratio_is_reached_and_is_least_where_predicted(early, r, least):
    found = minimize_scalar(lambda x: bounds.anytime_ratio(x, early), bounds=(1.001, 20), method="bounded")
    assert (found.x, found.fun) == pytest.approx((r, least), rel=1e-5)
    c, m = Constants(1.0, 1.0, 1.0), 60
    cost = [bounds.minimal_samples(c, 0.1, 0.5 * r ** (-j / 2)) for j in range(m + 1)]
    eps, batch_size = 0.5 * r ** (-(m - 1) / 2), bounds.critical_batch_size(c, 0.1, 0.5 * r ** (-m / 2))
    last = (
        bounds.samples_to(c, batch_size, 0.1, eps) if early else cost[m]
    )  # the target is just above stage m − 1's aim
    assert (sum(cost[:m]) + last) / cost[m - 1] == pytest.approx(least, rel=1e-9)


@given(constants, st.floats(1.2, 4))
def test_stagewise_bound_is_gradient_bound_after_the_stages(c, r):
    eps = 0.7 * r ** (-np.arange(8) / 2)
    lr, top = np.full(8, 0.3 / c.L), 1 / c.L
    steps, batch_size = bounds.minimal_steps(c, lr, eps, top), bounds.critical_batch_size(c, lr, eps, top)
    sums, noise = np.cumsum(steps * lr), np.cumsum(steps * lr**2 / batch_size)
    c1, c2 = 2 * c.gap / (2 - c.L * top), c.L * c.sigma2 / (2 - c.L * top)
    assert bounds.stagewise_bound(eps) == pytest.approx((c1 + c2 * noise) / sums, rel=1e-9)


def test_the_caps_of_a_stage_by_hand():
    """δ = 4, γ = 2 (r = 2): both grow, then lr is at 0.4, then the batch at 500 and lr shrinks by r."""
    found = [bounds.capped_stage(m, 4, 0.1, 4, 2, 0.4, 500) for m in range(7)]
    assert [batch_size for batch_size, _, _ in found] == pytest.approx([4, 16, 64, 128, 256, 500, 500])
    assert [lr for _, lr, _ in found] == pytest.approx([0.1, 0.2, 0.4, 0.4, 0.4, 0.1 * 125 / 32, 0.1 * 125 / 64])
    on_ray = [batch_size / lr / 2**m for m, (batch_size, lr, _) in enumerate(found)]  # b/η = 2 C2/ε_m²
    assert on_ray == pytest.approx([40.0] * 7)
    assert [phase for _, _, phase in found] == ["grow both"] * 3 + ["grow batch"] * 2 + ["decay lr"] * 2


@pytest.mark.parametrize("max_batch_size", [40.0, 1e3, 1e9])
def test_stage_ends_by_walking_the_stages(max_batch_size):
    c, eps0, r, lr, gamma, top = Constants(2.0, 30.0, 1.0), 0.5, 1.07, 0.003, 1.05, 0.4
    at_cap = full = math.inf
    for m in range(600):
        eps = eps0 * r ** (-m / 2)
        room = max_batch_size / bounds.critical_batch_size(c, 1e-3, eps, top) * 1e-3
        eta = min(lr * gamma**m, top, room)
        at_cap = min(at_cap, m) if eta == top else at_cap
        full = min(full, m) if eta == room else full
    predicted = bounds.stage_ends(c, eps0, r, lr, gamma, top, max_batch_size)
    assert [math.ceil(x) if x < math.inf else x for x in predicted] == [at_cap, full]


# ------------------------------------------------------------------------------------------ T8 to T10
def test_decaying_lr_and_growing_batch_give_the_same_noise_and_the_same_ratio_in_the_bound():
    """T8: with S matched (α times the steps at lr/α), V/S is the same; the number of steps is not."""
    alpha, lr, batch_size, steps = 4, 0.1, 32, 10
    assert bounds.step_noise(batch_size, lr / alpha, 0.9) == pytest.approx(
        bounds.step_noise(batch_size * alpha, lr, 0.9)
    )
    c = Constants(L=1.0, sigma2=5.0, gap=1.0)
    decayed = bounds.gradient_bound(c, batch_size, np.full(steps * alpha, lr / alpha), lr_max=lr)[-1]
    grown = bounds.gradient_bound(c, batch_size * alpha, np.full(steps, lr), lr_max=lr)[-1]
    assert decayed == pytest.approx(grown, rel=1e-12)


@given(st.floats(0, 2), st.integers(1, 5000))
def test_power_sum_by_adding_up(a, steps):
    assert bounds.power_sum(a, steps) == pytest.approx(math.fsum(t**-a for t in range(1, steps + 1)), rel=1e-13)


@pytest.mark.parametrize("a", [0.2, 0.5, 0.8])
def test_decaying_lr_steps_is_the_first_step_of_gradient_bound(a):
    c, lr, batch_size = Constants(L=1.0, sigma2=4.0, gap=1.0), 0.5, 16
    path = bounds.gradient_bound(c, batch_size, lr * np.arange(1, 60_001) ** -a)
    assert np.all(np.diff(path) < 0)
    for steps in (1, 2, 777, 1000, 1001, 54_321):
        assert bounds.decaying_lr_bound(c, batch_size, lr, a, steps) == pytest.approx(path[steps - 1], rel=1e-11)
        eps = math.sqrt(path[steps - 1] * (1 + 1e-10))
        assert bounds.decaying_lr_steps(c, batch_size, lr, a, eps) == steps
        assert bounds.decaying_lr_samples(c, batch_size, lr, a, eps) == steps * batch_size


@pytest.mark.parametrize(("a", "order"), [(0.2, 0.2), (0.4, 0.4), (0.6, 0.4), (0.8, 0.2)])
def test_decaying_lr_has_the_order_of_the_slower_term(a, order):
    c, steps = Constants(L=1.0, sigma2=4.0, gap=1.0), np.array([1e24, 1e30])
    path = bounds.decaying_lr_bound(c, 16, 0.5, a, steps)
    assert -np.diff(np.log(path)) / np.diff(np.log(steps)) == pytest.approx(order, abs=0.01)


def test_decaying_lr_at_one_half_has_a_logarithm():
    c, steps = Constants(L=1.0, sigma2=4.0, gap=1.0), np.array([1e24, 1e30, 1e36])
    path = bounds.decaying_lr_bound(c, 16, 0.5, 0.5, steps) * np.sqrt(steps)
    assert np.diff(path, n=2) == pytest.approx(0, abs=1e-9 * path[-1])  # linear in ln K, and rising
    assert path[2] > path[1]


@given(constants, st.floats(0.1, 5), norms)
def test_the_norm_test_follows_the_critical_batch_of_its_lr(c, eta, eps):
    lr = bounds.norm_test_lr(c, eta)
    assert 0 < lr < 2 / c.L
    assert bounds.norm_test_batch_size(c, eta, eps) == pytest.approx(bounds.critical_batch_size(c, lr, eps), rel=1e-9)


# ----------------------------------------------------------------------------------------- T11 and T12
def brute_front(c: Constants, steps: float, eps: float) -> tuple[float, float, float]:
    """Least batch at K steps over lr: T1 ≤ ε² solved for b, minimised over lr. Returns lr, batch, SFO."""

    def batch_size(lr: float) -> float:
        room = eps**2 * steps * lr * (1 - c.L * lr / 2) - c.gap
        return steps * c.L * lr**2 * c.sigma2 / 2 / room if room > 0 else math.inf

    grid = np.geomspace(1e-5, 1.999, 4000) / c.L
    best = int(np.argmin([batch_size(lr) for lr in grid]))
    span = (grid[max(best - 1, 0)], grid[min(best + 1, 3999)])
    lr = minimize_scalar(batch_size, bounds=span, method="bounded", options={"xatol": 1e-12 / c.L}).x
    return lr, batch_size(lr), batch_size(lr) * steps


@given(constants, st.floats(1.05, 30), norms)
def test_the_front_is_the_minimum_over_lr_and_batch(c, excess, eps):
    steps = excess * bounds.front_min_steps(c, eps)
    lr, batch_size, samples = brute_front(c, steps, eps)
    assert bounds.front_samples(c, steps, eps) == pytest.approx(samples, rel=1e-6)
    assert bounds.front_batch_size(c, steps, eps) == pytest.approx(batch_size, rel=1e-6)
    assert bounds.optimal_lr(c, batch_size, eps) == pytest.approx(lr, rel=1e-3)
    assert bounds.front_steps(c, batch_size, eps) == pytest.approx(steps, rel=1e-5)


@given(constants, st.floats(0.01, 1), norms)
def test_there_is_no_front_at_or_below_the_least_steps(c, share, eps):
    steps = share * bounds.front_min_steps(c, eps)
    assert bounds.front_samples(c, steps, eps) == bounds.front_batch_size(c, steps, eps) == math.inf
    assert brute_front(c, steps * (1 - 1e-12), eps)[2] == math.inf


@given(constants, norms)
def test_the_critical_batch_at_one_over_L_pays_twice_the_front(c, eps):
    lr = 1 / c.L
    steps, samples = bounds.minimal_steps(c, lr, eps), bounds.minimal_samples(c, lr, eps)
    assert steps == pytest.approx(2 * bounds.front_min_steps(c, eps))
    assert samples == pytest.approx(2 * bounds.front_samples(c, steps, eps))
    assert samples == pytest.approx(4 * bounds.front_min_samples(c, eps))


def test_no_schedule_of_pairs_beats_the_constant_pair_at_equal_steps_and_samples():
    """T11's Jensen step, by letting an optimiser try: the bound with η_t(1 − Lη_t/2) kept at every step."""
    c, steps, eps = Constants(L=2.0, sigma2=3.0, gap=1.0), 5, 0.9
    steps = math.ceil(1.7 * bounds.front_min_steps(c, eps))
    samples = bounds.front_samples(c, steps, eps)

    def value(z: np.ndarray) -> float:
        lr = 2 / c.L / (1 + np.exp(-z[:steps]))
        share = np.exp(z[steps:] - np.max(z[steps:]))
        batch_size = samples * share / np.sum(share)
        return (c.gap + c.L * c.sigma2 / 2 * np.sum(lr**2 / batch_size)) / np.sum(lr * (1 - c.L * lr / 2))

    rng = np.random.default_rng(0)
    found = [minimize(value, rng.normal(size=2 * steps), options={"gtol": 1e-9}) for _ in range(3)]
    assert min(result.fun for result in found) == pytest.approx(eps**2, rel=1e-6)


@given(constants, norms, log_uniform, log_uniform)
def test_time_optimal_batch_is_the_minimiser_of_time_on_the_front(c, eps, latency, per_sample):
    best = bounds.time_optimal_batch_size(c, eps, latency, per_sample)
    at = bounds.front_time(c, best, eps, latency, per_sample)
    near = bounds.front_time(c, best * np.array([0.9, 0.999, 1.001, 1.1]), eps, latency, per_sample)
    assert np.all(near > at)
    steps = bounds.front_steps(c, best, eps)
    assert at == pytest.approx(latency * steps + per_sample * bounds.front_samples(c, steps, eps), rel=1e-6)


# ---------------------------------------------------------------------------------------- shapes, input
def test_arrays_broadcast_and_scalars_stay_floats():
    c = Constants(1.0, 1.0, 1.0)
    grid = bounds.samples_to(c, np.array([8, 16, 999]), np.array([[0.1], [0.5]]), 0.2)
    assert grid.shape == (2, 3)
    assert grid[1, 2] == bounds.samples_to(c, 999, 0.5, 0.2)
    for value in (
        bounds.samples_to(c, 999, 0.5, 0.2),
        bounds.front_samples(c, 1.0, 0.2),
        bounds.rate_exponent(4, 2, 1),
    ):
        assert type(value) is float


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda c: bounds.steps_to(c, 8, [0.5, 2.5], 0.1), "lr = 2.5: must be below 2/L = 2"),
        (lambda c: bounds.steps_to(c, 8, 2.0, 0.1), "lr = 2.0"),
        (lambda c: bounds.steps_to(c, 0, 0.5, 0.1), "batch_size = 0"),
        (lambda c: bounds.critical_batch_size(c, 0.5, -0.1), "eps = -0.1"),
        (lambda c: bounds.critical_batch_size(c, 0.5, 0.1, 0.4), "lr = 0.5: must be at most lr_max = 0.4"),
        (lambda c: bounds.gradient_bound(c, [math.nan], [0.5]), "batch_size = "),
        (lambda c: bounds.gradient_bound(c, [11], [0.5], n=10), "batch_size = 11.0: must be at most n = 10"),
        (lambda c: bounds.anytime_ratio(1.0), "r = 1.0: must be above 1"),
        (lambda c: bounds.decaying_lr_steps(c, 8, 0.5, 1.0, 0.1), "a = 1.0"),
        (lambda c: bounds.step_noise(8, 0.1, 1.0), "momentum = 1.0"),
        (lambda c: bounds.time_optimal_batch_size(c, 0.1, 0.0, 1.0), "latency = 0.0"),
        (lambda c: bounds.gradient_bound(c, 8, []), "lr = []: must be a finite number above 0"),
        (lambda c: bounds.steps_to(c, [1, 2, 3], [0.1, 0.2], 0.1), "shapes batch_size (3,), lr (2,): must broadcast"),
        (lambda c: bounds.front_samples(c, [9, 10], [0.1] * 3), "shapes steps (2,), eps (3,): must broadcast"),
        (
            lambda c: bounds.gradient_bound(c, 8, [0.1, 0.2], lr_max=[0.2, 0.3]),
            "lr_max = [0.2, 0.3]: must be one number",
        ),
        (lambda c: bounds.minimal_samples(c, 0.1, 1e200), "eps = 1e+200: must be at most 1e75"),
        (lambda c: bounds.calibrated(16, [0.1, 0.2], 100, 0.1), "lr = [0.1, 0.2]: must be one number"),
        (lambda c: bounds.calibrated(1, 1e-300, 1, 1e-75), "eps = 1e-75: with these"),
        (lambda c: bounds.stagewise_bound([]), "eps = []: must be a finite number above 0"),
        (lambda c: bounds.stage_ends(c, -1.0, 2.0, 0.1, 1.4, 1.0, 1000), "eps0 = -1.0"),
        (lambda c: bounds.stage_ends(c, 0.1, 2.0, 0.1, 1.4, 3.0, 1000), "max_lr = 3.0: must be below 2/L"),
        (lambda c: bounds.capped_stage(-3, 16, 0.1, 2.0, 1.4), "m = -3: must be a whole number"),
        (lambda c: bounds.step_noise(8, 0.1, [0.1, 0.9]), "momentum = [0.1, 0.9]"),
        (lambda c: bounds.capped_stage(5000, 16, 0.1, 2.0, 1.4), "m = 5000: is too late"),
        (lambda c: Constants(0.0, 1.0, 1.0), "L = 0.0"),
        (lambda c: Constants(1.0, -1.0, 1.0), "sigma2 = -1.0"),
        (lambda c: Constants(1.0, math.nan, 1.0), "sigma2 = nan"),
        (lambda c: Constants(1.0, 1.0, math.inf), "gap = inf"),
    ],
)
def test_bad_input_names_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        call(Constants(1.0, 1.0, 1.0))
    assert named in str(caught.value)


@given(shares, log_uniform, log_uniform, norms, st.floats(1, 5))
def test_calibrated_constants_give_back_the_pilot(lr, batch_size, steps, eps, over):
    for top in (None, over * lr):
        c = bounds.calibrated(batch_size, lr, steps, eps, top)
        assert bounds.critical_batch_size(c, lr, eps, top) == pytest.approx(batch_size)
        assert bounds.minimal_steps(c, lr, eps, top) == pytest.approx(steps)
    with pytest.raises(InputError, match="batch_size = 0"):
        bounds.calibrated(0, lr, steps, eps)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: bounds.finite_population(0.25, 10), "batch_size"),
        (lambda: bounds.gradient_bound(Constants(1, 1, 1), [[1.0], [2.0]], 0.1), "batch_size"),
        (lambda: bounds.gradient_bound(Constants(1, 1, 1), 1.0, [[0.1], [0.2]]), "lr"),
        (lambda: bounds.gradient_bound(Constants(1, 1, 1), [1.0, 2.0, 3.0], [0.1, 0.2]), "batch_size"),
        (lambda: bounds.calibrated(8, 0.5, 100, 0.1, max_lr=0.1), "max_lr"),
        (lambda: bounds.decaying_lr_steps(Constants(1, 1, 1), 1, 0.1, 0.001, 0.1), "a"),
        (lambda: bounds.time_optimal_batch_size(Constants(1, 0, 1), 0.1, 1, 1), "sigma2"),
        (lambda: bounds.minimal_samples(Constants(1, 1, 1), 0.1, 1e-90), "eps"),
        (lambda: bounds.calibrated(8, 0.1, 100, 1e-90), "eps"),
    ],
)
def test_input_outside_what_the_formula_bears_names_the_field_that_was_passed(call, field):
    with pytest.raises(InputError, match=f"^{field} = "):
        call()
