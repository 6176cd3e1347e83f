"""11: the gradient noise scale along runs, and what it says of the critical batch size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt

from sfolib._utils.errors import require
from sfolib.analysis.claims import Check
from sfolib.analysis.crossings import cheapest, crossings, pareto
from sfolib.analysis.fits import fit_exponent, fit_front
from sfolib.analysis.noise_scale import adapt, near, noise_scale_band
from sfolib.analysis.predict import LocalPath, local_path
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band
from sfolib.plotting.noise_scale import Estimated, along, critical_batch_sizes, optimal_batch_size, predicted_minimum
from sfolib.problems.specs import Digits, Quadratic, named, split_digits
from sfolib.schedules import base
from sfolib.schedules.adaptive.noise_scale import critical_batch_size, local_critical_batch_size, sqnorm_variance
from sfolib.schedules.adaptive.optimal_batch import OptimalBatch
from sfolib.schedules.plan import Plan
from sfolib.theory import bounds
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training.records import Run
from sfolib.training.spec import Spec

FEW, ALL = [1e-2, 6e-3, 4e-3, 3e-3, 2e-3], [1e-2, 1e-3, 3e-4, 1e-4, 3e-5]


_BY_SCALE = {  # smoke, quick, paper
    "eps2": (FEW, ALL, ALL),
    "seeds": (3, 8, 64),
    "largest_batch_size": (1024, 1024, 4096),
    "max_steps": (4000, 20_000, 200_000),
    "max_samples": (10**6, 6 * 10**6, 60 * 10**6),
    "tuned_eps2": ([0.01], [0.01, 0.003], [0.01, 0.003, 0.001]),
    "tuned_lrs": ([0.2, 0.4, 0.8, 1.6], [0.05, 0.1, 0.2, 0.4, 0.8, 1.6], [0.05 * 2 ** (k / 2) for k in range(12)]),
    "tuned_largest_batch_size": (256, 1024, 4096),
    "tuned_seeds": (5, 8, 64),
    "tuned_max_steps": (400, 2500, 40_000),
    "tuned_max_samples": (50_000, 200_000, 2 * 10**6),
    "mlp_eps2": ([0.1, 0.08], [0.1, 0.03, 0.01], [0.1, 0.03, 0.01, 0.003, 0.001]),
    "mlp_batch_sizes": ([4, 64], [4, 128], [1, 1024]),
    "mlp_max_samples": (10_000, 80_000, 10**7),
    "adam_eps2": (
        [0.01, 0.008, 0.006, 0.005, 0.004],
        [0.01, 0.008, 0.006, 0.004, 0.002],
        [0.01, 0.004, 0.002, 0.001, 0.0003],
    ),
    "adam_seeds": (8, 16, 64),
    "adam_largest_batch_size": (128, 256, 2048),
    "adam_max_samples": (30_000, 120_000, 3 * 10**6),
    "adam_max_steps": (2000, 4000, 60_000),
    "watched_seeds": (5, 5, 32),
    "watched_samples": ([200_000, 60_000, 20_000], [10**6, 2 * 10**6, 100_000], [2 * 10**6, 8 * 10**6, 4 * 10**6]),
    "tracking_samples": ([40_000, 10_000], [10**6, 60_000], [8 * 10**6, 4 * 10**6]),
    "rest_steps": (1000, 2000, 10_000),
}


class Parameters(notebook.Parameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        scale: {name: values[i] for name, values in _BY_SCALE.items()}
        for i, scale in enumerate(("smoke", "quick", "paper"))
    }

    lr: PositiveFloat = Field(0.1, description="digits: learning rate η")
    l2: PositiveFloat = Field(0.001, description="digits: ℓ2 coefficient")
    eps2: notebook.Values = by_scale("softmax regression: targets ε², as are all of the following")
    seeds: PositiveInt = by_scale("… independent runs of the search")
    largest_batch_size: PositiveInt = by_scale("… its batch sizes are 1, 2, 4, … this")
    max_steps: PositiveInt = by_scale("… budget of a run, in steps …")
    max_samples: PositiveInt = by_scale("… and in gradient evaluations")
    tuned_eps2: notebook.Values = by_scale("… with tuned learning rates: targets")
    tuned_lrs: notebook.Values = by_scale("… learning rates")
    tuned_largest_batch_size: PositiveInt = by_scale("… batch sizes are 4, 8, … this")
    tuned_seeds: PositiveInt = by_scale("… independent runs")
    tuned_max_steps: PositiveInt = by_scale("… budget of a run, in steps …")
    tuned_max_samples: PositiveInt = by_scale("… and in gradient evaluations")
    mlp_eps2: notebook.Values = by_scale("the network: targets ε²")
    mlp_batch_sizes: notebook.of_length(2, int) = by_scale("… smallest and largest batch size")
    mlp_max_samples: PositiveInt = by_scale("… budget of a run in gradient evaluations")
    adam_lr: PositiveFloat = Field(0.01, description="softmax regression with Adam: learning rate")
    adam_eps2: notebook.Values = by_scale("… targets ε²")
    adam_seeds: PositiveInt = by_scale("… independent runs")
    adam_largest_batch_size: PositiveInt = by_scale("… batch sizes are 1, 2, 4, … this")
    adam_max_steps: PositiveInt = by_scale("… budget of a run, in steps …")
    adam_max_samples: PositiveInt = by_scale("… and in gradient evaluations")
    watched_seeds: PositiveInt = by_scale("watched runs: independent runs")
    growth: str = Field(
        "0:32 16K:64 32K:128 64K:256 128K:512 256K:1024",
        description="… batch sizes, from how many gradient evaluations on",
    )
    watched_samples: notebook.of_length(3, int) = by_scale("… gradient evaluations of quadratic, softmax and network")
    tracking: str = Field("0:8 16K:16 64K:32 256K:128 1M:512", description="… the same, near the critical batch size")
    tracking_samples: notebook.of_length(2, int) = by_scale("… budgets of those, softmax regression and network")
    decay: PositiveFloat = Field(0.99, description="… memory of the averages over steps")
    probe: PositiveInt = Field(256, description="… fresh samples for the per-sample statistics")
    quadratic_lr: PositiveFloat = Field(0.1, description="synthetic quadratic, L and σ² of 1: learning rate η")
    quadratic_eps2: notebook.Values = Field([0.005, 0.002, 0.001], description="… targets ε²")
    rest_steps: Annotated[int, Field(ge=200)] = by_scale("steps of the quadratic at rest")


QUADRATIC = Quadratic(lam_min=1e-6)
STILL_DECAY = 0.9  # of the averages at rest
WATCHED = {"quadratic": "quadratic (synthetic)", "softmax": "digits, softmax regression", "network": "digits, network"}
WELL = PowerLawQuadratic(d=50, lam_min=0.05, init="flat")  # strongly convex


def schedules(p):
    """The batch sizes of the watched runs: growing at once, and near the critical batch size."""
    return {"growing": base.parse(p.growth), "tracking": base.parse(p.tracking)}


def powers_of_two(first: int, last: int) -> list[int]:
    return [b for b in (2**k for k in range(last.bit_length())) if b >= first]


def specs(p: Parameters, schedules: Mapping[str, Any], runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    digits, network = Digits(l2=p.l2), named("digits", "mlp", l2=p.l2)
    bounds.stable_lr(digits.smoothness_bound, p.lr)  # before anything is trained: T2 needs it
    found: dict[Hashable, Spec] = {
        "at rest": Spec(
            problem=QUADRATIC, plan=Plan(16, 1e-9), seeds=tuple(range(32)), sampling="replacement", dtype="float64",
            eval_every=1.15, max_steps=p.rest_steps, max_samples=10**9, noise_probes={"parts": 2, "decay": STILL_DECAY},
        )
    }  # fmt: skip

    def watch(key: Hashable, problem: Any, lr: float, samples: int, size: int, batch_size: Any, dtype: str) -> None:
        found[key] = Spec(
            problem=problem, plan=Plan(batch_size, lr, clock="sample"), seeds=tuple(range(p.watched_seeds)),
            sampling="replacement", eval_every=1.08, max_samples=samples, dtype=dtype,
            noise_probes={"parts": 2, "decay": p.decay, "size": size},
        )  # fmt: skip

    growing, tracking = schedules["growing"], schedules["tracking"]
    budgets = dict(zip(WATCHED, p.watched_samples, strict=True))
    watch(("watched", "quadratic"), QUADRATIC, p.quadratic_lr, budgets["quadratic"], 0, growing, "float64")
    for (name, problem), samples in zip((("softmax", digits), ("network", network)), p.tracking_samples, strict=True):
        watch(("watched", name), problem, p.lr, budgets[name], p.probe, growing, "float32")
        watch(("near critical", name), problem, p.lr, samples, p.probe, tracking, "float32")

    def search(name: str, problem: Any, sizes: list[int], eps2: list[float], seeds: int, lr: float, **how: Any) -> None:
        for b in sizes:
            found["search", name, lr, b] = Spec(
                problem=problem, plan=Plan(b, lr), seeds=tuple(range(seeds)), sampling="replacement",
                target_grad_norm=min(eps2) ** 0.5, **how,
            )  # fmt: skip

    search(
        "softmax", digits, powers_of_two(1, p.largest_batch_size), p.eps2, p.seeds, p.lr,
        max_steps=p.max_steps, max_samples=p.max_samples, eval_every=1.02,
    )  # fmt: skip
    search(
        "network", network, powers_of_two(*p.mlp_batch_sizes), p.mlp_eps2, p.watched_seeds, p.lr,
        max_steps=p.mlp_max_samples // 10, max_samples=p.mlp_max_samples, eval_every=1.04,
    )  # fmt: skip
    for rate in p.tuned_lrs:
        search(
            "tuned", digits, powers_of_two(4, p.tuned_largest_batch_size), p.tuned_eps2, p.tuned_seeds, rate,
            max_steps=p.tuned_max_steps, max_samples=p.tuned_max_samples, eval_every=1.02,
        )  # fmt: skip
    search(
        "Adam", digits, powers_of_two(1, p.adam_largest_batch_size), p.adam_eps2, p.adam_seeds, p.adam_lr,
        max_steps=p.adam_max_steps, max_samples=p.adam_max_samples, optimizer="adam", eval_every=1.03,
    )  # fmt: skip
    return found


def constants_along(p: Parameters, name: str) -> LocalPath:
    """T13's constants along the noise-free path of the digits' "softmax" or "network", as far as the searches go."""
    softmax = name == "softmax"
    problem, eps2 = (Digits(l2=p.l2), p.eps2) if softmax else (named("digits", "mlp", l2=p.l2), p.mlp_eps2)
    asked = Spec(
        problem=problem, plan=Plan(1, (4 if softmax else 2) * p.lr), max_samples=10**9, max_steps=100_000,
        target_grad_norm=min(eps2) ** 0.5,
    )  # fmt: skip
    return local_path(asked, p.device, **({} if softmax else {"vectors": 8, "products": 5}))


def at_rest(run: Run) -> tuple[pd.DataFrame, np.ndarray]:
    """The loop's estimates on the quadratic where it does not move, beside what they estimate; and their squared
    deviations from ‖G‖² over the variance formula, (seeds, points)."""
    exact = QUADRATIC.exact
    apart = run.steps >= 100  # 15 % of that many steps, and the window's mean age is 10
    G2, s = float(np.square(exact.eigenvalues * exact.theta0).sum()), exact.noise_variance
    one = sqnorm_variance(float(s @ np.square(exact.eigenvalues * exact.theta0)), float(s @ s), 16, 2)
    error = (one * (1 - STILL_DECAY) / (1 + STILL_DECAY)) ** 0.5
    sqnorm, variance = (run.curves(name)[:, apart] for name in ("loop_sqnorm", "loop_variance"))
    z2 = np.square((sqnorm - G2) / error)
    frame = pd.DataFrame(
        {
            "estimated": [sqnorm.mean(), variance.mean(), z2.mean()],
            "exact": [G2, exact.sigma2, 1.0],
            "standard error": [
                error / sqnorm.size**0.5, variance.std() / variance.size**0.5, z2.std() / z2.size**0.5,
            ],
        },
        index=["‖G‖²", "tr Σ", "variance over formula"],
    )  # fmt: skip
    return frame, z2


def with_range(frame: pd.DataFrame) -> pd.DataFrame:
    """The cheapest batch at each ε², and those that the intervals cannot tell from it."""
    best = cheapest(frame)
    near_best = [
        frame[(frame["eps2"] == row.eps2) & (frame["low"] <= row.high)]["batch_size"] for row in best.itertuples()
    ]
    return best.assign(first=[b.min() for b in near_best], last=[b.max() for b in near_best])


def estimates(
    run: Run, column: str, eps2: Any, lr: float, L: float | None = None, curvature: Any = None
) -> pd.DataFrame:
    """tr Σ/ε² (from `column`), T2's b* with it, and η tr(HΣ)/ε², each as the run passes ε."""
    eps = np.array(eps2) ** 0.5
    at = [run.first_crossing(e).samples for e in eps]
    variance = np.array([near(run, column, n)[0] for n in at])
    curvature = np.array([near(run, "curvature_noise", n)[0] for n in at]) if curvature is None else curvature
    return pd.DataFrame(
        {
            "eps2": eps2,
            "B": variance / eps**2,
            "T2": np.nan if L is None else 2 * L * lr / (2 - L * lr) * variance / eps**2,
            "curvature": local_critical_batch_size(curvature, lr, eps),
        }
    )


