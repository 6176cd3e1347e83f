"""15: the schedule to use: this package's tools, the paper's plan and what people use today, to equal budgets and ε."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from sfolib import plotting
from sfolib._utils.errors import InputError, require
from sfolib.analysis.claims import Check, LeftOut, check
from sfolib.analysis.recommend import cautious_lr, stable_lr
from sfolib.analysis.step_time import StepTime, fit_step_time, measure_step_time
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
from sfolib.training.pooling import pooled
from sfolib.training.records import Run
from sfolib.training.spec import Spec, Workers

DEFAULT = 1.0  # times η₀
DIGITS = ["digits/softmax", "digits/mlp"]
FASHION = ["fashion_mnist/cnn8", "fashion_mnist/resnet8"]
ALL = [*DIGITS, "digits/cnn", "fashion_mnist/cnn", "fashion_mnist/resnet8"]


class Parameters(notebook.PlansParameters):
    SCALES: ClassVar = notebook.scales(
        problems=(DIGITS, DIGITS, ALL, FASHION[:1]),
        budget=(12_000, 150_000, 300_000, 120_000),
        eps2=([0.1, 0.03], [1e-2, 1e-3, 1e-4], [1e-2, 1e-3, 1e-4], [1.0, 0.1, 0.01]),
        factors=([], [3.0], [2.0, 4.0], [3.0]),
        seeds=(3, 8, 3, 3),
        policy_seeds=(2, 4, 3, 3),
    )
    IMAGES: ClassVar = notebook.scales(
        problems=(FASHION[:1], FASHION[:1], FASHION, FASHION[:1]),
        budget=(6_000, 60_000, 300_000, 120_000),
        eps2=([1.0, 0.1, 0.01],) * 4,
        factors=([], [], [2.0, 4.0], [3.0]),
        seeds=(2, 3, 3, 3),
        policy_seeds=(2, 3, 3, 3),
    )

    scale: notebook.Scale = Field("quick", description='"smoke" (seconds), "quick", "paper" or "full"')
    dataset: Literal["digits", "fashion_mnist"] = Field("digits", description="whose problems; at full Fashion-MNIST")
    problems: list[str] = by_scale("data set/model")
    methods: list[str] = Field([], description="which of them, by name; none: all")
    data_dir: str = Field("data", description="where Fashion-MNIST is, if not where its package puts it")
    l2: PositiveFloat = Field(1e-3, description="digits: ℓ2 coefficient")
    budget: PositiveInt = by_scale("gradient evaluations of a run")
    eps2: notebook.Values = by_scale("levels of ‖∇f‖² on the way")
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
CLOCKS = {"evaluations": "gradient evaluations", "steps": "steps"}  # to ε; the latter two in seconds, predicted
HERE, ACCELERATOR = "seconds, this machine", "seconds, accelerator"
CONVERGENCE = ("grad_sqnorm", "loss")
STABLE = "late ramp, stable η"  # has an lr of its own, and no search
RAMPS = ("late ramp", STABLE, "horizon ramp", "horizon ramp for f")
PAPER = ("b × 2, η × 1.4", "b × 2")
EARLY = ("b × 2", "cosine", "successive gradients", "norm test", "noise scale")
SHOWN = ("late ramp", "horizon ramp", "successive gradients", PAPER[0], PAPER[1], "cosine", "linear", "WSD")
ANYTIME = "successive gradients"
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
    (inf where a seed diverged), steps, looked (gradient evaluations of looks, as a share of the budget), predicted
    seconds by machine, and group. arrivals: a row for each problem, method, factor and ε² of p.eps2, with what it took
    until E‖∇f‖² was ε² (inf: never): evaluations (looks included) and steps, each with low and high, and seconds.
    curves: runs by (problem, method), at the default learning rate. machines: τ0, τ1 by problem and machine, nan where
    timings do not tell."""

    p: Parameters
    ends: pd.DataFrame
    arrivals: pd.DataFrame
    curves: Mapping[tuple[str, str], Run]
    groups: Mapping[str, str]
    machines: Mapping[str, Mapping[str, StepTime]]

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

    @property
    def soonest(self) -> pd.DataFrame:
        """Of `arrivals` those of the factor of the fewest evaluations, in hindsight."""
        ordered = self.arrivals.sort_values(["evaluations", "evaluations_low"], kind="stable")
        return ordered.groupby(["problem", "method", "eps2"], sort=False).head(1).sort_index()

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
        together.setdefault((problem, method, factor), []).append(_with_looks(run))
    machines = {problem: _machines(_problem(p, problem), p.device) for problem in p.problems}
    ends, arrivals, curves, order = [], [], {}, [*groups]
    found = sorted(together.items(), key=lambda item: order.index(item[0][1]) if item[0][1] in groups else len(order))
    for (problem, method, factor), several in found:
        last = pd.concat([run.rows.groupby("seed").last() for run in several])
        last = last.assign(test_error=1 - last["test_accuracy"])
        diverged = any(run.status == "diverged" for run in several)
        named = {"problem": problem, "method": method, "group": groups.get(method, YOURS), "factor": factor}
        steps, looked = last["step"].mean(), last["looked"].mean()
        spent = {"steps": steps, "looked": looked / p.budget}
        spent |= {
            name: of.latency * steps + of.per_sample * (p.budget + looked) for name, of in machines[problem].items()
        }
        for criterion in CRITERIA:
            interval = estimates.mean(last[criterion].to_numpy())
            value, low, high = (np.inf,) * 3 if diverged else interval
            ends.append(named | spent | {"criterion": criterion, "value": value, "low": low, "high": high})
        whole = several[0] if len(several) == 1 and several[0].spec.workers is None else pooled(several)
        if factor == DEFAULT:
            curves[problem, method] = whole
        if min(len(run.steps) for run in several) >= POINTS:
            arrivals += [named | of for of in _arrivals(whole, p.eps2, machines[problem])]
    columns = None if arrivals else ["problem", "method", "eps2", "evaluations", "evaluations_low"]
    return Results(p, pd.DataFrame(ends), pd.DataFrame(arrivals, columns=columns), curves, groups, machines)


