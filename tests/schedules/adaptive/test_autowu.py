"""AutoWU's Gaussian process beside scikit-learn's and beside torch's Adam on the same likelihood; its own decision."""

import json

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from sfolib._utils.errors import InputError
from sfolib.schedules.adaptive import AutoWU, autowu, loss_gp

GRID = np.linspace(0, 1, 50)


def losses(seed, size=80, noise=0.1):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.random(size))
    return x, 1 + 5 * (x - 0.6) ** 2 + noise * rng.standard_normal(size)


def sklearn_kernel(variance, noise):
    return ConstantKernel(variance) * RBF(loss_gp.LENGTHSCALE, "fixed") + WhiteKernel(noise, (1e-4, 1e3))


def test_the_features_are_the_kernel():
    x = np.linspace(0, 1, 41)
    phi = loss_gp.features(x)
    assert phi.shape[1] < 25
    assert np.abs(phi @ phi.T - RBF(loss_gp.LENGTHSCALE)(x[:, None])).max() < 1e-11


@pytest.mark.parametrize("seed", range(3))
def test_the_greatest_likelihood_is_scikit_learns(seed):
    x, y = losses(seed)
    found = loss_gp.maximize_likelihood(x, y, y.mean())
    kernel = GaussianProcessRegressor(sklearn_kernel(y.var(), 1e-3), alpha=0.0).fit(x[:, None], y - y.mean()).kernel_
    assert found.mean == y.mean()
    assert found.variance == pytest.approx(kernel.k1.k1.constant_value, rel=1e-2)  # two optimizers, one flat top
    assert found.noise == pytest.approx(kernel.k2.noise_level, rel=1e-3)


def test_conditioning_is_scikit_learns():
    x, y = losses(3)
    mean, covariance = loss_gp.condition(loss_gp.Process(0.7, 0.4, 0.02), x, y, GRID)
    twin = GaussianProcessRegressor(sklearn_kernel(0.4, 0.02).k1, alpha=0.02, optimizer=None).fit(x[:, None], y - 0.7)
    expected = twin.predict(GRID[:, None], return_cov=True)
    assert mean == pytest.approx(expected[0] + 0.7, abs=1e-8)
    assert covariance == pytest.approx(expected[1], abs=1e-8)


def test_the_authors_fit_is_adam_by_autograd():
    """Two fits in a row, the second on other points, from where the first one ended."""
    raw = torch.tensor(loss_gp.ADAM_START[:2], dtype=torch.float64, requires_grad=True)
    mean = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer, state = torch.optim.Adam([raw, mean], lr=0.01), list(loss_gp.ADAM_START)
    for seed in (4, 5):
        x, y = losses(seed, size=40)
        correlation, target = torch.tensor(RBF(loss_gp.LENGTHSCALE)(x[:, None])), torch.tensor(y)
        with torch.no_grad():
            mean.fill_(y.mean())
        for _ in range(100):
            optimizer.zero_grad()
            variance, noise = torch.nn.functional.softplus(raw) + torch.tensor([0.0, 1e-4])
            covariance = variance * correlation + noise * torch.eye(len(x))
            normal = torch.distributions.MultivariateNormal(mean.expand(len(x)), covariance)
            (-normal.log_prob(target) / len(x)).backward()
            optimizer.step()
        found = loss_gp.adam(x, y, y.mean(), state)
        variance, noise = (torch.nn.functional.softplus(raw) + torch.tensor([0.0, 1e-4])).tolist()
        assert found == pytest.approx((mean.item(), variance, noise), rel=1e-6)
    assert state[8] == 200


def test_adam_starts_where_gpytorch_does_and_gains_on_the_noise():
    """At first variance ln 2 and noise 1e-3; 100 steps of 0.01 cannot move a raw value by more than about 1."""
    start = list(loss_gp.ADAM_START)
    assert np.logaddexp(0, start[0]) == pytest.approx(np.log(2))
    assert 1e-4 + np.logaddexp(0, start[1]) == pytest.approx(1e-3)
    x, y = losses(6)
    noises = [loss_gp.adam(x, y, y.mean(), start).noise for _ in range(12)]
    assert noises[0] < 1e-3 * np.e
    assert noises == sorted(noises)
    assert noises[-1] == pytest.approx(loss_gp.maximize_likelihood(x, y, y.mean()).noise, rel=0.1)


