"""Policies against trajectories worked out by hand, in state and in a DataLoader's loop."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sfolib._utils.errors import InputError
from sfolib.gradients.statistics import GradientStatistics, gradient_statistics
from sfolib.plotting import Band
from sfolib.plotting.adaptive import laws
from sfolib.schedules import base as s
from sfolib.schedules.adaptive import (
    AugmentedInnerProductTest,
    AutoWU,
    GradNormTrigger,
    InnerProductTest,
    NormTest,
    autowu,
)
from sfolib.schedules.theoretical import critical_plan
from sfolib.schedules.torch import PlanLR, ScheduledBatchSampler
from sfolib.theory import bounds
from sfolib.theory.bounds import Constants
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.theory.quadratic_policies import norm_tested_samples, stages_before_stalling, stages_of, tracking_price

# g = (3, 1) and (1, −1): mean (2, 0); variances 2 and 2; g·ḡ = 6 and 2; orthogonal parts (0, ±1)
HAND = GradientStatistics(2, 4.0, 4.0, 8.0, 2.0)


def test_the_statistics_of_the_example_are_those():
    model = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[3.0, 1.0], [1.0, -1.0]])
    found = gradient_statistics(model, lambda out, y: (out * y).mean(), x, torch.ones(2, 1))
    assert found == GradientStatistics(2, *map(pytest.approx, (4.0, 4.0, 8.0, 2.0)))


# ------------------------------------------------------------------------------------------------ by gradient norm
def test_the_epsilon_trigger_by_hand():
    """δ = 4, γ = 2: r = 2, so ε² halves a stage. Looked at after steps 3, 6, 9, 12; one stage a check."""
    policy = GradNormTrigger(8, 0.1, 1.0, 4, 2, check_every=3)
    norms = {3: 1.0, 6: 0.75, 9: 0.7, 12: 0.01}
    found = []
    for step in range(1, 13):
        assert policy.needs_signal == (step in norms)
        found.append(policy.update(policy.batch_size, norms.get(step)))
    assert [batch_size for batch_size, _ in found] == [8] * 2 + [32] * 6 + [128] * 3 + [512]
    assert [lr for _, lr in found] == pytest.approx([0.1] * 2 + [0.2] * 6 + [0.4] * 3 + [0.8])
    assert policy.eps == pytest.approx(8**-0.5)
    assert policy.samples == 3 * 8 + 6 * 32 + 3 * 128


@pytest.mark.parametrize(("gamma", "max_batch_size"), [(2, 500), (1.5, 700), (1, 10**6)])
def test_the_epsilon_trigger_follows_the_critical_plan(gamma, max_batch_size):
    """The same stages, caps included, where the norm always comes down; b* = 8 at the start."""
    c, caps = Constants(L=1.0, sigma2=40.0, gap=1.0), {"max_lr": 1.0, "max_batch_size": max_batch_size}
    plan = critical_plan(c, 1.0, 2.0, 9, lr=0.1, lr_growth=gamma, **caps)
    policy = GradNormTrigger(8, 0.1, 1.0, 2 * gamma, gamma, check_every=1, **caps)
    for row in plan.rows:
        assert (policy.batch_size, policy.lr, policy.eps) == (
            row.batch_size,
            pytest.approx(row.lr),
            pytest.approx(row.eps),
        )
        policy.update(policy.batch_size, row.eps * 1.001)
        assert policy.batch_size == row.batch_size
        policy.update(policy.batch_size, row.eps * 0.999)


def test_the_published_thresholds_by_hand():
    """The authors' configuration: b = 8, δ = 2, γ = 1.4, ε = 0.5, 4096 at most; there ε² falls as b grows, and when b
    is at its cap nothing grows any more."""
    policy = GradNormTrigger(8, 0.1, 0.5, 2, 1.4, check_every=2, rule="published", max_batch_size=4096)
    found = [policy.update(8), policy.update(8, 0.51), policy.update(8), policy.update(8, 0.49)]
    assert found == [(8, 0.1)] * 3 + [(16, pytest.approx(0.14))]
    assert policy.eps == pytest.approx(0.5 / 2**0.5)
    for m in range(2, 10):
        policy.update(policy.batch_size)
        assert policy.update(policy.batch_size, policy.eps * 0.999) == (8 * 2**m, pytest.approx(0.1 * 1.4**m))
        assert policy.eps == pytest.approx(0.5 * 2 ** (-m / 2))
    for _ in range(4):
        assert policy.update(4096) == (4096, pytest.approx(0.1 * 1.4**9))


def test_the_published_thresholds_round_up_and_follow_the_capped_batch():
    policy = GradNormTrigger(10, 0.1, 1.0, 1.5, 1.2, check_every=1, rule="published", max_batch_size=30)
    found = [(policy.batch_size, policy.eps**2)]
    while policy.needs_signal:
        batch_size, _ = policy.update(policy.batch_size, 0.0)
        found.append((batch_size, policy.eps**2))
    assert found == [(b, pytest.approx(10 / b)) for b in (10, 15, 23, 30)]
    assert policy.lr == pytest.approx(0.1 * 1.2**3)
    assert GradNormTrigger(8, 0.1, 1.0, 2, 3, rule="published").eps == 1.0  # γ > δ is nothing to it


# ------------------------------------------------------------------------------------- both on the exact quadratic
Q = PowerLawQuadratic(d=40, lam_min=1e-3, sigma2=100.0)


@pytest.mark.parametrize(("rule", "excess"), [("critical", 1.0), ("published", 4.0), ("published", 0.8)])
def test_the_stages_of_a_trigger_are_those_of_a_walk(rule, excess):
    """A walk that shows the policy the exact ‖∇f‖ after every step; a stall is where a long time does not help."""
    batch_size = round(excess * Q.best_constant_batch_size(0.1, 0.2).batch_size)
    make = lambda: GradNormTrigger(batch_size, 0.1, 0.2, 2, 1.3, 1, rule=rule)  # noqa: E731
    aims, policy, m, steps = stages_of(Q, make(), 5), make(), Q.theta0**2, [0]
    for _ in range(int(sum(aim.steps for aim in aims)) + 3000):
        lr, b, stage = policy.lr, policy.batch_size, policy.stage
        m = (1 - lr * Q.eigenvalues) ** 2 * m + lr**2 * Q.noise_variance / b
        policy.update(b, float(Q.weights("grad_sqnorm") @ m) ** 0.5)
        steps[-1] += 1
        if policy.stage > stage:
            assert (aims[stage].batch_size, aims[stage].lr, aims[stage].steps) == (b, lr, steps[-1])
            steps.append(0)
            if policy.stage == 5:
                break
    assert policy.stage == len(aims)
    assert len(aims) == (5 if rule == "critical" else min(5, stages_before_stalling(excess, 1.3)))


@given(st.floats(0.2, 20.0), st.floats(1.05, 2.0))
def test_stages_before_stalling_by_counting(excess, gamma):
    left = [excess * gamma**-m for m in range(200)]
    if min(abs(x - 0.5) for x in left) > 1e-9:
        assert stages_before_stalling(excess, gamma) == sum(x > 0.5 for x in left)


@pytest.mark.parametrize("eta", [0.3, 2.0])
def test_following_the_norm_test_is_what_a_walk_spends(eta):
    batches, path = [], [Q.weights("grad_sqnorm") @ Q.theta0**2]
    while path[-1] > 0.1**2:
        batches.append(max(1.0, Q.sigma2 / (eta**2 * path[-1])))
        path = Q.grad_sqnorm_path(batches, np.full(len(batches), 0.2))
    assert norm_tested_samples(Q, 0.2, eta, 0.1) == pytest.approx(sum(batches))


def test_too_large_a_tolerance_never_gets_there():
    star = (Q.sigma2 / (2 * Q.small_step_constants()[1] * 0.1)) ** 0.5  # T10's
    assert norm_tested_samples(Q, 0.1, 2 * star, 0.05) == math.inf
    assert norm_tested_samples(Q, 0.1, star, 0.05) < math.inf


@pytest.mark.parametrize("u", [0.1, 0.6, 1.0, 1.7])
def test_the_price_of_following_against_integration(u):
    """g = A/(ηk) + Gη/b with b = (2Gη/g)/u gives g(k); ∫ b dk to ε² over 4AG/ε⁴, A = 2, G = 3, η = 0.7."""
    a, noise, lr, target = 2.0, 3.0, 0.7, 1e-3
    last = a / (lr * target * (1 - u / 2))
    k = (np.arange(10**5) + 0.5) * last / 10**5
    batch_size = 2 * noise * lr / (u * a / (lr * k * (1 - u / 2)))
    assert tracking_price(u) == pytest.approx(batch_size.mean() * last / (4 * a * noise / target**2))
    assert tracking_price(1.0) == 0.5 <= tracking_price(u)
    assert tracking_price([2.0, 3.0]).tolist() == [math.inf, math.inf]


def test_a_label_has_one_colour_and_one_entry():
    x = np.array([1.0, 2.0])
    bands = [
        Band("theory", "bound", x, x),
        Band("run", "measured", x, 2 * x, x, 3 * x),
        Band("theory", "bound", x, 3 * x),
    ]
    figure = laws({"left": (bands, {"xlabel": "b"}), "right": (bands[:1], {"yscale": "linear"})})
    left, right = figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["theory", "run"]
    first, run, again = (line.get_color() for line in left.lines)
    assert first == again == right.lines[0].get_color() != run
    assert (left.get_xlabel(), left.get_yscale(), right.get_yscale()) == ("b", "log", "linear")


# ------------------------------------------------------------------------------------------------- variance tests
TESTS = {  # what each asks for on HAND: 4/(η² 4), 8/(θ² 16), 2/(ν² 4)
    "norm": (lambda **k: NormTest(0.5, **k), 4),
    "strict norm": (lambda **k: NormTest(0.1, **k), 100),
    "inner product": (lambda **k: InnerProductTest(0.25, **k), 8),
    "augmented, inner": (lambda **k: AugmentedInnerProductTest(0.25, 0.5, **k), 8),
    "augmented, orthogonal": (lambda **k: AugmentedInnerProductTest(0.5, 0.2, **k), 12.5),
}


@pytest.mark.parametrize(("make", "wanted"), TESTS.values(), ids=TESTS)
def test_what_a_test_asks_for(make, wanted):
    assert make(batch_size=2, lr=0.1).wanted(HAND) == pytest.approx(wanted)
    assert make(batch_size=2, lr=0.1).update(2, HAND)[0] == math.ceil(round(wanted, 9))
    assert make(batch_size=200, lr=0.1).update(200, HAND)[0] == 200  # holds already: a batch never shrinks
    assert make(batch_size=2, lr=0.1, max_batch_size=3).update(2, HAND)[0] == 3


def test_the_norm_test_is_the_one_of_the_bounds():
    c = Constants(L=1.0, sigma2=3.0, gap=1.0)
    statistics = GradientStatistics(8, 0.2**2, c.sigma2, 0.0, 0.0)
    assert NormTest(0.3, batch_size=1, lr=0.1).wanted(statistics) == pytest.approx(
        bounds.norm_test_batch_size(c, 0.3, 0.2)
    )


def test_a_test_runs_when_the_published_one_does_and_lr_counts_samples():
    """After steps 1, 3, 5 … until the batch is at its cap; 2, 6, 10, 26, 42 samples so far."""
    policy = NormTest(
        0.5, batch_size=2, lr=s.warmup(s.polynomial(1.0, 0.0, 40), 10), test_interval=2, max_batch_size=16
    )
    half = GradientStatistics(2, 1.0, 4.0, 0.0, 0.0)  # asks for 16
    found = [policy.update(policy.batch_size, signal) for signal in (HAND, None, half, None, None)]
    assert [batch_size for batch_size, _ in found] == [4, 4, 16, 16, 16]
    assert [lr for _, lr in found] == pytest.approx([0.3 * 38 / 40, 0.7 * 34 / 40, 30 / 40, 14 / 40, 0.0])


@given(st.floats(0.1, 0.9), st.floats(0.01, 1.0), st.floats(1.0, 50.0))
def test_on_its_own_batch_the_norm_test_settles_below_the_one_of_the_bounds(eta, square, variance):
    """‖ḡ‖² as it is in the mean: it asks for less than b/η² each time, and for (1 − η²)σ²/(η²‖∇f‖²) in the end."""
    policy, settled = NormTest(eta, batch_size=2, lr=0.1), (1 - eta**2) * variance / (eta**2 * square)
    for _ in range(300):
        b = policy.batch_size
        policy.update(b, GradientStatistics(b, square + variance / b, variance, 0.0, 0.0))
        assert policy.batch_size <= max(b, math.ceil(b / eta**2))
    # rounded up each time, by less than 1, of which the next test keeps the share 1 − (what settles it)
    assert max(2, settled) <= policy.batch_size * (1 + 1e-9) <= max(2, settled + 1 + 1 / (1 - eta**2) / eta**2)


def test_a_tolerance_of_one_never_grows():
    policy = NormTest(1.0, batch_size=4, lr=0.1)
    for _ in range(5):
        policy.update(4, GradientStatistics(4, 1e-6 + 3.0 / 4, 3.0, 0.0, 0.0))
    assert policy.batch_size == 4


def test_the_published_sum_over_tensors_by_hand():
    """Gradients (3, 2) and (1, 1), a weight's and a bias': mean (2, 1.5). g·ḡ is 6 and 2 of the weight, 3 and 1.5 of
    the bias: variances 8 and 1.125, and of the whole 9 and 3.5, 15.125. One number has no orthogonal part."""
    model, x, y = nn.Linear(1, 1), torch.tensor([[1.5], [1.0]]), torch.tensor([[2.0], [1.0]])
    whole, tensors = (
        gradient_statistics(model, lambda out, y: (out * y).mean(), x, y, per_tensor=per_tensor)
        for per_tensor in (False, True)
    )
    assert whole == GradientStatistics(2, *map(pytest.approx, (6.25, 2.5, 15.125, 0.08)))
    assert tensors == GradientStatistics(2, *map(pytest.approx, (6.25, 2.5, 9.125, 0.0)))
    for statistics, inner, augmented in ((whole, 39, 52), (tensors, 24, 24)):  # 0.08/(ν² 6.25) is 51.2 at ν² = 1/4000
        assert InnerProductTest(0.1, batch_size=2, lr=0.1).update(2, statistics)[0] == inner
        assert AugmentedInnerProductTest(0.1, 4000**-0.5, batch_size=2, lr=0.1).update(2, statistics)[0] == augmented


def test_no_mean_gradient_asks_for_the_largest_batch():
    nothing = GradientStatistics(4, 0.0, 1.0, 0.0, 1.0)
    for make, _ in TESTS.values():
        assert make(batch_size=4, lr=0.1, max_batch_size=64).update(4, nothing)[0] == 64
        with pytest.raises(InputError, match="max_batch_size = None: is needed"):
            make(batch_size=4, lr=0.1).update(4, nothing)
        with pytest.raises(InputError, match="must be finite"):
            make(batch_size=4, lr=0.1).update(4, GradientStatistics(4, 1.0, math.nan, math.nan, math.nan))


# -------------------------------------------------------------------------------------------------------- AutoWU
def wu(seed=0, **kwargs):
    return AutoWU(200, 10, **{"batch_size": 16, "min_lr": 1e-3, "max_lr": 1.0, "seed": seed, **kwargs})


def valley(step, rng, bottom):
    return 1 + ((step - bottom) / 30) ** 2 + 0.05 * rng.standard_normal()


@pytest.mark.parametrize("warmup", ["exponential", "linear"])
def test_autowu_stops_where_the_loss_was_least(warmup):
    """The same decision for every noise; lr within a tenth of the run from the bottom at step 40."""
    ends = set()
    for seed in range(5):
        policy, rng = wu(seed, warmup=warmup), np.random.default_rng(seed)
        while policy.switched is None:
            policy.update(16, valley(policy.step, rng, 40))
        ends.add(policy.switched)
        assert policy.warmup_lr(36) < policy.peak == policy.lr < policy.warmup_lr(44)
    assert ends <= {70, 80}  # past after 50 or 60, and 3 epochs in a row
    assert len(ends) == 1


def test_autowu_warms_up_to_the_end_when_the_loss_only_falls():
    policy, rng, lrs = wu(), np.random.default_rng(1), []
    for step in range(200):
        lrs.append(policy.lr)
        policy.update(16, 3 - step / 100 + 0.05 * rng.standard_normal())
    assert lrs[:101] == pytest.approx([1e-3 * 1000 ** (t / 100) for t in range(101)])
    assert lrs[100:] == pytest.approx([(1 + math.cos(math.pi * t / 100)) / 2 for t in range(100)])
    assert policy.lr == 0


def test_autowu_with_a_constant_before_its_cosine():
    policy, rng, lrs = wu(cooldown_fraction=0.25, warmup="linear"), np.random.default_rng(1), []
    for step in range(200):
        lrs.append(policy.lr)
        policy.update(16, valley(step, rng, 40))
    peak, switched = policy.peak, policy.switched
    assert lrs[:switched] == pytest.approx([1e-3 + 0.999 * t / 100 for t in range(switched)])
    assert lrs[switched:151] == [peak] * (151 - switched)
    assert lrs[175] == pytest.approx(peak / 2)
    assert lrs[150:] == sorted(lrs[150:], reverse=True)


def test_autowu_needs_its_epochs_in_a_row(monkeypatch):
    """Votes by epoch: past, past, not, past, past, past; a vote is three of five above 0.95."""
    many, few = [0.96] * 3 + [0.1] * 2, [0.96] * 2 + [0.95] * 3
    looks = iter([many, many, few, many, many, many])
    monkeypatch.setattr(autowu, "predictions", lambda *_: [autowu.Prediction(0.5, p) for p in next(looks)])
    policy = wu()
    while policy.switched is None:
        policy.update(16, 1.0)
    assert policy.switched == 60
    assert policy.peak == pytest.approx(policy.warmup_lr(30))


def test_autowu_survives_losses_that_are_not_finite():
    policy, rng = wu(), np.random.default_rng(2)
    while policy.switched is None:
        policy.update(16, math.nan if policy.step % 7 == 3 else valley(policy.step, rng, 40))
    assert policy.switched in (70, 80)


@pytest.mark.parametrize("size", [30, 800])
def test_the_prediction_finds_the_bottom(size):
    x, rng = np.arange(size) / size, np.random.default_rng(3)
    noise = 0.1 * rng.standard_normal(size)
    for bottom, past in ((0.3, True), (0.6, True), (1.2, False)):
        for found in autowu.predictions(list((x - bottom) ** 2 * 5 + noise), (0,)):
            assert found.argmin == pytest.approx(min(bottom, 1.0), abs=0.1)
            assert (found.past_minimum > 0.95) == past


@pytest.mark.parametrize("seed", range(4))
def test_the_probability_against_draws(seed):
    """Points that move together: their covariance with the last one matters."""
    rng = np.random.default_rng(seed)
    root, mean = rng.standard_normal((5, 5)) + 2, rng.standard_normal(5)
    draws = rng.multivariate_normal(mean, root @ root.T, 200_000)
    share = (draws[:, :-1] < draws[:, -1:]).mean(0).max()
    assert autowu._past_minimum(mean, root @ root.T) == pytest.approx(share, abs=5e-3)  # 4 standard errors


# ------------------------------------------------------------------------------------------------------ all of them
def signals(name, policy, rng):
    if name == "autowu":
        return valley(policy.step, rng, 40)
    if name == "epsilon":
        return rng.uniform(0, 2) * policy.eps
    return GradientStatistics(8, *rng.uniform(0.5, 2, 4) * [1, 100, 100, 100])


POLICIES = {
    "autowu": wu,
    "epsilon": lambda: GradNormTrigger(8, 0.1, 1.0, 3, 1.5, 4, max_lr=0.3, max_batch_size=100),
    "norm": lambda: NormTest(0.5, batch_size=4, lr=s.cosine(0.1, 0.01, 2000), test_interval=3, max_batch_size=5000),
    "inner": lambda: InnerProductTest(0.5, batch_size=4, lr=0.1),
    "augmented": lambda: AugmentedInnerProductTest(0.5, 0.5, batch_size=4, lr=0.1),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_goes_on_from_its_state(name):
    whole, rng, states, path = POLICIES[name](), np.random.default_rng(0), {}, []
    inputs = []
    for step in range(90):
        states[step] = json.dumps(whole.state_dict())
        inputs.append((whole.batch_size - step % 2, signals(name, whole, rng) if whole.needs_signal else None))
        path.append(whole.update(*inputs[-1]))
    assert path[0] != path[-1]
    for step in (0, 1, 45, 69, 89):
        resumed = POLICIES[name]()
        resumed.load_state_dict(json.loads(states[step]))
        assert [resumed.update(*each) for each in inputs[step:]] == path[step:]
        assert resumed.state_dict() == whole.state_dict()
    states = whole.state_dict()
    POLICIES[name]().load_state_dict(states)
    with pytest.raises(InputError, match="state = "):
        whole.load_state_dict(states | {"more": 1})


def in_a_loop(workers):
    policy = GradNormTrigger(8, 0.1, 1.0, 4, 2, check_every=3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = PlanLR(optimizer, policy, 100)
    loader = DataLoader(
        TensorDataset(torch.arange(100)), batch_sampler=ScheduledBatchSampler(100, policy, 1), num_workers=workers
    )
    rows = []
    for _ in range(2):
        for (x,) in loader:
            rows.append((len(x), optimizer.param_groups[0]["lr"]))
            optimizer.step()
            policy.update(len(x), policy.eps if policy.needs_signal else None)
            scheduler.step()
    return rows


def test_a_policy_takes_effect_at_the_step_it_is_due():
    rows = in_a_loop(0)
    assert [size for size, _ in rows] == [8, 8, 8, 32, 32, 12, 100]
    assert [lr for _, lr in rows] == pytest.approx([0.1] * 3 + [0.2] * 3 + [0.4])


def test_a_policy_refuses_prefetching_workers():
    with pytest.raises(InputError, match=r"steps that the policy has seen = 0: of 3 steps.*num_workers=0"):
        in_a_loop(2)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: GradNormTrigger(8, 0.1, 1.0, 2, 2), "delta = 2.0: must be above gamma = 2.0"),
        (lambda: GradNormTrigger(8, 0.1, 0.0, 4), "eps = 0.0"),
        (lambda: GradNormTrigger(8, 0.1, 1.0, 4, rule="own"), "rule = 'own'"),
        (lambda: GradNormTrigger(8, 0.1, 1.0, 1, rule="published"), "delta = 1.0: must be above 1"),
        (lambda: GradNormTrigger(8, 0.1, 1.0, 4, rule="published", max_lr=1.0), "max_lr = 1.0"),
        (lambda: stages_of(Q, GradNormTrigger(8, 0.1, 1.0, 4), 3), "check_every = 100"),
        (lambda: stages_before_stalling(0.0, 1.4), "excess = 0.0"),
        (lambda: stages_before_stalling(1.0, 1.0), "gamma = 1.0"),
        (lambda: norm_tested_samples(Q, 0.1, 0.0, 0.1), "eta = 0.0"),
        (lambda: tracking_price(-1.0), "u = -1.0"),
        (lambda: GradNormTrigger(8, 0.1, 1.0, 4, check_every=0), "every = 0"),
        (lambda: GradNormTrigger(8, 0.1, 1.0, 4, max_batch_size=4), "max_batch_size = 4"),
        (lambda: GradNormTrigger(8, 0.1, 1.0, 4, check_every=1).update(8, math.nan), "signal = nan"),
        (lambda: GradNormTrigger(8, 0.1, 1.0, 4, check_every=1).update(8), "signal = None: is needed"),
        (lambda: GradNormTrigger(8, 0.1, 1.0, 4).update(8, 1.0), "signal = 1.0: must be None"),
        (lambda: GradNormTrigger(8, 0.1, 1.0, 4).update(0), "taken = 0"),
        (lambda: NormTest(0, batch_size=8, lr=0.1), "eta = 0"),
        (lambda: NormTest(0.5, batch_size=0, lr=0.1), "batch_size = 0"),
        (lambda: NormTest(0.5, batch_size=8, lr=-0.1), "lr = -0.1"),
        (lambda: NormTest(0.5, batch_size=8, lr=0.1, max_batch_size=4), "max_batch_size = 4"),
        (lambda: InnerProductTest(-1, batch_size=8, lr=0.1), "theta = -1"),
        (lambda: AugmentedInnerProductTest(1, 0, batch_size=8, lr=0.1), "nu = 0"),
        (lambda: wu(min_lr=2.0), "min_lr = 2.0: must be below max_lr"),
        (lambda: wu(warmup="cubic"), "warmup = 'cubic'"),
        (lambda: wu(cooldown_fraction=1.0), "cooldown_fraction = 1.0"),
        (lambda: wu(cooldown_fraction=0.6), "max_warmup_fraction = 0.5: must be in (0, 0.4]"),
        (lambda: wu(batch_size=0), "batch_size = 0"),
        (lambda: autowu.predictions([math.nan, 1.0], (0,)), "losses = 1"),
    ],
)
def test_bad_input_names_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        call()
    assert named in str(caught.value)
