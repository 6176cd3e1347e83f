"""02: how fast batch size and learning rate should grow (T5), and what growing costs (T6)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt

from sfolib import plotting
from sfolib.analysis.claims import Check, LeftOut, check
from sfolib.analysis.crossings import cheapest, crossings, ratios
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band
from sfolib.problems.specs import Digits
from sfolib.schedules.plan import Plan
from sfolib.schedules.theoretical import critical_plan
from sfolib.theory import bounds, stage_growth
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training.records import Run
from sfolib.training.spec import Spec


class Parameters(notebook.Parameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"seeds": 3, "eps2": [0.01, 0.002], "largest_batch_size": 64, "max_samples": 60000, "max_steps": 5000},
        "quick": {
            "seeds": 8,
            "eps2": [0.01, 0.0003],
            "largest_batch_size": 256,
            "max_samples": 10**6,
            "max_steps": 12000,
        },
        "paper": {
            "seeds": 64,
            "eps2": [0.01, 0.0003],
            "largest_batch_size": 512,
            "max_samples": 4 * 10**6,
            "max_steps": 40000,
        },
    }

    random_designs: PositiveInt = Field(30, description="random triples (δ, γ, τ) that are put to the test")
    r: Annotated[list[notebook.Above1], Field(min_length=1)] = Field(
        [1.2, 2**0.5, 2.0, 3.0], description="growth of 1/ε² a stage at which the overhead is measured"
    )
    quadratic_lr: PositiveFloat = Field(0.02, description="synthetic quadratic with L of 1; learning rate η")
    quadratic_sigma2: PositiveFloat = Field(
        10000.0, description="so large that a batch is many samples, and its rounding is of no weight"
    )
    quadratic_eps2: notebook.FirstAndLast = Field([0.01, 0.0001], description="first and last target")
    lr: PositiveFloat = Field(0.1, description="digits; learning rate η")
    l2: PositiveFloat = Field(0.001, description="digits; ℓ2 coefficient")
    eps2: notebook.FirstAndLast = by_scale("digits; first and last target ε²")
    targets: PositiveInt = Field(15, description="digits; number of targets between those")
    seeds: PositiveInt = by_scale("independent runs")
    largest_batch_size: PositiveInt = by_scale("constant batch sizes are 2, 4, 8, … this")
    max_samples: PositiveInt = by_scale("budget of a run in gradient evaluations …")
    max_steps: PositiveInt = by_scale("… and in steps, for constant batches")


FINISH, STOP = "finish the stage", "stop at ε"
SHOWN_R = (2**0.5, 2.0)  # T6's best, for the two


def schedules(p):
    """Digits: T4's stages with r = 2 from a pilot at the first ε on, as functions of its (batch_size, steps)."""

    def growing(batch_size, steps, lr, lr_growth, max_lr):
        # b* ∝ η and K* ∝ 1/η: the pilot's point at another learning rate
        constants = bounds.calibrated(batch_size * lr / p.lr, lr, steps * p.lr / lr, p.eps2[0] ** 0.5, max_lr)
        return critical_plan(constants, p.eps2[0] ** 0.5, 2.0, 8, lr=lr, lr_growth=lr_growth, max_lr=max_lr)

    top = 1.9 / Digits(l2=p.l2).smoothness_bound
    return {
        "batch alone grows": lambda batch_size, steps: growing(batch_size, steps, p.lr, 1.0, p.lr),
        "both grow": lambda batch_size, steps: growing(batch_size, steps, p.lr / 4, 2.0, top),
    }


