"""04: growing the batch at a constant learning rate: per gradient evaluation, per step, per epoch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt

from sfolib import plotting
from sfolib.analysis.claims import Check, check
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band
from sfolib.plotting.schedules import at_step, exact_paths, goals, rising, spending, taken, value_at
from sfolib.plotting.style import number
from sfolib.problems.specs import Problem, Quadratic
from sfolib.schedules.base import exponential, linear
from sfolib.schedules.plan import Plan
from sfolib.theory import bounds
from sfolib.training.estimates import ratio_of_means
from sfolib.training.records import Run
from sfolib.training.spec import Spec

EPOCHS = {"softmax": 200, "mlp": 60, "cnn": 10}


class Parameters(notebook.ModelsParameters, notebook.PlansParameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"model": "softmax", "seeds": 5, "epochs": EPOCHS, "max_batch_size": 1024, "accuracy": 0.95},
        "quick": {
            "model": "softmax,mlp,cnn",
            "seeds": 5,
            "epochs": EPOCHS,
            "max_batch_size": 1024,
            "accuracy": 0.95,
        },
        "paper": {"model": "softmax,mlp,cnn", "seeds": 16, "epochs": 200, "max_batch_size": 1024, "accuracy": 0.95},
    }
    IMAGES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"model": "cnn8", "seeds": 2, "epochs": 2, "max_batch_size": 2048, "accuracy": 0.8},
        "quick": {"model": "cnn8", "seeds": 3, "epochs": 5, "max_batch_size": 2048, "accuracy": 0.8},
        "paper": {"model": "cnn8", "seeds": 3, "epochs": 200, "max_batch_size": 2048, "accuracy": 0.8},
    }

    model: str = Field(None, description="one or more of its models, by commas; None: by scale, not on CIFAR")
    lr: PositiveFloat = Field(0.1, description="learning rate η, constant")
    batch_sizes: notebook.Counts = Field([16, 64, 256], description="constant ones; growth starts from the first")
    increment: PositiveInt = Field(16, description="linear growth a stage")
    delta: notebook.Above1 = Field(2.0, description="exponential growth a stage")
    max_batch_size: PositiveInt = by_scale("cap of a growing batch")
    accuracy: Annotated[float, Field(gt=0, le=1)] = by_scale("of the test images, a goal")
    stages: PositiveInt = Field(10, description="of equal epochs")
    epochs: PositiveInt | dict[str, PositiveInt] = by_scale("of each model, or one number for all")
    seeds: PositiveInt = by_scale("independent runs")
    quadratic_lr: PositiveFloat = Field(0.5, description="synthetic quadratic with L of 1: learning rate η")
    quadratic_seeds: PositiveInt = Field(16, description="its independent runs")


LINEAR, EXPONENTIAL = "linear growth", "exponential growth"
GROWING = [LINEAR, EXPONENTIAL]
QUADRATIC = Quadratic(lam_min=1e-6)
OF_CLOCK = (
    "Rows share their vertical axis; columns are the same runs against gradient evaluations, to which epochs are "
    "proportional, and steps. "
    "Markers: "
    "mean over seeds; bands: 95 % interval over seeds. "
)


def schedules(p):
    """A constant batch size, linear and exponential growth from it, for so many epochs; only the batch is capped."""

    def growth(lr, epochs, cap, constant):
        every = max(1, epochs // p.stages)
        plans = {f"constant $b={b}$": Plan(b, lr) for b in constant}
        plans["linear growth"] = Plan(linear(p.batch_sizes[0], p.increment, every), lr, max_batch_size=cap)
        plans["exponential growth"] = Plan(exponential(p.batch_sizes[0], p.delta, every), lr, max_batch_size=cap)
        return plans | p.own_plans(cap, plans)

    return growth


def specs(p: Parameters, schedules: Any, runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    found: dict[Hashable, Spec] = {}

    def add(name: str, problem: Problem, n: int, epochs: int, plans: Mapping[str, Plan], **how: Any) -> None:
        for label, plan in plans.items():
            found[name, label] = Spec(problem=problem, plan=plan, max_samples=epochs * n, eval_every="epoch", **how)

    cap = min(p.max_batch_size, QUADRATIC.samples_per_epoch)  # a larger step would leave an epoch out
    plans = schedules(p.quadratic_lr, 6 * p.stages, cap, p.batch_sizes)
    how = {"sampling": "replacement", "seeds": tuple(range(p.quadratic_seeds)), "dtype": "float64"}
    add("quadratic", QUADRATIC, QUADRATIC.samples_per_epoch, 6 * p.stages, plans, **how)
    for model in p.models:
        problem, epochs = p.problem(model), p.epochs_of(model)
        constant = p.batch_sizes[:1] if model == "cnn" else p.batch_sizes
        sampling = "replacement" if model == "softmax" else "permutation"
        plans = schedules(p.lr, epochs, p.max_batch_size, constant)
        add(model, problem, problem.size, epochs, plans, sampling=sampling, seeds=tuple(range(p.seeds)))
    grown = runs.get(("softmax", EXPONENTIAL))
    if grown:  # without noise: all images in every step, as many steps
        problem = p.problem("softmax")
        samples = int(grown.steps[-1]) * problem.size
        found["noise-free"] = Spec(problem=problem, plan=Plan(problem.size, p.lr), max_samples=samples, eval_every=1.05)
    return found


def is_short(p: Parameters, model: str) -> bool:
    """Whether a model's budget ends before noise is what keeps its gradient up."""
    return model == "cnn" and p.scale != "paper"


