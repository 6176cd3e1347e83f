"""Adaptive rules on the exact quadratic: what they do when they see E‖∇f‖² itself.

Units: steps in updates, batch and SFO in gradient evaluations, eps is ε itself. Source of all here: [N].
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from sfolib._utils.errors import positive, require
from sfolib.theory.bounds import Numbers
from sfolib.theory.quadratic import PowerLawQuadratic

_FOREVER = 1e15  # steps


class Trigger(Protocol):
    """What `stages_of` needs of a `schedules.adaptive.GradNormTrigger`."""

    every: int
    eps: float
    batch_size: int
    lr: float

    def update(self, taken: int, signal: float) -> tuple[int, float]: ...


class Aim(NamedTuple):
    """A stage that came to its end: its ε, its pair, and its steps."""

    eps: float
    batch_size: int
    lr: float
    steps: float


def stages_of(q: PowerLawQuadratic, policy: Trigger, most: int) -> list[Aim]:
    """The stages that a fresh trigger gets to the end of, at most `most`, if it looks after every step.

    They end where E‖∇f‖² never comes down to a stage's ε. `policy` needs check_every = 1; here it is told of no step
    but the last of each stage.
    """
    require(policy.every == 1, "check_every", policy.every, "must be 1")
    aims: list[Aim] = []
    while len(aims) < most:
        eps, batch_size, lr = policy.eps, policy.batch_size, policy.lr
        before = [(aim.batch_size, aim.lr, aim.steps) for aim in aims]
        total, _ = q.stages_to([*before, (batch_size, lr, _FOREVER)], eps)
        if total == math.inf:
            break
        aims.append(Aim(eps, batch_size, lr, total - sum(aim.steps for aim in aims)))
        policy.update(batch_size, eps)
    return aims


def stages_before_stalling(excess: ArrayLike, gamma: float) -> Numbers:
    """How many stages a trigger with ε_m² ∝ 1/b_m gets to the end of, if b_0 is `excess` times the critical batch size.

    By T2 [S] the noise of a stage is ε_m² b*_m/(2 b_m), where b_m/b*_m = excess γ^−m, as b* ∝ η/ε²: the stages end
    for as long as that ratio is above 1/2.
    """
    positive("excess", excess)
    require(gamma > 1, "gamma", gamma, "must be above 1")
    return np.maximum(0.0, 1 + np.floor(np.log(2 * np.asarray(excess, dtype=float)) / math.log(gamma)))


def norm_tested_samples(q: PowerLawQuadratic, lr: float, eta: float, eps: float) -> float:
    """SFO at which E‖∇f‖² is at ε² when each batch is what the norm test asks for, b = σ²/(η² E‖∇f‖²); inf if never.

    The batch is real, and not below 1. Where the noise that the test allows for outgrows the descent, it never is.
    """
    positive("eta", eta)
    w, share = q.weights("grad_sqnorm"), (1 - lr * q.eigenvalues) ** 2
    noise, m, samples, last = lr**2 * q.noise_variance, q.theta0**2, 0.0, math.inf
    while (now := float(w @ m)) > eps**2:
        if now >= last:  # the state decides the next batch: where it no longer falls, it is where it stays
            return math.inf
        batch_size, last = max(1.0, q.sigma2 / (eta**2 * now)), now
        m = share * m + noise / batch_size
        samples += batch_size
    return samples


def tracking_price(u: ArrayLike) -> Numbers:
    """1/(2u(2 − u)): SFO of a batch size that is 1/u times the critical one of the present ‖∇f‖, all the way to ε,
    over the SFO of the best constant batch size for ε; inf for u ≥ 2.

    Where E‖∇f‖² = A/(ηK) + Gη/b, and b* = 2Gη/E‖∇f‖² (T2): with b = b*/u the noise is the share u/2 of E‖∇f‖², so
    K = A/(η (1 − u/2) E‖∇f‖²), and ∫ b dK to ε is 2AG/(u(2 − u) ε⁴). The best constant batch size costs 4AG/ε⁴.
    """
    positive("u", u)
    u = np.asarray(u, dtype=float)
    return np.where(u < 2, 1 / (2 * u * np.where(u < 2, 2 - u, 1.0)), np.inf)
