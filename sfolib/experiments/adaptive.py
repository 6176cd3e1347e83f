"""09: batch sizes that look at the gradient: thresholds on its norm, and tests of its variance (T10)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt

from sfolib.analysis.claims import Check, check, over_next, sampled
from sfolib.analysis.crossings import cheapest, crossings, ratios
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band, costs, trajectories
from sfolib.plotting.adaptive import laws
from sfolib.plotting.schedules import value_at
from sfolib.plotting.style import number
from sfolib.problems.specs import Problem
from sfolib.schedules import base
from sfolib.schedules.adaptive import (
    AugmentedInnerProductTest,
    GradNormTrigger,
    HorizonRamp,
    InnerProductTest,
    NormTest,
    SuccessiveGradientTest,
)
from sfolib.schedules.adaptive.horizon_ramp import affordable_look
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import late_ramp
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.theory.quadratic_policies import norm_tested_samples, stages_before_stalling, stages_of, tracking_price
from sfolib.training.estimates import Interval, further, of_means
from sfolib.training.records import Run
from sfolib.training.spec import Spec
from sfolib.training.variance_tests import looks


class Parameters(notebook.DatasetParameters):
    SCALES: ClassVar = notebook.scales(
        batch_sizes=([2**k for k in range(2, 9)],) * 3,
        check_every=(29,) * 3,
        goal=(0.001,) * 3,
        every_epochs=(40,) * 3,
        max_batch_size=(65536,) * 3,
        ratios=([1.03, 1.05],) * 3,
        seeds=(5, 5, 32),
        test_seeds=(3, 5, 32),
        eps2=([0.003, 0.001], [0.003, 0.0003], [0.003, 0.0001]),
        max_samples=(60000, 250000, 4 * 10**6),
        test_samples=(12000, 100000, 2 * 10**6),
        look_samples=(3000, 12000, 10**6),
        eta=([0.5, 0.1], [0.5, 0.2, 0.1, 0.05], [0.5, 0.2, 0.1, 0.05]),
    )
    IMAGES: ClassVar = notebook.scales(
        batch_sizes=([16, 64], [16, 64, 256], [2**k for k in range(2, 9)]),
        check_every=(1250,) * 3,  # a third of an epoch of b = 16, as on the digits
        goal=(0.1,) * 3,
        every_epochs=(1, 1, 40),
        max_batch_size=(8192,) * 3,
        ratios=([10.0, 10.0], [4.0, 4.0], [1.2, 1.2]),
        seeds=(1, 2, 3),
        test_seeds=(1, 2, 3),
        eps2=([0.3, 0.1], [0.3, 0.1], [0.3, 0.01]),
        max_samples=(20000, 120000, 12 * 10**6),
        test_samples=(12000, 60000, 6 * 10**6),
        look_samples=(3000, 12000, 10**5),
        eta=([0.5, 0.2], [0.5, 0.2], [0.5, 0.2, 0.1]),
    )

    lr: PositiveFloat = Field(0.1, description="learning rate η at the start")
    delta: PositiveFloat = Field(2.0, description="thresholds; batch growth a stage, as in the authors' configuration")
    gamma: PositiveFloat = Field(1.4, description="thresholds; learning-rate growth a stage, likewise")
    batch_sizes: notebook.Counts = by_scale("thresholds; constant batch sizes")
    check_every: PositiveInt = by_scale("thresholds; steps between looks, as often as the authors for n and b")
    goal: PositiveFloat = by_scale("thresholds; the ε² at which systems are compared, of all scales")
    every_epochs: PositiveInt = by_scale("fixed times; epochs between growths, 40 as in the authors' program")
    eps2: notebook.FirstAndLast = by_scale("thresholds; first and last target ε²")
    max_samples: PositiveInt = by_scale("thresholds; budget of a run in gradient evaluations")
    quadratic_lr: notebook.of_length(2) = Field(
        [0.002, 0.02],
        description="quadratic with L of 1; η at the start (thresholds); constant (norm test)",
    )
    eta: notebook.Values = by_scale("norm test; tolerances, largest first")
    theta: PositiveFloat = Field(0.5, description="inner-product test")
    nu: PositiveFloat = Field(1.0, description="orthogonality test")
    optimizers: dict[str, PositiveFloat] = Field(
        {"adagrad": 0.01, "adagrad_norm": 0.5, "adam": 0.001},
        description="more for the norm test, and lr",
    )
    max_batch_size: PositiveInt = by_scale("tests; draws are with replacement, and may exceed the images")
    test_samples: PositiveInt = by_scale("tests; budget of a run in gradient evaluations")
    look_samples: PositiveInt = by_scale("gradient evaluations at each point where statistics are measured")
    ratios: notebook.of_length(2, notebook.Above1) = by_scale(
        "of the steps of successive measuring points; thresholds, tests"
    )
    seeds: PositiveInt = by_scale("thresholds; independent runs")
    test_seeds: PositiveInt = by_scale("tests; independent runs")


QUADRATIC = PowerLawQuadratic(lam_min=1e-8, sigma2=1e4)
EXCESS, MOST, EPS0 = [1.0, 2.0, 4.0, 8.0], 14, 0.1  # first batch over the critical one; stages; first ε
NAMES = {"published": "published ε", "critical": "T4's ε"}
T4_ALONE, T4_BOTH, PUBLISHED = "T4's ε, batch grows", "T4's ε, both grow", "published ε, both grow"
FIXED, FREE = "fixed times, both grow", "successive gradients, batch grows"
LATE, HORIZON = "late ramp", "horizon ramp"
U = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.25, 1.5, 1.7])  # tolerance over the one of T10, squared


def schedules(p):
    """Triggers and fixed times from the cheapest constant batch `first` on, the tests, and ramps at the end of their
    budget, by kind and name."""

    def trigger(first, gamma, **rule):
        return GradNormTrigger(first, p.lr, p.eps2[0] ** 0.5, p.delta, gamma, p.check_every, **rule)

    def test(policy, *tolerances, lr=p.lr):
        return policy(*tolerances, batch_size=16, lr=lr, max_batch_size=p.max_batch_size)

    top = 1.9 / p.problem("softmax").smoothness_bound if p.dataset == "digits" else float("inf")  # no L is known there
    return {
        "triggers": lambda first: {
            "T4's ε, batch grows": trigger(first, 1.0),
            "T4's ε, both grow": trigger(first, p.gamma, max_lr=top),
            "published ε, both grow": trigger(first, p.gamma, rule="published"),
            "successive gradients, batch grows": SuccessiveGradientTest(first, p.lr, max_batch_size=p.max_batch_size),
        },
        "fixed times": lambda first: Plan(
            base.exponential(first, p.delta, p.every_epochs), base.exponential(p.lr, p.gamma, p.every_epochs), "epoch"
        ),
        "norm tests": {f"norm test, $\\eta_{{nt}}$ = {eta:g}": test(NormTest, eta) for eta in p.eta},
        "other tests": {
            f"inner-product test, θ = {p.theta:g}": test(InnerProductTest, p.theta),
            f"augmented, θ = {p.theta:g}, ν = {p.nu:g}": test(AugmentedInnerProductTest, p.theta, p.nu),
        },
        "other optimizers": {name: test(NormTest, p.eta[0], lr=lr) for name, lr in p.optimizers.items()},
        "ramps": {
            "late ramp": late_ramp(16, p.lr, p.test_samples),
            "horizon ramp": HorizonRamp(16, p.lr, p.test_samples, look=affordable_look(p.test_samples)),
        },
    }


def specs(p: Parameters, schedules: Mapping[str, Any], runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    def common(problem: Problem, seeds: int, **how: Any) -> dict[str, Any]:
        return {"problem": problem, "seeds": tuple(range(seeds)), "sampling": "replacement"} | how

    first, second = models(p)
    softmax = common(p.problem(first), p.seeds, eval_every=p.ratios[0], max_samples=p.max_samples)
    mlp = common(p.problem_with_variance(second), p.test_seeds, eval_every=p.ratios[1], max_samples=p.test_samples)
    found: dict[Hashable, Spec] = {
        ("constant", b): Spec(plan=Plan(b, p.lr), max_steps=p.max_samples // 16, **softmax) for b in p.batch_sizes
    }
    if found.keys() <= runs.keys():
        first = start_of(best_constant(p, runs))
        for name, policy in schedules["triggers"](first).items():
            found["trigger", name] = Spec(policy=policy, **softmax)
        found["trigger", FIXED] = Spec(plan=schedules["fixed times"](first), **softmax)
    for name, policy in (schedules["norm tests"] | schedules["other tests"]).items():
        found["test", name] = Spec(policy=policy, **mlp)
    for name, policy in schedules["other optimizers"].items():
        found["test", f"norm test, {name}"] = Spec(policy=policy, optimizer=name, **mlp)
    found["test", "constant"] = Spec(plan=Plan(16, p.lr), **mlp)
    found["ramp", LATE] = Spec(plan=schedules["ramps"][LATE], **mlp)
    found["ramp", HORIZON] = Spec(policy=schedules["ramps"][HORIZON], **mlp)
    return found


def models(p: Parameters) -> tuple[str, str]:
    """Of the thresholds, and of the tests."""
    return ("softmax", "mlp") if p.dataset == "digits" else ("cnn8", "cnn8")


def titled(model: str) -> str:
    return {"softmax": "softmax regression", "mlp": "MLP", "cnn": "CNN"}.get(model, model)


def targets(p: Parameters) -> np.ndarray:
    """ε² of the thresholds, the goal among them, falling."""
    return np.unique([*np.geomspace(*p.eps2, 6), p.goal])[::-1]


def best_constant(p: Parameters, runs: Mapping[Hashable, Run]) -> pd.DataFrame:
    """The cheapest constant batch size for each ε²."""
    constant = [run for key, run in runs.items() if key[0] == "constant"]
    return cheapest(crossings(constant, targets(p)), unreached=True).set_index("eps2")


def start_of(best: pd.DataFrame) -> int:
    """The cheapest constant batch size for the largest ε² that was reached; 16 where none was."""
    return int([*best["batch_size"].dropna(), 16][0])


def reached(p: Parameters, run: Run, look: int = 0) -> pd.DataFrame:
    """Gradient evaluations to each ε², with `look` more for every time that the trigger has looked until then."""
    rows = []
    for target in targets(p):
        at = run.first_crossing(target**0.5)
        samples = np.array([at.samples, at.low, at.high])
        if look:
            steps = np.interp(samples, run.samples, run.steps)
            samples = samples + np.where(np.isfinite(samples), steps // p.check_every * look, 0.0)
        rows.append({"eps2": target, **dict(zip(("samples", "low", "high"), samples, strict=True))})
    return pd.DataFrame(rows).set_index("eps2")


def free(run: Run) -> dict[int, pd.DataFrame]:
    """By seed, where there is an estimate of ‖∇f‖² that cost nothing: it, its interval, the exact one and b."""
    rows = run.rows.dropna(subset=["online_grad_sqnorm"])
    rows = rows if len(rows) else run.rows  # at so few measuring points there may be none
    return {int(seed): of_seed for seed, of_seed in rows.groupby("seed")}


def settles(p: Parameters, run: Run, eta: float) -> tuple[np.ndarray, Interval]:
    """The norm test's own batch size along the run, from σ² and ‖∇f‖² as measured; and the run's over it, late on."""
    b, grad, sigma2 = run.curves("batch_size"), run.averaged(run.curves()), run.curves("variance")
    late = run.samples > p.test_samples * 2 / 3  # the first tests ask for b/η² at most: the batch is catching up

    def asked(grad, sigma2):
        return (1 - eta**2) * sigma2 / (eta**2 * grad)

    found = of_means(lambda b, grad, sigma2: np.log(b / asked(grad, sigma2))[late].mean(), b, grad, sigma2)
    return asked(grad.mean(0), sigma2.mean(0)), Interval(*np.exp(found))


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """ended: stages that a trigger ends on the quadratic, by rule and excess; price: what following the norm test costs
    there, by ε² and tolerance. best: the cheapest constant batches; grown: triggers' runs, fixed times and the best
    constant; spent, looked: evaluations to each ε², without and with looks; over: those over the best constant's.
    seen; asked, predicted, times η²: what the norm test asks for on fresh batches, and theory; inner: the inner-product
    variance, share: that as summed over tensors, over it. done, base: runs under tests, and a constant batch; ramps:
    those that ramp at the end. following: `settles` of the tests. free: `free` of the run by successive gradients."""
    q, eps2, lr = QUADRATIC, targets(p), p.quadratic_lr
    b0 = q.best_constant_batch_size(lr[0], EPS0).batch_size
    tolerance = np.sqrt(U * q.sigma2 / (2 * q.small_step_constants()[1] * lr[1]))
    digits, mlp = map(p.problem, models(p))
    # what is seen of whole training sets is, of the larger ones, seen of some images
    n, epoch = (
        (mlp.size, mlp.size)
        if p.dataset == "digits"
        else (min(notebook.VARIANCE_SAMPLES, mlp.size), max(1, min(p.test_samples // 10, 6000)))
    )
    best = best_constant(p, runs)
    grown = {key[1]: run for key, run in runs.items() if key[0] == "trigger"}
    triggers = [name for name in grown if name not in (FIXED, FREE)]
    goal_batch = int([start_of(best), *best["batch_size"][best.index >= p.goal].dropna()][-1])  # of what was reached
    constant = f"constant b = {goal_batch}"
    grown[constant] = runs["constant", goal_batch]
    spent = {name: reached(p, run) for name, run in grown.items()}
    looked = {name: reached(p, grown[name], digits.size) for name in triggers}
    over = {name: spent[name] for name in (*triggers, FREE)} | {
        f"{name}, with looks": looked[name] for name in triggers
    }
    walk = {"plan": Plan(16, p.lr), "max_samples": max(15_000, 10 * epoch), "eval_every": 1.1}
    marks = sorted({16, epoch, 10 * epoch})
    seen = looks(Spec(problem=mlp, sampling="replacement", **walk), marks, [16, 32, 64], p.look_samples)
    sigma2 = seen.groupby("samples")["variance"].transform("mean")
    inner, summed = (
        {
            m: looks(
                Spec(problem=p.problem(m), **walk), sorted({16, 160, epoch, 3 * epoch}), [n], n, per_tensor=per_tensor
            )
            for m in (("mlp", "cnn") if p.dataset == "digits" else ("cnn8",))
        }
        for per_tensor in (False, True)
    )  # fmt: skip
    done = {key[1]: run for key, run in runs.items() if key[0] == "test" and key[1] != "constant"}
    norm_tests = [name for name in done if name.startswith("norm test, $")]
    tested = [*zip(norm_tests, p.eta, strict=True), *((f"norm test, {name}", p.eta[0]) for name in p.optimizers)]
    ended = {
        (rule, x): stages_of(q, GradNormTrigger(round(x * b0), lr[0], EPS0, p.delta, p.gamma, 1, rule=rule), MOST)
        for rule in NAMES
        for x in EXCESS
    }
    price = {
        e: [
            norm_tested_samples(q, lr[1], w, e**0.5) / q.best_constant_batch_size(lr[1], e**0.5).samples
            for w in tolerance
        ]
        for e in (1e-2, 1e-3, 1e-4)
    }
    return SimpleNamespace(
        p=p, q=q, b0=b0, ended=ended, price=price, digits=digits, eps2=eps2, best=best, first=start_of(best),
        CONSTANT=constant, triggers=triggers, grown=grown, spent=spent, looked=looked, free=free(grown[FREE]),
        over={name: (frame["samples"] / best["samples"]).to_numpy() for name, frame in over.items()}, mlp=mlp,
        seen=seen, n=n, SOFTMAX=titled(models(p)[0]), MLP=titled(models(p)[1]),
        asked=Interval(*(seen[f"asked{end}"] for end in ("", "_low", "_high"))),
        predicted=sigma2 / (seen["grad_sqnorm"] + sigma2 / seen["batch_size"]), inner=inner,
        share={m: (summed[m]["inner_product_variance"] / inner[m]["inner_product_variance"]).to_numpy() for m in inner},
        norm_specs=norm_tests, other_specs=[name for name in done if name not in norm_tests], done=done,
        base=runs["test", "constant"], ramps={name: runs["ramp", name] for name in (LATE, HORIZON)},
        following={name: settles(p, done[name], eta) for name, eta in tested},
    )  # fmt: skip


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p
    fine = np.geomspace(0.04, 1.93, 300)

    def path(aims):
        return np.cumsum([aim.batch_size * aim.steps for aim in aims]), [aim.eps**2 for aim in aims]

    thresholds = [
        Band(f"{NAMES[rule]}, x = {x:g}", look, *path(res.ended[rule, x]))
        for x in (1.0, 4.0)
        for rule, look in (("published", "measured"), ("critical", "exact"))
    ]
    followed = [Band("theory, 1/(2u(2 − u))", "bound", fine, tracking_price(fine))]
    followed += [Band(f"exact, $\\varepsilon^2$ = {number(e)}", "measured", U, ratio) for e, ratio in res.price.items()]
    axes = {"xlabel": "gradient evaluations", "ylabel": r"$\varepsilon_m^2$ of the stages that end"}
    over = {"xlabel": r"$u=\eta_{nt}^2/\eta_\star^2$", "ylabel": "over the best constant batch size"}
    exact = laws({f"thresholds, γ = {p.gamma:g}": (thresholds, axes), "norm test": (followed, over)}, height=3.9)
    one = res.free[0]
    once = one.drop_duplicates("online_grad_sqnorm")  # once a look
    known = once[np.isfinite(once["critical_batch_size_high"])]
    x, lowest, name = "gradient evaluations", p.eps2[-1] / 10, "critical, free, where its interval ends"
    value, low, high = (once[f"online_grad_sqnorm{end}"] for end in ("", "_low", "_high"))
    estimate = Band(
        "free, mean of the last half of a stage", "measured", once["samples"], value.where(value > 0),
        low.clip(lower=lowest), high,
    )  # fmt: skip
    value, low, high = (known[f"critical_batch_size{end}"] for end in ("", "_low", "_high"))
    batch = Band(name, "measured", known["samples"], value, low.clip(lower=1), high)
    exactly, in_force = (
        Band(label, "bound", one["samples"], one[column])
        for label, column in (("exact", "grad_sqnorm"), ("in force", "batch_size"))
    )
    looks_at = res.grown[PUBLISHED].rows.query("seed == 0")
    paid = looks_at["samples"] + looks_at["probes"]
    seen = Band("published trigger, with its looks' cost", "exact", paid, looks_at["grad_sqnorm"])
    online = laws(
        {
            r"$\|\nabla f\|^2$": ([exactly, estimate, seen], {"xlabel": x, "ylim": (lowest, None)}),
            "batch size": ([in_force, batch], {"xlabel": x, "ylim": (1, 4 * one["batch_size"].max())}),
        },
        height=3.6,
    )
    groups = {rf"$\varepsilon^2$ = {number(target)}": target for target in dict.fromkeys([p.goal, p.eps2[-1]])}
    shown = {name: of for name, of in res.spent.items() if name != res.CONSTANT}
    shown |= {"best constant b for this ε": res.best} | {f"{name}, with looks": of for name, of in res.looked.items()}
    rows = [
        {"group": group, "system": name, **frame.loc[target, ["samples", "low", "high"]]}
        for group, target in groups.items()
        for name, frame in shown.items()
    ]
    levels = [list(res.eps2).index(p.goal), len(res.eps2) - 1]
    over_best = [
        f"{name}'s {res.over[run][k]:.2g} at ε² = {res.eps2[k]:.2g}"
        for name, run in (("the published rule", PUBLISHED), ("T4", T4_BOTH))
        for k in dict.fromkeys(levels)
        if 0 < res.over[run][k] < np.inf  # both reached it
    ]
    compared = f" Over the best constant batch size, without looks: {', '.join(over_best)}." if over_best else ""
    asked = [
        Band(f"{samples:,} evaluations into the run", look, sizes, values[sizes.index])
        for samples, sizes in res.seen.groupby("samples")["batch_size"]
        for look, values in (("measured", res.asked.value), ("bound", res.predicted))
    ]
    shares = [
        Band(f"{m}: summed over tensors / whole", "measured", res.inner[m]["samples"], of)
        for m, of in res.share.items()
    ]
    last = max(of["samples"].max() for of in res.inner.values())
    shares.append(Band("whole model", "bound", [16, last], [1, 1]))
    axes = {"xlabel": "batch size $b$", "ylabel": r"asked for, times $\eta_{nt}^2$"}
    plain = {"xlabel": "gradient evaluations into the run", "ylabel": "ratio", "yscale": "linear", "ylim": (0, 1.1)}
    statistics = laws(
        {"norm test, what a batch of b asks for": (asked, axes), "inner-product variance": (shares, plain)}, height=3.9
    )
    columns = "batch_size", "grad_sqnorm", "loss", "test_error"
    sampled_on = "" if p.dataset == "digits" else f"σ² is measured on {notebook.VARIANCE_SAMPLES:,} images a seed. "
    settled = [Band(k, "bound", res.done[k].samples[1:], res.following[k][0][1:]) for k in res.norm_specs]
    tested = {name: res.done[name] for name in res.norm_specs} | {"constant b = 16": res.base} | res.ramps
    tolerances = trajectories(tested, columns, theory={"batch_size": settled})
    others = trajectories({name: res.done[name] for name in (res.norm_specs[0], *res.other_specs)}, columns)
    return {
        "exact": (exact,
            "Synthetic quadratic, exact recursion. Left: thresholds of the stages that a trigger gets to the end of; "
            "thin: T4's rule, markers: the published rule, which stops. "
            "Right: gradient evaluations of a batch that follows the norm test, over those of the best constant "
            "batch size for the same ε. Dashed: theory, least at the tolerance of T10 (u = 1)."),
        "runs": (trajectories(res.grown),
            f"{p.title}, {res.SOFTMAX}: triggers by thresholds, the same growth at fixed times, and the best "
            f"constant batch size for ε² = {p.goal:g}. "
            f"Means over {p.seeds} seeds, each with its own batch sizes; bands: 95 % interval over seeds."),
        "bars": (costs(pd.DataFrame(rows), [*groups]),
            "Gradient evaluations to ε. Point: crossing of the mean over seeds; bar: 95 % interval over "
            "seeds; cross: not reached. “With looks” adds the full gradients that the trigger looks at."
            + compared),
        "online": (online,
            f"{p.title}, {res.SOFTMAX}, one run under the test of successive gradients: what it tells free of charge, "
            "with 95 % intervals, beside the exact ‖∇f‖² and the batch in force; and ‖∇f‖² of a run under the "
            f"published trigger, which pays {res.digits.size:,} evaluations for every look at it."),
        "statistics": (statistics,
            f"Left: what the norm test asks for on a batch of b, mean over many batches ({res.MLP}); dashed: theory. "
            "At small b it can ask for hardly more than b/η². "
            "Right: inner-product variance as AdAdaGrad's program sums it up, parameter tensor by parameter tensor, "
            "over that of the whole model."),
        "tolerances": (tolerances,
            f"{p.title}, {res.MLP}, SGD under the norm test, and ramps at the end of the same budget. "
            "Dashed: (1 − η²)σ²/(η²‖∇f‖²) from the measured σ² and "
            f"‖∇f‖². {sampled_on}Means over {p.test_seeds} seeds; bands: 95 % interval over seeds."),
        "others": (others,
            f"{p.title}, {res.MLP}: other tests (SGD), and other optimizers under the norm test with η = {p.eta[0]:g}. "
            f"Means over {p.test_seeds} seeds; bands: 95 % interval over seeds.")}  # fmt: skip


def claims(res: SimpleNamespace) -> notebook.Claims:
    p = res.p
    ordered = {"constant": res.base} | {name: res.done[name] for name in res.norm_specs}

    def at_end(names, column):
        bands = [value_at(ordered[name], column) for name in names]
        return {"measured": [band.value for band in bands], "interval": [band[1:] for band in bands]}

    def at_goal(*frames):
        rows = [frame.loc[p.goal] for frame in frames]
        return {"measured": [row["samples"] for row in rows], "interval": [[row["low"], row["high"]] for row in rows]}

    def over_best(frame):
        return ratios(frame, res.best.reindex(frame.index))

    third = GradNormTrigger(round(res.b0), p.quadratic_lr[0], EPS0, p.delta, p.gamma, 1, rule="published")
    third.update(third.batch_size, 0.0), third.update(third.batch_size, 0.0)
    noise = res.q.grad_sqnorm(third.batch_size, third.lr, 10**12) / third.eps**2
    estimates = [f.dropna(subset=["online_grad_sqnorm"]) for f in res.free.values()]
    missed = [
        (~f["grad_sqnorm"].between(f["online_grad_sqnorm_low"], f["online_grad_sqnorm_high"])).mean() for f in estimates
    ]
    outside = further(np.array(missed))
    by_sgd = [name for name, run in res.done.items() if run.spec.optimizer.kind == "sgd"]
    some = "" if res.n == res.mlp.size else f", on {res.n:,} images"
    shares = " and ".join(
        f"{of.min():.2g} to {of.max():.2g}{'' if k else ' of the variance'} ({titled(m)})"
        for k, (m, of) in enumerate(res.share.items())
    )
    checks = [
        Check(f"Quadratic, γ = {p.gamma:g}: the published thresholds end 1 + ⌊ln 2x/ln γ⌋ stages from x times the "
            "critical batch size (x = 1, 2, 4, 8)", "equal", measured=[len(res.ended["published", x]) for x in EXCESS],
            theory=stages_before_stalling(EXCESS, p.gamma), tolerance=0.01, exact=True, source="T2 [S], T4 [S]",
            figure="exact",
            explanation=f"At x = 1 the noise of the third stage is {p.gamma**2 / 2:.3g} of its ε² by T2, and "
            f"{noise:.4g} on the quadratic, where b* is not quite 2Gη/ε²: it never ends."),
        Check("Quadratic: with T4's thresholds every stage ends, from every x", "equal",
            measured=[len(res.ended["critical", x]) for x in EXCESS], theory=MOST, tolerance=0.01, exact=True,
            source="T4 [S]", figure="exact"),
        Check("Quadratic: a batch that follows the norm test costs 1/(2u(2 − u)) of the best constant batch size, u ≤ "
            "1.5", "equal", measured=np.array(res.price[1e-4])[U <= 1.5], theory=tracking_price(U[U <= 1.5]),
            tolerance=0.05, exact=True, source="T10 [N]", figure="exact"),
        Check(f"{p.title}: T4's thresholds, the batch alone growing, stay within 8/3 of the best constant batch size "
            "at every ε", "upper_bound", **over_best(res.spent[T4_ALONE]),
            theory=8 / 3, source="T6 [N]", figure="bars"),
        Check("The same with the evaluations of its looks", "upper_bound",
            **over_best(res.looked[T4_ALONE]), theory=8 / 3, source="T6 [N]",
            figure="bars", explanation="Looks are no part of T6. At the first batch size they cost "
            f"{res.digits.size / (p.check_every * res.first):.2g} evaluations for each one of training; "
            "as the batch grows they cost less, and the claim holds again at the smaller ε."),
        Check(f"{p.title}: at every ε the published trigger needs at most the evaluations of the best constant batch "
            "size, and of fixed times", "upper_bound", **ratios(pd.concat([res.spent[PUBLISHED]] * 2),
                pd.concat([of.reindex(res.spent[PUBLISHED].index) for of in (res.best, res.spent[FIXED])])), theory=1.0,
            source="arXiv 2508.05302", figure="bars",
            explanation="The published thresholds fall behind the critical batch size by γ a stage, as on the "
            "quadratic above, so that a small enough ε is dearer."),
        Check("The published trigger against the best constant batch size, with the evaluations of its looks",
            "ordering", headline=True, source="arXiv 2508.05302", figure="bars",
            **at_goal(res.looked[PUBLISHED], res.best), explanation=f"Up to ε² = {p.goal:g} the looks alone cost "
            f"{res.looked[PUBLISHED].loc[p.goal, 'samples'] - res.spent[PUBLISHED].loc[p.goal, 'samples']:,.0f} "
            "evaluations, "
            f"{res.looked[PUBLISHED].loc[p.goal, 'samples'] / res.spent[PUBLISHED].loc[p.goal, 'samples'] - 1:.2g} "
            "times the training. The authors' SFO leaves them out."),
        Check("The test of successive gradients, which looks at nothing, needs fewer evaluations than the published "
            "trigger with its looks", "ordering", source="T14 [N]", figure="bars",
            **at_goal(res.spent[FREE], res.looked[PUBLISHED])),
        Check(f"{p.title}: the test of successive gradients stays within 8/3 of the best constant batch size at every "
            "ε", "upper_bound", **over_best(res.spent[FREE]), theory=8 / 3,
            source="T6 [N], T14 [N]", figure="bars"),
        check(
            "The exact ‖∇f‖² is outside of the 95 % interval of its free estimate at 20 % of a run's measuring points "
            "at most, each seed", "upper_bound", measured=outside.value, interval=outside[1:], theory=0.2,
            missing="no measuring point behind a look, at which the estimate is known, in some seed's run",
            prediction="goal", source="T14 [N]", figure="online",
            explanation="The estimate is a mean over the last half of a stage, the exact one that of a step: where it "
            "falls or fluctuates by more than the interval, they differ."),
        Check(f"{res.MLP}: on a batch of b the norm test asks for σ²/(η²(‖∇f‖² + σ²/b))", "equal", **sampled(res.asked),
            theory=res.predicted, tolerance=0.15, source="T10 [N]", figure="statistics"),
        Check(f"{', '.join(map(titled, res.inner))}{some}: the sum over parameter tensors is the inner-product "
            "variance", "equal", measured=np.concatenate([*res.share.values()]), theory=1.0, tolerance=0.05, exact=True,
            source="T10 [S], AdAdaGrad's program", figure="statistics",
            explanation="The sum leaves out the covariances between the tensors (T10), which are positive here: it "
            f"is {shares}, and the inner-product test with it asks for as much smaller a batch."),
        Check(f"{res.MLP}: the run's batch size over (1 − η²)σ²/(η²‖∇f‖²) in the last third of the budget, every "
            "tolerance, four optimizers", "equal", measured=[ratio.value for _, ratio in res.following.values()],
            interval=[ratio[1:] for _, ratio in res.following.values()], theory=1.0, tolerance=0.25, source="T10 [N]",
            figure="tolerances"),
        check(f"{res.MLP}: at the end of the budget the batch is larger the smaller the tolerance", "ordering",
            source="T10 [S]", figure="tolerances", **at_end(res.norm_specs, "batch_size")),
        Check(f"{res.MLP}: at the end of the budget ‖∇f‖² is lower with {LATE} and {HORIZON} than under any test by "
            "SGD, and at constant b = 16 (ratio)", "upper_bound", theory=1.0, source="T16 [N]", figure="tolerances",
            **over_next(*([value_at(ramp, "grad_sqnorm"), value_at(run, "grad_sqnorm")] for ramp in res.ramps.values()
                          for run in (res.base, *(res.done[name] for name in by_sgd))))),
        check(f"{res.MLP}: at the end of the budget ‖∇f‖² is larger the smaller the tolerance, and least at constant "
            "b = 16", "ordering", source="T2 [S], T10 [N]", figure="tolerances",
            **at_end(ordered, "grad_sqnorm"))]  # fmt: skip
    return checks
