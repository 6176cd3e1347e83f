"""Estimates of the noise scale along a run, made of its own batches and of samples drawn beside them.

What is estimated from the step's own batch costs no gradient evaluation; what is drawn beside it is counted as probes.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfolib._utils.errors import require
from sfolib.problems.batches import Batches
from sfolib.problems.stacked import MLP, Task
from sfolib.schedules.adaptive.noise_scale import NoiseScale
from sfolib.training.policy_signals import statistics
from sfolib.training.spec import NoiseProbes

_BESIDE = 1 << 34  # keeps the probes' samples apart from those that are trained on
_MOVE = 1e-2  # how far the two gradients whose difference stands for Hv lie to each side: in float32, no less


class ProbedTask(Task):
    """A task whose batches are taken in parts, so that every step feeds a `NoiseScale`; see `spec.NoiseProbes`."""

    def __init__(self, task: Task, probes: NoiseProbes, seeds: tuple[int, ...]):
        self.task, self.parts, self.scale, self.measured = task, probes.parts, NoiseScale(probes.decay), 0
        self.samples_per_epoch, self.parameters = task.samples_per_epoch, task.parameters
        self.probe = _Probe(task, probes.size, seeds) if probes.size else None
        self.probes = task.probes + (self.probe.cost if self.probe else 0)

    def batch_size(self, samples: int, nominal: int) -> int:
        return self.task.batch_size(samples, nominal)

    def gradients(self, step: int, samples: int, batch_size: int) -> list[Tensor]:
        small = batch_size // self.parts
        if small * self.parts != batch_size:
            return self.task.gradients(step * self.parts, samples, batch_size)
        # its own step number for each, as the quadratic's noise depends on it
        of_parts = self.task.of_parts(step * self.parts, samples, [small] * self.parts)
        mean = [sum(of_one) / self.parts for of_one in zip(*of_parts, strict=True)]
        of_part, of_mean = torch.stack([_sqnorm(g) for g in of_parts]).mean(0), _sqnorm(mean)
        self.scale.update(of_part.cpu().numpy(), small, of_mean.cpu().numpy(), batch_size)
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

    def state_dict(self) -> dict[str, Any]:
        return self.task.state_dict() | {"noise_scale": self.scale.state_dict(), "measured": self.measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task.load_state_dict(state)
        self.scale.load_state_dict(state["noise_scale"])
        self.measured = state["measured"]

    def provenance(self) -> dict[str, Any]:
        return self.task.provenance()


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
