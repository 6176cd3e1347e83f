"""05: growing batch size and learning rate together, at equal steps and at equal epochs a stage (T5)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import AfterValidator, PositiveFloat, PositiveInt

from sfolib import plotting
from sfolib.analysis.claims import Check, LeftOut, check, over_next
from sfolib.analysis.constants import as_constants, estimate
from sfolib.analysis.fits import fit_exponent
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting.schedules import exact_paths, exponents, goals, rising, value_at, without_noise
from sfolib.plotting.style import number
from sfolib.schedules.base import exponential
from sfolib.schedules.diagnostics import validity
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import stagewise
from sfolib.theory import bounds, stage_growth
from sfolib.training.estimates import Interval, of_means
from sfolib.training.records import Run
from sfolib.training.spec import Spec


def _rising(values: list[float]) -> list[float]:
    return sorted(set(values))


Growths = Annotated[list[Annotated[float, Field(ge=1)]], Field(min_length=1), AfterValidator(_rising)]
EPOCHS = {"softmax": 70, "mlp": 35, "cnn": 35}


class Parameters(notebook.ModelsParameters, notebook.PlansParameters):
    FEW: ClassVar[dict[str, Any]] = {"gammas": [1.0, 1.2, 2**0.5], "deltas": [2.0, 4.0]}
    ALL: ClassVar[dict[str, Any]] = {"gammas": [1.0, 1.1, 1.2, 1.3, 1.4, 2**0.5], "deltas": [2.0, 3.0, 4.0]}
    START: ClassVar[dict[str, Any]] = {"batch_size": 4, "max_batch_size": 256, "lr": 0.04, "stages": 7}
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": START | FEW | {"model": "softmax", "seeds": 3, "epochs": EPOCHS},
        "quick": START | ALL | {"model": "softmax,mlp", "seeds": 5, "epochs": EPOCHS},
        "paper": START | ALL | {"model": "softmax,mlp,cnn", "seeds": 16, "epochs": 210},
    }
    ELSEWHERE: ClassVar[dict[str, Any]] = {
        "model": "cnn8", "batch_size": 16, "max_batch_size": 2048, "lr": 0.1, "stages": 8,
    }  # fmt: skip
    IMAGES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": ELSEWHERE | FEW | {"seeds": 2, "epochs": 4, "stages": 4},
        "quick": ELSEWHERE | FEW | {"seeds": 3, "epochs": 8},
        "paper": ELSEWHERE | ALL | {"seeds": 3, "epochs": 200},
    }

    model: str = Field(None, description="one or more of its models, by commas; None: by scale, not on CIFAR")
    batch_size: PositiveInt = by_scale("at the start; on digits critical at ε² of 0.01, see notebook 01")
    lr: PositiveFloat = by_scale("at the start")
    delta: notebook.Above1 = Field(2.0, description="batch growth a stage, with …")
    gammas: Growths = by_scale("… each of these learning-rate growths, and with γ equal to δ")
    gamma: Annotated[float, Field(ge=1)] = Field(1.4, description="learning-rate growth a stage, with …")
    deltas: Growths = by_scale("… each of these batch growths, from γ² on")
    max_batch_size: PositiveInt = by_scale("cap of the batch; δ of 2 just meets it")
    stages: PositiveInt = by_scale("of equal epochs, or of equal steps")
    epochs: PositiveInt | dict[str, PositiveInt] = by_scale("of each model, or one number for all")
    seeds: PositiveInt = by_scale("independent runs")
    adam_lr: PositiveFloat = Field(0.004, description="of Adam, at the start")


BANDS = "Markers: mean over seeds; bands: 95 % interval over seeds."


def schedules(p):
    """A growth (δ, γ) a stage as the authors' programs have it: batch and lr by the clock, only the batch is capped."""

    def growth(delta, gamma, every, clock="epoch", lr=p.lr):
        return Plan(exponential(p.batch_size, delta, every), exponential(lr, gamma, every), clock, p.max_batch_size)

    return growth


def name(delta: float, gamma: float) -> str:
    return f"δ = {delta:g}, γ = {gamma:.3g}"


def pairs_of(p: Parameters) -> list[tuple[float, float]]:
    """(δ, γ): every γ and γ = δ at the main δ, every δ at the main γ."""
    return list(dict.fromkeys([(p.delta, g) for g in [*p.gammas, p.delta]] + [(d, p.gamma) for d in p.deltas]))


