"""What experiments will train, seen and trained ahead of notebooks; what it would cost; the cells they write."""

import json
import sys
from types import ModuleType

import nbformat
import papermill
import pytest

from sfolib._utils.errors import InputError
from sfolib.cli import main
from sfolib.experiments import cost, notebook, registry
from sfolib.problems import datasets
from sfolib.problems.specs import Digits, Images
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.training.loop import Trainer
from sfolib.training.run import run, run_all
from sfolib.training.spec import Spec

NOTEBOOKS = sorted((notebook.root() / "notebooks").glob("*.ipynb"))


def spec(batch_size, lr=0.1, **change):
    given = {"problem": Digits(holdout=1000), "plan": Plan(batch_size, lr), "max_samples": 2000}
    return Spec(**given | change)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Makes notebooks and their experiments: batch sizes at once, and one that depends on the first one's steps."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)

    def made(name, sizes, second=True):
        experiment = ModuleType(f"sfolib.experiments.{name[3:]}")

        def specs(p, schedules, runs):
            found = {b: spec(b) for b in sizes}
            if second and sizes[0] in runs:
                found["second"] = spec(int(runs[sizes[0]].steps[-1]), 0.2)
            return found

        experiment.Parameters, experiment.schedules, experiment.specs = notebook.Parameters, lambda p: {}, specs
        monkeypatch.setitem(sys.modules, experiment.__name__, experiment)
        source = (
            "import types\nfrom sfolib.experiments import notebook\n"
            f"p = notebook.parameters(notebook.Parameters, globals())\n"
            f"notebook.publish(types.ModuleType('{name[3:]}'), p, {{}}, [])"
        )
        cells = [
            nbformat.v4.new_markdown_cell("# T"),
            nbformat.v4.new_code_cell("scale = 'quick'\nout = None\njobs = 1"),
        ]
        cells[1].metadata["tags"] = ["parameters"]
        cells.append(nbformat.v4.new_code_cell(source))
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
        return path

    return made


def test_what_experiments_will_train_is_seen_and_trained_ahead(project, tmp_path):
    path, out = project("01_a", [8, 300]), tmp_path / "out"
    plan = registry.planned(path, "smoke", out)
    assert [asked.plan.at(0) for asked, _, _ in plan.missing.values()] == [(8, 0.1), (300, 0.1)]
    assert (plan.on_record, plan.complete) == (0, False)
    assert not out.exists()
    assert registry.train_all([path], "smoke", out, 1) == {}
    plan = registry.planned(path, "smoke", out)
    assert (plan.missing, plan.on_record, plan.complete) == ({}, 3, True)
    batch_sizes = {json.loads(p.read_text())["spec"]["plan"]["batch_size"]["v"] for p in out.glob("runs/*/run.json")}
    assert batch_sizes == {8, 300, 2 * 100 + 51}  # 797 in batches of 8, and 797 again, and what is left of 2000


def test_a_notebook_whose_runs_fail_is_told_and_others_run(project, tmp_path, monkeypatch, capsys):
    project("01_bad", [8, 300], second=False)
    project("02_good", [300], second=False)
    advance = Trainer.advance

    def break_down(self):
        assert self.spec.plan.at(0)[0] != 8, "out of order"
        advance(self)

    monkeypatch.setattr(Trainer, "advance", break_down)
    assert main(["figures", "--scale", "smoke", "--jobs", "1", "--backend", "loky"]) == 1
    shown = capsys.readouterr()
    assert "1 of 2 runs failed twice" in shown.out
    assert "AssertionError: out of order" in shown.out
    assert '"batch_size":' in shown.out
    assert not (tmp_path / "figures" / "executed" / "01_bad.ipynb").exists()
    assert (tmp_path / "figures" / "executed" / "02_good.ipynb").exists()
    assert "1 runs failed" in (tmp_path / "figures" / "index.html").read_text()