POINTS = 6  # measuring points, from which on one can tell when a run got to an ε


def _with_looks(run: Run) -> Run:
    """With a column `looked`: gradient evaluations that the method itself spent on looking, those of the measuring
    points apart."""
    probes = run.rows.groupby("seed")["probes"]
    measuring = probes.transform("first") * (probes.cumcount() + 1)
    return replace(run, rows=run.rows.assign(looked=run.rows["probes"] - measuring))


def _arrivals(run: Run, eps2: Sequence[float], machines: Mapping[str, StepTime]) -> Iterator[dict[str, float]]:
    """What a run took until E‖∇f‖² was each ε² and stayed there, looks included; inf: never."""
    curves, looked = run.curves(), run.curves("looked").mean(0)
    for level in eps2:
        found, crossing = {"eps2": level}, {}
        if run.status != "diverged":
            crossing = estimates.first_crossing(run.steps, run.samples, curves, level)._asdict()
        for end, name in {"": "samples", "_low": "low", "_high": "high"}.items():
            samples = crossing.get(name, np.inf)
            steps, looks = (np.interp(samples, run.samples, of) for of in (run.steps, looked))
            evaluations, steps = (samples + looks, steps) if np.isfinite(samples) else (samples, samples)
            found |= {f"evaluations{end}": evaluations, f"steps{end}": steps}
        for name, of in machines.items():
            found[name] = of.latency * found["steps"] + of.per_sample * found["evaluations"]
        yield found


TIMED = (16, 512)  # batch sizes
_ACCELERATOR = StepTime(1e-4, 1e-7)  # say: where a step takes as long to start as 1,000 gradient evaluations do


def _machines(problem: Problem, device: str) -> dict[str, StepTime]:
    """τ0 and τ1 of this machine and of one of a far larger τ0/τ1."""
    here = StepTime(np.nan, np.nan)
    for _ in range(3):
        seconds = measure_step_time(problem, TIMED, steps=20, repeats=3, device=device)
        try:
            here = fit_step_time(TIMED, seconds)
            break
        except InputError:  # on a busy machine the larger batch may seem the faster; figures do not hang on that
            continue
    return {HERE: here, ACCELERATOR: _ACCELERATOR}


