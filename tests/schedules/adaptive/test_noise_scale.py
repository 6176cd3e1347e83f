"""Estimators by hand and by enumeration of every sample, the optimal batch and Adam's bound step by step, runs beside
plain loops."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import sympy as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from killing import killed_and_resumed
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sfolib._utils.errors import InputError
from sfolib._utils.rng import epoch_order
from sfolib.analysis.noise_scale import adapt, near, noise_scale_band, of_seeds
from sfolib.gradients.statistics import GradientStatistics
from sfolib.problems.specs import Digits, Quadratic, split_digits
from sfolib.schedules.adaptive import noise_scale
from sfolib.schedules.adaptive.noise_scale import NoiseScale
from sfolib.schedules.adaptive.optimal_batch import OptimalBatch
from sfolib.schedules.plan import Plan
from sfolib.schedules.torch import ScheduledBatchSampler
from sfolib.theory import adam_bound, bounds
from sfolib.theory.adam_bound import AdamConstants
from sfolib.theory.bounds import Constants
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training import estimates
from sfolib.training.records import Run
from sfolib.training.run import run
from sfolib.training.spec import NoiseProbes, Spec

HAND = GradientStatistics(2, 4.0, 4.0, 8.0, 2.0)  # g = (3, 1) and (1, −1): mean (2, 0), squared norms 10 and 2


# --------------------------------------------------------------------------------------------------- noise scale
def test_the_noise_scale_by_hand():
    """‖G‖² = (2·4 − 6)/(2 − 1) and tr Σ = (6 − 4)/(1 − ½) from batch sizes 1 and 2."""
    scale, seen = NoiseScale(), NoiseScale()
    scale.update((10 + 2) / 2, 1, 4.0, 2)
    seen.see(HAND)
    for found in (scale, seen):
        assert (found.sqnorm, found.variance, found.value) == pytest.approx((2, 4, 2))


def test_averages_by_hand():
    """Weights ½ and 1: ‖G‖² from 2 and 5, tr Σ from 4 and 1."""
    scale = NoiseScale(decay=0.5)
    scale.see(HAND)
    scale.see(GradientStatistics(10, 5.1, 1.0, 0.0, 1.0))
    assert scale.sqnorm == pytest.approx((0.5 * 2 + 5) / 1.5)
    assert scale.variance == pytest.approx((0.5 * 4 + 1) / 1.5)
    assert scale.value == pytest.approx((0.5 * 4 + 1) / (0.5 * 2 + 5))


def test_nothing_seen_and_no_signal():
    scale = NoiseScale()
    assert math.isnan(scale.value)
    assert math.isnan(scale.sqnorm)
    scale.update(6.0, 1, 2.0, 2)  # ‖G‖² ≈ −2
    assert scale.sqnorm == pytest.approx(-2)
    assert scale.value == math.inf
    assert noise_scale.noise_scale([1.0, 1.0], [0.5, -1.0]).tolist() == [2.0, math.inf]


@given(st.integers(2, 6), st.integers(0, 10**6))
def test_statistics_are_the_batch_sizes_one_and_n(n, seed):
    g = np.random.default_rng(seed).standard_normal((n, 3)) + 1
    mean = g.mean(0)
    of_sizes, of_statistics = NoiseScale(), NoiseScale()
    of_sizes.update(np.square(g).sum(1).mean(), 1, mean @ mean, n)
    of_statistics.see(GradientStatistics(n, mean @ mean, g.var(0, ddof=1).sum(), 0.0, 0.0))
    assert of_sizes.sqnorm == pytest.approx(of_statistics.sqnorm)
    assert of_sizes.variance == pytest.approx(of_statistics.variance)


@pytest.mark.parametrize(("batch_size", "parts"), [(2, 2), (4, 2), (4, 4)])
def test_no_bias_and_the_variance_over_every_sample(batch_size, parts):
    """All 3^b draws with replacement of three unequal gradients."""
    g = np.array([[1.0, 0.0], [0.0, 2.0], [4.0, -1.0]])
    mean, centred = g.mean(0), g - g.mean(0)
    covariance = centred.T @ centred / 3
    found = []
    for drawn in itertools.product(range(3), repeat=batch_size):
        of_parts = g[list(drawn)].reshape(parts, -1, 2).mean(1)
        whole, scale = of_parts.mean(0), NoiseScale()
        scale.update(np.square(of_parts).sum(1).mean(), batch_size // parts, whole @ whole, batch_size)
        found.append((scale.sqnorm, scale.variance))
    sqnorm, variance = np.array(found).T
    assert sqnorm.mean() == pytest.approx(mean @ mean)
    assert variance.mean() == pytest.approx(np.trace(covariance))
    along, square = mean @ covariance @ mean, np.trace(covariance @ covariance)
    assert sqnorm.var() == pytest.approx(noise_scale.sqnorm_variance(along, square, batch_size, parts))


def test_state_goes_through_json_for_several_runs():
    rng = np.random.default_rng(0)
    one, other = NoiseScale(0.9), NoiseScale(0.9)
    for i in range(6):
        if i == 3:
            other.load_state_dict(json.loads(json.dumps(one.state_dict())))
        small, big = rng.random(4) + 1, rng.random(4)
        for scale in (one, other) if i >= 3 else (one,):
            scale.update(small, 2, big, 8)
    np.testing.assert_array_equal(one.value, other.value)
    assert one.value.shape == (4,)
    with pytest.raises(InputError, match="weight"):
        one.load_state_dict({"weight": 1.0})


def test_bad_updates_are_named():
    with pytest.raises(InputError, match="decay"):
        NoiseScale(1.0)
    with pytest.raises(InputError, match=r"big = 4.*above small = 4"):
        NoiseScale().update(1.0, 4, 1.0, 4)
    with pytest.raises(InputError, match="finite"):
        NoiseScale().update(math.nan, 1, 1.0, 4)
    with pytest.raises(InputError, match="parts"):
        noise_scale.sqnorm_variance(1.0, 1.0, 4, 1)


# ----------------------------------------------------------------------------------- the critical batch, fixed lr
def test_the_minimum_beside_a_floor():
    """A/(ηK) + w/b = ε² with w = η tr(HΣ)/2: K b is least at b = 2w/ε²."""
    A, lr, w, b, eps = sp.symbols("A eta w b epsilon", positive=True)
    cost = b * A / (lr * (eps**2 - w / b))
    assert sp.solve(sp.diff(cost, b), b) == [2 * w / eps**2]
    assert noise_scale.local_critical_batch_size(3.0, 0.1, 0.5) == pytest.approx(2 * (0.1 * 3 / 2) / 0.25)


@pytest.mark.parametrize("noise", ["white", "curvature"])
def test_curvature_noise_is_what_the_exact_quadratic_answers_to(noise):
    q = PowerLawQuadratic(lam_min=1e-6, noise=noise)
    predicted = noise_scale.local_critical_batch_size(q.eigenvalues @ q.noise_variance, 0.05, 0.03)
    assert q.best_constant_batch_size(0.05, 0.03).batch_size == pytest.approx(predicted, rel=0.05)


@given(st.floats(0.01, 100), st.floats(0.05, 1.5), st.floats(0.05, 0.5))
def test_the_fit_finds_the_critical_batch_of_the_bound(sigma2, lr, eps):
    c = Constants(L=1.0, sigma2=sigma2, gap=1.0)
    b_star = bounds.critical_batch_size(c, lr, eps)
    batch_size = b_star * 3.0 ** np.arange(-3, 4)
    steps = bounds.steps_to(c, batch_size, lr, eps)
    assert np.isinf(steps[:3]).all()
    assert noise_scale.critical_batch_size(batch_size, steps) == pytest.approx(b_star)


def test_fits_at_their_ends():
    assert noise_scale.critical_batch_size([1, 2, 4], [9, 9, 9]) == pytest.approx(0.0, abs=1e-9)
    assert noise_scale.critical_batch_size([1, 2, 4], [1, 2, 4]) == 0.0
    with pytest.raises(InputError, match="3 batch sizes"):
        noise_scale.critical_batch_size([1, 2, 4], [math.inf, 2, 1])


# ------------------------------------------------------------------------------------------ strongly convex theory
RULE = {"L": 1.0, "mu": 0.1, "radius": 1.0, "L_max": 4.0, "n": 10}


def test_the_optimal_batch_by_hand():
    """q = 2·1/(1·0.1) = 20: 10·(1 − 4 + 20)/(10 − 4 + 20). At τ = 7: 𝓛 = (60 + 12)/63 and σ² = 3/63."""
    rule = OptimalBatch(1.0, **RULE)
    assert rule.exact == pytest.approx(170 / 26)
    assert rule.batch_size == 7
    assert rule.lr == pytest.approx(0.5 * min(63 / 72, 0.1 * 63 / 6))
    assert rule.steps_at(7, 3.0) == pytest.approx(max(20 * 72 / 63, 400 * 3 / 63) * math.log(6))


def test_the_optimal_batch_makes_both_entries_equal():
    n, L, top, q, tau = sp.symbols("n L L_max q tau", positive=True)
    smoothness = (n * (tau - 1) * L + (n - tau) * top) / (n - 1)
    noise = q * (n - tau) / (n - 1)
    (best,) = sp.solve(sp.Eq(smoothness, noise), tau)
    assert sp.simplify(best - n * (L - top + q) / (n * L - top + q)) == 0
    assert sp.simplify(sp.limit(best, n, sp.oo) - (L - top + q) / L) == 0
    assert sp.simplify(sp.diff(smoothness, tau) - (n * L - top) / (n - 1)) == 0  # rises, as n L ≥ L_max; noise falls


@given(st.floats(0.001, 5), st.integers(3, 60), st.floats(1, 3), st.floats(0.01, 1))
def test_no_other_batch_is_cheaper_by_the_bound(h, n, L_max, radius):
    rule = OptimalBatch(h, 1.0, 0.1, radius, L_max=L_max, n=n)
    tau = np.arange(1, n + 1)
    cost = tau * np.maximum(2 * rule._bound(tau)[0] / 0.1, 4 * rule._bound(tau)[1] / (0.01 * radius))
    around = cost[[math.floor(rule.exact) - 1, min(math.ceil(rule.exact), n) - 1]]
    assert around.min() == pytest.approx(cost.min())


def test_without_noise_at_the_minimum_one_sample_is_best():
    assert OptimalBatch(0.0, **RULE).exact == 1
    assert OptimalBatch(0.1, **RULE).exact == 1  # q = 2 is below L_max − L
    assert OptimalBatch(1e9, **RULE).exact == pytest.approx(10)


def test_expected_smoothness_and_noise_over_every_subset():
    """Least squares on four points: 𝓛 bounds what it says, and σ² is exact."""
    rng = np.random.default_rng(1)
    a, y = rng.standard_normal((4, 2)), rng.standard_normal(4)
    star = np.linalg.lstsq(a, y, rcond=None)[0]
    gradients = a * (a @ star - y)[:, None]
    L, L_max = np.linalg.eigvalsh(a.T @ a / 4)[-1], np.square(a).sum(1).max()
    rule = OptimalBatch(np.square(gradients).sum(1).mean(), L, 0.01, 1.0, L_max=L_max, n=4)
    for tau in (1, 2, 3):
        smoothness, noise = rule._bound(tau)
        subsets = [list(s) for s in itertools.combinations(range(4), tau)]
        assert np.mean([np.square(gradients[s].mean(0)).sum() for s in subsets]) == pytest.approx(noise)
        for x in star + rng.standard_normal((20, 2)):
            moved = a * (a @ (x - star))[:, None]
            spread = np.mean([np.square(moved[s].mean(0)).sum() for s in subsets])
            assert spread <= 2 * smoothness * np.square(a @ (x - star)).mean() / 2 * (1 + 1e-12)


def test_the_radius_is_reached_in_the_steps_of_the_bound():
    q = PowerLawQuadratic(d=20, lam_min=0.05, init="flat")
    start = q.theta0 @ q.theta0
    rule = OptimalBatch(q.sigma2, q.L, q.lam_min, 0.2 * start)
    for batch_size in (rule.batch_size, 4 * rule.batch_size):
        steps = math.ceil(rule.steps_at(batch_size, start))
        assert q.moments(batch_size, np.full(steps, rule.lr_at(batch_size)))[-1].sum() <= 0.2 * start


def test_the_rule_in_a_loader_and_its_state():
    """h of 1, 1 and 0.5 gives 7, 7 and, with q = 10, 10·7/16 → 4 of the 40 samples; looked at every 2nd step."""
    policy = OptimalBatch(1.0, **RULE, check_every=2)
    data = TensorDataset(torch.arange(40.0))
    sizes = []
    for i, (x,) in enumerate(DataLoader(data, batch_sampler=ScheduledBatchSampler(40, policy))):
        sizes.append(len(x))
        policy.update(len(x), 0.5 if policy.needs_signal and i else None)
    assert sizes == [7, 7, 4, 4, 4, 4, 4, 4, 2]
    other = OptimalBatch(9.0, **RULE, check_every=2)
    other.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    assert (other.batch_size, other.lr, other.samples, other.needs_signal) == (4, policy.lr, 40, policy.needs_signal)


WRONG = [("mu", 2.0), ("L_max", 0.5), ("n", 1), ("L_max", 11.0), ("radius", 0.0)]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_constants_that_cannot_be_are_named(field, value):
    with pytest.raises(InputError, match=f"{field} = "):
        OptimalBatch(1.0, **RULE | {field: value})


def test_a_moment_that_is_none_is_named():
    with pytest.raises(InputError, match="signal = nan"):
        OptimalBatch(1.0, **RULE).update(7, math.nan)
    with pytest.raises(InputError, match="at most n = 10"):
        OptimalBatch(1.0, **RULE).lr_at(11)


# ------------------------------------------------------------------------------------------------------------ Adam
def test_each_step_of_adams_bound():
    """One coordinate of θ ← θ − ηm/h with m ← βm + (1 − β)g, four steps, h as it likes."""
    lr, beta = sp.symbols("eta beta", positive=True)
    g, h = sp.symbols("g0:4"), sp.symbols("h0:4", positive=True)
    x, m, a, along = [sp.Symbol("x")], [], [], []  # x = θ_k − θ
    for k in range(4):
        m.append(beta * (m[-1] if m else 0) + (1 - beta) * g[k])
        a.append(x[k] * m[k])
        along.append(x[k] * g[k])
        x.append(x[k] - lr * m[k] / h[k])
        telescope = (h[k] * x[k] ** 2 - h[k] * x[k + 1] ** 2) / (2 * lr) + lr * m[k] ** 2 / (2 * h[k])
        assert sp.expand(a[k] - telescope) == 0
    moved = lr * sum(m[k] ** 2 / h[k] for k in range(3))
    assert sp.expand((1 - beta) * (sum(along) - sum(a)) - beta * (a[3] + moved)) == 0


def test_the_telescoped_squares_stay_below_the_reach():
    """Σ_k h_k(x_k² − x_{k+1}²) ≤ h_K max x²: with h that never falls, whatever the x."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, h = rng.standard_normal(9), np.cumsum(rng.random(8))
        assert np.sum(h * (np.square(x[:-1]) - np.square(x[1:]))) <= h[-1] * np.square(x).max()


