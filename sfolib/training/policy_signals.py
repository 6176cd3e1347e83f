"""What a policy looks at, taken from a task of the training loop: a run of one seed that adapts as it goes.

‖∇f‖ comes from `measure`, after the step; T10's statistics are those of the step's own batch, before it, and the loss
is that of the batch as it was trained on. H's noise spectrum is that of some samples, after the step. All but the loss
cost gradient evaluations, counted apart as probes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import require
from sfolib._utils.rng import generator
from sfolib.gradients.curvature import NoiseSpectrum, noise_spectrum
from sfolib.gradients.statistics import GradientStatistics, gradient_statistics
from sfolib.gradients.successive import SuccessiveProducts
from sfolib.problems.modules import modules, training_data
from sfolib.problems.network import NetworkTask
from sfolib.problems.stacked import MLP, NoisyQuadratic, Task
from sfolib.schedules.adaptive.base import Policy
from sfolib.schedules.adaptive.noise_rules import NoiseAndLoss
from sfolib.schedules.plan import Plan
from sfolib.training.half_batches import HalvedTask
from sfolib.training.spec import Spec
from sfolib.training.updates import Update

_CHOSEN = 1 << 37  # keeps the samples of a look apart from all other draws


class Source:
    """Where the signal of a run's plan or policy comes from: `before` is called before the update that it is about,
    `after` behind it, both only where it is needed. `after` returns (signal, probes that it cost)."""

    def __init__(self, task: Task, leader: Plan | Policy, seed: int):
        self.task, self.leader, self.seed = task, leader, seed

    def before(self, samples: int, batch_size: int) -> None:
        pass

    def after(self) -> tuple[Any, int]:
        return None, 0


class _GradNorm(Source):
    def after(self) -> tuple[float, int]:
        return self.task.measure()["grad_sqnorm"].item() ** 0.5, self.task.probes


class _Statistics(Source):
    def before(self, samples: int, batch_size: int) -> None:
        self.found, self.probes = statistics(self.task, samples, batch_size), batch_size

    def after(self) -> tuple[GradientStatistics, int]:
        return self.found, self.probes


class _SecondMoment(_Statistics):
    def after(self) -> tuple[float, int]:
        return self.found.second_moment, self.probes


class _Loss(Source):
    def before(self, samples: int, batch_size: int) -> None:
        self.so_far = self.task.running_metrics.loss.item()

    def after(self) -> tuple[float, int]:
        return self.task.running_metrics.loss.item() - self.so_far, 0


class _NoiseSpectrum(Source):
    """Of the same samples at every look; exact and free of charge on the quadratic."""

    def after(self) -> tuple[NoiseSpectrum, int]:
        task, leader = self.task, self.leader
        if isinstance(task, NoisyQuadratic):
            exact = (t.double().cpu().numpy()[None] for t in (task.eigenvalues, task.scale.square()))
            return NoiseSpectrum(*exact, 0), 0
        (model,), (x, y) = modules(task), training_data(task)
        count = min(leader.look_samples, len(x) - len(x) % 2)
        chosen = torch.randperm(len(x), generator=generator(self.seed, _CHOSEN))[:count].to(x.device)
        found = noise_spectrum(
            model, cross_entropy, x[chosen], y[chosen], l2=task.l2, seed=self.seed, **leader.look_settings
        )
        return found, found.probes


class _SuccessiveProducts(Source):
    def after(self) -> tuple[SuccessiveProducts, int]:
        return self.task.products.take(), 0


class _NoiseAndLoss(_Loss):
    def before(self, samples: int, batch_size: int) -> None:
        super().before(samples, batch_size)
        self.tallied = self.task.running_metrics.steps

    def after(self) -> tuple[NoiseAndLoss, int]:
        variance = float(np.nanmean(self.task.products.take().variance))
        return NoiseAndLoss(variance, super().after()[0] / (self.task.running_metrics.steps - self.tallied)), 0


_SOURCES = {
    "noise_spectrum": _NoiseSpectrum,
    "grad_norm": _GradNorm,
    "gradient_statistics": _Statistics,
    "second_moment": _SecondMoment,
    "loss": _Loss,
    "successive_gradients": _SuccessiveProducts,
    "noise_and_loss": _NoiseAndLoss,
}


def halved(task: Task, leader: Plan | Policy, spec: Spec) -> Task:
    """The task, with its batches in halves where the leader looks at them."""
    if leader.signal not in ("successive_gradients", "noise_and_loss"):
        return task
    return HalvedTask(task, leader, spec.optimizer, spec.sampling == "permutation")


def source(leader: Plan | Policy, task: Task, seeds: tuple[int, ...], update: Update) -> Source:
    """The source of what leads a run. Raises `InputError` where the task cannot give this policy its signal."""
    if leader.signal is None:
        return Source(task, leader, seeds[0])
    kind, measured = type(leader).__name__, getattr(task, "running_metrics", None) is not None
    require(len(seeds) == 1, "seeds", seeds, "must be one where there is a policy: each seed would adapt by itself")
    if leader.signal in ("loss", "noise_and_loss"):
        why = f"must be true for {kind}, which looks at the losses of the batches"
        require(measured, "log_train_metrics", False, why)
    elif leader.signal != "noise_spectrum":
        why = f"must be false for {kind}, whose measurements would empty the running metrics"
        require(not measured, "log_train_metrics", True, why)
    if isinstance(task, HalvedTask):
        task.update = update
    networks = isinstance(task, MLP | NetworkTask | HalvedTask)
    any_task = ("loss", "grad_norm", "noise_spectrum")
    require(leader.signal in any_task or networks, "policy", kind, "needs per-sample gradients")
    return _SOURCES[leader.signal](task, leader, seeds[0])


def is_finite(signal: Any) -> bool:
    """Whether a policy may be shown it."""
    if isinstance(signal, SuccessiveProducts):  # nan: there was none; all are where the run has diverged
        return not (np.isinf(signal).any() or (len(signal.sqnorm) > 1 and np.isnan(signal.sqnorm).all()))
    numbers = signal
    if isinstance(signal, GradientStatistics):
        numbers = signal.mean_sqnorm, signal.variance
    elif isinstance(signal, NoiseSpectrum):
        numbers = signal.weights, signal.eigenvalues
    return signal is None or bool(np.isfinite(numbers).all())


def statistics(task: MLP | NetworkTask, samples: int, batch_size: int, per_tensor: bool = False) -> GradientStatistics:
    """T10's statistics of the batch that is due after `samples`, at the parameters as they are; needs 2 samples.

    A batch of one sample borrows the one before it, or after it at the start. Each rank looks at its part of the batch.
    per_tensor: see `gradients.gradient_statistics`.
    """
    start, share = (samples if batch_size > 1 or samples == 0 else samples - 1), task.ranks.shard(max(batch_size, 2))
    x, y = (tensor[0] for tensor in task.batches.take(start + share.start, share.stop - share.start))
    settings = {"l2": task.l2, "ranks": task.ranks, "per_tensor": per_tensor, "check": False}
    if isinstance(task, NetworkTask):
        return gradient_statistics(task.models[0], cross_entropy, x, y, **settings)
    return gradient_statistics(task.module(), cross_entropy, x[:, :-1], y.argmax(1), **settings)
