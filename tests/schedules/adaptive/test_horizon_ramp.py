"""HorizonRamp against T16's water filling, its mirror, and a plain loop; its state in the middle of a run."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import InputError
from sfolib.gradients.curvature import NoiseSpectrum, noise_spectrum
from sfolib.problems.specs import Digits, Quadratic
from sfolib.schedules.adaptive import HorizonRamp
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import late_ramp
from sfolib.schedules.torch import PlanLR, ScheduledBatchSampler
from sfolib.theory.local import best_batch_sizes, noise_kernel
from sfolib.training.loop import Trainer
from sfolib.training.run import run
from sfolib.training.spec import Spec

LAM = np.geomspace(0.003, 0.3, 7)
NOISE = 1 / np.arange(1, 8.0)
SPECTRUM = NoiseSpectrum(LAM[None], NOISE[None], 0)


def walk(policy, spectrum=SPECTRUM):
    """Its steps to the end of the budget."""
    found = []
    while policy.samples < policy.budget:
        found.append((policy.samples, policy.batch_size, policy.lr))
        policy.update(policy.batch_size, spectrum if policy.needs_signal else None)
    return np.array(found)


@pytest.mark.parametrize(("objective", "power"), [("grad_norm", 2), ("loss", 1)])
def test_what_is_left_after_the_look_is_filled_as_water_fills(objective, power):
    """The same steps at the same Σ b cannot leave less noise: within rounding, they are T16's."""
    lr = 0.2
    policy = HorizonRamp(64, lr, 480_000, objective, max_batch_size=10**6)
    steps = walk(policy)
    sizes = steps[steps[:, 0] > 384_100, 1]
    kappa = noise_kernel(np.full(len(sizes), lr), LAM, NOISE, power)
    noise = np.sum(kappa / sizes)
    best = best_batch_sizes(kappa, noise)
    assert best.sum() == pytest.approx(sizes.sum(), rel=4e-3)
    flat = np.full(len(sizes), sizes.mean())
    assert np.sum(kappa / flat) > 1.25 * noise
    np.testing.assert_allclose(sizes[:-20], best[:-20], rtol=0.05)  # the last are evened out


@pytest.mark.parametrize("look", [0.8, (0.7, 0.9), None])
def test_its_batch_and_its_lr_are_mirrors_and_the_budget_is_spent_to_the_last_sample(look):
    batch, lr, half = (
        HorizonRamp(8, 0.1, 30_011, look=look, share=share, max_batch_size=512) for share in (1.0, 0.0, 0.5)
    )
    grown, cooled, both = walk(batch), walk(lr), walk(half)
    assert [policy.samples for policy in (batch, lr, half)] == [30_011] * 3
    assert np.all(grown[:, 2] == pytest.approx(0.1))
    assert set(cooled[:-9, 1]) == {8.0}
    for policy in (lr, half):
        noise = [policy.plan.lr(t) / policy.plan.batch_size.schedule(t) for t in range(0, 29_000, 1000)]
        grows = [batch.plan.lr(t) / batch.plan.batch_size.schedule(t) for t in range(0, 29_000, 1000)]
        np.testing.assert_allclose(noise, grows, rtol=0.02)
    assert len(cooled) > len(both) > len(grown)


def test_above_the_largest_batch_the_ramp_goes_on_in_lr():
    capped, free = HorizonRamp(8, 0.1, 40_000, max_batch_size=32), HorizonRamp(8, 0.1, 40_000)
    steps, _ = walk(capped), walk(free)
    assert steps[:, 1].max() == 32 < free.plan.batch_size.schedule(39_999)
    end = capped.plan.lr(39_999) / capped.plan.batch_size.schedule(39_999)
    assert end == pytest.approx(0.1 / free.plan.batch_size.schedule(39_999), rel=0.02)


def test_without_a_look_it_is_late_ramp():
    assert HorizonRamp(16, 0.1, 9999, look=None).plan == late_ramp(16, 0.1, 9999, max_batch_size=512)
    flat = NoiseSpectrum(np.array([[-1.0, 0.0]]), np.ones((1, 2)), 0)
    policy = HorizonRamp(16, 0.1, 9999, look=0.7)
    walk(policy, flat)
    assert policy.plan == late_ramp(16, 0.1, 9999, start=0.7, max_batch_size=512)


@pytest.mark.parametrize("at", [0, 55, 100, 110, 130])
def test_a_policy_goes_on_from_its_state(at):
    make = lambda: HorizonRamp(8, 0.1, 1500, look=(0.5, 0.7), probes=10**4)  # noqa: E731
    whole = walk(make())
    policy = make()
    for _ in range(at):
        policy.update(policy.batch_size, SPECTRUM if policy.needs_signal else None)
    again = policy.description.build()
    again.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    np.testing.assert_array_equal(walk(again), whole[at:])


def test_a_description_is_read_back_from_json():
    for look in (0.9, (0.5, 0.7), None):
        spec = Spec(problem=Quadratic(), policy=HorizonRamp(8, 0.1, 5000, look=look), max_samples=5000)
        assert Spec.model_validate_json(spec.model_dump_json()) == spec
        assert Spec.model_validate(json.loads(spec.model_dump_json())).leader.plan == spec.leader.plan


