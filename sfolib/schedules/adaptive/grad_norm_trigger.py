"""Growth by stages, each triggered by the gradient norm."""

from __future__ import annotations

import math
from typing import Literal

from sfolib._utils.errors import require
from sfolib._utils.model import Above0, Count
from sfolib.schedules.adaptive.base import Policy
from sfolib.theory.bounds import capped_stage


class GradNormTrigger(Policy):
    """Grows by stages when ‖∇f‖ has come down to what the stage aims at. Signal: the norm ‖∇f‖ itself, not its square.

    Looked at after every `check_every` steps, one stage a look: where ‖∇f‖ ≤ ε_m, batch × delta and lr × gamma. After
    "Adaptive Batch Size and Learning Rate Scheduler for Stochastic Gradient Descent Based on Minimization of Stochastic
    First-order Oracle Complexity" (Umeda & Iiduka 2025, arXiv 2508.05302). The next ε is
    - rule = "critical": ε_m² ∝ η_m/b_m, so that ε² falls by r = δ/γ > 1 and the batch stays critical (T4 [S]); caps as
      in T7 [N], see `bounds.capped_stage`.
    - rule = "published": ε_m² ∝ 1/b_m whatever lr does, so that ε² falls by δ > 1, as in the authors' program: with
      γ > 1 the batch falls behind the critical one by γ a stage [N]. There the batch is rounded up, nothing grows any
      more once it is at max_batch_size, and there is no max_lr.

    Read beside the authors' program, and unlike it: ‖∇f‖ is that of f, after the step (theirs: in train mode on
    augmented batches, before the step, to which the new lr already applies).
    """

    signal = "grad_norm"
    _state = ("stage",)

    def __init__(
        self,
        batch_size: Count,
        lr: Above0,
        eps: Above0,
        delta: Above0,
        gamma: Above0 = 1.0,
        check_every: Count = 100,
        *,
        rule: Literal["critical", "published"] = "critical",
        max_lr: float = math.inf,
        max_batch_size: Count | None = None,
    ):
        super().__init__(check_every)
        self._published, self._eps, self._r = rule == "published", eps, delta / gamma
        self._growth = (batch_size, lr, delta, gamma, max_lr, max_batch_size)
        self.stage = 0
        capped_stage(0, *self._growth)
        if self._published:
            require(delta > 1, "delta", delta, "must be above 1, or eps would not come down")
            require(max_lr == math.inf, "max_lr", max_lr, "is not of the published rule")
        else:
            require(self._r > 1, "delta", delta, f"must be above gamma = {gamma}, or eps would not come down")

    @property
    def needs_signal(self) -> bool:
        return super().needs_signal and not (self._published and self.batch_size == self._growth[-1])

    @property
    def eps(self) -> float:
        """ε of the present stage."""
        if self._published:
            return self._eps * math.sqrt(self._growth[0] / self.batch_size)
        return self._eps * self._r ** (-self.stage / 2)

    @property
    def batch_size(self) -> int:
        if self._published:
            batch_size, _, delta, _, _, most = self._growth
            return math.ceil(min(batch_size * delta**self.stage, math.inf if most is None else most))
        return max(1, math.floor(capped_stage(self.stage, *self._growth).batch_size + 0.5))

    @property
    def lr(self) -> float:
        if self._published:
            return self._growth[1] * self._growth[3] ** self.stage
        return capped_stage(self.stage, *self._growth).lr

    def observe(self, signal: float) -> None:
        require(signal >= 0, "signal", signal, "must be a gradient norm, 0 or above")
        self.stage += signal <= self.eps
