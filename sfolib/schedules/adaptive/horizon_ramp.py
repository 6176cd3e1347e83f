"""Hold, look late in a budget, and let the batch follow what the noise of a step still does at its end."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from sfolib._utils.errors import require
from sfolib._utils.model import Above0, Below1, Count, Share
from sfolib.schedules.adaptive.base import Policy
from sfolib.schedules.base import interpolated
from sfolib.schedules.plan import Plan, Step
from sfolib.schedules.published import in_budget, late_ramp

if TYPE_CHECKING:
    from sfolib.gradients.curvature import NoiseSpectrum

Criterion = Literal["grad_norm", "loss"]


def _shares(look: Any) -> Any:
    shares = tuple(look) if isinstance(look, list | tuple) else () if look is None else (look,)
    known = look is None or (0 < len(shares) < 3 and all(isinstance(share, float) for share in shares))
    if not (known and all(a < b for a, b in pairwise((0.0, *shares, 1.0)))):
        raise ValueError("must be a number in (0, 1), or two that rise, or None")
    return shares if isinstance(look, list) else look


Shares = Annotated[float | tuple[float, ...] | None, BeforeValidator(_shares)]
POWER = {"grad_norm": 2, "loss": 1}  # of λ in T16's kernel
_LOOK = {"vectors": 2, "products": 12}
_COST = 1 + _LOOK["vectors"] * (2 * _LOOK["products"] + 1)  # gradient evaluations a sample of a look
LOOK = 0.8  # of the budget
LEAST_BUDGET = 40 * _COST  # of which a twentieth pays for a look at two samples
_MOST = 512  # samples of a look, all at once in memory; the shape of κ is seen with fewer
_POINTS = 200  # of a ramp


def affordable_look(budget: int) -> float | None:
    """`HorizonRamp`'s default look, or None where a budget is too small to pay for it."""
    return LOOK if budget >= LEAST_BUDGET else None


