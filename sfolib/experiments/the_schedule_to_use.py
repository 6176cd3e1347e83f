"""15: the schedule to use: this package's tools, the paper's plan and what people use today, at equal budgets."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from sfolib import plotting
from sfolib._utils.errors import InputError, require
from sfolib.analysis.claims import Check
from sfolib.analysis.recommend import cautious_lr, stable_lr
from sfolib.analysis.step_time import fit_step_time, measure_step_time
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.problems.models import build
from sfolib.problems.specs import Problem, named
from sfolib.schedules import base
from sfolib.schedules.adaptive import (
    CABS,
    HorizonRamp,
    NoiseScaleRule,
    NormTest,
    SuccessiveGradientTest,
)
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import increase_batch_size, late_ramp, seesaw
from sfolib.training import estimates
from sfolib.training.optimizers import SGD, Adam
from sfolib.training.records import Run
from sfolib.training.spec import Spec, Workers

DEFAULT = 1.0  # times η₀
DIGITS = ["digits/softmax", "digits/mlp"]
FASHION = ["fashion_mnist/cnn8", "fashion_mnist/resnet8"]
ALL = [*DIGITS, "digits/cnn", "fashion_mnist/cnn", "fashion_mnist/resnet8"]


class Parameters(notebook.PlansParameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"problems": DIGITS, "budget": 12_000, "factors": [], "seeds": 3, "policy_seeds": 2},
        "quick": {"problems": DIGITS, "budget": 150_000, "factors": [3.0], "seeds": 8, "policy_seeds": 4},
        "paper": {"problems": ALL, "budget": 300_000, "factors": [2.0, 4.0], "seeds": 3, "policy_seeds": 3},
        "full": {"problems": FASHION[:1], "budget": 120_000, "factors": [3.0], "seeds": 3, "policy_seeds": 3},
    }
    IMAGES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"problems": FASHION[:1], "budget": 6_000, "factors": [], "seeds": 2, "policy_seeds": 2},
        "quick": {"problems": FASHION[:1], "budget": 60_000, "factors": [], "seeds": 3, "policy_seeds": 3},
        "paper": {"problems": FASHION, "budget": 300_000, "factors": [2.0, 4.0], "seeds": 3, "policy_seeds": 3},
        "full": SCALES["full"],
    }

    scale: notebook.Scale = Field("quick", description='"smoke" (seconds), "quick", "paper" or "full"')
    dataset: Literal["digits", "fashion_mnist"] = Field("digits", description="whose problems; at full Fashion-MNIST")
    problems: list[str] = by_scale("data set/model")
    methods: list[str] = Field([], description="which of them, by name; none: all")
    data_dir: str = Field("data", description="where Fashion-MNIST is, if not where its package puts it")
    l2: PositiveFloat = Field(1e-3, description="digits: ℓ2 coefficient")
    budget: PositiveInt = by_scale("gradient evaluations of a run")
    batch_size: PositiveInt = Field(16, description="b₀")
    optimizer: Literal["sgd", "momentum", "adam"] = Field("sgd", description='"sgd", "momentum" (0.9) or "adam"')
    lr: PositiveFloat = Field(None, description="η₀, the default; None: 0.1, with momentum 0.01, Adam's 0.001 …")
    factors: list[PositiveFloat] = by_scale("… and what multiplies it in every method's search, beside 1")
    max_batch_size: PositiveInt = Field(512, description="cap of a growing batch")
    seeds: PositiveInt = by_scale("independent runs of a plan …")
    policy_seeds: PositiveInt = by_scale("… and of a policy, each of which goes its own way")

    @classmethod
    def of_scale(cls, scale: str, data: dict[str, Any]) -> dict[str, Any]:
        lr = {"momentum": 0.01, "adam": 0.001}.get(data.get("optimizer"), 0.1)
        return super().of_scale(scale, data) | {"lr": lr}

    @property
    def momentum(self) -> float:
        """SGD's, or Adam's β1."""
        return 0.0 if self.optimizer == "sgd" else 0.9

    @property
    def searched(self) -> list[float]:
        return list(dict.fromkeys([DEFAULT, *self.factors]))


def schedules(p):
    """By group and name: functions of (batch_size, lr, budget); what looks spends its looks on top of the budget."""
    cap = {"max_batch_size": p.max_batch_size}

    def stages(b, lr, N, gamma):
        """The paper's: eight equal stages, b × 2 and η × γ from each to the next."""
        every = -(-N // 8)
        return Plan(base.exponential(b, 2.0, every), base.exponential(lr, gamma, every), "sample", **cap)

    def cosine(lr, N):
        """As far down as η/b comes in the late ramp: a plan that grows b for it needs an end above 0."""
        return base.cosine(lr, lr / 32, N)

    def held_then_linear(lr, N):
        hold = int(0.8 * N)
        return base.join([base.constant(lr), base.polynomial(lr, 0.0, N - hold)], [hold])

    def of_parameter(plan):
        """A plan of yours, whose lr the search multiplies as everyone's."""
        return lambda b, lr, N: plan.model_copy(update={"lr": base.power(plan.lr, 1.0, lr / p.lr)})

    found = {
        "sfolib": {
            "late ramp": lambda b, lr, N: late_ramp(b, lr, N, **cap),
            "late ramp, stable η": lambda b, lr, N: late_ramp(b, lr, N, **cap),  # where the lr is half of the largest
            "horizon ramp": lambda b, lr, N: HorizonRamp(b, lr, N, momentum=p.momentum, **cap),
            "horizon ramp for f": lambda b, lr, N: HorizonRamp(b, lr, N, "loss", momentum=p.momentum, **cap),
            "successive gradients": lambda b, lr, N: SuccessiveGradientTest(b, lr, momentum=p.momentum, **cap),
        },
        "paper": {
            "b × 2, η × 1.4": lambda b, lr, N: stages(b, lr, N, 1.4),
            "b × 2": lambda b, lr, N: stages(b, lr, N, 1.0),
        },
        "constant": {
            "b₀": lambda b, lr, N: Plan(b, lr),
            "4 b₀": lambda b, lr, N: Plan(4 * b, lr),
            "16 b₀": lambda b, lr, N: Plan(16 * b, lr),
        },
        "decay": {
            "cosine": lambda b, lr, N: Plan(b, base.cosine(lr, 0.0, N), "sample"),
            "linear": lambda b, lr, N: Plan(b, base.polynomial(lr, 0.0, N), "sample"),
            "WSD": lambda b, lr, N: Plan(b, held_then_linear(lr, N), "sample"),
            "mirror": lambda b, lr, N: late_ramp(b, lr, N, share=0.0),
        },
        "growth": {
            "Smith, of cosine": lambda b, lr, N: increase_batch_size(
                b, base.cosine(lr, lr / 32, N), clock="sample", **cap
            ),
            "Seesaw, of cosine": lambda b, lr, N: seesaw(b, cosine(lr, N), **cap),
        },
        "looks": {
            "norm test": lambda b, lr, N: NormTest(0.5, batch_size=b, lr=lr, test_interval=20, **cap),
            "noise scale": lambda b, lr, N: NoiseScaleRule(b, lr, **cap),
            "CABS": lambda b, lr, N: CABS(b, lr, **cap),
            "AdaScale × 8": lambda b, lr, N: Workers(scale=8, iterations=N),
        },
    }
    yours = p.own_plans(p.max_batch_size, [name for group in found.values() for name in group])
    return found | {"yours": {name: of_parameter(plan) for name, plan in yours.items()}}


CRITERIA = {"grad_sqnorm": r"$\mathrm{E}\,\|\nabla f\|^2$", "loss": "training loss", "test_error": "test error"}
CONVERGENCE = ("grad_sqnorm", "loss")
STABLE = "late ramp, stable η"  # has an lr of its own, and no search
RAMPS = ("late ramp", STABLE, "horizon ramp", "horizon ramp for f")
PAPER = ("b × 2, η × 1.4", "b × 2")
EARLY = ("b × 2", "cosine", "successive gradients", "norm test", "noise scale")
SHOWN = ("late ramp", "horizon ramp", "successive gradients", PAPER[0], "b₀", "cosine", "WSD")
ONLY = {name: ("sgd", "momentum") for name in (STABLE, "horizon ramp", "horizon ramp for f")} | {
    "CABS": ("sgd",),
    "AdaScale × 8": ("sgd",),
}  # what is derived for some optimizers alone
YOURS = "yours"  # the group of what a reader adds, by parameter or in the notebook; no claim is about it


def specs(
    p: Parameters, schedules: Mapping[str, Mapping[str, Callable]], runs: Mapping[Hashable, Run]
) -> dict[Hashable, Spec]:
    found: dict[Hashable, Spec] = {}
    optimizer = {"sgd": SGD(), "momentum": SGD(momentum=p.momentum), "adam": Adam()}[p.optimizer]
    makers = {name: make for group in schedules.values() for name, make in group.items()}
    unknown = set(p.methods) - set(makers)
    require(not unknown, "methods", sorted(unknown), f"must be of {'; '.join(makers)}")
    makers = {name: make for name, make in makers.items() if name in p.methods or not p.methods}
    for problem, factor, (method, make) in product(p.problems, p.searched, makers.items()):
        if method in ONLY and p.optimizer not in ONLY[method]:
            continue
        common = {"problem": _problem(p, problem), "max_samples": p.budget, "optimizer": optimizer}
        lr = p.lr * factor
        if method == STABLE:
            if factor != DEFAULT or not runs:  # its lr is measured: not for a dry run
                continue
            lr = _stable_lr(common["problem"], optimizer, p.device)
        made = make(p.batch_size, lr, p.budget)
        if getattr(made, "signal", None) == "gradient_statistics" and _has_batch_norm(common["problem"]):
            continue  # a sample's gradient is of the others too
        if isinstance(made, Workers):
            leader = {"plan": Plan(made.scale * p.batch_size, lr), "workers": made, "sampling": "replacement"}
        else:
            leader = {"plan" if isinstance(made, Plan) else "policy": made}
        alone = "policy" in leader  # each seed goes its own way
        if alone:
            common["log_train_metrics"] = made.signal in ("loss", "noise_and_loss")
        for seeds in [(s,) for s in range(p.policy_seeds)] if alone else [tuple(range(p.seeds))]:
            found[problem, method, factor, seeds[0]] = Spec(seeds=seeds, **leader, **common)
    return found


def _has_batch_norm(problem: Problem) -> bool:
    if problem.model is None:
        return False
    with torch.device("meta"):
        network = build(problem.model, 10, (1, 28, 28), seed=0)
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@lru_cache(maxsize=32)
def _stable_lr(problem: Problem, optimizer: SGD, device: str) -> float:
    """Half of the largest that seed 0's start bears; the other half is what the run may need later."""
    start = Spec(problem=problem, plan=Plan(1, 1.0), max_samples=1, optimizer=optimizer)
    return cautious_lr(stable_lr(start, device), optimizer.momentum)


def _problem(p: Parameters, name: str) -> Problem:
    dataset, _, model = name.partition("/")
    require(model != "", "problems", name, "must be a data set and a model, such as digits/mlp")
    return named(dataset, model, p.l2 if dataset == "digits" else 0.0, data_dir=p.data_dir)


class Results(NamedTuple):
    """ends: a row for each problem, method, factor and criterion, with value, low and high at the end of the budget
    (inf where a seed diverged), steps, looked (gradient evaluations of looks, as a share of the budget) and group.
    curves: rows by (problem, method), at the default learning rate."""

    p: Parameters
    ends: pd.DataFrame
    curves: Mapping[tuple[str, str], pd.DataFrame]
    groups: Mapping[str, str]

    @property
    def table(self) -> pd.DataFrame:
        """The best end of each method by problem and criterion, and its steps and looks at the default."""
        best = self.ends.pivot_table("value", "method", ["problem", "criterion"], "min", sort=False)
        default = self.ends[self.ends["factor"] == DEFAULT]
        steps = default.pivot_table(["steps", "looked"], "method", "problem", sort=False)
        return best.join(steps.swaplevel(axis=1)).sort_index(axis=1, level=0, sort_remaining=False)

    def at(self, problem: str, method: str, criterion: str, factor: float | None = None) -> pd.Series:
        """The end of a method at one factor; None: at the best of all factors for this criterion, in hindsight."""
        rows = self.ends.query("problem == @problem and method == @method and criterion == @criterion")
        if factor is not None:
            rows = rows[rows["factor"] == factor]
        return rows.sort_values("value").iloc[0]

    def best(self, problem: str, criterion: str, methods: Sequence[str]) -> pd.Series:
        """The best end of these methods at all factors, in hindsight."""
        return min((self.at(problem, m, criterion) for m in methods), key=lambda end: end["value"])

    def has(self, problem: str, *methods: str) -> bool:
        """Whether these methods were run: a reader may have taken some out."""
        return all((problem, method) in self.curves for method in methods)

    def ratios(
        self,
        problem: str,
        method: str,
        other: Callable[[str], pd.Series],
        criteria: Sequence[str] = tuple(CRITERIA),
        searched: bool = False,
    ) -> dict[str, Any]:
        """The ends of a method, at the default or the best factor, to those of another in each criterion, and intervals
        from those of both."""
        factor = None if searched else DEFAULT
        pairs = [(self.at(problem, method, c, factor), other(c)) for c in criteria]
        return {
            "measured": [a["value"] / b["value"] for a, b in pairs],
            "interval": [(a["low"] / b["high"], a["high"] / b["low"]) for a, b in pairs],
        }


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> Results:
    groups = {name: group for group, of_group in schedules(p).items() for name in of_group if group != YOURS}
    together: dict[tuple[str, str, float], list[Run]] = {}
    for (problem, method, factor, _), run in runs.items():
        together.setdefault((problem, method, factor), []).append(run)
    ends, order = [], [*groups]
    found = sorted(together.items(), key=lambda item: order.index(item[0][1]) if item[0][1] in groups else len(order))
    for (problem, method, factor), several in found:
        last = pd.concat([run.rows.groupby("seed").last() for run in several])
        last = last.assign(test_error=1 - last["test_accuracy"])
        diverged = any(run.status == "diverged" for run in several)
        common = {
            "problem": problem,
            "method": method,
            "group": groups.get(method, YOURS),
            "factor": factor,
            "steps": last["step"].mean(),
            "looked": np.mean([_looked(run) for run in several]) / p.budget,
        }
        for criterion in CRITERIA:
            interval = estimates.mean(last[criterion].to_numpy())
            value, low, high = (np.inf,) * 3 if diverged else interval
            ends.append(common | {"criterion": criterion, "value": value, "low": low, "high": high})
    default = {key[:2]: several for key, several in together.items() if key[2] == DEFAULT}
    curves = {key: pd.concat([run.rows for run in several]) for key, several in default.items()}
    for rows in curves.values():
        rows["test_error"] = 1 - rows["test_accuracy"]
    return Results(p, pd.DataFrame(ends), curves, groups)


def _looked(run: Run) -> float:
    """Gradient evaluations that the method itself spent on looking: without those of the measuring points."""
    rows = run.rows[run.rows["seed"] == run.rows["seed"].iloc[0]]["probes"].to_numpy()
    return rows[-1] - len(rows) * rows[0]


TIMED = (16, 512)  # batch sizes
LATENCY = 1000.0  # gradient evaluations that take as long as a step does to start: of an accelerator, say


def times(res: Results) -> pd.DataFrame:
    """Predicted time of each method's run at η₀, (τ0 K + τ1 N) with its looks in N, over that of the constant b₀: by
    problem, as τ0/τ1 is measured on this machine (nan where timings do not tell), and at τ0/τ1 = `LATENCY`."""
    found = {}
    for problem in res.p.problems:
        seconds = measure_step_time(_problem(res.p, problem), TIMED, steps=20, repeats=3, device=res.p.device)
        try:
            step = fit_step_time(TIMED, seconds)
            here = step.latency / step.per_sample
        except InputError:  # on a busy machine the larger batch may seem the faster; figures do not hang on that
            here = np.nan
        ends = res.ends.query("problem == @problem and factor == @DEFAULT").groupby("method", sort=False).first()
        spent = res.p.budget * (1 + ends["looked"])
        for latency in (here, LATENCY):
            time = latency * ends["steps"] + spent
            found[problem, f"τ0/τ1 = {latency:.3g}"] = time / (latency / res.p.batch_size + 1) / res.p.budget
    return pd.DataFrame(found)


def figures(res: Results) -> notebook.Figures:
    p = res.p
    searched = ", ".join(f"{f:g}" for f in p.searched)
    mixed = [problem for problem in p.problems if _has_batch_norm(_problem(p, problem))]
    note = (
        f" The norm test is not of {', '.join(mixed)}: under BatchNorm no gradient is of one sample." if mixed else ""
    )
    curves = {
        problem: {name: res.curves[problem, name] for name in (*SHOWN, *p.plans) if res.has(problem, name)}
        for problem in p.problems
    }
    return {
        "ends": (
            plotting.ends(res.ends, CRITERIA, DEFAULT),
            f"Each method after {p.budget:,} gradient evaluations of updates. Dot: at the best for this column, in "
            f"hindsight, of the learning rates η₀ × {searched}; bar: 95 % interval over seeds; ring: at η₀. What "
            f"diverged is left out. Looks come on top.{note}",
        ),
        "curves": (
            plotting.to_the_end(curves, {"batch_size": "batch size $b$"} | CRITERIA),
            "Some of them at η₀, at the end of each epoch. Means over seeds; bands: all seeds.",
        ),
    }


def claims(res: Results) -> list[Check]:
    checks = []
    for problem in res.p.problems:
        for name in RAMPS:
            checks += _of_ramp(res, problem, name)
        checks += _of_theory(res, problem)
    return checks


def _label(p: Parameters, problem: str) -> str:
    return problem if p.optimizer == "sgd" else f"{problem}, {p.optimizer}"


def _of_ramp(res: Results, problem: str, name: str) -> list[Check]:
    """A ramp with its defaults, at η₀ or at an lr of its own, against methods at their best η."""
    if not res.has(problem, name):
        return []
    label = _label(res.p, problem)
    ours = f"the {name}" if name == STABLE else f"the {name} at η₀"
    checks, common = [], {"kind": "upper_bound", "source": "T16 [N]", "figure": "ends"}
    if res.has(problem, *PAPER):
        checks.append(
            Check(
                f"{label}: {ours} ends at or below the paper's plans at their best η, in ‖∇f‖², loss and test error",
                **res.ratios(problem, name, lambda c: res.best(problem, c, PAPER)),
                theory=1.0,
                headline=name == RAMPS[0],
                **common,
            )
        )
    if name == "horizon ramp" and res.has(problem, *PAPER):
        checks.append(
            Check(
                f"{label}: each at its best η, the {name} ends at or below the paper's plans in ‖∇f‖², loss and test "
                "error",
                **res.ratios(problem, name, lambda c: res.best(problem, c, PAPER), searched=True),
                theory=1.0,
                prediction="none",
                **common,
            )
        )
    others = [m for m in res.groups if m not in RAMPS and res.has(problem, m)]
    if others:
        checks.append(
            Check(
                f"{label}: {ours} ends within 10 % of the best of the methods of others at their best η, in "
                "‖∇f‖², loss and test error",
                **res.ratios(problem, name, lambda c: res.best(problem, c, others)),
                theory=1.1,
                prediction="goal",
                **common,
            )
        )
    return checks


def _of_theory(res: Results, problem: str) -> list[Check]:
    """What T8, T16 and T17 say of methods at the same η."""
    checks, label = [], _label(res.p, problem)
    if res.has(problem, "late ramp", "mirror"):
        checks.append(
            Check(
                f"{label}: the late ramp of b and its mirror, the same cool-down of η, end within 10 % of each other "
                "in ‖∇f‖² and loss",
                "equal",
                **res.ratios(problem, "late ramp", lambda c: res.at(problem, "mirror", c, DEFAULT), CONVERGENCE),
                theory=1.0,
                tolerance=0.1,
                source="T8 [S]",
                figure="ends",
            )
        )
    if res.has(problem, "late ramp", "b₀"):
        checks.append(
            Check(
                f"{label}: the late ramp ends at most at half of the ‖∇f‖² of the constant b₀ that it starts from",
                "upper_bound",
                **res.ratios(problem, "late ramp", lambda c: res.at(problem, "b₀", c, DEFAULT), CONVERGENCE[:1]),
                theory=0.5,
                prediction="goal",
                source="T16 [N]",
                figure="ends",
            )
        )
    early = [m for m in EARLY if res.has(problem, m)]
    if early and res.has(problem, "late ramp"):
        rows = [res.at(problem, name, "loss", DEFAULT) for name in ("late ramp", *early)]
        checks.append(
            Check(
                f"{label}: at η₀, what grows b or lowers η early ends at a higher loss than the late ramp: "
                f"{', '.join(early)}",
                "upper_bound",
                measured=[rows[0]["value"] / row["value"] for row in rows[1:]],
                interval=[(rows[0]["low"] / row["high"], rows[0]["high"] / row["low"]) for row in rows[1:]],
                theory=1.0,
                source="T17 [N]",
                figure="ends",
            )
        )
    return checks
