"""03: the front of steps and gradient evaluations (T11), the time-optimal batch size (T12), and the best schedule."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt

from sfolib import plotting
from sfolib._utils.errors import require
from sfolib.analysis.claims import Check
from sfolib.analysis.crossings import crossings, pareto
from sfolib.analysis.fits import Front, fit_front, power_law_scatter
from sfolib.analysis.predict import local_path
from sfolib.analysis.step_time import fit_step_time, measure_step_time
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band
from sfolib.problems.specs import Digits
from sfolib.schedules.plan import Plan
from sfolib.theory import bounds, optimal_schedule
from sfolib.theory.optimal_schedule import Optimum
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training.records import Run
from sfolib.training.spec import Spec


class Parameters(notebook.Parameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "eps2": [0.01],
            "lrs": [0.2, 0.4, 0.8, 1.6],
            "largest_batch_size": 256,
            "seeds": 5,
            "max_steps": 400,
            "max_samples": 50000,
            "optimum_d": 40,
            "optimum_steps": 2.0,
            "families": ["constant", "critical tracking", "late switch", "lr down, batch up"],
        },
        "quick": {
            "eps2": [0.01, 0.003],
            "lrs": [0.05, 0.1, 0.2, 0.4, 0.8, 1.6],
            "largest_batch_size": 1024,
            "seeds": 8,
            "max_steps": 2500,
            "max_samples": 200000,
            "optimum_d": 100,
            "optimum_steps": 3.0,
            "families": [*optimal_schedule.FAMILIES],
        },
        "paper": {
            "eps2": [0.01, 0.003, 0.001],
            "lrs": [0.05 * 2 ** (k / 2) for k in range(12)],
            "largest_batch_size": 4096,
            "seeds": 64,
            "max_steps": 40000,
            "max_samples": 2 * 10**6,
            "optimum_d": 400,
            "optimum_steps": 3.0,
            "families": [*optimal_schedule.FAMILIES],
        },
    }

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
            fronts[f"{noise} noise, $\\varepsilon^2$ = {target:g}"] = (
                q,
                frame,
                fit_front(frame["steps"], frame["samples"]),
            )
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


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """exact: as `exact_fronts`. grid: digits' crossings that were reached, with lr; measured, fits, best: of it the
    front, its hyperbola, and the fewest steps at each batch size, by ε²; predicted, predicted_fits: the front
    as `predicted_fronts` has it, and its hyperbola. here: τ0/τ1 of this machine, digits_B the
    fitted B that goes with it. optima, costs: as `optimal_schedules`."""
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
    c, eps = PowerLawQuadratic().constants(), p.quadratic_eps2[0] ** 0.5
    steps = bounds.front_min_steps(c, eps) * np.geomspace(1.05, 40, 50)
    bound = pd.DataFrame({"steps": steps, "samples": bounds.front_samples(c, steps, eps), "source": "bound"})
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
        predicted=predicted,
        predicted_fits={target: fit_front(frame["steps"], frame["samples"]) for target, frame in predicted.items()},
        probes=probes,
        best={
            target: frame.loc[frame.groupby("batch_size")["steps"].idxmin()] for target, frame in grid.groupby("eps2")
        },
        c=c,
        bound={p.quadratic_eps2[0]: bound},
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
    r, m = 2.0, np.arange(6)
    eps = p.quadratic_eps2[0] ** 0.5 * r ** (-m / 2)
    batch_size0 = bounds.noise_scale(res.c, eps[0]) / 16
    lr0 = bounds.optimal_lr(res.c, batch_size0, eps[0])

    def on_plane(delta, gamma):
        lr, batch_size = lr0 * gamma**m, batch_size0 * delta**m
        inside = lr * res.c.L < 2
        steps = bounds.steps_to(res.c, batch_size[inside], lr[inside], eps[inside])
        return np.array(
            [
                steps / bounds.front_min_steps(res.c, eps[inside]),
                steps * batch_size[inside] / bounds.front_min_samples(res.c, eps[inside]),
            ]
        )

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
    plane = plotting.front_paths(paths, times)
    shapes, families = plotting.optimal_schedules(res.optima), plotting.family_costs(res.costs)
    return {
        "front": (
            front,
            "Gradient evaluations against steps to ε. Left: the bound (dashed) and the exact fronts of the "
            "quadratic. Middle: digits, every pair of the grid (dots, largest ε), the front (markers), its fitted "
            "hyperbola (dashed) and the front predicted from local constants (dashes and dots; T13, T15; it cost "
            f"{res.probes:.2g} gradient evaluations). Right: all in units of their fitted K_min and N_min.",
        ),
        "rule": (
            rule,
            "The learning rate of the fewest steps at each batch size. Dashed, same colour: T11's rule with the "
            "fitted B and the proven L. "
            "The best has the rule's shape, higher by a factor: the bound is loose.",
        ),
        "paths": (
            plane,
            "Left: published schedules stage by stage (ε² halves) on the plane of the front, by the bound; all begin "
            "at the ring, where growing the batch alone stays. "
            "Right: time to ε on the front (T12) for several ratios of latency τ0 to time per gradient evaluation "
            "τ1; solid: as measured here on digits.",
        ),
        "shapes": (
            shapes,
            "The exact optimal schedule on the quadratic, in a fixed number of steps: learning rate (thin) and batch "
            "size (thick), each over its largest value. "
            "Columns: spectrum and noise. Rows: what is to be reached.",
        ),
        "families": (
            families,
            "Gradient evaluations of the best member of each family over those of the exact optimum, same number of "
            "steps and same target. "
            "Critical tracking is T4's, in eight stages.",
        ),
    }


def claims(res: SimpleNamespace) -> list[Check]:
    p = res.p
    frames = [frame for _, frame, _ in res.exact.values()]
    fitted = [fit for _, _, fit in res.exact.values()]
    own = [quadratic.small_step_constants() for quadratic, _, _ in res.exact.values()]
    middle = [
        frame[frame["steps"].between(1.5 * fit.min_steps, 4 * fit.min_steps)]
        for frame, fit in zip(frames, fitted, strict=True)
    ]
    far = [frame[frame["steps"] > 10 * fit.min_steps] for frame, fit in zip(frames, fitted, strict=True)]
    both = list(zip(frames, fitted, own, far, strict=True))

    def regret(target, x, batch_size):
        """Time of a batch size, to the nearest power of two, over the least of the whole grid, at x = τ0/τ1."""
        time = (
            res.grid[res.grid["eps2"] == target]
            .assign(time=lambda f: x * f["steps"] + f["samples"])
            .groupby("batch_size")["time"]
            .min()
        )
        return time.iloc[np.abs(np.log(time.index / batch_size)).argmin()] / time.min()

    named = {
        target: [regret(target, x, (res.fits[target].batch_size * x) ** 0.5) for x in p.time_ratios]
        for target in p.eps2
    }
    always_B = {target: [regret(target, x, res.fits[target].batch_size) for x in p.time_ratios] for target in p.eps2}
    print(
        f"digits, time over the least of the grid, at τ0/τ1 = {p.time_ratios}: {named} with T12's batch size, "
        f"{always_B} with B"
    )
    average = np.exp(np.log(res.costs).mean(axis=1))
    checks = [
        Check(
            "Quadratic: the exact front is T11's hyperbola (K_min and N_min fitted) within 15 % for K/K_min from 1.5 "
            "to 4",
            "equal",
            measured=np.concatenate(
                [frame["samples"] / fit.samples(frame["steps"]) for frame, fit in zip(middle, fitted, strict=True)]
            ),
            theory=1.0,
            tolerance=0.15,
            exact=True,
            headline=True,
            source="T11 [N]",
            figure="front",
        ),
        *(
            Check(
                f"{name}: the front is nearer to T11's hyperbola than to any power law (both with two parameters)",
                "ordering",
                measured=[fit.scatter, power_law_scatter(frame["steps"], frame["samples"])],
                source="T11 [N]",
                figure="front",
            )
            for name, frame, fit in [
                (f"Quadratic, curvature noise, ε² = {p.quadratic_eps2[-1]:g}", frames[-1], fitted[-1]),
                *((f"Digits, ε² = {target:g}", res.measured[target], res.fits[target]) for target in p.eps2),
            ]
        ),
        *(
            Check(
                f"Digits: the predicted front has the measured one's {name} within 25 %, at each ε",
                "equal",
                measured=[getattr(res.fits[target], field) for target in p.eps2],
                theory=[getattr(res.predicted_fits[target], field) for target in p.eps2],
                tolerance=0.25,
                source="T13, T15 [N]",
                figure="front",
            )
            for name, field in (("K_min", "min_steps"), ("N_min", "min_samples"), ("B", "batch_size"))
        ),
        Check(
            "Quadratic: B = σ²/ε²",
            "equal",
            measured=[fit.batch_size for fit in fitted],
            theory=[1 / frame["eps2"][0] for frame in frames],
            tolerance=0.1,
            exact=True,
            source="T11 [N]",
            figure="front",
            explanation="The bound has A = Δ and G = Lσ²/2 where the quadratic's bias and noise have smaller ones. "
            "With its own A and G "
            "N_min is as predicted: the next check. K_min lies where η nears 2/L, beyond that expansion.",
        ),
        Check(
            "Quadratic: N_min = 4AG/ε⁴ with its own A and G",
            "equal",
            measured=[fit.min_samples for fit in fitted],
            theory=[4 * A * G / frame["eps2"][0] ** 2 for frame, _, (A, G), _ in both],
            tolerance=0.05,
            exact=True,
            source="T11 [N]",
            figure="front",
        ),
        Check(
            "Quadratic: the best η is (1/L)/(1 + B/b)",
            "equal",
            measured=np.concatenate(
                [frame["lr"] * (1 + fit.batch_size / frame["batch_size"]) for frame, fit, _, _ in both]
            ),
            theory=1.0,
            tolerance=0.1,
            exact=True,
            source="T11 [N]",
            figure="rule",
            explanation="It has the rule's shape at 2 to 4 times its height: 1/L is 2Δ/(ε²K_min) with the bound's Δ "
            "and K_min, and the bound's K_min "
            "is too large by more than its Δ. With the quadratic's own A the next check finds 2A/(ε²K).",
        ),
        Check(
            "Quadratic, K > 10 K_min: the best η is 2A/(ε²K) with its own A",
            "equal",
            measured=np.concatenate([f["lr"] * f["eps2"] * f["steps"] / (2 * A) for _, _, (A, _), f in both]),
            theory=1.0,
            tolerance=0.1,
            exact=True,
            source="T11 [N]",
            figure="rule",
        ),
        *(
            Check(
                f"Digits, ε² = {target:g}: the best η grows each time that b grows fourfold",
                "ordering",
                measured=frame.set_index("batch_size")["lr"].reindex([4, 16, 64, 256]).dropna(),
                source="T11 [N]",
                figure="rule",
            )
            for target, frame in res.best.items()
        ),
        Check(
            "Quadratic: b = √(B τ0/τ1), from the fitted B, is the exact time-optimal batch size at each ε and ratio",
            "equal",
            measured=[
                q.fastest_pair(f["eps2"][0] ** 0.5, x, 1.0).batch_size
                for q, f, _ in res.exact.values()
                for x in p.time_ratios
            ],
            theory=[(fit.batch_size * x) ** 0.5 for fit in fitted for x in p.time_ratios],
            tolerance=0.1,
            exact=True,
            source="T12 [N]",
            figure="paths",
            explanation="It is at the smaller ε. At the larger one the quickest runs take a handful of steps, and "
            "whole steps are too coarse a grid.",
        ),
        Check(
            "Digits: the power of two nearest to √(B τ0/τ1) takes at most 10 % more time than the best pair of the "
            "grid",
            "upper_bound",
            measured=[x for of_target in named.values() for x in of_target],
            theory=1.1,
            source="T12 [N]",
            figure="paths",
            explanation="It is 17 % more at ε² = 3e-3 where latency costs one evaluation: there N alone decides, and "
            "the measured front bends around its hyperbola.",
        ),
        *(
            Check(
                f"Digits, ε² = {target:g}: b = √(B τ0/τ1) takes less time than b = B, in the mean over the ratios",
                "ordering",
                measured=[np.mean(named[target]), np.mean(always_B[target])],
                source="T12 [N]",
                figure="paths",
            )
            for target in p.eps2
        ),
        Check(
            "Quadratic: for one ε and a budget of steps, a constant pair is optimal",
            "equal",
            measured=res.costs.loc["constant"],
            theory=1.0,
            tolerance=0.1,
            exact=True,
            source="T11 [N]",
            figure="families",
            explanation="It is optimal in T1's bound, which sums all noise alike. In the exact recursion early noise "
            "is forgotten, so that a large η "
            "early and less noise late are cheaper: the optimum has more than half of N in the second half of the "
            "steps wherever b grows.",
        ),
        Check(
            "Quadratic: in no exact optimum is any gradient evaluation spent while η grows",
            "upper_bound",
            measured=[
                found.share(1, sign)
                for of_target in res.optima.values()
                for found in of_target.values()
                for sign in (-1, 0, 1)
            ],
            theory=0.0,
            exact=True,
            headline=True,
            prediction="none",
            source="exact optimum [N]",
            figure="shapes",
        ),
        Check(
            "Quadratic, mean over cases: η down with b up is nearest to the optimum, then late switching, critical "
            "tracking, constant",
            "ordering",
            measured=average[["lr down, batch up", "late switch", "critical tracking", "constant"]],
            exact=True,
            prediction="none",
            source="exact optimum [N]",
            figure="families",
        ),
    ]
    return checks