START = float(np.square(WELL.theta0).sum())


def known(radius: float) -> OptimalBatch:
    """The rule with h as it is at the minimum."""
    return OptimalBatch(WELL.sigma2, WELL.L, WELL.lam_min, radius)


def first_below(samples: Any, sqdistance: Any, radius: float) -> float:
    """Gradient evaluations at the first value of at most radius."""
    return float(np.asarray(samples)[np.argmax(np.asarray(sqdistance) <= radius)])


def exact_cost(rule: OptimalBatch, batch_size: float, radius: float) -> float:
    """Gradient evaluations of the rule's lr at a constant batch size, exactly."""
    steps = int(rule.steps_at(batch_size, START)) + 1
    sqdistance = WELL.moments(batch_size, np.full(steps, rule.lr_at(batch_size))).sum(1)
    return first_below(batch_size * np.arange(steps + 1), sqdistance, radius)


def strongly_convex(radii: Mapping[float, float]) -> tuple[pd.DataFrame, dict[float, float], list[Band]]:
    """On `WELL`: what constant batch sizes cost by the bound and exactly; what the rule takes as it learns, by share;
    and the batch sizes that it learns."""
    rule = known(radii[0.1])
    grid = np.unique(np.round(rule.exact * 2.0 ** np.arange(-5, 4.5, 0.5)))
    exact = [exact_cost(rule, b, radii[0.1]) for b in grid]
    cost = pd.DataFrame({"batch_size": grid, "bound": grid * rule.steps_at(grid, START), "exact": exact})
    h0 = WELL.sigma2 + float(np.square(WELL.eigenvalues * WELL.theta0).sum())
    adapted, learned = {}, []
    for share, radius in radii.items():
        budget = int(3 * exact_cost(known(radius), known(radius).batch_size, radius))
        runs = [adapt(WELL, OptimalBatch(h0, WELL.L, WELL.lam_min, radius), budget, seed) for seed in range(20)]
        clock = np.geomspace(200, budget, 400)
        sizes, sqdistance = (
            np.array([np.interp(clock, run["samples"], run[name]) for run in runs]) for name in ("exact", "sqdistance")
        )
        adapted[share] = first_below(clock, sqdistance.mean(0), radius)
        ends = np.percentile(sizes, [2.5, 97.5], axis=0)
        learned.append(Band(f"$\\rho$ = {share:g} of the start", "measured", clock, sizes.mean(0), *ends))
    return cost, adapted, learned


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """rest, z2: as `at_rest`. watched: runs whose batch grows, by title. noise_scales: their B. found: crossings of the
    searches, by problem; fitted: b* of K(b) at each (problem, ε²); least: the cheapest; front_batch_size: B of the
    front with tuned lr. estimated: what estimates say of b*, by problem; truth: b* by fit or exactly; large: at large
    batches. cost, adapted, learned: as `strongly_convex`, radii: their radii; asked: the rule's batch on digits."""
    digits, exact = Digits(l2=p.l2), QUADRATIC.exact
    rest, z2 = at_rest(runs["at rest"])
    first, softmax, mlp = (runs["watched", name] for name in WATCHED)
    paths = {name: constants_along(p, name) for name in ("softmax", "network")}
    watched = {title: runs["watched", name] for name, title in WATCHED.items()}
    growing = Plan(base.parse(p.growth), p.quadratic_lr, clock="sample")
    path = exact.grad_sqnorm_path(growing.table(2 * p.watched_samples[0], 1)["batch_size"], p.quadratic_lr)
    noise_scales = {}
    for title, run in watched.items():
        truth = exact.sigma2 / path[first.steps] if run is first else noise_scale_band(run).value
        bands = [
            Band("exact", "exact", run.samples, truth),
            Band("from the loop: halves of each batch", "measured", run.samples, *noise_scale_band(run, "loop_")),
        ]
        if run is not first:
            scale = noise_scale_band(run, "probe_")
            bands.append(Band("from probes: per-sample statistics", "permutation", run.samples, *scale))
            constants, time = paths["softmax" if run is softmax else "network"], p.lr * run.steps
            on = time <= constants.time[-1]
            scale = np.interp(time[on], constants.time, constants.Q / constants.GHG)
            bands.append(
                Band(r"local: $\mathrm{tr}(H\Sigma)/G^\top HG$, no noise", "predicted", run.samples[on], scale)
            )
        noise_scales[title] = ("noise scale $B$", bands)

    def searched(name: str, eps2: list[float], lr: float) -> pd.DataFrame:
        return crossings([run for key, run in runs.items() if key[:3] == ("search", name, lr)], eps2, source="measured")

    found = {
        "softmax": searched("softmax", p.eps2, p.lr),
        "network": searched("network", p.mlp_eps2, p.lr),
        "Adam": searched("Adam", p.adam_eps2, p.adam_lr),
    }
    tuned = pd.concat(searched("tuned", p.tuned_eps2, rate) for rate in p.tuned_lrs)
    front = {target: pareto(tuned[tuned["eps2"] == target]) for target in p.tuned_eps2}
    reached = np.isfinite(found["Adam"]["steps"]).groupby(found["Adam"]["eps2"]).sum()
    how = "each must be reached by three batch sizes; larger ones, or larger adam_max_steps and adam_max_samples"
    require(bool((reached >= 3).all()), "adam_eps2", p.adam_eps2, how)
    fitted = {
        (name, target): critical_batch_size(f["batch_size"], f["steps"])
        for name, frame in found.items()
        for target, f in frame.groupby("eps2", sort=False)
        if name == "Adam" or np.isfinite(f["steps"]).sum() >= 3
    }
    targets = {name: [e for of, e in fitted if of == name] for name in ("softmax", "network")}
    near_critical, probes = (lambda name: runs["near critical", name]), "probe_variance"
    curvature = exact.eigenvalues @ exact.noise_variance
    estimated = {
        "quadratic": estimates(first, "loop_variance", p.quadratic_eps2, p.quadratic_lr, exact.L, curvature),
        "softmax": estimates(near_critical("softmax"), probes, targets["softmax"], p.lr, digits.smoothness_bound),
        "network": estimates(near_critical("network"), probes, targets["network"], p.lr),
    }
    for name, constants in paths.items():
        best = [constants.pairs(p.lr, e) for e in targets[name]]
        found_b = [pairs["batch_size"].iloc[pairs["samples"].argmin()] if len(pairs) else np.nan for pairs in best]
        estimated[name] = estimated[name].assign(predicted=found_b)
    radii = {share: share * START for share in (0.1, 0.03)}
    cost, adapted, learned = strongly_convex(radii)
    # as digits.smoothness_bound, of one sample
    L_max = 0.5 * (1 + float(np.square(split_digits(0)[0][0]).sum(1).max())) + p.l2
    moment = softmax.curves("probe_variance") + softmax.curves("probe_sqnorm")  # of the mean of ‖∇f_i‖²

    def rule_on_digits(radius: float) -> np.ndarray:
        L, n = digits.smoothness_bound, digits.size
        return np.vectorize(lambda h: OptimalBatch(max(h, 0.0), L, p.l2, radius, L_max=L_max, n=n).exact)(moment)

    return SimpleNamespace(
        p=p,
        digits=digits,
        exact=exact,
        rest=rest,
        z2=z2,
        watched=watched,
        first=first,
        softmax=softmax,
        mlp=mlp,
        path=path,
        noise_scales=noise_scales,
        found=found,
        front_batch_size={e: fit_front(frame["steps"], frame["samples"]).batch_size for e, frame in front.items()},
        fitted=fitted,
        least={name: with_range(frame) for name, frame in found.items()},
        estimated=estimated,
        large=estimates(softmax, probes, p.tuned_eps2, p.lr),
        truth={
            "quadratic": [exact.best_constant_batch_size(p.quadratic_lr, e**0.5).batch_size for e in p.quadratic_eps2],
            **{name: [fitted[name, e] for e in of_name] for name, of_name in targets.items()},
        },
        radii=radii,
        cost=cost,
        rule=known(radii[0.1]),
        adapted=adapted,
        learned=learned,
        asked={radius: rule_on_digits(radius) for radius in (10.0, 1.0, 0.1)},
        guaranteed=[float(rule_on_digits(target / digits.smoothness_bound**2).min()) for target in p.eps2],
        at_fitted=[
            curve.iloc[np.abs(np.log(curve["batch_size"] / fitted["Adam", target])).argmin()]["samples"]
            / curve["samples"].min()
            for target, curve in found["Adam"].groupby("eps2", sort=False)
        ],
    )


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p
    parts = [
        Band(name, "measured", run.samples, *run.mean_ci(column))
        for run, title in ((res.softmax, "softmax"), (res.mlp, "network"))
        for name, column in (
            (rf"{title}: $\mathrm{{tr}}\,\Sigma$", "probe_variance"),
            (rf"{title}: $\mathrm{{tr}}(H\Sigma)$", "curvature_noise"),
        )
    ]
    scales = along(res.noise_scales | {"the parts that need no average": ("", parts)})
    panels = {}
    for name, table in res.estimated.items():
        label = "critical batch size, fixed $\\eta$ (bar: cheapest of the search)"
        ends = res.least[name].set_index("eps2") if name in res.least else None
        bars = [ends[end].reindex(table["eps2"]) for end in ("first", "last")] if ends is not None else ()
        panels[name] = [
            Estimated(label, "exact" if ends is None else "measured", table["eps2"], res.truth[name], *bars),
            Estimated(r"noise scale $\mathrm{tr}\,\Sigma/\varepsilon^2$", "bound", table["eps2"], table["B"]),
            Estimated(r"T2, $2C_2\eta/\varepsilon^2$", "bound", table["eps2"], table["T2"]),
            Estimated(r"$\eta\,\mathrm{tr}(H\Sigma)/\varepsilon^2$", "bound", table["eps2"], table["curvature"]),
        ]
        if "predicted" in table:
            panels[name].append(Estimated("predicted (T15)", "predicted", table["eps2"], table["predicted"]))
    front = [*res.front_batch_size], [*res.front_batch_size.values()]
    panels["softmax"].append(Estimated("$B$ of the front, tuned $\\eta$", "permutation", *front))
    critical = critical_batch_sizes(
        {
            {"quadratic": "quadratic (synthetic)", "softmax": "digits, softmax", "network": "digits, network"}[
                name
            ]: items
            for name, items in panels.items()
        }
    )
    tended = {band.label: known(radius).exact for band, radius in zip(res.learned, res.radii.values(), strict=True)}
    on_digits = [
        Band(f"$\\rho$ = {radius:g}", "measured", res.softmax.samples, tau.mean(0), tau.min(0), tau.max(0))
        for radius, tau in res.asked.items()
    ]
    strongly = optimal_batch_size(
        res.cost,
        res.rule.exact,
        {"quadratic: learned": (res.learned, tended), "digits": (on_digits, {"$n$": res.digits.size})},
    )
    searched = {"SGD": res.found["softmax"], "Adam": res.found["Adam"]}
    minima = predicted_minimum(
        searched, {("SGD" if name == "softmax" else name, target): b for (name, target), b in res.fitted.items()}
    )
    return {
        "scales": (
            scales,
            "The noise scale along runs whose batch grows: exact (thin), from the halves of each batch, from "
            f"per-sample statistics of {p.probe} fresh samples; and McCandlish's, from H and Σ, where the noise-free "
            "path is after the same Σ η. Last panel: its numerator tr Σ and the curvature noise tr(HΣ). Bands: 95 % "
            "intervals over seeds.",
        ),
        "critical": (
            critical,
            "The critical batch size at a fixed learning rate and what estimates say of it (dashed), against ε². "
            "Bar: the batch sizes of the search that cost no more than the least, "
            "as far as 95 % intervals over seeds can tell.",
        ),
        "strongly": (
            strongly,
            "Strongly convex theory. Left: the bound (dashed) and the exact expectation at constant τ. Middle: the "
            "rule as it learns, mean of 20 runs (band: 95 % of the runs), and the τ* that it "
            "would know (dashed). Right: on digits, mean and range over seeds.",
        ),
        "minima": (
            minima,
            "Gradient evaluations to ε against the batch size, softmax regression on digits (band: 95 % "
            "interval over seeds). Dashed: the minimum of the fitted form.",
        ),
    }


