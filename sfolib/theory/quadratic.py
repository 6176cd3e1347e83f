"""SGD on a noisy power-law quadratic, exactly and without sampling: the yardstick beside every bound.

f(θ) = ½ Σ λ_i θ_i², and each step adds Gaussian noise of variance s_i/b to ∂f/∂θ_i: m_i = E θ_i² follows
m ← (1 − ηλ_i)² m + η² s_i/b exactly. With a = (1 − ηλ)², k steps at constant (η, b) give
m_k = a^k m_0 + (η² s/b)(1 − a^k)/(1 − a). So E‖∇f‖² = Σ λ² m and E f − f* = ½ Σ λ m are each
bias(k) + noise(k)/b, where bias is convex and falls with k, and noise is concave and rises.
That, not a budget of steps, decides every crossing below. Source: [N].

Units: steps in updates, SFO in gradient evaluations, eps² the target value of E‖∇f‖² (or of E f − f*).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sfolib._utils.errors import number, positive, real, require, whole
from sfolib.theory.bounds import Constants, Numbers, norm_target

Target = Literal["grad_sqnorm", "loss"]
_MOST = 10**7
_COUNTED = 2.0**53  # from there on a float holds no more every whole number


class Best(NamedTuple):
    """The cheapest constant pair to a target: batch (real), lr, steps (whole) and SFO = steps × batch."""

    batch_size: float
    lr: float
    steps: float
    samples: float


class StagePath(NamedTuple):
    """After 0, 1, … stages: steps and SFO so far, E‖∇f‖² and E f − f*; each of shape (stages + 1,)."""

    steps: np.ndarray
    samples: np.ndarray
    grad_sqnorm: np.ndarray
    loss: np.ndarray


class _Decay:
    """Σ w_i m_i after k steps at one lr, from second moments m, as bias(k) + noise(k)/b; k may be real."""

    def __init__(self, lr: float, problem: PowerLawQuadratic, moments: np.ndarray, w: np.ndarray):
        self.lr, x = lr, lr * problem.eigenvalues
        with np.errstate(divide="ignore"):
            rate = 2 * np.where(x < 1, np.log1p(-np.minimum(x, 1)), np.log(np.abs(1 - x)))
        self.log_a = np.maximum(rate, -1e6)  # finite where ηλ = 1, so that 0 steps leave a^0 = 1
        self.w_bias = w * moments
        # η² s/(1 − a), without cancellation
        self.w_noise = w * lr * problem.noise_variance / (problem.eigenvalues * (2 - x))

    def bias(self, k: ArrayLike) -> np.ndarray:
        return self._sum(np.exp, k, self.w_bias)

    def bias_slope(self, k: ArrayLike) -> np.ndarray:
        return self._sum(np.exp, k, self.w_bias * self.log_a)

    def noise(self, k: ArrayLike) -> np.ndarray:
        return self._sum(np.expm1, k, -self.w_noise)

    def _sum(self, f: np.ufunc, k: ArrayLike, w: np.ndarray) -> np.ndarray:
        k = np.asarray(k)
        count = k.size * len(w) // 10**6 + 1  # bounds the memory of many k
        parts = np.array_split(k.ravel(), count) if count > 1 else [k.ravel()]
        sums = [f(np.multiply.outer(part, self.log_a)) @ w for part in parts]
        return (np.concatenate(sums) if count > 1 else sums[0]).reshape(k.shape)

    def first(self, batch_size: float, value: float, last: float = np.inf) -> float:
        """The first whole k ≤ last with bias(k) + noise(k)/batch ≤ value; inf if there is none."""
        if self.bias(0) <= value:
            return 0.0
        low, high = 0.0, min(1.0, last)
        while low < last:
            require(high <= _COUNTED, "lr", self.lr, "is too small: the target takes more steps than a float can count")
            if (found := self._first_in(low, high, batch_size, value)) < np.inf:
                return found
            if self.noise(high) / batch_size > value:  # noise only rises from here
                break
            low, high = high, min(2 * high, last)
        return np.inf

    def _first_in(self, low: float, high: float, batch_size: float, value: float) -> float:
        """`first` in (low, high]: halve, and leave out the halves that a lower bound keeps above value."""
        if high - low <= 1:
            return high if self.bias(high) + self.noise(high) / batch_size <= value else np.inf
        ends, middle = np.array([low, high]), (low + high) / 2
        bias, noise = self.bias(ends), self.noise(ends) / batch_size
        flat = bias[1] + noise[0]
        # bias is above its tangent (convex), noise above its chord (concave)
        sloped = np.min(self.bias(middle) + self.bias_slope(middle) * (ends - middle) + noise)
        if max(flat, sloped) > value:
            return np.inf
        middle = np.floor(middle)
        found = self._first_in(low, middle, batch_size, value)
        return found if found < np.inf else self._first_in(middle, high, batch_size, value)


@dataclass(frozen=True)
class PowerLawQuadratic:
    """The quadratic with d eigenvalues log-spaced in [lam_min, L], f(θ_0) − f* = gap and Σ s_i = sigma2.

    init: "power_law", θ_{i,0}² ∝ 1/λ_i (the bias falls like 1/K, as in T1), or "flat", θ_{i,0}² equal.
    noise: "white", s_i equal, or "curvature", s_i ∝ λ_i.
    Raises `InputError` for anything else, for lam_min > L and, in every method, for lr ≥ 2/L or batch ≤ 0.
    """

    d: int = 400
    lam_min: float = 1e-4
    L: float = 1.0
    gap: float = 1.0
    sigma2: float = 1.0
    noise: Literal["white", "curvature"] = "white"
    init: Literal["power_law", "flat"] = "power_law"
    eigenvalues: np.ndarray = field(init=False, repr=False, compare=False)
    theta0: np.ndarray = field(init=False, repr=False, compare=False)
    noise_variance: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.constants()  # validates L, sigma2 and gap
        require(whole("d", self.d) <= _MOST, "d", self.d, f"must be at most {_MOST:,}: d numbers are held many times")
        number("lam_min", self.lam_min)
        require(self.lam_min <= self.L, "lam_min", self.lam_min, f"must be at most L = {self.L}")
        require(self.noise in ("white", "curvature"), "noise", self.noise, 'must be "white" or "curvature"')
        require(self.init in ("power_law", "flat"), "init", self.init, 'must be "power_law" or "flat"')
        lam = np.geomspace(self.lam_min, self.L, self.d) if self.d > 1 else np.array([float(self.L)])
        square = 1 / lam if self.init == "power_law" else np.ones(self.d)
        share = np.ones(self.d) if self.noise == "white" else lam
        for name, value in (
            ("eigenvalues", lam),
            ("theta0", np.sqrt(square * 2 * self.gap / np.sum(lam * square))),
            ("noise_variance", self.sigma2 * share / np.sum(share)),
        ):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    def constants(self) -> Constants:
        """L, σ² and Δ, all exact."""
        return Constants(self.L, self.sigma2, self.gap)

    def small_step_constants(self) -> tuple[float, float]:
        """A and G of E‖∇f‖² ≈ A/(ηK) + G η/b at small η, 1/L ≪ ηK ≪ 1/λ_min [N]; T1's bound has Δ and Lσ²/2 there.

        A is ηK times the noiseless value at ηK = 1/√(L λ_min), in the middle; G = Σ λ_i s_i/2, the stationary noise.
        """
        middle = 1 / np.sqrt(self.L * self.lam_min)
        bias = self.weights("grad_sqnorm") @ (np.exp(-2 * middle * self.eigenvalues) * self.theta0**2)
        return float(middle * bias), float(self.eigenvalues @ self.noise_variance / 2)

    def weights(self, target: Target) -> np.ndarray:
        """w with target = Σ w_i E θ_i², shape (d,): λ² for "grad_sqnorm", λ/2 for "loss"."""
        require(target in ("grad_sqnorm", "loss"), "target", target, 'must be "grad_sqnorm" or "loss"')
        return self.eigenvalues**2 if target == "grad_sqnorm" else self.eigenvalues / 2

    # ------------------------------------------------------------------------------------- any schedule
    def moments(self, batch_size: ArrayLike, lr: ArrayLike) -> np.ndarray:
        """E θ_i² at steps 0 … T of the schedule lr, batch (each (T,) or a scalar): shape (T + 1, d)."""
        return np.array(list(self._recursion(batch_size, lr)))

    def grad_sqnorm_path(self, batch_size: ArrayLike, lr: ArrayLike) -> np.ndarray:
        """E‖∇f‖² at steps 0 … T of the schedule lr, batch (each (T,) or a scalar): shape (T + 1,)."""
        w = self.weights("grad_sqnorm")
        return np.array([w @ m for m in self._recursion(batch_size, lr)])

    def loss_path(self, batch_size: ArrayLike, lr: ArrayLike) -> np.ndarray:
        """E f − f* at steps 0 … T of the schedule lr, batch (each (T,) or a scalar): shape (T + 1,)."""
        w = self.weights("loss")
        return np.array([w @ m for m in self._recursion(batch_size, lr)])

    def _recursion(self, batch_size: ArrayLike, lr: ArrayLike) -> Iterable[np.ndarray]:
        batch_size, lr = self._pair(batch_size, lr)
        m = self.theta0**2
        yield m
        for eta, b in zip(*np.broadcast_arrays(*np.atleast_1d(lr, batch_size)), strict=True):
            m = (1 - eta * self.eigenvalues) ** 2 * m + eta**2 * self.noise_variance / b
            yield m

    def _pair(self, batch_size: ArrayLike, lr: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        positive("lr", lr)
        positive("batch_size", batch_size)
        top = float(np.max(lr))
        require(top * self.L < 2, "lr", top, f"must be below 2/L = {2 / self.L:.6g}")
        return np.asarray(batch_size, dtype=float), np.asarray(lr, dtype=float)

    # ------------------------------------------------------------------------------ constant lr and batch
    def grad_sqnorm(self, batch_size: ArrayLike, lr: ArrayLike, steps: ArrayLike) -> Numbers:
        """E‖∇f‖² after `steps` steps at constant lr and batch, in closed form; the three broadcast."""
        return self._closed_form(batch_size, lr, steps, "grad_sqnorm")

    def loss(self, batch_size: ArrayLike, lr: ArrayLike, steps: ArrayLike) -> Numbers:
        """E f − f* after `steps` steps at constant lr and batch, in closed form; the three broadcast."""
        return self._closed_form(batch_size, lr, steps, "loss")

    def _closed_form(self, batch_size: ArrayLike, lr: ArrayLike, steps: ArrayLike, target: Target) -> Numbers:
        batch_size, lr = self._pair(batch_size, lr)

        def value(decay: _Decay, b: np.ndarray, k: np.ndarray) -> np.ndarray:
            return decay.bias(k) + decay.noise(k) / b

        return self._each_lr(value, target, lr, batch_size, _whole(steps))

    def batch_size_to(self, lr: ArrayLike, steps: ArrayLike, eps: ArrayLike, target: Target = "grad_sqnorm") -> Numbers:
        """The least (real) batch with which constant lr is at ε² after `steps` steps; inf if none is."""
        _, lr = self._pair(1.0, lr)
        norm_target(eps)

        def least(decay: _Decay, k: np.ndarray, eps: np.ndarray) -> np.ndarray:
            room = eps**2 - decay.bias(k)
            return np.where(room > 0, decay.noise(k) / np.where(room > 0, room, 1.0), np.inf)

        return self._each_lr(least, target, lr, _whole(steps), np.asarray(eps, dtype=float))

    def _each_lr(self, f, target: Target, lr: np.ndarray, *args: np.ndarray) -> Numbers:
        """f(decay, *args) broadcast against lr, with one decay for each different lr."""
        lr, *args = np.broadcast_arrays(lr, *args)
        out = np.empty(lr.shape)
        for eta in np.unique(lr):
            here = lr == eta
            out[here] = f(self._decay(float(eta), self.theta0**2, target), *(a[here] for a in args))
        return float(out) if out.ndim == 0 else out

    def _decay(self, lr: float, moments: np.ndarray, target: Target) -> _Decay:
        return _Decay(lr, self, moments, self.weights(target))

    def steps_to(self, batch_size: ArrayLike, lr: ArrayLike, eps: ArrayLike, target: Target = "grad_sqnorm") -> Numbers:
        """The first step at which the target is at most ε², at constant lr and batch; inf if it never is."""
        batch_size, lr = self._pair(batch_size, lr)
        norm_target(eps)

        def first(decay: _Decay, b: np.ndarray, eps: np.ndarray) -> list[float]:
            return [decay.first(*pair) for pair in zip(b.flat, np.square(eps).flat, strict=True)]

        return self._each_lr(first, target, lr, batch_size, np.asarray(eps, dtype=float))

    def samples_to(
        self, batch_size: ArrayLike, lr: ArrayLike, eps: ArrayLike, target: Target = "grad_sqnorm"
    ) -> Numbers:
        """Gradient evaluations of `steps_to`."""
        return self.steps_to(batch_size, lr, eps, target) * np.asarray(batch_size, dtype=float)

    def best_constant_batch_size(self, lr: float, eps: float, target: Target = "grad_sqnorm") -> Best:
        """The batch (real) of the fewest gradient evaluations to ε² at this lr, with its steps.

        N(K) = K noise(K)/(ε² − bias(K)) over whole K: scanned on a geometric grid up to where K noise(K)/ε²,
        which rises and is below N(K), has passed the least N so far, then refined about the least.
        """
        number("lr", lr)
        number("eps", eps)
        self._pair(1.0, lr)
        norm_target(eps)
        decay = self._decay(lr, self.theta0**2, target)
        first = decay.first(np.inf, eps**2) + 1

        def samples(k: np.ndarray) -> np.ndarray:
            room = eps**2 - decay.bias(k)
            return np.where(room > 0, k * decay.noise(k) / np.where(room > 0, room, 1.0), np.inf)

        k = np.unique(np.round(first * np.geomspace(1, 16, 80)))
        while k[-1] * decay.noise(k[-1]) / eps**2 <= np.min(samples(k)):
            k = np.unique(np.concatenate([k, np.round(k[-1] * np.geomspace(1, 16, 80))]))
        while True:
            best = int(np.argmin(samples(k)))
            low, high = k[max(best - 1, 0)], k[min(best + 1, len(k) - 1)]
            k = np.unique(np.round(np.linspace(low, high, 33)))
            if len(k) == high - low + 1:
                break
        best = float(k[np.argmin(samples(k))])
        least = float(np.min(samples(k)))
        return Best(least / best, float(lr), best, least)

    def front(self, steps: int, eps: float, target: Target = "grad_sqnorm") -> Best:
        """T11's exact twin: the constant lr and (real) batch of the least SFO to ε² in `steps` steps.

        inf if no lr below 2/L gets there. lr is searched on a log grid, then refined about the least.
        """
        whole("steps", steps)
        number("eps", eps)
        lr = np.geomspace(min(0.01 / steps, 0.01), 2 - 1e-6, 120) / self.L
        for _ in range(6):
            batch_size = self.batch_size_to(lr, steps, eps, target)
            best = int(np.argmin(batch_size))
            lr_best = float(lr[best])
            lr = np.geomspace(lr[max(best - 1, 0)], lr[min(best + 1, len(lr) - 1)], 17)
        return Best(float(batch_size[best]), lr_best, float(steps), float(steps * batch_size[best]))

    def fastest_pair(self, eps: float, latency: float, per_sample: float, target: Target = "grad_sqnorm") -> Best:
        """T12's exact twin: the point of `front` of the least latency × steps + per_sample × SFO to ε²."""
        from scipy.optimize import minimize_scalar

        for name, value in (("eps", eps), ("latency", latency), ("per_sample", per_sample)):
            number(name, value)
        fewest = 1 + np.min(self.steps_to(1e300, np.linspace(0.5, 1.99, 16) / self.L, eps, target))

        def log_time(log_steps: float) -> float:
            found = self.front(round(np.exp(log_steps)), eps, target)
            return np.log(latency * found.steps + per_sample * found.samples)

        bounds = np.log([fewest, 1000 * fewest])
        found = minimize_scalar(log_time, bounds=bounds, method="bounded", options={"xatol": 0.01})
        return self.front(round(np.exp(found.x)), eps, target)

    # ------------------------------------------------------------------------------ stages of constant pairs
    def stage_path(self, stages: Iterable[tuple[float, float, float]]) -> StagePath:
        """What stages (batch, lr, steps) reach, by the closed form of each."""
        rows = [(0.0, 0.0, *self._values(m := self.theta0**2))]
        for batch_size, lr, steps in _triples(stages):
            m = self._after(m, batch_size, lr, steps)
            rows.append((rows[-1][0] + steps, rows[-1][1] + steps * batch_size, *self._values(m)))
        return StagePath(*np.array(rows).T)

    def stages_to(
        self, stages: Iterable[tuple[float, float, float]], eps: float, target: Target = "grad_sqnorm"
    ) -> tuple[float, float]:
        """Steps and SFO at which stages (batch, lr, steps) first are at ε², to the step; inf if never."""
        number("eps", eps)
        norm_target(eps)
        m, steps_so_far, samples = self.theta0**2, 0.0, 0.0
        for batch_size, lr, steps in _triples(stages):
            self._pair(batch_size, lr)
            k = self._decay(lr, m, target).first(batch_size, eps**2, last=float(_whole(steps)))
            if k < np.inf:
                return steps_so_far + k, samples + k * batch_size
            m, steps_so_far, samples = (
                self._after(m, batch_size, lr, steps),
                steps_so_far + steps,
                samples + steps * batch_size,
            )
        return np.inf, np.inf

    def _values(self, m: np.ndarray) -> tuple[float, float]:
        return float(self.weights("grad_sqnorm") @ m), float(self.weights("loss") @ m)

    def _after(self, m: np.ndarray, batch_size: float, lr: float, steps: float) -> np.ndarray:
        self._pair(batch_size, lr)
        decay = _Decay(lr, self, m, np.ones(self.d))
        power = float(_whole(steps)) * decay.log_a
        return np.exp(power) * decay.w_bias - np.expm1(power) * decay.w_noise / batch_size


def _triples(stages: Iterable[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    try:
        found = [(batch_size, lr, steps) for batch_size, lr, steps in stages]
    except (TypeError, ValueError):
        require(False, "stages", stages, "must be (batch_size, lr, steps) each")
    for batch_size, lr, _ in found:
        number("batch_size", batch_size)
        number("lr", lr)
    return found


def _whole(steps: ArrayLike) -> np.ndarray:
    steps = real("steps", steps)
    ok = bool(np.all((steps >= 0) & (steps == np.floor(steps)) & np.isfinite(steps)))
    require(ok, "steps", steps.tolist(), "must be whole numbers, 0 or above")
    return steps
