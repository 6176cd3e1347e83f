"""The experiments by the names of their notebooks, the runs they ask for, and the cells that come from them."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from sfolib._utils.errors import InputError, explain, require
from sfolib.experiments.notebook import new_specs
from sfolib.training import records
from sfolib.training.executors import TasksFailed
from sfolib.training.run import alone, run_all
from sfolib.training.spec import Spec

_LAST = ("device", "jobs", "out")  # of a parameters cell


class Planned(NamedTuple):
    """What an experiment will train. missing: by key of the spec, what is not on record; on_record: how many are;
    complete: whether no further run can depend on the results of those that are missing; error: why it cannot be told,
    such as a data set that is not there."""

    name: str
    missing: dict[str, tuple[Spec, Path, str]]
    on_record: int
    complete: bool
    error: str = ""


def experiment(notebook: Path) -> ModuleType:
    """The experiment of a notebook "NN_name.ipynb": the module `name` of this package."""
    return import_module(f"sfolib.experiments.{notebook.stem.partition('_')[2]}")


def parameters(notebook: Path, scale: str, out: Path, given: Mapping[str, Any]) -> Any:
    """A notebook's parameters, validated; `InputError` names each that is not allowed."""
    try:
        return experiment(notebook).Parameters(scale=scale, out=str(out), **given)
    except ValidationError as error:
        raise explain(error) from None


def planned(notebook: Path, scale: str, out: Path, given: Mapping[str, Any] | None = None) -> Planned:
    """The runs that a notebook will ask for at its default parameters, or those given, as far as what is on record lets
    it tell."""
    try:
        return _planned(notebook, scale, out, given or {})
    except InputError as error:
        return Planned(notebook.stem, {}, 0, False, str(error))


def _planned(notebook: Path, scale: str, out: Path, given: Mapping[str, Any]) -> Planned:
    module, p = experiment(notebook), parameters(notebook, scale, out, given)
    schedules, runs, store = module.schedules(p), {}, p.store.resolve()
    known: set[str] = set()
    while new := new_specs(module, p, schedules, runs):
        each = {spec.key: spec for asked in new.values() for spec in alone(asked)}
        missing = {k: (s, store, p.device) for k, s in each.items() if not (store / k / records.RUN).exists()}
        known |= each.keys() - missing.keys()
        if missing:
            return Planned(notebook.stem, missing, len(known), False)
        runs |= zip(new, run_all([*new.values()], store, p.device), strict=True)
    return Planned(notebook.stem, {}, len(known), True)


def train_all(
    notebooks: Sequence[Path], scale: str, out: Path, jobs: int, given: Mapping[str, Any] | None = None
) -> dict[str, str]:  # fmt: skip
    """Train what all notebooks ask for as one grid of tasks, wherever `executors.backend` says, then what they ask for
    with these results, until nothing is missing. Returns the notebooks some of whose runs failed twice, with why."""
    failed: dict[str, str] = {}  # key -> why
    while True:
        plans = [planned(path, scale, out, given) for path in notebooks]
        missing = {k: asked for plan in plans for k, asked in plan.missing.items() if k not in failed}
        if not missing:
            break
        for place in dict.fromkeys(asked[1:] for asked in missing.values()):
            try:
                run_all([spec for spec, *where in missing.values() if (*where,) == place], *place, jobs)
            except TasksFailed as error:
                print(error)
                failed |= {failure.name: failure.error for failure in error.failures}
    lost = {plan.name: [key for key in plan.missing if key in failed] for plan in plans}
    return {name: f"{len(keys)} runs failed, {keys[0]}: {failed[keys[0]]}" for name, keys in lost.items() if keys}


def sync(notebook: Path) -> bool:
    """Write the cells of a notebook that come from its experiment, tagged "parameters" and "schedules"; whether any
    had been different."""
    module, data = experiment(notebook), json.loads(notebook.read_text(encoding="utf-8"))
    sources = {"parameters": parameters_cell(module.Parameters), "schedules": inspect.getsource(module.schedules)}
    found, changed = set(), False
    for cell in data["cells"]:
        for tag in sources.keys() & set(cell["metadata"].get("tags", [])):
            lines = sources[tag].rstrip("\n").splitlines(keepends=True)
            found.add(tag)
            changed |= cell["source"] != lines
            cell["source"] = lines
    missing = sources.keys() - found
    require(not missing, "notebook", notebook.stem, f"needs one code cell tagged each of {sorted(missing)}")
    if changed:
        notebook.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return changed


def parameters_cell(schema: type[Any]) -> str:
    """The parameters cell of a notebook: "name: type = default  # description", a line each, as papermill reads it."""
    own = [name for name in schema.model_fields if name not in ("scale", *_LAST)]
    lines = []
    for name in ("scale", *own, *_LAST):
        field = schema.model_fields[name]
        line = f"{name}: {_plain(field.annotation)} = {default_text(field)}  # {field.description}"
        require("=" not in (field.description or ""), "description", field.description, "papermill reads no second '='")
        lines.append(line)
    return "\n".join(lines) + "\n"


def default_text(field: FieldInfo) -> str:
    """A field's default as a literal, its strings in double quotes."""
    return repr(field.default).replace("'", '"')


def _plain(annotation: Any) -> str:
    """A type as papermill and a plain interpreter read it: built-in names alone, the first one of a union."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _plain(next(kind for kind in arguments if kind is not type(None)))
    if origin in (list, dict, tuple):
        return f"{origin.__name__}[{', '.join(_plain(a) for a in arguments if a is not ...)}]"
    if origin is not None and hasattr(annotation, "__metadata__"):  # Annotated
        return _plain(arguments[0])
    return type(arguments[0]).__name__ if arguments else annotation.__name__
