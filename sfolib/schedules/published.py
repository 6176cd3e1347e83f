"""Plans that others have published, in one language: each returns a `Plan`, a pure function of the clock.

Units: batch is gradient evaluations a step; milestones, thresholds and totals are readings of the plan's clock.
Schedules of lr come from `sfolib.schedules.base`. Raised for bad input: `InputError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal

from sfolib._utils.errors import positive, require
from sfolib._utils.model import Above1, Below1, Count, Number, Positive, Share, checked
from sfolib.schedules.base import NumberOrSchedule, Ramp, Schedule, Warmup, capped, fitted, piecewise, power, product
from sfolib.schedules.plan import Clock, Plan
from sfolib.theory import bounds


@checked
def increase_batch_size(
    batch_size: Count, lr: Schedule, share: Share = 1.0, *, max_batch_size: Count | None = None, clock: Clock = "epoch"
) -> Plan:
    """T8 [S]: where lr decays by α, batch × α^share and lr / α^(1 − share): η/b is what it was under `lr` alone.

    share = 1 is "Don't Decay the Learning Rate, Increase the Batch Size" (Smith et al. 2018, arXiv 1711.00489), 0 the
    plain decay. Decays are counted from lr(0), with milestones or without; in a `warmup` from the start of what it
    warms. Once the batch is at max_batch_size the rest of the decay goes to lr (their hybrid).
    """
    return _traded(batch_size, lr, share, 1.0, max_batch_size, clock)


@checked
def seesaw(
    batch_size: Count, lr: Schedule, share: Share = 0.5, *, max_batch_size: Count | None = None, clock: Clock = "sample"
) -> Plan:
    """Seesaw (Meterez et al. 2025, arXiv 2510.14717), for normalized SGD and Adam, of any decaying lr.

    Where lr decays to α lr, lr × √α and batch / α: η/√b is what it was under `lr` alone, and α^(1 − share) is lr's
    part in it (share ≤ 1/2; above it, by the paper, training is unstable). For SGD, where η/b counts, that is
    `increase_batch_size` with any share. Decays and max_batch_size as there. Not checked against the authors' program.
    """
    require(share <= 0.5, "share", share, "must be at most 0.5")
    return _traded(batch_size, lr, 2 * share, 0.5, max_batch_size, clock)


def _traded(
    batch_size: int, lr: Schedule, growth: float, order: float, max_batch_size: int | None, clock: Clock
) -> Plan:
    """batch α^−growth for lr α, capped; lr α (batch/batch₀)^order, so that η/b^order does not see the trade."""
    if isinstance(lr, Warmup):
        plan = _traded(batch_size, lr.schedule, growth, order, max_batch_size, clock)
        return Plan(plan.batch_size, Warmup(plan.lr, lr.duration), clock)
    positive("lr at 0", lr(0))
    sizes = power(lr, -growth, batch_size * lr(0) ** growth)
    if max_batch_size is not None:
        require(
            max_batch_size >= batch_size,
            "max_batch_size",
            max_batch_size,
            f"must be at least batch_size = {batch_size}",
        )
        sizes = capped(sizes, max_batch_size)
    return Plan(sizes, product([lr, power(sizes, order, batch_size**-order)]), clock)


@checked
def scaled(plan: Plan, factor: Positive, rule: Literal["linear", "sqrt"] = "linear") -> Plan:
    """The plan at batch × factor, its lr × factor (Goyal et al. 2017, arXiv 1706.02677) or × √factor.

    "linear" keeps η/b, the noise of SGD (T8); "sqrt" keeps η/√b, that of adaptive optimizers (Krizhevsky 2014,
    arXiv 1404.5997; Malladi et al. 2022, arXiv 2205.10287). A max_batch_size is scaled as well. The clock must not
    count steps, which would no longer hold the same samples.
    """
    return _rescaled(plan, factor, factor if rule == "linear" else math.sqrt(factor))


@checked
def at_momentum(plan: Plan, momentum: Below1, before: Below1 = 0.0) -> Plan:
    """T8 [S]: the plan for this momentum in place of `before`: batch × (1 − before)/(1 − momentum), the same lr.

    Keeps η/(b(1 − m)), on which the noise depends (Smith et al. 2018, arXiv 1711.00489).
    """
    return _rescaled(plan, (1 - before) / (1 - momentum), 1.0)


def _rescaled(plan: Plan, batch_size: float, lr: float) -> Plan:
    require(plan.clock != "step", "clock", plan.clock, "must be 'epoch' or 'sample': steps change in length")
    sizes = plan.batch_size if plan.max_batch_size is None else capped(plan.batch_size, plan.max_batch_size)
    return Plan(power(sizes, 1.0, batch_size), power(plan.lr, 1.0, lr), plan.clock)


@checked
def late_switch(batch_size: Count, large: Count, at: Count, lr: NumberOrSchedule, *, clock: Clock = "sample") -> Plan:
    """`batch` until the clock reads `at`, `large` from there on, lr by its own schedule.

    "Fast Catch-Up, Late Switching" (Wang et al. 2026, arXiv 2602.14208): on hard tasks the best schedule of a given
    number of samples is small for most of it and large only late. `at` is for the caller to say.
    """
    require(large > batch_size, "large", large, f"must be above batch_size = {batch_size}")
    return Plan(piecewise([batch_size, large], [at]), lr, clock)


@checked
def late_ramp(
    batch_size: Count,
    lr: Positive,
    budget: Count,
    *,
    start: Below1 = 0.8,
    growth: Above1 = 32.0,
    q: Positive = 2.0,
    share: Share = 1.0,
    max_batch_size: Count | None = None,
) -> Plan:
    """T16 [N]: (batch_size, lr) held for `start` of the budget, then η/b falls by `growth` to its end.

    budget: gradient evaluations, all of them spent and none beyond: the last steps are evened out to end there. Run it
    with max_samples = budget.
    share: 1 ramps the batch, 0 is the mirror, lr cooled down at a fixed batch; between them batch × g^share and
    lr × g^(share − 1), with the same η/b after as many gradient evaluations. The noise of a step goes with η²/b, what
    it leaves for the progress Σ η that the step makes with η/b; where ηλ is small the same η/b costs as much and leaves
    as much (T8), and the batch takes fewer steps. Once the batch is at max_batch_size the rest of the ramp goes to lr.
    With momentum m all of it holds, at η/(1 − m).
    q: how the noise of a step is forgotten, κ ∝ τ^−q at τ steps before the end. b ∝ √κ ∝ (τ + τ0)^(−q/2) at a fixed
    lr is b^(1 − 2/q) linear in the gradient evaluations, from batch_size to growth × batch_size: q = 2, the default,
    is a geometric ramp; q = 1 is the linear lr cool-down and what mirrors it. For noise along H (Σ ∝ H) and
    eigenvalues λ_i ∝ 1/i, ‖∇f‖² has q = 2 and f has q = 1. Late switching is Wang et al. 2026, arXiv 2602.14208;
    the cool-down that of warmup-stable-decay (Hu et al. 2024, arXiv 2404.06395).
    """
    cooled = Ramp(lr, lr / growth, math.floor(start * budget), budget, 2 / q - 1)
    return in_budget(batch_size, cooled, budget, share, max_batch_size)


@checked
def in_budget(batch_size: Count, lr: Schedule, budget: Count, share: Share, max_batch_size: Count | None) -> Plan:
    """`increase_batch_size` on the clock of gradient evaluations, its last steps evened out to end at the budget."""
    require(batch_size <= budget, "budget", budget, f"must be at least batch_size = {batch_size}")
    plan = increase_batch_size(batch_size, lr, share, max_batch_size=max_batch_size, clock="sample")
    return Plan(fitted(plan.batch_size, budget), plan.lr, "sample")


@checked
def stagewise(
    batch_size: Count,
    lr: Positive,
    delta: Positive,
    gamma: Positive,
    stages: Count,
    total: Count,
    *,
    exponent: Number = 2.0,
    max_lr: float = math.inf,
    max_batch_size: Count | None = None,
    clock: Clock = "epoch",
) -> Plan:
    """T4 [S]: batch × delta and lr × gamma a stage, stage m a share of `total` in proportion to (δ/γ)^(exponent m).

    exponent = 2 is what following the critical batch size asks for (Umeda & Iiduka 2025, arXiv 2508.05297); 0 gives
    equal stages. Ends of stages are rounded to whole clock readings; `InputError` where one would be empty. Caps as in
    T7, see `bounds.capped_stage`.
    """
    try:
        ratio = (delta / gamma) ** exponent
    except OverflowError:
        ratio = math.inf
    lengths = allocation(ratio, stages, total)
    pairs = [bounds.capped_stage(m, batch_size, lr, delta, gamma, max_lr, max_batch_size) for m in range(stages)]
    sizes, rates, _ = zip(*pairs, strict=True)
    ends = [*accumulate(lengths)][:-1]
    return Plan(piecewise(sizes, ends), piecewise(rates, ends), clock)


@checked
def allocation(ratio: Positive, stages: Count, total: Count) -> Sequence[int]:
    """Lengths of stages in proportion to ratio^m, whole numbers that add up to `total`; the ends are rounded."""
    require(stages <= total, "total", total, f"must be at least stages = {stages}")
    top = max(0.0, (stages - 1) * math.log(ratio))  # ratio^m without overflow
    shares = [*accumulate(math.exp(m * math.log(ratio) - top) for m in range(stages))]
    ends = [0, *(math.floor(total * share / shares[-1] + 0.5) for share in shares)]
    lengths = [b - a for a, b in pairwise(ends)]
    require(min(lengths) > 0, "total", total, f"is too little for {stages} stages: they would last {lengths}")
    return lengths
