"""00: the theory derived step by step, proved again, altered to see the proofs fail, and illustrated with numbers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt
from sympy.core.function import AppliedUndef
from tqdm import tqdm

from sfolib import plotting
from sfolib.analysis.claims import Check
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.theory import bounds
from sfolib.theory.bounds import Constants
from sfolib.theory.derivations import Derivation, DerivationError, broken, evaluate, result
from sfolib.theory.derivations import results as derivations
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.theory.stage_growth import bound_exponent
from sfolib.training.records import Run
from sfolib.training.spec import Spec

QUADRATIC = PowerLawQuadratic(d=100)
BATCH_SIZE = 64.0  # under decaying learning rates
LATENCY, PER_SAMPLE = 1e-3, 1e-5  # seconds a step, and a gradient evaluation


class Parameters(notebook.Parameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"points": 300, "altered": "last"},
        "quick": {"points": 1000, "altered": "all"},
        "paper": {"points": 3000, "altered": "all"},
    }

    L: PositiveFloat = Field(2.0, description="smoothness of the illustrations' problem")
    sigma2: PositiveFloat = Field(3.0, description="σ², variance of one per-sample gradient")
    gap: PositiveFloat = Field(1.5, description="Δ, initial distance of f to f*")
    eps: PositiveFloat = Field(0.1, description="ε, a gradient norm")
    points: PositiveInt = by_scale("resolution of the searches")
    altered: Literal["last", "all"] = by_scale('steps of each result that are altered, "last" or "all"')

    @property
    def constants(self) -> Constants:
        return Constants(self.L, self.sigma2, self.gap)


def schedules(p):
    """(δ, γ, τ) whose exponent is fitted; the last one is on the surface δ = γ²τ, where a logarithm slows the fit."""
    return [(4.0, 1.5, 1.0), (1.5, 1.0, 2.0), (4.0, 1.0, 1.5), (2.0, 0.8, 1.7), (2.0, 2**0.5, 1.0)]


def specs(p: Parameters, schedules: Any, runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    return {}  # nothing is trained


def known(p: Parameters) -> dict[str, float]:
    """The derivations' symbols by name, at the constants and η = 1/(2L)."""
    c, lr = p.constants, 0.5 / p.L
    values = {"L": c.L, "sigma": c.sigma2**0.5, "Delta": c.gap, "epsilon": p.eps, "eta": lr}
    return values | {"C_1": 2 * c.gap / (2 - c.L * lr), "C_2": c.L * c.sigma2 / (2 - c.L * lr)}


def stated(p: Parameters, key: str, name: str) -> float:
    """The number that a result states for `name` at these constants."""
    expr, values = result(key).value(name), known(p)
    return evaluate(expr, **{s.name: values[s.name] for s in expr.free_symbols})


def fails(derivation: Derivation) -> bool:
    try:
        derivation.verify()
    except DerivationError:
        return True
    return False


def survivors(derivation: Derivation, altered: str) -> int:
    """How many derivations with one step altered still verify."""
    proved = [i for i, step in enumerate(derivation.steps) if step not in derivation.assumptions]
    proved = proved if altered == "all" else proved[-1:]
    return sum(not fails(derivation.with_step(i, broken(derivation.steps[i]))) for i in proved)


def decaying_bounds(p: Parameters, steps: np.ndarray) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """By exponent a: T1's bound with its sums evaluated, and T9's closed form, after each number of steps."""
    written_out = (bound for bound in result("T9").conclusion if not bound.has(AppliedUndef))
    relations = [bound.rhs for bound in written_out if bound.rel_op == "<="]
    found = {}
    for a, rhs in zip((0.25, 0.5, 0.75), (relations[0], *relations[2:]), strict=True):
        values = known(p) | {"a": a, "b": BATCH_SIZE, "T": steps}
        closed = evaluate(rhs, **{s.name: values[s.name] for s in rhs.free_symbols})
        found[a] = bounds.decaying_lr_bound(p.constants, BATCH_SIZE, known(p)["eta"], a, steps), closed
    return found


