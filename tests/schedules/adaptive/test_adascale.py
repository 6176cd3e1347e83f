"""AdaScale by hand, beside the front of T11, on exact moments, in a plain loop and with its workers in `train`."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import InputError
from sfolib.analysis.adascale import by_iterations, exact_gain, lagged_gain
from sfolib.gradients.statistics import GradientStatistics
from sfolib.plotting.autowu import WarmUp, peaks, scales, warm_ups
from sfolib.plotting.style import Band
from sfolib.problems.batches import Batches
from sfolib.problems.specs import Digits, split_digits
from sfolib.schedules import base as s
from sfolib.schedules.adaptive.adascale import AdaScale, Parallel, gain, weight
from sfolib.schedules.plan import Plan
from sfolib.theory import bounds
from sfolib.training.loop import Trainer
from sfolib.training.run import run
from sfolib.training.spec import Spec

L2 = 1e-2
PROBLEM = Digits(l2=L2, holdout=997)
positive = st.floats(1e-6, 1e6)


# ---------------------------------------------------------------------------------------------------------- the gain
@given(positive, positive, st.integers(1, 1000), st.floats(1.01, 100))
def test_the_gain_lies_between_one_and_s_and_falls_as_the_gradient_grows(variance, sqnorm, scale, factor):
    r = gain(variance, sqnorm, scale)
    assert 1 - 1e-9 <= r <= scale * (1 + 1e-9)
    assert gain(variance, sqnorm * factor, scale) <= r * (1 + 1e-9)
    assert gain(variance, 0.0, scale) == pytest.approx(scale)
    assert gain(0.0, sqnorm, scale) == 1


@given(positive, positive, st.integers(1, 256), st.integers(2, 64))
def test_the_gain_is_the_ratio_of_the_front(sigma2, sqnorm, batch_size, scale):
    """T11's lr at S b over that at b, and its steps at b over those at S b, at ε = ‖∇f‖."""
    c, eps = bounds.Constants(L=1.0, sigma2=sigma2, gap=1.0), sqnorm**0.5
    r = gain(sigma2 / batch_size, sqnorm, scale)
    assert r == pytest.approx(bounds.optimal_lr(c, scale * batch_size, eps) / bounds.optimal_lr(c, batch_size, eps))
    assert r == pytest.approx(bounds.front_steps(c, batch_size, eps) / bounds.front_steps(c, scale * batch_size, eps))


@pytest.mark.parametrize("scale", [1, 3, 8])
def test_a_step_is_worth_r_steps_of_one_worker(scale):
    """E⟨Δθ, ∇f⟩ and E‖Δθ‖² of all batches that there are, by enumeration."""
    values = np.array([[1.0, 0.0], [3.0, -1.0], [-1.0, 2.5]])
    mean, variance = values.mean(0), values.var(0).sum()
    r = float(gain(variance, mean @ mean, scale))
    index = np.array(np.meshgrid(*[range(3)] * scale)).reshape(scale, -1)
    of_batch_size = values[index].mean(0)
    assert (r * of_batch_size @ mean).mean() == pytest.approx(r * mean @ mean)
    assert (r**2 * (of_batch_size**2).sum(1)).mean() == pytest.approx(r * (values**2).sum(1).mean())


def test_what_workers_exchange_gives_both_moments_without_bias():
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((20_000, 4, 3)) * [1.0, 2.0, 0.5] + [0.5, 0.0, 1.0]
    means = gradients.mean(1)
    found = [Parallel.of((g**2).sum(1), m @ m) for g, m in zip(gradients, means, strict=True)]
    direct = gradients.var(1, ddof=1).sum(1)
    assert [f.variance for f in found] == pytest.approx(direct)
    assert np.mean(direct) == pytest.approx(1 + 4 + 0.25, rel=0.02)
    assert np.mean([f.mean_sqnorm - f.variance / f.n for f in found]) == pytest.approx(1.25, rel=0.03)


# --------------------------------------------------------------------------------------------------------- the policy
def test_a_trajectory_by_hand():
    """S = 4: σ² = 4 v/n and ‖∇f‖² = m − v/n, so (1 + 3)/(1/4 + 3) and, averaged over two, (1 + 2)/(1/4 + 2)."""
    policy = AdaScale(4, batch_size=8, lr=s.milestones(0.1, {2: 0.5}))
    assert (policy.batch_size, policy.lr, policy.gain) == (32, 0.1, 1.0)
    batch_size, lr = policy.update(32, Parallel(4, 3.25, 1.0))
    assert (batch_size, policy.tau, policy.gain) == (32, 1.0, pytest.approx(4 / 3.25))
    assert lr == pytest.approx(0.1 * 4 / 3.25)
    policy.update(32, GradientStatistics(32, 1.25, 8.0, 0.0, 0.0))
    assert policy.tau == pytest.approx(1 + 4 / 3.25)  # 2.23: the schedule has halved
    assert policy.lr == pytest.approx(0.05 * 3 / 2.25)


