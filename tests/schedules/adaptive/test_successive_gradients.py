"""SuccessiveGradientTest and its signal on problems whose truth is exact."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from sfolib._utils.errors import InputError
from sfolib.gradients import SuccessiveGradients, SuccessiveProducts
from sfolib.schedules.adaptive import CABS, NoiseAndLoss, NoiseScaleRule, SuccessiveGradientTest

LAM, LR, B, D = np.geomspace(0.02, 1.0, 40), 0.4, 16, 40
S = np.linspace(2, 1, D) / D  # variance of one sample's gradient, a coordinate
KEEP = 1 - LR * LAM
STATIONARY = LR * S / (B * LAM * (2 - LR * LAM))  # variance of θ


def at_lag(lag):
    """E[g_t·g_{t+lag}] of the stationary run, without a slope."""
    return (LAM**2 * STATIONARY * KEEP**lag - LR * LAM * KEEP ** (lag - 1) * S / B).sum()


def deficit(memory):
    """What ‖slope‖² makes the mean product exactly 0: the product is below 0 by so much without it."""
    nu = 1 - 1 / memory
    return -sum((1 - nu) * nu ** (lag - 1) * at_lag(lag) for lag in range(1, 400))


def signals(rng, memory, slope, steps, runs):
    """Signals of SGD on f = ½Σλθ² + slope·φ, φ a flat direction without noise, from the stationary state on:
    (5 + 1, steps, runs)."""
    theta = np.sqrt(STATIONARY)[:, None] * rng.standard_normal((D, runs))
    nu, rows, a, before, weight = 1 - 1 / memory, [], 0.0, np.full(runs, np.nan), 0.0
    for _ in range(steps):
        halves = (LAM * theta.T).T + np.sqrt(2 * S / B)[:, None] * rng.standard_normal((2, D, runs))
        g = halves.mean(0)
        G2 = (halves[0] * halves[1]).sum(0) + slope
        noise = ((halves[0] - halves[1]) ** 2).sum(0) / 4 * B
        product = (a * g).sum(0) * (1 - nu) / weight + slope if weight else np.full(runs, np.nan)
        rows.append([product, (before + G2) / 2, G2, noise, 0 * G2, 0 * G2])
        a, weight, before = nu * a + g, 1 - nu * (1 - weight), G2
        theta = theta - LR * g
    return np.array(rows).transpose(1, 0, 2)


def stops(memory, slope, error, steps, runs, seed):
    """After how many steps each run's stage ended; inf if it did not."""
    found, ended = signals(np.random.default_rng(seed), memory, slope, steps, runs), []
    for run in range(runs):
        policy = SuccessiveGradientTest(B, LR, error=error, memory=memory)
        for start in range(0, steps, policy.every):
            policy.observe(SuccessiveProducts(*found[:, start : start + policy.every, run]))
            if policy.stage:
                break
        ended.append(start + policy.every if policy.stage else math.inf)
    return np.array(ended)


@pytest.mark.parametrize("memory", [1, 10])
def test_false_alarms_are_as_rare_as_stated(memory):
    """The mean product is exactly 0, the edge of the hypothesis, at all times: at most `error` of stages may end."""
    runs, error = 150, 0.2
    alarms = int(np.isfinite(stops(memory, deficit(memory), error, 600, runs, 1)).sum())
    assert stats.binom.sf(alarms - 1, runs, error) > 1e-3
    assert alarms > 0  # it is a test, and not a rule that never acts


@pytest.mark.parametrize("memory", [1, 10])
def test_it_is_found_that_gradients_disagree(memory):
    """At half of the slope the product is below 0: all stages end, sooner at the longer memory."""
    ended = stops(memory, deficit(memory) / 2, 0.05, 2500, 25, 2)
    assert np.isfinite(ended).all()
    assert np.median(ended) < {1: 800, 10: 300}[memory]