ADAM = AdamConstants(sigma2=3.0, M2=1.0, D2=4.0, h=0.5, reach=2.0)


def test_adams_bound_by_hand():
    """β = ½: √(D2(σ² + M2)) = 4 once, and (1 + β)/(2h(1 − β)) = 3 per η."""
    found = adam_bound.bound(ADAM, 0.1, 0.5)
    assert found == pytest.approx((2 / 0.2 + 4, 0.1 * 3 * 3, 0.1 * 3 * 1))
    assert adam_bound.steps_to(ADAM, 3.0, 0.1, 0.5, 1.3) == pytest.approx(14 * 3 / (1.0 * 3 - 0.9))
    assert adam_bound.steps_to(ADAM, 0.9, 0.1, 0.5, 1.3) == math.inf
    assert adam_bound.critical_batch_size(ADAM, 0.1, 0.5, 1.3) == pytest.approx(1.8)
    assert adam_bound.critical_batch_size(ADAM, 0.1, 0.5, 0.3) == math.inf
    with pytest.raises(InputError, match="beta1"):
        adam_bound.bound(ADAM, 0.1, 1.0)
    with pytest.raises(InputError, match="reach"):
        AdamConstants(1.0, 1.0, 1.0, 1.0, 0.0)


def test_adams_critical_batch_is_the_minimum():
    A, B, C, b, target = sp.symbols("A B C b t", positive=True)
    K = A * b / ((target - C) * b - B)
    assert sp.simplify(A / K + B / b + C - target) == 0
    assert sp.solve(sp.diff(K * b, b), b) == [2 * B / (target - C)]
    convex = 2 * A * B**2 / ((target - C) * b - B) ** 3
    assert sp.simplify(sp.diff(K * b, b, 2) - convex) == 0


