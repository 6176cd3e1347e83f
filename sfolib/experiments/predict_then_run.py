"""07: plans made from constants before any training, then run (T2, T11): what they promise, and what they take."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt

from sfolib.analysis import constants
from sfolib.analysis.claims import Check
from sfolib.analysis.crossings import cheapest, crossings, pareto
from sfolib.analysis.pilot import Pilot, fitted_constants, local_smoothness, pilots
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band, trajectories
from sfolib.plotting.predicted import against_target, plane
from sfolib.plotting.style import number
from sfolib.problems.specs import named
from sfolib.schedules import base
from sfolib.schedules.adaptive import GradNormTrigger
from sfolib.schedules.plan import Plan
from sfolib.schedules.theoretical import critical_plan, front_plan
from sfolib.theory import bounds
from sfolib.theory.bounds import Constants
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training.loop import Trainer
from sfolib.training.pooling import pooled
from sfolib.training.records import Run
from sfolib.training.spec import Spec


class Parameters(notebook.Parameters):
    SCALES: ClassVar = notebook.scales(
        models=(["softmax", "mlp"], ["softmax", "mlp"], ["softmax", "mlp", "cnn"]),
        seeds=(3, 5, 32),
        eps2=(
            {"softmax": [0.01, 0.0025], "mlp": [0.08, 0.04]},
            {"softmax": [0.01, 0.0003125], "mlp": [0.04, 0.01]},
            {"softmax": [0.01, 7.8125e-05], "mlp": [0.04, 0.0025], "cnn": [0.1, 0.0125]},
        ),
        lrs=(
            {"softmax": [0.1, 0.4], "mlp": [0.1]},
            {"softmax": [0.1, 0.4, 1.2], "mlp": [0.1, 0.4]},
            {"softmax": [0.1, 0.2, 0.4, 0.8, 1.2], "mlp": [0.1, 0.2, 0.4, 0.8], "cnn": [0.01, 0.02, 0.05, 0.1, 0.2]},
        ),
        batch_sizes=([4, 16, 64], [4, 16, 64, 256], [2**k for k in range(1, 11)]),
        max_samples=(
            {"softmax": 50000, "mlp": 20000},
            {"softmax": 300000, "mlp": 100000},
            {"softmax": 4 * 10**6, "mlp": 2 * 10**6, "cnn": 10**6},
        ),
        max_steps=(
            {"softmax": 2500, "mlp": 1500},
            {"softmax": 8000, "mlp": 2600},
            {"softmax": 10**5, "mlp": 50000, "cnn": 20000},
        ),
        raw_samples=(
            {"softmax": 250000, "mlp": 60000},
            {"softmax": 600000, "mlp": 250000},
            {"softmax": 10**8, "mlp": 10**8, "cnn": 10**7},
        ),
    )

    models: list[str] = by_scale('on digits: "softmax", "mlp", "cnn"')
    eps2: dict[str, notebook.FirstAndLast] = by_scale("for each model, first and last target ε²")
    max_samples: dict[str, PositiveInt] = by_scale("for each model, budget of a run in gradient evaluations …")
    max_steps: dict[str, PositiveInt] = by_scale("… and of a constant pair in steps")
    raw_samples: dict[str, PositiveInt] = by_scale("for each model, budget of the plan from definitions")
    seeds: PositiveInt = by_scale("independent runs")
    r: notebook.Above1 = Field(2.0, description="growth of 1/ε² a stage")
    lr: PositiveFloat = Field(0.1, description="where the published plan starts, and the search at one learning rate")
    pilot_lr: dict[str, PositiveFloat] = Field(
        {"quadratic": 0.1, "softmax": 0.1, "mlp": 0.1, "cnn": 0.02}, description="of the pilot, by problem"
    )
    pilot_batch_sizes: Annotated[notebook.Counts, Field(min_length=2)] = Field([4, 16], description="of the pilot")
    lrs: dict[str, list[PositiveFloat]] = by_scale("for each model, all learning rates of the search")
    batch_sizes: notebook.Counts = by_scale("batch sizes of the search")
    published: notebook.of_length(4) = Field([16, 2.0, 1.4, 20], description="b₀, δ, γ, epochs a stage")
    check_every: PositiveInt = Field(
        100, description="steps between two looks at ‖∇f‖, where the ends of stages are measured"
    )
    max_batch_size: PositiveInt = Field(1024, description="cap of all plans on digits")
    l2: PositiveFloat = Field(0.001, description="digits; ℓ2 coefficient")
    quadratic_sigma2: PositiveFloat = Field(4.0, description="synthetic quadratic with L and Δ of 1")
    quadratic_eps2: notebook.FirstAndLast = Field([0.01, 0.0003125], description="its first and last target")


FRONT, FAST, SLOW = "front", r"critical, $\eta=1/L$", "critical, pilot's $\\eta$"
LED, RAW, PAPER = "front, ends measured", "front, from definitions", "published plan"
THEORY = [FRONT, FAST, SLOW]
COMPARED = [FRONT, LED, SLOW, FAST, PAPER]
QUADRATIC = "quadratic"
TITLES = {
    QUADRATIC: "quadratic, exact",
    "softmax": "digits, softmax regression",
    "mlp": "digits, one hidden layer",
    "cnn": "digits, convolutional",
}


def schedules(p):
    """The theory's plans for constants c before any training, and the published one."""

    def theory(c, lr, eps2, max_batch_size=None):
        eps0, top = eps2[0] ** 0.5, (1 - 1e-12) / c.L
        how = {"lr_growth": 1.0, "max_batch_size": max_batch_size}
        return {
            "front": front_plan(c, eps0, p.r, len(eps2), max_batch_size=max_batch_size),
            r"critical, $\eta=1/L$": critical_plan(c, eps0, p.r, len(eps2), lr=top, max_lr=top, **how),
            "critical, pilot's $\\eta$": critical_plan(
                c, eps0, p.r, len(eps2), lr=min(lr, top), max_lr=min(lr, top), **how
            ),
        }

    b, delta, gamma, epochs = p.published
    top = p.lr * gamma ** int(np.log(p.max_batch_size / b) / np.log(delta))
    grows = base.exponential(b, delta, int(epochs)), base.capped(base.exponential(p.lr, gamma, int(epochs)), top)
    return theory, Plan(*grows, max_batch_size=p.max_batch_size)