def test_estimates_are_clipped_before_they_are_averaged():
    policy = AdaScale(2, batch_size=1, lr=1.0)
    policy.update(2, Parallel(2, 1.0, 6.0))  # σ² = 6, ‖∇f‖² = 1 − 3, taken for 0
    assert policy.gain == 2.0
    policy.update(2, Parallel(2, 4.0, 0.0))  # σ² = 0, taken for 1e-6
    assert (policy.variance, policy.sqnorm) == pytest.approx((3 + 5e-7, 2.0))


@pytest.mark.parametrize("scale", [3, 16, 2000])
def test_the_running_means_against_their_definition(scale):
    policy, rng, seen = AdaScale(scale, batch_size=2, lr=0.1), np.random.default_rng(scale), []
    for _ in range(500):
        seen.append((rng.uniform(1, 2), rng.uniform(3, 4)))
        policy.update(2 * scale, Parallel(scale, seen[-1][1], seen[-1][0]))
    theta = max(1 - scale / 1000, 0.0)
    mean = 0.0
    for k, (variance, _) in enumerate(seen):
        mean = (
            np.mean([v for v, _ in seen[: k + 1]]) if k + 1 < 1 / (1 - theta) else theta * mean + (1 - theta) * variance
        )
    assert policy.variance == pytest.approx(mean)
    assert weight(1, scale) == 1
    assert weight(10**6, scale) == pytest.approx(1 - theta)


def test_a_look_every_few_steps_and_resuming():
    policy, states = AdaScale(8, batch_size=2, lr=s.exponential(0.1, 0.9, 3), every=3), []
    rng, path = np.random.default_rng(1), []
    signals_ = [Parallel(8, rng.uniform(1, 2), rng.uniform(1, 2)) if (k + 1) % 3 == 0 else None for k in range(20)]
    for signal in signals_:
        states.append(json.dumps(policy.state_dict()))
        path.append(policy.update(16, signal))
    assert policy.seen == 6
    assert len({lr for _, lr in path}) > 6
    for k in (0, 5, 12):
        resumed = AdaScale(8, batch_size=2, lr=s.exponential(0.1, 0.9, 3), every=3)
        resumed.load_state_dict(json.loads(states[k]))
        assert [resumed.update(16, signal) for signal in signals_[k:]] == path[k:]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: gain(1.0, 1.0, 0.5), "scale = 0.5"),
        (lambda: gain(-1.0, 1.0, 2), "variance, sqnorm"),
        (lambda: gain(0.0, 0.0, 2), "not both 0"),
        (lambda: Parallel.of([1.0], 1.0), "sqnorms = [1.0]: must be of 2 workers or more"),
        (lambda: AdaScale(0, batch_size=8, lr=0.1), "scale = 0"),
        (lambda: AdaScale(2, batch_size=8, lr=-0.1), "lr = -0.1"),
        (lambda: AdaScale(2, batch_size=8, lr=0.1).update(16), "signal = None: is needed"),
        (lambda: AdaScale(2, batch_size=8, lr=0.1).update(16, Parallel(2, float("nan"), 1.0)), "must be finite"),
        (lambda: workers(spec(sampling="permutation"), 3, 200), "sampling"),
    ],
)
def test_bad_input_names_the_field(call, named):
    with pytest.raises(InputError) as caught:
        call()
    assert named in str(caught.value)


# ------------------------------------------------------------------------------------------------------- in the loop
def spec(**kwargs):
    told = {"problem": PROBLEM, "plan": Plan(8, 0.2), "max_steps": 30, "max_samples": 10**6, "seeds": (3, 5)}
    return Spec(**told | {"sampling": "replacement", "eval_every": 1.2, "dtype": "float64"} | kwargs)


def workers(asked, scale, iterations, store=None):
    """`asked` is what a single worker does; so many workers do it together."""
    batch_size, lr = asked.plan.at(0)
    how = {"scale": scale, "iterations": iterations}
    update = {"plan": Plan(scale * batch_size, lr), "max_steps": None, "max_samples": scale * batch_size * iterations}
    return run(Spec(**dict(asked) | update | {"workers": how}), store, device="cpu")