def test_the_estimates_of_a_stationary_run():
    """‖∇f‖², tr Σ and b_c against their exact values; 95 % intervals cover in 9 of 10 at least."""
    slope, runs = 3 * deficit(10), 40
    found = signals(np.random.default_rng(3), 10, slope, 300, runs)
    G2 = (LAM**2 * STATIONARY).sum() + slope
    nu, traces, inside = 0.9, [], 0
    fall = G2 - slope + deficit(10)
    for run in range(runs):
        policy = SuccessiveGradientTest(B, LR, error=1e-9)
        for start in range(0, 300, 10):
            policy.observe(SuccessiveProducts(*found[:, start : start + 10, run]))
        grad, critical = policy.grad_sqnorm, policy.critical
        inside += np.array([grad.low < G2 < grad.high, critical.low < B * fall / G2 < critical.high])
        traces.append(policy.trace)
    assert (inside >= 0.85 * runs).all(), (nu, inside)
    assert np.mean(traces) == pytest.approx(S.sum(), rel=0.02)


def test_the_evidence_is_a_mixture_of_likelihood_ratios():
    """Beside the integral over the half-normal prior, and the sums beside all products kept."""
    rng, policy, xs = np.random.default_rng(0), SuccessiveGradientTest(8, 0.1, error=1e-9, memory=1), []
    for _ in range(6):
        x = rng.normal(-0.3, 1.0, 10)
        xs.append(x)
        policy.observe(SuccessiveProducts(x, *np.ones((3, 10)), *np.zeros((2, 10))))
    for start, found in enumerate(policy.evidence()):
        x = np.concatenate(xs[start:])
        n, lag = len(x), sum(each[1:] @ each[:-1] for each in xs[start:])
        spread = x.var() + max(0.0, 2 * (lag / (9 * (6 - start)) - x.mean() ** 2))
        z = -stats.norm.ppf(stats.t.sf(-x.mean() / np.sqrt(spread / (n - 1)), n - 1))

        def ratio(rate, n=n, z=z):
            return math.exp(rate * z * n**0.5 - rate**2 * n / 2) * 2 * stats.norm.pdf(rate, scale=25**-0.5)

        expected = integrate.quad(ratio, 0, 3)[0] / ((start + 1) * (start + 2))
        assert found == pytest.approx(expected, rel=0.1)  # Wallace's formula is within 0.02 of the normal's z


def shown(policy, product, sqnorm, variance, looks=30):
    """A signal of these values, with a little noise, until something changes."""
    rng = np.random.default_rng(0)
    for _ in range(looks):
        x = product * (1 + 0.1 * rng.standard_normal(10))
        policy.observe(SuccessiveProducts(x, *np.full((2, 10), sqnorm), np.full(10, variance), *np.zeros((2, 10))))
        if policy.stage:
            break
    return policy.batch_size, policy.lr


def test_noise_grows_the_batch_and_curvature_lowers_the_lr():
    """Guard: tr Σ/b against ‖G‖²/2 (b = 16: tr Σ = 8); with momentum 0.9 against ‖G‖²/38. At the cap lr falls."""
    make = SuccessiveGradientTest
    assert shown(make(16, 0.1, max_batch_size=100), -1.0, 1.0, 8.1) == (32, 0.1)
    assert shown(make(16, 0.1, max_batch_size=100), -1.0, 1.0, 7.9) == (16, 0.05)
    assert shown(make(16, 0.1, max_batch_size=100, momentum=0.9), -1.0, 1.0, 7.9) == (32, 0.1)
    assert shown(make(16, 0.1, max_batch_size=100, momentum=0.9), -1.0, 1.0, 0.4) == (16, 0.05)
    assert shown(make(16, 0.1, max_batch_size=20), -1.0, 1.0, 8.1) == (20, 0.1)
    assert shown(make(16, 0.1, max_batch_size=16, growth=4.0), -1.0, 1.0, 8.1) == (16, 0.025)
    assert shown(make(16, 0.1), 1.0, 1.0, 8.1) == (16, 0.1)


def test_with_momentum_the_threshold_is_above_zero():
    """T14: μ/(1 + μ)‖G‖² where the memory is that of the momentum."""
    for product, grown in ((0.46, 32), (0.49, 16)):
        assert shown(SuccessiveGradientTest(16, 0.1, momentum=0.9), product, 1.0, 8.0)[0] == grown


