"""03: the front of steps and gradient evaluations (T11), the time-optimal batch size (T12), and the best schedule."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt

from sfolib import plotting
from sfolib._utils.errors import require
from sfolib.analysis.claims import Check, LeftOut, check, sampled
from sfolib.analysis.crossings import crossings, drawn_crossings, pareto
from sfolib.analysis.fits import Front, fit_front, power_law_scatter
from sfolib.analysis.local_path import local_path
from sfolib.analysis.step_time import fit_step_time, measure_step_time
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band
from sfolib.problems.specs import Digits
from sfolib.schedules.plan import Plan
from sfolib.theory import bounds, optimal_schedule
from sfolib.theory.bounds import Constants
from sfolib.theory.optimal_schedule import Optimum
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training.estimates import Interval, of_draws, wide
from sfolib.training.records import Run
from sfolib.training.spec import Spec

_BY_SCALE = {  # smoke, quick, paper
    "eps2": ([0.01], [0.01, 0.003], [0.01, 0.003, 0.001]),
    "lrs": ([0.2, 0.4, 0.8, 1.6], [0.05, 0.1, 0.2, 0.4, 0.8, 1.6], [0.05 * 2 ** (k / 2) for k in range(12)]),
    "largest_batch_size": (256, 1024, 4096),
    "seeds": (5, 8, 64),
    "max_steps": (400, 2500, 40_000),
    "max_samples": (50_000, 200_000, 2 * 10**6),
    "optimum_d": (40, 100, 400),
    "optimum_steps": (2.0, 3.0, 3.0),
    "families": (["constant", "critical tracking", "late switch", "lr down, batch up"],)
    + 2 * ([*optimal_schedule.FAMILIES],),
}


class Parameters(notebook.Parameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = notebook.scales(**_BY_SCALE)

    quadratic_eps2: notebook.Values = Field(
        [0.01, 0.001], description="synthetic quadratic with L and σ² of 1; targets ε²"
    )
    eps2: notebook.Values = by_scale("digits; targets ε²")
    l2: PositiveFloat = Field(0.001, description="digits; ℓ2 coefficient")
    lrs: notebook.Values = by_scale("digits; learning rates")
    largest_batch_size: PositiveInt = by_scale("digits; batch sizes are 4, 8, 16, … this")
    seeds: PositiveInt = by_scale("independent runs")
    max_steps: PositiveInt = by_scale("budget of a run, in steps …")
    max_samples: PositiveInt = by_scale("… and in gradient evaluations")
    time_ratios: list[PositiveInt] = Field(
        [1, 10, 100, 1000], description="τ0/τ1: what a step's latency costs, in gradient evaluations"
    )
    optimum_steps: PositiveFloat = by_scale("exact optimum; its budget in K_min")
    families: list[str] = by_scale("exact optimum; schedule families beside it")
    optimum_d: PositiveInt = by_scale("exact optimum; dimension of the quadratics")


SPECTRA = {
    "power law, white noise": ("power_law", "white"),
    "power law, noise ∝ λ": ("power_law", "curvature"),
    "flat start, white noise": ("flat", "white"),
}
TARGETS = {r"$\|\nabla f\|^2$": "grad_sqnorm", "$f-f^*$": "loss"}
SHARES = {  # of the start's value, to reach
    "grad_sqnorm": {"power_law": 0.02, "flat": 0.003},
    "loss": {"power_law": 0.25, "flat": 0.02},
}
TIMED = [1, 4, 16, 64, 256, 1024]  # batch sizes whose step is timed
DRAWS = 200  # of all crossings of the grid, for intervals of what is fitted to them


def schedules(p):
    """Digits: every constant pair of a grid over batch size and learning rate."""
    batch_sizes = [2**k for k in range(2, p.largest_batch_size.bit_length())]
    return {(b, lr): Plan(b, lr) for lr in p.lrs for b in batch_sizes}


def specs(p: Parameters, schedules: Mapping[Any, Plan], runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    common = {
        "problem": Digits(l2=p.l2),
        "seeds": tuple(range(p.seeds)),
        "sampling": "replacement",
        "eval_every": 1.02,
        "max_samples": p.max_samples,
        "max_steps": p.max_steps,
        "target_grad_norm": min(p.eps2) ** 0.5,
    }
    return {pair: Spec(plan=plan, **common) for pair, plan in schedules.items()}


def exact_fronts(p: Parameters) -> dict[str, tuple[PowerLawQuadratic, pd.DataFrame, Front]]:
    """Quadratic, its exact front (batch_size, lr, steps, samples) and T11's hyperbola fitted to it, by name."""
    fronts = {}
    for noise in ("white", "curvature"):
        for target in p.quadratic_eps2:
            q, eps = PowerLawQuadratic(d=200, noise=noise), target**0.5
            fewest = q.steps_to(1e300, np.linspace(0.5, 1.99, 41), eps).min()
            found = [q.front(int(k), eps) for k in np.unique(np.round(fewest * np.geomspace(1.1, 40, 32)))]
            frame = pd.DataFrame(found).assign(source="exact", eps2=target)
            name = f"{noise} noise, $\\varepsilon^2$ = {target:g}"
            fronts[name] = q, frame, fit_front(frame["steps"], frame["samples"])
    return fronts


