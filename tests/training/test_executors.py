"""Many runs: failures, lost workers, two at the same run, and what is seen of notebooks before they run."""

import importlib
import os
import signal
import threading
import time
from functools import partial

import nbformat
import pytest
from failing import square

from sfolib._utils.errors import InputError
from sfolib.cli import main
from sfolib.experiments import ahead, cost
from sfolib.problems.specs import Digits
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.training import executors, records
from sfolib.training.loop import Trainer
from sfolib.training.run import run, run_all, run_in
from sfolib.training.spec import Spec

run_module = importlib.import_module("sfolib.training.run")  # the package's `run` is the function


def spec(batch_size, **change):
    return Spec(**{"problem": Digits(holdout=1000), "plan": Plan(batch_size, 0.1), "max_samples": 2000} | change)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_failed_is_tried_once_more(jobs, tmp_path):
    items = {str(i): (i, "bad" if i in (1, 3) else "") for i in range(5)}
    assert executors.gather(partial(square, tmp_path, 1), items, jobs) == {str(i): i**2 for i in range(5)}
    assert [(tmp_path / str(i)).read_text() for i in range(5)] == ["1", "2", "1", "2", "1"]


def test_what_failed_twice_is_reported_and_stops_no_other(tmp_path):
    items = {str(i): (i, "bad" if i == 1 else "") for i in range(4)}
    with pytest.raises(executors.TasksFailed, match="1 of 4 runs failed twice") as caught:
        executors.gather(partial(square, tmp_path, 2), items, 1, tell=lambda item: f"told {item}")
    (failure,) = caught.value.failures
    assert failure.name == "1"
    assert failure.told == "told (1, 'bad')"
    assert "ValueError: 1 is bad" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]


def test_a_lost_process_loses_no_task(tmp_path):
    items = {str(i): (i, "deadly" if i == 1 else "") for i in range(6)}
    assert executors.gather(partial(square, tmp_path, 1), items, 2) == {str(i): i**2 for i in range(6)}


def test_a_spec_twice_is_trained_once(tmp_path, monkeypatch):
    made, start = [], Trainer.__init__
    monkeypatch.setattr(Trainer, "__init__", lambda self, *args: made.append(1) or start(self, *args))
    for store in (None, tmp_path):
        runs = run_all([spec(8), spec(300), spec(8)], store)
        assert [found.rows["batch_size"].iloc[0] for found in runs] == [8, 300, 8]
    assert len(made) == 4


def test_of_two_at_the_same_run_one_trains_and_the_other_waits(tmp_path, monkeypatch):
    told, found = spec(50), []
    other = threading.Thread(target=lambda: found.append(run(told, tmp_path)))
    monkeypatch.setattr(run_module, "run_in", lambda *_: pytest.fail("trained twice"))
    with records.run_lock(tmp_path / told.key):
        with (
            pytest.raises(InputError, match="another process is training there"),
            records.run_lock(tmp_path / told.key, False),
        ):
            pass
        other.start()
        mine = run_in(tmp_path / told.key, told)
        assert not found
    other.join()
    assert found[0].provenance == mine.provenance
    assert found[0].rows.equals(mine.rows)


def test_records_of_workers_that_do_not_see_the_store_are_written_here(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "run", lambda spec, store, device: run_in(None, spec, device))
    told = spec(100)
    (found,) = run_all([told], tmp_path)
    assert records.load(tmp_path / told.key).rows.equals(found.rows)


@pytest.fixture
def dask():
    return pytest.importorskip("distributed")


def recorded(store):
    """Of each run: its rows' bytes, and its spec."""
    return {
        folder.name: ((folder / records.METRICS).read_bytes(), records.load(folder).spec)
        for folder in store.iterdir()
        if folder.is_dir()
    }


def test_dask_leaves_the_same_records_as_loky_though_a_worker_is_killed(dask, tmp_path):
    specs = [spec(b, seeds=(0, 1), max_samples=30_000, eval_every=1.05) for b in (2, 3, 4, 5, 6, 7)]
    run_all(specs, tmp_path / "loky", jobs=2)
    with dask.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with dask.Client(cluster) as client:
            pids = list(client.run(os.getpid).values())

        def kill():
            while not list((tmp_path / "dask").glob("*/run.json")):
                time.sleep(0.01)
            killed.append(len(list((tmp_path / "dask").glob("*/run.json"))))
            os.kill(pids[0], signal.SIGKILL)

        killed = []
        killer = threading.Thread(target=kill)
        killer.start()
        with executors.backend("dask", cluster.scheduler_address):
            run_all(specs, tmp_path / "dask")
        killer.join()
    assert killed[0] < len(specs)
    assert len(pids) == 2
    assert recorded(tmp_path / "dask") == recorded(tmp_path / "loky")
    assert len(recorded(tmp_path / "dask")) == 6


def test_dask_tells_of_a_task_that_kills_every_worker(dask, tmp_path):
    items = {str(i): (i, "deadly" if i == 1 else "") for i in range(3)}
    once, lost = (
        {"distributed.scheduler.allowed-failures": 0},
        pytest.raises(executors.TasksFailed, match="lost with its"),
    )
    with importlib.import_module("dask").config.set(once), executors.backend("dask", None, 2), lost as caught:
        executors.gather(partial(square, tmp_path, 99), items, 2)
    assert [failure.name for failure in caught.value.failures] == ["1"]
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2"}