def specs(p: Parameters, schedules: Mapping[str, Any], runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    common = {
        "problem": Digits(l2=p.l2),
        "seeds": tuple(range(p.seeds)),
        "sampling": "replacement",
        "eval_every": 1.02,
        "max_samples": p.max_samples,
        "target_grad_norm": 0.9 * p.eps2[1] ** 0.5,
    }
    sizes = [2**k for k in range(1, p.largest_batch_size.bit_length())]
    found: dict[Hashable, Spec] = {b: Spec(plan=Plan(b, p.lr), max_steps=p.max_steps, **common) for b in sizes}
    if found.keys() <= runs.keys():
        pilot = cheapest(crossings([runs[b] for b in sizes], p.eps2[:1]))
        for name, plan in schedules.items() if len(pilot) else ():  # none reached the first ε²: nothing to start from
            found[name] = Spec(plan=plan(*pilot.iloc[0][["batch_size", "steps"]]), **common)
    return found


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """tested: exponents of triples (δ, γ, τ). measured, worst: what growing costs on the quadratic, at each r.
    from_constants: the same for a plan from L, σ², Δ, whose first batch is `loose` times the critical one. constant,
    best, grown: crossings of digits' constant batch sizes, the cheapest of them, and of the growing plans."""
    grid = [(gamma**k, gamma, 1.0) for gamma in (1.15, 1.3, 1.5, 1.8, 2.1) for k in (1.2, 1.5, 2.0, 2.6, 3.4)]
    designs = [design for design in grid if design[0] < 6] + stage_growth.random_designs(p.random_designs)
    tested = pd.DataFrame(designs, columns=["delta", "gamma", "tau"])
    tested["p"] = bounds.rate_exponent(tested["delta"], tested["gamma"], tested["tau"])
    tested["bound"] = [stage_growth.bound_exponent(*design) for design in designs]
    tested["exact"] = [stage_growth.exact_exponent(*design) for design in designs]

    q = PowerLawQuadratic(lam_min=1e-8, sigma2=p.quadratic_sigma2)
    eps0, span = p.quadratic_eps2[0] ** 0.5, np.log(p.quadratic_eps2[0] / p.quadratic_eps2[1])
    growths = list(dict.fromkeys([*p.r, *SHOWN_R]))
    stages = {r: stage_growth.critical_stages(q, p.quadratic_lr, eps0, r, 1 + round(span / np.log(r))) for r in growths}
    measured = {
        (r, restart): stage_growth.overhead(q, *stages[r], restart) for r in growths for restart in (True, False)
    }
    worst = pd.DataFrame(
        [
            {"label": label, "r": r, "restart": restart, "ratio": ratio.max()}
            for (r, restart), paid in measured.items()
            for label, ratio in ((FINISH, paid.finish), (STOP, paid.stop))
        ]
    )
    c = q.constants()
    planned = critical_plan(c, eps0, 2.0, 8, lr=p.quadratic_lr, lr_growth=1.0, max_lr=p.quadratic_lr)
    loose = bounds.critical_batch_size(c, p.quadratic_lr, eps0)

    eps2 = np.geomspace(*p.eps2, p.targets)
    constant = crossings([run for key, run in runs.items() if isinstance(key, int)], eps2)
    return SimpleNamespace(
        p=p,
        tested=tested,
        gamma=np.linspace(1.001, 2.3, 201),
        delta=np.linspace(1.0, 6.0, 201),
        measured=measured,
        worst=worst,
        from_constants=stage_growth.stopping(
            q, [(row.batch_size, row.lr, row.steps) for row in planned.rows], measured[2.0, True].eps
        ),
        loose=loose / q.best_constant_batch_size(p.quadratic_lr, eps0).batch_size,
        constant=constant,
        best=cheapest(constant).set_index("eps2"),
        grown={key: crossings([run], eps2).set_index("eps2") for key, run in runs.items() if isinstance(key, str)},
    )


def figures(res: SimpleNamespace) -> notebook.Figures:
    rates = plotting.rate_exponents(
        res.gamma, res.delta, bounds.rate_exponent(res.delta[:, None], res.gamma, 1.0), res.tested
    )
    r_grid = np.unique([2**0.5, 2.0, *np.geomspace(1.15, 3.2, 400)])
    predicted = {FINISH: bounds.anytime_ratio(r_grid), STOP: bounds.anytime_ratio(r_grid, stop_early=True)}

    def curves(r, column):
        labels = {True: "each stage from $\\theta_0$", False: "stages go on"}
        return [
            Band(labels[restart], "exact", res.measured[r, restart].eps ** 2, getattr(res.measured[r, restart], column))
            for restart in labels
        ]

    anytime = plotting.anytime(
        r_grid,
        predicted,
        res.worst,
        {
            f"{FINISH}, $r=\\sqrt{{2}}$": (curves(2**0.5, "finish"), 4.0),
            f"{STOP}, $r=2$": (
                [
                    *curves(2.0, "stop"),
                    Band(
                        "planned from $L$, $\\sigma^2$, $\\Delta$",
                        "exact",
                        res.measured[2.0, True].eps ** 2,
                        res.from_constants,
                    ),
                ],
                8 / 3,
            ),
        },
    )
    fixed = {
        f"constant $b={b}$": frame.set_index("eps2")
        for b, frame in res.constant.groupby("batch_size")
        if b in (4, 16, 64)
    }
    shown = {name: frame[np.isfinite(frame["samples"])] for name, frame in (res.grown | fixed).items()}
    over = {
        name: frame[["samples", "low", "high"]].div(res.best["samples"], axis=0).dropna()
        for name, frame in shown.items()
    }
    price = plotting.overheads(
        {
            "digits, softmax regression": (
                [Band(n, "measured", f.index, f["samples"], f["low"], f["high"]) for n, f in shown.items()],
                r"gradient evaluations to $\varepsilon$",
            ),
            "over the best constant batch size": (
                [Band(n, "measured", f.index, f["samples"], f["low"], f["high"]) for n, f in over.items()],
                "gradient evaluations / best constant $b$'s",
            ),
        },
        limit=8 / 3,
    )
    return {
        "rates": (
            rates,
            "Left: predicted exponent p at equal steps a stage, as a colour; dots are filled with the exponent "
            "measured by exact recursion on the "
            "quadratic, so that one that agrees takes the map's colour. Right: all triples. On the surface p = 1/2 "
            "the bound's exponent has a logarithm less.",
        ),
        "anytime": (
            anytime,
            "Gradient evaluations of the growing schedule over those of the best constant batch size, which knew ε "
            "(quadratic, exact recursion, δ = r). "
            "Left: largest ratio over all targets. Dashed: predicted (T6), star: least. Filled: each stage from θ₀, "
            "as T6 assumes. Rings: stages go on. "
            "Middle and right: the ratio at each target. Going on, a stage starts far below the gap Δ that T6 allows "
            "for, and growth beats every constant batch size.",
        ),
        "digits": (
            price,
            "Digits, softmax regression. Left: gradient evaluations to each target. Right: over the best constant "
            "batch size for that target. "
            "Markers: crossing of the mean over seeds; band: 95 % interval over seeds; a curve ends where "
            "the target was not reached.",
        ),
    }


def claims(res: SimpleNamespace) -> notebook.Claims:
    p = res.p
    middle = res.tested[(res.tested["gamma"] == 1.5) & (res.tested["tau"] == 1)]
    still = [
        stage_growth.exact_path(*design).grad_sqnorm
        for design in ((1.5, 1.5, 1.0), (2.0, 2.0, 1.0), (2.0, 1.5, 0.5), (3.0, 1.2, 1 / 3))
    ]
    checks = [
        Check(
            "Exponents of the exact quadratic are p, on the surface and off it",
            "equal",
            measured=res.tested["exact"],
            theory=res.tested["p"],
            tolerance=0.05,
            exact=True,
            source="T5 [N]",
            figure="rates",
        ),
        Check(
            "γ = 1.5, τ = 1: no δ beside δ = γ² does as well",
            "ordering",
            measured=[middle.loc[middle["p"] < 0.499, "exact"].max(), middle.loc[middle["p"] > 0.499, "exact"].max()],
            exact=True,
            source="T5 [N]",
            figure="rates",
        ),
        Check(
            "Quadratic: with δ = γ (linear scaling), or equal epochs a stage, the second half of the stages gains "
            "nothing",
            "equal",
            measured=[path.min() / path[: len(path) // 2 + 1].min() for path in still],
            theory=1.0,
            tolerance=0.01,
            exact=True,
            source="T4 [S], T5 [N]",
            figure="rates",
        ),
        Check(
            "Quadratic, each stage from θ₀, finished: worst overhead r⁴/(r² − 1), 4 at r = √2",
            "equal",
            measured=[res.measured[r, True].finish.max() for r in p.r],
            theory=bounds.anytime_ratio(p.r),
            tolerance=0.02,
            exact=True,
            source="T6 [N]",
            figure="anytime",
        ),
        Check(
            "Quadratic, each stage from θ₀, stopped at ε: worst overhead r²/(r² − 1) + r²/(2r − 1), 8/3 at r = 2",
            "equal",
            measured=[res.measured[r, True].stop.max() for r in p.r],
            theory=bounds.anytime_ratio(p.r, stop_early=True),
            tolerance=0.02,
            exact=True,
            source="T6 [N]",
            figure="anytime",
        ),
        Check(
            "Quadratic, stages going on: at most T6's worst overhead at every r, finished and stopped",
            "upper_bound",
            measured=[getattr(res.measured[r, False], how).max() for how in ("finish", "stop") for r in p.r],
            theory=[bounds.anytime_ratio(r, stop_early=stop) for stop in (False, True) for r in p.r],
            exact=True,
            source="T6 [N]",
            figure="anytime",
            explanation="At r = 3, finished, it is 1.7 % more. That is the worst of the stages from θ₀ too (the "
            "check above, within its 2 %): "
            "the exact N(b) leaves the shape of T2's by as much.",
        ),
        Check(
            "Quadratic: planned from L, σ², Δ alone (r = 2), stopped at ε, at most 8/3 at every ε",
            "upper_bound",
            measured=res.from_constants,
            theory=8 / 3,
            exact=True,
            source="T6 [N]",
            figure="anytime",
            explanation="The bound is loose by a constant: its first batch is x times the exact critical one, which "
            "T2 says costs "
            "x²/(2x − 1). The next check confirms it. As the stages pass, the excess of the early ones is forgotten.",
        ),
        Check(
            "Quadratic: that plan's overhead at its first target is T2's price x²/(2x − 1) of a batch x times too "
            "large",
            "equal",
            measured=res.from_constants[0],
            theory=res.loose**2 / (2 * res.loose - 1),
            tolerance=0.1,
            exact=True,
            source="T2 [S]",
            figure="anytime",
        ),
    ]
    return checks + on_digits(res)


def on_digits(res: SimpleNamespace) -> notebook.Claims:
    bounded = (
        "Digits: both growing schedules stay within 8/3 of the best constant batch size of each ε, of those tried "
        "(a schedule made for one ε does better than any constant pair: T16)"
    )
    robust = "Digits: over all ε, every constant batch size does worse at its worst than the growing batch"
    if not res.grown:
        return [
            LeftOut(claim, "no constant batch size reached the first ε² in its budget") for claim in (bounded, robust)
        ]
    best = res.best["samples"]
    narrowest = (
        res.constant.assign(ratio=res.constant["samples"] / res.constant["eps2"].map(best))
        .groupby("batch_size")["ratio"]
        .max()
        .min()
    )
    worst = res.grown["batch alone grows"].div(best, axis=0).max()
    return [
        check(
            bounded,
            "upper_bound",
            **ratios(
                pd.concat(res.grown.values()),
                pd.concat([res.best.reindex(frame.index) for frame in res.grown.values()]),
            ),
            theory=8 / 3,
            headline=True,
            source="T6 [N]",
            figure="digits",
        ),
        check(
            robust,
            "ordering",
            [worst["samples"], narrowest],
            interval=[[worst["low"], worst["high"]], [narrowest, narrowest]],
            source="T6 [N]",
            figure="digits",
        ),
    ]
