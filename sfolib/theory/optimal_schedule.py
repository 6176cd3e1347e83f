"""The exact optimal schedule on the quadratic, and the best of each published family.

With learning rates η_0 … η_{K−1} the target ends at bias + Σ_t c_t/b_t, where
c_t = η_t² Σ_i w_i s_i Π_{u>t} (1 − η_u λ_i)². So for given η the batch sizes of the least N = Σ b_t with
target ≤ ε² are known: b_t = κ √c_t, but min_batch where that is less, with κ such that the target is ε².
What is left is a smooth problem in ln η. Its gradient is κ² times that of the target at fixed batch sizes
(κ² is the multiplier), by the adjoint of the exact recursion. Source: [N].

Batch sizes are real numbers here. Counting SFO alone would be degenerate (only η/b matters as η → 0, and
there is no end to the steps): hence a budget of steps in `optimum`, and a price of a step in `fastest`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from sfolib._utils.errors import require
from sfolib._utils.model import Count, Positive, checked
from sfolib.theory.bounds import norm_target
from sfolib.theory.quadratic import PowerLawQuadratic, Target

Shapes = tuple[np.ndarray | float, np.ndarray | float]
_MOST = 10**7


@dataclass(frozen=True)
class Optimum:
    """A schedule, batch and lr each (steps,), and the target after it by the exact recursion."""

    family: str
    batch_size: np.ndarray
    lr: np.ndarray
    value: float

    @property
    def steps(self) -> int:
        """K, in updates."""
        return len(self.lr)

    @property
    def samples(self) -> float:
        """N, in gradient evaluations."""
        return float(np.sum(self.batch_size))

    @property
    def lr_growth(self) -> float:
        """Last lr over first."""
        return float(self.lr[-1] / self.lr[0])

    @property
    def batch_growth(self) -> float:
        """Last batch over first."""
        return float(self.batch_size[-1] / self.batch_size[0])

    @property
    def half_spent(self) -> float:
        """The share of the steps by which half of N is spent: 1/2 at a constant batch, near 1 if late."""
        return float(np.searchsorted(np.cumsum(self.batch_size), self.samples / 2) + 1) / self.steps

    def share(self, lr_sign: int, batch_sign: int) -> float:
        """The share of N spent while lr and batch move with these signs (−1, 0 for neither, 1)."""
        lr, batch_size = (np.gradient(np.log(x)) for x in (self.lr, self.batch_size))
        here = (np.sign(np.round(lr, 6)) == lr_sign) & (np.sign(np.round(batch_size, 6)) == batch_sign)
        return float(np.sum(self.batch_size[here]) / self.samples)


class _Problem:
    """Judges sequences of learning rates, (K,), for one target and one budget of steps."""

    def __init__(
        self, q: PowerLawQuadratic, steps: int, eps: float, target: Target, max_lr: float | None, min_batch_size: float
    ):
        require(1 < steps <= _MOST, "steps", steps, f"must be from 2 to {_MOST:,}: steps × d numbers are held")
        norm_target(eps)
        self.max_lr = 1.99 / q.L if max_lr is None else max_lr
        require(self.max_lr * q.L < 2, "max_lr", self.max_lr, f"must be below 2/L = {2 / q.L:.6g}")
        self.q, self.steps, self.value, self.target, self.min_batch_size = (
            q,
            steps,
            float(eps) ** 2,
            target,
            min_batch_size,
        )
        self.w = q.weights(target)

    def start(self) -> float:
        """The best constant lr up to max_lr."""
        lr = np.geomspace(1e-4, 1, 400) * self.max_lr
        batch_size = self.q.batch_size_to(lr, self.steps, np.sqrt(self.value), self.target)
        limit = f"too few: the bias of every constant lr up to {self.max_lr:.6g} is above eps²"
        require(bool(np.min(batch_size) < np.inf), "steps", self.steps, limit)
        return float(lr[np.argmin(batch_size)])

    def parts(self, lr: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """bias, c (K,), and what a second moment after step t counts for in the end, (K, d)."""
        shrink = (1 - np.multiply.outer(lr, self.q.eigenvalues)) ** 2
        later = np.vstack([np.cumprod(shrink[:0:-1], axis=0)[::-1], np.ones(self.q.d)]) * self.w
        bias = float((later[0] * shrink[0]) @ self.q.theta0**2)
        return bias, lr**2 * (later @ self.q.noise_variance), later

    def batches(self, c: np.ndarray, room: float) -> tuple[np.ndarray, float]:
        """The batch sizes ≥ min_batch of least sum with Σ c/b ≤ room, and κ (0 if min_batch is enough)."""
        if np.sum(c) <= room * self.min_batch_size:
            return np.full(len(c), self.min_batch_size), 0.0
        root = np.sort(np.sqrt(c))[::-1]
        # with the k largest above min_batch, κ = Σ_{largest} √c / rest; the next must not be above it
        total, rest = np.cumsum(root), room - (np.sum(c) - np.cumsum(root**2)) / self.min_batch_size
        k = int(np.argmax((rest > 0) & (total * np.append(root[1:], 0.0) <= rest * self.min_batch_size)))
        return np.maximum(self.min_batch_size, total[k] / rest[k] * np.sqrt(c)), float(total[k] / rest[k])

    def objective(self, log_lr: np.ndarray) -> tuple[float, np.ndarray]:
        """ln N and its gradient; a large number where the bias is above ε², so that a line search turns."""
        lr = np.exp(log_lr)
        bias, c, later = self.parts(lr)
        if bias >= self.value:
            return 1e3 + bias / self.value, np.zeros_like(lr)
        batch_size, kappa = self.batches(c, self.value - bias)
        shrink = 1 - np.multiply.outer(lr, self.q.eigenvalues)
        contraction, added = shrink**2, np.multiply.outer(lr**2 / batch_size, self.q.noise_variance)
        m = np.empty_like(shrink)  # the second moments before each step
        m[0] = self.q.theta0**2
        for t in range(len(lr) - 1):
            m[t + 1] = contraction[t] * m[t] + added[t]
        slope = np.sum(later * (added * (2 / lr)[:, None] - 2 * self.q.eigenvalues * shrink * m), axis=1)
        total = np.sum(batch_size)
        return float(np.log(total)), kappa**2 * slope * lr / total

    def scaled(self, lr: np.ndarray, shape: np.ndarray) -> np.ndarray | None:
        """max(min_batch, b0 shape) with the least b0 that reaches the target; None if none does."""
        bias, c, _ = self.parts(lr)
        room = self.value - bias
        if room <= 0:
            return None

        # where the k least of the shape stay at min_batch, b0 is free/rest, and the next is not below min_batch
        order = np.argsort(shape)
        c, rising = c[order], shape[order]
        free = np.cumsum((c / rising)[::-1])[::-1]
        rest = room - np.concatenate([[0.0], np.cumsum(c[:-1])]) / self.min_batch_size
        above = np.flatnonzero((rest > 0) & (free * rising >= rest * self.min_batch_size))
        b0 = free[above[0]] / rest[above[0]] if len(above) else self.min_batch_size / rising[-1]
        return np.maximum(self.min_batch_size, b0 * shape)

    def result(self, family: str, batch_size: np.ndarray, lr: np.ndarray) -> Optimum:
        path = self.q.grad_sqnorm_path if self.target == "grad_sqnorm" else self.q.loss_path
        return Optimum(family, batch_size, lr, float(path(batch_size, lr)[-1]))


@checked
def optimum(
    q: PowerLawQuadratic,
    steps: Count,
    eps: Positive,
    target: Target = "grad_sqnorm",
    *,
    max_lr: Positive | None = None,
    min_batch_size: Positive = 1.0,
    nodes: Count | None = None,
) -> Optimum:
    """The schedule of the least SFO to ε² in `steps` steps: b_t ≥ min_batch free at every step, lr_t ≤ max_lr.

    ln lr is linear between nodes (32, or fewer steps), dense near both ends; nodes = steps leaves every lr_t free.
    max_lr is by default 1.99/L. The problem is not convex: this is the best of the local minima that L-BFGS-B
    finds from the best constant lr and from max_lr held, then falling. `InputError` where no constant lr gets
    there in time.
    """
    problem = _Problem(q, steps, eps, target, max_lr, min_batch_size)
    nodes = min(32, steps) if nodes is None else nodes
    require(1 < nodes <= steps, "nodes", nodes, f"must be in [2, steps = {steps}]")
    at = np.linspace(0, 1, nodes)
    at = at if nodes == steps else np.sin(np.pi / 2 * at) ** 2
    spread = np.array([np.interp(np.linspace(0, 1, steps), at, unit) for unit in np.eye(nodes)]).T

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = problem.objective(spread @ z)
        return value, spread.T @ slope

    top = np.log(problem.max_lr)
    starts = [np.full(nodes, np.log(problem.start()))]
    starts += [top - 3 * np.maximum(0, (at - hold) / (1 - hold)) for hold in (0.5, 0.8)]
    options = {"maxiter": 1000, "maxfun": 2000, "maxcor": 30, "ftol": 1e-12, "gtol": 1e-8}
    run = {"jac": True, "method": "L-BFGS-B", "bounds": [(None, top)] * nodes, "options": options}
    found = [minimize(objective, start, **run) for start in starts]
    lr = np.exp(spread @ min(found, key=lambda result: result.fun).x)
    bias, c, _ = problem.parts(lr)
    return problem.result("free", problem.batches(c, problem.value - bias)[0], lr)


@checked
def fastest(
    q: PowerLawQuadratic,
    eps: Positive,
    latency: Positive,
    per_sample: Positive,
    target: Target = "grad_sqnorm",
    *,
    max_lr: Positive | None = None,
    min_batch_size: Positive = 1.0,
) -> Optimum:
    """The schedule of the least latency × steps + per_sample × SFO to ε²: `optimum` at the best steps."""
    top = _Problem(q, 2, eps, target, max_lr, min_batch_size).max_lr
    fewest = 1 + np.min(q.steps_to(1e300, np.linspace(0.5, 1, 11) * top, eps, target))

    @cache
    def at(steps: int) -> Optimum:
        return optimum(q, steps, eps, target, max_lr=max_lr, min_batch_size=min_batch_size)

    def time(steps: int) -> float:
        return latency * steps + per_sample * at(steps).samples

    def log_time(log_steps: float) -> float:
        return np.log(time(max(2, round(np.exp(log_steps)))))

    span = (np.log(fewest), np.log(64 * fewest))
    found = minimize_scalar(log_time, bounds=span, method="bounded", options={"xatol": 0.02})
    best = max(2, round(np.exp(found.x)))
    for step in (1, -1):  # the rounded minimum need not be the whole one
        while best + step > 1 and time(best + step) < time(best):
            best += step
    return at(best)


# ------------------------------------------- the published families, each of them at its best
# u = t/K in [0, 1), z = ln(lr_0/max_lr) and the family's parameters p ≥ 0, at all of which 0 the family is constant,
# give ln(lr/max_lr), which is then capped at 0, and ln(batch/batch_0).
def _linear(u: np.ndarray, z: float, p: np.ndarray) -> Shapes:
    lr, batch_size = np.log1p(np.multiply.outer(np.expm1(p), u))
    return z + lr, batch_size


def _critical(u: np.ndarray, z: float, p: np.ndarray) -> Shapes:
    """T4 and T7 in 8 stages: ln γ^8, ln r^8 and the ln of the cap of batch/batch_0."""
    m, log_gamma, log_r = np.arange(8), p[0] / 8, p[1] / 8
    lr = np.minimum(np.minimum(z + m * log_gamma, 0.0), min(z, 0.0) + p[2] - m * log_r)
    ends = np.cumsum(np.exp(m * log_r - lr))  # T_m ∝ 1/(η_m ε_m²)
    stage = np.searchsorted(ends[:-1] / ends[-1], u, side="right")
    return lr[stage], (lr + m * log_r)[stage] - lr[0]


FAMILIES: dict[str, tuple[int, Callable[[np.ndarray, float, np.ndarray], Shapes]]] = {
    "constant": (0, lambda u, z, p: (z + 0 * u, 0 * u)),
    "linear growth": (2, _linear),
    "exponential growth": (2, lambda u, z, p: (z + p[0] * u, p[1] * u)),
    "critical tracking": (3, _critical),
    "late switch": (2, lambda u, z, p: (z + 0 * u, np.where(u < np.tanh(p[0]), 0.0, p[1]))),
    "decaying lr": (1, lambda u, z, p: (z - p[0] * u, 0 * u)),
    "lr down, batch up": (2, lambda u, z, p: (z - p[0] * u, p[1] * u)),
}


@checked
def best_of_family(
    family: str,
    q: PowerLawQuadratic,
    steps: Count,
    eps: Positive,
    target: Target = "grad_sqnorm",
    *,
    max_lr: Positive | None = None,
    min_batch_size: Positive = 1.0,
) -> Optimum:
    """The member of FAMILIES[family] of the least SFO to ε² in `steps` steps, its parameters optimised.

    lr is capped at max_lr (one that decays may so stay there first) and batch held at min_batch or above.
    Nelder-Mead from several starts, the best constant pair among them, so that no family is worse than that.
    """
    require(family in FAMILIES, "family", family, f"must be one of {[*FAMILIES]}")
    problem = _Problem(q, steps, eps, target, max_lr, min_batch_size)
    count, shapes = FAMILIES[family]
    u = np.arange(steps) / steps

    def schedule(x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        log_lr, log_batch_size = shapes(u, x[0], x[1:] ** 2)
        lr = problem.max_lr * np.exp(np.minimum(log_lr, 0.0))
        batch_size = problem.scaled(lr, np.exp(log_batch_size))
        return None if batch_size is None else (batch_size, lr)

    def cost(x: np.ndarray) -> float:
        pair = schedule(x)
        return 1e3 if pair is None else float(np.log(np.sum(pair[0])))

    best = np.log(problem.start() / problem.max_lr)
    starts = [(best, *(0.0,) * count)]
    starts += [(z, *sizes) for z in (best, -0.5) for sizes in product((0.3, 1.8), repeat=count) if count]
    bounds = [(-30.0, 30.0), *[(0.0, 5.5)] * count]  # of e^30 and more no family makes use
    options = {"xatol": 1e-4, "fatol": 1e-7, "maxfev": 400 * (count + 1)}
    found = [minimize(cost, x0, method="Nelder-Mead", bounds=bounds, options=options) for x0 in starts]
    return problem.result(family, *schedule(min(found, key=lambda result: result.fun).x))