def predicted_fronts(p: Parameters) -> tuple[dict[float, pd.DataFrame], int]:
    """Digits' front at each ε² as T13 and T15 have it, of the grid's learning rates and any b in its range, and what it
    cost in gradient evaluations."""
    digits = Digits(l2=p.l2)
    slow = max([lr for lr in p.lrs if lr <= 1 / digits.smoothness_bound], default=min(p.lrs))
    asked = Spec(
        problem=digits, plan=Plan(1, slow), max_samples=10**9, max_steps=100_000, target_grad_norm=min(p.eps2) ** 0.5
    )
    path, found = local_path(asked, p.device), {}
    for target in p.eps2:
        pairs = pd.concat([path.pairs(lr, target) for lr in p.lrs])
        front = pareto(pairs[pairs["batch_size"].between(4, p.largest_batch_size)])
        few = np.unique(np.linspace(0, len(front) - 1, 40).astype(int))
        found[target] = front.iloc[few].assign(source="predicted")
    return found, path.probes


def optimal_schedules(p: Parameters) -> tuple[dict[str, dict[str, Optimum]], pd.DataFrame]:
    """The exact optimum by target and spectrum, and what each published family at its best costs over it."""
    optima, costs = {}, {}
    for shown, target in TARGETS.items():
        optima[shown] = {}
        for spectrum, (init, noise) in SPECTRA.items():
            q = PowerLawQuadratic(d=p.optimum_d, lam_min=1e-3, sigma2=1e4, init=init, noise=noise)
            eps_end = (SHARES[target][init] * (q.weights(target) @ q.theta0**2)) ** 0.5
            steps = int(p.optimum_steps * q.steps_to(1e300, np.linspace(0.5, 1.99, 41), eps_end, target).min())
            optima[shown][spectrum] = found = optimal_schedule.optimum(q, steps, eps_end, target)
            costs[f"{shown}: {spectrum}"] = {
                family: optimal_schedule.best_of_family(family, q, steps, eps_end, target).samples / found.samples
                for family in p.families
            }
    return optima, pd.DataFrame(costs)


def bound_front(c: Constants, eps2: float) -> pd.DataFrame:
    """T11's front, to 40 times its K_min."""
    steps = bounds.front_min_steps(c, eps2**0.5) * np.geomspace(1.05, 40, 50)
    return pd.DataFrame({"steps": steps, "samples": bounds.front_samples(c, steps, eps2**0.5), "source": "bound"})


