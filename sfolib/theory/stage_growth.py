"""Growth by stages (T4–T6) put to the test: its rate and its price, in the bound and on the exact quadratic.

A stage multiplies the batch size by delta, lr by gamma and the steps by tau. Units: steps in updates, SFO in
gradient evaluations, eps is ε itself. Source of all protocols here: [N].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from sfolib._utils.errors import positive, require
from sfolib.theory.quadratic import Best, PowerLawQuadratic, StagePath

WIDE = PowerLawQuadratic(d=400, lam_min=1e-13)  # E‖∇f‖² of SGD without noise falls like 1/K over ten decades
_FIRST, _LAST = 30.0, 1e11  # Σ η_t at the first and last stage, inside the decades where 1/λ_min is far away


class Overhead(NamedTuple):
    """SFO of a growing schedule over the best constant batch size's, at targets eps; each of shape (targets,).

    finish: paid if the stage that reaches ε is run to its end; stop: if it is left as soon as ε is reached.
    """

    eps: np.ndarray
    finish: np.ndarray
    stop: np.ndarray


def random_designs(count: int) -> list[tuple[float, float, float]]:
    """(δ, γ, τ) with γτ and δ/γ from 1.2 to 4, always the same, their logarithms 10 % apart at least: off the surface.

    Nearer to it both terms of the bound fall almost alike, and 200 stages do not tell which is the slower.
    """
    rng, found = np.random.default_rng(5), []
    while len(found) < count:
        gamma, (descent, noise) = rng.uniform(0.7, 2.0), rng.uniform(np.log(1.2), np.log(4), 2)
        if abs(descent - noise) > 0.1 * max(descent, noise):
            found.append((float(gamma * np.exp(noise)), float(gamma), float(np.exp(descent) / gamma)))
    return found


def bound_exponent(delta: float, gamma: float, tau: float, stages: int = 200) -> float:
    """−d ln(bound)/d ln N of T1's (C1 + C2 V)/S with C1 = C2 = 1, fitted to the second half of the stages."""
    _factors(delta, gamma, tau)
    m = np.arange(stages)
    # sums of geometric sequences, in logarithms: δ^200 does not fit into a float
    noise, descent, spent = (
        np.logaddexp.accumulate(m * np.log(ratio)) for ratio in (gamma**2 * tau / delta, gamma * tau, delta * tau)
    )
    late = slice(stages // 2, None)
    return -float(np.polyfit(spent[late], (np.logaddexp(0.0, noise) - descent)[late], 1)[0])


def growing_stages(delta: float, gamma: float, tau: float, stages: int = 200) -> list[tuple[float, float, float]]:
    """Stages (batch, lr, steps) ∝ (δ^m, γ^m, τ^m) for `WIDE`: at most `stages`, lr up to 1/(4L).

    Σ η_t begins and ends inside the decades where the bias falls like 1/Σ η_t. No stage is shorter than a step.
    """
    _factors(delta, gamma, tau)
    m = np.arange(float(stages))
    lr = 0.25 / WIDE.L * gamma**m / np.max(gamma ** m[: _stages_until(_LAST / _FIRST, gamma * tau, stages)])
    steps = np.ceil(_FIRST / lr[0] * tau**m)
    inside = (np.cumsum(lr * steps) <= _LAST) & (steps > 1)
    return [*zip(20 * lr[0] * delta ** m[inside], lr[inside], steps[inside], strict=True)]


def exact_path(delta: float, gamma: float, tau: float) -> StagePath:
    """What `growing_stages` reach on `WIDE`, exactly."""
    return WIDE.stage_path(growing_stages(delta, gamma, tau))


def exact_exponent(delta: float, gamma: float, tau: float) -> float:
    """−d ln E‖∇f‖²/d ln N over the second half of `exact_path`."""
    path = exact_path(delta, gamma, tau)
    late = slice(len(path.samples) // 2, None)
    least = np.minimum.accumulate(path.grad_sqnorm)
    return -float(np.polyfit(np.log(path.samples[late]), np.log(least[late]), 1)[0])


def _stages_until(total: float, ratio: float, most: int) -> int:
    """How many terms of 1, ratio, ratio², … have a sum of at most `total`."""
    return int(np.searchsorted(np.cumsum(ratio ** np.arange(float(most))), total, side="right"))


def _factors(delta: float, gamma: float, tau: float) -> None:
    for name, value in (("delta", delta), ("gamma", gamma), ("tau", tau)):
        positive(name, value)


def critical_stages(
    q: PowerLawQuadratic, lr: float, eps0: float, r: float, stages: int
) -> tuple[np.ndarray, list[Best]]:
    """ε_m = eps0 r^(−m/2) and q's own critical batch size and steps for each, at constant lr (T4 with γ = 1)."""
    positive("eps0", eps0)
    require(r > 1, "r", r, "must be above 1")
    require(isinstance(stages, int | np.integer) and stages > 1, "stages", stages, "must be a whole number above 1")
    eps = eps0 * r ** (-np.arange(stages) / 2)
    return eps, [q.best_constant_batch_size(lr, float(aim)) for aim in eps]


def overhead(
    q: PowerLawQuadratic, eps: Sequence[float], pairs: Sequence[Best], restart: bool, points: int = 5
) -> Overhead:
    """T6 measured: the stages `pairs`, which aim at eps, against `q.best_constant_batch_size` at the first stage's lr.

    restart: every stage starts from θ_0, so that its gap is exactly the Δ that T6 assumes; else it goes on from where
    the last one ended. Targets: `points` between each two stage ends, the one just missed included, where the
    ratio is largest.
    """
    stages = [
        (pair.batch_size * (1 + 1e-9), pair.lr, pair.steps) for pair in pairs
    ]  # reach the aim in spite of rounding
    path = q.stage_path(stages)
    ends = np.asarray(eps) if restart else np.sqrt(np.minimum.accumulate(path.grad_sqnorm))[1:]
    spans = [np.geomspace(*ends[m : m + 2] * [1 - 1e-9, 1 + 1e-9], points) for m in range(len(stages) - 1)]
    targets, spent = np.concatenate(spans), np.repeat(path.samples[1:], points)
    least = np.array([_least_samples(q, stages[0][1], float(target)) for target in targets])
    if not restart:
        return Overhead(targets, spent[points:] / least, stopping(q, stages, targets))
    last = np.repeat(stages[1:], points, axis=0).T  # the stage that reaches each target
    return Overhead(targets, spent[points:] / least, (spent[:-points] + q.samples_to(*last[:2], targets)) / least)


def stopping(q: PowerLawQuadratic, stages: Sequence[tuple[float, float, float]], eps: Sequence[float]) -> np.ndarray:
    """SFO at which stages (batch, lr, steps), left as soon as ε is reached, are at each of eps, over the best constant
    batch size's at the first stage's lr; shape (targets,)."""
    return np.array([q.stages_to(stages, float(x))[1] / _least_samples(q, stages[0][1], float(x)) for x in eps])


@cache
def _least_samples(q: PowerLawQuadratic, lr: float, eps: float) -> float:
    return q.best_constant_batch_size(lr, eps).samples