def test_ray_leaves_the_same_records_as_loky(tmp_path):
    """Where there is Ray: it is not among what is installed for the tests."""
    pytest.importorskip("ray")
    specs = [spec(b, seeds=(0, 1), max_samples=3_000) for b in (2, 3, 4)]
    run_all(specs, tmp_path / "loky", jobs=2)
    with executors.backend("ray", None, 2):
        run_all(specs, tmp_path / "ray", jobs=2)
    assert recorded(tmp_path / "ray") == recorded(tmp_path / "loky")


def test_an_address_without_a_cluster_is_named(capsys):
    assert main(["figures", "00", "--address", "tcp://127.0.0.1:1"]) == 1
    assert "address = 'tcp://127.0.0.1:1': is of a cluster; add --backend dask or ray" in capsys.readouterr().err


CELLS = [
    "scale = 'quick'\ndevice = 'cpu'\njobs = None\nout = None",
    """
from sfolib.experiments import notebook
from sfolib.schedules.plan import Plan
from sfolib.problems.specs import Digits
from sfolib.training.spec import Spec
from sfolib.training.run import run_all
p = notebook.parameters(globals(), {'smoke': {}, 'quick': {}})
def train(batches, lr):
    return run_all([Spec(problem=Digits(holdout=1000), plan=Plan(b, lr), max_samples=2000) for b in batches],
                   p.store, p.device, p.processes)
""",
    "open('/no/such/folder')  # nothing that training needs\n",
    "lrs = {}\nlrs['first'] = 0.1\nruns = {lr: train([8, 300], lr) for lr in lrs.values()}",
    "last = runs[0.1][0].steps[-1]\nmore = train([int(last)], 0.2)",
    "print(more[0].steps)",
    "unseen = train([9], undefined)",
]


def made(path, cells):
    written = [nbformat.v4.new_markdown_cell("# T"), *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    written[1].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=written, metadata=metadata), path)
    return path


def test_what_notebooks_will_train_is_seen_and_trained_ahead(tmp_path):
    path, out = made(tmp_path / "01_a.ipynb", CELLS), tmp_path / "out"
    sight = ahead.look(path, "smoke", out)
    assert [told.plan.at(0) for told, _, _ in sight.runs.values()] == [(8, 0.1), (300, 0.1)]
    assert len(sight.missing) == 2
    assert [line.split("(")[-1].split(":")[0] for line in sight.blind] == ["needs results)", "NameError"]
    assert not out.exists()
    assert ahead.train_all([path], "smoke", out, 1) == {}
    seen = ahead.look(path, "smoke", out)
    steps = 100  # 797 in batches of 8, and 797 again, and what is left of 2000
    assert [told.plan.at(0) for told, _, _ in seen.runs.values()] == [(8, 0.1), (300, 0.1), (2 * steps + 51, 0.2)]
    assert not seen.missing


def test_a_notebook_whose_runs_fail_is_told_and_others_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    made(tmp_path / "notebooks" / "01_bad.ipynb", [*CELLS[:2], "runs = train([8, 300], 0.1)"])
    good = [*CELLS[:2], "runs = train([300], 0.1)", "notebook.publish(p, '02_good', {}, [])"]
    made(tmp_path / "notebooks" / "02_good.ipynb", good)
    monkeypatch.chdir(tmp_path)
    advance = Trainer.advance

    def break_down(self):
        assert self.spec.plan.at(0)[0] != 8, "out of order"
        advance(self)

    monkeypatch.setattr(Trainer, "advance", break_down)
    assert main(["figures", "--scale", "smoke", "--jobs", "1", "--backend", "loky"]) == 1
    told = capsys.readouterr()
    assert "1 of 2 runs failed twice" in told.out
    assert "AssertionError: out of order" in told.out
    assert '"batch_size":' in told.out
    assert not (tmp_path / "figures" / "executed" / "01_bad.ipynb").exists()
    assert (tmp_path / "figures" / "executed" / "02_good.ipynb").exists()
    assert "1 runs failed" in (tmp_path / "figures" / "index.html").read_text()


def test_a_dry_run_tells_what_is_missing_and_trains_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("01_a", "02_b"):
        made(tmp_path / "notebooks" / f"{name}.ipynb", CELLS[:4])
    run_all([spec(8)], tmp_path / "figures" / "runs", "cpu")
    before = sorted((tmp_path / "figures").rglob("*"))
    assert main(["figures", "--scale", "smoke", "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].split()[:4] == ["01_a", "2", "1", "1"]
    assert told[2].split()[:4] == ["02_b", "0", "0", "0"]  # the same runs as the first
    assert told[-2 if "GPU" in told[-1] else -1].startswith("1 of 2 runs to train: at most ")
    assert sorted((tmp_path / "figures").rglob("*")) == before


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
    told = spec(30, **change)
    found, budget = run(told, device="cpu"), cost.budget(told, told.problem.size)
    points = found.rows["step"].nunique()
    for taken, most in ((found.steps[-1], budget.steps), (found.samples[-1], budget.samples), (points, budget.points)):
        assert taken <= most + 1
        if told.plan:
            assert most <= 1.05 * taken + 1
    assert budget.least <= found.rows["true_batch_size"].iloc[1:].max() <= found.rows["batch_size"].max()


def test_a_forecast_is_of_measured_times():
    kind = cost.measured(spec(8), 8, 256, "cpu")
    assert kind.latency > 0
    assert kind.measuring > 0
    assert kind.seconds(cost.Budget(10, 100, 3, 8, 8)) == pytest.approx(
        10 * kind.latency + 100 * kind.per_sample + 3 * kind.measuring
    )
