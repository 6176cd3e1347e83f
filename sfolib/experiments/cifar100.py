"""13: the authors' schedules as their program has them, what it counts, and what it calls the full gradient norm."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from sfolib.analysis.claims import Check, check
from sfolib.experiments import cifar_stand_in, notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.experiments.project import root
from sfolib.experiments.umeda_iiduka import Config
from sfolib.plotting import Band
from sfolib.plotting.cifar import nominal_counts, norms
from sfolib.plotting.decay import Panel
from sfolib.plotting.decay import schedules as panels_of
from sfolib.problems.specs import Digits, Images, named
from sfolib.schedules.plan import Plan
from sfolib.training import estimates
from sfolib.training.records import Run
from sfolib.training.spec import Spec


class Parameters(notebook.PlansParameters):
    SCALES: ClassVar = notebook.scales(
        dataset=("handwriting", "handwriting", "cifar100", "fashion_mnist"),
        models=(["resnet8"], ["resnet8"], ["resnet18", "WideResNet28_10"], ["resnet8", "cnn8"]),
        max_batch_size=(64, 64, 2048, 2048),
        interval=(1, 2, 20, 2),
        epochs=(4, 8, 200, 20),
        norm_epochs=(4, 8, 200, 4),
        seeds=(2, 3, 3, 3),
        digits=([], [], [], ["cnn"]),
        train_images=(120, 240, 1, 1),
        precision=("fp32", "fp32", "bf16", "fp32"),
    )

    scale: notebook.Scale = Field("quick", description='"smoke" (seconds), "quick", "paper" or "full"')
    dataset: Literal["handwriting", "fashion_mnist", "cifar100"] = by_scale(
        '"cifar100", "fashion_mnist", or "handwriting" for the stand-in'
    )
    models: list[str] = by_scale("networks")
    data_dir: str = Field(
        "data",
        description="where the data set lies, from the project's root; the stand-in is written beside the figures",
    )
    batch_size: PositiveInt = Field(16, description="initial batch size")
    lr: PositiveFloat = Field(0.1, description="initial learning rate")
    increment: PositiveInt = Field(16, description="what linear growth adds to the batch size a stage")
    delta: PositiveFloat = Field(2.0, description="factor on the batch size a stage")
    gamma: PositiveFloat = Field(1.4, description="factor on the learning rate a stage")
    max_batch_size: PositiveInt = by_scale("cap of a growing batch")
    interval: PositiveInt = by_scale("epochs of a stage")
    epochs: PositiveInt = by_scale("budget of a run")
    norm_epochs: PositiveInt = by_scale("of the four runs that compare gradient norms")
    digits: list[str] = by_scale("networks trained on the digits beside, for the paper's own 200 epochs")
    seeds: PositiveInt = by_scale("independent runs")
    train_images: PositiveInt = by_scale("of the stand-in")
    test_images: PositiveInt = Field(60, description="of the stand-in")
    precision: Literal["fp32", "tf32", "bf16"] = by_scale('of the training steps: "fp32", "tf32" or "bf16"')


TITLES = {"handwriting": "handwriting (stand-in)", "fashion_mnist": "Fashion-MNIST", "cifar100": "CIFAR-100"}
CONSTANT, LINEAR, EXPONENTIAL, BOTH = "constant", "batch grows linearly", "batch grows", "both grow"
CIFAR_IMAGES, SMOKE_IMAGES = 50_000, 6000
AS_PUBLISHED, PLAIN = "BatchNorm, augmented (as published)", "no BatchNorm, not augmented"


def methods(p: Parameters) -> dict[str, dict[str, Any]]:
    """What the JSON files say of batch size and learning rate."""
    grows = {"bs_method": "exp_growth", "bs_exp_rate": p.delta}
    return {
        CONSTANT: {"bs_method": "constant", "lr_method": "constant"},
        LINEAR: {"bs_method": "linear_growth", "coefficient": p.increment, "lr_method": "constant"},
        EXPONENTIAL: grows | {"lr_method": "constant"},
        BOTH: grows | {"lr_method": "exp_growth", "lr_exp_rate": p.gamma},
    }


def schedules(p):
    """The authors' JSON files as plans (the model does not matter to them): of so many epochs, in stages of so many."""

    def of(epochs, interval):
        common = {
            "bs": p.batch_size,
            "lr": p.lr,
            "epochs": epochs,
            "incr_interval": interval,
            "max_bs": p.max_batch_size,
        }
        plans = {name: Config(model="resnet18", **common, **method).plan() for name, method in methods(p).items()}
        return plans | p.own_plans(p.max_batch_size, plans)

    return of