def statistics(p: Parameters, batch_size: np.ndarray, lr: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """What claims say of a grid's crossings, (pairs,) each, at one ε²: K_min, N_min and B of its front's hyperbola, the
    rms distance from it over that from the nearest power law, the mean time of √(B τ0/τ1) over that of B; at each of
    `p.time_ratios` the time of the former; all nan without a front; last the η of fewest steps at each batch size.
    A time is that of the nearest batch size of the grid, over the least of the grid."""
    sizes, x = np.unique(batch_size), np.array(p.time_ratios, dtype=float)
    at = [np.flatnonzero(batch_size == b) for b in sizes]
    best = np.array([of[samples[of].argmin()] for of in at])  # at one b fewest steps and evaluations are one
    fastest = np.where(np.isfinite(samples[best]), lr[best], np.nan)
    front = pareto(pd.DataFrame({"steps": samples[best] / sizes, "samples": samples[best]}))
    if len(front) < 3:
        return np.concatenate([np.full(5 + len(x), np.nan), fastest])
    fit = fit_front(front["steps"], front["samples"])
    time = samples[best] * (1 + x[:, None] / sizes)
    asked = np.array([(fit.batch_size * x) ** 0.5, np.full(len(x), fit.batch_size)])
    nearest = np.abs(np.log(sizes / asked[..., None])).argmin(-1)
    regret = time[np.arange(len(x)), nearest] / time.min(1)
    scatter = fit.scatter / power_law_scatter(front["steps"], front["samples"])
    means = regret.mean(1)
    return np.array([*fit[:2], fit.batch_size, scatter, means[0] / means[1], *regret[0], *fastest])


def of_fits(found: Interval) -> Interval:
    """The intervals of `statistics`: of what is fitted to the front `estimates.wide`; of the distance over that from a
    power law none, because its draws lie all to one side of it."""
    ends = [np.where(np.arange(len(found.value)) < 3, *both) for both in zip(wide(found), found, strict=True)]
    for end in ends[1:]:
        end[3] = np.nan
    return Interval(*ends)


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """exact: as `exact_fronts`. grid: digits' crossings that were reached, with lr; measured, fits, best: of it the
    front, its hyperbola, and the fewest steps at each batch size, by ε²; statistics: as there, with intervals, by ε²;
    predicted, predicted_fits: the front as `predicted_fronts` has it, and its hyperbola. here: τ0/τ1 of this machine,
    digits_B the fitted B that goes with it. optima, costs: as `optimal_schedules`."""
    digits = Digits(l2=p.l2)
    grid = pd.concat([crossings([run], p.eps2, lr=lr, source="measured") for (_, lr), run in runs.items()])
    grid = grid[np.isfinite(grid["samples"])].reset_index(drop=True)
    measured = {target: pareto(grid[grid["eps2"] == target]) for target in p.eps2}
    known = [target for target, frame in measured.items() if len(frame) > 2]
    how = "none was reached by the three pairs that a front takes: larger ones, or larger max_steps and max_samples"
    require(len(known) > 0, "eps2", p.eps2, how)
    if len(known) < len(p.eps2):
        print(f"left out: of eps2 = {p.eps2} fewer than three pairs reached {sorted({*p.eps2} - {*known})}")
        p, measured = p.model_copy(update={"eps2": known}), {target: measured[target] for target in known}
    fits = {target: fit_front(frame["steps"], frame["samples"]) for target, frame in measured.items()}
    of_grid = {}
    for target in p.eps2:
        found, drawn = drawn_crossings(runs.values(), target, DRAWS)
        reached = np.isfinite(found)
        sizes, lrs = np.array([*runs])[reached].T
        of_grid[target] = of_fits(of_draws(partial(statistics, p, sizes, lrs), found[reached], drawn[reached].T))
    c, variance = PowerLawQuadratic().constants(), float(max(run.rows["variance"].max() for run in runs.values()))
    of_digits = digits.constants(variance)
    latency, per_sample = fit_step_time(TIMED, measure_step_time(digits, TIMED, device=p.device))
    optima, costs = optimal_schedules(p)
    predicted, probes = predicted_fronts(p)
    return SimpleNamespace(
        p=p,
        exact=exact_fronts(p),
        digits=digits,
        grid=grid,
        measured=measured,
        fits=fits,
        statistics=of_grid,
        predicted=predicted,
        predicted_fits={target: fit_front(frame["steps"], frame["samples"]) for target, frame in predicted.items()},
        probes=probes,
        best={
            target: frame.loc[frame.groupby("batch_size")["steps"].idxmin()] for target, frame in grid.groupby("eps2")
        },
        c=c,
        bound={p.quadratic_eps2[0]: bound_front(c, p.quadratic_eps2[0])},
        digits_bound={target: bound_front(of_digits, target) for target in p.eps2},
        here=latency / per_sample,
        digits_B=fits[p.eps2[0]].batch_size,
        optima=optima,
        costs=costs,
    )


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p
    front = plotting.fronts(
        {
            "quadratic": {f"bound, $\\varepsilon^2$ = {target:g}": (frame, None) for target, frame in res.bound.items()}
            | {name: (frame, fit) for name, (_, frame, fit) in res.exact.items()},
            "digits: the bound": {
                f"bound, $\\varepsilon^2$ = {target:g}": (frame, None) for target, frame in res.digits_bound.items()
            },
            "digits": {
                f"$\\varepsilon^2$ = {target:g}: $B$ = {res.fits[target].batch_size:.0f}": (frame, res.fits[target])
                for target, frame in res.measured.items()
            }
            | {
                f"predicted: $B$ = {res.predicted_fits[target].batch_size:.0f}": (frame, res.predicted_fits[target])
                for target, frame in res.predicted.items()
            },
        },
        cloud=res.grid[res.grid["eps2"] == p.eps2[0]],
    )
    rule = plotting.best_lr(
        {
            "quadratic, $L=1$": [
                (Band(name, "exact", frame["batch_size"], frame["lr"]), 1 / (1 + fit.batch_size / frame["batch_size"]))
                for name, (_, frame, fit) in res.exact.items()
            ],
            "digits, softmax regression": [
                (
                    Band(f"$\\varepsilon^2$ = {target:g}", "measured", frame["batch_size"], frame["lr"]),
                    1 / (res.digits.smoothness_bound * (1 + res.fits[target].batch_size / frame["batch_size"])),
                )
                for target, frame in res.best.items()
            ],
        }
    )
    r, stages = 2.0, range(6)
    eps = p.quadratic_eps2[0] ** 0.5 * r ** (-np.array(stages) / 2)
    batch_size0 = bounds.noise_scale(res.c, eps[0]) / 16
    lr0 = bounds.optimal_lr(res.c, batch_size0, eps[0])

    def on_plane(delta: float, gamma: float) -> np.ndarray:
        pairs = [bounds.capped_stage(m, batch_size0, lr0, delta, gamma) for m in stages]
        batch_size, lr = np.array([(pair.batch_size, pair.lr) for pair in pairs]).T
        inside = lr * res.c.L < 2
        steps = bounds.steps_to(res.c, batch_size[inside], lr[inside], eps[inside])
        least = bounds.front_min_steps(res.c, eps[inside]), bounds.front_min_samples(res.c, eps[inside])
        return np.array([steps / least[0], steps * batch_size[inside] / least[1]])

    paths = {
        "both grow, equal steps: $\\delta=r^2$, $\\gamma=r$": on_plane(r**2, r),
        "Seesaw: $\\delta=\\sqrt{r}$, $\\gamma=1/\\sqrt{r}$": on_plane(r**0.5, r**-0.5),
        "lr alone: $\\delta=1$, $\\gamma=1/r$": on_plane(1.0, 1 / r),
        "batch alone: $\\delta=r$, $\\gamma=1$": on_plane(r, 1.0),
    }
    ratio = np.geomspace(0.01, 100, 400)
    ratios = {f"$\\tau_0/(\\tau_1B)$ = {x:g}": ("bound", x) for x in (0.01, 0.1, 1, 10)} | {
        f"digits here: {res.here / res.digits_B:.2g}": ("exact", res.here / res.digits_B)
    }
    times = [Band(label, source, ratio, (1 + 1 / ratio) * (x + ratio)) for label, (source, x) in ratios.items()]
    return {
        "front": (
            front,
            "Gradient evaluations against steps to ε. Quadratic: the bound (dashed) and the exact fronts. Digits: the "
            "bound has its own panel, as it is far off; every pair of the grid (dots, largest ε), the front (markers), "
            "its fitted hyperbola (dashed) and the front predicted from local constants (dashes and dots; T13, T15; it "
            f"cost {res.probes / 1e6:,.1f} million gradient evaluations). Last: all in units of their fitted "
            "K_min and N_min.",
        ),
        "rule": (
            rule,
            "The learning rate of the fewest steps at each batch size. Dashed, same colour: T11's rule with the "
            "fitted B and the proven L. The best has the rule's shape, higher by a factor: the bound is loose.",
        ),
        "paths": (
            plotting.front_paths(paths, times),
            "Left: published schedules stage by stage (ε² halves) on the plane of the front, by the bound; all begin "
            "at the ring, where growing the batch alone stays. Right: time to ε on the front (T12) for several ratios "
            "of latency τ0 to time per gradient evaluation τ1; solid: as measured here on digits.",
        ),
        "shapes": (
            plotting.optimal_schedules(res.optima),
            "The exact optimal schedule on the quadratic, in a fixed number of steps: learning rate (thin) and batch "
            "size (thick), each over its largest value. Columns: spectrum and noise. Rows: what is to be reached.",
        ),
        "families": (
            plotting.family_costs(res.costs),
            "Gradient evaluations of the best member of each family over those of the exact optimum, same number of "
            "steps and same target. Critical tracking is T4's, in eight stages.",
        ),
    }


def claims(res: SimpleNamespace) -> notebook.Claims:
    p = res.p
    exact, ratios = [*res.exact.values()], len(p.time_ratios)
    own = [quadratic.small_step_constants() for quadratic, _, _ in exact]
    far = [frame[frame["steps"] > 10 * fit.min_steps] for _, frame, fit in exact]

    def computed(claim: str, kind: str, measured: Any, theory: Any = None, figure: str = "front", **more: Any) -> Check:
        return Check(
            claim, kind, measured=measured, theory=theory, exact=True, figure=figure, **({"source": "T11 [N]"} | more)
        )

    def seen(target: float, *at: int) -> dict[str, np.ndarray]:
        """Entries of `statistics`, as `measured` and `interval` of a check."""
        return sampled(Interval(*(end[[*at]] for end in res.statistics[target])))

    def of_all(*at: int) -> dict[str, np.ndarray]:
        each = [seen(target, *at) for target in p.eps2]
        return {name: np.concatenate([found[name] for found in each]) for name in each[0]}

    def rising(target: float) -> Check | LeftOut:
        sizes = np.unique(res.best[target]["batch_size"])
        fourfold = [5 + ratios + i for i, b in enumerate(sizes) if b in (4, 16, 64, 256)]
        return check(
            f"Digits, ε² = {target:g}: the best η grows each time that b grows fourfold", "ordering",
            missing="two of the batch sizes 4, 16, 64 and 256 must reach it", **seen(target, *fourfold),
            source="T11 [N]", figure="rule",
        )  # fmt: skip

    named = of_all(*range(5, 5 + ratios))
    worst = int(np.argmax(named["measured"]))
    average = np.exp(np.log(res.costs).mean(axis=1))
    nearer = "the front is nearer to T11's hyperbola than to any power law (both with two parameters)"
    _, last, last_fit = exact[-1]
    # fmt: off
    return [
        computed(
            "Quadratic: the exact front is T11's hyperbola (K_min and N_min fitted) within 15 % for K/K_min from 1.5 "
            "to 4", "equal",
            np.concatenate([
                frame["samples"][(near := frame["steps"].between(1.5 * fit.min_steps, 4 * fit.min_steps))]
                / fit.samples(frame["steps"][near])
                for _, frame, fit in exact
            ]), 1.0, tolerance=0.15,
        ),
        computed(
            f"Quadratic, curvature noise, ε² = {p.quadratic_eps2[-1]:g}: {nearer}", "ordering",
            [last_fit.scatter, power_law_scatter(last["steps"], last["samples"])],
        ),
        Check(
            f"Digits, at each ε: {nearer}", "upper_bound", **of_all(3), theory=1.0, source="T11 [N]", figure="front",
        ),
        Check(
            "Digits: the predicted front has the measured one's K_min, N_min and B within 25 %, at each ε", "equal",
            **of_all(0, 1, 2), tolerance=0.25, source="T13, T15 [N]", figure="front",
            theory=[value for fit in (res.predicted_fits[target] for target in p.eps2)
                    for value in (fit.min_steps, fit.min_samples, fit.batch_size)],
        ),
        computed(
            "Quadratic: B = σ²/ε²", "equal", [fit.batch_size for _, _, fit in exact],
            [1 / frame["eps2"][0] for _, frame, _ in exact], tolerance=0.1,
            explanation="The bound has A = Δ and G = Lσ²/2 where the quadratic's bias and noise have smaller ones. "
            "With its own A and G N_min is as predicted: the next check. K_min lies where η nears 2/L, beyond that "
            "expansion.",
        ),
        computed(
            "Quadratic: N_min = 4AG/ε⁴ with its own A and G", "equal", [fit.min_samples for _, _, fit in exact],
            [4 * A * G / frame["eps2"][0] ** 2 for (_, frame, _), (A, G) in zip(exact, own, strict=True)],
            tolerance=0.05,
        ),
        computed(
            "Quadratic: the best η is (1/L)/(1 + B/b)", "equal",
            np.concatenate([frame["lr"] * (1 + fit.batch_size / frame["batch_size"]) for _, frame, fit in exact]),
            1.0, "rule", tolerance=0.1,
            explanation="It has the rule's shape at 2 to 4 times its height: 1/L is 2Δ/(ε²K_min) with the bound's Δ "
            "and K_min, and the bound's K_min is too large by more than its Δ. With the quadratic's own A the next "
            "check finds 2A/(ε²K).",
        ),
        computed(
            "Quadratic, K > 10 K_min: the best η is 2A/(ε²K) with its own A", "equal",
            np.concatenate([f["lr"] * f["eps2"] * f["steps"] / (2 * A) for f, (A, _) in zip(far, own, strict=True)]),
            1.0, "rule", tolerance=0.1,
        ),
        *(rising(target) for target in res.best),
        computed(
            "Quadratic: b = √(B τ0/τ1), from the fitted B, is the exact time-optimal batch size at each ε and ratio",
            "equal",
            [q.fastest_pair(f["eps2"][0] ** 0.5, x, 1.0).batch_size for q, f, _ in exact for x in p.time_ratios],
            [(fit.batch_size * x) ** 0.5 for _, _, fit in exact for x in p.time_ratios],
            "paths", tolerance=0.1, source="T12 [N]",
            explanation="It is at the smaller ε. At the larger one the quickest runs take a handful of steps, and "
            "whole steps are too coarse a grid.",
        ),
        Check(
            "Digits: the power of two nearest to √(B τ0/τ1) takes at most 10 % more time than the best pair of the "
            "grid", "upper_bound", **named, theory=1.1, prediction="goal", source="T12 [N]", figure="paths",
            explanation=f"It takes {named['measured'][worst] - 1:.0%} more at ε² = {p.eps2[worst // ratios]:g} and "
            f"τ0/τ1 = {p.time_ratios[worst % ratios]}, where the measured front bends around its hyperbola.",
        ),
        Check(
            "Digits, at each ε: b = √(B τ0/τ1) takes less time than b = B, in the mean over the ratios",
            "upper_bound", **of_all(4), theory=1.0, source="T12 [N]", figure="paths",
        ),
        computed(
            "Quadratic: for one ε and a budget of steps, a constant pair is optimal", "equal",
            res.costs.loc["constant"], 1.0, "families", tolerance=0.1,
            explanation="It is optimal in T1's bound, which sums all noise alike. In the exact recursion early noise "
            "is forgotten, so that a large η early and less noise late are cheaper: the optimum has more than half of "
            "N in the second half of the steps wherever b grows.",
        ),
        computed(
            "Quadratic: in no exact optimum is any gradient evaluation spent while η grows", "upper_bound",
            [found.share(1, sign) for each in res.optima.values() for found in each.values() for sign in (-1, 0, 1)],
            0.0, "shapes", headline=True, prediction="none", source="exact optimum [N]",
        ),
        computed(
            "Quadratic, mean over cases: η down with b up is nearest to the optimum, then late switching, critical "
            "tracking, constant", "ordering",
            average[["lr down, batch up", "late switch", "critical tracking", "constant"]],
            figure="families", prediction="none", source="exact optimum [N]",
        ),
    ]
    # fmt: on