def targets(p: Parameters, first: float, last: float) -> np.ndarray:
    """ε² of the stages, a factor r apart."""
    return first * p.r ** -np.arange(1 + round(np.log(first / last) / np.log(p.r)))


def spec_of(p: Parameters, model: str, seeds: tuple[int, ...], **how: Any) -> Spec:
    aims = targets(p, *p.eps2[model])
    given = {"eval_every": 1.05, "max_samples": p.max_samples[model], "target_grad_norm": 0.9 * aims[-1] ** 0.5}
    return Spec(problem=named("digits", model, l2=p.l2), seeds=seeds, sampling="replacement", **given | how)


def constants_of(p: Parameters, model: str, runs: Mapping[Hashable, Run]) -> tuple[Constants, list[Pilot]]:
    """By their definitions along a short run, and by each seed's pilot, with its price."""
    start, aims = spec_of(p, model, tuple(range(p.seeds)), plan=Plan(16, p.lr)), targets(p, *p.eps2[model])
    own = [runs[model, p.pilot_lr[model], b] for b in p.pilot_batch_sizes]
    found = pilots(own, local_smoothness(Trainer(start, p.device).task), aims[0] ** 0.5)
    return constants.as_constants(constants.estimate(start, p.device)), found


def specs(p: Parameters, schedules: Any, runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    everyone, (theory, published) = tuple(range(p.seeds)), schedules
    found: dict[Hashable, Spec] = {}
    for model in p.models:
        for lr in sorted({p.lr, p.pilot_lr[model], *p.lrs[model]}):
            for b in sorted({*p.batch_sizes, *p.pilot_batch_sizes}):
                found[model, lr, b] = spec_of(p, model, everyone, plan=Plan(b, lr), max_steps=p.max_steps[model])
        found["plan", model, PAPER] = spec_of(p, model, everyone, plan=published)
        if not all((model, p.pilot_lr[model], b) in runs for b in p.pilot_batch_sizes):
            continue
        aims = targets(p, *p.eps2[model])
        defined, piloted = constants_of(p, model, runs)
        raw = theory(defined, p.lr, aims, p.max_batch_size)[FRONT]
        found["plan", model, RAW] = spec_of(p, model, everyone, plan=raw, max_samples=p.raw_samples[model])
        for seed, pilot in zip(everyone, piloted, strict=True):
            plans = theory(pilot.constants, p.pilot_lr[model], aims, p.max_batch_size)
            start = plans[FRONT].rows[0]
            trigger = GradNormTrigger(
                start.batch_size,
                start.lr,
                aims[0] ** 0.5,
                p.r,
                check_every=p.check_every,
                max_batch_size=p.max_batch_size,
            )
            found["plan", model, LED, seed] = spec_of(p, model, (seed,), policy=trigger)
            for name in THEORY:
                found["plan", model, name, seed] = spec_of(p, model, (seed,), plan=plans[name])
    return found


def took(
    problem: str, name: str, eps2: np.ndarray, reached: Any, price: Any = 0.0, promised: Sequence[Plan] = (),
    spent: float = np.inf,
) -> pd.DataFrame:  # fmt: skip
    """Rows of the table of all results: what each target took (steps with the interval fewest, most; evaluations with
    low, high), what was promised, what comes on top (price), and what the run spent in all."""
    frame = pd.DataFrame(reached, columns=["steps", "samples", "low", "high", "fewest", "most"])
    promise = [
        np.mean([plan.stages[clock].cumsum() for plan in promised], 0) if promised else np.nan
        for clock in ("samples", "steps")
    ]
    return frame.assign(
        problem=problem, plan=name, eps2=eps2, price=price, promised=promise[0], promised_steps=promise[1], spent=spent
    )


def on_quadratic(p: Parameters) -> tuple[PowerLawQuadratic, pd.DataFrame]:
    """The quadratic, and what each plan takes on it, exactly."""
    q, eps2 = PowerLawQuadratic(sigma2=p.quadratic_sigma2), targets(p, *p.quadratic_eps2)
    theory, _ = schedules(p)

    def exact(stages: Sequence[tuple[float, float, float]]) -> list[tuple[float, ...]]:
        """What stages (batch_size, lr, steps), the last one without end, take to each target."""
        found = [q.stages_to([*stages[:-1], (*stages[-1][:2], 1e9)], target**0.5) for target in eps2]
        return [(steps, samples, samples, samples, steps, steps) for steps, samples in found]

    b, delta, gamma, epochs = p.published
    samples = epochs * named("digits", "softmax").size
    last = int(np.log(p.max_batch_size / b) / np.log(delta))
    pairs = [bounds.capped_stage(m, b, p.lr, delta, gamma)[:2] for m in range(last + 1)]
    published = [(b, lr, np.ceil(samples / b)) for b, lr in pairs]
    lr = p.pilot_lr[QUADRATIC]
    steps = q.steps_to(np.array(p.pilot_batch_sizes), lr, eps2[0] ** 0.5)
    c, price = fitted_constants(q.L, p.pilot_batch_sizes, lr, steps, eps2[0] ** 0.5), float(steps @ p.pilot_batch_sizes)
    plans = theory(c, lr, eps2) | {RAW: theory(q.constants(), p.lr, eps2)[FRONT]}
    measured: list[tuple[float, float, float]] = []  # the front's pairs, each until its target is reached
    for row, target in zip(plans[FRONT].rows, eps2, strict=True):
        total = q.stages_to([*measured, (row.batch_size, row.lr, 1e9)], target**0.5)[0]
        measured.append((row.batch_size, row.lr, total - sum(k for _, _, k in measured)))
    frames = [took(QUADRATIC, PAPER, eps2, exact(published)), took(QUADRATIC, LED, eps2, exact(measured), price)]
    for name, plan in plans.items():
        stages = [(row.batch_size, row.lr, row.steps) for row in plan.rows]
        frames.append(took(QUADRATIC, name, eps2, exact(stages), price * (name != RAW), [plan]))
    return q, pd.concat(frames, ignore_index=True)


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """results: what each plan took on each problem to each ε², see `took`; paid: with its price. of: the same by
    (problem, plan); best: the cheapest constant pair at one lr, pairs: all pairs of the search, by problem. piloted:
    each seed's pilot, by model; table: constants by definition and by pilot; ran: the plans' runs."""
    q, on_q = on_quadratic(p)
    theory, _ = schedules(p)
    eps2 = targets(p, *p.quadratic_eps2)
    at_best = [q.best_constant_batch_size(p.lr, e**0.5)._asdict() | {"eps2": e} for e in eps2]
    searched = {
        QUADRATIC: pd.DataFrame(at_best).assign(**dict.fromkeys(("low", "high"), lambda frame: frame["samples"]))
    }
    pairs = {
        QUADRATIC: pd.DataFrame(
            [
                {"eps2": e, "steps": (k := q.steps_to(b, lr, e**0.5)), "samples": k * b, "lr": lr, "batch_size": b}
                for e in eps2
                for lr in np.geomspace(0.05, 1.9, 10)
                for b in np.geomspace(2, 2**14, 14)
            ]
        )
    }
    frames, ran, piloted, table = [on_q], {}, {}, {}
    for model in p.models:
        aims, size = targets(p, *p.eps2[model]), named("digits", model, l2=p.l2).size
        grid = {key: run for key, run in runs.items() if key[0] == model}
        found = pd.concat([crossings([run], aims, lr=key[1]) for key, run in grid.items()], ignore_index=True)
        pairs[model], searched[model] = found, cheapest(found[found["lr"] == p.lr], unreached=True)
        defined, piloted[model] = constants_of(p, model, runs)
        each = pd.DataFrame(
            [
                pilot.constants.__dict__ | {"B": bounds.noise_scale(pilot.constants, aims[0] ** 0.5), "price": pilot[1]}
                for pilot in piloted[model]
            ]
        )
        table |= {
            (model, "definitions"): defined.__dict__ | {"B": bounds.noise_scale(defined, aims[0] ** 0.5)},
            (model, "pilot, mean"): each.mean(),
            (model, "pilot, least"): each.min(),
            (model, "pilot, largest"): each.max(),
            (model, "search"): {"price": sum(run.samples[-1] for run in grid.values())},
        }
        raw = theory(defined, p.lr, aims, p.max_batch_size)[FRONT]
        of_seeds = [theory(f.constants, p.pilot_lr[model], aims, p.max_batch_size) for f in piloted[model]]
        promised = {PAPER: [], RAW: [raw], LED: []} | {name: [plans[name] for plans in of_seeds] for name in THEORY}
        for name, plans in promised.items():
            own = [run for key, run in runs.items() if key[:3] == ("plan", model, name)]
            ran[model, name] = run = own[0] if len(own) == 1 else pooled(own)
            reached = [
                (*at, *np.interp(at[2:], run.samples, run.steps, right=np.inf))
                for at in (run.first_crossing(target**0.5) for target in aims)
            ]
            price = np.mean([pilot[1] for pilot in piloted[model]]) if len(own) > 1 else 0.0
            steps = np.array([row[0] for row in reached])
            looked = np.where(np.isfinite(steps), steps // p.check_every * size, np.inf)  # inf // n is no number
            looks = looked if name == LED else 0.0
            frames.append(took(model, name, aims, reached, price + looks, plans, run.samples[-1]))
    everything = pd.concat(frames, ignore_index=True)
    everything["paid"] = everything["samples"] + everything["price"]
    return SimpleNamespace(p=p, q=q, results=everything, everything=[QUADRATIC, *p.models],
        of={key: frame.set_index("eps2") for key, frame in everything.groupby(["problem", "plan"], sort=False)},
        best={problem: frame.set_index("eps2") for problem, frame in searched.items()}, pairs=pairs,
        aims={model: targets(p, *p.eps2[model]) for model in p.models}, piloted=piloted, table=pd.DataFrame(table).T,
        runs=runs, ran=ran)  # fmt: skip


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p

    def bands(problem, name, column, over=1.0, promised=None):
        """A plan's measured curve, and its promised one."""
        frame = res.of[problem, name]
        frame = frame[np.isfinite(frame[column])]
        over = over.reindex(frame.index) if isinstance(over, pd.Series) else over
        spread = [
            (frame[x] - frame["samples"] + frame[column]) / over if column != "steps" and problem != QUADRATIC else None
            for x in ("low", "high")
        ]
        drawn = [Band(name, "measured", frame.index, frame[column] / over, *spread)]
        return drawn + (
            [Band(name, "bound", res.of[problem, name].index, res.of[problem, name][promised])] if promised else []
        )

    def row(names, column, over=None, promised=None):
        """The bands of these plans on each problem, over `best`'s column if it is given."""
        scale = {x: res.best[x][over] if over else 1.0 for x in res.everything}
        return {
            TITLES[x]: [y for name in names for y in bands(x, name, column, scale[x], promised)] for x in res.everything
        }

    promise = against_target(
        {
            r"gradient evaluations to $\varepsilon$": row([FRONT, RAW], "samples", promised="promised"),
            r"steps to $\varepsilon$": row([FRONT, RAW], "steps", promised="promised_steps"),
        }
    )
    price = against_target(
        {
            "evaluations, pilot and looks\nincluded, over the best": row(COMPARED, "paid", "samples"),
            "steps over the best": row(COMPARED, "steps", "steps"),
        },
        level=1.0,
    )
    panels = {}
    for problem in res.everything:
        at, pairs = res.best[problem].index[-1], res.pairs[problem]
        cloud = pairs[pairs["eps2"] == at]
        points = [res.of[problem, name].loc[at] for name in COMPARED]
        spread = [(None, None) if problem == QUADRATIC else (x["low"], x["high"]) for x in points]
        panels[f"{TITLES[problem]}\n$\\varepsilon^2$ = {number(at)}"] = (
            cloud[np.isfinite(cloud["samples"])],
            pareto(cloud),
            [
                Band(name, "measured", x["steps"], x["samples"], *ends)
                for name, x, ends in zip(COMPARED, points, spread, strict=True)
            ],
        )
    where = plane(panels)
    shown = p.models[-1]
    curves = trajectories({name: res.ran[shown, name] for name in (FRONT, LED, SLOW, PAPER)})
    return {
        "promise": (promise,
            "What the front's plan promised before training (dashed) and what each target took (solid; band: 95 % "
            "interval over seeds): with constants from a pilot, and from their definitions. "
            "A curve ends where the budget did. Front: the pairs of T11's hyperbola, a stage for each target, by a "
            "pilot's L, σ² and Δ, by those of the definitions, or (ends measured) with stages that end when ‖∇f‖ is "
            "seen to be there."),
        "price": (price,
            "Every plan over the best constant batch size for that target (η = 0.1, found by search), gradient "
            "evaluations above, steps below. All that a plan's pilot and its looks at ‖∇f‖ took is included; the "
            "search is not. Band: 95 % interval over seeds."),
        "where": (where,
            "The smallest target on the plane of steps and gradient evaluations: all constant pairs of the search "
            "(dots), the best of them (line), and the plans, without pilot. Bars: 95 % intervals over seeds."),
        "curves": (curves,
            f"{TITLES[shown].capitalize()}: batch size, learning rate, loss and ‖∇f‖² of the plans. Lines: mean "
            "over seeds; bands: 95 % intervals over seeds.")}  # fmt: skip


def claims(res: SimpleNamespace) -> list[Check]:
    p = res.p

    def numbers(values):
        return ", ".join(f"{x:.2g}" for x in values)

    def over(name, other, clock="samples", price=True, problems=tuple(res.everything), last=False):
        """Ratios to the same problem's other plan, or to `best`, where both reached the target, with the far ends of
        both intervals.

        clock: "samples", with all that the plan took beside the run if price is True, or "steps". last: the smallest
        target alone.
        """
        ratios = []
        for x in problems:
            mine, theirs = res.of[x, name], res.best[x] if other is None else res.of[x, other]
            if clock == "steps":
                least, most = (
                    (theirs[end] / theirs["batch_size"] for end in ("low", "high"))
                    if other is None
                    else (theirs["fewest"], theirs["most"])
                )
                ends = mine["steps"] / theirs["steps"], mine["fewest"] / most, mine["most"] / least
            else:
                value, low, high = (mine[end] + price * mine["price"] for end in ("samples", "low", "high"))
                ends = value / theirs["samples"], low / theirs["high"], high / theirs["low"]
            ratios.append(pd.concat(ends, axis=1, keys=("value", "low", "high"))[-1 if last else 0 :])
        found = pd.concat(ratios).dropna(subset="value")
        return {"measured": found["value"].to_numpy(), "interval": found[["low", "high"]].to_numpy()}

    def over_fewest(problem, target, row):
        """A row's N over that of the cheapest constant pair that takes no more steps, with the far ends of both
        intervals; none where no pair is so quick."""
        if problem == QUADRATIC:
            fewest = [res.q.front(int(row.steps), target**0.5).samples] * 3
        else:
            pairs = res.pairs[problem]
            pairs = pairs[(pairs["eps2"] == target) & (pairs["steps"] <= row.steps) & np.isfinite(pairs["samples"])]
            if pairs.empty:
                return []
            fewest = pairs.loc[pairs["samples"].idxmin(), ["samples", "low", "high"]]
        least, low, high = fewest
        return [(row.samples / least, row.low / high, row.high / low)] if np.isfinite(least) else []

    def geometric_mean(ratios):
        """Of independent ratios with their intervals: deviations of ln add in quadrature."""
        value, low, high = np.log(np.transpose([ratios["measured"], *np.transpose(ratios["interval"])]).T)
        down, up = (np.sqrt(np.square(end - value).sum()) / len(value) for end in (low, high))
        return {"measured": np.exp(value.mean()), "interval": np.exp([value.mean() - down, value.mean() + up])}

    says = res.results[
        res.results["promised"].notna()
        & (np.isfinite(res.results["samples"]) | (res.results["spent"] >= res.results["promised"]))
    ]
    kept = {
        name: {
            "measured": (part["samples"] / part["promised"]).to_numpy(),
            "interval": part[["low", "high"]].div(part["promised"], axis=0).to_numpy(),
        }
        for name, part in ((RAW, says[says["plan"] == RAW]), ("pilot", says[says["plan"] != RAW]))
    }
    first = {x: res.of[x, FRONT].iloc[0] for x in res.everything}
    together = {}  # constants from the crossing of the mean over seeds, in place of each seed's own
    for model in p.models:
        pilot_runs = [
            res.runs[model, p.pilot_lr[model], b].first_crossing(res.aims[model][0] ** 0.5).steps
            for b in p.pilot_batch_sizes
        ]
        if not np.isfinite(pilot_runs).all():
            together[model] = np.nan
            continue
        L = float(np.mean([found.constants.L for found in res.piloted[model]]))
        plan = schedules(p)[0](
            fitted_constants(L, p.pilot_batch_sizes, p.pilot_lr[model], pilot_runs, res.aims[model][0] ** 0.5),
            p.pilot_lr[model],
            res.aims[model],
        )[FRONT]
        together[model] = first[model]["samples"] / plan.rows[0].samples
    pair_ratio = np.array(
        [found for x in res.everything for at, row in res.of[x, FRONT].iterrows() for found in over_fewest(x, at, row)]
    ).reshape(-1, 3)
    last = {name: [res.of[x, name].iloc[-1] for x in res.everything] for name in (FRONT, LED, PAPER)}
    mean_over = {
        name: {
            c: np.exp(np.mean(np.log([a[c] / b[c] for a, b in zip(last[name], last[PAPER], strict=True)])))
            for c in ("samples", "paid", "steps")
        }
        for name in (FRONT, LED)
    }
    for name in (FRONT, LED):
        print(
            f"{name}, over the published plan at the smallest ε ({', '.join(res.everything)}): "
            + "; ".join(
                f"{c} {numbers([a[c] / b[c] for a, b in zip(last[name], last[PAPER], strict=True)])}"
                for c in ("samples", "paid", "steps")
            )
        )
    left = res.q.eigenvalues**2 * res.q.moments(1e300, np.full(int(first[QUADRATIC]["steps"]), 0.5 / res.q.L))[-1]
    curvature = float(left @ res.q.eigenvalues / left.sum() / res.q.L)
    speed = [res.of[x, FRONT].iloc[0]["steps"] / res.of[x, FAST].iloc[0]["steps"] for x in res.everything]
    alone = np.concatenate(
        [(res.of[x, FRONT]["samples"] / res.of[x, PAPER]["samples"]).dropna() for x in res.everything]
    )
    late = [
        len(res.of[x, FRONT])
        - 1
        - int(np.searchsorted(res.of[x, FRONT]["promised"], res.of[x, FRONT]["samples"].iloc[-1]))
        for x in res.everything
    ]
    known = {model: ratio for model, ratio in together.items() if np.isfinite(ratio)}
    FAR, networks = "(far ends of the intervals)", [x for x in p.models if x != "softmax"]
    checks = [
        Check("Front's plan from L, σ², Δ as defined: gradient evaluations are at most what was promised, wherever the "
            "budget can tell", "upper_bound", **kept[RAW], theory=1.0, source="T6, T11 [N]", figure="promise"),
        Check("All three plans by pilot: gradient evaluations are at most what was promised, at every ε (upper end of "
            "its interval)", "upper_bound", **kept["pilot"], theory=1.0, headline=True, source="T2 [S], T6 [N]",
            figure="promise",
            explanation="The misses are at first targets on digits. A pilot sees one seed, whose own ‖∇f‖ dips below "
            "ε₀ before the mean over seeds does. With constants from the mean's crossing the front's "
            f"first stage takes {numbers(known.values())} of the promise ({', '.join(known)})."),
        Check("By pilot: the first target takes what was promised for the front's first stage, within 25 %", "equal",
            measured=[x["samples"] for x in first.values()], interval=[[x["low"], x["high"]] for x in first.values()],
            theory=[x["promised"] for x in first.values()], tolerance=0.25, source="T2 [S]", figure="promise",
            explanation="In the mean it does for softmax regression. T2's Lη/2 charges for curvature that is not there "
            "on the quadratic (see the claim on steps)."),
        Check("The front's plan needs no more gradient evaluations than the critical plan at η = 1/L, on each problem "
            f"at each ε {FAR}", "upper_bound", **over(FRONT, FAST, price=False), theory=1.0, source="T11 [N]",
            figure="price",
            explanation="On the quadratic it always does, down to half, which is T11's factor. On digits the promise "
            "is so far above the truth that a run is stages behind when it reaches ε, "
            "and which of the two plans has the better batch just then decides."),
        Check(f"The front's plan needs no more steps than the critical plan at η = 1/L {FAR}", "upper_bound",
            **over(FRONT, FAST, "steps"), theory=1.0, source="T11 [N]", figure="price",
            explanation="The two have the same η/b, and by T1 the larger η gains nothing, since η(1 − Lη/2) pays "
            "for curvature L. What is left of the quadratic's gradient at the first target has a mean "
            f"curvature of {curvature:.2f} L: "
            f"twice the η is nearly twice as fast. Steps at the first target, front over critical: {numbers(speed)} "
            f"({', '.join(res.everything)})."),
        Check(f"The front's plan, pilot included, needs no more gradient evaluations than the published plan {FAR}",
            "upper_bound", **over(FRONT, PAPER), theory=1.0, source="T11 [N]", figure="price",
            explanation="The pilot is dear against easy targets: without it, and of means, the ratio is "
            f"{alone.min():.2g} to {alone.max():.2g}. At small ε the promise, fourfold a stage, is far "
            "above the truth: when the smallest ε is reached, the run is "
            f"{numbers(late)} stages behind ({', '.join(res.everything)}), at too small a batch."),
        Check(f"Quadratic and softmax regression: the front's plan needs no more steps than the published plan {FAR}",
            "upper_bound", **over(FRONT, PAPER, "steps", problems=[x for x in res.everything if x not in networks]),
            theory=1.0, source="T11 [N]", figure="price"),
        *(
            Check(f"{TITLES[x].capitalize()}: the front's plan needs no more steps than the published plan {FAR}",
                "upper_bound", **over(FRONT, PAPER, "steps", problems=[x]), theory=1.0, source="T11 [N]",
                figure="price", explanation="In the mean the ratio is "
                f"{numbers(res.of[x, FRONT]['steps'] / res.of[x, PAPER]['steps'])}, and the "
                "intervals overlap. L is larger here, so that the front's η = 1/(2L) is about where the "
                "published plan starts.") for x in networks),
        Check("The front's plan, pilot included, needs no more gradient evaluations than the best constant batch size "
            f"of each ε {FAR}", "upper_bound", **over(FRONT, None), theory=1.0, source="T11 [N]", figure="price",
            explanation="As against the published plan; and this competitor was told every ε in advance and is "
            "charged for no search."),
        Check(f"The front's plan needs no more steps than the best constant batch size of each ε {FAR}", "upper_bound",
            **over(FRONT, None, "steps"), theory=1.0, source="T11 [N]", figure="price",
            explanation="On the quadratic and on softmax regression it needs less than half. On a network η = 1/(2L) "
            "is about that of the search, and a best constant batch that is larger than the front's then "
            "needs fewer steps."),
        Check("The front's plan stays within 8/3 of the cheapest constant pair (η, b) that takes no more steps",
            "upper_bound", measured=pair_ratio[:, 0], interval=pair_ratio[:, 1:],
            theory=bounds.anytime_ratio(2.0, stop_early=True), source="T6, T11 [N]", figure="where"),
        Check("Smallest ε, ends of stages measured: pilot and looks included, no more gradient evaluations than the "
            "published plan, in the geometric mean over the problems", "upper_bound",
            **geometric_mean(over(LED, PAPER, last=True)), theory=1.0, source="T11 [N]", figure="price",
            explanation=f"Without pilot and looks the ratio is {mean_over[LED]['samples']:.2g}. The rest is "
            "what finding the constants and the ends of stages costs."),
        Check("Smallest ε, ends of stages measured: no more steps than the published plan, in the geometric mean over "
            "the problems", "upper_bound", **geometric_mean(over(LED, PAPER, "steps", last=True)), theory=1.0,
            source="T11 [N]", figure="price")]  # fmt: skip
    return checks