def test_adams_bound_holds_for_a_run():
    """Noise of ±1 in each of two coordinates, b draws a step; v kept from falling; means over 300 runs."""
    rng, lam, lr, beta, b, steps = np.random.default_rng(0), np.array([1.0, 0.3]), 0.05, 0.8, 4, 60
    theta, m, v = np.ones((300, 2)), np.zeros((300, 2)), np.full((300, 2), 0.04)
    left, path, roots, sqnorms = 0.0, [], [], []
    for _ in range(steps):
        noise = rng.choice([-1.0, 1.0], (300, b, 2)).mean(1)
        gradient = lam * theta
        m, v = beta * m + (1 - beta) * (gradient + noise), np.maximum(v, 0.99 * v + 0.01 * (gradient + noise) ** 2)
        left += (theta * gradient).sum(1).mean() / steps
        path.append(theta)
        roots.append(np.sqrt(v))
        sqnorms.append(np.square(gradient).sum(1))
        theta = theta - lr * m / np.sqrt(v)
    squares = np.square([*path, theta])
    c = AdamConstants(
        2.0, np.max(sqnorms), squares.sum(2).max(), np.min(roots), float((roots[-1] * squares.max(0)).sum(1).max())
    )
    A, B, C = adam_bound.bound(c, lr, beta)
    assert left <= A / steps + B / b + C