def claims(res: SimpleNamespace) -> list[Check]:
    p = res.p

    def factor(left, right):
        """How many times one is the other, the larger over the smaller."""
        return np.exp(np.abs(np.log(np.asarray(left, dtype=float) / np.asarray(right, dtype=float))))

    def from_probes(run, samples):
        """B from probes around there over B of all samples."""
        B = {
            names: near(run, names[0], samples)[0] / near(run, names[1], samples)[0]
            for names in (("probe_variance", "probe_sqnorm"), ("variance", "grad_sqnorm"))
        }
        return B["probe_variance", "probe_sqnorm"] / B["variance", "grad_sqnorm"]

    def from_loop(run, samples):
        """B from the loop around there over the exact one."""
        B = near(run, "loop_variance", samples)[0] / near(run, "loop_sqnorm", samples)[0]
        if run is res.first:
            return B * np.interp(samples, run.samples, res.path[run.steps]) / res.exact.sigma2
        return B * near(run, "grad_sqnorm", samples)[0] / near(run, "variance", samples)[0]

    def until(run, level):
        """Gradient evaluations at which the exact B first is at the level."""
        return float(run.samples[np.argmax(noise_scale_band(run).value >= level)])

    def grown(run, samples):
        """The estimates of B from probes at the start and around there, each with its interval."""
        band = noise_scale_band(run, "probe_")
        places = [0, int(np.searchsorted(run.samples, samples))]
        return {"measured": band.value[places], "interval": np.array([band.low[places], band.high[places]]).T}

    mean_curvature = [
        res.estimated[name]["curvature"].iloc[-1] / res.estimated[name]["B"].iloc[-1] / rate
        for name, rate in (("quadratic", p.quadratic_lr), ("softmax", p.lr))
    ]
    far = {name: factor(table["B"], res.truth[name]) for name, table in res.estimated.items()}
    by_T2 = {name: factor(res.estimated[name]["T2"], res.truth[name]) for name in ("quadratic", "softmax")}
    by_curvature = {name: factor(table["curvature"], res.truth[name]) for name, table in res.estimated.items()}
    on_path = factor(
        res.estimated["softmax"].set_index("eps2")["curvature"][p.tuned_eps2[:1]],
        [res.fitted["softmax", e] for e in p.tuned_eps2[:1]],
    )
    off_path = factor(res.large["curvature"][:1], [res.fitted["softmax", e] for e in p.tuned_eps2[:1]])
    best_adam = res.least["Adam"]
    ends = (
        res.found["Adam"][res.found["Adam"]["batch_size"].isin([1, p.adam_largest_batch_size])]
        .sort_values("samples")
        .groupby("eps2")
        .first()
    )  # the cheaper end
    back = round(1 / (1 - p.decay))
    long = {
        name: (run, float(run.samples[np.argmax(run.steps >= 10 * back)]))
        for name, run in zip(("quadratic", "softmax", "network"), res.watched.values(), strict=True)
        if run.steps[-1] >= 10 * back
    }
    fell = np.divide(
        *(
            near(res.mlp, "grad_sqnorm", float(np.interp(step, res.mlp.steps, res.mlp.samples)))[0]
            for step in (9 * back, 10 * back)
        )
    )
    at_once = res.mlp.curves("loop_sqnorm")[
        :, min(int(np.searchsorted(res.mlp.steps, 10 * back)), len(res.mlp.steps) - 1)
    ]
    shaky = at_once.std(ddof=1) / len(at_once) ** 0.5 / at_once.mean()
    weights = {step: p.decay ** np.arange(step)[::-1] for step in res.first.steps[res.first.steps >= back]}
    looked_back = res.first.curves("loop_sqnorm").mean(0)[res.first.steps >= back] / [
        w @ res.path[: len(w)] / w.sum() for w in weights.values()
    ]
    adam_slope = fit_exponent(np.array(p.adam_eps2) ** 0.5, [res.fitted["Adam", e] for e in p.adam_eps2])
    tau_start, tau_end = res.asked[1.0][:, 1], res.asked[1.0][:, -1]
    checks = [
        Check(
            "At rest: the estimates of ‖G‖² and of tr Σ have no bias (mean over truth)",
            "equal",
            measured=[res.rest["estimated"].iloc[i] / res.rest["exact"].iloc[i] for i in (0, 1)],
            theory=1.0,
            tolerance=0.01,
            source="[N]",
            figure="scales",
        ),
        Check(
            "At rest: the estimate of ‖G‖² varies as 4GᵀΣG/b + 2 tr Σ² k/(b²(k − 1)) says (variance over formula)",
            "equal",
            measured=float(res.z2.mean()),
            theory=1.0,
            tolerance=0.2,
            source="[N]",
            figure="scales",
        ),
        Check(
            "Quadratic, along the run: the loop's ‖G‖² over the exact expectation averaged with the same memory, "
            "after one memory",
            "equal",
            measured=looked_back,
            theory=1.0,
            tolerance=0.1,
            source="[N]",
            figure="scales",
        ),
        Check(
            f"From the loop, after ten times its memory: B over the exact one ({', '.join(long)})",
            "equal",
            measured=[from_loop(run, n) for run, n in long.values()],
            theory=1.0,
            tolerance=0.15,
            source="[N]",
            figure="scales",
            explanation="For the network the average is too short and too long at once. The standard error of the "
            f"mean ‖G‖² over its {p.watched_seeds} runs is {shaky:.0%} there, and in the "
            f"{back} steps that the average looks back its ‖∇f‖² fell by a factor of {fell:.2g}. Beside both there "
            "is no bias: see the check before this one.",
        ),
        Check(
            "From probes, where B is the number of samples in a probe: B over the exact one (softmax, network)",
            "equal",
            measured=[from_probes(run, until(run, p.probe)) for run in (res.softmax, res.mlp)],
            theory=1.0,
            tolerance=0.25,
            source="[N]",
            figure="scales",
        ),
        *(
            Check(
                f"Digits, {name}: the estimated noise scale is larger at the end of the run than at its start",
                "ordering",
                **grown(run, run.samples[-1]),
                source="T11 [N]",
                figure="scales",
            )
            for name, run in (("softmax", res.softmax), ("network", res.mlp))
        ),
        Check(
            "Softmax, η tuned: the front's B is σ²/ε² within a factor of ten",
            "upper_bound",
            measured=factor(res.large["B"], [*res.front_batch_size.values()]),
            theory=10.0,
            source="T11 [N]",
            figure="critical",
        ),
        Check(
            "Fixed η: the critical batch size is the noise scale tr Σ/ε² within a factor of ten (quadratic, softmax, "
            "network)",
            "upper_bound",
            measured=np.concatenate([*far.values()]),
            theory=10.0,
            source="T11 [N]",
            figure="critical",
            explanation="The noise scale knows no learning rate: it is the critical batch size where η is tuned for "
            "each b (the check before this one). A fixed η far below 1/L is "
            "a step that makes less of each gradient, and forgives more noise.",
        ),
        Check(
            "Fixed η: the critical batch size is T2's, with measured σ² and proven L, within a factor of ten "
            "(quadratic, softmax)",
            "upper_bound",
            measured=np.concatenate([*by_T2.values()]),
            theory=10.0,
            source="T2 [S]",
            figure="critical",
            explanation="T2 charges all noise with the largest curvature. The noise meets tr(HΣ)/tr Σ, which is "
            f"{mean_curvature[0]:.2g} on the quadratic, where L = {res.exact.L:g}, and "
            f"{mean_curvature[1]:.2g} on softmax regression at the last ε, where L ≤ "
            f"{res.digits.smoothness_bound:.2g}. With tr(HΣ) in place of Lσ² the factors are those of the next "
            "checks.",
        ),
        Check(
            "Quadratic, small η: the critical batch size is η tr(HΣ)/ε²",
            "equal",
            measured=res.truth["quadratic"],
            theory=res.estimated["quadratic"]["curvature"],
            tolerance=0.1,
            exact=True,
            source="[N]",
            figure="critical",
        ),
        Check(
            "Fixed η: the critical batch size is η tr(HΣ)/ε² within a factor of ten (quadratic, softmax, network)",
            "upper_bound",
            measured=np.concatenate([*by_curvature.values()]),
            theory=10.0,
            headline=True,
            source="[N]",
            figure="critical",
        ),
        Check(
            "Fixed η: the critical batch size is the predicted one (T15) within a factor of two (softmax, network)",
            "upper_bound",
            measured=np.concatenate(
                [factor(res.estimated[name]["predicted"], res.truth[name]) for name in ("softmax", "network")]
            ),
            theory=2.0,
            source="T15 [N]",
            figure="critical",
        ),
        Check(
            "Softmax, fixed η: η tr(HΣ)/ε² is nearer to the critical batch size than T2's, and that than the noise "
            "scale (mean factor)",
            "ordering",
            measured=[np.exp(np.log(f["softmax"]).mean()) for f in (by_curvature, by_T2, far)],
            source="[N]",
            figure="critical",
        ),
        Check(
            f"Softmax, ε² = {p.tuned_eps2[0]:g}: η tr(HΣ)/ε² is nearer where the run's batch is near the critical "
            "one than where it is larger (factors)",
            "ordering",
            measured=[float(on_path[0]), float(off_path[0])],
            source="[N]",
            figure="critical",
        ),
        Check(
            "Strongly convex quadratic: exact steps to the radius are at most the bound's, at every τ",
            "upper_bound",
            measured=float((res.cost["exact"] / res.cost["bound"]).max()),
            theory=1.0,
            exact=True,
            source="Gower et al. 2019",
            figure="strongly",
        ),
        Check(
            "Strongly convex quadratic: τ* costs at most 1.25 times the cheapest τ",
            "upper_bound",
            measured=exact_cost(res.rule, res.rule.batch_size, res.radii[0.1]) / res.cost["exact"].min(),
            theory=1.25,
            exact=True,
            source="Alfarra et al. 2020",
            figure="strongly",
        ),
        Check(
            "Strongly convex quadratic: learning τ* on the way costs at most 1.25 times knowing it, at both radii",
            "upper_bound",
            measured=[
                res.adapted[share] / exact_cost(known(radius), known(radius).batch_size, radius)
                for share, radius in res.radii.items()
            ],
            theory=1.25,
            source="Alfarra et al. 2020",
            figure="strongly",
        ),
        Check(
            "Digits: the optimal batch for a radius falls along the run (end, start), as the noise scale grows",
            "ordering",
            measured=[tau_end.mean(), tau_start.mean()],
            interval=[[tau.min(), tau.max()] for tau in (tau_end, tau_start)],
            source="[N]",
            figure="strongly",
        ),
        *(
            Check(
                f"Adam, ε² = {row.eps2:g}: fewer evaluations inside than at b = 1 and at b = "
                f"{p.adam_largest_batch_size}",
                "ordering",
                measured=[row.samples, ends.samples[row.eps2]],
                interval=[[row.low, row.high], [ends.low[row.eps2], ends.high[row.eps2]]],
                source="Iiduka 2022",
                figure="minima",
            )
            for row in best_adam.iloc[[0, -1]].itertuples()
        ),
        Check(
            "Adam: the critical batch size grows from the first ε to the middle one, and to the last",
            "ordering",
            measured=[res.fitted["Adam", p.adam_eps2[i]] for i in (0, len(p.adam_eps2) // 2, -1)],
            source="Iiduka 2022",
            figure="minima",
        ),
        Check(
            "Adam: it grows like ε^−2 or faster, as C ≥ 0 (exponent)",
            "upper_bound",
            measured=adam_slope.value,
            theory=-2.0,
            source="Iiduka 2022, [N]",
            figure="minima",
        ),
        Check(
            "Adam: the batch size nearest to 2B/(ε² − C), B and C fitted to K(b), costs at most 1.25 times the least "
            "of the search",
            "upper_bound",
            measured=res.at_fitted,
            theory=1.25,
            source="Iiduka 2022",
            figure="minima",
        ),
    ]
    return checks