def problem_of(p: Parameters, model: str, augment: bool | None = None, **how: Any) -> Images | Digits:
    """The data set from the project's root, or the stand-in, which is written beside the figures; "digits/cnn" is a
    network on the digits. augment: None where the paper augments."""
    on_digits, _, name = model.rpartition("/")
    if on_digits:
        return named("digits", name)
    augment = p.dataset != "fashion_mnist" if augment is None else augment
    if p.dataset != "handwriting":
        place = root() / p.data_dir
        place = str(place) if place.is_dir() else p.data_dir  # or where a package puts it
        found = Images(dataset=p.dataset, model=model, data_dir=place, augment=augment, **how)
        return notebook.some_of(found, SMOKE_IMAGES if p.scale == "smoke" else None)
    place = p.folder / "data"
    cifar_stand_in.write(place)
    sizes = {"train_images": p.train_images, "test_images": p.test_images}
    return cifar_stand_in.Handwriting(model=model, data_dir=str(place), augment=augment, **sizes, **how)


def specs(p: Parameters, schedules: Any, runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    found: dict[Hashable, Spec] = {}

    def add(key: Hashable, problem: Images | Digits, plan: Plan, epochs: int) -> None:
        found[key] = Spec(
            problem=problem, plan=plan, seeds=tuple(range(p.seeds)), max_samples=epochs * problem.size,
            eval_every="epoch", precision=p.precision, channels_last=True, grad_norms="both",
        )  # fmt: skip

    for models, epochs, interval in ((p.models, p.epochs, p.interval), ([f"digits/{m}" for m in p.digits], 200, 20)):
        for model in models:
            for name, plan in schedules(epochs, interval).items():
                add((model, name), problem_of(p, model), plan, epochs)
    constant = schedules(p.norm_epochs, p.interval)[CONSTANT]
    fashion = p.dataset == "fashion_mnist"
    padded, other = ({"padding": 2}, "cnn8") if fashion else ({}, "cnn")  # to CIFAR's 32×32
    for variant, model, augment in (
        (AS_PUBLISHED, p.models[0], True),
        ("BatchNorm, not augmented", p.models[0], False),
        ("no BatchNorm, augmented", other, True),
        (PLAIN, other, False),
    ):
        add(("norm", variant), problem_of(p, model, augment, **padded), constant, p.norm_epochs)
    return found


def nominal(plan: Plan, n: int, epochs: int) -> np.ndarray:
    """Steps × nominal batch over the samples of each epoch, counted from the plan's table."""
    steps = plan.table(n, epochs).groupby("epoch").size().to_numpy()
    return steps * np.array([plan.at(epoch)[0] for epoch in range(epochs)]) / n


def counted(run: Run) -> np.ndarray:
    """The same from a run's measuring points."""
    rows = run.rows[run.rows["seed"] == 0]
    return np.diff(rows["step"]) * rows["batch_size"].to_numpy()[:-1] / np.diff(rows["samples"])


def norm_ratio(run: Run) -> np.ndarray:
    """ln of published over exact norm (not squared) after every epoch, (seeds, epochs)."""
    return 0.5 * np.log(run.curves("published_sqnorm") / run.curves("grad_sqnorm"))[:, 1:]


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """n: training images. plans: the authors', by name. runs: by model and schedule; figure_of: names of their figures;
    norm_runs: the constant schedule, by variant. measured_counts, paper_counts: nominal over true gradient evaluations
    an epoch, here and on CIFAR-100, of plans whose batch size changes with epochs."""
    every, n = schedules(p)(p.epochs, p.interval), problem_of(p, p.models[0]).size
    plans = {name: plan for name, plan in every.items() if name not in p.plans}
    models = [*p.models, *(f"digits/{model}" for model in p.digits)]
    of_model = {model: {key[1]: run for key, run in runs.items() if key[0] == model} for model in models}
    first = of_model[p.models[0]]
    paper = p.model_copy(update={"batch_size": 16, "increment": 16, "delta": 2.0, "max_batch_size": 2048})
    return SimpleNamespace(p=p, real=p.dataset != "handwriting", name_of_data=TITLES[p.dataset], n=n, plans=plans,
        runs=of_model, first=first, figure_of={model: model.replace("/", "_") for model in models},
        norm_runs={key[1]: run for key, run in runs.items() if key[0] == "norm"},
        measured_counts={name: counted(first[name]) for name in plans},
        paper_counts={name: nominal(plan, CIFAR_IMAGES, 200) for name, plan in schedules(paper)(200, 20).items()
            if name in plans and name != BOTH},
    )  # fmt: skip


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p
    SHOWN = ("batch_size", "lr", "loss", "test_error", "grad_sqnorm")
    trajectories = {
        model: panels_of([*(Panel(of, column) for column in SHOWN), Panel(of, "loss", "steps")])
        for model, of in res.runs.items()
    }
    count_figure = nominal_counts(
        {
            f"{res.name_of_data}, {res.n} images": [
                Band(name, "measured", np.arange(1, p.epochs + 1), found)
                for name, found in res.measured_counts.items()
                if name != BOTH
            ],
            f"CIFAR-100, {CIFAR_IMAGES} images": [
                Band(name, "exact", np.arange(1, 201), found) for name, found in res.paper_counts.items()
            ],
        }
    )
    padded = ", padded to 32×32" if p.dataset == "fashion_mnist" else ""
    norm_figure = norms(res.norm_runs[AS_PUBLISHED], res.norm_runs)
    return {
        **{res.figure_of[model]: (figure,
            f"{title(res, model)}: the authors' schedules, with the exact ‖∇f‖². Mean and 95 % interval over seeds.")
            for model, figure in trajectories.items()},
        "counts": (count_figure,
            "Gradient evaluations that steps × nominal batch size counts, over those truly made, epoch by epoch. The "
            "last batch of an epoch is short."),
        "norms": (norm_figure,
            f"{res.name_of_data}{padded}, constant schedule. Left: ‖∇f‖ of f and as the authors' program takes it. "
            "Right: their ratio, with and without BatchNorm and augmentation. "
            "Geometric means and ranges over seeds.")}  # fmt: skip


def claims(res: SimpleNamespace) -> notebook.Claims:
    apart = {name: norm_ratio(run) for name, run in res.norm_runs.items()}
    published = estimates.mean(apart[AS_PUBLISHED].mean(1), log=False)
    checks = [
        Check("With BatchNorm and augmentation, as in the paper's program, the published full gradient norm is ‖∇f‖ "
            "within 10 %, over the epochs", "equal", measured=np.exp(published.value),
            interval=np.exp(published[1:]), theory=1.0, tolerance=0.1, source="arXiv 2508.05297", figure="norms",
            explanation="The published norm is of another function: of images augmented anew, normalised by their "
            "own batch of 100. In the mean over the epochs it is "
            + ", ".join(f"{np.exp(of.mean()):.2g} times the exact norm ({name})" for name, of in apart.items())
            + ". Either cause alone moves it. So it cannot be set beside ε.")]  # fmt: skip
    for model, of in res.runs.items() if res.real else ():
        checks += paper_claims(res, model, of)
    return checks


def title(res: SimpleNamespace, model: str) -> str:
    return model.replace("/", ", ") if "/" in model else f"{res.name_of_data}, {model}"


def paper_claims(res: SimpleNamespace, model: str, of: Mapping[str, Run]) -> notebook.Claims:
    """What the paper says of its figures: which schedule ends lower, at equal epochs."""
    name, figure = title(res, model), res.figure_of[model]
    columns = {"‖∇f‖²": "grad_sqnorm", "loss": "loss", "test error": "test_error"}
    if np.any(of[CONSTANT].rows["published_sqnorm"] != of[CONSTANT].rows["grad_sqnorm"]):
        columns["the square of the published norm"] = "published_sqnorm"
    pairs = {
        "both growing batches end below the constant one": [(LINEAR, CONSTANT), (EXPONENTIAL, CONSTANT)],
        "the batch that grows exponentially ends below the one that grows linearly": [(EXPONENTIAL, LINEAR)],
        "growing the learning rate too ends below growing the batch alone": [(BOTH, EXPONENTIAL)],
    }
    checks, steps = [], ", ".join(f"{label} {run.steps[-1]:,}" for label, run in of.items())
    for what, column in columns.items():
        end = {label: at_end(run, column) for label, run in of.items()}
        for claim, asked in pairs.items():
            found = [ratio(end[lower], end[upper]) for lower, upper in asked]
            checks.append(
                check(f"{name}, at equal epochs: {claim} in {what} (ratio)", "upper_bound",
                    measured=[of_pair.value for of_pair in found], interval=[of_pair[1:] for of_pair in found],
                    theory=1.0, source="arXiv 2508.05297", figure=figure,
                    explanation=f"At as many gradient evaluations the steps are {steps}."))  # fmt: skip
    loss, most = of[BOTH].curves("loss"), of[BOTH].rows["lr"].max()
    best = int(np.argmin(loss.mean(0)))
    borne, lr = ratio(at_end(of[BOTH], "loss"), loss[:, best]), of[BOTH].rows.query("seed == 0")["lr"].iloc[best]
    checks.append(
        check(f"{name}: the network bears the learning rate, up to {most:.3g} where both grow: loss ends within 5 % of "
            "its lowest (ratio)", "upper_bound", measured=borne.value, interval=borne[1:], theory=1.05,
            source="A1, T7 [N]", figure=figure, explanation=f"It is lowest after {of[BOTH].epochs[best]:g} epochs, "
            f"where the learning rate becomes {lr:.3g}."))  # fmt: skip
    return checks


def at_end(run: Run, column: str) -> np.ndarray:
    """A column when all epochs are over, (seeds,); inf where the run diverged before."""
    values = 1 - run.curves("test_accuracy") if column == "test_error" else run.curves(column)
    return np.full(len(values), np.inf) if run.status == "diverged" else values[:, -1]


def ratio(lower: np.ndarray, upper: np.ndarray) -> estimates.Interval:
    """Of the means of two runs of the same seeds, with its interval; inf where the first diverged."""
    if np.isinf(lower).any():
        return estimates.Interval(np.inf, np.inf, np.inf)
    return estimates.ratio_of_means(lower, upper)