class HorizonRamp(Policy):
    """T16 [N]: (batch_size, lr) held, and from the first look on η/b ∝ 1/√κ to the end of the budget.

    Signal: `gradients.noise_spectrum`, whose kernel κ says what the noise of a step, τ steps before the end, still
    does to `objective` there: η² Σ λ^p w (1 − ηλ)^(2τ), p = 2 for ‖∇f‖² ("grad_norm") and 1 for f ("loss").
    It is looked at after the step that begins at or after each share `look` of the budget (a number, or two); what is
    then left is filled by b_t ∝ √κ_t, from the batch in force at the look on. None: no look, `late_ramp` with its
    defaults. Where a look finds no curvature, what was planned before it stays.
    budget: gradient evaluations of the updates, all of them spent and none beyond. share: of the ramp that is the
    batch's, the rest is an lr cool-down, see `late_ramp`. max_batch_size: above it the rest goes to lr as well; None is
    32 × batch_size. momentum: of the optimizer, with which a step goes as far as one of lr/(1 − momentum).
    probes: the gradient evaluations that a look may cost, from `look_samples` samples, 512 at most; None is a twentieth
    of the budget. The theory is of SGD.
    """

    signal = "noise_spectrum"
    _state = ("looks", "times", "factors")

    def __init__(
        self,
        batch_size: Count,
        lr: Above0,
        budget: Count,
        objective: Criterion = "grad_norm",
        max_batch_size: Count | None = None,
        look: Shares = LOOK,
        *,
        share: Share = 1.0,
        momentum: Below1 = 0.0,
        probes: Count | None = None,
    ):
        super().__init__(1)
        shares = () if look is None else look if isinstance(look, tuple) else (look,)
        self._pair, self.budget = (batch_size, lr), budget
        self._power = POWER[objective]
        top = 32 * batch_size if max_batch_size is None else max_batch_size
        self._trade, self._eta, self.momentum = (share, top), lr / (1 - momentum), momentum
        self._due_at = [math.ceil(share * budget) for share in shares]
        start = {"start": shares[0]} if shares else {}
        self._before = late_ramp(batch_size, lr, budget, share=share, max_batch_size=top, **start)
        self.looks, self.times, self.factors = 0, [], []
        self._plan = self._before
        self.look_samples = min(_MOST, (budget // 20 if probes is None else probes) // _COST // 2 * 2)
        least, field, value = (LEAST_BUDGET, "budget", budget) if probes is None else (2 * _COST, "probes", probes)
        enough = self.look_samples >= 2 or not shares
        require(enough, field, value, f"must be {least} or above, for a look at 2 samples; without one: look=None")

    @property
    def look_settings(self) -> dict[str, int]:
        """vectors and products of a look's `noise_spectrum`."""
        return dict(_LOOK)

    @property
    def needs_looks(self) -> bool:
        """Whether it looks at all."""
        return bool(self._due_at)

    @property
    def needs_signal(self) -> bool:
        return self.looks < len(self._due_at) and self.samples >= self._due_at[self.looks]

    @property
    def plan(self) -> Plan:
        """What it follows from here on, if nothing is looked at any more."""
        return self._plan

    @property
    def batch_size(self) -> int:
        return self._plan.batch_size_at(self.samples)

    @property
    def lr(self) -> float:
        return self._plan.lr(self.samples)

    def observe(self, signal: NoiseSpectrum) -> None:
        self.looks += 1
        left, (batch_size, lr), now = self.budget - self.samples, self._pair, self._plan
        if left <= 0:
            return
        factor = now.batch_size.schedule(self.samples) / batch_size * lr / now.lr(self.samples)
        found = _ramp(signal, self._eta, self._power, left / (batch_size * factor))
        if found is not None:
            shares, growth = found
            times, kept = np.unique(self.samples + np.floor(left * shares).astype(int), return_index=True)
            self.times, self.factors = times.tolist(), (factor * growth[kept]).tolist()
            self._follow()

    def _follow(self) -> None:
        if self.factors:
            batch_size, lr = self._pair
            cooled = interpolated([lr, *(lr / factor for factor in self.factors)], [0, *self.times])
            self._plan = in_budget(batch_size, cooled, self.budget, *self._trade)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._plan = self._before
        self._follow()

    def after(self, step: int, samples: int, samples_per_epoch: int, lookahead: int = 0) -> Step:
        row = super().after(step, samples, samples_per_epoch, lookahead)
        batch_size, lr = self._plan.at(samples)
        taken = min(batch_size, samples_per_epoch - samples % samples_per_epoch)
        return row._replace(samples=samples + taken, batch_size=taken, lr=lr)

    def _due(self, steps: int) -> bool:
        """The batch is as it is up to the first look; after it, at most the largest."""
        if self.looks == len(self._due_at) or steps < 1:
            return False
        largest = self._pair[0] if not self.looks else self._trade[1]
        return self.samples + (steps - 1) * largest >= self._due_at[self.looks]


def _ramp(signal: NoiseSpectrum, lr: float, power: int, steps: float) -> tuple[np.ndarray, np.ndarray] | None:
    """(shares of what is left, growth since now): b ∝ √κ that fills what would be `steps` steps of the present batch.

    With √κ = r(τ) and K steps to go the batch is b r(τ)/r(K), and Σ b = b ∫_0^K r dτ / r(K), which rises in K.
    None where κ is 0.
    """
    values, weights = np.maximum(signal.eigenvalues.ravel(), 0.0), signal.weights.ravel()
    kept = values > 0
    if not np.any(weights[kept] > 0):
        return None
    tau = np.concatenate([[0.0], np.geomspace(0.1, max(steps, 1.0), 20 * _POINTS)])
    rates = -2 * np.log1p(-np.minimum(lr * values[kept], 0.9))  # above, and at the edge of stability, as if forgotten
    kernel = (values[kept] ** power * weights[kept]) @ np.exp(-np.outer(rates, tau))
    with np.errstate(divide="ignore"):
        root = np.sqrt(kernel / kernel[0])
        spent = np.concatenate([[0.0], np.cumsum((root[1:] + root[:-1]) / 2 * np.diff(tau))])
        total = np.where(root > 0, spent / root, np.inf)
    # K may be no more than `steps`, as the batch does not fall
    last = np.interp(steps, total[np.isfinite(total)], tau[np.isfinite(total)])
    area, end = np.interp(last, tau, spent), np.interp(last, tau, root)
    shares = np.linspace(0.0, 1.0, _POINTS)
    at = np.interp(area * (1 - shares), spent, tau)
    growth = np.maximum(np.interp(at, tau, root) / end, 1.0)
    return shares, growth
