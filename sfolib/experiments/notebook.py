"""What every notebook does the same way: find the project, validate its parameters, publish figures and checks."""

from __future__ import annotations

import ast
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from sfolib._utils import files
from sfolib._utils.errors import InputError, explain, require
from sfolib.analysis.claims import Check, assert_expected, table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Scale = Literal["smoke", "quick", "paper"]


def root() -> Path:
    """The project's folder: the nearest one above the working directory, or above this file, with `notebooks/` and
    `pyproject.toml` in it. papermill starts in the caller's directory, Jupyter in the notebook's."""
    for start in (Path.cwd(), Path(__file__).parent):
        for folder in (start, *start.parents):
            if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
                return folder
    raise InputError(f"working directory = {str(Path.cwd())!r}: not inside a checkout of sfolib; change into one")


class Parameters(BaseModel):
    """The parameters that all notebooks have.

    scale: "smoke" (seconds), "quick" (minutes, the default) or "paper". device: auto, cpu, cuda or cuda:<index>.
    jobs: processes; None is one a core. out: folder for figures and records; None is the project's `figures/`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    scale: Scale
    device: str
    jobs: int | None
    out: str | None

    @property
    def folder(self) -> Path:
        return root() / "figures" if self.out is None else Path(self.out)

    @property
    def store(self) -> Path:
        """Where runs are on record, shared by all notebooks."""
        return self.folder / "runs"

    @property
    def processes(self) -> int:
        return self.jobs if self.jobs is not None else os.cpu_count() or 1


def parameters(namespace: Mapping[str, Any], scales: Mapping[str, Mapping[str, Any]], **fields: Any) -> Any:
    """Validate a notebook's parameters: call with `globals()`, the values a scale gives to parameters that are
    None, and each further parameter's type. Returns a `Parameters` with those fields.

    Raises `InputError` naming each parameter that is unknown, missing, of the wrong type or out of range.
    """
    schema = create_model("Parameters", __base__=Parameters, **{name: (kind, ...) for name, kind in fields.items()})
    given = {name: namespace[name] for name in schema.model_fields if name in namespace}
    given |= {name: namespace[name] for name in _injected(namespace.get("In", ()))}
    require(given.get("scale") in [*scales], "scale", given.get("scale"), f"must be one of {', '.join(scales)}")
    _show_as_saved()
    by_scale = scales[given["scale"]]
    try:
        return schema(**{name: by_scale.get(name) if value is None else value for name, value in given.items()})
    except ValidationError as error:
        raise explain(error) from None


def _injected(cells: Iterable[str]) -> list[str]:
    """Names that papermill assigned: it only warns of one that the notebook does not know."""
    trees = [ast.parse(cell) for cell in cells if cell.startswith("# Parameters\n")]
    assigned = [node for tree in trees for node in tree.body if isinstance(node, ast.Assign)]
    return [ast.unparse(target) for node in assigned for target in node.targets]


def publish(p: Parameters, name: str, figures: Mapping[str, tuple[Figure, str]], checks: list[Check]) -> pd.DataFrame:
    """Write a notebook's figures (name → figure and caption; PNG and PDF) and checks to `p.folder/name`, all or
    nothing, and return the checks as a table. Assert them with `finish` in the last cell."""
    for key in (name, *figures):
        require(re.fullmatch(r"\w[\w-]*", key) is not None, "name", key, "must be letters, digits, _ and -")
    for check in checks:
        require(check.figure in figures, "figure", check.figure, f"a check's figure is one of {', '.join(figures)}")
    folder = files.folder(p.folder) / name
    new = folder.with_name(f".{name}.{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    files.folder(new)
    for key, (figure, _) in figures.items():
        _draw(figure, new / key)
    captions = {key: caption for key, (_, caption) in figures.items()}
    claims = [check.to_dict() | {"notebook": name} for check in checks]
    files.write_json(new / "published.json", {"scale": p.scale, "figures": captions, "checks": claims})
    shutil.rmtree(folder, ignore_errors=True)
    new.replace(folder)
    return table(checks)


def _draw(figure: Figure, path: Path) -> None:
    """PNG and PDF, of one layout."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    canvas, dpi, engine = figure.canvas, figure.dpi, figure.get_layout_engine()
    try:
        path.with_suffix(".png").write_bytes(_png(figure, 200))
        figure.set_layout_engine("none")
        FigureCanvasPdf(figure).print_pdf(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    finally:
        figure.set_layout_engine(engine)
        figure.dpi = dpi
        figure.set_canvas(canvas)


def _png(figure: Figure, dpi: float | None = None) -> bytes:
    """What `Figure.savefig` gives, which would draw and lay out twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, before = figure.canvas, figure.dpi
    try:
        figure.dpi = dpi or before
        FigureCanvasAgg(figure).print_png(file := BytesIO())
        return file.getvalue()
    finally:
        figure.dpi = before
        figure.set_canvas(canvas)


def _show_as_saved() -> None:
    """In a notebook that shows PNGs, have `_png` draw them: Jupyter draws twice, to crop what our layout has filled."""
    from IPython import get_ipython
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    if shell := get_ipython():
        plt.draw_if_interactive()  # loads the backend, which sets a formatter of its own
        formatter = shell.display_formatter.formatters["image/png"]
        if Figure in formatter.type_printers:
            formatter.for_type(Figure, _png)


def finish(checks: list[Check]) -> None:
    """A notebook's last line: a claim whose verdict is not the expected one fails the run."""
    assert_expected(checks)
    reproduced = sum(check.ok for check in checks)
    print(f"{reproduced} of {len(checks)} claims reproduced, all verdicts as expected.")
