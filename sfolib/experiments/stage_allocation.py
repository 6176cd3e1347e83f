"""06: how a budget of gradient evaluations should be shared out among the stages (T4, T5)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import AfterValidator, PositiveFloat, PositiveInt, model_validator

from sfolib._utils.errors import require
from sfolib.analysis.claims import Check, check
from sfolib.analysis.pilot import local_smoothness
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band, trajectories
from sfolib.plotting.stage_lengths import allotments, budget_ends, exponents
from sfolib.schedules.published import allocation, stagewise
from sfolib.theory import bounds, stage_growth
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training.loop import Trainer
from sfolib.training.records import Run
from sfolib.training.spec import Spec


def _growth(pair: list[float]) -> list[float]:
    if not pair[0] > pair[1] >= 1:
        raise ValueError("must be δ above γ, and that 1 or above")
    return pair


Growth = Annotated[list[PositiveFloat], Field(min_length=2, max_length=2), AfterValidator(_growth)]


class Parameters(notebook.DatasetParameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"models": ["softmax", "mlp"], "epochs": {"softmax": [14, 56], "mlp": [14]}, "seeds": 3},
        "quick": {"models": ["softmax", "mlp"], "epochs": {"softmax": [14, 56, 420], "mlp": [14, 56]}, "seeds": 12},
        "paper": {
            "models": ["softmax", "mlp", "cnn"],
            "epochs": {"softmax": [14, 56, 140, 420, 1400], "mlp": [14, 56, 140, 420], "cnn": [14, 56, 140]},
            "seeds": 32,
        },
    }
    IMAGES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"models": ["cnn8"], "epochs": {"cnn8": [1, 2]}, "seeds": 2},
        "quick": {"models": ["cnn8"], "epochs": {"cnn8": [1, 4]}, "seeds": 3},
        "paper": {"models": ["cnn8"], "epochs": {"cnn8": [14, 56, 140]}, "seeds": 3},
    }

    growths: Annotated[list[Growth], Field(min_length=1)] = Field(
        [[2.0, 1.4], [2.0, 1.0], [3.0, 1.2], [4.0, 2.0]],
        description="(δ, γ) that are measured",
    )
    k: Annotated[list[notebook.Above1], Field(min_length=1)] = Field(
        [1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0], description="exponents of the allotment whose rates are measured"
    )
    batch_size: PositiveInt = Field(16, description="the first stage's batch size …")
    lr: PositiveFloat = Field(0.1, description="… and learning rate")
    stages: PositiveInt = Field(7, description="of the schedules with a given budget")
    quadratic_sigma2: PositiveFloat = Field(4.0, description="synthetic quadratic with L and Δ of 1")
    quadratic_budgets: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] = Field(
        [10000.0, 10000000.0], description="least and largest budget in gradient evaluations"
    )
    models: Annotated[list[str], Field(min_length=1)] = by_scale("of the data set")
    epochs: dict[str, list[PositiveInt]] = by_scale("for each model, the budgets in epochs")
    seeds: PositiveInt = by_scale("independent runs")

    @model_validator(mode="after")
    def _epochs_of_each(self) -> Parameters:
        missing = [model for model in self.models if not self.epochs.get(model)]
        require(not missing, "epochs", self.epochs, f"must say the budgets of {', '.join(missing)} too")
        return self


_TITLES = {"softmax": "softmax regression", "mlp": "a network of one hidden layer", "cnn": "a convolutional network"}


def titled(model: str) -> str:
    return _TITLES.get(model, model)


def allotments_of(delta: float, gamma: float) -> dict[str, float]:
    """Exponents k by name: stage m has a share (δ/γ)^(k m) of the gradient evaluations."""
    equal_steps = np.log(delta) / np.log(delta / gamma)
    return {
        "equal epochs, $k=0$": 0.0,
        "$e=\\delta/\\gamma$, $k=1$": 1.0,
        f"equal steps, $k={equal_steps:.2f}$": equal_steps,
        "$e=(\\delta/\\gamma)^2$, $k=2$": 2.0,
        "$e=(\\delta/\\gamma)^3$, $k=3$": 3.0,
    }


def schedules(p):
    """The same stages with `total` gradient evaluations, stage m having a share (δ/γ)^(k m) of them."""
    delta, gamma = p.growths[0]
    return lambda k, total: stagewise(p.batch_size, p.lr, delta, gamma, p.stages, total, exponent=k, clock="sample")


def specs(p: Parameters, schedules: Any, runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    found: dict[Hashable, Spec] = {}
    for model in p.models:
        problem = p.problem(model)
        for epochs in p.epochs[model]:
            total = epochs * problem.size
            for name, k in allotments_of(*p.growths[0]).items():
                found[model, epochs, name] = Spec(
                    problem=problem, plan=schedules(k, total), seeds=tuple(range(p.seeds)), sampling="replacement",
                    eval_every=p.eval_every(1.05), max_samples=total,
                )  # fmt: skip
    return found


class GivenBudget:
    """The stages on the quadratic: what a share (δ/γ)^(x m) for stage m makes of a budget, by T1 and exactly."""

    def __init__(self, p: Parameters):
        self.delta, self.gamma = p.growths[0]
        self.m = np.arange(p.stages)
        pairs = [bounds.capped_stage(int(j), p.batch_size, p.lr, self.delta, self.gamma)[:2] for j in self.m]
        self.sizes, self.lrs = np.array(pairs).T
        self.q = PowerLawQuadratic(lam_min=1e-6, sigma2=p.quadratic_sigma2)
        self.noiseless = PowerLawQuadratic(lam_min=1e-6, sigma2=0.0)

    def steps(self, x: float, budget: float) -> np.ndarray:
        """Of each stage, real numbers."""
        share = (self.delta / self.gamma) ** (x * self.m)
        return budget * share / share.sum() / self.sizes

    def bound(self, x: float, budget: float) -> float:
        """T1's at the end."""
        steps, c, top = self.steps(x, budget), self.q.constants(), self.lrs[-1]
        c1, c2 = 2 * c.gap / (2 - c.L * top), c.L * c.sigma2 / (2 - c.L * top)
        return (c1 + c2 * np.sum(self.lrs**2 / self.sizes * steps)) / np.sum(self.lrs * steps)

    def exact(self, x: float, budget: float) -> float:
        """The least E‖∇f‖² at the end of a stage."""
        stages = zip(self.sizes, self.lrs, np.round(self.steps(x, budget)), strict=True)
        return self.q.stage_path(stages).grad_sqnorm.min()

    def early_share(self, x: float, budget: float) -> tuple[float, float]:
        """Of the noise at the end, what the stages before the last one left: exactly, and in T1's V."""
        steps = np.round(self.steps(x, budget))
        quiet = np.where(self.m < len(self.m) - 1, 1e300, self.sizes)  # no noise but in the last stage
        whole, last, none = (
            of.stage_path(zip(b, self.lrs, steps, strict=True)).grad_sqnorm[-1]
            for of, b in ((self.q, self.sizes), (self.q, quiet), (self.noiseless, self.sizes))
        )
        charged = self.lrs**2 / self.sizes * steps
        return (whole - last) / (whole - none), 1 - charged[-1] / charged.sum()


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """NAMED: exponents k by name. tested: (δ, γ, k) with predicted and fitted exponents; paths: exact ones by name.
    at_end: by T1's bound and exactly, budgets × k; given: the stages on the quadratic; shares: `early_share` by name.
    ended: where each run ended, by model, epochs and allotment. steep: 2/L of each model at the start, above: the share
    of the budget that is spent at η beyond it."""
    delta, gamma = p.growths[0]
    named_k = allotments_of(delta, gamma)
    tested = pd.DataFrame([(d, g, x) for d, g in p.growths for x in p.k], columns=["delta", "gamma", "k"])
    tau = (tested["delta"] / tested["gamma"]) ** tested["k"] / tested["delta"]
    designs = [*zip(tested["delta"], tested["gamma"], tau, strict=True)]
    tested["p"] = bounds.rate_exponent(tested["delta"], tested["gamma"], tau)
    tested["bound"] = [stage_growth.bound_exponent(*design) for design in designs]
    tested["exact"] = [stage_growth.exact_exponent(*design) for design in designs]
    given, budgets, tried = GivenBudget(p), np.geomspace(*p.quadratic_budgets, 33), np.linspace(-2, 6, 33)
    at_end = {
        how: pd.DataFrame({x: [f(x, budget) for budget in budgets] for x in tried}, index=budgets)
        for how, f in (("bound", given.bound), ("exact", given.exact))
    }
    rows = [
        (*key, run.samples[-1], *np.transpose(run.mean_ci())[run.expected.argmin()],
         run.mean_ci("test_accuracy").value[-1])
        for key, run in runs.items()
    ]  # fmt: skip
    columns = ["model", "epochs", "allotment", "samples", "end", "low", "high", "accuracy"]
    of_run = specs(p, schedules(p), {})
    first = {model: of_run[model, p.epochs[model][0], next(iter(named_k))] for model in p.models}
    steep = {model: 2 / local_smoothness(Trainer(spec, p.device).task)[0].mean() for model, spec in first.items()}
    above = {
        model: {
            name: sum(np.array(allocation((delta / gamma) ** x, p.stages, 10**6))[given.lrs > limit]) / 10**6
            for name, x in named_k.items()
        }
        for model, limit in steep.items()
    }
    middle = float(budgets[len(budgets) // 2])
    return SimpleNamespace(
        p=p,
        NAMED=named_k,
        tested=tested,
        paths={
            name: stage_growth.exact_path(delta, gamma, (delta / gamma) ** x / delta) for name, x in named_k.items()
        },
        given=given,
        budgets=budgets,
        at_end=at_end,
        best={how: frame.idxmin(axis=1) for how, frame in at_end.items()},
        runs=runs,
        ended=pd.DataFrame(rows, columns=columns),
        shares=pd.DataFrame(
            [given.early_share(x, middle) for x in named_k.values()],
            index=[*named_k],
            columns=["exact", "in T1's bound"],
        ),
        steep=steep,
        above=pd.DataFrame(above),
    )


def inside(at_end: pd.DataFrame, best: pd.Series) -> np.ndarray:
    """The best exponents, nan where the best one tried is the least or the largest of all: it may lie beyond."""
    return best.where((best > at_end.columns.min()) & (best < at_end.columns.max())).to_numpy()


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p
    falling = [
        Band(name, "exact", path.samples[1:], np.minimum.accumulate(path.grad_sqnorm)[1:])
        for name, path in res.paths.items()
    ]
    rates = exponents(res.tested, falling, span=(1e3, 1e16))
    named_ends = {
        name: [
            Band(
                name, how, res.budgets, np.array([f(x, budget) for budget in res.budgets]) / res.at_end[how].min(axis=1)
            )
            for how, f in (("bound", res.given.bound), ("exact", res.given.exact))
        ]
        for name, x in res.NAMED.items()
    }
    labels = {"bound": "by T1's bound", "exact": "exact"}
    given = allotments(
        [Band(labels[how], how, res.budgets, inside(res.at_end[how], found)) for how, found in res.best.items()],
        named_ends,
    )
    by_plan = {model: res.ended[res.ended["model"] == model].groupby("allotment", sort=False) for model in p.models}
    measured = budget_ends(
        {
            titled(model): [
                Band(name, "measured", *frame[["epochs", "end", "low", "high"]].to_numpy().T) for name, frame in plans
            ]
            for model, plans in by_plan.items()
        }
    )
    shown, pair = p.models[-1], f"δ = {p.growths[0][0]:g}, γ = {p.growths[0][1]:g}"
    curves = trajectories({name: res.runs[shown, p.epochs[shown][-1], name] for name in res.NAMED})
    return {
        "rates": (
            rates,
            "Left: the exponent of min E‖∇f‖² = O(N^−p) when stage m has a share (δ/γ)^(k m) of the gradient "
            "evaluations. Dashed: T5. Dots: exact quadratic; squares: T1's bound, pairs side by side. "
            f"Right: the exact path for {pair}. Equal epochs stall; k = 2 falls fastest.",
        ),
        "given": (
            given,
            f"{p.stages} stages and a given budget (quadratic, {pair}). Left: the allotment that ends lowest, by "
            "T1's bound and exactly; k was tried from −2 to 6, and where one of these ends was best nothing is drawn. "
            "Right: where each allotment ends, over the best one's end. By the bound, late stages need the more the "
            "larger the budget. In truth they never do.",
        ),
        "measured": (
            measured,
            f"{p.title}: least E‖∇f‖² of a run against its budget, for five ways to allot it to the same seven stages. "
            "Markers: mean over seeds; band: 95 % interval over seeds.",
        ),
        "curves": (
            curves,
            f"{p.title}, {titled(shown)}: what each allotment did with the largest budget. Lines: mean over seeds; "
            "band: 95 % interval over seeds.",
        ),
    }


def claims(res: SimpleNamespace) -> notebook.Claims:
    p = res.p
    by_pair = res.tested.groupby(["delta", "gamma"], sort=False)
    half = {
        name: path.grad_sqnorm.min() / np.minimum.accumulate(path.grad_sqnorm)[len(path.samples) // 2]
        for name, path in res.paths.items()
    }
    equal, halving, _, squared, _ = res.NAMED
    over = {
        how: np.array([f(2.0, budget) / f(0.0, budget) for budget in res.budgets])
        for how, f in (("bound", res.given.bound), ("exact", res.given.exact))
    }
    preferred = over["bound"] < 1
    if preferred.any():
        print(
            f"T1's bound prefers k = 2 to equal epochs from N = {res.budgets[preferred][0]:,.0f} on; exactly, k = 2 "
            f"ends at {over['exact'][preferred].min():.3f} to {over['exact'][preferred].max():.3f} times as much"
        )
    pair = f"δ = {p.growths[0][0]:g}, γ = {p.growths[0][1]:g}"
    why = (
        "For a given number of stages the noise at the end is that of the last stage, as long as it lasts some "
        "1/(ηλ) steps: what came before is forgotten (next claim), and T1 counts it in full. "
        "So what is left is to make Σ η large, and evaluations buy most of it in early stages, where η/b is large. "
        "Once the budget is so large that the last stage forgets all, it makes no difference."
    )
    steeper = {
        model: ""
        if res.above.loc[squared, model] == 0
        else f" Moreover η = {res.given.lrs[-1]:.2g} is above 2/L = {res.steep[model]:.2g} here, and ‖∇f‖ rises in "
        "the last stages: k = 2 spends "
        f"{res.above.loc[squared, model]:.0%} of the budget there, equal epochs {res.above.loc[equal, model]:.0%}."
        for model in p.models
    }
    sides = {
        model: [
            frame.set_index("epochs")
            for name in (squared, equal)
            for frame in [res.ended[(res.ended["model"] == model) & (res.ended["allotment"] == name)]]
        ]
        for model in p.models
    }
    means = {
        model: ", ".join(f"{x:.2g}" for x in ours["end"] / theirs["end"]) for model, (ours, theirs) in sides.items()
    }
    checks = [
        Check(
            "Exponents of the exact quadratic are p(k), k = 2 included",
            "equal",
            measured=res.tested["exact"],
            theory=res.tested["p"],
            tolerance=0.05,
            exact=True,
            source="T5 [N]",
            figure="rates",
        ),
        check(
            "Quadratic, every δ and γ: no other allotment falls as fast as e = (δ/γ)²",
            "upper_bound",
            measured=[pair.loc[pair["k"] != 2, "exact"].max() for _, pair in by_pair]
            if 2 in p.k and len(p.k) > 1
            else [],
            missing="k = 2 and others must be among k",
            theory=[pair.loc[pair["k"] == 2, "exact"].min() for _, pair in by_pair],
            exact=True,
            source="T4 [S], T5 [N]",
            figure="rates",
        ),
        Check(
            f"Quadratic, {pair}: the second half of the stages halves min E‖∇f‖² at e = δ/γ, and gains "
            "nothing with equal epochs",
            "equal",
            measured=[half[halving], half[equal]],
            theory=[0.5, 1.0],
            tolerance=0.02,
            exact=True,
            source="T1 [S], T5 [N]",
            figure="rates",
        ),
        check(
            "Quadratic, given budget: e = (δ/γ)² ends at most where equal epochs do, at every budget for which T1's "
            "bound says so",
            "upper_bound",
            measured=over["exact"][preferred],
            theory=1.0,
            exact=True,
            source="T1 [S]",
            figure="given",
            explanation=why,
        ),
        Check(
            "Quadratic, equal epochs: less of the noise at the end is left from earlier stages than T1 charges for "
            "them",
            "ordering",
            measured=res.shares.loc[equal],
            exact=True,
            source="T1 [S]",
            figure="given",
        ),
        *(
            Check(
                f"{p.title}, {titled(model)}: e = (δ/γ)² comes to no larger an E‖∇f‖² than equal epochs, at each "
                "budget (far ends of the intervals)",
                "upper_bound",
                measured=ours["end"] / theirs["end"],
                interval=np.transpose([ours["low"] / theirs["high"], ours["high"] / theirs["low"]]),
                theory=1.0,
                source="T4 [S]",
                figure="measured",
                explanation=f"Means: {means[model]} times as much at {', '.join(map(str, p.epochs[model]))} epochs. "
                f"{why}{steeper[model]}",
            )
            for model, (ours, theirs) in sides.items()
        ),
    ]
    return checks
