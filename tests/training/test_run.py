"""The loop and its tasks beside slow, obvious twins."""

import functools

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import InputError
from sfolib._utils.rng import epoch_order
from sfolib.problems.batches import Batches
from sfolib.problems.specs import Digits, Quadratic, split_digits
from sfolib.schedules.base import exponential, polynomial
from sfolib.schedules.plan import Plan
from sfolib.training import checkpoint, records
from sfolib.training.loop import Trainer, resolve_device
from sfolib.training.pooling import pooled
from sfolib.training.run import CHECKPOINT, run, run_all
from sfolib.training.spec import Spec

PLANS = {
    "constant": Plan(64, 0.1),
    "growing by epoch": Plan(exponential(50, 2, 1), exponential(0.05, 1.4, 1), "epoch", max_batch_size=300),
    "growing by step": Plan(exponential(8, 2, 7), 0.1, "step"),
    "growing by sample": Plan(exponential(16, 3, 1000), 0.1, "sample"),
}


def naive(spec, seed):
    """(samples after each step, parameters) of one seed, by autograd, an index at a time."""
    (images, labels), _ = split_digits(spec.problem.holdout)
    x = torch.tensor(np.column_stack([images, np.ones(len(images))]))
    y = torch.tensor(labels)
    start = Trainer(spec.model_copy(update={"seeds": (seed,)})).task.parameters
    parameters = [p[0].clone().requires_grad_() for p in start]
    order = functools.cache(lambda epoch: epoch_order(len(x), seed, epoch, spec.sampling).tolist())
    n, step, samples, sizes = len(x), 0, 0, []
    while samples < spec.max_samples:
        clock = {"epoch": samples // n, "step": step, "sample": samples}[spec.plan.clock]
        batch_size, lr = spec.plan.at(clock)
        indices = []
        while len(indices) < batch_size:
            epoch, offset = divmod(samples + len(indices), n)
            if spec.sampling == "permutation" and indices and offset == 0:
                break
            indices.append(order(epoch)[offset])
        hidden = x[indices]
        for layer, p in enumerate(parameters):
            out = hidden @ p.T
            if layer < len(parameters) - 1:
                hidden = torch.cat([out.relu(), torch.ones(len(out), 1)], 1)
        loss = cross_entropy(out, y[indices]) + 0.5 * spec.problem.l2 * sum((p**2).sum() for p in parameters)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= lr * g
        step, samples = step + 1, samples + len(indices)
        sizes.append(samples)
    return sizes, parameters


@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
@pytest.mark.parametrize("hidden", [(), (7, 5)])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_loop_follows_its_naive_twin(plan, hidden, sampling):
    spec = Spec(
        problem=Digits(hidden=hidden, l2=1e-2, holdout=900), plan=plan, seeds=(3, 11), sampling=sampling,
        max_samples=2500, dtype="float64",
    )  # fmt: skip
    trainer = Trainer(spec, "cpu")
    trainer.rows()
    taken = []
    gradients = trainer.task.gradients
    trainer.task.gradients = lambda t, samples, batch_size: (
        taken.append(samples + batch_size) or gradients(t, samples, batch_size)
    )
    while trainer.status == "running":
        trainer.advance()
        trainer.rows()
    for i, seed in enumerate(spec.seeds):
        sizes, parameters = naive(spec, seed)
        assert taken == sizes
        for ours, theirs in zip(trainer.task.parameters, parameters, strict=True):
            torch.testing.assert_close(ours[i], theirs.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hidden", [(), (6, 4)])
def test_measurements_against_per_sample_autograd(hidden):
    problem = Digits(hidden=hidden, l2=0.05, holdout=1000)
    task = problem.build_task((0, 5), "permutation", "cpu", "float64")
    rng = torch.Generator().manual_seed(0)
    for p in task.parameters:
        p.add_(torch.randn(p.shape, generator=rng, dtype=p.dtype) * 0.3)
    before = [p.clone() for p in task.parameters]
    measured = task.measure()
    assert all(torch.equal(a, b) for a, b in zip(before, task.parameters, strict=True))

    def loss(parameters, x, y):
        for layer, p in enumerate(parameters):
            out = p @ x
            x = torch.cat([out.relu(), torch.ones(1, dtype=out.dtype)])
            if layer == len(parameters) - 1:
                penalty = 0.5 * problem.l2 * sum((q**2).sum() for q in parameters)
                return cross_entropy(out[None], y[None]) + penalty

    labels = task.y.argmax(1)
    for seed in range(2):
        parameters = tuple(p[seed] for p in task.parameters)
        per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, task.x, labels)
        flat = torch.cat([g.flatten(1) for g in per_sample], 1)
        mean = flat.mean(0)
        assert measured["grad_sqnorm"][seed].item() == pytest.approx((mean**2).sum().item(), rel=1e-11)
        variance = ((flat - mean) ** 2).sum(1).mean().item()
        assert measured["variance"][seed].item() == pytest.approx(variance, rel=1e-11)
        losses = torch.stack([loss(parameters, x, y) for x, y in zip(task.x, labels, strict=True)])
        assert measured["loss"][seed].item() == pytest.approx(losses.mean().item(), rel=1e-11)


def test_monte_carlo_quadratic_agrees_with_the_exact_expectation():
    problem = Quadratic(d=50, lam_min=1e-3, noise="curvature")
    plan = Plan(exponential(2, 2, 40), exponential(0.3, 1.3, 40), "step")
    spec = Spec(problem=problem, plan=plan, seeds=tuple(range(2000)), sampling="replacement", max_samples=10**6,
                max_steps=150, eval_every=1.2, dtype="float64")  # fmt: skip
    found = run(spec)
    pairs = np.array([plan.at(t) for t in range(150)])
    for column, path in (("grad_sqnorm", "grad_sqnorm_path"), ("loss", "loss_path")):
        exact = getattr(problem.exact, path)(pairs[:, 0], pairs[:, 1])[found.steps]
        curves = found.curves(column)[:, 1:]
        z = (curves.mean(0) - exact[1:]) / (curves.std(0, ddof=1) / len(curves) ** 0.5)
        assert np.abs(z).max() < 5
        assert found.curves(column)[:, 0] == pytest.approx(exact[0], rel=1e-12)


def test_a_seed_does_not_depend_on_its_company():
    def curves(seeds):
        spec = Spec(problem=Digits(hidden=(8,)), plan=Plan(32, 0.1), seeds=seeds, max_samples=3000, dtype="float64")
        return run(spec).rows.set_index("seed").loc[7]

    alone, together = curves((7,)), curves((1, 7, 4))
    np.testing.assert_allclose(alone.to_numpy(float), together.to_numpy(float), rtol=1e-10)


def test_sfo_counts_true_batches_and_probes_apart():
    spec = Spec(problem=Digits(holdout=797), plan=Plan(300, 0.1), max_samples=3000)
    rows = run(spec).rows
    assert list(rows["samples"]) == [0, 1000, 2000, 3000]
    assert list(rows["step"]) == [0, 4, 8, 12]
    assert list(rows["true_batch_size"]) == [0, 100, 100, 100]
    assert list(rows["batch_size"]) == [300] * 4
    assert list(rows["probes"]) == [1000, 2000, 3000, 4000]


def test_batches_cross_epochs_only_with_replacement():
    tensors = (torch.arange(10.0),)
    batches = Batches(tensors, (0, 1), "replacement")
    order = torch.stack([torch.cat([epoch_order(10, s, e, "replacement") for e in range(4)]) for s in (0, 1)])
    assert torch.equal(batches.take(7, 25)[0], tensors[0][order[:, 7:32]])
    assert batches.size(7, 25) == 25
    assert Batches(tensors, (0,), "permutation").size(7, 25) == 3
    assert sorted(Batches(tensors, (5,), "permutation").take(10, 10)[0][0].tolist()) == list(range(10))


def test_twice_the_same_run_is_the_same_to_the_last_digit():
    spec = Spec(problem=Digits(), plan=Plan(16, 0.1), seeds=(0, 1), max_samples=5000, eval_every=1.1)
    assert run(spec).rows.equals(run(spec).rows)


@pytest.mark.parametrize("problem", [Digits(hidden=(5,)), Quadratic(d=20, lam_min=0.01)])
def test_a_killed_run_resumes_to_the_same_rows(problem, tmp_path, monkeypatch):
    spec = Spec(problem=problem, plan=Plan(exponential(4, 2, 60), 0.1, "step"), seeds=(0, 2), sampling="replacement",
                max_samples=8000, eval_every=1.05, target_grad_norm=1e-6)  # fmt: skip
    whole = run(spec, tmp_path / "whole")
    measured = Trainer.rows
    for after in (1, 7, 30):

        def rows(self, left=[after]):  # noqa: B006
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return measured(self)

        store = tmp_path / str(after)
        monkeypatch.setattr(Trainer, "rows", rows)
        with pytest.raises(KeyboardInterrupt):
            run(spec, store, checkpoint_every=0.0)
        assert not (store / spec.key / records.RUN).exists()
        monkeypatch.setattr(Trainer, "rows", measured)
        kept = store / spec.key / CHECKPOINT
        checkpoint.write(kept, checkpoint.read(kept, "cpu") | {"seconds": 1e6})
        resumed = run(spec, store)
        assert resumed.provenance["seconds"] > 1e6  # what it had taken counts
        assert resumed.rows.equals(whole.rows)
        files = [(folder / spec.key / records.METRICS).read_bytes() for folder in (store, tmp_path / "whole")]
        assert files[0] == files[1]
        assert not (store / spec.key / CHECKPOINT).exists()


def test_a_run_on_record_is_not_trained_again(tmp_path, monkeypatch):
    spec = Spec(problem=Digits(), plan=Plan(500, 0.1), max_samples=4000, seeds=(0, 1))
    first = run(spec, tmp_path)
    monkeypatch.setattr(Trainer, "advance", lambda self: pytest.fail("trained again"))
    again = run_all([spec, spec], tmp_path)
    assert all(found.rows.equals(first.rows) and found.spec == first.spec for found in again)


def test_run_all_keeps_the_order_in_processes(tmp_path):
    specs = [Spec(problem=Digits(), plan=Plan(b, 0.1), max_samples=2000) for b in (8, 1000, 100)]
    assert [found.rows["batch_size"].iloc[0] for found in run_all(specs, tmp_path, jobs=2)] == [8, 1000, 100]


def test_each_seed_of_a_policy_adapts_by_itself():
    policy = {"kind": "GradNormTrigger", "batch_size": 32, "lr": 0.2, "eps": 0.5, "delta": 2.0, "check_every": 10}
    told = Spec(problem=Digits(), policy=policy, seeds=(3, 5), max_samples=20_000, eval_every=1.2)
    (both,) = run_all([told])
    alone = [run(told.model_copy(update={"seeds": (seed,)})) for seed in told.seeds]
    assert both.rows.equals(pooled(alone).rows)
    assert list(both.rows["seed"].unique()) == [3, 5]
    with pytest.raises(InputError, match="seeds"):
        run(told)


def test_divergence_ends_a_run_and_keeps_its_rows():
    spec = Spec(problem=Quadratic(d=10), plan=Plan(1, 1e6), sampling="replacement", max_samples=10**6, eval_every=1.5)
    found = run(spec)
    assert found.status == "diverged"
    assert len(found.rows) > 3
    assert np.isfinite(found.rows["grad_sqnorm"].iloc[:-1]).all()
    assert found.first_crossing(1e-3).samples == np.inf


@pytest.mark.parametrize("clock", ["epoch", "step", "sample"])
def test_an_lr_may_be_down_to_0_where_the_run_ends(clock):
    """No step uses it; before the end it is an error."""
    length = {"epoch": 2, "step": 8, "sample": 2 * 1797}[clock]
    plan = Plan(450, polynomial(0.1, 0.0, length), clock)
    assert run(Spec(problem=Digits(), plan=plan, max_samples=2 * 1797)).status == "finished"
    with pytest.raises(InputError, match="lr at"):
        run(Spec(problem=Digits(), plan=plan, max_samples=2 * 1797 + 900))


def test_target_grad_norm_ends_a_run_once_it_stays_below():
    spec = Spec(
        problem=Digits(), plan=Plan(256, 0.1), max_samples=10**6, eval_every=1.05, target_grad_norm=0.1, seeds=(0, 1)
    )
    found = run(spec)
    below = found.curves().mean(0) <= 0.1**2
    assert found.status == "reached"
    assert below[-10:].all()
    assert not below[-11]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seeds": ()}, "seeds"),
        ({"max_samples": 0}, "max_samples"),
        ({"eval_every": 1.0}, "eval_every"),
        ({"sampling": "bootstrap"}, "sampling"),
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"problem": {"kind": "digits", "l2": "1e-3"}}, "l2"),
        ({"problem": {"kind": "digits", "l2": -1.0}}, "l2"),
        ({"problem": {"kind": "imagenet"}}, "problem"),
    ],
)
def test_a_bad_spec_names_the_field(change, field):
    with pytest.raises(InputError, match=field):
        Spec(**{"problem": Digits(), "plan": Plan(8, 0.1), "max_samples": 100} | change)


def test_bad_input_beyond_the_spec():
    spec = Spec(problem=Digits(), plan=Plan(8, 0.1), max_samples=100)
    with pytest.raises(InputError, match="seeds"):
        run(spec.model_copy(update={"seeds": (1, 1)}))
    with pytest.raises(InputError, match="device = 'tpu'"):
        run(spec, device="tpu")
    with pytest.raises(InputError, match="batch_size"):
        Plan(0, 0.1)
    with pytest.raises(InputError, match="sampling"):
        run(Spec(problem=Quadratic(), plan=Plan(8, 0.1), max_samples=100))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(InputError, match="no CUDA device"):
        resolve_device("cuda:0")


def test_a_spec_survives_its_json():
    spec = Spec(problem=Quadratic(), plan=Plan(exponential(8, 2, 3), 0.1), seeds=(1, 2), max_samples=10)
    again = Spec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.key == spec.key
    assert spec.key != spec.model_copy(update={"seeds": (1, 3)}).key
