"""What the theory says of a plan: its factors a stage, the case of T5 that it is in, and what it stops at."""

from __future__ import annotations

import math
from itertools import groupby
from typing import NamedTuple

from sfolib._utils.model import Count, checked
from sfolib.schedules.plan import Plan
from sfolib.theory import bounds
from sfolib.theory.bounds import Constants

_NEAR = 0.05  # relative: how near ln γτ and ln δ/γ are on the surface


class Validity(NamedTuple):
    """delta, gamma, tau: factors a stage of batch, lr and steps (nan where there are too few stages to tell).

    case: of T5, in words. exponent: p of min E‖∇f‖² = O(N^−p), 0 for no polynomial rate, nan where T5 does not apply.
    noise_floor: the ε that the last pair's noise leaves in the bound, inf where its lr is not below 2/L.
    lr_share: the largest lr over 2/L; T1 needs it below 1. warnings: where the run leaves what the bounds assume.
    """

    stages: int
    delta: float
    gamma: float
    tau: float
    case: str
    exponent: float
    noise_floor: float
    lr_share: float
    warnings: tuple[str, ...]


@checked
def validity(plan: Plan, c: Constants, samples_per_epoch: Count, epochs: Count) -> Validity:
    """T5 [N] for the run that `plan` makes: its stages are the stretches of steps at one batch size and lr.

    The factors are geometric means over the stages, tau's without the last one, which the end of the run cuts. A plan
    whose batch (but for rounding) or lr is not geometric, as a capped one or a cosine, has no exponent.
    """
    begun = ((row.step - 1, row.samples - row.batch_size) for row in plan.walk(samples_per_epoch, epochs))
    pairs = (plan.at(plan.reading(*at, samples_per_epoch)) for at in begun)
    stages = [(*pair, sum(1 for _ in steps)) for pair, steps in groupby(pairs)]
    batches, rates, steps = zip(*stages, strict=True)
    delta, gamma = _factor(batches), _factor(rates)
    tau = _factor(steps[:-1]) if len(steps) > 2 else math.nan
    rounding = [1 / b + 1 / batches[0] for b in batches]
    geometric = _geometric(batches, delta, rounding) and _geometric(rates, gamma, [1e-6] * len(rates))
    case, exponent = _case(delta, gamma, tau) if geometric else ("growth is not geometric", math.nan)
    if len(stages) == 1:
        case, exponent = "constant: the noise floor stays", 0.0
    share = max(rates) * c.L / 2
    warnings = tuple(plan.report(c, samples_per_epoch, epochs))
    floor = bounds.noise_floor(c, batches[-1], rates[-1]) if rates[-1] * c.L < 2 else math.inf
    return Validity(len(stages), delta, gamma, tau, case, exponent, floor, share, warnings)


def _factor(values: tuple[float, ...]) -> float:
    return (values[-1] / values[0]) ** (1 / (len(values) - 1)) if len(values) > 1 else math.nan


def _geometric(values: tuple[float, ...], factor: float, tolerances: list[float]) -> bool:
    wanted = (values[0] * factor**m for m in range(len(values)))
    return all(abs(v / w - 1) <= tol for v, w, tol in zip(values, wanted, tolerances, strict=True))


def _case(delta: float, gamma: float, tau: float) -> tuple[str, float]:
    if delta <= gamma:
        return "the noise does not vanish: the batch does not outgrow lr (δ ≤ γ)", 0.0
    if math.isnan(tau):
        return "too few stages to tell", math.nan
    descent, noise = math.log(gamma * tau), math.log(delta / gamma)
    if descent <= 0:
        return "lr × steps does not grow (γτ ≤ 1): no polynomial rate", 0.0
    exponent = bounds.rate_exponent(delta, gamma, tau)
    if math.isclose(descent, noise, rel_tol=_NEAR):
        return "on the surface δ = γ²τ: the best rate, up to a logarithm", exponent
    return ("descent is slower than noise" if descent < noise else "noise is slower than descent"), exponent