def halves_of(steps, n, batch, memory, permuted, seed=0):
    """SGD on f_i = ½(θ − x_i)ᵀΛ(θ − x_i), i = 1 … n; ‖∇f‖² at each step, and the signal of all of them."""
    rng = np.random.default_rng(seed)
    lam = torch.linspace(0.02, 0.2, 40, dtype=torch.float64)
    x = torch.tensor(rng.standard_normal((n, 40)))
    x -= x.mean(0)
    theta, found, products = (
        torch.zeros(40, dtype=torch.float64),
        [],
        SuccessiveGradients(memory, n if permuted else None),
    )
    for step in range(steps):
        if permuted and step * batch % n == 0:
            order = rng.permutation(n)
        drawn = order[step * batch % n :][:batch] if permuted else rng.integers(n, size=batch)
        parts = [([lam * (theta - x[part].mean(0))], len(part)) for part in np.array_split(drawn, 2)]
        found.append(float((lam * theta).square().sum()))
        theta = theta - 0.4 * products.add(parts)[0]
    trace = float((lam * x).square().sum() / (n - 1))
    Q = float((lam**3 * x.square()).sum() / n)
    return np.array(found), products.take(), trace, Q


@pytest.mark.parametrize(("permuted", "memory"), [(False, 1), (False, 4), (True, 1)])
def test_the_signal_is_without_bias(permuted, memory):
    """Means over 120 epochs against the exact ‖∇f‖² at the same steps, tr Σ and ηQ/b, within four standard errors."""
    exact, found, trace, Q = halves_of(4800 if permuted else 2400, 80, 4, memory, permuted)
    assert np.isnan(found.product[0])
    signal = SuccessiveProducts(*(each[1:] for each in found))

    def off(values, blocks=40):  # standard errors; blocks of epochs, as neighbours are not independent
        means = values[: len(values) // blocks * blocks].reshape(blocks, -1).mean(1)
        return means.mean() / means.std(ddof=1) * blocks**0.5

    assert abs(off(signal.variance - trace * (1 if permuted else 79 / 80))) < 4
    assert abs(off(signal.sqnorm - 2 * signal.returned - exact[1:])) < 4
    if permuted:
        assert off(signal.sqnorm - exact[1:]) > 4  # what earlier noise adds
    if memory == 1:
        assert abs(off(signal.between - signal.product - 0.4 * Q / 4)) < 4


@pytest.mark.parametrize("batch", [9, 15])
def test_parts_of_any_size_and_in_the_metric_of_the_optimizer(batch):
    rng = np.random.default_rng(1)
    g = torch.tensor(rng.standard_normal((batch, 6)))
    metric = torch.tensor([0.5, 1, 2, 3, 4, 5.0], dtype=torch.float64)
    parts = [([each.mean(0)], len(each)) for each in g.split(5)]
    plain, scaled = SuccessiveGradients(), SuccessiveGradients()
    mean = scaled.add(parts, [metric])
    assert torch.allclose(mean[0], g.mean(0))
    plain.add([([m * metric**0.5 for m in part], size) for part, size in parts])
    one, other = plain.take(), scaled.take()
    assert one.sqnorm == pytest.approx(other.sqnorm)
    assert one.variance == pytest.approx(other.variance)
    pairs = [(a, b) for i, (a, _) in enumerate(parts) for j, (b, _) in enumerate(parts) if i != j]
    sizes = [(a, b) for i, (_, a) in enumerate(parts) for j, (_, b) in enumerate(parts) if i != j]
    products = [float((metric * a[0] * b[0]).sum()) for a, b in pairs]
    assert other.sqnorm == pytest.approx(np.average(products, weights=[a * b for a, b in sizes]))


@pytest.mark.parametrize("n", [None, 40])
def test_noise_alone_is_the_same_noise(n):
    rng = torch.Generator().manual_seed(0)
    whole, noise = SuccessiveGradients(n=n), SuccessiveGradients(n=n, noise_alone=True)
    for _ in range(6):
        parts = [([torch.randn(5, generator=rng)], 4) for _ in range(2)]
        for products in (whole, noise):
            products.add(parts)
    whole, noise = whole.take(), noise.take()
    assert (noise.variance.tolist(), noise.sqnorm.tolist()) == (whole.variance.tolist(), whole.sqnorm.tolist())
    assert np.isnan(noise.product).all()


def test_a_step_after_a_shorter_batch_is_left_out():
    """Of memory 1: its noise is another. Seven samples by fours: the batches are 4, 3, 4, 3."""
    products, one = SuccessiveGradients(n=7), torch.ones(2)
    for size in (4, 3, 4, 3):
        products.add([([one], size // 2), ([one], size - size // 2)])
    assert np.isnan(products.take().product).tolist() == [True, False, True, False]


def test_state_goes_through_json():
    policy = SuccessiveGradientTest(16, 0.1, max_batch_size=64)
    shown(policy, 0.5, 1.0, 8.0, looks=70)  # more looks than are kept
    assert len(policy.looks) <= 64
    other = SuccessiveGradientTest(16, 0.1, max_batch_size=64)
    other.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    assert shown(policy, -1.0, 1.0, 8.0) == shown(other, -1.0, 1.0, 8.0) == (32, 0.1)
    assert policy.state_dict() == other.state_dict()


def test_cabs_by_hand():
    """η tr Σ/F = 0.1 · 400/2 = 20; then with decay 0.5 in two steps: 0.1 (100 + 800)/(0.5 + 1)."""
    policy = CABS(4, 0.1, every=1, decay=0.5, max_batch_size=50)
    assert policy.update(4, NoiseAndLoss(400.0, 2.0)) == (20, 0.1)
    assert policy.update(20, NoiseAndLoss(800.0, 0.0)) == (50, 0.1)  # (200 + 800)/(1 + 0) · 0.1 = 100
    assert policy.update(50, NoiseAndLoss(0.0, 90.0))[0] == 4
    with pytest.raises(InputError, match="max_batch_size = None: is needed"):
        CABS(4, 0.1, every=1).update(4, NoiseAndLoss(1.0, 0.0))


def test_the_noise_scale_rule_by_hand():
    """B = 30/0.5 = 60, and √(r B) = 24.5 at r = 10; nan rows are none."""
    signal = SuccessiveProducts(*np.array([[np.nan, np.nan, 0.5, 30, 0, 0], [1, 1, 0.5, 30, 0, 0], [np.nan] * 6]).T)
    assert NoiseScaleRule(4, 0.1, every=1).update(4, signal)[0] == 60
    assert NoiseScaleRule(4, 0.1, every=1, exchange_rate=10).update(4, signal)[0] == 24
    assert NoiseScaleRule(4, 0.1, every=1, max_batch_size=32).update(4, signal)[0] == 32


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: SuccessiveGradientTest(1, 0.1), "batch_size = 1: must be above 1"),
        (lambda: SuccessiveGradientTest(8, 0.1, max_batch_size=4), "max_batch_size = 4"),
        (lambda: SuccessiveGradientTest(8, 0.1, growth=1.0), "growth = 1.0"),
        (lambda: SuccessiveGradientTest(8, 0.1, error=1.0), "error = 1.0"),
        (lambda: SuccessiveGradientTest(8, 0.1, momentum=1.0), "momentum = 1.0"),
        (lambda: SuccessiveGradientTest(8, 0.1, memory=0.5), "memory = 0.5"),
        (
            lambda: SuccessiveGradientTest(8, 0.1, every=1).update(8, SuccessiveProducts(*np.full((6, 1), np.inf))),
            "signal",
        ),
        (lambda: SuccessiveGradients(0.0), "memory = 0.0"),
        (lambda: SuccessiveGradients().step([]), "parts = 0"),
        (lambda: CABS(1, 0.1), "batch_size = 1"),
        (lambda: CABS(4, 0.1, decay=1.0), "decay = 1.0"),
        (lambda: NoiseScaleRule(4, 0.1, exchange_rate=0.0), "exchange_rate = 0.0"),
    ],
)
def test_bad_input_names_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        call()
    assert named in str(caught.value)
