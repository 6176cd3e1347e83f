"""Notebooks on a few images in Fashion-MNIST's files: 13 at full size, others by parameter."""

from importlib import import_module

import numpy as np
import pytest
from archives import write_mnist
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import InputError
from sfolib.analysis.claims import Check
from sfolib.experiments import cifar100, notebook, the_schedule_to_use
from sfolib.gradients import population_variance
from sfolib.problems.specs import Images, ImagesWithVariance
from sfolib.training.run import run_all


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    write_mnist(folder / "data")
    p = cifar100.Parameters(
        scale="full", data_dir=str(folder / "data"), out=str(folder), epochs=3, interval=1, norm_epochs=1, seeds=2,
        digits=[], jobs=1,
    )  # fmt: skip
    specs = cifar100.specs(p, cifar100.schedules(p), {})
    runs = dict(zip(specs, run_all([*specs.values()], p.store, "cpu"), strict=True))
    return cifar100.results(p, runs)


def test_each_network_is_trained_by_the_papers_schedules_and_padded_where_norms_are_compared(found):
    assert [*found.runs] == ["resnet8", "cnn8"]
    for of in found.runs.values():
        assert [*of] == ["constant", "batch grows linearly", "batch grows", "both grow"]
        assert {run.spec.problem.padding for run in of.values()} == {0}
        pairs = of["both grow"].rows.query("seed == 0").iloc[:-1]
        assert pairs["batch_size"].tolist() == [16, 32, 64]
        assert pairs["lr"].tolist() == pytest.approx([0.1, 0.14, 0.196])
        assert of["batch grows linearly"].rows.query("seed == 0")["batch_size"].tolist()[:3] == [16, 32, 48]
    assert {run.spec.problem.padding for run in found.norm_runs.values()} == {2}


def test_the_papers_claims_are_ratios_at_equal_epochs(found):
    told = {check.claim: check for check in cifar100.claims(found)}
    of_loss = told["Fashion-MNIST, cnn8, at equal epochs: growing the learning rate too ends below growing the batch "
                   "alone in loss (ratio)"]  # fmt: skip
    runs = found.runs["cnn8"]
    ends = [runs[name].rows.query("epoch == 3").sort_values("seed")["loss"] for name in ("both grow", "batch grows")]
    assert of_loss.measured == pytest.approx([ends[0].mean() / ends[1].mean()])
    low, high = of_loss.interval[0]
    assert low < of_loss.measured[0] < high
    published = [claim for claim in told if "the square of the published norm" in claim]
    assert all("resnet8" in claim for claim in published)  # the other network has no BatchNorm: it is the exact norm
    assert len(published) == 3


def test_a_run_that_diverged_ends_above_all_others(found):
    run = found.runs["cnn8"]["both grow"]
    lost = type(run)(run.spec, run.provenance | {"status": "diverged"}, run.rows[run.rows["epoch"] < 2])
    of = found.runs["cnn8"] | {"both grow": lost}
    told = {check.claim: check for check in cifar100.paper_claims(found, "cnn8", of)}
    worse = [check for claim, check in told.items() if "growing the learning rate too" in claim or "bears" in claim]
    assert len(worse) == 4
    assert all(np.isinf(check.measured).all() and check.verdict == "not reproduced" for check in worse)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # inf and nan of so few images
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("batch_growth", {}),
        ("joint_growth", {}),
        ("stage_allocation", {"epochs": {"cnn8": [8]}, "stages": 3}),
        ("grow_or_decay", {}),
        ("all_side_by_side", {}),
        ("adaptive", {"max_samples": 1000, "check_every": 10, "test_samples": 1000, "look_samples": 100}),
        ("autowu", {"batch_sizes": [8, 16], "epoch": 50, "ratio": 1.5}),
    ],
)
def test_other_notebooks_take_the_images_by_parameter(tmp_path, name, more):
    write_mnist(tmp_path / "data")
    experiment = import_module(f"sfolib.experiments.{name}")
    how = {"scale": "smoke", "dataset": "fashion_mnist", "data_dir": str(tmp_path / "data"), "out": str(tmp_path)}
    p = experiment.Parameters(**how, **more, jobs=1)
    runs = notebook.train(experiment, p)
    assert {run.spec.problem.model for run in runs.values() if isinstance(run.spec.problem, Images)} == {"cnn8"}
    res = experiment.results(p, runs)
    checks = [claim for claim in experiment.claims(res) if isinstance(claim, Check)]
    assert checks
    assert {check.figure for check in checks} <= {*experiment.figures(res)}


def test_the_variance_of_images_is_that_of_each_seeds_sample(tmp_path):
    write_mnist(tmp_path / "data")
    where = {"dataset": "fashion_mnist", "model": "cnn8", "data_dir": str(tmp_path / "data")}

    def measured(samples, seeds=(0, 1)):
        task = ImagesWithVariance(**where, variance_samples=samples).build_task(seeds, "permutation", "cpu", "float64")
        return task, task.measure()["variance"].numpy()

    task, of_all = measured(50)
    exact = [population_variance(model, cross_entropy, task.x, task.y).variance for model in task.models]
    assert of_all == pytest.approx(np.array(exact) * 50 / 49, rel=1e-9)
    some, same = measured(20)[1], measured(20, (0, 0))[1]
    assert some[0] == same[0] == same[1] != of_all[0]
    assert task.probes == 100  # ‖∇f‖² and σ² of 50 images each
    with pytest.raises(InputError, match="variance_samples = 51: must be at most the 50 training images"):
        measured(51)


@pytest.mark.parametrize("given", [{"scale": "full"}, {"dataset": "fashion_mnist"}])
def test_the_schedule_to_use_on_all_of_the_images(given):
    p = the_schedule_to_use.Parameters(**given, methods=["late ramp", "b₀", "CABS"])
    specs = the_schedule_to_use.specs(p, the_schedule_to_use.schedules(p), {})
    assert {spec.problem.dataset for spec in specs.values()} == {"fashion_mnist"}
    assert {spec.max_samples for spec in specs.values()} == {120_000 if p.scale == "full" else 60_000}
    assert {method for _, method, *_ in specs} == {"late ramp", "b₀", "CABS"}
    assert len({spec.seeds for spec in specs.values()}) == 4  # three of a policy, each by itself, and all of a plan
    with pytest.raises(InputError, match=r"methods = \['late'\]: must be of late ramp; "):
        the_schedule_to_use.specs(p.model_copy(update={"methods": ["late"]}), the_schedule_to_use.schedules(p), {})
