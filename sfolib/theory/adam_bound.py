"""Adam's bound and its critical batch size [N], as T2 is for SGD. Units as in `bounds`.

"Critical Bach Size Minimizes Stochastic First-Order Oracle Complexity …" (Iiduka 2022, arXiv 2208.09814) finds Adam's
critical batch size from a bound of this form. Its text was not at hand: the constants here are derived for this
project, each step is confirmed in `tests/schedules/adaptive/test_noise_scale.py`, and the paper's may differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sfolib._utils.errors import number, positive, require, scalar
from sfolib.theory.bounds import Numbers


@dataclass(frozen=True)
class AdamConstants:
    """What `bound` knows of a run from θ_0, with h_k = √v_k (never falling, as AMSGrad keeps it) and any θ.

    sigma2: σ² as in A3. M2: bound on ‖∇f(θ_k)‖². D2: bound on ‖θ_k − θ‖². h: least h_{k,i}. reach: bound on
    Σ_i h_{K,i} max_k (θ_{k,i} − θ_i)², at most d·H·D∞².
    """

    sigma2: float
    M2: float
    D2: float
    h: float
    reach: float

    def __post_init__(self) -> None:
        for name in ("sigma2", "M2", "D2", "h", "reach"):
            number(name, getattr(self, name))


class AdamBound(NamedTuple):
    """(1/K) Σ E⟨θ_k − θ, ∇f(θ_k)⟩ ≤ A/K + B/b + C."""

    A: Numbers
    B: Numbers
    C: Numbers


def bound(c: AdamConstants, lr: ArrayLike, beta1: float) -> AdamBound:
    """[N] A = reach/(2η) + β/(1 − β) √(D2(σ² + M2)), B = ησ²(1 + β)/(2h(1 − β)), C = ηM2(1 + β)/(2h(1 − β)).

    Of θ ← θ − η m/h, m ← βm + (1 − β)g, β = beta1, without bias correction; for convex f and θ its minimum, f − f* is
    below the left side.
    """
    positive("lr", lr)
    require(isinstance(c, AdamConstants), "c", c, "must be the run's `AdamConstants`")
    require(0 <= scalar("beta1", beta1) < 1, "beta1", beta1, "must be in [0, 1)")
    lr = np.asarray(lr, dtype=float)[()]
    last = beta1 / (1 - beta1) * np.sqrt(c.D2 * (c.sigma2 + c.M2))
    per_step = lr * (1 + beta1) / (2 * c.h * (1 - beta1))
    return AdamBound(c.reach / (2 * lr) + last, per_step * c.sigma2, per_step * c.M2)


def steps_to(c: AdamConstants, batch_size: ArrayLike, lr: ArrayLike, beta1: float, target: ArrayLike) -> Numbers:
    """[N] Steps K = A b/((target − C) b − B) until `bound` is at target; inf where it never is."""
    positive("batch_size", batch_size)
    positive("target", target)
    (A, B, C), batch_size = bound(c, lr, beta1), np.asarray(batch_size, dtype=float)
    room = (np.asarray(target, dtype=float) - C) * batch_size - B
    return np.where(room > 0, A * batch_size / np.where(room > 0, room, 1.0), np.inf)[()]


def critical_batch_size(c: AdamConstants, lr: ArrayLike, beta1: float, target: ArrayLike) -> Numbers:
    """[N] b* = 2B/(target − C), where K b of `steps_to` is least; inf where target ≤ C, which no batch mends."""
    positive("target", target)
    _, B, C = bound(c, lr, beta1)
    room = np.asarray(target, dtype=float) - C
    return np.where(room > 0, 2 * B / np.where(room > 0, room, 1.0), np.inf)[()]