# ------------------------------------------------------------------------------------------------------------ runs
L2, HOLDOUT = 1e-2, 997
N = 1797 - HOLDOUT


def spec(**kwargs):
    told = {"problem": Digits(l2=L2, holdout=HOLDOUT), "plan": Plan(8, 0.5), "dtype": "float64", "seeds": (3, 7),
            "sampling": "replacement", "eval_every": 1.5, "max_samples": 10 * 8}  # fmt: skip
    return Spec(**told | kwargs)


def drawn(seed):
    """The samples of the first epoch of a seed, with replacement, as tensors."""
    order = epoch_order(N, seed, 0, "replacement")
    x, y = split_digits(HOLDOUT)[0]
    return torch.as_tensor(x)[order], torch.as_tensor(y)[order]


def softmax():
    model = nn.Linear(64, 10).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def flat_gradient(model, x, y, **kwargs):
    loss = cross_entropy(model(x), y) + L2 / 2 * sum(p.square().sum() for p in model.parameters())
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()], **kwargs)])


def probed(asked, **how):
    return run(asked.model_copy(update={"noise_probes": NoiseProbes(**how)}))


def test_a_watched_run_is_the_run_itself():
    plain, found = run(spec()), probed(spec(), parts=4)
    assert found.steps.tolist() == plain.steps.tolist()
    np.testing.assert_allclose(found.curves(), plain.curves(), rtol=1e-9)
    assert found.rows["probes"].tolist() == plain.rows["probes"].tolist()


