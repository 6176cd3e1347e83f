"""What every notebook does the same way: find the project, validate its parameters, train, show and publish.

A notebook is the reader's view of an *experiment*: the module of its name in this package, which has

- `Parameters`, a subclass of `notebook.Parameters`, with what each scale sets in `SCALES`;
- `schedules(p)`: what is compared, by label. The notebook shows this function, and a reader may change it there;
- `specs(p, schedules, runs)`: the runs to train, by key, as far as those in `runs` (finished ones, by key) allow to
  tell. It is asked again with more of them until it asks for nothing new;
- `results(p, runs)`: what is computed from them;
- `figures(res)`: name → (figure, caption), and `claims(res)`: a list of `Check`; res is what `results` returned.

Whatever passes `Parameters` and `specs` gives results, figures and claims: a claim that some parameters leave nothing
to judge by is a `LeftOut` (see `claims.check`), which `publish` tells.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from sfolib._utils import files
from sfolib._utils.errors import InputError, explain, require
from sfolib.analysis.claims import Check, LeftOut, Table, differences
from sfolib.experiments.project import root
from sfolib.experiments.report import known_verdicts
from sfolib.problems.specs import Digits, Images, ImagesWithVariance, named
from sfolib.schedules.plan import Plan
from sfolib.training.records import Run
from sfolib.training.run import run_all
from sfolib.training.spec import Spec

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Figures = Mapping[str, tuple["Figure", str]]
Claims = list[Check | LeftOut]


def _falling(values: list[float]) -> list[float]:
    if not values[0] > values[1]:
        raise ValueError("must fall from the first to the last")
    return values


def _different(values: list[float]) -> list[float]:
    if len(set(values)) < len(values):
        raise ValueError("must differ from each other")
    return values


Above1 = Annotated[float, Field(gt=1)]  # a growth a stage
FirstAndLast = Annotated[list[PositiveFloat], Field(min_length=2, max_length=2), AfterValidator(_falling)]


def of_length(n: int, kind: type = float) -> Any:
    """The type of a list of n values above 0."""
    return Annotated[list[Annotated[kind, Field(gt=0)]], Field(min_length=n, max_length=n)]


Values = Annotated[list[PositiveFloat], Field(min_length=1), AfterValidator(_different)]
Counts = Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1), AfterValidator(_different)]


def by_scale(description: str) -> Any:
    """A parameter's field whose value is None, and then what `SCALES` says for the scale."""
    return Field(None, description=f"{description}; None: by scale")


Scale = Literal["smoke", "quick", "paper", "full"]