def searched_front(p: Parameters, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(batch size, lr) with which T1's bound reaches ε at K = ratio K_min, by a grid over lr without T11."""
    c, lrs = p.constants, np.geomspace(1e-3, 1.999, p.points) / p.L
    found = []
    for K in ratio * bounds.front_min_steps(c, p.eps):
        room = p.eps**2 * K * lrs * (1 - c.L * lrs / 2) - c.gap  # what the bound, cleared, leaves for the noise
        least = np.where(room > 0, c.L * c.sigma2 * lrs**2 * K / 2 / np.where(room > 0, room, 1), np.inf)
        found.append((least.min(), lrs[least.argmin()]))
    sizes, rates = np.array(found).T
    return sizes, rates


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """proofs: each result with its steps, whether it fails, and how many altered steps pass. bound_ratio: exact over
    bound along a growing schedule. searched_samples: the bound's least N over b. growths: exponents, fitted and stated.
    least: (r, worst overhead), finishing the stage and stopping early. ratio, searched_b, searched_lr: the front."""
    c, lr = p.constants, known(p)["eta"]
    proofs = [
        {
            "result": d.key,
            "title": d.title,
            "steps": len(d.steps),
            "assumed": len(d.assumptions),
            "fails": fails(d),
            "altered steps that pass": survivors(d, p.altered),
        }
        for d in tqdm(derivations(), desc="derivations", unit="")
    ]
    sizes = np.geomspace(1, 512, 2000), np.full(2000, 0.5)
    exact = np.minimum.accumulate(QUADRATIC.grad_sqnorm_path(*sizes)[:-1])
    b = np.geomspace(0.55, 50, p.points) * stated(p, "T2", "b_*")
    growths = pd.DataFrame(schedules(p), columns=["delta", "gamma", "tau"])
    growths["fitted"] = [bound_exponent(*row, stages=400) for row in growths.itertuples(index=False)]
    growths["p"] = bounds.rate_exponent(growths["delta"], growths["gamma"], growths["tau"])
    r = np.linspace(1.05, 6, 20 * p.points)
    overheads = [bounds.anytime_ratio(r, stop_early) for stop_early in (False, True)]
    steps, ratio = np.unique(np.geomspace(1, 1e6, 49).astype(int)), np.geomspace(1.05, 50, 30)
    timed = np.geomspace(1e-2, 1e3, p.points) * bounds.noise_scale(c, p.eps)
    searched_b, searched_lr = searched_front(p, ratio)
    return SimpleNamespace(
        p=p,
        proofs=pd.DataFrame(proofs),
        bound_ratio=(exact / bounds.gradient_bound(QUADRATIC.constants(), *sizes)).max(),
        searched_samples=bounds.samples_to(c, b, lr, p.eps).min(),
        growths=growths,
        least=[(r[np.argmin(overhead)], overhead.min()) for overhead in overheads],
        steps=steps,
        decays=decaying_bounds(p, steps),
        ratio=ratio,
        searched_b=searched_b,
        searched_lr=searched_lr,
        searched_time=timed[np.argmin(bounds.front_time(c, timed, p.eps, LATENCY, PER_SAMPLE))],
    )


def figures(res: SimpleNamespace) -> notebook.Figures:
    p, c = res.p, res.p.constants
    decay = plotting.power_laws(
        {
            "bound on min E‖∇f‖²": [
                plotting.Curve(f"a = {a}: {words}", source, res.steps, curve)
                for a, pair in res.decays.items()
                for words, source, curve in zip(
                    ("sums of T1", "closed form of T9"), ("exact", "bound"), pair, strict=True
                )
            ]
        },
        xlabel="steps $T$",
    )
    B, lrs = bounds.noise_scale(c, p.eps), np.geomspace(0.02, 1, 40) / c.L
    stated_b = bounds.front_batch_size(c, res.ratio * bounds.front_min_steps(c, p.eps), p.eps)
    steps = bounds.minimal_steps(c, lrs, p.eps) / bounds.front_min_steps(c, p.eps)
    samples = bounds.minimal_samples(c, lrs, p.eps) / bounds.front_min_samples(c, p.eps)
    front = plotting.power_laws(
        {
            "$N/N_{min}$": [
                plotting.Curve("front: searched", "exact", res.ratio, res.searched_b * res.ratio / B),
                plotting.Curve("front: T11", "bound", res.ratio, stated_b * res.ratio / B),
                plotting.Curve("T2: b* at fixed η", "bound", steps, samples),
            ],
            "learning rate × L": [
                plotting.Curve("front: searched", "exact", res.ratio, res.searched_lr * c.L),
                plotting.Curve("front: T11", "bound", res.ratio, bounds.optimal_lr(c, stated_b, p.eps) * c.L),
                plotting.Curve("T2: b* at fixed η", "bound", steps, lrs * c.L),
            ],
        },
        xlabel="$K/K_{min}$",
    )
    return {
        "proofs": (
            plotting.proofs(res.proofs),
            "Every result of the theory and its steps. Each is proved again, and seen to fail when a step is altered.",
        ),
        "ratios": (
            plotting.ratios(computed(res)),
            "What was computed without the theory (searches, fits, sums, recursions) beside what is stated, a row "
            "for each claim: how far their ratio is from 1. Dots may be off by the grey tolerance; rings are "
            "below a bound, by as much.",
        ),
        "front": (
            front,
            "Gradient evaluations and learning rate against steps, all in the units of T11: the front found by a "
            "search over (η, b) in T1's bound, the hyperbola and the learning-rate rule of T11, and T2's critical "
            "batch at fixed η from 0.02/L to 1/L, which leaves the front as η grows to cost twice as much at "
            "K = 2 K_min.",
        ),
        "decay": (
            decay,
            "Decaying learning rates η(t + 1)^−a at b = 64: T1's bound with its sums evaluated, and the closed forms "
            "of T9.",
        ),
    }


def claims(res: SimpleNamespace) -> list[Check]:
    """The others of what is drawn are the theory beside itself, for tests to hold."""
    return computed(res)[:1]


def computed(res: SimpleNamespace) -> list[Check]:
    p, c, growths = res.p, res.p.constants, res.growths
    surface = np.isclose(growths["delta"], growths["gamma"] ** 2 * growths["tau"])
    hyperbola = (res.ratio - 1) * (res.searched_b * res.ratio / bounds.noise_scale(c, p.eps) - 1)
    return [
        Check(
            "Quadratic, growing batch: the exact min E‖∇f‖² over the bound, at most, over all steps",
            "upper_bound",
            measured=res.bound_ratio,
            theory=1.0,
            exact=True,
            source="T1 [S]",
            figure="ratios",
        ),
        Check(
            "The bound's fewest gradient evaluations over b are N*",
            "equal",
            measured=res.searched_samples,
            theory=stated(p, "T2", "N_*"),
            tolerance=1e-3,
            exact=True,
            source="T2 [S]",
            figure="ratios",
        ),
        Check(
            "Exponents of the bound over 400 stages, away from δ = γ²τ",
            "equal",
            measured=growths.loc[~surface, "fitted"],
            theory=growths.loc[~surface, "p"],
            tolerance=0.02,
            exact=True,
            source="T5 [N]",
            figure="ratios",
        ),
        Check(
            "The same on δ = γ²τ, where the logarithm slows the fit",
            "equal",
            measured=growths.loc[surface, "fitted"],
            theory=growths.loc[surface, "p"],
            tolerance=0.03,
            exact=True,
            source="T5 [N]",
            figure="ratios",
        ),
        Check(
            "Growing by r costs at worst 4 (finishing the stage) and 8/3 (stopping early) at the best r",
            "equal",
            measured=[worst for _, worst in res.least],
            theory=[4, 8 / 3],
            tolerance=1e-5,
            exact=True,
            source="T6 [N]",
            figure="ratios",
        ),
        Check(
            "Decaying η, a = 1/4, 1/2, 3/4: the sums of T1 over the closed forms, at most, over all T",
            "upper_bound",
            measured=[(sums / closed).max() for sums, closed in res.decays.values()],
            theory=1 + 1e-12,
            exact=True,
            source="T9 [S]",
            figure="decay",
        ),
        Check(
            "The searched front is the hyperbola (K/K_min − 1)(N/N_min − 1) = 1 (least and largest value)",
            "equal",
            measured=(hyperbola.min(), hyperbola.max()),
            theory=(1.0, 1.0),
            tolerance=5e-3,
            exact=True,
            source="T11 [N]",
            figure="front",
        ),
        Check(
            "The batch of the least time on the front",
            "equal",
            measured=res.searched_time,
            theory=bounds.time_optimal_batch_size(c, p.eps, LATENCY, PER_SAMPLE),
            tolerance=0.05,
            exact=True,
            source="T12 [N]",
            figure="ratios",
        ),
    ]
