"""Networks as tasks, beside slow, obvious twins; small data in the real formats."""

import copy
import functools

import numpy as np
import pytest
import torch
from archives import write_cifar, write_mnist
from killing import killed_and_resumed
from torch import nn
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import InputError
from sfolib._utils.rng import epoch_order, generator
from sfolib.analysis import constants
from sfolib.problems import datasets, models, network
from sfolib.problems.batches import Batches, crop_and_flip
from sfolib.problems.specs import Digits, Images
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.training.loop import Trainer
from sfolib.training.optimizers import SGD
from sfolib.training.run import run, single_thread_gain
from sfolib.training.spec import Spec


def tiny(classes, in_shape):
    """Convolution, BatchNorm, ReLU, mean pool, Linear: the layers of a ResNet in the size of a test."""
    pool = (nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(nn.Conv2d(in_shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *pool, nn.Linear(16, classes))


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """`Images` of 50 CIFAR-10 samples in the real format, for the network "tiny"."""
    monkeypatch.setitem(models.MODELS, "tiny", tiny)
    write_cifar(tmp_path / "data", monkeypatch)
    datasets.load.cache_clear()
    return functools.partial(Images, dataset="cifar10", model="tiny", data_dir=str(tmp_path / "data"))


def trained(spec):
    """The trainer at the end of its run, and the rows of all its measuring points."""
    trainer, rows = Trainer(spec, "cpu"), []
    rows += trainer.rows()
    while trainer.status == "running":
        trainer.advance()
        rows += trainer.rows()
    return trainer, rows


def crop_and_flip_slowly(pixels, rng, padding=4):
    n, _, height, width = pixels.shape
    shifts = torch.randint(2 * padding + 1, (2, n), generator=rng)
    mirrored = torch.rand(n, 1, 1, 1, generator=rng) < 0.5
    out = torch.zeros_like(pixels)
    for i in range(n):
        for row in range(height):
            for column in range(width):
                source = row + shifts[0, i] - padding, column + shifts[1, i] - padding
                if 0 <= source[0] < height and 0 <= source[1] < width:
                    target = width - 1 - column if mirrored[i] else column
                    out[i, :, row, target] = pixels[i, :, source[0], source[1]]
    return out


def test_crop_and_flip_against_its_slow_twin():
    pixels = torch.randint(256, (12, 3, 6, 5), dtype=torch.uint8, generator=generator(1))
    fast = crop_and_flip(pixels, generator(2))
    assert torch.equal(fast, crop_and_flip_slowly(pixels, generator(2)))
    assert not torch.equal(fast, crop_and_flip(pixels, generator(3)))


def test_augmentation_does_not_depend_on_batches_or_company():
    pixels = torch.randint(256, (30, 1, 5, 5), dtype=torch.uint8, generator=generator(0))
    whole = Batches((pixels,), (7,), "permutation", crop_and_flip)
    parts = Batches((pixels,), (1, 7), "permutation", crop_and_flip)
    for epoch in (0, 1, 0):
        by_part = torch.cat([parts.take(30 * epoch + start, 10)[0][1] for start in (0, 10, 20)])
        assert torch.equal(whole.take(30 * epoch, 30)[0][0], by_part)
    assert not torch.equal(whole.take(0, 30)[0], whole.take(30, 30)[0])


@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
def test_cnn_follows_its_naive_twin(sampling, monkeypatch):
    """Also where its batches are taken in pieces of 46 images."""
    monkeypatch.setitem(network.CHUNK, "cpu", 3000)
    problem = Digits(model="cnn", l2=1e-2, holdout=1000)
    plan = Plan(exponential(100, 1.5, 1), exponential(0.05, 1.4, 1), "epoch")
    spec = Spec(problem=problem, plan=plan, seeds=(3, 11), sampling=sampling, max_samples=1800, dtype="float64")
    trainer, rows = trained(spec)
    pixels = trainer.task.x.double() / 16
    for i, seed in enumerate(spec.seeds):
        model = models.build("cnn", 10, (1, 8, 8), seed).double()
        samples = 0
        while samples < spec.max_samples:
            batch_size, lr = plan.at(samples // 797)
            order = torch.cat([epoch_order(797, seed, samples // 797 + e, sampling) for e in (0, 1)])
            offset = samples % 797
            end = min(797, offset + batch_size) if sampling == "permutation" else offset + batch_size
            chosen = order[offset:end]
            loss = cross_entropy(model(pixels[chosen]), trainer.task.y[chosen])
            loss = loss + 0.005 * sum(p.square().sum() for p in model.parameters())
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p -= lr * g
            samples += len(chosen)
        for ours, theirs in zip(trainer.task.parameters, model.parameters(), strict=True):
            torch.testing.assert_close(ours[i], theirs.detach(), rtol=1e-9, atol=1e-11)
        loss = cross_entropy(model(pixels), trainer.task.y) + 0.005 * sum(p.square().sum() for p in model.parameters())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        last = [row for row in rows if row["seed"] == seed][-1]
        assert last["samples"] == samples
        assert last["loss"] == pytest.approx(loss.item(), rel=1e-10)
        assert last["grad_sqnorm"] == pytest.approx(sum(g.square().sum().item() for g in gradients), rel=1e-9)


def test_batch_norm_network_follows_its_naive_twin(cifar):
    """Augmentation, running statistics, measurement in eval mode, and the loss as it was trained on."""
    spec = Spec(problem=cifar(), plan=Plan(16, 0.1), max_samples=100, dtype="float64", log_train_metrics=True,
                grad_norms="both")  # fmt: skip
    trainer, rows = trained(spec)
    mean, std = (torch.tensor(t, dtype=torch.float64).view(3, 1, 1) for t in datasets.KINDS["cifar10"][2:4])
    (x, y), (x_test, y_test) = (tuple(map(torch.tensor, part)) for part in cifar()._load())
    prepare = lambda pixels: (pixels.double() / 255 - mean) / std  # noqa: E731
    model = models.build("tiny", 10, (3, 32, 32), 0).double()
    for epoch in range(2):
        order = epoch_order(50, 0, epoch, "permutation")
        pixels = crop_and_flip(x[order], generator(0, 1 << 33, epoch))
        losses, right = [], 0
        for part in torch.arange(50).split(16):
            logits = model(prepare(pixels[part]))
            loss = cross_entropy(logits, y[order][part])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p -= 0.1 * g
            losses.append(loss.item())
            right += (logits.argmax(1) == y[order][part]).sum().item()
        row = rows[epoch + 1]
        assert row["running_loss"] == pytest.approx(np.mean(losses), rel=1e-10)
        assert row["running_accuracy"] == right / 50
        published = copy.deepcopy(model)  # 50 images are one batch of 100, whose order is then no matter
        rng = generator(0, 1 << 34)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            shuffled = torch.randperm(50)
        loss = cross_entropy(published(prepare(crop_and_flip(x[shuffled], rng))), y[shuffled])
        gradients = torch.autograd.grad(loss, list(published.parameters()))
        assert row["published_sqnorm"] == pytest.approx(sum(g.square().sum().item() for g in gradients), rel=1e-9)
        fixed = copy.deepcopy(model).eval()
        loss = cross_entropy(fixed(prepare(x)), y)
        gradients = torch.autograd.grad(loss, list(fixed.parameters()))
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-10)
        assert row["grad_sqnorm"] == pytest.approx(sum(g.square().sum().item() for g in gradients), rel=1e-9)
        assert row["test_loss"] == pytest.approx(cross_entropy(fixed(prepare(x_test)), y_test).item(), rel=1e-10)
    ours = dict(trainer.task.models[0][1].named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(ours[name], buffer, rtol=1e-10, atol=1e-12)
    assert "running_loss" not in rows[0]


def test_measuring_changes_nothing(cifar):
    trainer = Trainer(Spec(problem=cifar(), plan=Plan(16, 0.1), max_samples=50, grad_norms="both"), "cpu")
    trainer.advance()
    before = copy.deepcopy(trainer.state_dict()["parameters"] + trainer.task.buffers)
    state = torch.get_rng_state()
    first, second = trainer.task.measure(), trainer.task.measure()
    after = trainer.task.parameters + trainer.task.buffers
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert first["published_sqnorm"].equal(second["published_sqnorm"])
    assert all(model.training for model in trainer.task.models)


def test_a_seed_does_not_depend_on_its_company(cifar):
    spec = Spec(
        problem=cifar(), plan=Plan(16, 0.1), max_samples=100, seeds=(1, 7), dtype="float64", log_train_metrics=True
    )
    together = run(spec).rows.set_index("seed").loc[7]
    alone = run(spec.model_copy(update={"seeds": (7,)})).rows.set_index("seed").loc[7]
    np.testing.assert_allclose(alone.to_numpy(float), together.to_numpy(float), rtol=1e-10)


@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_killed_run_resumes_to_the_same_rows(cifar, killed_after, tmp_path, monkeypatch):
    spec = Spec(problem=cifar(), plan=Plan(16, 0.05), max_samples=250, seeds=(0, 5), optimizer=SGD(momentum=0.9),
                log_train_metrics=True, max_micro_batch=10)  # fmt: skip
    assert killed_and_resumed(spec, tmp_path, monkeypatch, killed_after).status == "finished"


def test_accumulated_micro_batches_are_the_batch():
    spec = Spec(problem=Digits(model="cnn", holdout=1000), plan=Plan(100, 0.1), max_samples=797, dtype="float64")
    single, rows = trained(spec)
    accumulated, micro_rows = trained(spec.model_copy(update={"max_micro_batch": 7}))
    for a, b in zip(single.task.parameters, accumulated.task.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert [(row["true_batch_size"], row["micro_batch"]) for row in rows] == [(0, 0), (97, 100)]
    assert [(row["true_batch_size"], row["micro_batch"]) for row in micro_rows] == [(0, 0), (97, 7)]


def test_micro_batches_under_batch_norm_are_another_function_and_told(cifar):
    spec = Spec(problem=cifar(), plan=Plan(25, 0.1), max_samples=50, dtype="float64")
    single, _ = trained(spec)
    accumulated, rows = trained(spec.model_copy(update={"max_micro_batch": 10}))
    a, b = (t.task.parameters[0] for t in (single, accumulated))
    assert (a - b).abs().max() > 1e-6
    assert rows[-1]["micro_batch"] == 10
    assert accumulated.task.provenance()["batch_norm"]


def test_out_of_memory_halves_the_micro_batch_and_goes_on(monkeypatch, tmp_path):
    spec = Spec(problem=Digits(model="cnn", holdout=1000), plan=Plan(100, 0.1), max_samples=797, dtype="float64")
    expected = run(spec).rows["grad_sqnorm"]
    forward = network.Normalise.forward

    def small_memory(self, x):
        if torch.is_grad_enabled() and len(x) in (100, 50):
            raise torch.OutOfMemoryError("simulated")
        return forward(self, x)

    monkeypatch.setattr(network.Normalise, "forward", small_memory)
    found = run(spec, tmp_path)
    assert found.rows["grad_sqnorm"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-9)
    assert found.provenance["micro_batch"] == 25
    assert found.provenance["out_of_memory"] == [{"step": 0, "micro_batch": 50}, {"step": 0, "micro_batch": 25}]
    assert list(found.rows["micro_batch"]) == [0, 25]


def test_no_memory_for_one_sample_is_an_error(monkeypatch):
    trainer = Trainer(Spec(problem=Digits(model="cnn"), plan=Plan(4, 0.1), max_samples=4), "cpu")

    def no_memory(self, x):
        raise torch.OutOfMemoryError("simulated")

    monkeypatch.setattr(network.Normalise, "forward", no_memory)
    with pytest.raises(InputError, match="batch_size"):
        trainer.advance()


def test_bf16_is_near_fp32_and_not_it():
    base = Spec(problem=Digits(model="cnn"), plan=Plan(64, 0.05), max_samples=64)
    (full, _), (half, _) = (trained(base.model_copy(update={"precision": p})) for p in ("fp32", "bf16"))
    start = Trainer(base, "cpu").task.parameters
    moved = torch.cat([(a - b).flatten() for a, b in zip(full.task.parameters, start, strict=True)])
    apart = torch.cat([(a - b).flatten() for a, b in zip(full.task.parameters, half.task.parameters, strict=True)])
    assert 0 < apart.norm() < 2**-4 * moved.norm()
    assert all(p.dtype == torch.float32 for p in half.task.parameters)


def test_channels_last_is_a_layout_and_no_more(cifar):
    spec = Spec(problem=cifar(), plan=Plan(16, 0.1), max_samples=100, seeds=(0, 1), dtype="float64")
    (plain, rows), (last, last_rows) = (trained(spec.model_copy(update={"channels_last": c})) for c in (False, True))
    for a, b in zip(plain.task.parameters, last.task.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert last.task.weights[0][0].is_contiguous(memory_format=torch.channels_last)
    assert [r["loss"] for r in last_rows] == pytest.approx([r["loss"] for r in rows], rel=1e-9)


@pytest.mark.parametrize(
    ("problem", "change", "field"),
    [
        (Digits(model="cnn"), {"precision": "tf32"}, "precision"),
        (Digits(model="cnn"), {"precision": "bf16", "dtype": "float64"}, "precision"),
        (Digits(), {"precision": "bf16"}, "precision"),
        (Digits(), {"max_micro_batch": 3}, "max_micro_batch"),
        (Digits(hidden=(3,)), {"grad_norms": "both"}, "grad_norms"),
        (Digits(), {"eval_samples": 20}, "eval_samples"),
        (Digits(model="cnn"), {"eval_samples": 1800}, "eval_samples = 1800"),
    ],
)
def test_execution_that_does_not_apply_is_named(problem, change, field):
    spec = Spec(problem=problem, plan=Plan(8, 0.1), max_samples=10, **change)
    with pytest.raises(InputError, match=field):
        run(spec, device="cpu")


def test_running_scores_of_the_handwritten_gradients():
    spec = Spec(problem=Digits(hidden=(6,), l2=0.0), plan=Plan(600, 0.5), max_samples=1797, log_train_metrics=True)
    trainer = Trainer(spec, "cpu")
    losses, right = [], 0
    gradients = trainer.task.gradients

    def watched(step, samples, batch_size):
        nonlocal right
        x, y = trainer.task.batches.take(samples, batch_size)
        logits = trainer.task._forward(x)[1]
        losses.append(cross_entropy(logits[0].T, y[0].argmax(1)).item())
        right += (logits[0].argmax(0) == y[0].argmax(1)).sum().item()
        return gradients(step, samples, batch_size)

    trainer.task.gradients = watched
    trainer.rows()
    trainer.advance()
    row = trainer.rows()[0]
    assert row["running_loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert row["running_accuracy"] == right / 1797


def test_digits_by_the_name_of_their_model():
    assert Digits(model="softmax") == Digits()
    assert Digits(model="mlp") == Digits(hidden=(128,))
    assert Digits(model="mlp", hidden=(5, 4)) == Digits(hidden=(5, 4))
    assert Digits.model_validate_json(Digits(model="cnn").model_dump_json()) == Digits(model="cnn")
    for bad in ({"model": "cnn", "hidden": (5,)}, {"model": "softmax", "hidden": (5,)}, {"model": "resnet18"}):
        with pytest.raises(InputError, match="model"):
            Digits(**bad)
    with pytest.raises(InputError, match="model"):
        _ = Digits(model="cnn").smoothness_bound


def test_data_sets_are_read_in_their_real_format(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, "cifar100", n_train=120, n_test=100)
    write_mnist(tmp_path / "MNIST" / "raw")
    for dataset, model, shape, classes in (
        ("cifar100", "softmax", (120, 3, 32, 32), 100),
        ("mnist", "mnist_cnn", (50, 1, 28, 28), 10),
    ):
        problem = Images(dataset=dataset, model=model, data_dir=str(tmp_path))
        (x, y), _ = problem._load()
        assert (x.shape, x.dtype, y.max() + 1, problem.size) == (shape, np.uint8, classes, len(x))
        rows = run(Spec(problem=problem, plan=Plan(10, 0.02), max_samples=len(x)), device="cpu").rows
        assert rows["loss"].iloc[-1] < rows["loss"].iloc[0]
    from torchvision.datasets import CIFAR100

    first = np.asarray(CIFAR100(str(tmp_path))[3][0])
    assert np.array_equal(
        Images(dataset="cifar100", model="softmax", data_dir=str(tmp_path))._load()[0][0][3].transpose(1, 2, 0), first
    )


def test_missing_data_says_what_to_run(tmp_path):
    for dataset in ("mnist", "cifar10", "cifar100"):
        with pytest.raises(InputError, match=r"data_dir = .*--download.*torchvision"):
            _ = Images(dataset=dataset, model="softmax", data_dir=str(tmp_path)).size


def test_where_the_data_lie_is_not_in_the_key(cifar):
    spec = Spec(problem=cifar(), plan=Plan(8, 0.1), max_samples=10)
    moved = Spec(problem=cifar(data_dir="elsewhere", download=True), plan=Plan(8, 0.1), max_samples=10)
    assert spec.key == moved.key
    assert spec.key != Spec(problem=cifar(augment=False), plan=Plan(8, 0.1), max_samples=10).key


def test_constants_of_a_batch_norm_network(cifar):
    """Measured in eval mode, on the way of the run, which measuring leaves as it is."""
    spec = Spec(problem=cifar(), plan=Plan(10, 0.1), max_samples=50, dtype="float64", eval_every=10.0)
    found = {e.name: e for e in constants.estimate(spec, "cpu")}
    trainer = Trainer(spec, "cpu")
    losses = []
    for _ in range(3):
        losses.append(trainer.task.measure()["loss"].item())
        trainer.advance()
    assert found["gap"].value == pytest.approx(losses[0], rel=1e-10)
    assert found["gap"].low == pytest.approx(losses[0] - min(losses), rel=1e-9)
    assert found["L"].high == found["sigma2"].high == np.inf


def test_an_unknown_network_is_named(cifar):
    with pytest.raises(InputError, match="model = 'vgg'"):
        run(Spec(problem=cifar(model="vgg"), plan=Plan(8, 0.1), max_samples=10))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_gpu_trains_what_the_cpu_trains(precision):
    base = Spec(problem=Digits(model="cnn"), plan=Plan(64, 0.05), max_samples=640)
    cpu = run(base, device="cpu").rows["loss"]
    gpu = run(base.model_copy(update={"precision": precision, "channels_last": True}), device="cuda").rows["loss"]
    tolerance = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}[precision]
    assert gpu.to_numpy() == pytest.approx(cpu.to_numpy(), rel=tolerance)


@pytest.mark.parametrize(
    ("norms", "augment", "columns", "passes"),
    [
        ("exact", True, {"loss", "accuracy", "grad_sqnorm"}, 1),
        ("published", True, {"published_sqnorm"}, 1),
        ("both", True, {"loss", "accuracy", "grad_sqnorm", "published_sqnorm"}, 2),
        ("none", True, set(), 0),
        ("both", False, {"loss", "accuracy", "grad_sqnorm", "published_sqnorm"}, 1),
        ("published", False, {"loss", "accuracy", "grad_sqnorm", "published_sqnorm"}, 1),
    ],
)
def test_a_norm_is_taken_once_and_only_if_asked_for(norms, augment, columns, passes, cifar, monkeypatch):
    """Of the CNN, which has GroupNorm; passes over the 50 images are counted as probes, and where they are made."""
    calls, taken = [], network.full_gradient_sqnorm
    monkeypatch.setattr(network, "full_gradient_sqnorm", lambda *a, **k: calls.append(1) or taken(*a, **k))
    problem = cifar(model="cnn", augment=augment)
    trainer = Trainer(Spec(problem=problem, plan=Plan(25, 0.1), max_samples=50, grad_norms=norms), "cpu")
    (row,) = trainer.rows()
    of_training = {"loss", "accuracy", "grad_sqnorm", "published_sqnorm"} & set(row)
    assert (of_training, len(calls), row["probes"]) == (columns, passes, 50 * passes)
    if not augment:
        exact = taken(trainer.task.models[0], cross_entropy, (trainer.task.x, trainer.task.y), "as_published")
        assert row["published_sqnorm"] == row["grad_sqnorm"] == pytest.approx(exact, rel=1e-4)


def test_f_measured_on_a_sample(tmp_path):
    """The same training; loss and ‖∇f‖² within four standard errors of the exact, and the cost counted as it is."""
    how = {"problem": Digits(model="cnn", holdout=360), "plan": Plan(16, 0.1), "max_samples": 3000, "seeds": (0, 1)}
    exact, sampled = (run(Spec(**how, eval_samples=m), tmp_path, "cpu") for m in (None, 400))
    assert set(sampled.rows) - set(exact.rows) == {"loss_error", "grad_sqnorm_error"}
    assert sampled.curves("test_loss").tolist() == exact.curves("test_loss").tolist()
    assert (sampled.rows["probes"] * 1437).tolist() == (exact.rows["probes"] * 400).tolist()
    for name in ("loss", "grad_sqnorm"):
        error = sampled.curves(f"{name}_error")
        assert (abs(sampled.curves(name) - exact.curves(name)) < 4 * error).all()
        assert (error < 0.3 * exact.curves(name)).any()


@pytest.mark.parametrize("samples", [10, 25, 0])
def test_a_sample_of_no_ten_groups_is_refused(samples):
    with pytest.raises(ValueError, match="eval_samples"):
        Spec(problem=Digits(model="cnn"), plan=Plan(8, 0.1), max_samples=10, eval_samples=samples)


def test_a_policy_that_looks_at_all_samples_needs_them_all():
    policy = {"kind": "GradNormTrigger", "batch_size": 8, "lr": 0.1, "eps": 0.1, "delta": 2.0}
    with pytest.raises(InputError, match="eval_samples = 20: must be None for a policy"):
        Spec(problem=Digits(model="cnn"), policy=policy, max_samples=100, eval_samples=20)


@pytest.mark.parametrize("norms", ["published", "none"])
def test_divergence_is_seen_without_the_exact_norm(norms, cifar):
    spec = Spec(problem=cifar(), plan=Plan(10, 1e38), max_samples=200, grad_norms=norms, log_train_metrics=True)
    assert run(spec, device="cpu").status == "diverged"
    with pytest.raises(InputError, match="target_grad_norm"):
        Spec(problem=cifar(), plan=Plan(10, 0.1), max_samples=200, grad_norms=norms, target_grad_norm=0.1)


@pytest.mark.parametrize(("model", "convolves"), [("cnn", True), ("softmax", False)])
def test_convolutions_are_channels_last_on_the_cpu(model, convolves, cifar):
    for asked, expected in ((None, convolves), (False, False)):
        spec = Spec(problem=cifar(model=model), plan=Plan(25, 0.1), max_samples=50, channels_last=asked)
        images = Trainer(spec, "cpu").task.models[0][0](torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        assert images.is_contiguous(memory_format=torch.channels_last) == expected


def test_timing_the_threads_leaves_the_run_as_it_is(cifar):
    spec = Spec(problem=cifar(), plan=Plan(16, 0.1), max_samples=100, log_train_metrics=True)
    _, expected = trained(spec)
    trainer, threads = Trainer(spec, "cpu"), torch.get_num_threads()
    rows = trainer.rows()
    assert single_thread_gain(trainer, 0.0) > 0
    assert torch.get_num_threads() == threads
    while trainer.status == "running":
        trainer.advance()
        rows += trainer.rows()
    assert rows == expected


def test_the_exact_norm_takes_a_chunk_at_once(cifar):
    trainer, sizes = Trainer(Spec(problem=cifar(), plan=Plan(25, 0.1), max_samples=50), "cpu"), []
    trainer.task.models[0].register_forward_hook(lambda _model, _inputs, logits: sizes.append(len(logits)))
    trainer.rows()
    assert sizes == [50, 20]  # the training set, the test set; images of bytes are no tokens