def test_the_loops_estimates_beside_a_plain_loop():
    found = probed(spec(), parts=4, decay=0.8).rows.groupby("seed").last()
    for seed in (3, 7):
        model, scale, (x, y) = softmax(), NoiseScale(0.8), drawn(seed)
        for step in range(10):
            batch_size = slice(8 * step, 8 * step + 8)
            parts = [
                flat_gradient(model, *pair) for pair in zip(x[batch_size].split(2), y[batch_size].split(2), strict=True)
            ]
            whole = flat_gradient(model, x[batch_size], y[batch_size])
            scale.update(np.mean([float(g @ g) for g in parts]), 2, float(whole @ whole), 8)
            with torch.no_grad():
                for p, g in zip(model.parameters(), whole.split([640, 10]), strict=True):
                    p -= 0.5 * g.view_as(p)
        assert found.loc[seed, "loop_sqnorm"] == pytest.approx(scale.sqnorm)
        assert found.loc[seed, "loop_variance"] == pytest.approx(scale.variance)


def test_a_batch_that_parts_do_not_divide_is_only_trained_on():
    plain, found = run(spec(plan=Plan(7, 0.5))), probed(spec(plan=Plan(7, 0.5)), parts=2)
    np.testing.assert_allclose(found.curves(), plain.curves(), rtol=1e-9)
    assert found.rows["loop_sqnorm"].isna().all()