def computed(p: Parameters, runs: Mapping[str, Run], L: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(batch_size, lr) of each step, by label; a reader's plan only where it counts epochs (see `taken`) and its lr
    stays below 2/L, as T1 asks."""
    pairs = {label: taken(run) for label, run in runs.items()}
    left_out = {k for k, plan in p.own_plans().items() if plan.clock != "epoch" or pairs[k][1].max() >= 2 / L}
    return {label: pair for label, pair in pairs.items() if label not in left_out}


def on_clocks(
    runs: Mapping[str, Run], source: str, curves: Mapping[str, np.ndarray], column: str = "grad_sqnorm"
) -> dict[tuple[str, str], list[Band]]:
    """Curves over steps (by run, the bound's from step 1 on) as bands against each clock."""
    first = 1 if source == "bound" else 0
    return {
        (column, clock): [
            Band(k, source, getattr(runs[k], clock)[1:], v[runs[k].steps[1:] - first]) for k, v in curves.items()
        ]
        for clock in ("samples", "steps")
    }


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """quadratic, runs: runs by label, of the quadratic and of each model. exact, exact_loss, bound_q: curves over steps
    for the quadratic's; far: exact paths that go on. bound: T1's for softmax, descent: its noise-free run. shown: the
    model whose schedules are shown; reached, frame: what each schedule needs to its goals. A reader's plans have exact
    curves and bounds as far as `computed` says."""
    of_quadratic = {key[1]: run for key, run in runs.items() if key[0] == "quadratic"}
    of_model = {m: {key[1]: run for key, run in runs.items() if key[0] == m} for m in p.models}
    q, m, base = QUADRATIC.exact, np.arange(10_000), p.batch_sizes[0]
    pairs = computed(p, of_quadratic, 1.0)
    stage = 2 * QUADRATIC.samples_per_epoch
    grown = np.array([bounds.capped_stage(k, base, p.quadratic_lr, p.delta, 1.0).batch_size for k in range(60)])
    growing = {
        f"constant $b={base}$": (base + 0.0 * m, stage * (1.0 + m)),
        LINEAR: (base + p.increment * m, stage),
        EXPONENTIAL: (grown, stage),
        "exponential, stages × δ² (T4)": (grown, stage * (grown / base) ** 2),
    }
    softmax, constants, bound = of_model.get("softmax"), None, {}
    if softmax:
        constants = p.problem("softmax").constants(
            max(run.rows["variance"].max() for run in softmax.values() if run.status != "diverged")
        )
        of_softmax = computed(p, softmax, constants.L)
        bound = {label: bounds.gradient_bound(constants, *pair) for label, pair in of_softmax.items()}
    shown, first = "mlp" if "mlp" in of_model else p.models[-1], f"constant $b={base}$"
    floor = {name: float(of[first].expected[-len(of[first].steps) // 4 :].mean()) for name, of in of_model.items()}
    reached = {
        name: goals(of, floor[name] / 3, f"{name}: $\\varepsilon^2$ = {number(floor[name] / 3)}")
        for name, of in of_model.items()
        if not is_short(p, name)
    }
    accurate = goals(of_model[shown], p.accuracy, f"{shown}: {p.accuracy:.0%} of test images", "test_accuracy")
    return SimpleNamespace(p=p, q=q, runs_q=of_quadratic, runs=of_model,
        exact={label: q.grad_sqnorm_path(*pair) for label, pair in pairs.items()},
        exact_loss={label: q.loss_path(*pair) for label, pair in pairs.items()},
        bound_q={label: bounds.gradient_bound(q.constants(), *pair) for label, pair in pairs.items()},
        far={label: q.stage_path(spending(p.quadratic_lr, *plan, total=1e7)) for label, plan in growing.items()},
        softmax=softmax, constants=constants, bound=bound, descent=runs.get("noise-free"), shown=shown, FIRST=first,
        reached=reached, frame=pd.concat([*reached.values(), accurate]))  # fmt: skip


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p
    both = [on_clocks(res.runs_q, "bound", res.bound_q), on_clocks(res.runs_q, "exact", res.exact)]
    over = {key: both[0][key] + both[1][key] for key in both[0]} | on_clocks(
        res.runs_q, "exact", res.exact_loss, "loss"
    )
    synthetic = plotting.against_clocks(res.runs_q, ("grad_sqnorm", "loss"), over)
    rates = exact_paths({"against gradient evaluations": ("samples", res.far), "against steps": ("steps", res.far)})
    own_lr = any(run.rows["lr"].nunique() > 1 for run in res.runs[res.shown].values())
    rate = ("lr",) if own_lr else ()
    schedules = plotting.trajectories(res.runs[res.shown], ("batch_size", *rate, "loss", "grad_sqnorm", "test_error"))
    panels = {
        model: plotting.against_clocks(of, theory=on_clocks(of, "bound", res.bound) if model == "softmax" else None)
        for model, of in res.runs.items()
    }
    cost = plotting.costs(res.frame, list(dict.fromkeys(res.frame["group"])))
    return {
        "quadratic": (synthetic, "Synthetic quadratic. " + OF_CLOCK
            + "Dashed: bound (T1), thin: exact expectation (under the markers), in the colour of their schedule. The "
            "gradient ranks the schedules otherwise than the loss does."),
        "rates": (rates,
            "Synthetic quadratic, exact, the schedules going on without caps: the exponential one runs out of steps, "
            "the linear one nearly; T4's longer stages do not."
            + (" Plans of your own are not among them." if p.plans else "")), **{name: (figure,
                f"{p.title}, {name}. " + OF_CLOCK
                + ("Dashed: bound (T1), with measured constants." if name == "softmax" else ""))
            for name, figure in panels.items()},
        "schedules": (schedules,
            f"{res.shown}: batch size, loss, ‖∇f‖² and test error against gradient evaluations. Bands: 95 % "
            "interval over seeds."),
        "cost": (cost, "Gradient evaluations to each goal. Dots: crossing of the mean over seeds; bars: 95 % interval "
            "over seeds; cross: not reached in the budget.")}  # fmt: skip


def claims(res: SimpleNamespace) -> notebook.Claims:
    p = res.p
    end_q = {label: path[-1] for label, path in res.exact.items()}
    constant_q = [label for label in res.exact if label.startswith("constant $")]
    fewest = len(res.exact[EXPONENTIAL]) - 1  # steps of the exponential growth
    checks = [
        Check(f"Quadratic: constant b = {p.batch_sizes[0]} stays at its stationary noise Σ λ s η/(b(2 − ηλ)), exactly "
            "and sampled", "equal", measured=[end_q[res.FIRST], res.runs_q[res.FIRST].expected[-1]],
            interval=[[end_q[res.FIRST]] * 2, value_at(res.runs_q[res.FIRST], "grad_sqnorm")[1:]], theory=float(
                np.sum(res.q.eigenvalues * res.q.noise_variance / (2 - p.quadratic_lr * res.q.eigenvalues))
                * p.quadratic_lr / p.batch_sizes[0]), tolerance=0.15, source="T1, T9 [S]", figure="quadratic"),
        Check("Quadratic, exact: at the end of the budget both growing batches are below every constant one",
            "ordering", measured=[max(end_q[k] for k in GROWING), min(end_q[k] for k in constant_q)], exact=True,
            source="2501.08883", figure="quadratic"),
        check(f"Quadratic, exact, per step: after the {fewest} steps of the exponential growth it is lowest, then "
            f"linear, then b = {p.batch_sizes[0]}", "ordering",
            measured=[res.exact[k][fewest] for k in (EXPONENTIAL, LINEAR, res.FIRST) if fewest < len(res.exact[k])],
            exact=True, source="T1 [S]", figure="quadratic"),
        Check("Quadratic, exact, 10⁷ evaluations: T4's stages are lowest, then linear, exponential, constant",
            "ordering", measured=[res.far[k].grad_sqnorm[-1] for k in reversed(res.far)][:1]
            + [res.far[k].grad_sqnorm[-1] for k in (LINEAR, EXPONENTIAL, res.FIRST)], exact=True, source="T5 [N]",
            figure="rates"),
        Check("Quadratic, exact: exponential growth ends with a lower loss than the constant batch size", "ordering",
            measured=[res.exact_loss[EXPONENTIAL][-1], res.exact_loss[res.FIRST][-1]], exact=True, source="2409.08770",
            figure="quadratic", explanation=f"It has taken {fewest} steps where the constant batch size has taken "
            f"{len(res.exact[res.FIRST]) - 1}. Noise-free descent in as many steps ends at "
            f"{float(res.q.loss(1e300, p.quadratic_lr, fewest)):.3f}: what is left of the loss is missing steps, not "
            "noise. ‖∇f‖² weights the directions that are still missing by their curvature squared, the loss by "
            "their curvature.")]  # fmt: skip
    if res.softmax:
        checks += [
            Check("Digits, softmax: min E‖∇f‖² is at most T1's bound at every step of every schedule", "upper_bound",
                measured=[res.softmax[k].ratio_to(bound).value for k, bound in res.bound.items()],
                interval=[res.softmax[k].ratio_to(bound)[1:] for k, bound in res.bound.items()], theory=1.0,
                source="T1 [S]", figure="softmax"),
            Check("Quadratic and digits, softmax: exponential growth ends with the loss of noise-free descent in as "
                "many steps", "equal",
                measured=[res.exact_loss[EXPONENTIAL][-1], value_at(res.softmax[EXPONENTIAL], "loss").value],
                interval=[[res.exact_loss[EXPONENTIAL][-1]] * 2, value_at(res.softmax[EXPONENTIAL], "loss")[1:]],
                theory=[float(res.q.loss(1e300, p.quadratic_lr, fewest)), float(res.descent.rows["loss"].iloc[-1])],
                tolerance=0.02, headline=True, source="T1 [S]", figure="softmax")]  # fmt: skip
    for name, of in res.runs.items():
        title = f"{p.title}, {name}"
        end = {k: value_at(run, "grad_sqnorm") for k, run in of.items()}
        half = value_at(of[res.FIRST], "grad_sqnorm", of[res.FIRST].steps[-1] / 2)
        K, taken_by = (
            of[EXPONENTIAL].steps[-1],
            ", ".join(f"{k} {of[k].steps[-1]} steps" for k in (res.FIRST, *GROWING)).replace("$", ""),
        )
        more = value_at(of[EXPONENTIAL], "test_accuracy").value - value_at(of[res.FIRST], "test_accuracy").value
        early = is_short(p, name)
        compared = [run for k, run in of.items() if k not in (res.FIRST, *p.plans) and run.steps[-1] >= K]
        over = [ratio_of_means(at_step(run, "loss", K), at_step(of[res.FIRST], "loss", K)) for run in compared]
        checks.append(
            rising(f"{title}: at the end of the budget both growing batches are below constant b = {p.batch_sizes[0]} "
                "in ‖∇f‖²", [max(end[k] for k in GROWING), end[res.FIRST]], "2409.08770, 2501.08883", name, **({
                        "explanation": "Growth wins once noise is what keeps the gradient up. In this short budget "
                        "the constant batch size is not at its floor: "
                        f"its ‖∇f‖² was {half.value:.2g} at half of its steps and is {end[res.FIRST].value:.2g} at the "
                        f"end. Growing has only taken steps away ({taken_by})."} if early else {})))  # fmt: skip
        if early:
            continue
        goal = res.reached[name].set_index("system")
        best = goal[goal.index.str.startswith("constant $")].sort_values(["samples", "high"]).iloc[0]
        fast = goal.loc[EXPONENTIAL]
        checks += [
            Check(f"{title}: to a third of constant b = {p.batch_sizes[0]}'s floor, exponential growth needs fewer "
                "evaluations than the best constant batch size", "ordering", measured=[fast.samples, best.samples],
                interval=[[fast.low, fast.high], [best.low, best.high]], source="2501.08883", figure="cost"),
            rising(f"{title}, per step: after the steps of the exponential growth it is lowest in ‖∇f‖², then linear, "
                f"then b = {p.batch_sizes[0]}",
                [value_at(of[k], "grad_sqnorm", K) for k in (EXPONENTIAL, LINEAR, res.FIRST)], "T1 [S]", name),
            check(f"{title}: after as many steps as exponential growth takes, every schedule that takes so many has "
                "the same loss, whatever its batch sizes", "equal", measured=[found.value for found in over],
                interval=[found[1:] for found in over], theory=1.0, tolerance=0.05, source="T1 [S]", figure=name),
            rising(f"{title}: exponential growth ends with a lower loss than constant b = {p.batch_sizes[0]}",
                [value_at(of[k], "loss") for k in (EXPONENTIAL, res.FIRST)], "2409.08770", name,
                explanation=f"At one learning rate the loss goes with the steps ({taken_by}), as the check above has "
                "it."),
            rising(f"{title}: exponential growth ends with a better test accuracy than constant b = {p.batch_sizes[0]}",
                [value_at(of[k], "test_accuracy") for k in (res.FIRST, EXPONENTIAL)], "2508.05297", name,
                explanation=f"It ends {100 * more:+.2f} percentage points from it, at a higher loss.")]  # fmt: skip
    return checks
