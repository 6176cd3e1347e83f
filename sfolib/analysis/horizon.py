"""T15 and T16 [N] for a choice of schedules: one path without noise, and from it what any plan will end with.

Of the path f and ‖∇f‖² are kept against its time s = Σ η (η/(1 − m) with momentum m), and at points of it the noise
spectrum w of H. A plan that takes the time S and the batches b_t then ends at
    E‖∇f‖² = ‖∇f(θ̄_S)‖² + Σ κ_t/b_t,  E f = f(θ̄_S) + ½ Σ κ_t/b_t,
κ with λ² for the first and λ for the second, from the spectrum at S. Coarser than `predict`, which carries the noise
along the moving H: a plan is judged by the H at its end, which is what κ remembers, and a path of one lr stands for all
of the same Σ η. In exchange a schedule is judged in milliseconds.

Up to `LARGE` samples the path takes full gradients. Above, it is a run of batches of `PILOT`, less the noise that these
leave in the long run, and it is measured at fewer points and on some of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy as CE

from sfolib._utils.errors import require
from sfolib._utils.rng import generator
from sfolib.gradients.curvature import eval_mode, noise_spectrum, trainable
from sfolib.problems.execution import Execution
from sfolib.problems.modules import modules, training_data
from sfolib.problems.stacked import NoisyQuadratic
from sfolib.schedules.plan import Plan
from sfolib.training import updates
from sfolib.training.loop import resolve_device
from sfolib.training.optimizers import SGD
from sfolib.training.spec import Spec

LARGE, PILOT = 4096, 64
_SAMPLE, _VECTORS, _PRODUCTS = 512, 8, 12  # of a noise spectrum
_READ, _NODE = 1.15, 2.0  # ratios of the steps of successive readings and spectra
_READ_LARGE, _NODE_LARGE, _SUBSET = 1.6, 4.0, 8192  # with a pilot: a reading is of so many samples
MARGIN = 1.15  # of the path's time over a plan's: batches are whole numbers and end with epochs, so steps are more
_MEMORY = 20_000  # steps; what is older than that has no say in κ
_BINS = 60  # of a spectrum
_CHOSEN = 1 << 38  # keeps the choice of samples apart from all other draws


class Ends(NamedTuple):
    """What a plan will have done: E‖∇f‖², E f, steps, gradient evaluations."""

    grad_sqnorm: float
    loss: float
    steps: int
    samples: int


class Spectrum(NamedTuple):
    """The noise w(λ) in bins, both (bins,), at a time s of the path."""

    time: float
    eigenvalues: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Path:
    """f and ‖∇f‖² of the path without noise against its time (all (points,)); spectra; probes, gradient evaluations
    spent. n: the samples of an epoch, None where they are drawn with replacement."""

    time: np.ndarray
    grad_sqnorm: np.ndarray
    loss: np.ndarray
    spectra: list[Spectrum]
    probes: int
    n: int | None
    momentum: float

    def at(self, time: float) -> tuple[float, float, Spectrum]:
        """(‖∇f‖², f) there, between points in logarithms of the time; and the nearest spectrum."""
        clock = np.log(np.maximum(self.time, self.time[1] / 10))
        where = math.log(max(time, self.time[1] / 10))
        norm, loss = (float(np.exp(np.interp(where, clock, np.log(v)))) for v in (self.grad_sqnorm, self.loss))
        after = [abs(math.log((found.time + self.time[1]) / (time + self.time[1]))) for found in self.spectra]
        return norm, loss, self.spectra[int(np.argmin(after))]

    def judge(self, batch_size: np.ndarray, lr: np.ndarray) -> Ends:
        """What steps of these true batch sizes and lr, (steps,), end with. By permutation the noise of an epoch is what
        independent draws would give less their mean, and so least at its end."""
        lr = lr / (1 - self.momentum)
        time = float(lr.sum())
        require(time <= self.time[-1] * 1.001, "plan", time, f"takes more time Σ η than the path, {self.time[-1]:.6g}")
        norm, loss, spectrum = self.at(time)
        sizes, last = batch_size[-_MEMORY:], lr[-_MEMORY:]
        with np.errstate(over="ignore", invalid="ignore"):
            factors = _log_factor(last[:, None] * spectrum.eigenvalues)
            left = np.exp(factors.sum(0) - np.cumsum(factors, 0)) * last[:, None]  # of the noise of a step, at the end
            noise = (1 / sizes) @ left**2
        if self.n is not None:
            epochs = (np.cumsum(batch_size)[-_MEMORY:] - 1) // self.n
            starts = np.flatnonzero(np.diff(epochs, prepend=-1))
            noise = (noise - np.square(np.add.reduceat(left, starts)).sum(0) / self.n) * self.n / (self.n - 1)
        noise = noise * spectrum.weights
        norm += float(noise @ spectrum.eigenvalues**2)
        loss += 0.5 * float(noise @ spectrum.eigenvalues)
        return Ends(norm, loss, len(lr), int(batch_size.sum()))


def steps_of(plan: Plan, max_samples: int, samples_per_epoch: int, permuted: bool) -> tuple[np.ndarray, np.ndarray]:
    """The batch sizes and lr of a run of the plan to the step that reaches max_samples."""
    rows, step, samples = [], 0, 0
    while samples < max_samples:
        batch_size, lr = plan.at(plan.reading(step, samples, samples_per_epoch))
        if permuted:
            batch_size = min(batch_size, samples_per_epoch - samples % samples_per_epoch)
        rows.append((batch_size, lr))
        step, samples = step + 1, samples + batch_size
    sizes, rates = np.array(rows, dtype=float).T
    return sizes, rates


def noise_free_path(
    spec: Spec,
    lr: float,
    time: float,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    enough: Callable[[Path], bool] | None = None,
) -> Path:
    """The path of `spec`'s problem from its first seed's start in steps of lr, until its time is over, or it is enough.

    enough: asked each time that the steps have doubled. progress: called with the steps so far and at most.
    Raises `InputError` for optimizers but SGD, and where the path diverges.
    """
    require(isinstance(spec.optimizer, SGD), "optimizer", spec.optimizer.kind, "must be 'sgd': T15 is of SGD")
    how = Execution(channels_last=spec.channels_last, max_micro_batch=spec.max_micro_batch)
    quadratic = spec.problem.kind == "quadratic"
    problem = type(spec.problem)(**spec.problem.model_dump() | {"sigma2": 0.0}) if quadratic else spec.problem
    large = not quadratic and spec.problem.size > LARGE
    sampling = "replacement" if large or quadratic else "permutation"
    task = problem.build_task(spec.seeds[:1], sampling, resolve_device(device), spec.dtype, how)
    update, eta = updates.build(spec.optimizer, task.parameters), lr / (1 - spec.optimizer.momentum)
    batch_size = 1 if quadratic else PILOT if large else task.samples_per_epoch
    last, probes, rows, spectra, read, node = math.ceil(time / eta), 0, [], [], 0, 0
    n = task.samples_per_epoch if spec.sampling == "permutation" and not quadratic else None

    def so_far() -> Path:
        return Path(*np.array(rows).T, [found.values for found in spectra], probes, n, spec.optimizer.momentum)

    for step in range(last + 1):
        at_node = step in (node, last)
        if at_node:
            spectra.append(_spectrum(task, spec, step * eta))
            probes = probes + spectra[-1].probes
            node = max(8, math.ceil(node * (_NODE_LARGE if large else _NODE)))
        if at_node or step == read:
            norm, loss, cost = _reading(task, spec, large, spectra[-1].values.weights)
            require(math.isfinite(norm) and math.isfinite(loss), "lr", lr, f"diverges without noise, {step} steps in")
            if large and step:  # what the pilot's own noise adds
                values, weights = spectra[-1].values.eigenvalues, spectra[-1].values.weights
                left = eta * weights / (batch_size * (2 - np.minimum(eta * values, 1.0)))
                norm, loss = max(norm - float(left @ values), 0.1 * norm), loss - 0.5 * float(left.sum())
            rows.append((step * eta, norm, loss))
            probes, read = probes + cost, max(step + 1, math.ceil(step * (_READ_LARGE if large else _READ)))
        if at_node and step >= 64 and enough is not None and enough(so_far()):
            break
        if step < last:
            start = step * batch_size if large or quadratic else 0
            update(task.gradients(step, start, batch_size), lr)
            probes += batch_size
            if progress is not None:
                progress(step + 1, last)
    return so_far()


def _reading(task, spec: Spec, large: bool, weights: np.ndarray) -> tuple[float, float, int]:
    """(‖∇f‖², f, gradient evaluations); of some samples without what their choice adds to ‖∇f‖², tr Σ (1/m − 1/n)."""
    if not large:
        found = task.measure()
        return float(found["grad_sqnorm"][0]), float(found["loss"][0]), task.probes
    (model,), (x, y) = modules(task), training_data(task)
    count, l2 = min(_SUBSET, len(x)), spec.problem.l2
    chosen = torch.randperm(len(x), generator=generator(spec.seeds[0], _CHOSEN + 1))[:count].to(x.device)
    parameters, total, loss = trainable(model), 0.0, 0.0
    with eval_mode(model), torch.enable_grad():
        for part in chosen.split(1024):
            value = CE(model(x[part]), y[part], reduction="sum") / count
            total = total + torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters)]).double()
            loss += value.item()
    flat = torch.cat([p.detach().reshape(-1) for p in parameters]).double()
    norm = (total + l2 * flat).square().sum().item() - weights.sum() * (1 / count - 1 / len(x))
    return max(norm, 1e-30), loss + l2 / 2 * flat.square().sum().item(), count


class _Found(NamedTuple):
    values: Spectrum
    probes: int


def _spectrum(task, spec: Spec, time: float) -> _Found:
    if isinstance(task, NoisyQuadratic):
        exact = spec.problem.exact
        return _Found(_binned(time, exact.eigenvalues, exact.noise_variance), 0)
    (model,), (x, y), seed = modules(task), training_data(task), spec.seeds[0]
    chosen = torch.randperm(len(x), generator=generator(seed, _CHOSEN))[:_SAMPLE].to(x.device)
    settings = {"vectors": _VECTORS, "products": _PRODUCTS, "seed": seed}
    found = noise_spectrum(model, CE, x[chosen], y[chosen], l2=spec.problem.l2, **settings)
    return _Found(_binned(time, found.eigenvalues.ravel(), found.weights.ravel() / len(found.weights)), found.probes)


def _binned(time: float, eigenvalues: np.ndarray, weights: np.ndarray) -> Spectrum:
    """In bins of log λ, each at its mean λ; what lies along λ ≤ 0 is taken at a λ that nothing comes of."""
    values = np.maximum(eigenvalues, 1e-9 * eigenvalues.max())
    edges = np.geomspace(values.min(), values.max() * 1.0001, _BINS + 1)
    bins = np.clip(np.digitize(values, edges) - 1, 0, _BINS - 1)
    mass = np.bincount(bins, weights, _BINS)
    kept = mass > 0
    return Spectrum(time, np.bincount(bins, weights * values, _BINS)[kept] / mass[kept], mass[kept])


# ------------------------------------------------------------------------------------------- T16 on such a path
class Ramp(NamedTuple):
    """A schedule of K steps of one lr: the held batch, the batch (points,) against the samples that are left, and what
    it is predicted to end with."""

    batch_size: int
    lr: float
    steps: float
    samples: float
    left: np.ndarray
    sizes: np.ndarray
    grad_sqnorm: float
    loss: float


def ramps(
    path: Path, lr: float, power: int, budget: Callable[[float], float] | None = None, eps2: float | None = None
) -> list[Ramp]:
    """The best b_t ∝ √κ_t, not below b₀, for each K and b₀ = 1, 2, 4 …: of a budget(K) of gradient evaluations, or with
    E‖∇f‖² = eps2 at the end.

    Only where the linear theory can be believed: the noise of b₀ adds no more than a tenth to f.
    """
    found, eta = [], lr / (1 - path.momentum)
    for time in np.geomspace(8 * eta, path.time[-1] / MARGIN, 80):
        steps = time / eta
        bias, loss, spectrum = path.at(time)
        values, weights = spectrum.eigenvalues, spectrum.weights
        if eta * values.max() >= 2:
            continue
        tau = np.unique(np.concatenate([np.arange(64), np.geomspace(64, max(steps, 65), 300)]).astype(int))
        tau = tau[tau < steps]
        kept = weights * np.exp(2 * np.outer(tau, _log_factor(eta * values))) * eta**2
        kernels = kept @ values**2, kept @ values
        root = np.sqrt(kernels[2 - power])
        least = 0.5 * eta * float(np.sum(weights / (2 - eta * values))) / (0.1 * loss)
        floor = 2 ** max(0, math.ceil(math.log2(max(least, 1e-9))))
        room = budget(steps) if budget else math.inf
        while floor * steps <= room and floor < 2**20:
            made = _level(tau, root, kernels, floor, room, None if eps2 is None else eps2 - bias)
            if made is not None:
                sizes, samples, noises = made
                left = np.concatenate([[0.0], np.cumsum((sizes[1:] + sizes[:-1]) / 2 * np.diff(tau))])
                left += (sizes[0] + sizes) / 2
                ends = bias + noises[0], loss + 0.5 * noises[1]
                found.append(Ramp(floor, lr, steps, samples, left, sizes, *ends))
            if made is None or np.all(sizes <= floor):
                break
            floor *= 2
    return found


def _log_factor(bent: np.ndarray) -> np.ndarray:
    """log |1 − ηλ|."""
    return np.log(np.maximum(np.abs(1 - bent), 1e-12))


def _sum(values: np.ndarray, tau: np.ndarray) -> float:
    """Over every whole τ from 0 to the last, of values at some of them."""
    return float(np.trapezoid(values, tau) + (values[0] + values[-1]) / 2)


def _level(tau, root, kernels, floor, room, noise):
    """Batch sizes max(floor, ν root), their sum and what noise they leave: of the sum `room`, or of the noise."""

    def of(nu: float):
        sizes = np.maximum(floor, nu * root)
        return sizes, _sum(sizes, tau), [_sum(kappa / sizes, tau) for kappa in kernels]

    if noise is not None:
        if noise <= 0:
            return None
        below = lambda nu: of(nu)[2][0] > noise  # noqa: E731
    else:
        below = lambda nu: of(nu)[1] < room  # noqa: E731
    low, high = 0.0, floor / root[0]
    while below(high):
        low, high = high, 2 * high
        if high * root[0] > 1e12:
            return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return of(high)