def test_probes_beside_autograd():
    """At the start: per-sample gradients one by one, and vᵀHv by a second derivative."""
    seed, model = 3, softmax()
    row = probed(spec(), size=32).rows.query("seed == @seed").iloc[0]
    x, y = drawn((1 << 34) + seed)
    each = torch.stack([flat_gradient(model, x[i : i + 1], y[i : i + 1]) for i in range(32)])
    scale = NoiseScale()
    scale.update(float(each.square().sum(1).mean()), 1, float(each.mean(0).square().sum()), 32)
    assert row["probe_sqnorm"] == pytest.approx(scale.sqnorm)
    assert row["probe_variance"] == pytest.approx(scale.variance)
    v = each[:16].mean(0) - each[16:].mean(0)
    data = [torch.as_tensor(part) for part in split_digits(HOLDOUT)[0]]
    product = torch.autograd.grad(flat_gradient(model, *data, create_graph=True) @ v, [*model.parameters()])
    along = float(v @ torch.cat([p.flatten() for p in product]))
    assert row["curvature_noise"] == pytest.approx(16 / 2 * along, rel=1e-3)
    assert row["probes"] == N + 2 * 32 + 2 * N


@pytest.mark.parametrize(
    "how", [{"noise_probes": {"parts": 4, "size": 8}}, {"workers": {"scale": 4, "iterations": 60}}]
)
def test_a_killed_run_resumes_to_the_same_rows(how, tmp_path, monkeypatch):
    """Estimates, draws beside the run, and the workers' own clocks go on where they were."""
    further = {"max_steps": None, "max_samples": 10**4} if "workers" in how else {}
    asked = spec(plan=Plan(8, 0.1), eval_every=1.2, **how, **further)
    killed_and_resumed(asked, tmp_path, monkeypatch, after=5)


def test_the_quadratics_parts_are_independent():
    """Parts that shared their noise would say tr Σ = 0; 64 runs of 40 steps at rest, within 5 standard errors."""
    q = Quadratic(d=10, lam_min=0.1)
    still = spec(problem=q, plan=Plan(8, 1e-9), seeds=tuple(range(64)), max_samples=320)
    found = probed(still, decay=0.99).rows.groupby("seed").last()["loop_variance"]
    assert found.mean() == pytest.approx(q.sigma2, abs=5 * (2 / 10 / 64 / 40) ** 0.5)


