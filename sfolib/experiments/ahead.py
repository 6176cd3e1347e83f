"""The runs that notebooks will ask for, seen ahead: their statements that lead to `run_all`, without the others.

So the runs of all notebooks are one grid of tasks. What a notebook asks for after it has looked at results is seen
when those are on record; what is not seen at all, the notebook trains itself.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfolib.training import records
from sfolib.training.executors import TasksFailed
from sfolib.training.run import AHEAD, run_all

if TYPE_CHECKING:
    from sfolib.training.spec import Spec

TRAINING = {"run_all", "run_apart"}
WAVES = 8  # times that results may lead to further runs


class NotTrained(Exception):
    """A result that is not on record is looked at."""


@dataclass
class Sight:
    """What is seen of a notebook. runs: what it asks for, by key, with store and device; blind: statements that need
    results which are not there yet, or that failed."""

    name: str
    runs: dict[str, tuple[Spec, Path, str]] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)

    @property
    def missing(self) -> dict[str, tuple[Spec, Path, str]]:
        """Those of `runs` that are not on record."""
        return {key: asked for key, asked in self.runs.items() if not (asked[1] / key / records.RUN).exists()}


class _Promised:
    """A run that is read from its record when it is looked at."""

    def __init__(self, folder: Path):
        self._folder = folder

    @cached_property
    def _run(self) -> records.Run:
        if not (self._folder / records.RUN).exists():
            raise NotTrained(self._folder.name)
        return records.load(self._folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)


def look(path: Path, scale: str, out: Path) -> Sight:
    """Execute what of a notebook leads to training, with `scale` and `out` as parameters; nothing is trained."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    sight = Sight(path.stem)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    parameters, *others = [ast.parse("".join(cell["source"])).body for cell in cells]

    def promise(spec: Spec, store: Path | str | None, device: str) -> _Promised:
        if store is None:
            raise NotTrained(spec.key)
        sight.runs[spec.key] = spec, Path(store).resolve(), device
        return _Promised(Path(store) / spec.key)

    _execute(parameters, namespace)
    namespace |= {"scale": scale, "out": str(out)}
    token = AHEAD.set(promise)
    unknown: set[str] = set()
    try:
        for statement in _leading([s for cell in others for s in cell]):
            writes, reads = _names(statement)
            if reads & unknown:
                unknown |= writes
                continue
            try:
                _execute([statement], namespace)
                unknown -= writes
            except Exception as error:
                unknown |= writes
                why = "needs results" if isinstance(error, NotTrained) else f"{type(error).__name__}: {error}"
                sight.blind.append(f"{ast.unparse(statement).splitlines()[0][:60]} … ({why})")
    finally:
        AHEAD.reset(token)
    return sight


def train_all(paths: Sequence[Path], scale: str, out: Path, jobs: int) -> dict[str, str]:
    """Train all that is seen, wherever `executors.backend` says, and what is seen then; returns the notebooks some of
    whose runs failed twice, with why."""
    failed: dict[str, str] = {}  # key -> why
    sights = [look(path, scale, out) for path in paths]
    for _ in range(WAVES):
        missing = {k: asked for sight in sights for k, asked in sight.missing.items() if k not in failed}
        if not missing:
            break
        for place in dict.fromkeys(asked[1:] for asked in missing.values()):
            try:
                run_all([spec for spec, *where in missing.values() if (*where,) == place], *place, jobs)
            except TasksFailed as error:
                print(error)
                failed |= {failure.name: failure.error for failure in error.failures}
        sights = [look(path, scale, out) if s.blind else s for path, s in zip(paths, sights, strict=True)]
    lost = {sight.name: [key for key in sight.runs if key in failed] for sight in sights}
    return {name: f"{len(keys)} runs failed, {keys[0]}: {failed[keys[0]]}" for name, keys in lost.items() if keys}


def _execute(statements: list[ast.stmt], namespace: dict[str, Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(ast.Module(statements, []), "notebook", "exec"), namespace)


def _leading(statements: list[ast.stmt]) -> list[ast.stmt]:
    """The statements that call what trains, and those that they depend on."""
    training = set(TRAINING)
    for statement in statements:
        writes, reads = _names(statement)
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and reads & training:
            training |= writes
    found, needed = [], set()
    for statement in reversed(statements):
        writes, reads = _names(statement)
        defines = isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
        if writes & needed or (reads & training and not defines):
            found.append(statement)
            needed |= reads
    return found[::-1]


def _names(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Names that a statement may change, and names that it looks at."""
    nodes = list(ast.walk(statement))
    reads = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    reads |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr in TRAINING}
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}, reads
    writes = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    writes |= {(alias.asname or alias.name).split(".")[0] for n in nodes for alias in getattr(n, "names", [])
               if isinstance(n, ast.Import | ast.ImportFrom)}  # fmt: skip
    for node in nodes:  # x.a = …, x[i] = …, x.append(…)
        stored = isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load)
        called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        while isinstance(node, ast.Attribute | ast.Subscript | ast.Expr | ast.Call) and (stored or called):
            node = node.func if isinstance(node, ast.Call) else node.value
        if (stored or called) and isinstance(node, ast.Name):
            writes.add(node.id)
    return writes, reads
