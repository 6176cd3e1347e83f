"""08: growing the batch in place of decaying the learning rate (T8): how alike the runs are, and when they are not."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import AfterValidator, PositiveFloat, PositiveInt

from sfolib.analysis.claims import Check, check, over_next
from sfolib.analysis.run_distance import compare, exponent
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band
from sfolib.plotting.decay import Panel, coarsening, exact_equality, run_distances
from sfolib.plotting.decay import schedules as panels_of
from sfolib.schedules import base
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import at_momentum, increase_batch_size, late_switch, scaled, seesaw
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training.estimates import Interval
from sfolib.training.optimizers import SGD, Adam
from sfolib.training.records import Run
from sfolib.training.spec import Spec


def _rising(values: list[float]) -> list[float]:
    if sorted(set(values)) != values:
        raise ValueError("must rise")
    return values


Share = Annotated[float, Field(gt=0, lt=1)]


class Parameters(notebook.DatasetParameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"model": "mlp", "epochs": 12, "seeds": 4},
        "quick": {"model": "mlp", "epochs": 30, "seeds": 6},
        "paper": {"model": "mlp", "epochs": 200, "seeds": 32},
    }
    IMAGES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"model": "cnn8", "epochs": 5, "seeds": 2},
        "quick": {"model": "cnn8", "epochs": 10, "seeds": 3},
        "paper": {"model": "cnn8", "epochs": 200, "seeds": 3},
    }

    model: str = by_scale("of the data set")
    batch_size: PositiveInt = Field(16, description="initial batch size b")
    lr: PositiveFloat = Field(0.1, description="SGD; initial learning rate η")
    adam_lr: PositiveFloat = Field(0.001, description="Adam; initial learning rate")
    alpha: notebook.Above1 = Field(
        3.0, description="factor of a decay; three of them grow the batch from 16 to 432, 0.3 of the training set"
    )
    milestones: Annotated[list[Share], Field(min_length=1), AfterValidator(_rising)] = Field(
        [0.3, 0.6, 0.8], description="where the decays are, as shares of the budget: epochs 60, 120, 160 of 200"
    )
    momentum: Annotated[list[Share], Field(min_length=1), AfterValidator(_rising)] = Field(
        [0.5, 0.75, 0.9], description="momenta m that are put in the place of none"
    )
    scaling: notebook.Above1 = Field(
        3.0,
        description="largest factor on the batch size for the scaling rules: from 432 to 1296, 0.9 of the data",
    )
    short_memory: Share = Field(0.9, description="Adam's β2 where its memory is short; the default is 0.999")
    late_batch_size: PositiveInt = Field(64, description="late switching; the large batch size")
    late_lr: PositiveFloat = Field(
        0.6, description="late switching; constant learning rate, large enough for its noise to be seen"
    )
    epochs: PositiveInt = by_scale("budget of a run")
    seeds: PositiveInt = by_scale("independent runs")


LONG = "Adam, β₂ = 0.999"
SHARES = {"lr decays": 0.0, "shared out": 0.5, "batch grows": 1.0}
COLUMNS = {"loss": "loss", "grad_sqnorm": "‖∇f‖²", "test_accuracy": "test accuracy"}
QUADRATIC = PowerLawQuadratic(sigma2=100.0)
FOREVER = 1e9  # steps after which nothing is left of the start


def schedules(p):
    """By group: a decaying lr, the same noise by a growing batch, both scaled; Seesaw; and a switch of the batch."""
    samples = p.epochs * p.problem(p.model).size
    cuts = dict.fromkeys([round(share * p.epochs) for share in p.milestones], 1 / p.alpha)

    def traded(lr, share, **cap):
        return increase_batch_size(p.batch_size, base.milestones(lr, cuts), share, **cap)

    decay, grow = traded(p.lr, 0.0), traded(p.lr, 1.0)
    linear, root = f"lr × {p.scaling:g}, linear", f"lr × {p.scaling**0.5:.2g}, square root"
    factors = [0.5, 1.0, 1 + (p.scaling - 1) / 2, p.scaling]
    adam = {"lr decays": traded(p.adam_lr, 0.0), "batch grows": traded(p.adam_lr, 1.0)}
    adam["Seesaw"] = seesaw(p.batch_size, base.milestones(p.adam_lr, cuts), clock="epoch")
    adam |= {linear: scaled(adam["lr decays"], p.scaling), root: scaled(adam["lr decays"], p.scaling, "sqrt")}
    late = p.late_batch_size
    return {
        "SGD": {
            "lr decays": decay,
            "shared out": traded(p.lr, 0.5),
            "batch grows": grow,
            "hybrid": traded(p.lr, 1.0, max_batch_size=round(p.batch_size * p.alpha)),
            "no decay": Plan(p.batch_size, p.lr),
            "Seesaw": seesaw(p.batch_size, base.milestones(p.lr, cuts), clock="epoch"),
        },
        "Nesterov": {"lr decays": traded(p.lr / 10, 0.0), "batch grows": traded(p.lr / 10, 1.0)},
        "coarse": {
            (k, name): scaled(plan, k) for k in factors for name, plan in (("lr decays", decay), ("batch grows", grow))
        },
        "momentum": {f"momentum {m:g}": at_momentum(grow, m) for m in p.momentum},
        "pushed": {linear: scaled(grow, p.scaling), root: scaled(grow, p.scaling, "sqrt")},
        "Adam": adam,
        "late": {
            "late switch": late_switch(p.batch_size, late, round(0.8 * samples), p.late_lr),
            "early switch": late_switch(p.batch_size, late, round(0.2 * samples), p.late_lr),
            f"constant b = {p.batch_size}": Plan(p.batch_size, p.late_lr),
            f"constant b = {late}": Plan(late, p.late_lr),
        },
    }


def specs(p: Parameters, schedules: Mapping[str, Any], runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    problem = p.problem(p.model)

    def spec(plan: Plan, **how: Any) -> Spec:
        given = {"eval_every": "epoch", "max_samples": p.epochs * problem.size, "seeds": tuple(range(p.seeds))}
        return Spec(problem=problem, plan=plan, sampling="replacement", **given | how)

    found: dict[Hashable, Spec] = {}
    for group in ("SGD", "coarse", "pushed", "late"):
        found |= {(group, name): spec(plan) for name, plan in schedules[group].items()}
    nesterov = {"optimizer": SGD(momentum=0.9, nesterov=True)}
    found |= {("Nesterov", name): spec(plan, **nesterov) for name, plan in schedules["Nesterov"].items()}
    for m, (name, plan) in zip(p.momentum, schedules["momentum"].items(), strict=True):
        found["momentum", name] = spec(plan, optimizer=SGD(momentum=m))
    for group, optimizer in ((LONG, Adam()), (short(p), Adam(beta2=p.short_memory))):
        found |= {(group, name): spec(plan, optimizer=optimizer) for name, plan in schedules["Adam"].items()}
    late = runs.get(("late", "late switch"))
    if late:
        plan = Plan(p.late_batch_size, p.late_lr)
        samples = int(late.steps[-1]) * p.late_batch_size
        found["late", as_many_steps(p)] = spec(plan, max_samples=samples, eval_every=p.eval_every(1.03))
    return found


def short(p: Parameters) -> str:
    return f"Adam, β₂ = {p.short_memory:g}"


def as_many_steps(p: Parameters) -> str:
    return f"constant b = {p.late_batch_size}, as many steps"


def exact_paths(p: Parameters, batch_size: float, lr: float, samples: int = 2**19) -> dict[str, tuple[Any, Any]]:
    """(samples, E‖∇f‖²) of both schedules on the quadratic."""
    parts = [samples * share / p.alpha**m for m, share in enumerate(np.diff([0, *p.milestones, 1]))]
    stages = {
        "lr decays": [
            (batch_size, lr / p.alpha**m, round(part * p.alpha**m / batch_size)) for m, part in enumerate(parts)
        ],
        "batch grows": [(batch_size * p.alpha**m, lr, round(part / batch_size)) for m, part in enumerate(parts)],
    }
    found = {}
    for name, of_name in stages.items():
        sizes, lrs, steps = zip(*of_name, strict=True)
        each = np.repeat(sizes, steps)
        found[name] = np.cumsum(each), QUADRATIC.grad_sqnorm_path(each, np.repeat(lrs, steps))[1:]
    return found


def floors(quadratic: PowerLawQuadratic, lr: np.ndarray, alpha: float) -> np.ndarray:
    """The noise floor of the batch grown by alpha over that of lr decayed by it."""
    over = [quadratic.grad_sqnorm(1.0, lr, FOREVER), quadratic.grad_sqnorm(1 / alpha, lr / alpha, FOREVER)]
    return over[0] / over[1]


def distances(group: str, runs: Mapping[str, Run], reference: Run, start: float) -> pd.DataFrame:
    """Every other run beside the reference, in every column, from `start` samples on."""
    return pd.DataFrame(
        [
            {
                "group": group,
                "system": name,
                "column": column,
                "fewer": reference.steps[-1] / run.steps[-1],
                **found.ratio._asdict(),
                "distance": found.distance.value,
                "seeds": found.seeds,
                "shift": found.shift.value,
            }
            for name, run in runs.items()
            for column in COLUMNS
            for found in [compare(reference, run, column, start=start)]
            if run is not reference
        ]
    )


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """*_ratio: noise floors of grown over decayed, by lr. table: how
    far each run is from the one it should be like, by (group, system, column). paired: batch grown beside lr decayed at
    growing η, by column; growth: that distance's exponent in η, between: from each η to the next; by_memory: the
    distance by the momentum's memory. caught_up, before, at_the_end: the late switch beside constant batch sizes."""
    problem = p.problem(p.model)
    n, samples = problem.size, p.epochs * problem.size
    at = [round(share * p.epochs) for share in p.milestones]
    of = {group: {key[1]: run for key, run in runs.items() if key[0] == group} for group in {key[0] for key in runs}}
    lr = np.linspace(0.05, 1.9, 38)
    start = at[0] * n  # before the first milestone they are one and the same run
    adam = {LONG: of[LONG], short(p): of[short(p)]}
    factors = list(dict.fromkeys(k for k, _ in of["coarse"]))
    paired = {
        column: [
            compare(of["coarse"][k, "lr decays"], of["coarse"][k, "batch grows"], column, start=start) for k in factors
        ]
        for column in COLUMNS
    }
    pushed_on = of["pushed"] | of["momentum"]
    same = [
        distances("SGD", {k: v for k, v in of["SGD"].items() if k != "Seesaw"}, of["SGD"]["lr decays"], start),
        distances("Nesterov", of["Nesterov"], of["Nesterov"]["lr decays"], start),
        distances("SGD", pushed_on, of["SGD"]["lr decays"], start),
        distances("SGD", {"Seesaw": of["SGD"]["Seesaw"]}, of["SGD"]["lr decays"], start),
        *(distances(group, of_group, of_group["lr decays"], start) for group, of_group in adam.items()),
    ]
    momenta = same[2][same[2]["system"].isin([*of["momentum"]])]
    order = {group: i for i, group in enumerate(("SGD", "Nesterov", *adam))}
    table = pd.concat(same).sort_values("group", key=lambda group: group.map(order), kind="stable")
    late, late_runs = of["late"]["late switch"], of["late"]
    steps = late_runs[as_many_steps(p)]
    switch_step = np.interp(0.8 * samples, late.samples, late.steps)
    return SimpleNamespace(p=p, at=at, budget=samples, exact_lr=lr, bound_ratio=(1 - lr / (2 * p.alpha)) / (1 - lr / 2),
        single_ratio=floors(PowerLawQuadratic(d=1, lam_min=1.0), lr, p.alpha),
        spectrum_ratio=floors(QUADRATIC, lr, p.alpha), sgd=of["SGD"],
        factors=factors, paired=paired, with_momentum=of["momentum"], pushed=of["pushed"],
        pushed_on=[next(iter(of["pushed"])), *of["momentum"]], by_memory=[Band(title, "measured",
                [1 / (1 - m) for m in p.momentum],
                *momenta.loc[momenta["column"] == column, ["value", "low", "high"]].to_numpy().T)
            for column, title in COLUMNS.items()], growth=exponent(p.lr * np.array(factors), paired["loss"]),
        between=np.diff(np.log([found.ratio.value for found in paired["loss"]])) / np.diff(np.log(factors)), adam=adam,
        table=table.set_index(["group", "system", "column"]), large=p.late_batch_size, late_runs=late_runs, late=late,
        switch_step=switch_step,
        caught_up={c: compare(steps, late, c, "steps", (switch_step + late.steps[-1]) / 2) for c in COLUMNS},
        before={c: compare(steps, late, c, "steps", 0.8 * switch_step, switch_step) for c in COLUMNS}, at_the_end={
            name: compare(run, late, start=0.85 * samples) for name, run in late_runs.items()
            if name not in ("late switch", as_many_steps(p))})  # fmt: skip


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p
    paths = {}
    for large in (0.1, 1.5):
        sources = zip(exact_paths(p, 640 * large, large).items(), ("bound", "exact"), strict=True)
        paths[rf"$L\eta={large}$"] = [
            Band(name, look, x[:: max(1, len(x) // 500)], y[:: max(1, len(y) // 500)])
            for (name, (x, y)), look in sources
        ]
    exact_figure = exact_equality(
        paths,
        [
            Band("T8: bound of T1", "bound", res.exact_lr, res.bound_ratio),
            Band(r"one curvature, $\lambda=L$", "exact", res.exact_lr, res.single_ratio),
            Band("power-law spectrum", "exact", res.exact_lr, res.spectrum_ratio),
        ],
    )
    SHOWN = [(column, "samples") for column in ("batch_size", "lr", "loss", "grad_sqnorm", "test_error")]
    SHOWN.append(("loss", "steps"))
    smith = panels_of([Panel(res.sgd, *shown) for shown in SHOWN])
    plain = {name: res.sgd[name] for name in ("lr decays", "batch grows")}
    scaling_figure, momentum_figure = (
        panels_of([Panel(plain | runs, *shown) for shown in SHOWN]) for runs in (res.pushed, res.with_momentum)
    )
    factors, first = np.array(res.factors), res.paired["loss"][0].ratio.value
    distances = [
        Band(title, "measured", p.lr * factors, *np.transpose([found.ratio for found in res.paired[column]]))
        for column, title in COLUMNS.items()
    ]
    guides = [
        Band(f"∝ {label}", "bound", p.lr * factors, first * (factors / factors[0]) ** power)
        for label, power in (("√η", 0.5), ("η", 1.0))
    ]
    coarse_figure = coarsening(
        {"batch grown against lr decayed": [*distances, *guides], "momentum against none": res.by_memory},
        [r"learning rate $\eta$, $\eta/b$ the same", r"momentum's memory $1/(1-m)$, steps"],
        "distance / distance between two seeds",
    )
    RULES = ("lr decays", "batch grows", "Seesaw")
    ruled = {group: {name: runs[name] for name in RULES} for group, runs in (res.adam | {"SGD": res.sgd}).items()}
    seen = [(group, column) for column in ("loss", "grad_sqnorm") for group in res.adam]
    seen += [("SGD", column) for column in ("loss", "grad_sqnorm")]
    adam = [Panel(ruled[LONG], "batch_size"), Panel(ruled[LONG], "lr", title="Adam")]
    seesaw_figure = panels_of(adam + [Panel(ruled[group], column, title=group) for group, column in seen])
    late = {name: run for name, run in res.late_runs.items() if name != as_many_steps(p)}
    late_figure = panels_of([Panel(late, *shown) for shown in SHOWN])
    aligned = {name: res.late_runs[name] for name in ("late switch", f"constant b = {p.batch_size}", as_many_steps(p))}
    catch_up = panels_of(
        [Panel(aligned, column, "steps", start=0.5 * res.switch_step) for column in ("loss", "grad_sqnorm")]
    )
    return {
        "exact": (exact_figure,
            "Synthetic quadratic, exact. Left: lr decayed (dashed) and batch grown (thin) at the same noise scale "
            "η/b, at a small and a large learning rate. "
            "Right: noise floor of the grown batch over that of the decayed lr. Dashed: T8's factor between the two "
            "bounds of T1, which a quadratic of one curvature meets exactly."),
        "smith": (smith,
            f"{p.title}, {p.model}, SGD: four ways to the same noise scale, and none. The curves lie on each "
            "other per gradient evaluation; per step (last panel) they part. Mean and 95 % interval over seeds."),
        "coarse": (coarse_figure,
            "Distance from the run that should be the same, over the distance between two seeds (line: 1), on the "
            "same samples. Left: batch grown against lr decayed, both from η and b in proportion. "
            "Right: momentum m with batch/(1 − m) against none. Bands: 95 % intervals over seeds of the distance."),
        "scaling": (scaling_figure,
            "SGD, the growing plan with lr and batch scaled linearly and by the square root. Mean and 95 % "
            "interval over seeds."),
        "momentum": (momentum_figure,
            "SGD, the growing plan with momentum m and the batch over 1 − m. Mean and 95 % interval over seeds."),
        "seesaw": (seesaw_figure,
            "Decayed lr, Smith et al.'s rule (batch × α) and Seesaw (batch × α, lr / √α) under Adam with a long and "
            "a short memory of its second moment, and under SGD. Mean and 95 % interval over seeds."),
        "late": (late_figure,
            "SGD at constant lr, switched from a small to a large batch late or early, and both constant batch "
            "sizes. Mean and 95 % interval over seeds."),
        "catch_up": (catch_up,
            "The late switch against steps, beside the large batch for as many steps, from half of the way to the "
            "switch on. Mean and 95 % interval over seeds."),
        "overview": (run_distances(res.table.reset_index(), COLUMNS),
            "How far each run is from the one with decaying lr that it should be like (for the scaling rules under "
            "Adam: from the unscaled run), from the first milestone on, over the distance of two seeds of that run. "
            "Shared out: both lr and batch change, by half each; hybrid: the batch grows up to a cap, then lr decays; "
            "Seesaw: batch × α, lr / √α. Dashed: as far as another seed. Bars: 95 % intervals over seeds of the "
            "distance. In brackets: how many times fewer updates.")}  # fmt: skip


def claims(res: SimpleNamespace) -> notebook.Claims:
    p = res.p
    table = res.table
    last_stage = (1 - p.milestones[-1]) * res.budget / (p.batch_size * p.alpha ** len(res.at))  # steps of grown batch
    LINEAR, ROOT = (next(name for name in res.adam[LONG] if rule in name) for rule in ("linear", "square root"))
    SAME = (
        "in loss, ‖∇f‖² and test accuracy it changes a run less than another seed does (distance / distance of "
        "two seeds)"
    )

    def ratios(group, *systems, columns=COLUMNS):
        found = table.loc[[(group, system, column) for system in systems for column in columns]]
        return {"measured": found["value"].tolist(), "interval": found[["low", "high"]].to_numpy()}

    def nearer(group, first, second):
        return ratios(group, first, second, columns=["loss"])

    def noise_share(run):
        """Of noise over signal in a step of the scaled run; of networks σ² is not measured."""
        if "variance" not in run.rows:
            return ""
        share = (run.curves("variance").mean(0) / run.curves().mean(0))[1] / (p.scaling * p.batch_size)
        return (
            f"After the first epoch, noise over signal in a step of the scaled run, σ²/(b‖∇f‖²), is only {share:.1f}. "
        )

    # a fit to four distances says something where the last stage has more than a few steps: not at smoke scale
    long_enough = [
        Check("SGD, loss: that distance is in proportion to η", "exponent", measured=res.growth.value,
            interval=res.growth[1:], theory=1.0, source="T8 [N]", figure="coarse",
            explanation="From each η to the next larger the exponent is "
            f"{', '.join(f'{slope:.2f}' for slope in res.between)}: no one power of η over this range. "
            "Of the two terms of T8, √η and η, neither was measured apart from the other.")]  # fmt: skip
    exchange = ["shared out", "batch grows", "hybrid"]
    checks = [
        Check("Quadratic with a spectrum: grown over decayed noise floor is at most T8's factor", "upper_bound",
            measured=res.spectrum_ratio, theory=res.bound_ratio, exact=True, source="T8 [N]", figure="exact"),
        *(
            Check(f"{group}, batch grown for lr decayed: {SAME}", "upper_bound", headline=group == "SGD",
                **ratios(group, *systems), theory=1.0, source="T8 [S]", figure="overview")
            for group, systems in (("SGD", exchange), ("Nesterov", ["batch grows"]), (LONG, ["batch grows"]))),
        Check("SGD: in loss, ‖∇f‖² and test accuracy the batch grown is nearer to the decaying lr than no decay "
            "(ratio)", "upper_bound", theory=1.0, source="T8 [S]", figure="overview", **over_next(*(
                [Interval(*table.loc[("SGD", system, column), ["value", "low", "high"]])
                    for system in ("batch grows", "no decay")] for column in COLUMNS))),
        Check(f"SGD, loss: the distance of batch grown from lr decayed is larger from η = {p.lr * res.factors[-1]:g} "
            f"than from η = {p.lr * res.factors[0]:g}, at the same η/b", "ordering",
            measured=[res.paired["loss"][i].distance.value for i in (0, -1)],
            interval=[res.paired["loss"][i].distance[1:] for i in (0, -1)], source="T8 [N]", figure="coarse"),
        *(long_enough if last_stage > 15 else []),
        Check(f"SGD, pushed on by lr × {p.scaling:g} and by momentum: {SAME}", "upper_bound",
            **ratios("SGD", *res.pushed_on), theory=1.0, source="T8 [S]", figure="overview",
            explanation="What T8 keeps, it keeps to first order in the length of a step. The distance grows with η "
            "and with the memory of the "
            f"momentum (the next two checks). Momentum {p.momentum[-1]:g} acts over {1 / (1 - p.momentum[-1]):.0f} "
            f"steps, and the last stage of its run has {last_stage * (1 - p.momentum[-1]):.1f}."),
        check("SGD: the distance, in ‖∇f‖², grows with the momentum that is put in", "ordering",
            measured=res.by_memory[1].y, interval=np.array([res.by_memory[1].low, res.by_memory[1].high]).T,
            source="T8 [N]", figure="coarse"),
        Check("SGD: linear scaling is nearer than square-root scaling", "ordering", **nearer("SGD", *res.pushed),
            source="T8 [S]", figure="overview"),
        Check("SGD: batch × α at constant lr is nearer than Seesaw's lr / √α", "ordering",
            **nearer("SGD", "batch grows", "Seesaw"), source="T8 [S]", figure="overview"),
        Check(f"{LONG}, Seesaw: {SAME}", "upper_bound", **ratios(LONG, "Seesaw"), theory=1.0, source="arXiv 2510.14717",
            figure="overview",
            explanation="The loss falls too slowly. Adam's denominator remembers the noise of 1000 steps, and the "
            "last stage of the grown batch "
            f"has {last_stage:.0f}: it divides by the noise of the small batch still, and lr / √α is felt without "
            f"the compensation. With a memory of {1 / (1 - p.short_memory):.0f} steps the same plan keeps the curve "
            "(next check)."),
        Check(f"{short(p)}, Seesaw: {SAME}", "upper_bound", **ratios(short(p), "Seesaw"), theory=1.0,
            source="arXiv 2510.14717", figure="overview"),
        Check(f"{short(p)}: Seesaw is nearer than batch × α at constant lr", "ordering",
            **nearer(short(p), "Seesaw", "batch grows"), source="arXiv 2510.14717", figure="overview"),
        Check(f"{LONG}: batch × α at constant lr is nearer than Seesaw", "ordering",
            **nearer(LONG, "batch grows", "Seesaw"), source="T8 [S]", figure="overview"),
        Check(f"{LONG}: square-root scaling is nearer than linear scaling", "ordering", **nearer(LONG, ROOT, LINEAR),
            source="arXiv 2205.10287", figure="overview"),
        Check("Adam: square-root scaling changes the loss less than another seed does, with long and with short memory",
            "upper_bound", measured=[table.loc[(group, ROOT, "loss"), "value"] for group in res.adam],
            interval=[[table.loc[(group, ROOT, "loss"), end] for end in ("low", "high")] for group in res.adam],
            theory=1.0, source="arXiv 2205.10287", figure="overview",
            explanation="Scaled from the start, the loss falls more slowly by the square-root rule and faster by the "
            "linear one: the truth lies between. The square root is right "
            f"where noise is all that Adam's denominator sees. {noise_share(res.adam[LONG][ROOT])}"
            f"A short memory helps and is not enough: {table.loc[(short(p), ROOT, 'loss'), 'value']:.1f} times the "
            f"distance of two seeds in place of {table.loc[(LONG, ROOT, 'loss'), 'value']:.1f}. "
            "Begun later, when noise dominates, the rule is Seesaw's (checks above)."),
        Check(f"After the switch the loss is nearer to that of b = {res.large} for as many steps "
            f"({res.late_runs[as_many_steps(p)].samples[-1] / res.late.samples[-1]:.1f} times the samples) than "
            "before it", "ordering", measured=[res.caught_up["loss"].distance.value, res.before["loss"].distance.value],
            interval=[res.caught_up["loss"].distance[1:], res.before["loss"].distance[1:]], source="arXiv 2602.14208",
            figure="catch_up"),
        Check("Loss of the late switch over that of the early one and of both constant batch sizes, for equal samples",
            "upper_bound", measured=[np.exp(found.shift.value) for found in res.at_the_end.values()],
            interval=[np.exp(found.shift[1:]) for found in res.at_the_end.values()], theory=1.0,
            source="arXiv 2602.14208", figure="late")]  # fmt: skip
    return checks
