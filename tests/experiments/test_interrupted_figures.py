"""`figures` that is interrupted, and run again: it trains only what is missing, and shows nothing half-done as done."""

import json
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from sfolib._utils.errors import InputError
from sfolib.cli import main
from sfolib.experiments import report
from sfolib.training.records import METRICS, RUN

PARAMETERS = "scale = 'quick'\ndevice = 'cpu'\njobs = None\nout = None"
TRAINS = """
import time
from pathlib import Path
import matplotlib.pyplot as plt
from sfolib._utils import interrupt
from sfolib.experiments import notebook
from sfolib.training.loop import Trainer
from sfolib.training.run import run
from sfolib.analysis.claims import Check
from sfolib.schedules.plan import Plan
from sfolib.problems.specs import Quadratic
from sfolib.training.spec import Spec
import types
experiment = types.ModuleType('sfolib.experiments.trains')
p = notebook.parameters(notebook.Parameters, globals())
told = dict(problem=Quadratic(d=5), sampling="replacement", max_samples=4000)
specs = [Spec(plan=Plan(b, 0.1), **told) for b in (8, 9)]
checks = [Check('a claim', 'upper_bound', 1.0, 2.0, figure='one')]
notebook.publish(experiment, p, {'one': (plt.figure(), 'a caption')}, checks)
run(specs[0], p.store, "cpu")
advance = Trainer.advance

def waiting(self):
    while not Path("go").exists() and not interrupt.received():
        time.sleep(0.05)
    advance(self)

Trainer.advance = waiting
run(specs[1], p.store, "cpu", checkpoint_every=0.0)
"""


def project(folder, source=TRAINS):
    (folder / "notebooks").mkdir()
    (folder / "pyproject.toml").touch()
    cells = [
        nbformat.v4.new_markdown_cell("# Trains"),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source),
        nbformat.v4.new_code_cell("pass"),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / "notebooks" / "01_trains.ipynb")


def test_interrupted_figures_train_only_what_is_missing(tmp_path, monkeypatch):
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ["figures", "--scale", "smoke", "--jobs", "1"]
    runs = tmp_path / "figures" / "runs"
    program = [sys.executable, "-m", "sfolib", *command]
    first = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len([*runs.glob(f"*/{METRICS}")]) < 2:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    _, told = first.communicate(timeout=120)
    assert first.returncode == 130
    assert told.splitlines()[-1].startswith("sfolib: interrupted")
    assert "Traceback" not in told, told
    done = [path for path in runs.glob(f"*/{RUN}")]
    assert len(done) == 1
    before = done[0].stat().st_mtime_ns
    page = (tmp_path / "figures" / "index.html").read_text()
    assert "did not run to its end" in page
    assert not (tmp_path / "figures" / "01_trains" / "ran.json").exists()
    (tmp_path / "notebooks" / "go").touch()
    assert main(command) == 0
    assert len([*runs.glob(f"*/{RUN}")]) == 2
    assert done[0].stat().st_mtime_ns == before
    assert "did not run to its end" not in (tmp_path / "figures" / "index.html").read_text()


def published(folder, **changes):
    claim = {name: "a" for name in ("claim", "kind", "source", "explanation")}
    claim |= {"verdict": "reproduced", "notebook": "01_trains", "measured": 1.0, "theory": 2.0, "interval": None}
    folder = folder / "figures" / "01_trains"
    folder.mkdir(parents=True)
    told = {"scale": "smoke", "figures": {"one": "a caption"}, "checks": [claim | changes]}
    (folder / "published.json").write_text(json.dumps(told))
    (folder / "ran.json").write_text('{"fingerprint": "of another day", "seconds": 1.0}')
    return folder


@pytest.mark.parametrize("name", ["published.json", "ran.json"])
@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"figures": {}, "checks": [1]}']
)
def test_what_was_published_and_is_damaged_is_named(name, damage, tmp_path, monkeypatch):
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = published(tmp_path)
    (folder / name).write_bytes(damage)
    with pytest.raises(InputError, match=f"{name}.*delete .* and run its notebook again"):
        report.write(tmp_path / "figures", [])
    assert (folder / name).read_bytes() == damage
    assert not (tmp_path / "figures" / "index.html").exists()


def test_claims_of_another_notebook_are_refused(tmp_path, monkeypatch):
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    published(tmp_path, notebook="x](http://elsewhere)")
    with pytest.raises(InputError, match="claims of another notebook"):
        report.write(tmp_path / "figures", [])
