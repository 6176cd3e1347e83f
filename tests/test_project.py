"""The repository itself: its walls, its two lists of packages, its notebooks as committed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONDA_NAMES = {"torch": "pytorch"}


def test_environment_yml_lists_what_pyproject_lists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {f"python{project['requires-python']}", "pip", "pip:", "-e ."}
    for requirement in project["dependencies"]:
        name, version = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
        wanted.add(CONDA_NAMES.get(name, name) + version)
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^ +- (.+)$", text.split("dependencies:")[1], flags=re.M)
    assert sorted(listed) == sorted(wanted)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("sfolib", ("torch", "sympy", "pandas", "matplotlib", "scipy", "sklearn")),
        *((f"sfolib.{room}", ("torch", "sympy")) for room in ("bounds", "quadratic", "schedule", "plan", "check")),
        *((f"sfolib.{room}", ("torch", "sympy", "sklearn")) for room in ("recipes", "cases", "adaptive")),
        *((f"sfolib.adaptive.{room}", ("torch", "sympy", "sklearn")) for room in ("policy", "autowu")),
        *(
            (f"sfolib.{room}", ("torch", "sympy"))
            for room in ("record", "compare", "notebook", "report", "cli", "problems", "grid", "ahead")
        ),
        ("sfolib.derive", ("torch",)),
        ("sfolib.figures", ("torch", "sympy")),
    ],
)
def test_walls_hold(module, heavy):
    program = f"import sys, {module}; print(*sorted({set(heavy)!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_every_public_name_resolves():
    import sfolib

    for name in dir(sfolib):
        getattr(sfolib, name)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sfolib.nonsense


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code[:1]
    assert "notebook.finish(" in code[-1].source


def test_ci_calls_make_test():
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_readme_tells_what_is_on_record(monkeypatch):
    from sfolib.report import filled

    monkeypatch.chdir(ROOT)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert filled(readme) == readme
    assert {path.stem for path in NOTEBOOKS} == set(re.findall(r"\(notebooks/(\w+)\.ipynb\)", readme))


def test_readme_code_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], check=True, cwd=ROOT)