def test_five_looks_are_one_until_there_are_more_losses_than_a_look_takes():
    y = list(np.random.default_rng(0).random(501))
    assert len(set(autowu.predictions(y[:500], (0,)))) == 1
    found = autowu.predictions(y, (0,))
    assert len(set(found)) == 5
    assert found == autowu.predictions(y, (0,)) != autowu.predictions(y, (1,))


def warmed(fit, until=None):
    policy, rng = AutoWU(200, 10, batch_size=16, min_lr=1e-3, fit=fit), np.random.default_rng(1)
    while policy.switched is None and policy.step != until:
        policy.update(16, 1 + ((policy.step - 40) / 30) ** 2 + 0.05 * rng.standard_normal())
    return policy


def test_both_fits_find_the_bottom_of_a_valley():
    for fit in ("likelihood", "adam"):
        policy = warmed(fit)
        assert policy.switched in (70, 80)
        assert policy.warmup_lr(36) < policy.peak < policy.warmup_lr(44)


def test_the_adam_fit_goes_on_from_its_state():
    policy, resumed = warmed("adam", until=55), AutoWU(200, 10, batch_size=16, min_lr=1e-3, fit="adam")
    resumed.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    assert policy.adam != list(loss_gp.ADAM_START)
    for loss in np.linspace(1.2, 3.0, 40):
        assert policy.update(16, float(loss)) == resumed.update(16, float(loss))
    assert policy.state_dict() == resumed.state_dict()
    assert policy.switched is not None
    assert AutoWU(200, 10, batch_size=16, fit="adam").adam == list(loss_gp.ADAM_START)  # not the one that was changed


def test_a_decision_is_where_lr_first_falls():
    assert autowu.decision(np.array([0.1, 0.2, 0.4, 0.3, 0.2])) == (3, 0.3)
    assert autowu.decision(np.array([0.1, 0.2, 0.15, 0.15, 0.1])) == (2, 0.15)
    with pytest.raises(InputError, match="never falls"):
        autowu.decision(np.array([0.1, 0.2, 0.4]))


@pytest.mark.parametrize("fit", [loss_gp.maximize_likelihood, lambda *a: loss_gp.adam(*a, list(loss_gp.ADAM_START))])
def test_smoothed_finds_the_curve_behind_the_noise(fit):
    x = np.arange(300) / 300
    noise = 0.3 * np.random.default_rng(2).standard_normal(300)
    mean, deviation = autowu.smoothed(np.cos(2 * x) + noise, fit)
    error = np.abs(mean - np.cos(2 * np.linspace(0, 1, len(mean))))
    assert error.max() < 0.15
    assert np.mean(error < 3 * deviation) > 0.9 or fit is not loss_gp.maximize_likelihood


def test_an_unknown_fit_is_named():
    with pytest.raises(InputError, match="fit = 'newton': Input should be 'likelihood' or 'adam'"):
        AutoWU(200, 10, batch_size=16, fit="newton")


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e6])
def test_the_default_switch_does_not_depend_on_the_losses_scale(scale):
    """A noisy valley, in a unit of any size: the same switch at the same lr."""
    x, rng = np.linspace(0, 1, 300), np.random.default_rng(4)
    losses = 1 + 6 * (x - 0.4) ** 2 + 0.2 * rng.standard_normal(len(x))
    switches = []
    for factor in (1.0, scale):
        policy = AutoWU(1000, 20, batch_size=8, max_lr=1.0)
        for loss in losses:
            policy.update(8, factor * loss)
        switches.append((policy.switched, policy.peak))
    assert switches[0][0] is not None
    assert switches[1] == pytest.approx(switches[0], rel=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_the_smoothed_curve_scales_with_the_losses(scale):
    x = np.linspace(0, 1, 300)
    losses = 1 + 6 * (x - 0.4) ** 2 + 0.2 * np.random.default_rng(4).standard_normal(len(x))
    for found, wanted in zip(autowu.smoothed(scale * losses), autowu.smoothed(losses), strict=True):
        np.testing.assert_allclose(found, scale * wanted, rtol=1e-6)