def test_what_cannot_be_probed_is_named():
    with pytest.raises(InputError, match=r"noise_probes: parts = 1"):
        spec(noise_probes={"parts": 1})
    with pytest.raises(InputError, match=r"noise_probes: size"):
        spec(noise_probes={"size": 3})
    with pytest.raises(InputError, match="only dense networks"):
        run(spec(problem=Quadratic(), noise_probes={"size": 4}))
    policy = {"kind": "NormTest", "eta": 0.5, "batch_size": 4, "lr": 0.1}
    with pytest.raises(InputError, match="is for a plan"):
        spec(plan=None, policy=policy, seeds=(0,), noise_probes={})


def small_run():
    rows = [
        {"seed": seed, "step": step, "samples": 10 * step, "loop_variance": v, "loop_sqnorm": g, "variance": v}
        for seed, values in ((0, [(2.0, 1.0), (3.0, -1.0), (5.0, 4.0)]), (1, [(4.0, 2.0), (5.0, 0.5), (7.0, 2.0)]))
        for step, (v, g) in enumerate(values)
    ]
    return Run(None, {"status": "finished"}, pd.DataFrame(rows))


def test_the_band_is_a_ratio_of_means():
    """(2 + 4)/(1 + 2), lost, (5 + 7)/(4 + 2). Two seeds say very little; 200 copies of them say all."""
    band = noise_scale_band(small_run(), "loop_")
    assert band.value.tolist() == [2.0, math.inf, 2.0]
    assert (band.low[2], band.high[2]) == (0, math.inf)
    rows = [small_run().rows.assign(seed=small_run().rows["seed"] + 2 * copy) for copy in range(200)]
    band = noise_scale_band(Run({}, {"status": "finished"}, pd.concat(rows)), "loop_")
    assert band.value.tolist() == [2.0, math.inf, 2.0]
    assert band.high[1] == math.inf
    # the means of (5, 7) and (4, 2) move against each other, by 1/20 for two standard errors: (6 + x)/(3 − x)
    assert (band.low[2], band.high[2]) == pytest.approx((5.9 / 3.1, 6.1 / 2.9), rel=0.01)


def test_near_is_a_mean_around_there():
    wide = of_seeds(small_run(), "variance", 15, width=1.6)  # points at 10 and 20
    mean, low, high = estimates.mean(wide, log=False)
    assert (mean, low, high) == pytest.approx((5.0, 5.0 - 12.706, 5.0 + 12.706), rel=1e-4)  # Student's t, 1 degree
    with pytest.raises(InputError, match="samples = 1000"):
        near(small_run(), "variance", 1000)


def test_a_run_of_the_rule_on_the_quadratic():
    q = PowerLawQuadratic(d=5, lam_min=0.2, init="flat")
    h = q.sigma2 + float(np.square(q.eigenvalues * q.theta0).sum())
    make = lambda: OptimalBatch(h, q.L, 0.2, 1.0)  # noqa: E731
    frame = adapt(q, make(), 300, seed=0)
    assert frame["samples"].tolist() == [0, *np.cumsum(frame["batch_size"][:-1])]
    assert frame["samples"].iloc[-2] < 300 <= frame["samples"].iloc[-1]
    assert frame.equals(adapt(q, make(), 300, seed=0))
    # after one step h = Σ over the batch, whose expectation is σ² + ‖∇f(θ_0)‖²: τ* is linear in it
    found = np.array([adapt(q, make(), 1, seed)["exact"].iloc[1] for seed in range(400)])
    assert found.mean() == pytest.approx(make().exact, abs=4 * found.std() / 20)


def test_estimators_need_no_torch():
    room = "sfolib.schedules.adaptive.noise_scale"
    program = f"import sys, {room}; print(*sorted({{'torch', 'sympy', 'pandas'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