def plain_adascale(seed, scale, iterations):
    """lr and τ of each step of a loop that anyone would write, by autograd, a worker at a time."""
    (images, labels), _ = split_digits(997)
    x, y = torch.tensor(images), torch.tensor(labels)
    order = Batches((x, y), (seed,), "replacement")
    model = nn.Linear(64, 10, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    policy, rows, parameters = AdaScale(scale, batch_size=8, lr=0.2), [], list(model.parameters())
    while policy.tau < iterations:
        of_workers = []
        for worker in range(scale):
            xb, yb = (t[0] for t in order.take(policy.samples + 8 * worker, 8))
            loss = cross_entropy(model(xb), yb) + L2 / 2 * sum((p**2).sum() for p in parameters)
            of_workers.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
        mean = torch.stack(of_workers).mean(0)
        with torch.no_grad():
            for p, g in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
                p -= policy.lr * g.view_as(p)
        policy.update(8 * scale, Parallel.of([(g @ g).item() for g in of_workers], (mean @ mean).item()))
        rows.append((policy.tau, policy.lr))
    return rows


def test_the_workers_do_what_a_plain_loop_does(tmp_path):
    """Two seeds at once, each at its own pace, until the slower one has made its iterations."""
    found = workers(spec(), 4, 30, tmp_path)
    assert found.curves("tau")[:, -1].min() >= 30
    for i, seed in enumerate((3, 5)):
        twin = plain_adascale(seed, 4, found.curves("tau")[i, -1] - 1e-6)
        for k, step in enumerate(found.steps[1:], start=1):
            tau, lr = twin[step - 1]
            assert (found.curves("tau")[i, k], found.curves("lr")[i, k]) == pytest.approx((tau, lr), rel=1e-9)
    assert found.samples.tolist() == [32 * step for step in found.steps]
    again = workers(spec(), 4, 30, tmp_path)
    assert again.rows.equals(found.rows)
    assert len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize("change", [{"plan": Plan(8, s.exponential(0.1, 0.5, 3))}, {"optimizer": "adam"}])
def test_workers_need_plain_sgd_at_a_constant_pair(change):
    with pytest.raises(InputError, match="need plain SGD"):
        spec(workers={"scale": 2, "iterations": 9}, **change)


def test_the_exact_gain_at_the_start_against_one_sample_at_a_time():
    """Softmax regression at 0: ∇f_i = (p − y) x̃ᵀ with p = 1/10, whatever the seed."""
    (images, labels), _ = split_digits(997)
    x = np.column_stack([images, np.ones(len(images))])
    gradients = np.einsum("ic,ij->icj", 0.1 - np.eye(10)[labels], x).reshape(len(x), -1)
    mean = gradients.mean(0)
    found = exact_gain(run(spec(), device="cpu"), 8, 4)
    expected = gain(((gradients - mean) ** 2).sum(1).mean() / 8, mean @ mean, 4)
    assert found[:, 0] == pytest.approx(float(expected))


def test_lagged_gain_against_a_slow_mean():
    found = workers(spec(), 4, 30)
    expected = np.ones(found.curves("gain").shape)
    for i in range(2):
        v, m = (
            np.interp(np.arange(found.steps[-1]), found.steps, c[i])
            for c in (found.curves("variance") / 8, found.curves())
        )
        for k, step in enumerate(found.steps[1:], start=1):  # fewer than 1000/S steps: plain means
            expected[i, k] = gain(v[:step].mean(), m[:step].mean(), 4)
    assert found.steps[-1] < 250
    assert lagged_gain(found, 8, 4) == pytest.approx(expected)


def test_by_iterations_puts_seeds_on_one_clock():
    found = workers(spec(), 4, 30)
    told = by_iterations(found, 30, 8, points=40, twice=2 * found.curves("gain"))
    assert told.samples[-1] == pytest.approx(240)
    assert told.curves("tau") == pytest.approx(np.broadcast_to(told.steps, (2, 41)))
    assert told.curves("twice") == pytest.approx(2 * told.curves("gain"))
    at = np.interp(30, found.curves("tau")[1], found.curves("loss")[1])
    assert told.curves("loss")[1, -1] == pytest.approx(at)


def test_as_a_policy_its_signal_is_what_the_loop_gives_to_policies():
    policy = AdaScale(4, batch_size=8, lr=0.2)
    trainer = Trainer(
        spec(seeds=(3,), sampling="permutation", plan=None, workers=None, policy=policy, max_steps=5), "cpu"
    )
    while trainer.step < 5:
        trainer.advance()
    assert trainer.samples == trainer.probes == 5 * 32
    assert trainer.leader.seen == 5
    assert 1 < trainer.leader.gain < 4


def test_the_figures_draw_what_they_are_given():
    x = np.geomspace(1e-3, 1, 30)
    band = Band("one", "measured", x, 1 + x, x, 2 + x)
    seen = WarmUp(x, 2 - x, {"fit": (x, 2 - x, 0.1 * x), "other": (x, 2 - x, 0.1 * x)}, 0.5)
    assert len(warm_ups({"a": seen, "b": seen}).axes) == 2
    figure = peaks({"a": (band, {"found": np.array([0.1, 0.2])})})
    assert [len(line.get_xdata()) for line in figure.axes[0].get_lines()] == [30, 2]
    figure = scales([band], [band], {"one": (band, band, band)}, "iterations")
    assert figure.axes[1].get_xlabel() == "iterations"