def test_a_dry_run_tells_what_is_missing_and_trains_nothing(project, tmp_path, capsys):
    for name in ("01_a", "02_b"):
        project(name, [8, 300])
    run_all([spec(8)], tmp_path / "figures" / "runs", "cpu")
    before = sorted((tmp_path / "figures").rglob("*"))
    assert main(["figures", "--scale", "smoke", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["01_a", "2", "1", "1"]
    assert lines[2].split()[:4] == ["02_b", "1", "1", "0"]  # what is missing is the first one's already
    assert lines[-2 if "GPU" in lines[-1] else -1].startswith("1 runs to train: at most ")
    assert sorted((tmp_path / "figures").rglob("*")) == before


def test_full_size_is_of_the_notebooks_that_have_it(project, capsys):
    project("01_a", [8])
    project("02_b", [8])
    sys.modules["sfolib.experiments.b"].Parameters = type(
        "Parameters", (notebook.Parameters,), {"SCALES": {"quick": {}, "full": {}}}
    )
    assert main(["figures", "--scale", "full", "--dry-run"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:2]] == ["02_b"]
    assert main(["figures", "01", "--scale", "full", "--dry-run"]) == 1
    assert "scale = 'full': 01_a has none; 'paper' is the largest there" in capsys.readouterr().err


def test_what_a_dry_run_cannot_know_it_says_and_tells_the_rest(tmp_path, monkeypatch):
    def absent(*_):
        raise InputError("data_dir = 'data': no cifar100 there")

    monkeypatch.setattr(datasets, "load", absent)
    known, unknown = (registry.planned(path, "paper", tmp_path) for path in (NOTEBOOKS[0], NOTEBOOKS[13]))
    lines = cost.table([known, unknown], 1).splitlines()
    assert lines[1].split()[:4] == ["00_derivations", "0", "0", "0"]
    assert lines[2].split(maxsplit=1) == ["13_cifar100", "not known: data_dir = 'data': no cifar100 there"]
    assert lines[-1].startswith("without 13_cifar100: 0 runs to train")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_as_the_experiment_says_and_papermill_reads_every_parameter(path):
    before = path.read_bytes()
    assert not registry.sync(path), "run `python -m sfolib sync`"
    assert path.read_bytes() == before
    inferred = papermill.inspect_notebook(path)
    fields = registry.experiment(path).Parameters.model_fields
    assert set(inferred) == set(fields)
    for name, found in inferred.items():
        assert found["inferred_type_name"] not in (None, "None"), name
        assert found["default"] == registry.default_text(fields[name]), name
        assert found["help"] == fields[name].description, name
    assert all(len(line) <= 120 for line in registry.parameters_cell(registry.experiment(path).Parameters).splitlines())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", ["smoke", "quick", "paper", "full"])
def test_every_scale_is_a_valid_choice_of_parameters(path, scale, tmp_path, monkeypatch):
    module = registry.experiment(path)
    if scale not in module.Parameters.SCALES:
        assert scale == "full"
        return
    monkeypatch.setattr(Images, "size", 60_000)  # whatever lies here
    p = module.Parameters(scale=scale, out=str(tmp_path))
    asked = module.specs(p, module.schedules(p), {})
    assert all(isinstance(one, Spec) for one in asked.values())


@pytest.mark.parametrize(
    "change",
    [
        {"plan": Plan(30, 0.1)},
        {"plan": Plan(30, 0.1), "sampling": "replacement", "eval_every": 1.1, "max_steps": 50},
        {"plan": Plan(exponential(4, 2, 1), 0.1), "max_samples": 5000},
        {"plan": Plan(exponential(4, 2, 500), 0.1, "step"), "max_samples": 40_000, "eval_every": 1.2},
        {"policy": {"kind": "NormTest", "eta": 2.0, "batch_size": 20, "lr": 0.1, "max_batch_size": 300}, "plan": None},
    ],
)
def test_a_forecast_is_an_upper_bound_near_what_a_run_takes(change):
    asked = spec(30, **change)
    found, budget = run(asked, device="cpu"), cost.budget(asked, asked.problem.size)
    points = found.rows["step"].nunique()
    for taken, most in ((found.steps[-1], budget.steps), (found.samples[-1], budget.samples), (points, budget.points)):
        assert taken <= most + 1
        if asked.plan:
            assert most <= 1.05 * taken + 1
    assert budget.least <= found.rows["true_batch_size"].iloc[1:].max() <= found.rows["batch_size"].max()


def test_a_forecast_is_of_measured_times():
    kind = cost.measured(spec(8), 8, 256, "cpu")
    assert kind.latency > 0
    assert kind.measuring > 0
    assert kind.seconds(cost.Budget(10, 100, 3, 8, 8)) == pytest.approx(
        10 * kind.latency + 100 * kind.per_sample + 3 * kind.measuring
    )
