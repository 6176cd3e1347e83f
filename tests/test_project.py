"""The repository itself: its walls, its two lists of packages, its notebooks as committed."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from pydantic import ValidationError

from sfolib import load
from sfolib._utils.errors import InputError
from sfolib.cli import main
from sfolib.experiments import all_side_by_side
from sfolib.experiments.notebook import PlansParameters
from sfolib.experiments.registry import experiment
from sfolib.schedules.base import Schedule

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONDA_NAMES = {"torch": "pytorch"}
LATE_IMPORTS = {"commands", "problems"}  # start-up cost; torch only where a problem is put on a device


def test_environment_yml_lists_what_pyproject_lists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {f"python{project['requires-python']}", "pip", "pip:", "-e ."}
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]:
        name, version = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
        wanted.add(CONDA_NAMES.get(name, name) + version)
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^ +- (.+)$", text.split("dependencies:")[1], flags=re.M)
    assert sorted(listed) == sorted(wanted)


# each package imports those after it, and itself
FLOORS = (
    "cli", "commands", "experiments", "plotting", "analysis", "training", "problems", "integrations", "schedules",
    "gradients", "theory", "_utils",
)  # fmt: skip


def imports_of(path):
    """(line, module, top level?) of each import of sfolib in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "sfolib" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("sfolib."):
                yield node.lineno, name, node in tree.body


def test_each_package_imports_only_those_below_it():
    wrong = []
    for path in sorted((ROOT / "sfolib").rglob("*.py")):
        own = path.relative_to(ROOT / "sfolib").parts[0].removesuffix(".py")
        if own not in FLOORS:  # the top level itself
            continue
        for line, module, at_top in imports_of(path):
            target = module.split(".")[1]
            where = f"{path.relative_to(ROOT)}:{line}: imports {module}"
            if FLOORS.index(target) < FLOORS.index(own):
                wrong.append(f"{where}, which is above {own}")
            if not at_top and own not in LATE_IMPORTS:
                wrong.append(f"{where} inside a function")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_a_private_name_of_another():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {alias.name}"
        for path in sorted((ROOT / "sfolib").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sfolib")
        for alias in node.names
        if alias.name.startswith("_") and alias.name != "_utils"
    ]
    assert not found, "\n".join(found)


def test_nothing_is_implemented_in_an_init():
    for path in (ROOT / "sfolib").rglob("__init__.py"):
        kinds = {type(node) for node in ast.parse(path.read_text(encoding="utf-8")).body}
        assert kinds <= {ast.Expr, ast.Import, ast.ImportFrom, ast.Assign}, path


# heavy packages, and the modules that load none of them: those of a line in one interpreter, one after the other
LIGHT = {
    ("torch", "sympy", "pandas", "matplotlib", "scipy", "sklearn"): ("",),
    ("torch", "sympy", "sklearn"): ("schedules.published", "schedules.diagnostics", "schedules.adaptive"),
    ("torch", "sympy"): (
        "theory.bounds", "theory.quadratic", "schedules.base", "schedules.plan", "training.records",
        "analysis.crossings", "analysis.claims", "problems", "training.executors", "experiments.project",
        "experiments.report", "cli", "plotting",
    ),
    ("torch",): ("theory.derivations",),
}  # fmt: skip


@pytest.mark.parametrize("heavy", LIGHT, ids=", ".join)
def test_start_up_stays_light(heavy):
    modules = [f"sfolib.{name}".rstrip(".") for name in LIGHT[heavy]]
    program = f"import sys; from importlib import import_module; heavy = {set(heavy)!r}\n"
    program += f"for module in {modules!r}:\n import_module(module)\n for name in heavy & {{*sys.modules}}:\n"
    program += "  print(module, 'loads', name)\n"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == ""


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
    assert "notebook.publish(" in code[-1].source
    assert len(notebook.cells) <= 10


def test_ci_calls_make_test():
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_pages_are_made_from_what_is_on_record(monkeypatch):
    from sfolib.experiments import reference

    monkeypatch.chdir(ROOT)
    for path, text in reference.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run `make reference`"


