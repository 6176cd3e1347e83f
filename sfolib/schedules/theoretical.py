"""Plans that the bounds recommend: along the critical batch size (T4, T6, T7), and along the front (T11, T12).

Units: batch is gradient evaluations a step, samples is SFO, gradient evaluations. [S], [N] as in `bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from sfolib._utils.errors import positive, require
from sfolib._utils.model import Above1, Count, Positive, checked
from sfolib.schedules.base import piecewise
from sfolib.schedules.plan import Plan, Stage, rounded
from sfolib.theory import bounds
from sfolib.theory.bounds import Constants


@checked
def critical_plan(
    constants: Constants,
    eps0: Positive,
    r: Above1 = 2.0,
    stages: Count = 8,
    *,
    lr: Positive,
    lr_growth: Positive | None = None,
    max_lr: Positive | None = None,
    max_batch_size: Count | None = None,
) -> Plan:
    """T4 [S], T6 and T7 [N]: follow the critical batch size through ε_m² = eps0² r^−m, m = 0 … stages − 1.

    b_m = 2 C2 η_m/ε_m² and η_m = min(lr lr_growth^m, max_lr, max_batch_size ε_m²/(2 C2)), in three phases: lr
    and batch grow ("grow both") until lr meets max_lr, then the batch alone ("grow batch") until it meets
    max_batch_size, then lr shrinks by r a stage ("decay lr"). lr_growth is γ, by default r (τ = 1: equal steps
    a stage). max_lr is by default 1/L; it is the η_max of C1 and C2 throughout, so that the factors are
    T4's exactly. A stage lasts T2's K(b) steps at its rounded batch size, rounded up (K* where that is
    b*): under T6's assumption on the gap it reaches ε_m. After the last stage its pair stays. The clock
    counts samples.
    """
    max_lr = 1 / constants.L if max_lr is None else max_lr
    lr_growth = r if lr_growth is None else lr_growth
    positive("sigma2", constants.sigma2)
    require(lr_growth >= 1, "lr_growth", lr_growth, "must be 1 or above")
    require(max_lr * constants.L < 2, "max_lr", max_lr, f"must be below 2/L = {2 / constants.L:.6g}")
    require(lr <= max_lr, "lr", lr, f"must be at most max_lr = {max_lr:.6g}")
    top = math.inf if max_batch_size is None else max_batch_size

    first = bounds.critical_batch_size(constants, lr, eps0, max_lr)
    start = min(first, top)

    def pair(eps: float, m: int) -> tuple[int, float, str]:
        stage = bounds.capped_stage(m, start, lr * (start / first), lr_growth * r, lr_growth, max_lr, max_batch_size)
        return rounded(stage.batch_size), stage.lr, stage.phase

    def steps(batch_size: int, eta: float, eps: float) -> float:
        return bounds.steps_to(constants, batch_size, eta, eps, max_lr)

    return _staged(eps0, r, stages, pair, steps)


@checked
def front_plan(
    constants: Constants,
    eps0: Positive,
    r: Above1 = 2.0,
    stages: Count = 8,
    objective: Literal["samples", "time", "steps"] = "samples",
    *,
    ratio: Positive = 1.0,
    latency: Positive | None = None,
    per_sample: Positive | None = None,
    max_batch_size: Count | None = None,
) -> Plan:
    """T11 and T12 [N]: stay on the front of steps and SFO through ε_m² = eps0² r^−m, m = 0 … stages − 1.

    "samples": b = ratio B, one trade-off in all stages (ratio = 1 costs 2 K_min steps and 2 N_min samples).
    "time": b = √(B τ0/τ1), where latency τ0 is the time of a step, per_sample τ1 that of an evaluation.
    "steps": b = max_batch_size.
    In all, max_batch_size caps the batch size, lr is `bounds.optimal_lr` at the rounded batch size, and a stage
    lasts `bounds.front_steps`, rounded up. The clock counts samples.
    """
    top = math.inf if max_batch_size is None else max_batch_size
    require(
        objective != "steps" or top < math.inf, "max_batch_size", max_batch_size, 'is needed where objective = "steps"'
    )

    def pair(eps: float, m: int) -> tuple[int, float, str]:
        if objective == "time":
            wanted = bounds.time_optimal_batch_size(constants, eps, latency, per_sample)
        else:
            wanted = ratio * bounds.noise_scale(constants, eps) if objective == "samples" else top
        batch_size = rounded(min(wanted, top))
        return (
            batch_size,
            bounds.optimal_lr(constants, batch_size, eps),
            "front" if wanted < top else "front, full batch",
        )

    def steps(batch_size: int, eta: float, eps: float) -> float:
        return bounds.front_steps(constants, batch_size, eps)

    return _staged(eps0, r, stages, pair, steps)


def _staged(
    eps0: float,
    r: float,
    stages: int,
    pair: Callable[[float, int], tuple[int, float, str]],
    steps: Callable[[int, float, float], float],
) -> Plan:
    rows = []
    for m in range(stages):
        eps = eps0 * r ** (-m / 2)
        batch_size, lr, phase = pair(eps, m)
        length = max(1, math.ceil(steps(batch_size, lr, eps) * (1 - 1e-12)))  # a whole number stays one
        rows.append(Stage(m, eps, batch_size, lr, length, length * batch_size, phase))
    ends = [sum(row.samples for row in rows[: m + 1]) for m in range(stages - 1)]
    batch_size, lr = (piecewise([getattr(row, name) for row in rows], ends) for name in ("batch_size", "lr"))
    return Plan(batch_size, lr, "sample", rows=tuple(rows))
