"""Notebooks as people run them: parameters, papermill, the report, the command line."""

import json
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest
from pydantic import PositiveFloat

from sfolib._utils.errors import InputError
from sfolib.analysis.claims import Check
from sfolib.cli import main
from sfolib.experiments import notebook, report, run_notebooks
from sfolib.experiments.forked_kernels import ForkedKernelManager

ROOT = Path(__file__).parents[2]
GIVEN = {"scale": "quick", "device": "cpu", "jobs": None, "out": None, "lr": None}


class Parameters(notebook.Parameters):
    SCALES: ClassVar = {"smoke": {"lr": 0.5}, "quick": {"lr": 0.1}}
    lr: PositiveFloat = notebook.by_scale("learning rate")


def parameters(change, cells=()):
    return notebook.parameters(Parameters, GIVEN | change | {"In": ["", *cells]})


def test_parameters_take_what_is_none_from_the_scale():
    assert parameters({}).lr == 0.1
    assert parameters({"scale": "smoke"}).lr == 0.5
    assert parameters({"lr": 0.3}).lr == 0.3
    assert parameters({"other": "not a parameter"}).lr == 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": "1e-2"}, "lr = '1e-2'"),
        ({"lr": -1.0}, "lr = -1.0"),
        ({"scale": "huge"}, "scale = 'huge'"),
        ({"jobs": 1.5}, "jobs = 1.5"),
    ],
)
def test_a_bad_parameter_is_named(change, message):
    with pytest.raises(InputError, match=message):
        parameters(change)


def test_an_unknown_parameter_that_papermill_injects_is_an_error():
    with pytest.raises(InputError, match="learning_rate: unknown"):
        parameters({"learning_rate": 0.1}, ["# Parameters\nlearning_rate = 0.1\n"])