def times(res: Results) -> pd.DataFrame:
    """Predicted time of each method's run at η₀, τ0 K + τ1 N with its looks in N, over that of the constant b₀: by
    problem and τ0/τ1, this machine's (nan where timings do not tell) and an accelerator's."""
    found = {}
    for problem, machines in res.machines.items():
        ends = res.ends.query("problem == @problem and factor == @DEFAULT").groupby("method", sort=False).first()
        for name, (latency, per_sample) in machines.items():
            constant = (latency / res.p.batch_size + per_sample) * res.p.budget
            found[problem, f"τ0/τ1 = {latency / per_sample:.3g}"] = ends[name] / constant
    return pd.DataFrame(found)


def to_eps(res: Results) -> pd.DataFrame:
    """What each method takes to each ε², at the best of its learning rates for it, in hindsight."""
    if res.arrivals.empty:
        return res.arrivals
    wide = res.soonest.pivot_table(
        [*CLOCKS, *_predicted(res)], ["problem", "method"], "eps2", aggfunc="first", sort=False, dropna=False
    )
    return (
        wide.swaplevel(axis=1)
        .sort_index(axis=1, level=0, ascending=False, sort_remaining=False)
        .replace(np.inf, "never")
    )


def _predicted(res: Results) -> list[str]:
    """The machines whose times are known."""
    known = [{name for name, of in machines.items() if np.isfinite(of.latency)} for machines in res.machines.values()]
    return [name for name in (HERE, ACCELERATOR) if all(name in of for of in known)]


def figures(res: Results) -> notebook.Figures:
    p = res.p
    searched = ", ".join(f"{f:g}" for f in p.searched)
    mixed = [problem for problem in p.problems if _has_batch_norm(_problem(p, problem))]
    note = (
        f" The norm test is not of {', '.join(mixed)}: under BatchNorm no gradient is of one sample." if mixed else ""
    )
    found = {}
    if len(over := _over_paper(res)):
        found["over_paper"] = (
            plotting.relative(over, CRITERIA),
            f"The ends of all methods after {p.budget:,} gradient evaluations of updates, over that of the better of "
            f"the paper's plans (line): each at the best for its column, in hindsight, of the learning rates η₀ × "
            f"{searched}. Bars: 95 % intervals over seeds, of both. What diverged is left out.",
        )
    found["ends"] = (
        plotting.ends(res.ends, CRITERIA, DEFAULT),
        f"Each method after {p.budget:,} gradient evaluations of updates. Dot: at the best for this column, in "
        f"hindsight, of the learning rates η₀ × {searched}; bar: 95 % interval over seeds; ring: at η₀. What "
        f"diverged is left out. Looks come on top.{note}",
    )
    predicted = _predicted(res)
    for problem in p.problems:
        runs = {name: res.curves[problem, name] for name in (*SHOWN, *p.plans) if res.has(problem, name)}
        clocks = {name: partial(_seconds, step=res.machines[problem][name]) for name in predicted}
        if runs:
            found[_curves_of(problem)] = (
                plotting.against_clocks(runs, ["batch_size", *CRITERIA], times=clocks),
                f"{problem}: some of them at η₀, against gradient evaluations of updates, steps, and predicted time, "
                f"τ0 K + τ1 N with the looks in N: {_of_machines(res, problem)}. Means over seeds; bands: 95 % "
                "intervals.",
            )
    if len(res.arrivals):
        found["to_eps"] = (
            plotting.arrivals(res.soonest, CLOCKS | {name: name for name in predicted}),
            f"What it takes until E‖∇f‖² is ε² and stays there, looks included: each method at the best for this ε, in "
            f"hindsight, of the learning rates η₀ × {searched}. Bars: 95 % intervals over seeds. The ramps and decays "
            f"aim at the end of {p.budget:,} gradient evaluations, and at no ε.",
        )
    return found


