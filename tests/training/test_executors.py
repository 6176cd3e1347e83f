"""Many runs: failures, lost workers, two at the same run, and what is seen of notebooks before they run."""

import importlib
import os
import signal
import threading
import time
from functools import partial
from multiprocessing import forkserver

import pytest
import torture
from failing import square

from sfolib._utils.errors import InputError
from sfolib.cli import main
from sfolib.problems.specs import Digits
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
    assert failure.task == "told (1, 'bad')"
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
    """Its workers are forked where torch is imported."""
    distributed = pytest.importorskip("distributed")
    torture.server().set_forkserver_preload(["torture", "distributed"])
    forkserver.ensure_running()
    with importlib.import_module("dask").config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield distributed


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
