"""Estimates of the noise scale along a run: `estimators` fed from a task of the training loop, for all seeds at once.

What is estimated from the step's own batch costs no gradient evaluation; what is drawn beside it is counted as probes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sfolib._utils import provenance
from sfolib._utils.errors import require
from sfolib.problems.batches import Batches
from sfolib.problems.stacked import MLP, Task
from sfolib.schedules.adaptive.noise_scale import NoiseScale
from sfolib.schedules.adaptive.optimal_batch import OptimalBatch
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training import records
from sfolib.training.loop import Trainer
from sfolib.training.policy_signals import statistics
from sfolib.training.records import SCHEMA
from sfolib.training.spec import Spec

_BESIDE = 1 << 34  # keeps the probes' samples apart from those that are trained on
_MOVE = 1e-2  # how far the two gradients whose difference stands for Hv lie to each side: in float32, no less


def follow(
    spec: Spec, parts: int = 2, decay: float = 0.99, probe: int = 0, store: Path | str | None = None
) -> records.Run:
    """`train.run` on the CPU, its batches taken in `parts`, with the estimates of the noise scale as further columns.

    loop_sqnorm, loop_variance: `NoiseScale` of every step's batch and its parts (a batch that they do not divide is
    only trained on). With probe, for dense networks alone and at the measuring points: probe_sqnorm, probe_variance,
    from the statistics of `probe` fresh samples a seed, and curvature_noise, an unbiased sample of tr(HΣ).
    A run in `store` is loaded in place of made. Raises `InputError` for a spec with a policy.
    """
    require(spec.plan is not None, "policy", spec.policy, "must be None: the batches here follow a plan")
    require(isinstance(parts, int) and parts >= 2, "parts", parts, "must be a whole number, 2 or above")
    even = isinstance(probe, int) and probe >= 0 and probe % 2 == 0
    require(even, "probe", probe, "must be an even whole number, 0 or above")
    folder = None if store is None else Path(store) / f"{spec.key}-{parts}-{decay:g}-{probe}"
    if folder is not None and (folder / records.RUN).exists():
        return records.load(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.problem.threads or threads)
    try:
        trainer, rows = Trainer(spec, "cpu"), []
        trainer.task = _Watched(trainer.task, parts, decay, probe, spec.seeds)
        while trainer.status == "running":
            if trainer.probes:
                trainer.advance()
            rows += trainer.rows()
    finally:
        torch.set_num_threads(threads)
    told = {"status": trainer.status, "key": spec.key, "schema": SCHEMA, **provenance.machine("cpu")}
    run = records.Run(spec.model_dump(mode="json"), told, pd.DataFrame(rows))
    if folder is not None:
        records.save(run, folder)
    return run


def noise_scale_band(run: records.Run, prefix: str = "", confidence: float = 0.95) -> records.MeanCI:
    """B along a run, each (points,): means over seeds of tr Σ and of ‖G‖² first, then their ratio.

    prefix: "loop_" or "probe_" of `follow`, or "" for what is measured on all samples. The interval is the percentile
    bootstrap over seeds; inf where the mean estimate of ‖G‖² is not above 0.
    """
    both = [run.curves(prefix + "variance"), run.curves(prefix + ("sqnorm" if prefix else "grad_sqnorm"))]
    seeds = len(both[0])

    def ratio(rows: np.ndarray) -> np.ndarray:
        variance, sqnorm = (values[rows].mean(-2) for values in both)
        with np.errstate(divide="ignore"):
            return np.where(sqnorm > 0, variance / np.where(sqnorm > 0, sqnorm, 1.0), np.inf)

    resampled, tail = ratio(_drawn(seeds)), 50 * (1 - confidence)
    low, high = (np.percentile(resampled, q, axis=0, method="nearest") for q in (tail, 100 - tail))
    return records.MeanCI(ratio(np.arange(seeds)), low, high)


def near(run: records.Run, column: str, samples: float, width: float = 1.25) -> tuple[float, float, float]:
    """A column's mean over seeds and over the measuring points within a factor `width` of `samples`, with its 95 %
    percentile-bootstrap interval over seeds."""
    shown = np.abs(np.log(np.maximum(run.samples, 1) / samples)) <= np.log(width)
    require(bool(shown.any()), "samples", samples, f"must be in the run, of {run.samples[-1]} gradient evaluations")
    of_seeds = run.curves(column)[:, shown].mean(1)
    low, high = np.percentile(of_seeds[_drawn(len(of_seeds))].mean(1), [2.5, 97.5])
    return float(of_seeds.mean()), float(low), float(high)


def adapt(problem: PowerLawQuadratic, policy: OptimalBatch, max_samples: int, seed: int) -> pd.DataFrame:
    """A run of `policy` on the quadratic, for max_samples gradient evaluations; h from each step's own batch.

    Columns steps, samples, batch, exact, lr, sqdistance; one row a step and one before the first. The mean of
    ‖∇f_i‖² over τ samples is drawn as ‖ḡ‖² + Σ_j s_j χ²_{τ−1}/τ, which is its distribution.
    """
    rng, theta = np.random.default_rng(seed), problem.theta0.copy()
    rows = [(0, 0, policy.batch_size, policy.exact, policy.lr, theta @ theta)]
    while policy.samples < max_samples:
        batch_size, lr = policy.batch_size, policy.lr
        noise = rng.standard_normal(len(theta)) * np.sqrt(problem.noise_variance / batch_size)
        gradient = problem.eigenvalues * theta + noise
        scatter = rng.chisquare(batch_size - 1, len(theta)) / batch_size if batch_size > 1 else np.zeros(len(theta))
        theta = theta - lr * gradient
        policy.update(
            batch_size, gradient @ gradient + problem.noise_variance @ scatter if policy.needs_signal else None
        )
        rows.append((policy.step, policy.samples, policy.batch_size, policy.exact, policy.lr, theta @ theta))
    return pd.DataFrame(rows, columns=["steps", "samples", "batch_size", "exact", "lr", "sqdistance"])


def _drawn(seeds: int) -> np.ndarray:
    return np.random.default_rng(0).integers(seeds, size=(1000, seeds))


class _Watched(Task):
    """A task whose batches are taken in parts, so that every step feeds a `NoiseScale`."""

    def __init__(self, task: Task, parts: int, decay: float, probe: int, seeds: tuple[int, ...]):
        self.task, self.parts, self.scale, self.measured = task, parts, NoiseScale(decay), 0
        self.samples_per_epoch, self.parameters = task.samples_per_epoch, task.parameters
        self.probe = _Probe(task, probe, seeds) if probe else None
        self.probes = task.probes + (self.probe.cost if self.probe else 0)

    def batch_size(self, samples: int, nominal: int) -> int:
        return self.task.batch_size(samples, nominal)

    def gradients(self, step: int, samples: int, batch_size: int) -> list[Tensor]:
        small = batch_size // self.parts
        if small * self.parts != batch_size:
            return self.task.gradients(step * self.parts, samples, batch_size)
        of_parts = [  # its own step number for each, as the quadratic's noise depends on it
            self.task.gradients(step * self.parts + i, samples + i * small, small) for i in range(self.parts)
        ]
        mean = [sum(of_one) / self.parts for of_one in zip(*of_parts, strict=True)]
        self.scale.update(
            torch.stack([_sqnorm(g) for g in of_parts]).mean(0).numpy(), small, _sqnorm(mean).numpy(), batch_size
        )
        return mean

    def measure(self) -> dict[str, Tensor]:
        found = self.task.measure()
        seeds = len(self.parameters[0])
        for name, value in (("loop_sqnorm", self.scale.sqnorm), ("loop_variance", self.scale.variance)):
            found[name] = torch.from_numpy(np.broadcast_to(value, seeds).copy())
        if self.probe:
            found |= self.probe.look(self.measured)
        self.measured += 1
        return found


class _Probe:
    """Fresh samples at the task's present parameters."""

    def __init__(self, task: Task, size: int, seeds: tuple[int, ...]):
        require(isinstance(task, MLP), "probe", size, "must be 0: only dense networks have statistics here")
        self.task, self.size, self.n = task, size, task.samples_per_epoch
        self.cost = 2 * size + 2 * self.n  # the statistics, two halves, and two full gradients
        data, beside = task.batches.tensors, tuple(_BESIDE + seed for seed in seeds)
        self.drawn = self._view(task.parameters, Batches(data, beside, "replacement"))
        self.whole = Batches(data, seeds, "permutation")  # an epoch of it is all samples
        self.each = [Batches(data, (seed,), "replacement") for seed in beside]

    def _view(self, parameters: list[Tensor], batches: Batches) -> Any:
        view = copy.copy(self.task)
        view.parameters, view.batches, view.running_metrics = parameters, batches, None
        return view

    def look(self, measured: int) -> dict[str, Tensor]:
        start = measured * self.size
        seen = [
            statistics(self._view([p[i : i + 1] for p in self.task.parameters], batches), start, self.size)
            for i, batches in enumerate(self.each)
        ]
        return {
            "probe_sqnorm": torch.tensor([s.mean_sqnorm - s.variance / s.n for s in seen], dtype=torch.float64),
            "probe_variance": torch.tensor([s.variance for s in seen], dtype=torch.float64),
            "curvature_noise": self._curvature_noise(start),
        }

    def _curvature_noise(self, start: int) -> Tensor:
        """tr(HΣ) = m/2 · E vᵀHv, v the difference of two gradients of m samples each; Hv by a central difference."""
        half = self.size // 2
        first, second = (self.drawn.gradients(0, start + i * half, half) for i in range(2))
        v = [a - b for a, b in zip(first, second, strict=True)]
        move = (_MOVE / _sqnorm(v).sqrt()).to(v[0].dtype)
        ahead, behind = (self._moved(v, sign * move).gradients(0, 0, self.n) for sign in (1, -1))
        along = _sum_products([a - b for a, b in zip(ahead, behind, strict=True)], v)
        return along / (2 * move) * half / 2

    def _moved(self, v: list[Tensor], move: Tensor) -> Any:
        """The whole problem at θ + move v."""
        pairs = zip(self.task.parameters, v, strict=True)
        return self._view([p + move.view(-1, *[1] * (p.dim() - 1)) * d for p, d in pairs], self.whole)


def _sum_products(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Inner product of each seed's vectors, in double precision, shape (seeds,)."""
    return sum((a.double() * b.double()).flatten(1).sum(1) for a, b in zip(left, right, strict=True))


def _sqnorm(tensors: list[Tensor]) -> Tensor:
    return _sum_products(tensors, tensors)