def _curves_of(problem: str) -> str:
    return f"curves_{re.sub(r'[^A-Za-z0-9]+', '_', problem)}"


def _of_machines(res: Results, problem: str) -> str:
    each = [
        f"{name}, τ0 = {of.latency:.2g} s, τ1 = {of.per_sample:.2g} s" for name, of in res.machines[problem].items()
    ]
    return "; ".join(each)


def _seconds(run: Run, step: StepTime) -> np.ndarray:
    """Predicted, at the measuring points."""
    return step.latency * run.steps + step.per_sample * (run.samples + run.curves("looked").mean(0))


def _over_paper(res: Results) -> pd.DataFrame:
    """The end of each method over that of the better of the paper's plans, each at its best η: ratio, low, high."""
    rows = []
    for problem, criterion in product(res.p.problems, CRITERIA):
        paper = [name for name in PAPER if res.has(problem, name)]
        best = res.best(problem, criterion, paper) if paper else None
        if best is None or not np.isfinite(best["value"]):
            continue
        for method in res.ends.query("problem == @problem")["method"].unique():
            end = res.at(problem, method, criterion)
            low, high = end["low"] / best["high"], end["high"] / best["low"]
            low, high = (np.nan, np.nan) if method == best["method"] else (low, high)
            named = {"problem": problem, "method": method, "criterion": criterion}
            rows.append(named | {"ratio": end["value"] / best["value"], "low": low, "high": high})
    return pd.DataFrame(rows)


def claims(res: Results) -> notebook.Claims:
    checks: notebook.Claims = []
    for problem in res.p.problems:
        for name in RAMPS:
            checks += _of_ramp(res, problem, name)
        checks += _of_theory(res, problem)
        checks += _of_arrivals(res, problem)
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


def _of_arrivals(res: Results, problem: str) -> list[Check | LeftOut]:
    """Tools at η₀ on the way to each ε², against the paper's plans at their best η for it; and the any-time rule at its
    best η too. What neither gets to has no value; what the tool alone gets to is 0."""
    checks, label = [], _label(res.p, problem)
    of_problem = res.arrivals[res.arrivals["problem"] == problem]
    asked = [(ANYTIME, "evaluations", False), (ANYTIME, "steps", False), (ANYTIME, "evaluations", True)]
    for name, clock, searched in [*asked, *((ramp, "evaluations", False) for ramp in RAMPS[::2])]:
        if not res.has(problem, name, *PAPER):
            continue
        ratios = {"measured": [], "interval": []}
        for _, rows in of_problem.groupby("eps2", sort=False):
            rows = rows.sort_values([clock, f"{clock}_low"])
            mine = rows[(rows["method"] == name) & (searched | (rows["factor"] == DEFAULT))].iloc[0]
            theirs = rows[rows["method"].isin(PAPER)].iloc[0]
            with np.errstate(invalid="ignore"):
                ratios["measured"].append(np.divide(mine[clock], theirs[clock]))
                low, high = (np.divide(mine[f"{clock}{a}"], theirs[f"{clock}{b}"]) for a, b in (_ENDS, _ENDS[::-1]))
            ratios["interval"].append((np.nan, np.nan) if np.isnan([low, high]).any() else (low, high))
        tool = f"the test of {name}" if name == ANYTIME else f"the {name}"
        who = f"each at its best η, {tool} takes" if searched else f"{tool} at η₀ takes"
        unit = "gradient evaluations, looks included," if clock == "evaluations" else "steps"
        of_paper = "the paper's plans" if searched else "the paper's plans at their best η"
        checks.append(
            check(
                f"{label}: {who} no more {unit} to each ε² than {of_paper}",
                "upper_bound",
                missing=f"a level that one of them gets to, in runs of {POINTS} measuring points or more",
                **ratios,
                theory=1.0,
                prediction="theory" if name == ANYTIME and not searched else "none",
                source="T14 [N]" if name == ANYTIME else "T17 [N]",
                figure="to_eps" if len(res.arrivals) else "ends",
            )
        )
    return checks


_ENDS = ("_low", "_high")
