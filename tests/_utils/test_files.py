"""Records that are damaged, folders that cannot be written, disks that are full, and how much memory it takes."""

import json
import os
import resource
import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torture

from sfolib import cli
from sfolib._utils import files
from sfolib._utils.errors import InputError
from sfolib.problems.specs import Quadratic
from sfolib.schedules.plan import Plan
from sfolib.training import records
from sfolib.training.run import run, run_in
from sfolib.training.spec import Spec

SPEC = Spec(problem=Quadratic(d=5), plan=Plan(8, 0.1), sampling="replacement", max_samples=400, eval_every=1.2)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def provenance(**changes):
    def change(data):
        head = json.loads(data)
        head["provenance"] |= changes
        return json.dumps(head).encode()

    return change


DAMAGE = {
    "a row less": (
        records.METRICS,
        lambda data: b"".join(data.splitlines(True)[:-1]),
        "not the rows that were written",
    ),
    "another digit": (records.METRICS, lambda data: data.replace(b"400", b"401", 1), "not the rows that were written"),
    "empty": (records.METRICS, lambda data: b"", "not the rows that were written"),
    "no objects": (records.METRICS, lambda data: b"[1, 2]\n3\n", "damaged"),
    "binary": (records.METRICS, lambda data: b"\xff\x00" + data, "damaged"),
    "nested": (records.METRICS, lambda data: b"[" * 10**5, "damaged"),
    "empty head": (records.RUN, lambda data: b"", "is not JSON"),
    "a list": (records.RUN, lambda data: b"[]", "no record of a run"),
    "no provenance": (records.RUN, lambda data: b'{"spec": {}}', "no record of a run"),
    "older schema": (records.RUN, provenance(schema=0), f"is of schema 0, and this sfolib reads {records.SCHEMA}"),
    "newer schema": (
        records.RUN,
        provenance(schema=records.SCHEMA + 1),
        f"is of schema {records.SCHEMA + 1}, and this sfolib reads {records.SCHEMA}",
    ),
    "another spec's": (records.RUN, provenance(key="0" * 16), "is the record of another spec"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_named_with_the_remedy_and_left_alone(damage, tmp_path):
    name, change, message = DAMAGE[damage]
    run(SPEC, tmp_path)
    folder = tmp_path / SPEC.key
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    before = contents(folder)
    with pytest.raises(InputError, match=f"{message}.*delete the folder and run it again"):
        run(SPEC, tmp_path)
    assert contents(folder) == before


def test_a_record_from_before_digests_is_read(tmp_path):
    found = run(SPEC, tmp_path)
    path = tmp_path / SPEC.key / records.RUN
    head = json.loads(path.read_text())
    del head["sha256"]
    path.write_text(json.dumps(head))
    assert run(SPEC, tmp_path).rows.equals(found.rows)


def command(tmp_path):
    config = tmp_path / "spec.json"
    config.write_text(SPEC.model_dump_json())
    return ["train", str(config), "--device", "cpu", "--out"]


@pytest.mark.parametrize("out", ["/dev/null/run", "/proc/run", "spec.json/run"])
def test_a_folder_that_cannot_be_written_is_named(out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command(tmp_path), out]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"sfolib: folder = '{out}': cannot be written (")


def test_csv_files_are_made_again_from_the_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"model": "softmax", "bs": 300, "bs_method": "constant", "lr": 0.1, "lr_method": "constant"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"epochs": 2, "csv_path": "csv"}))
    train = ["train", "config.json", "--dataset", "digits"]
    assert cli.main(train) == 0
    before = contents(tmp_path / "csv")
    (tmp_path / "csv" / "train.csv").write_bytes(b"Epo")
    (tmp_path / "csv" / "lr_bs.csv").unlink()
    assert cli.main(train) == 1
    assert cli.main([*train, "--resume"]) == 0
    assert contents(tmp_path / "csv") == before


def _without_room(arguments, told, size):
    with open(told, "w") as file:
        os.dup2(file.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    os._exit(cli.main(arguments))


@pytest.mark.parametrize("size", [1000, 3000])
def test_a_full_disk_is_a_line_and_the_run_goes_on_once_there_is_room(size, tmp_path):
    """No file may grow beyond `size`, as on a disk that is full: in the first rows, or in run.json."""
    told, child = tmp_path / "told.txt", torture.server().Process
    child = child(target=_without_room, args=([*command(tmp_path), str(tmp_path / "run")], told, size))
    child.start()
    child.join()
    said = told.read_text().replace("\r", "\n").splitlines()
    assert child.exitcode == 1
    assert said[-1].startswith(f"sfolib: file = '{tmp_path / 'run'}/")
    assert "cannot be written (File too large); make room" in said[-1]
    assert "Traceback" not in told.read_text()
    assert not (tmp_path / "run" / records.RUN).exists()
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    assert cli.main([*command(tmp_path), str(tmp_path / "run"), "--resume"]) == 0
    assert records.load(tmp_path / "run").rows.equals(run(SPEC).rows)


def _half(path):
    with files.replacing(path) as file:
        file.write("half")
        raise KeyboardInterrupt


def test_what_is_replaced_stays_until_all_of_the_new_is_there(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, [1])
    for bad, error in ((float("nan"), ValueError), ({"a": object()}, TypeError)):
        with pytest.raises(error):
            files.write_json(path, bad)
    with pytest.raises(KeyboardInterrupt):
        _half(path)
    assert path.read_text() == "[\n 1\n]"
    assert [*tmp_path.iterdir()] == [path]


def test_memory_of_a_run_does_not_grow_with_its_length(tmp_path):
    """But for the table that it returns, some hundred bytes a row; a row as it is measured takes over a thousand."""

    def peak(epochs):
        told = SPEC.model_copy(update={"plan": Plan(1024, 0.1), "eval_every": "epoch", "max_samples": 1024 * epochs})
        tracemalloc.start()
        run_in(tmp_path / str(epochs), told, "cpu", checkpoint_every=0.5)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(10)
    short, long = peak(1000), peak(3000)
    assert long - short < 2000 * 400


def test_five_hundred_records_for_a_figure_take_less_than_a_gibibyte(tmp_path):
    """Eight seeds at three hundred measuring points, fifty of them; and that times ten."""
    rng = np.random.default_rng(0)
    points = [{"seed": s, "step": k, "samples": 16 * k} for k in range(300) for s in range(8)]
    columns = ("epoch", "probes", "lr", "loss", "grad_sqnorm", "variance", "accuracy", "test_loss", "test_accuracy")
    rows = pd.DataFrame(points).assign(
        **{name: rng.random(len(points)) for name in columns}, batch_size=16, true_batch_size=16
    )
    records.save(records.Run(None, {"status": "finished"}, rows), tmp_path / "0")
    for i in range(1, 3):
        shutil.copytree(tmp_path / "0", tmp_path / str(i))
    tracemalloc.start()
    runs = [records.load(tmp_path / str(i % 3)) for i in range(10)]
    for found in runs:
        found.mean_ci("grad_sqnorm")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 50 * kept + (peak - kept) < 2**30