def test_readme_is_short_and_its_links_lead_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.encode()) <= 8192
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\((?!http|#)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_client_in_the_docs_names_a_test_that_there_is():
    tests = ast.parse((ROOT / "tests/schedules/test_clients.py").read_text(encoding="utf-8")).body
    names = {test.name for test in tests if isinstance(test, ast.FunctionDef)}
    rows = re.findall(r"^\| .*\|$", (ROOT / "docs/your_own_loop.md").read_text(encoding="utf-8"), flags=re.M)
    tables = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert len(tables) == 6 + 3 + 2  # clients, of plans and of policies; heads
    for _, *cells in tables:
        assert len(cells) == 4
        named = [re.findall(r"`(test_\w+)(?:\[[^]`]*\])?`", cell) for cell in cells]
        assert cells[0] == "one process" or all(found and set(found) <= names for found in named), cells


def test_map_in_the_readme_is_the_tree():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^[├└] (\w+)/", readme, flags=re.M)
    packages = [path.parent.name for path in (ROOT / "sfolib").glob("*/__init__.py")]
    assert sorted(shown) == sorted(set(packages) - {"_utils"})
    order = [name for name in FLOORS[::-1] if name in shown]
    assert [*shown] == order  # as the text says: each imports only those above it


def test_core_install_suffices_for_schedules_in_ones_own_loop():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    more = [re.match(r"[\w-]+", name)[0] for name in project["optional-dependencies"]["notebooks"]]
    absent = [
        {"scikit-learn": "sklearn", "jupyterlab": "IPython", "beautifulsoup4": "bs4"}.get(name, name) for name in more
    ]
    block = f"import sys; sys.modules |= dict.fromkeys({absent!r})\n"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    loop = re.search(r"## In your own loop\n+```python\n(.*?)^```", readme, re.M | re.S)[1]
    policies = "import sfolib.schedules.adaptive, sfolib.schedules.published, sfolib.gradients; sfolib.result('T2')\n"
    subprocess.run([sys.executable, "-c", block + "import sfolib\n" + policies + loop], check=True)
    refused = subprocess.run([sys.executable, "-c", block + "from sfolib import run"], capture_output=True, text=True)
    assert "which is not installed: pip install 'sfolib[notebooks]'" in refused.stderr


def test_a_schedule_of_ones_own_is_trained_as_its_page_says(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "your_own_schedule.md").read_text(encoding="utf-8")
    first, module = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(first, {})
    (tmp_path / "my_schedules.py").write_text(module)
    (tmp_path / "spec.json").write_text(re.search(r"^```json\n(.*?)^```", page, re.M | re.S)[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    command = ["train", "spec.json", "--out", "mine"]
    assert main(command) == 1
    assert main([*command, "--import", "my_schedules"]) == 0
    rows = load(tmp_path / "mine").rows
    assert rows["batch_size"].iloc[-1] == round(16 * (1 + 11 // 1 / 5) ** 0.5)
    plans = json.loads(re.search(r"-p plans '(.*?)'", page, re.S)[1])
    p = all_side_by_side.Parameters(scale="smoke", imports="my_schedules", plans=plans)
    assert all_side_by_side.schedules(p)["own"]["mine"].at(15) == (32, 0.1)
    with pytest.raises(ValidationError, match="plans: mine: lr: missing"):
        all_side_by_side.Parameters(scale="smoke", plans={"mine": {"batch_size": 8}})
    for name in ("", "_mine", "$x"):
        with pytest.raises(ValidationError, match="must be a name that figures can show"):
            all_side_by_side.Parameters(scale="smoke", plans={name: {"batch_size": 8, "lr": 0.1}})
    taken = all_side_by_side.Parameters(scale="smoke", plans={"b × 2": {"batch_size": 8, "lr": 0.1}})
    with pytest.raises(InputError, match="plans: b × 2: is the name of a plan that is compared anyway"):
        all_side_by_side.schedules(taken)
    told = re.findall(r"^\| (\d\d) \|", page, re.M)
    takers = [path.stem[:2] for path in NOTEBOOKS if issubclass(experiment(path).Parameters, PlansParameters)]
    assert told == takers


def test_every_kind_of_schedule_is_in_the_table_with_its_arguments():
    page = (ROOT / "docs" / "your_own_schedule.md").read_text(encoding="utf-8")
    told = {}
    for kinds, arguments in re.findall(r"^\| (`.*?) \| (.*?) \|", page.partition("## Kinds")[2], re.M):
        told |= {kind: set(re.findall(r"`(\w+)`", arguments)) for kind in re.findall(r"`(\w+)`", kinds)}
    built_in = {kind: of for kind, of in Schedule.kinds.items() if of.__module__ == Schedule.__module__}
    assert told.keys() == built_in.keys()
    assert all({*of.model_fields} - {"kind"} <= told[kind] for kind, of in built_in.items())


def test_the_loops_of_the_schedule_to_use_end_with_large_batches():
    page = (ROOT / "docs" / "the_schedule_to_use.md").read_text(encoding="utf-8")
    told: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(block, told)
        assert told["scheduler"].batch_size > 100


def test_readme_code_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], check=True, cwd=ROOT)
