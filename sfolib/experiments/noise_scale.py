"""11: the gradient noise scale along runs, and what it says of the critical batch size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt

from sfolib._utils.errors import require
from sfolib.analysis.claims import Check, check, over_next, sampled
from sfolib.analysis.crossings import crossings, drawn_crossings, front_batch_size, with_range
from sfolib.analysis.local_path import LocalPath, local_path
from sfolib.analysis.noise_scale import (
    critical_sizes,
    noise_scale_band,
    of_search,
    of_seeds,
    ratio_of_means,
    strongly_convex,
)
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band
from sfolib.plotting.noise_scale import Estimated, along, critical_batch_sizes, optimal_batch_size, predicted_minimum
from sfolib.problems.specs import Digits, Quadratic, named, split_digits
from sfolib.schedules import base
from sfolib.schedules.adaptive.noise_scale import sqnorm_variance
from sfolib.schedules.adaptive.optimal_batch import OptimalBatch
from sfolib.schedules.plan import Plan
from sfolib.theory import bounds
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training import estimates
from sfolib.training.estimates import Interval
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
    SCALES: ClassVar[dict[str, dict[str, Any]]] = notebook.scales(**_BY_SCALE)

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

    def watch(key: Hashable, problem: Any, batch_size: Any, lr: float, samples: int, size: int, dtype: str) -> None:
        found[key] = Spec(
            problem=problem, plan=Plan(batch_size, lr, clock="sample"), seeds=tuple(range(p.watched_seeds)),
            sampling="replacement", eval_every=1.08, max_samples=samples, dtype=dtype,
            noise_probes={"parts": 2, "decay": p.decay, "size": size},
        )  # fmt: skip

    growing, tracking = schedules["growing"], schedules["tracking"]
    budgets = dict(zip(WATCHED, p.watched_samples, strict=True))
    watch(("watched", "quadratic"), QUADRATIC, growing, p.quadratic_lr, budgets["quadratic"], 0, "float64")
    for (name, problem), samples in zip((("softmax", digits), ("network", network)), p.tracking_samples, strict=True):
        watch(("watched", name), problem, growing, p.lr, budgets[name], p.probe, "float32")
        watch(("near critical", name), problem, tracking, p.lr, samples, p.probe, "float32")

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


def at_rest(run: Run) -> Interval:
    """On the quadratic where it does not move: the squared deviations of the loop's ‖G‖² from what it estimates over
    the variance formula, in the mean over points."""
    exact = QUADRATIC.exact
    apart = run.steps >= 100  # 15 % of that many steps, and the window's mean age is 10
    G2, s = float(np.square(exact.eigenvalues * exact.theta0).sum()), exact.noise_variance
    one = sqnorm_variance(float(s @ np.square(exact.eigenvalues * exact.theta0)), float(s @ s), 16, 2)
    z2 = np.square(run.curves("loop_sqnorm")[:, apart] - G2) / (one * (1 - STILL_DECAY) / (1 + STILL_DECAY))
    return estimates.mean(z2.mean(1), log=False)


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """rest: as `at_rest`. watched: runs whose batch grows, by title. noise_scales: their B. found: crossings of the
    searches, by problem; critical: b* of K(b), (problem, ε²) → `Interval`; at_fitted, adam_slope: of Adam, see
    `of_search`; least: the cheapest; front: B of the front with tuned lr, by ε². estimated_b: what estimates say of b*,
    by problem, `estimated` the same as frames; truth: b* by fit or exactly; large: at large batches. well: as
    `strongly_convex`; asked: its rule's batch on digits."""
    digits, exact = Digits(l2=p.l2), QUADRATIC.exact
    first, softmax, mlp = (runs["watched", name] for name in WATCHED)
    paths = {name: constants_along(p, name) for name in ("softmax", "network")}
    watched = {title: runs["watched", name] for name, title in WATCHED.items()}
    growing = Plan(base.parse(p.growth), p.quadratic_lr, clock="sample")
    path = exact.grad_sqnorm_path(growing.table(2 * p.watched_samples[0], 1)["batch_size"], p.quadratic_lr)
    noise_scales = {}
    for (name, title), run in zip(WATCHED.items(), watched.values(), strict=True):
        truth = exact.sigma2 / path[first.steps] if run is first else noise_scale_band(run).value
        bands = [
            Band("exact", "exact", run.samples, truth),
            Band("from the loop: halves of each batch", "measured", run.samples, *noise_scale_band(run, "loop_")),
        ]
        if run is not first:
            scale = noise_scale_band(run, "probe_")
            bands.append(Band("from probes: per-sample statistics", "permutation", run.samples, *scale))
            constants, time = paths[name], p.lr * run.steps
            on = time <= constants.time[-1]
            scale = np.interp(time[on], constants.time, constants.Q / constants.GHG)
            label = r"local: $\mathrm{tr}(H\Sigma)/G^\top HG$, no noise"
            bands.append(Band(label, "predicted", run.samples[on], scale))
        noise_scales[title] = ("noise scale $B$", bands)

    searches = {"softmax": (p.eps2, p.lr), "network": (p.mlp_eps2, p.lr), "Adam": (p.adam_eps2, p.adam_lr)}
    found, critical, further = {}, {}, {}
    for name, (eps2, lr) in searches.items():
        own = {key[3]: run for key, run in runs.items() if key[:3] == ("search", name, lr)}
        found[name] = crossings(own.values(), eps2, source="measured")
        sizes = np.array([*own], dtype=float)
        values, drawn = (np.array(of) for of in zip(*(drawn_crossings(own.values(), e) for e in eps2), strict=True))
        of_name = estimates.of_draws(partial(of_search, sizes, np.array(eps2)), values, np.moveaxis(drawn, 2, 0))
        for i, target in enumerate(eps2):
            critical[name, target] = Interval(*(float(end[i]) for end in of_name))
        further[name] = Interval(*(end[len(eps2) :] for end in of_name))
    how = "each must be reached by three batch sizes; larger ones, or larger adam_max_steps and adam_max_samples"
    fitted = {key: of for key, of in critical.items() if not np.isnan(of.value)}
    require(all(("Adam", e) in fitted for e in p.adam_eps2), "adam_eps2", p.adam_eps2, how)
    tuned = {key[2:]: run for key, run in runs.items() if key[:2] == ("search", "tuned")}
    front = {}
    for target in p.tuned_eps2:
        values, drawn = drawn_crossings(tuned.values(), target, 200)
        sizes = np.array([b for _, b in tuned], dtype=float)
        front[target] = estimates.wide(estimates.of_draws(partial(front_batch_size, sizes), values, drawn.T))
    require(not any(np.isnan(of.value) for of in front.values()), "tuned_eps2", p.tuned_eps2,
            "each must be reached by the three pairs that a front takes")  # fmt: skip
    targets = {name: [e for of, e in fitted if of == name] for name in ("softmax", "network")}
    near_critical, probes = (lambda name: runs["near critical", name]), "probe_variance"
    curvature = exact.eigenvalues @ exact.noise_variance
    of_all = {
        "quadratic": critical_sizes(first, "loop_variance", p.quadratic_eps2, p.quadratic_lr, exact.L, curvature),
        "softmax": critical_sizes(near_critical("softmax"), probes, targets["softmax"], p.lr, digits.smoothness_bound),
        "network": critical_sizes(near_critical("network"), probes, targets["network"], p.lr),
    }
    for name, constants in paths.items():
        best = [constants.pairs(p.lr, e) for e in targets[name]]
        cheapest = [pairs["batch_size"].iloc[pairs["samples"].argmin()] if len(pairs) else np.nan for pairs in best]
        of_all[name]["predicted"] = Interval(*[np.array(cheapest)] * 3)
    large = critical_sizes(softmax, probes, p.tuned_eps2, p.lr, digits.smoothness_bound)
    best = [exact.best_constant_batch_size(p.quadratic_lr, e**0.5).batch_size for e in p.quadratic_eps2]
    truth = {"quadratic": Interval(*[np.array(best)] * 3)} | {
        name: Interval(*(np.array(end) for end in zip(*(fitted[name, e] for e in eps2), strict=True)))
        for name, eps2 in targets.items()
        if eps2
    }
    of_eps2 = {"quadratic": p.quadratic_eps2, **targets}
    # as digits.smoothness_bound, of one sample
    L_max = 0.5 * (1 + float(np.square(split_digits(0)[0][0]).sum(1).max())) + p.l2
    moment = softmax.curves("probe_variance") + softmax.curves("probe_sqnorm")  # of the mean of ‖∇f_i‖²

    def rule_on_digits(radius: float) -> np.ndarray:
        L, n = digits.smoothness_bound, digits.size
        return np.vectorize(lambda h: OptimalBatch(max(h, 0.0), L, p.l2, radius, L_max=L_max, n=n).exact)(moment)

    def frame(eps2: Sequence[float], columns: Mapping[str, Interval]) -> pd.DataFrame:
        return pd.DataFrame({"eps2": eps2} | {name: of.value for name, of in columns.items()})

    return SimpleNamespace(
        p=p,
        digits=digits,
        exact=exact,
        rest=at_rest(runs["at rest"]),
        watched=watched,
        first=first,
        softmax=softmax,
        mlp=mlp,
        path=path,
        predicting=sum(constants.probes for constants in paths.values()),
        noise_scales=noise_scales,
        found=found,
        front=front,
        critical=fitted,
        at_fitted=Interval(*(end[:-1] for end in further["Adam"])),
        adam_slope=Interval(*(end[-1:] for end in further["Adam"])),
        least={name: with_range(of) for name, of in found.items()},
        estimated_b=of_all,
        estimated={name: frame(of_eps2[name], columns) for name, columns in of_all.items()},
        large_estimated_b=large,
        large=frame(p.tuned_eps2, large),
        truth={name: truth[name].value if name in truth else np.empty(0) for name in of_eps2},
        critical_of=truth,
        well=strongly_convex(WELL, (0.1, 0.03)),
        asked={radius: rule_on_digits(radius) for radius in (10.0, 1.0, 0.1)},
        guaranteed=[float(rule_on_digits(target / digits.smoothness_bound**2).min()) for target in p.eps2],
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
    front = [*res.front], *zip(*res.front.values(), strict=True)
    panels["softmax"].append(Estimated("$B$ of the front, tuned $\\eta$", "permutation", *front))
    titles = {"quadratic": "quadratic (synthetic)", "softmax": "digits, softmax", "network": "digits, network"}
    critical = critical_batch_sizes({titles[name]: items for name, items in panels.items()})
    well = res.well
    learned = [Band(label, "measured", *curves) for label, *curves in well.learned]
    on_digits = [
        Band(f"$\\rho$ = {radius:g}", "measured", res.softmax.samples, tau.mean(0), tau.min(0), tau.max(0))
        for radius, tau in res.asked.items()
    ]
    strongly = optimal_batch_size(
        well.cost,
        well.rule.exact,
        {"quadratic: learned": (learned, well.tended), "digits": (on_digits, {"$n$": res.digits.size})},
    )
    searched = {"SGD": res.found["softmax"], "Adam": res.found["Adam"]}
    fitted = {("SGD" if name == "softmax" else name, e): b.value for (name, e), b in res.critical.items()}
    minima = predicted_minimum(searched, fitted)
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
            f"as far as 95 % intervals over seeds can tell. Predicting took {res.predicting:.2g} gradient evaluations.",
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


def factor(left: Interval, right: Interval) -> Interval:
    """How many times one is the other, the larger over the smaller; from the far ends of both intervals."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value, *ends = (np.log(a / b) for a, b in zip(left, (right.value, right.high, right.low), strict=True))
    low, high = np.sort(np.abs(ends), axis=0)
    return Interval(np.exp(np.abs(value)), np.exp(np.where(np.prod(ends, axis=0) <= 0, 0.0, low)), np.exp(high))


GOAL = {"prediction": "goal"}  # a factor that no theory gives


def claims(res: SimpleNamespace) -> notebook.Claims:
    p = res.p

    def over_exact(run: Run, prefix: str, samples: float) -> Interval:
        """B from "probe_" or "loop_" around there over the exact one."""
        columns = [prefix + "variance", prefix + "sqnorm"]
        if run is res.first:
            exact = res.exact.sigma2 / np.interp(samples, run.samples, res.path[run.steps])
            return Interval(*(end / exact for end in ratio_of_means(run, columns, samples)))
        return ratio_of_means(run, [*columns, "grad_sqnorm", "variance"], samples)

    def until(run: Run, level: float) -> float:
        """Gradient evaluations at which the exact B first is at the level."""
        return float(run.samples[np.argmax(noise_scale_band(run).value >= level)])

    def factors(column: str, *names: str) -> Interval:
        """Of what `column` says of b* to b*, for all ε of these problems."""
        each = [
            factor(res.estimated_b[name][column], res.critical_of[name]) for name in names if name in res.critical_of
        ]
        return Interval(*(np.concatenate(ends) for ends in zip(*each, strict=True))) if each else Interval(*[[]] * 3)

    def mean_factor(column: str) -> Interval:
        return Interval(*(np.exp(np.log(end).mean()) if len(end) else np.nan for end in factors(column, "softmax")))

    def nearer(a: Interval, b: Interval) -> Interval:
        return Interval(a.value / b.value, a.low / b.high, a.high / b.low)

    def same_sigma(a: str, b: str) -> Interval:
        """The mean factor of one estimate over that of another, which has the same tr Σ and the same b* in it: their
        quotient, where all of both is above b*."""
        of, truth = res.estimated_b["softmax"], res.critical_of.get("softmax")
        if truth is None or not all((of[name].low > truth.high).all() for name in (a, b)):
            return Interval(np.nan, np.nan, np.nan)
        return Interval(*[float(np.exp(np.log(of[a].value / of[b].value).mean()))] * 3)

    target = p.tuned_eps2[0]
    mean_curvature = [
        res.estimated[name]["curvature"].iloc[-1] / res.estimated[name]["B"].iloc[-1] / rate
        for name, rate in (("quadratic", p.quadratic_lr), ("softmax", p.lr))
        if len(res.estimated[name])
    ]
    back = round(1 / (1 - p.decay))
    long = {
        name: (run, float(run.samples[np.argmax(run.steps >= 10 * back)]))
        for name, run in zip(WATCHED, res.watched.values(), strict=True)
        if run.steps[-1] >= 10 * back
    }
    fell = np.divide(
        *(
            of_seeds(res.mlp, "grad_sqnorm", float(np.interp(step, res.mlp.steps, res.mlp.samples))).mean()
            for step in (9 * back, 10 * back)
        )
    )
    at_once = res.mlp.curves("loop_sqnorm")[:, min(np.searchsorted(res.mlp.steps, 10 * back), len(res.mlp.steps) - 1)]
    shaky = at_once.std(ddof=1) / len(at_once) ** 0.5 / at_once.mean()
    on = res.first.steps >= back
    weights = [p.decay ** np.arange(step)[::-1] for step in res.first.steps[on]]
    remembered = [w @ res.path[: len(w)] / w.sum() for w in weights]
    looked_back = estimates.mean(res.first.curves("loop_sqnorm")[:, on] / remembered, log=False)
    adam = [res.critical["Adam", p.adam_eps2[i]] for i in (0, len(p.adam_eps2) // 2, -1)]
    wide = res.found["Adam"][res.found["Adam"]["batch_size"].isin([1, p.adam_largest_batch_size])]
    ends = wide.sort_values("samples").groupby("eps2").first()  # the cheaper end
    tau = [estimates.mean(of) for of in (res.asked[1.0][:, -1], res.asked[1.0][:, 1])]
    found = res.well
    # fmt: off
    rows = [  # claim, kind, values, theory or tolerance, figure, source, what else
        ("At rest: the estimate of ‖G‖² varies as 4GᵀΣG/b + 2 tr Σ² k/(b²(k − 1)) says (variance over formula)",
         "equal", [res.rest], 0.2, "scales", "[N]", {}),
        ("Quadratic, along the run: the loop's ‖G‖² over the exact expectation averaged with the same memory, after "
         "one memory", "equal", [looked_back], 0.1, "scales", "[N]", {}),
        (f"From the loop, after ten times its memory: B over the exact one ({', '.join(long)})", "equal",
         [over_exact(run, "loop_", n) for run, n in long.values()], 0.15, "scales", "[N]",
         {"explanation": "For the network the average is too short and too long at once. The standard error of the "
          f"mean ‖G‖² over its {p.watched_seeds} runs is {shaky:.0%} there, and in the {back} steps that the average "
          f"looks back its ‖∇f‖² fell by a factor of {fell:.2g}."}),
        ("From probes, where B is the number of samples in a probe: B over the exact one (softmax, network)", "equal",
         [over_exact(run, "probe_", until(run, p.probe)) for run in (res.softmax, res.mlp)], 0.25, "scales", "[N]", {}),
        ("Softmax, η tuned: the front's B is σ²/ε² within a factor of ten", "upper_bound",
         [factor(res.large_estimated_b["B"], Interval(*map(np.array, zip(*res.front.values(), strict=True))))], 10.0,
         "critical", "T11 [N]", GOAL),
        ("Fixed η: the critical batch size is the noise scale tr Σ/ε² within a factor of ten (quadratic, softmax, "
         "network)", "upper_bound", [factors("B", *res.estimated_b)], 10.0, "critical", "T11 [N]",
         GOAL | {"explanation": "The noise scale knows no learning rate: it is the critical batch size where η is "
          "tuned for each b (the check before this one). A fixed η far below 1/L is a step that makes less of each "
          "gradient, and forgives more noise."}),
        ("Fixed η: the critical batch size is T2's, with measured σ² and proven L, within a factor of ten (quadratic, "
         "softmax)", "upper_bound", [factors("T2", "quadratic", "softmax")], 10.0, "critical", "T2 [S]",
         GOAL | {"explanation": "T2 charges all noise with the largest curvature. The noise meets tr(HΣ)/tr Σ, which "
          f"is {mean_curvature[0]:.2g} on the quadratic, where L = {res.exact.L:g}, and {mean_curvature[-1]:.2g} on "
          f"softmax regression at the last ε, where L ≤ {res.digits.smoothness_bound:.2g}. With tr(HΣ) in place of "
          "Lσ² the factors are those of the next checks."}),
        ("Fixed η: the critical batch size is η tr(HΣ)/ε² within a factor of ten (quadratic, softmax, network)",
         "upper_bound", [factors("curvature", *res.estimated_b)], 10.0, "critical", "[N]", GOAL | {"headline": True}),
        ("Fixed η: the critical batch size is the predicted one (T15) within a factor of two (softmax, network)",
         "upper_bound", [factors("predicted", "softmax", "network")], 2.0, "critical", "T15 [N]", GOAL),
        ("Softmax, fixed η: η tr(HΣ)/ε² is nearer to the critical batch size than T2's, and that than the noise scale "
         "(mean factor over that of the next)", "upper_bound",
         [nearer(mean_factor("curvature"), mean_factor("T2")), same_sigma("T2", "B")], 1.0, "critical", "[N]", {}),
        (f"Softmax, ε² = {target:g}: η tr(HΣ)/ε² is nearer where the run's batch is near the critical one than where "
         "it is larger (factor over factor)", "upper_bound", [on_and_off(res, target)], 1.0, "critical", "[N]", {}),
        ("Strongly convex quadratic: learning τ* on the way costs at most 1.25 times knowing it, at both radii",
         "upper_bound", found.regret, 1.25, "strongly", "Alfarra et al. 2020", GOAL),
        ("Digits: the optimal batch for a radius falls along the run (end, start), as the noise scale grows",
         "ordering", tau, None, "strongly", "[N]", {}),
        ("Adam: the critical batch size grows from the first ε to the middle one, and to the last", "ordering", adam,
         None, "minima", "Iiduka 2022", {}),
        ("Adam: it grows like ε^−2 or faster, as C ≥ 0 (exponent)", "upper_bound", [res.adam_slope], -2.0, "minima",
         "Iiduka 2022, [N]", {}),
        ("Adam: the batch size nearest to 2B/(ε² − C), B and C fitted to K(b), costs at most 1.25 times the least of "
         "the search", "upper_bound", [res.at_fitted], 1.25, "minima", "Iiduka 2022", GOAL),
        ("Digits: the estimated noise scale is larger at the end of the run than at its start (start over end; "
         "softmax, network)", "upper_bound", over_next(*(
             [Interval(*(end[at] for end in noise_scale_band(run, "probe_"))) for at in (0, -1)]
             for run in (res.softmax, res.mlp))), 1.0, "scales", "T11 [N]", {}),
        (f"Adam, the first ε and the last: fewer evaluations inside than at b = 1 and at b = "
         f"{p.adam_largest_batch_size} (ratio)", "upper_bound", over_next(*(
             [Interval(*of[["samples", "low", "high"]]) for of in (row, ends.loc[row["eps2"]])]
             for _, row in res.least["Adam"].iloc[[0, -1]].iterrows())), 1.0, "minima", "Iiduka 2022", {}),
    ]
    computed = [
        ("Quadratic, small η: the critical batch size is η tr(HΣ)/ε²", "equal", res.truth["quadratic"],
         res.estimated["quadratic"]["curvature"], "critical", "[N]", {"tolerance": 0.1}),
        ("Strongly convex quadratic: τ* costs at most 1.25 times the cheapest τ", "upper_bound", found.at_best, 1.25,
         "strongly", "Alfarra et al. 2020", GOAL),
    ]
    # fmt: on
    missing = "none of the ε² was reached by three batch sizes"
    return [
        check(
            claim, kind, missing=missing, **(values if isinstance(values, dict) else sampled(*values)), figure=figure,
            source=source, **more,
            **({"theory": 1.0, "tolerance": limit} if kind == "equal" else {"theory": limit}),
        )
        for claim, kind, values, limit, figure, source, more in rows
    ] + [
        Check(claim, kind, measured=value, theory=theory, exact=True, figure=figure, source=source, **more)
        for claim, kind, value, theory, figure, source, more in computed
    ]  # fmt: skip


def on_and_off(res: SimpleNamespace, eps2: float) -> Interval:
    """Softmax: the factor of η tr(HΣ)/ε² to b* along the run near it, over that along the run of larger batches; at
    their values, and the least and largest of all corners of their intervals."""
    at = [*res.estimated["softmax"]["eps2"]]
    if eps2 not in at:
        return Interval(np.nan, np.nan, np.nan)
    i = at.index(eps2)
    near, far = (
        Interval(*(end[j] for end in of["curvature"]))
        for of, j in ((res.estimated_b["softmax"], i), (res.large_estimated_b, 0))
    )
    truth = res.critical["softmax", eps2]
    places = [(*of, *np.clip(truth, of.low, of.high)) for of in (near, far)]  # a factor is least where it is 1
    corners = [np.abs(np.log(a / t)) - np.abs(np.log(b / t)) for t, a, b in product(truth, *places)]
    return Interval(np.exp(corners[0]), np.exp(min(corners)), np.exp(max(corners)))
