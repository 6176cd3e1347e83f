"""The quadratic's closed forms against its recursion, its recursion against sampling, its minima against loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfolib._utils.errors import InputError
from sfolib.theory import bounds
from sfolib.theory.quadratic import PowerLawQuadratic

KINDS = [("white", "power_law"), ("curvature", "power_law"), ("white", "flat"), ("curvature", "flat")]


def small(noise="white", init="power_law", **kwargs) -> PowerLawQuadratic:
    return PowerLawQuadratic(**{"d": 30, "lam_min": 1e-3, "L": 2.0, "sigma2": 3.0, **kwargs}, noise=noise, init=init)


@pytest.mark.parametrize(("noise", "init"), KINDS)
def test_the_constants_are_those_of_the_problem(noise, init):
    q = small(noise, init, gap=0.7)
    c = q.constants()
    assert (np.max(q.eigenvalues), np.min(q.eigenvalues)) == pytest.approx((c.L, 1e-3))
    assert np.sum(q.noise_variance) == pytest.approx(c.sigma2)
    assert np.sum(q.eigenvalues * q.theta0**2) / 2 == pytest.approx(c.gap)
    assert q.loss(1, 0.1, 0) == pytest.approx(c.gap)
    ratios = np.diff(np.log(q.eigenvalues))
    assert ratios == pytest.approx(ratios[0])
    expected = {"white": 0.0, "curvature": 1.0}[noise], {"power_law": -1.0, "flat": 0.0}[init]
    slopes = [np.polyfit(np.log(q.eigenvalues), np.log(x), 1)[0] for x in (q.noise_variance, q.theta0**2)]
    assert slopes == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("noise", "init"), KINDS)
def test_recursion_is_the_mean_over_sampled_runs(noise, init):
    q, rng = small(noise, init, d=6), np.random.default_rng(0)
    lr, batch_size, runs = np.array([0.9, 0.4, 0.1, 0.3, 0.7]), np.array([1, 2, 7, 3, 1]), 40_000
    theta = np.tile(q.theta0, (runs, 1))
    for eta, b in zip(lr, batch_size, strict=True):
        gradient = theta * q.eigenvalues + rng.normal(size=theta.shape) * np.sqrt(q.noise_variance / b)
        theta -= eta * gradient
    sampled = np.sum((theta * q.eigenvalues) ** 2, axis=1)
    error = np.std(sampled) / math.sqrt(runs)
    assert abs(np.mean(sampled) - q.grad_sqnorm_path(batch_size, lr)[-1]) < 4 * error
    assert q.moments(batch_size, lr).shape == (6, 6)
    assert q.moments(batch_size, lr) @ q.eigenvalues**2 == pytest.approx(q.grad_sqnorm_path(batch_size, lr), rel=1e-14)
    assert q.moments(batch_size, lr) @ q.eigenvalues / 2 == pytest.approx(q.loss_path(batch_size, lr), rel=1e-14)


@pytest.mark.parametrize(("noise", "init"), KINDS)
@pytest.mark.parametrize("lr", [1e-6, 0.01, 0.5, 0.77, 0.999])
def test_closed_form_is_the_recursion(noise, init, lr):
    q, steps = small(noise, init), np.arange(3001)
    for batch_size in (1, 50.5):
        assert q.grad_sqnorm(batch_size, lr, steps) == pytest.approx(
            q.grad_sqnorm_path(batch_size, np.full(3000, lr)), rel=1e-12
        )
        assert q.loss(batch_size, lr, steps) == pytest.approx(q.loss_path(batch_size, np.full(3000, lr)), rel=1e-12)


def test_closed_form_broadcasts_and_keeps_scalars():
    q = small()
    grid = q.grad_sqnorm(np.array([1, 8])[:, None], np.array([0.1, 0.5])[:, None, None], np.array([0, 3, 10**9]))
    assert grid.shape == (2, 2, 3)
    assert grid[1, 0, 1] == pytest.approx(q.grad_sqnorm(1, 0.5, 3), rel=1e-14)
    assert type(q.grad_sqnorm(1, 0.5, 3)) is float


def first_step(q: PowerLawQuadratic, batch_size: float, lr: float, eps: float, target: str, budget: int) -> float:
    """The slow twin of steps_to: look at every step."""
    path = (q.grad_sqnorm if target == "grad_sqnorm" else q.loss)(batch_size, lr, np.arange(budget))
    below = np.flatnonzero(path <= eps**2)
    return float(below[0]) if len(below) else math.inf


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(["grad_sqnorm", "loss"]),
    st.floats(0.02, 0.99),
    st.floats(0, 3).map(lambda x: 10**x),
    st.floats(-2, 0.3).map(lambda x: 10**x),
)
def test_steps_to_is_the_first_step_or_proves_that_there_is_none(kind, target, lr, batch_size, eps):
    q = small(*kind)
    steps = q.steps_to(batch_size, lr, eps, target)
    assert first_step(q, batch_size, lr, eps, target, 4000) == (steps if steps < 4000 else math.inf)
    assert q.samples_to(batch_size, lr, eps, target) == steps * batch_size


def test_steps_to_finds_a_dip_that_does_not_last():
    """From a flat start the loss falls along the steep directions, then rises with the noise of the others."""
    q = PowerLawQuadratic(d=50, lam_min=1e-4, sigma2=30.0, init="flat")
    path = q.loss(40, 0.9, np.arange(100_000))
    dip = int(np.argmin(path))
    assert 0 < dip < 1000
    assert path[-1] > 1.05 * path[dip]
    assert q.steps_to(40, 0.9, math.sqrt(path[dip] * (1 + 1e-12)), "loss") == dip
    assert q.steps_to(40, 0.9, math.sqrt(path[dip] * (1 - 1e-12)), "loss") == math.inf


def test_steps_to_broadcasts():
    q = small()
    grid = q.steps_to([1, 30, 300], [[0.1], [0.5]], 0.3)
    assert grid.shape == (2, 3)
    assert grid[1, 2] == q.steps_to(300, 0.5, 0.3)


@pytest.mark.parametrize(("noise", "init"), KINDS)
@pytest.mark.parametrize("target", ["grad_sqnorm", "loss"])
def test_batch_to_and_best_constant_batch_against_every_step(noise, init, target):
    q, lr, eps = small(noise, init), 0.4, 0.4
    best = q.best_constant_batch_size(lr, eps, target)
    steps = np.arange(1, 6000)
    batch_size = q.batch_size_to(lr, steps, eps, target)
    enough = batch_size < math.inf
    value = q.grad_sqnorm if target == "grad_sqnorm" else q.loss
    assert value(batch_size[enough], lr, steps[enough]) == pytest.approx(eps**2, rel=1e-9)
    assert value(1e300, lr, steps[~enough]) == pytest.approx(np.maximum(eps**2, value(1e300, lr, steps[~enough])))
    assert best.samples == pytest.approx(np.min(steps * batch_size), rel=1e-12)
    assert best.steps == steps[np.argmin(steps * batch_size)]
    assert best.batch_size == pytest.approx(np.min(steps * batch_size) / best.steps)
    around = best.batch_size * np.geomspace(0.2, 5, 400)
    assert np.min(q.samples_to(around, lr, eps, target)) >= best.samples * (1 - 1e-9)


def test_best_constant_batch_has_the_scaling_of_T2():
    """b* ∝ ε^−2 and N* ∝ ε^−4 nearly, and no better than the bound: the bound is loose by a constant."""
    q = PowerLawQuadratic()
    eps = np.sqrt([1e-2, 1e-3, 1e-4])
    found = [q.best_constant_batch_size(0.5, e) for e in eps]
    slopes = [
        np.polyfit(np.log(eps**2), np.log([getattr(x, name) for x in found]), 1)[0]
        for name in ("batch_size", "samples")
    ]
    assert slopes == pytest.approx([-1, -2], abs=0.1)
    assert all(x.samples < bounds.minimal_samples(q.constants(), 0.5, e) for x, e in zip(found, eps, strict=True))


def test_front_against_a_fine_grid():
    q, steps, eps = small(), 40, 0.5
    lr = np.linspace(0.001, 0.999, 20_000)
    batch_size = q.batch_size_to(lr, steps, eps)
    found = q.front(steps, eps)
    assert found.batch_size == pytest.approx(np.min(batch_size), rel=1e-6)
    assert found.batch_size <= np.min(batch_size) * (1 + 1e-9)
    assert found.lr == pytest.approx(lr[np.argmin(batch_size)], rel=1e-2)
    assert found.samples == pytest.approx(steps * found.batch_size)
    assert q.front(1, 0.01).samples == math.inf


@pytest.mark.parametrize(("noise", "init"), KINDS)
def test_the_measured_norm_is_below_the_bound(noise, init):
    q = small(noise, init)
    rng = np.random.default_rng(3)
    lr, batch_size = rng.uniform(0.01, 0.95, 400), rng.integers(1, 64, 400)
    least = np.minimum.accumulate(q.grad_sqnorm_path(batch_size, lr))[:-1]
    assert np.all(least <= bounds.gradient_bound(q.constants(), batch_size, lr))


STAGES = [(4, 0.9, 11), (16.5, 0.5, 40), (64, 0.5, 0), (256, 0.1, 300)]


def test_stage_path_is_the_recursion_of_the_stages_laid_out():
    q = small("curvature")
    batch_size, lr = (np.repeat([s[i] for s in STAGES], [s[2] for s in STAGES]) for i in (0, 1))
    path, ends = q.stage_path(STAGES), np.cumsum([0] + [s[2] for s in STAGES])
    assert path.steps == pytest.approx(ends)
    assert path.samples == pytest.approx(np.concatenate([[0], np.cumsum(batch_size)])[ends])
    assert path.grad_sqnorm == pytest.approx(q.grad_sqnorm_path(batch_size, lr)[ends], rel=1e-12)
    assert path.loss == pytest.approx(q.loss_path(batch_size, lr)[ends], rel=1e-12)


@pytest.mark.parametrize("target", ["grad_sqnorm", "loss"])
def test_stages_to_is_the_first_step_of_the_recursion(target):
    q = small("curvature")
    batch_size, lr = (np.repeat([s[i] for s in STAGES], [s[2] for s in STAGES]) for i in (0, 1))
    whole = (q.grad_sqnorm_path if target == "grad_sqnorm" else q.loss_path)(batch_size, lr)
    spent = np.concatenate([[0], np.cumsum(batch_size)])
    for value in np.geomspace(np.min(whole) * 1.0001, whole[0] * 1.01, 25):
        first = int(np.flatnonzero(whole <= value)[0])
        assert q.stages_to(STAGES, math.sqrt(value), target) == pytest.approx((first, spent[first]))
    assert q.stages_to(STAGES, math.sqrt(np.min(whole) * 0.999), target) == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: small(d=0), "d = 0"),
        (lambda: small(lam_min=3.0), "lam_min = 3.0: must be at most L = 2.0"),
        (lambda: small(noise="pink"), "noise = 'pink'"),
        (lambda: small(init="zero"), "init = 'zero'"),
        (lambda: small(sigma2=-1.0), "sigma2 = -1.0"),
        (lambda: small().grad_sqnorm(8, 1.0, 5), "lr = 1.0: must be below 2/L = 1"),
        (lambda: small().grad_sqnorm(0, 0.5, 5), "batch_size = 0"),
        (lambda: small().grad_sqnorm(8, 0.5, 2.5), "steps = 2.5"),
        (lambda: small().steps_to(8, 0.5, 0.0), "eps = 0.0"),
        (lambda: small().steps_to(8, 0.5, 0.1, "accuracy"), "target = 'accuracy'"),
        (lambda: small().stage_path([(8, 0.5, -1)]), "steps = -1"),
    ],
)
def test_bad_input_names_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        call()
    assert named in str(caught.value)


@pytest.mark.parametrize("noise", ["white", "curvature"])
def test_small_steps_have_a_bias_over_eta_k_and_a_noise_of_eta_over_b(noise):
    q, lr = PowerLawQuadratic(d=200, lam_min=1e-6, noise=noise), 1e-3
    A, G = q.small_step_constants()
    for steps in (1e5, 1e7):
        assert q.grad_sqnorm(1e300, lr, steps) * lr * steps == pytest.approx(A, rel=0.02)
    settled = q.grad_sqnorm(1.0, lr, 1e12) / lr
    assert settled == pytest.approx(G, rel=0.01)
    assert q.gap > A
    assert q.L * q.sigma2 / 2 > G


def test_fastest_pair_is_the_least_time_over_all_steps():
    q, eps = PowerLawQuadratic(d=60, lam_min=1e-3), 0.1
    for latency in (1.0, 30.0):
        times = [latency * k + q.front(k, eps).samples for k in range(6, 120)]
        found = q.fastest_pair(eps, latency, 1.0)
        assert latency * found.steps + found.samples == pytest.approx(min(times), rel=1e-3)
    with pytest.raises(InputError, match="per_sample = 0"):
        q.fastest_pair(eps, 1.0, 0)