def scales(**rows: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """`SCALES` from a table: for each parameter its values at smoke, quick, paper and, where there is one, full."""
    known = get_args(Scale)[: min(map(len, rows.values()))]
    return {scale: {name: row[i] for name, row in rows.items()} for i, scale in enumerate(known)}


class Parameters(BaseModel):
    """The parameters that all notebooks have; an experiment adds its own, and what its scales set, by scale.

    Raises `InputError` (by `parameters`) naming each parameter that is unknown, of the wrong type or out of range.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {}, "quick": {}, "paper": {}}
    IMAGES: ClassVar[dict[str, dict[str, Any]]] = {}

    scale: Scale = Field("quick", description='"smoke" (seconds), "quick" or "paper"')
    device: str = Field("auto", description="auto, cpu, cuda or cuda:<index>")
    jobs: int | None = Field(None, ge=1, description="processes; None: one a core")
    out: str | None = Field(None, description="folder for figures and records; None: figures/")

    @model_validator(mode="before")
    @classmethod
    def _scaled(cls, data: dict[str, Any]) -> dict[str, Any]:
        scale = data.get("scale", "quick")
        require(scale in [*cls.SCALES], "scale", scale, f"must be one of {', '.join(cls.SCALES)}")
        missing = {name: value for name, value in cls.of_scale(scale, data).items() if data.get(name) is None}
        return data | missing

    @classmethod
    def of_scale(cls, scale: str, data: dict[str, Any]) -> dict[str, Any]:
        """What a scale sets, given the other parameters: `SCALES`, or `IMAGES` for any data set but the digits."""
        elsewhere = cls.IMAGES and data.get("dataset", "digits") != "digits"
        return (cls.IMAGES if elsewhere else cls.SCALES)[scale]

    def changed(self) -> dict[str, Any]:
        """The parameters that are not those of the scale."""
        own = type(self)(scale=self.scale).model_dump() if type(self).SCALES else {}
        given = self.model_dump(mode="json", exclude={"scale", "device", "jobs", "out"})
        return {name: value for name, value in given.items() if value != own.get(name)}

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


VARIANCE_SAMPLES = 2000
# of other data sets than the digits: all 60,000 images take as long to measure as to train on
OF_IMAGES = {"smoke": {"train_images": 6000, "eval_samples": 2000}, "quick": {"eval_samples": 10_000}}


def some_of(problem: Digits | Images, train_images: int | None) -> Digits | Images:
    """The problem on so many of its images, if it has more; None: all."""
    if train_images is None or not isinstance(problem, Images) or problem.size <= train_images:
        return problem
    return problem.model_copy(update={"train_images": train_images})


class DatasetParameters(Parameters):
    """Of an experiment that takes other data sets than the digits too."""

    dataset: Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"] = Field(
        "digits", description="digits, mnist, fashion_mnist, cifar10 or cifar100"
    )
    data_dir: str = Field("data", description="where the other data sets lie, if not where a package puts them")
    train_images: PositiveInt | None = Field(
        None, description="of other data sets, where they have more; None: by scale, or all"
    )
    eval_samples: int | None = Field(
        None,
        ge=20,
        multiple_of=10,
        description="of them, on which f is measured; None: by scale, or all",
    )
    l2: PositiveFloat = Field(0.001, description="ℓ2 coefficient; digits only")

    @classmethod
    def of_scale(cls, scale: str, data: dict[str, Any]) -> dict[str, Any]:
        elsewhere = data.get("dataset", "digits") != "digits"
        return super().of_scale(scale, data) | (OF_IMAGES.get(scale, {}) if elsewhere else {})

    def problem(self, model: str) -> Digits | Images:
        l2 = self.l2 if self.dataset == "digits" else 0.0
        return some_of(named(self.dataset, model, l2, data_dir=self.data_dir), self.train_images)

    def problem_with_variance(self, model: str) -> Digits | Images:
        """As `problem`, measuring σ² along runs: exactly for dense models of the digits, elsewhere on VARIANCE_SAMPLES
        training images."""
        found = self.problem(model)
        if self.dataset == "digits":
            return found
        return ImagesWithVariance(
            **found.model_dump(exclude={"kind"}), variance_samples=min(VARIANCE_SAMPLES, found.size)
        )

    def eval_every(self, ratio: float) -> float | Literal["epoch"]:
        """`ratio` on the digits; elsewhere measuring so often would take most of the time."""
        return ratio if self.dataset == "digits" else "epoch"

    @property
    def title(self) -> str:
        """Of the data set."""
        return {"digits": "Digits", "fashion_mnist": "Fashion-MNIST"}.get(self.dataset, self.dataset.upper())


class ModelsParameters(DatasetParameters):
    """Of an experiment on one or more models (`model`: names, by commas apart) of one data set, each with its
    `epochs`."""

    @classmethod
    def of_scale(cls, scale: str, data: dict[str, Any]) -> dict[str, Any]:
        of_cifar = {"model": None} if str(data.get("dataset")).startswith("cifar") else {}
        return super().of_scale(scale, data) | of_cifar

    @model_validator(mode="after")
    def _epochs_of_each(self) -> ModelsParameters:
        require(self.model is not None, "model", None, f"say one or more models of {self.dataset}, by commas")
        missing = set(self.models) - set(self.epochs) if isinstance(self.epochs, dict) else ()
        require(not missing, "epochs", self.epochs, f"must say those of {', '.join(missing)} too, or one for all")
        return self

    @property
    def models(self) -> list[str]:
        return self.model.split(",")

    def epochs_of(self, model: str) -> int:
        return self.epochs if isinstance(self.epochs, int) else self.epochs[model]


class PlansParameters(Parameters):
    """Of an experiment that takes plans of the reader's own, beside those that it compares."""

    imports: str | None = Field(None, description="modules with schedules of your own, by commas, for plans")
    plans: dict[str, dict] = Field(
        {}, description="of your own, by name, as in a spec; beside the others, batches capped as theirs"
    )

    @model_validator(mode="after")
    def _plans_are_valid(self) -> PlansParameters:
        for module in self.imports.split(",") if self.imports else ():
            try:
                import_module(module)
            except ImportError as error:
                raise InputError(f"imports = {module!r}: {error}") from error
        self.own_plans()
        return self

    def own_plans(self, max_batch_size: int | None = None, beside: Collection[str] = ()) -> dict[str, Plan]:
        """The reader's plans, by name; their batches capped too, where the others' are. beside: names of the others,
        which none may have."""
        found = {}
        for name in set(self.plans) & set(beside):
            raise InputError(f"plans: {name}: is the name of a plan that is compared anyway; give it another")
        for name, plan in self.plans.items():
            shown = name and name[0] != "_" and "$" not in name  # matplotlib hides the one and sets the other
            require(shown, "plans", name, "must be a name that figures can show: not empty, no first _, no $")
            caps = [cap for cap in (max_batch_size, plan.get("max_batch_size")) if cap is not None]
            try:
                found[name] = Plan(**plan | {"max_batch_size": min(caps, default=None)})
            except (InputError, ValidationError) as error:
                what = explain(error) if isinstance(error, ValidationError) else error
                raise InputError(f"plans: {name}: {what}") from None
        return found


def parameters(schema: type[Parameters], namespace: Mapping[str, Any]) -> Any:
    """The validated parameters of a notebook: call with its experiment's `Parameters` and `globals()`.

    Raises `InputError` naming each parameter that is unknown, missing, of the wrong type or out of range.
    """
    given = {name: namespace[name] for name in schema.model_fields if name in namespace}
    given |= {name: namespace[name] for name in _injected(namespace.get("In", ()))}
    _show_as_saved()
    try:
        return schema(**given)
    except ValidationError as error:
        raise explain(error) from None


def _injected(cells: Iterable[str]) -> list[str]:
    """Names that papermill assigned: it only warns of one that the notebook does not know."""
    trees = [ast.parse(cell) for cell in cells if cell.startswith("# Parameters\n")]
    assigned = [node for tree in trees for node in tree.body if isinstance(node, ast.Assign)]
    return [ast.unparse(target) for node in assigned for target in node.targets]


def new_specs(
    experiment: ModuleType, p: Parameters, schedules: Any, runs: Mapping[Hashable, Run]
) -> dict[Hashable, Spec]:
    """What an experiment has to train beside `runs`; networks on images are measured as `eval_samples` says, but where
    a policy looks at the gradient of all."""
    new = {k: spec for k, spec in experiment.specs(p, schedules, runs).items() if k not in runs}
    samples = getattr(p, "eval_samples", None)
    for key, spec in new.items() if samples else ():
        looks = spec.policy is not None and spec.policy.build().signal == "grad_norm"
        if isinstance(spec.problem, Images) and samples < spec.problem.size and not looks:
            new[key] = spec.model_copy(update={"eval_samples": samples})
    return new


def train(experiment: ModuleType, p: Parameters, schedules: Any = None) -> dict[Hashable, Run]:
    """The runs of an experiment, by key: trained, or loaded where they are on record, with progress.

    schedules: what `experiment.schedules(p)` returns, or a changed one.
    """
    schedules = experiment.schedules(p) if schedules is None else schedules
    runs: dict[Hashable, Run] = {}
    while new := new_specs(experiment, p, schedules, runs):
        runs |= zip(new, run_all([*new.values()], p.store, p.device, p.processes), strict=True)
    return runs


def show(figures: Figures, *names: str) -> None:
    """Display figures, each with its caption below."""
    from IPython.display import Markdown, display

    for name in names:
        figure, caption = figures[name]
        display(figure, Markdown(caption))


def publish(
    experiment: ModuleType,
    p: Parameters,
    figures: Figures,
    claims: Claims,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> Table:
    """Write a notebook's figures (PNG and PDF), tables (CSV) and checks to the folder of its name in `p.folder`, all or
    nothing.

    A notebook's last line: tells the verdicts that turned and what was left out, and returns the checks as a table
    that shows them whole.
    """
    name = notebook_name(experiment)
    checks = [claim for claim in claims if isinstance(claim, Check)]
    left_out = [claim for claim in claims if isinstance(claim, LeftOut)]
    for key in figures:
        require(re.fullmatch(r"\w[\w-]*", key) is not None, "name", key, "must be letters, digits, _ and -")
    for check in checks:
        require(check.figure in figures, "figure", check.figure, f"a check's figure is one of {', '.join(figures)}")
    folder = files.folder(p.folder) / name
    new = folder.with_name(f".{name}.{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    files.folder(new)
    for key, (figure, _) in figures.items():
        _draw(figure, new / key)
    for key, table in (tables or {}).items():
        table.to_csv(new / f"{key}.csv", index=False)
    captions = {key: caption for key, (_, caption) in figures.items()}
    published = [check.to_dict() | {"notebook": name} for check in checks]
    content = {"scale": p.scale, "parameters": p.changed(), "figures": captions, "checks": published}
    content["left_out"] = [claim._asdict() for claim in left_out]
    files.write_json(new / "published.json", content)
    shutil.rmtree(folder, ignore_errors=True)
    new.replace(folder)
    for line in differences(published, known_verdicts(content)):
        print(line)
    for claim in left_out:
        print(f"left out: {claim.claim}: {claim.missing}")
    reproduced = sum(check["verdict"] == "reproduced" for check in published)
    print(f"{reproduced} of {len(checks)} claims reproduced; figures and claims are in {folder}")
    return Table(published)


def notebook_name(experiment: ModuleType) -> str:
    """The stem of an experiment's notebook: its module's name behind a number."""
    module = experiment.__name__.rpartition(".")[2]
    for path in (root() / "notebooks").glob(f"[0-9][0-9]_{module}.ipynb"):
        return path.stem
    raise InputError(f"experiment = {module!r}: has no notebook NN_{module}.ipynb in notebooks/")


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
    """In a notebook that shows PNGs, have `_png` draw them: Jupyter draws twice, to crop what our layout has filled.
    Figures are shown by `show` alone."""
    from IPython import get_ipython
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    if shell := get_ipython():
        import pandas as pd

        pd.set_option("display.float_format", "{:.4g}".format, "display.max_colwidth", None)
        plt.draw_if_interactive()  # loads the backend, which sets a formatter of its own
        formatter = shell.display_formatter.formatters["image/png"]
        if Figure in formatter.type_printers:
            formatter.for_type(Figure, _png)