def made(path, last, measured=1.0):
    cells = [
        nbformat.v4.new_markdown_cell("# A title & more"),
        nbformat.v4.new_code_cell(
            "scale = 'quick'\ndevice = 'cpu'\njobs = None\nout = None", metadata={"tags": ["parameters"]}
        ),
        nbformat.v4.new_code_cell(
            "import types\nimport matplotlib.pyplot as plt\nfrom sfolib.experiments import notebook\n"
            "from sfolib.analysis.claims import Check\n"
            f"experiment = types.ModuleType('sfolib.experiments.{path.stem[3:]}')\n"
            "p = notebook.parameters(notebook.Parameters, globals())\n"
            f"checks = [Check('a <b>claim</b>', 'upper_bound', {measured}, 2.0, exact=True, figure='one')]\n"
            "notebook.publish(experiment, p, {'one': (plt.figure(), 'a caption')}, checks)"
        ),
        nbformat.v4.new_code_cell(last),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def test_notebooks_begin_with_the_longest(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    for name in ("01_short", "02_long", "03_new"):
        made(tmp_path / "notebooks" / f"{name}.ipynb", "pass")
    seconds = tmp_path / "figures" / "reference" / "seconds.json"
    seconds.parent.mkdir(parents=True)
    seconds.write_text('{"01_short": 2.0, "02_long": 30}')
    begun = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        run_notebooks, "execute", lambda path, *_: begun.append(path.stem) or report.Outcome(path.stem, 0, None)
    )
    run_notebooks.figures((), "smoke", 1, tmp_path / "figures")
    assert begun == ["03_new", "02_long", "01_short"]


def test_one_failing_notebook_stops_no_other(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    made(tmp_path / "notebooks" / "01_good.ipynb", "pass")
    made(tmp_path / "notebooks" / "02_bad.ipynb", "raise RuntimeError('<script>broke</script>')")
    made(tmp_path / "notebooks" / "03_mute.ipynb", "import shutil; shutil.rmtree(f'{p.folder}/03_mute')")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "figures"
    assert main(["figures", "--scale", "smoke", "--jobs", "1", "--out", str(out)]) == 1
    page = (out / "index.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;broke" in page
    assert "a &lt;b&gt;claim" in page
    assert "A title &amp; more" in page
    assert "03_mute: published nothing" in capsys.readouterr().out
    checks = json.loads((out / "checks.json").read_text())
    assert [check["notebook"] for check in checks] == ["01_good", "02_bad"]
    assert [check["verdict"] for check in checks] == ["reproduced"] * 2
    for name, ran in (("01_good", {"ran.json"}), ("02_bad", set())):
        assert {file.name for file in (out / name).iterdir()} == {"one.png", "one.pdf", "published.json"} | ran
        assert (out / "executed" / f"{name}.ipynb").exists()
    assert main(["figures", "--scale", "enormous"]) == 1
    assert "--scale: invalid choice: 'enormous'" in capsys.readouterr().err
    assert main(["figures", "07"]) == 1
    assert "must begin one of 01_good, 02_bad, 03_mute" in capsys.readouterr().err


def test_what_has_not_changed_is_not_run_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    path = tmp_path / "notebooks" / "01_good.ipynb"
    made(path, "pass")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "figures"
    command = ["figures", "--scale", "smoke", "--out", str(out)]
    executed = out / "executed" / path.name

    def ran(arguments):
        before = executed.stat().st_mtime_ns if executed.exists() else 0
        assert main(arguments) == 0
        return executed.stat().st_mtime_ns > before

    assert ran(command)
    page = (out / "index.html").read_text()
    assert not ran(command)
    assert "01_good: up to date" in capsys.readouterr().out
    assert (out / "index.html").read_text().split("Written")[0] == page.split("Written")[0]
    assert ran([*command, "--again"])
    assert ran(["figures", "--out", str(out)])  # another scale
    assert ran(command)
    (out / "01_good" / "one.pdf").unlink()
    assert ran(command)
    made(path, "pass  # otherwise")
    assert ran(command)


def test_a_verdict_that_turned_is_told_and_fails_only_when_strict(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    made(tmp_path / "notebooks" / "01_turned.ipynb", "pass", measured=3.0)
    (tmp_path / "figures" / "reference").mkdir(parents=True)
    kept = {"smoke": {"01_turned": {"a <b>claim</b>": "reproduced"}}}
    (tmp_path / "figures" / "reference" / "verdicts.json").write_text(json.dumps(kept))
    monkeypatch.chdir(tmp_path)
    assert main(["figures", "--scale", "smoke"]) == 0
    line = "01_turned: a <b>claim</b>: not reproduced here, reproduced before"
    assert line in capsys.readouterr().out
    assert "not reproduced here, reproduced before" in (tmp_path / "figures" / "index.html").read_text()
    assert main(["figures", "--scale", "smoke", "--strict"]) == 1
    capsys.readouterr()
    assert main(["figures", "--scale", "quick", "--strict"]) == 1
    assert "strict = 'quick': no verdicts are kept at that scale" in capsys.readouterr().err
    (tmp_path / "figures" / "reference" / "verdicts.json").write_text('{"smoke": []}')
    assert main(["figures", "--scale", "smoke"]) == 1
    assert "verdicts.json': damaged" in capsys.readouterr().err


def test_publish_is_all_or_nothing(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks" / "01_nb.ipynb").touch()
    monkeypatch.chdir(tmp_path)
    p = notebook.Parameters(scale="smoke", device="cpu", jobs=1, out=str(tmp_path))
    check, nb = Check("a claim", "upper_bound", 1.0, 2.0, figure="one"), ModuleType("sfolib.experiments.nb")
    notebook.publish(nb, p, {"one": (plt.figure(), "first")}, [check])
    before = (tmp_path / "01_nb" / "published.json").read_text()
    with pytest.raises(InputError, match="figure = 'one'"):
        notebook.publish(nb, p, {"two": (plt.figure(), "second")}, [check])
    assert (tmp_path / "01_nb" / "published.json").read_text() == before
    with pytest.raises(InputError, match="has no notebook NN_other"):
        notebook.publish(ModuleType("other"), p, {}, [])


@pytest.mark.parametrize(
    ("folder", "given", "message"),
    [
        (".", {"lr": "1e-2"}, "lr = '1e-2'"),
        ("notebooks", {"learning_rate": 0.1}, "learning_rate: unknown"),
        (".", {"lr": 0.5}, "lr = 0.5: must be below 2/L = "),
    ],
)
def test_papermill_refuses_a_bad_parameter_before_anything_is_written(folder, given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / folder)
    with pytest.raises(papermill.exceptions.PapermillExecutionError, match=message):
        papermill.execute_notebook(
            ROOT / "notebooks" / "01_critical_batch_size.ipynb",
            tmp_path / "out.ipynb",
            {"scale": "smoke", "out": str(tmp_path / "figures")} | given,
            progress_bar=False,
            cwd=Path.cwd(),
            kernel_manager_class=ForkedKernelManager,
        )
    assert not (tmp_path / "figures").exists()
