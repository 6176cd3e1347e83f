"""The batch size that strongly convex theory makes optimal, from the gradients' second moment."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from sfolib._utils.errors import number, positive, require
from sfolib._utils.model import Above0, Count
from sfolib.schedules.adaptive.base import Policy
from sfolib.schedules.adaptive.noise_scale import plain
from sfolib.theory.bounds import Numbers


class OptimalBatch(Policy):
    """Batch and lr of strongly convex theory, from the gradients' second moment. Signal: the mean of ‖∇f_i(θ)‖².

    "Adaptive Learning of the Optimal Batch Size of SGD" (Alfarra et al. 2020, arXiv 2005.01097) takes the batch size
    that is optimal in the bound of "SGD: General Analysis and Improved Rates" (Gower et al. 2019) and puts what the
    run measures, h = mean ‖∇f_i(θ_k)‖², in the place of its value at the minimum. For f μ-strongly convex and L-smooth,
    every f_i convex and L_max-smooth, and batches of τ different ones of n,
    𝓛(τ) = (n(τ − 1)L + (n − τ)L_max)/(τ(n − 1)),  σ²(τ) = h (n − τ)/(τ(n − 1)),  lr = ½ min(1/𝓛, radius μ/(2σ²)),
    and E‖θ_k − θ*‖² ≤ radius after max(2𝓛/μ, 4σ²/(μ² radius)) ln(2‖θ_0 − θ*‖²/radius) steps (n = inf: independent
    draws). The best τ makes both entries equal. Derived here from that bound [N]; not checked against the papers' text,
    whose partitioned samplings are left out.
    """

    signal = "second_moment"
    _state = ("h",)

    def __init__(
        self, h: float, L: Above0, mu: Above0, radius: Above0, *, L_max: Above0 | None = None, n: float = math.inf,
        check_every: Count = 1,
    ):  # fmt: skip
        super().__init__(check_every)
        require(mu <= L, "mu", mu, f"must be at most L = {L}")
        self._L, self._mu, self._radius, self._L_max, self._n = L, mu, radius, L if L_max is None else L_max, n
        require(self._L_max >= L, "L_max", L_max, f"must be at least L = {L}")
        require(n > 1 and (n == math.inf or n == int(n)), "n", n, "must be a whole number above 1, or inf")
        require(n * L >= self._L_max, "L_max", L_max, f"must be at most n L = {n * L}, as f is the mean of the f_i")
        require(math.isfinite(h) and h >= 0, "h", h, "must be finite, 0 or above")
        self.h = float(h)

    def observe(self, signal: float) -> None:
        require(
            math.isfinite(signal) and signal >= 0, "signal", signal, "must be a mean of squares, finite, 0 or above"
        )
        self.h = float(signal)

    @property
    def exact(self) -> float:
        """τ*, a real number: n(L − L_max + q)/(nL − L_max + q) with q = 2h/(radius μ), or 1 where that is less."""
        q = 2 * self.h / (self._radius * self._mu)
        excess = self._L - self._L_max + q
        return max(1.0, excess / (self._L + (q - self._L_max) / self._n)) if excess > 0 else 1.0

    @property
    def batch_size(self) -> int:
        return max(1, math.floor(self.exact + 0.5))

    @property
    def lr(self) -> float:
        return self.lr_at(self.batch_size)

    def lr_at(self, batch_size: ArrayLike) -> Numbers:
        """½ min(1/𝓛(τ), radius μ/(2σ²(τ)))."""
        smoothness, noise = self._bound(batch_size)
        with np.errstate(divide="ignore"):
            return plain(0.5 * np.minimum(1 / smoothness, self._radius * self._mu / (2 * noise)))

    def steps_at(self, batch_size: ArrayLike, start: float) -> Numbers:
        """Steps to E‖θ − θ*‖² ≤ radius from ‖θ_0 − θ*‖² = start, by the bound, with `lr_at` throughout."""
        number("start", start)
        smoothness, noise = self._bound(batch_size)
        rate = np.maximum(2 * smoothness / self._mu, 4 * noise / (self._mu**2 * self._radius))
        return plain(rate * max(0.0, math.log(2 * start / self._radius)))

    def _bound(self, batch_size: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """𝓛(τ) and σ²(τ)."""
        positive("batch_size", batch_size)
        tau = np.asarray(batch_size, dtype=float)
        require(bool(np.all(tau <= self._n)), "batch_size", float(np.max(tau)), f"must be at most n = {self._n}")
        share = 1 / tau if self._n == math.inf else (self._n - tau) / (tau * (self._n - 1))
        return (1 - share) * self._L + share * self._L_max, self.h * share
