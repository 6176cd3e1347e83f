"""12: all schedules and policies side by side on one problem, in gradient evaluations and in steps."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt

from sfolib import plotting
from sfolib.analysis.claims import Check, over_next
from sfolib.analysis.crossings import ratios
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.schedules import base
from sfolib.schedules.adaptive import (
    AutoWU,
    GradNormTrigger,
    HorizonRamp,
    InnerProductTest,
    NormTest,
    SuccessiveGradientTest,
)
from sfolib.schedules.adaptive.horizon_ramp import affordable_look
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import increase_batch_size, late_ramp, late_switch, seesaw, stagewise
from sfolib.training.estimates import Interval
from sfolib.training.records import Run
from sfolib.training.spec import Spec


class Parameters(notebook.DatasetParameters, notebook.PlansParameters):
    SCALES: ClassVar = notebook.scales(
        model=("mlp", "mlp", "mlp"),
        epochs=(18, 60, 400),
        accuracy=(0.95, 0.95, 0.95),
        eps2=([0.1, 0.03], [0.1, 0.03, 0.01], [0.1, 0.03, 0.01, 0.003, 0.001]),
        seeds=(3, 5, 30),
    )
    IMAGES: ClassVar = notebook.scales(
        model=("cnn8", "cnn8", "cnn8"),
        epochs=(2, 6, 200),
        accuracy=(0.8, 0.8, 0.8),
        eps2=([1.0, 0.3], [1.0, 0.3, 0.1], [1.0, 0.3, 0.1, 0.03]),
        seeds=(2, 3, 3),
    )

    model: str = by_scale("of that data set")
    batch_size: PositiveInt = Field(16, description="b₀")
    lr: PositiveFloat = Field(0.1, description="η₀")
    epochs: PositiveInt = by_scale("budget of a run")
    max_batch_size: PositiveInt = Field(512, description="cap of a growing batch")
    accuracy: PositiveFloat = by_scale("test accuracy to reach")
    eps2: notebook.Values = by_scale("targets ε²")
    seeds: PositiveInt = by_scale("independent runs")


DECAY, GROW, FREE = "η / 2", "b × 2 for η / 2 (Smith)", "successive gradients: b × 2"


def schedules(p):
    """Plans and policies by kind and name; all begin at (b₀, η₀), but for two constant batch sizes."""
    n, every = p.problem(p.model).size, max(1, p.epochs // 6)  # epochs a stage
    b, lr, cap = p.batch_size, p.lr, {"max_batch_size": p.max_batch_size}
    doubled, decay = base.exponential(b, 2.0, every), base.milestones(lr, {every * k: 0.5 for k in range(1, 6)})
    test = {"batch_size": b, "lr": lr, "test_interval": 20, **cap}
    steps = -(-n // b)
    found = {
        "constant": {f"constant b = {size}": Plan(size, lr) for size in (b, 4 * b, 16 * b)},
        "growing": {
            "b + 16 a stage": Plan(base.linear(b, b, every), lr, **cap),
            "b × 2": Plan(doubled, lr, **cap),
            "b × 2, η × 1.4": Plan(doubled, base.exponential(lr, 1.4, every), **cap),
            "b × 2, stages ∝ (δ/γ)²": stagewise(b, lr, 2.0, 1.0, 4, p.epochs * n, clock="sample", **cap),
            "late switch to 16 b": late_switch(b, 16 * b, int(0.7 * p.epochs) * n, lr),
        },
        "decaying": {
            "η / 2": Plan(b, decay),
            "b × 2 for η / 2 (Smith)": increase_batch_size(b, decay, **cap),
            "Seesaw: b × 2 for η / 2, η / √2": seesaw(b, decay, clock="epoch", **cap),
        },
        "ramps": {
            "late ramp": late_ramp(b, lr, p.epochs * n, **cap),
            "horizon ramp": HorizonRamp(b, lr, p.epochs * n, look=affordable_look(p.epochs * n), **cap),
        },
        "policies": {
            "‖∇f‖ ≤ ε: b × 2": GradNormTrigger(b, lr, 0.3, 2.0, 1.0, 100, **cap),
            "‖∇f‖ ≤ ε: b × 2, η × 1.4": GradNormTrigger(b, lr, 0.3, 2.0, 1.4, 100, **cap),
            "successive gradients: b × 2": SuccessiveGradientTest(b, lr, **cap),
            "norm test, η = 0.5": NormTest(0.5, **test),
            "inner-product test, θ = 0.9": InnerProductTest(0.9, **test),
            "AutoWU": AutoWU(steps * p.epochs, steps, batch_size=b),
        },
    }
    return found | {"own": p.own_plans(p.max_batch_size, [name for of_kind in found.values() for name in of_kind])}


def specs(p: Parameters, schedules: Mapping[str, Any], runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    problem = p.problem(p.model)
    common = {"problem": problem, "seeds": tuple(range(p.seeds)), "max_samples": p.epochs * problem.size}
    common["eval_every"] = p.eval_every(1.05)
    plans = schedules["constant"] | schedules["growing"] | schedules["decaying"] | schedules["ramps"] | schedules["own"]
    found: dict[Hashable, Spec] = {}
    for name, leader in (plans | schedules["policies"]).items():
        if isinstance(leader, Plan):
            found[name] = Spec(plan=leader, **common)
        else:
            found[name] = Spec(policy=leader, log_train_metrics=leader.signal == "loss", **common)
    return found


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """CONSTANTS, GROWING, …: names by kind. goals: what is to be reached, by title; needed: what each run took to it
    (group, system, steps, samples, low, high)."""
    goals = {rf"$\mathrm{{E}}\,\|\nabla f\|^2 = {e:g}$": (lambda run, e=e: run.first_crossing(e**0.5)) for e in p.eps2}
    goals[f"test accuracy {100 * p.accuracy:g} %"] = lambda run: run.first_above(p.accuracy)
    needed = [
        {"group": group, "system": system, **reached(run)._asdict()}
        for group, reached in goals.items()
        for system, run in runs.items()
    ]
    names = {kind: [*of_kind] for kind, of_kind in schedules(p).items()}
    return SimpleNamespace(
        p=p,
        runs=runs,
        CONSTANTS=names["constant"],
        GROWING=names["growing"],
        DECAYING=names["decaying"],
        RAMPS=names["ramps"],
        POLICIES=names["policies"],
        goals=goals,
        needed=pd.DataFrame(needed),
        FIRST=names["constant"][0],
    )


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p
    bars = plotting.costs(res.needed, list(res.goals))
    in_steps = plotting.costs(
        res.needed.assign(samples=res.needed["steps"], low=res.needed["steps"], high=res.needed["steps"]),
        list(res.goals),
        "steps",
    )
    shown = [res.FIRST, "b × 2", "b × 2, η × 1.4", DECAY, GROW, *res.RAMPS, res.POLICIES[0], FREE, *p.plans]
    curves = plotting.trajectories(
        {name: res.runs[name] for name in shown}, ("batch_size", "lr", "loss", "grad_sqnorm", "test_error")
    )
    return {
        "bars": (
            bars,
            "Gradient evaluations to each goal, of updates alone. Point: crossing of the mean over seeds; bar: 95 % "
            "interval over seeds; cross: not reached in the budget.",
        ),
        "steps": (in_steps, "Steps to the same goals. Cross: not reached in the budget."),
        "curves": (curves, "Some of the systems. Means over seeds; bands: 95 % interval over seeds."),
    }


def at_end(run: Run) -> Interval:
    return Interval(*(end[-1] for end in run.mean_ci()))


def claims(res: SimpleNamespace) -> list[Check]:
    p = res.p
    table = res.needed.set_index(["group", "system"])
    levels = list(res.goals)[: len(p.eps2)]

    def of(system, column="samples"):
        """At each ε."""
        return table.loc[[(level, system) for level in levels], column].to_numpy()

    best = pd.DataFrame(
        {end: np.min([of(name, end) for name in res.CONSTANTS], axis=0) for end in ("samples", "low", "high")}
    )
    growing = [name for name in (*res.GROWING, *res.DECAYING) if name != "b × 2, η × 1.4"]
    accurate = table.loc[list(res.goals)[-1]]
    above = (
        np.exp(
            np.interp(
                np.log(of(DECAY)[-1]),
                np.log(res.runs[GROW].samples[1:]),
                np.log(res.runs[GROW].expected[1:]),
            )
        )
        / p.eps2[-1]
    )
    checks = [
        Check(
            f"At the end of the budget E‖∇f‖² is lower with “b × 2”, “{DECAY}” and “{FREE}” than with constant "
            f"b = {p.batch_size} (ratio)",
            "upper_bound",
            theory=1.0,
            source="T2 [S], T14 [N]",
            figure="curves",
            **over_next(*([at_end(res.runs[name]), at_end(res.runs[res.FIRST])] for name in ("b × 2", DECAY, FREE))),
        ),
        Check(
            f"At the end of the budget E‖∇f‖² is lower with “{res.RAMPS[0]}” and “{res.RAMPS[1]}”, which know the "
            "budget, than with every plan that grows b or lowers η by stages (ratio)",
            "upper_bound",
            theory=1.0,
            source="T16 [N]",
            figure="curves",
            **over_next(
                *(
                    [at_end(res.runs[ramp]), at_end(res.runs[name])]
                    for ramp in res.RAMPS
                    for name in (*res.GROWING, *res.DECAYING)
                )
            ),
        ),
        Check(
            "Every schedule that grows b/η without looking stays within 8/3 of the best constant batch size at every ε",
            "upper_bound",
            **ratios(
                table.loc[[(level, name) for name in growing for level in levels]], pd.concat([best] * len(growing))
            ),
            theory=8 / 3,
            source="T6 [N]",
            figure="bars",
        ),
        Check(
            "Growing b where η would decay takes as many gradient evaluations to every ε, within 15 %",
            "equal",
            **ratios(table.loc[[(level, GROW) for level in levels]], table.loc[[(level, DECAY) for level in levels]]),
            theory=1.0,
            tolerance=0.15,
            source="T8 [S]",
            figure="bars",
            explanation=f"At ε² = {p.eps2[-1]:g} the ratio is {of(GROW)[-1] / of(DECAY)[-1]:.3g}. Where the "
            f"decaying plan has come to ε², the growing one's E‖∇f‖² is {above:.3g} times as large. "
            "T8's equality is of the noise, where η is small; [`08_grow_or_decay`](08_grow_or_decay.ipynb) measures "
            "the distance between such curves.",
        ),
        Check(
            f"Constant b = {p.batch_size} gets to {100 * p.accuracy:g} % test accuracy in no more gradient "
            "evaluations than any larger constant batch size",
            "ordering",
            measured=[accurate.loc[name, "samples"] for name in res.CONSTANTS],
            interval=[[accurate.loc[name, "low"], accurate.loc[name, "high"]] for name in res.CONSTANTS],
            source="T2 [S]",
            figure="bars",
        ),
        Check(
            "No schedule that begins at (b₀, η₀) and grows by stages takes more than 1.25 times as many evaluations "
            f"to {100 * p.accuracy:g} % as constant b = {p.batch_size}",
            "upper_bound",
            **ratios(
                accurate.loc[[*res.GROWING, *res.DECAYING]],
                accurate.loc[[res.FIRST] * len([*res.GROWING, *res.DECAYING])],
            ),
            theory=1.25,
            prediction="goal",
            source="T6 [N]",
            figure="bars",
            explanation=f"Stages in proportion to (δ/γ)^2m leave b₀ after {100 / 85:.2g} % of the budget, before the "
            f"accuracy is there, and are at 8 b₀ for {6400 / 85:.3g} % of it. "
            "It is the allotment for a long run's ‖∇f‖, not for a short one's accuracy.",
        ),
    ]
    return checks