def plans_of(p: Parameters, model: str, schedules: Any) -> dict[str, Plan]:
    """A model's plans of equal epochs by name; for softmax, whose L is known, two of them with T7's caps too. The
    reader's own come last."""
    every = max(1, p.epochs_of(model) // p.stages)
    plans = {name(*pair): schedules(*pair, every) for pair in pairs_of(p)}
    if model == "softmax":
        caps = {"max_lr": 1.9 / p.problem(model).smoothness_bound, "max_batch_size": p.max_batch_size}
        for pair in ((p.deltas[-1], p.gamma), (p.delta, p.delta)):
            plans[f"{name(*pair)}, T7"] = stagewise(
                p.batch_size, p.lr, *pair, p.stages, p.stages * every, exponent=0.0, **caps
            )
    return plans | p.own_plans(p.max_batch_size, plans)


def steps_a_stage(p: Parameters) -> tuple[int, int]:
    """Of equal steps, such that δ and all stages spend the softmax model's budget; and what they then spend."""
    whole = p.batch_size * sum(p.delta**m for m in range(p.stages))
    each = max(1, round(p.epochs_of("softmax") * p.problem("softmax").size / whole))
    return each, round(each * whole)


def specs(p: Parameters, schedules: Any, runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    found: dict[Hashable, Spec] = {}
    seeds = tuple(range(p.seeds))
    middle = p.gammas[(len(p.gammas) - 1) // 2]
    for model in p.models:
        problem, epochs = p.problem(model), p.epochs_of(model)
        common = {"problem": problem, "seeds": seeds}
        common["sampling"] = "replacement" if model == "softmax" else "permutation"
        for label, plan in plans_of(p, model, schedules).items():
            found["equal epochs", model, label] = Spec(plan=plan, max_samples=epochs * problem.size, **common)
        if model == "softmax":
            each, _ = steps_a_stage(p)
            for pair in pairs_of(p):
                found["equal steps", model, name(*pair)] = Spec(
                    plan=schedules(*pair, each, "step"), max_samples=epochs * problem.size, eval_every=1.04,
                    max_steps=each * p.stages, **common,
                )  # fmt: skip
            for g in (p.gammas[0], p.gammas[-1]):
                noisy = runs.get(("equal epochs", model, name(p.delta, g)))
                if noisy:
                    found["noise-free", g] = Spec(
                        problem=problem, plan=without_noise(noisy, problem.size),
                        max_samples=int(noisy.steps[-1]) * problem.size, eval_every=1.05,
                    )  # fmt: skip
        for g in (p.gammas[0], middle, p.gammas[-1], p.delta):
            plan = schedules(p.delta, g, max(1, epochs // 2 // p.stages), lr=p.adam_lr)
            found["adam", model, name(p.delta, g)] = Spec(
                plan=plan, max_samples=epochs // 2 * problem.size, optimizer="adam", **common
            )
    return found


def reports(p: Parameters, runs: Mapping[Hashable, Run], schedules: Any, device: str) -> pd.DataFrame:
    """`validity` of each plan, by model: what the theory says of it."""
    found = {}
    for model in p.models:
        problem, epochs = p.problem(model), p.epochs_of(model)
        plans = plans_of(p, model, schedules)
        if model == "softmax":
            of = [
                run
                for key, run in runs.items()
                if key[:2] == ("equal epochs", model) and key[2] not in p.plans and run.status != "diverged"
            ]
            constants = problem.constants(max(run.rows["variance"].max() for run in of))
            each, spent = steps_a_stage(p)
            for pair in pairs_of(p):
                plan = schedules(*pair, each, "step")
                found[f"{model}, {name(*pair)}, equal steps"] = validity(plan, constants, spent, 1)
        else:
            plan = plans[name(p.delta, p.gammas[0])]
            constants = as_constants(
                estimate(Spec(problem=problem, plan=plan, max_samples=epochs * problem.size), device)
            )
            epochs -= 1
        for label, plan in plans.items():
            found[f"{model}, {label}, equal epochs"] = validity(plan, constants, problem.size, epochs)
    return pd.DataFrame({title: report._asdict() for title, report in found.items()}).T


def late_exponent(run: Run, stages: int) -> Interval:
    """The slope of ln E‖∇f‖² in ln N over the last three stages of equal steps, with its interval over seeds."""
    late = run.steps >= max(1, run.steps[-1] * (1 - 3 / stages))
    curves = run.averaged(run.curves())
    known = late & np.isfinite(curves).all(0) & (curves > 0).all(0)
    if known.sum() < 3:
        return Interval(np.nan, np.nan, np.nan)
    return of_means(lambda mean: fit_exponent(run.samples[known], mean).value, curves[:, known])


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """equal_steps, equal_epochs: exact paths by name of the pair. predicted, exact: exponents by pair; measured:
    slopes. runs: of equal epochs, by model and label; steps_runs: softmax's of equal steps; descent: where noise-free
    ones end, by γ; adam: Adam's. frame: what each needs to its goal. best, least, middle, …: names of pairs that claims
    set beside each other."""
    pairs = pairs_of(p)

    def of_kind(kind: str, model: str) -> dict[str, Run]:
        return {key[2]: run for key, run in runs.items() if key[:2] == (kind, model)}

    of_model = {model: of_kind("equal epochs", model) for model in p.models}
    steps_runs = of_kind("equal steps", "softmax")
    titles = {f"{p.dataset}, {model}, equal epochs": of for model, of in of_model.items()}
    titles |= {f"{p.dataset}, softmax, equal steps": steps_runs} if steps_runs else {}
    found = []
    for title, of in titles.items():
        ends = [of[name(*pair)].expected[-1] for pair in pairs if pair[1] < pair[0]] or [
            of[name(*pairs[0])].expected[-1]
        ]
        goal = 1.05 * max(ends)
        plain = {label: run for label, run in of.items() if label in p.plans or not label.endswith(", T7")}
        group = f"{title.removeprefix(p.dataset + ', ').replace(', ', chr(10))}\n$\\varepsilon^2$ = {number(goal)}"
        found.append(goals(plain, goal, group).assign(title=title))
    first = of_model[p.models[0]]
    return SimpleNamespace(p=p, pairs=pairs,
        equal_steps={name(*pair): stage_growth.exact_path(*pair, 1.0) for pair in pairs},
        equal_epochs={name(*pair): stage_growth.exact_path(*pair, 1 / pair[0]) for pair in pairs},
        predicted={pair: float(bounds.rate_exponent(*pair, 1.0)) for pair in pairs},
        exact={pair: stage_growth.exact_exponent(*pair, 1.0) for pair in pairs},
        measured={pair: late_exponent(steps_runs[name(*pair)], p.stages) for pair in pairs} if steps_runs else {},
        runs=of_model, steps_runs=steps_runs,
        descent={key[1]: run.expected[-1] for key, run in runs.items() if key[0] == "noise-free"},
        adam={model: of_kind("adam", model) for model in p.models}, frame=pd.concat(found), first=first,
        capped=[label for label in first if label.endswith(", T7") and label not in p.plans],
        best=name(p.delta, p.gammas[-1]), least=name(p.delta, p.gammas[0]),
        middle=name(p.delta, p.gammas[(len(p.gammas) - 1) // 2]),
        scaled=name(p.delta, p.delta), widest=name(p.deltas[-1], p.gamma),
        square=name(p.deltas[0], p.gamma))  # fmt: skip


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p
    rates = exact_paths(
        {"equal steps a stage": ("samples", res.equal_steps), "equal epochs a stage": ("samples", res.equal_epochs)},
        most=1e16,
    )
    cost = plotting.costs(res.frame, list(dict.fromkeys(res.frame["group"])))
    shown = (res.least, res.middle, res.best, *res.capped, *(c.removesuffix(", T7") for c in res.capped), *p.plans)
    schedules = plotting.trajectories({label: res.first[label] for label in shown})
    grid, at_delta = np.linspace(1.0, p.delta, 201), [pair for pair in res.pairs if pair[0] == p.delta]
    dots = {"quadratic, exact": res.exact} | (
        {"digits, softmax regression": {pair: -found.value for pair, found in res.measured.items()}}
        if res.measured
        else {}
    )
    slopes = exponents(
        grid,
        bounds.rate_exponent(p.delta, grid, 1.0),
        {label: ([g for _, g in at_delta], [of[pair] for pair in at_delta]) for label, of in dots.items()},
    )
    adam_figures = {f"adam_{model}": plotting.trajectories(of) for model, of in res.adam.items()}
    return {
        "rates": (rates,
            "Synthetic quadratic, exact expectation at the ends of stages. Left: at equal steps a stage the pair on "
            "δ = γ² is steepest. Right: at equal epochs "
            "a stage every pair stops; γ = δ at its noise, the others for want of descent, the later the larger γ."),
        "exponents": (slopes,
            f"Exponent in N at equal steps a stage, δ = {p.delta:g}. Dashed: T5. Digits falls faster than what T5 "
            "promises for any smooth f: its ℓ2 makes it strongly convex."),
        "schedules": (schedules,
            f"{p.models[0]}, equal epochs a stage: batch size, learning rate, loss and ‖∇f‖² against gradient "
            "evaluations. T7: with T7's caps. "
            + ("Plans of your own are in this figure, and among the costs at equal epochs. " if p.plans else "")
            + BANDS),
        "cost": (cost,
            "Gradient evaluations to a gradient that all pairs with γ < δ reach. At equal epochs a stage it is noise "
            "that decides, and the pair that is rid of it first gets there first; at equal steps it is descent, and "
            "the goal is too easy for the noise of γ = δ to show. Dots: crossing of the mean over seeds; bars: 95 % "
            "interval over seeds; cross: not reached."), **{
            key: (figure, f"Adam, {key.removeprefix('adam_')}, equal epochs a stage. " + BANDS)
            for key, figure in adam_figures.items()}}  # fmt: skip


def claims(res: SimpleNamespace) -> notebook.Claims:
    p = res.p

    def end(of, *labels):
        return [value_at(of[label], "grad_sqnorm") for label in labels]

    rated = [pair for pair in res.pairs if res.predicted[pair] > 0]
    slower = [pair for pair in res.pairs if pair[1] < pair[0]]
    quiet = stage_growth.WIDE.stage_path(
        [(1e300, lr, steps) for _, lr, steps in stage_growth.growing_stages(p.delta, p.gammas[0], 1 / p.delta)]
    ).grad_sqnorm
    checks = [
        check("Quadratic, equal steps: the exact exponents of these pairs are T5's", "equal",
            measured=[res.exact[pair] for pair in rated], theory=[res.predicted[pair] for pair in rated],
            tolerance=0.05, exact=True, source="T5 [N]", figure="rates"),
        check("Quadratic, equal epochs: for every pair with γ < δ the second half of the stages gains nothing", "equal",
            measured=[g.min() / g[: len(g) // 2 + 1].min()
                for g in (res.equal_epochs[name(*pair)].grad_sqnorm for pair in slower)], theory=1.0, tolerance=0.02,
            exact=True, source="T5 [N]", figure="rates",
            explanation="At γ = 1 the learning rate starts at its largest, and after "
            f"{len(res.equal_epochs[res.least].steps) - 1} stages the next would be a single step: half "
            "of them are too few for the sums to be at their limits. "
            f"Without noise, too, the second half gains {1 - quiet.min() / quiet[: len(quiet) // 2 + 1].min():.0%}. "
            "The other pairs have "
            f"{min((len(res.equal_epochs[name(*pair)].steps) - 1 for pair in slower if pair[1] > 1), default=0)} "
            "stages or more.")]  # fmt: skip
    if res.steps_runs:
        here = "Digits, softmax, equal steps"
        nearest_first = [name(p.delta, g) for g in reversed(p.gammas) if g != p.gamma]
        to_goal = (
            res.frame[res.frame["title"] == f"{p.dataset}, softmax, equal steps"].set_index("system").loc[nearest_first]
        )
        checks += [
            check(f"{here}, δ = {p.delta:g}: the nearer γ ≤ √δ is to √δ, the fewer gradient evaluations to the goal",
                "ordering", measured=to_goal["samples"].tolist(), interval=to_goal[["low", "high"]].to_numpy(),
                source="T5 [N], 2508.05297", figure="cost",
                explanation="In the mean it holds for all. The intervals of the two nearest, γ = √δ and "
                f"{' '.join(nearest_first[1:2]).split('= ')[-1]}, overlap."),
            check(f"{here}: for every pair with an exponent p > 0, E‖∇f‖² falls at least as fast as N^−p "
                "(slope of ln E‖∇f‖² in ln N)", "upper_bound", measured=[res.measured[pair].value for pair in rated],
                interval=[res.measured[pair][1:] for pair in rated], theory=[-res.predicted[pair] for pair in rated],
                source="T5 [N]", figure="exponents"),
            rising(f"{here}, δ = {p.delta:g}: the nearer γ ≤ √δ is to √δ, the lower it ends in ‖∇f‖",
                end(res.steps_runs, *nearest_first), "T5 [N], 2508.05297", "cost"),
            rising(f"Digits, softmax, {res.widest}: with T7's caps it ends below the authors' plan, whose lr grows on "
                "at a full batch", end(res.first, res.widest + ", T7", res.widest), "T7 [N]", "schedules"),
            rising(f"Digits, softmax, {res.scaled}, lr held at 1.9/L: still above γ = √δ",
                end(res.first, res.best, res.scaled + ", T7"), "T5, T7 [N]", "schedules"),
            Check("Digits, softmax, equal epochs: without noise, on the same lr and steps, γ = √δ ends below γ = "
                f"{p.gammas[0]:g}", "ordering", measured=[res.descent[p.gammas[-1]], res.descent[p.gammas[0]]],
                exact=True, source="T1 [S]", figure="schedules")]  # fmt: skip
    each = {f"{p.title}, {model}, equal epochs": of for model, of in res.runs.items()}
    if res.steps_runs:
        each = {"Digits, softmax, equal steps": res.steps_runs} | each
    checks += [
        check(f"{claim} in ‖∇f‖² (ratio): {'; '.join(each)}", "upper_bound",
            **over_next(*(end(of, *labels) for of in each.values())), theory=1.0, source="T5 [N], 2508.05297",
            figure="cost")
        for claim, labels in (
            (f"δ = {p.delta:g}: γ = √δ ends below the linear scaling rule γ = δ", (res.best, res.scaled)),
            (f"γ = {p.gamma:g}: δ = {p.deltas[0]:g} ≈ γ² ends below δ = {p.deltas[-1]:g}", (res.square, res.widest)))
    ]  # fmt: skip
    for model, of in res.runs.items():
        here = f"{p.title}, {model}, equal epochs"
        last_steps = (
            of[res.best].steps[-1]
            - of[res.best].steps[of[res.best].epochs <= of[res.best].epochs[-1] * (1 - 1 / p.stages)][-1]
        )
        tail = {label: value_at(of[label], "grad_sqnorm").value for label in (res.least, res.best)}
        more = (
            f" Without noise, on the same lr and steps, γ = {p.gammas[0]:g} ends at {res.descent[p.gammas[0]]:.1e} "
            f"and γ = √δ at {res.descent[p.gammas[-1]]:.1e}, "
            f"where with it they end at {tail[res.least]:.1e} and {tail[res.best]:.1e}: a larger γ does descend "
            "further, and noise hides it."
            if model == "softmax"
            else " As with softmax regression, the loss is lower for the larger γ all the same (below)."
        )
        checks += [
            rising(f"{here}, δ = {p.delta:g}: γ = √δ ends below {res.middle.split(', ')[1]}, and that below γ = "
                f"{p.gammas[0]:g}", end(of, res.best, res.middle, res.least), "2508.05297", "cost",
                explanation=f"The last stage has η/b {p.gammas[-1] ** (p.stages - 1):.1f} times that of γ = "
                f"{p.gammas[0]:g}, and stages of equal epochs leave it " f"{last_steps} steps." + more),
            rising(f"{here}, δ = {p.delta:g}: γ = √δ ends with a lower loss than {res.middle.split(', ')[1]}, and that "
                f"than γ = {p.gammas[0]:g}",
                [value_at(of[label], "loss") for label in (res.best, res.middle, res.least)], "T1 [S]", "cost"),
            rising(f"{p.title}, {model}, Adam, δ = {p.delta:g}: γ = {p.gammas[0]:g} ends "
                "below γ = √δ, which keeps η/√b, and that below γ = δ",
                end(res.adam[model], res.least, res.best, res.scaled), "2205.10287", f"adam_{model}")]  # fmt: skip
    return [judged(p, claim) for claim in checks]


def judged(p: Parameters, claim: Check | LeftOut) -> Check | LeftOut:
    """The claim, unless it is of growths that are not among these parameters."""
    if "√δ" in claim.claim and not np.isclose(p.gammas[-1] ** 2, p.delta, rtol=0.05):
        return LeftOut(claim.claim, f"the largest of gammas, {p.gammas[-1]:g}, is not √δ = {p.delta**0.5:.3g}")
    if "≈ γ²" in claim.claim and (len(p.deltas) < 2 or not np.isclose(p.deltas[0], p.gamma**2, rtol=0.05)):
        return LeftOut(claim.claim, "it needs two deltas, the least of them about gamma²")
    return claim