# ------------------------------------------------------------------------------------------------------ in a run
def digits(batch_size=16, **how):
    budget = 6000
    policy = HorizonRamp(batch_size, 0.3, budget, probes=16 * 2 * 51, **how)
    problem = Digits(holdout=997, l2=1e-2)
    return Spec(problem=problem, policy=policy, max_samples=budget, seeds=(3,), dtype="float64", eval_every=1.5)


def test_a_run_looks_where_it_says_counts_the_look_and_goes_as_a_plain_loop():
    """By autograd and a DataLoader of one's own; the look is of the same samples."""
    spec = digits()
    trainer, looked = Trainer(spec), []
    source = trainer.signals.after
    trainer.signals.after = lambda: looked.append(source()) or looked[-1]
    rows = trainer.rows()
    while trainer.status == "running":
        trainer.advance()
        rows = trainer.rows()
    (spectrum, probes) = looked[0]
    assert len(looked) == 1
    assert trainer.samples == 6000
    assert probes == 32 * (1 + 2 * (2 * 12 + 1))
    assert rows[0]["probes"] == probes + trainer.measured * 800

    task = Trainer(spec).task
    model = nn.Linear(64, 10).double()
    with torch.no_grad():
        model.weight.copy_(task.parameters[0][0, :, :-1])
        model.bias.copy_(task.parameters[0][0, :, -1])
    x, y = task.x[:, :-1], task.labels
    policy = HorizonRamp(16, 0.3, 6000, probes=16 * 2 * 51)
    sampler = ScheduledBatchSampler(800, policy, seed=3)
    optimizer = torch.optim.SGD(model.parameters(), policy.lr)
    scheduler = PlanLR(optimizer, sampler)
    while policy.samples < policy.budget:
        for indices in sampler:
            loss = cross_entropy(model(x[indices]), y[indices])
            loss = loss + 1e-2 / 2 * sum((p**2).sum() for p in model.parameters())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if policy.needs_signal:
                own = noise_spectrum(model, cross_entropy, x[:64], y[:64], l2=1e-2, **policy.look_settings)
                assert own.kernel([0.3] * 50)[0] == pytest.approx(spectrum.kernel([0.3] * 50)[0], rel=1.0)
            policy.update(len(indices), spectrum if policy.needs_signal else None)
            scheduler.step()
            if policy.samples == policy.budget:
                break
    weights = torch.cat([model.weight, model.bias[:, None]], 1).detach()
    torch.testing.assert_close(weights, trainer.task.parameters[0][0], rtol=1e-9, atol=1e-11)
    assert policy.step == trainer.step


def test_the_ramp_beats_what_it_holds_on_digits():
    held = Spec(**digits().model_dump() | {"policy": None, "plan": Plan(4, 0.3)})
    ends = [run(spec).rows.iloc[-1] for spec in (held, digits(4), digits(4, look=None))]
    for end in ends[1:]:
        assert end.grad_sqnorm < 0.5 * ends[0].grad_sqnorm
        assert end.step < 0.95 * ends[0].step


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: HorizonRamp(0, 0.1, 100), "batch_size = 0"),
        (lambda: HorizonRamp(16.5, 0.1, 10**4), "batch_size = 16.5"),
        (lambda: HorizonRamp(8, 0.1, 10**4, look="late"), "look = 'late': must be a number in (0, 1)"),
        (lambda: HorizonRamp(8, 0.1, 10**4, look=()), "look = ()"),
        (lambda: HorizonRamp(8, 0.0, 100), "lr = 0.0"),
        (lambda: HorizonRamp(8, 0.1, 0), "budget = 0"),
        (lambda: HorizonRamp(8, 0.1, 10**4, "time"), "objective = 'time': Input should be 'grad_norm' or 'loss'"),
        (lambda: HorizonRamp(8, 0.1, 10**4, max_batch_size=4), "max_batch_size = 4"),
        (lambda: HorizonRamp(8, 0.1, 10**4, look=1.0), "look = 1.0: must be a number in (0, 1)"),
        (lambda: HorizonRamp(8, 0.1, 10**4, look=(0.9, 0.8)), "look = (0.9, 0.8)"),
        (lambda: HorizonRamp(8, 0.1, 10**4, look=(0.7, 0.8, 0.9)), "look = (0.7, 0.8, 0.9)"),
        (lambda: HorizonRamp(8, 0.1, 10**4, share=2.0), "share = 2.0"),
        (lambda: HorizonRamp(8, 0.1, 10**4, momentum=1.0), "momentum = 1.0"),
        (lambda: HorizonRamp(8, 0.1, 100), "budget = 100: must be 2040 or above, for a look at 2 samples"),
        (lambda: HorizonRamp(8, 0.1, 10**4, probes=5), "probes = 5: must be 102 or above, for a look at 2 samples"),
        (lambda: Spec(**digits().model_dump() | {"max_samples": 7000}), "budget = 6000: must be max_samples = 7000"),
        (lambda: Spec(**digits().model_dump() | {"optimizer": "adam"}), "must be sgd, of the policy's momentum"),
    ],
)  # fmt: skip
def test_bad_input_names_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        call()
    assert named in str(caught.value)
