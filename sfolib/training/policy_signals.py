"""What a policy looks at, taken from a task of the training loop: a run of one seed that adapts as it goes.

‖∇f‖ comes from `measure`, after the step; T10's statistics are those of the step's own batch, before it, and the loss
is that of the batch as it was trained on. The first two cost gradient evaluations, counted apart as probes.
"""

from __future__ import annotations

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import InputError, positive, require, shown, whole
from sfolib.gradients.statistics import GradientStatistics, gradient_statistics
from sfolib.problems.network import NetworkTask
from sfolib.problems.stacked import MLP, Task
from sfolib.schedules import adaptive
from sfolib.schedules.adaptive.base import Policy
from sfolib.schedules.base import from_dict
from sfolib.training.optimizers import Update

_MODULES: WeakKeyDictionary[MLP, nn.Sequential] = WeakKeyDictionary()  # making them takes as long as a look


class NotFinite(ArithmeticError):
    """A run has diverged; its args are what `step` would have returned."""


def build(told: dict[str, Any]) -> Policy:
    """The policy of {"kind": name of its class, its arguments by name …}; a schedule is given as its `to_dict`.

    Raises `InputError` for an unknown kind, and names an argument that is unknown or missing.
    """
    kind = told.get("kind")
    require(kind in adaptive.__all__, "policy.kind", kind, f"must be one of {adaptive.__all__}")
    make = getattr(adaptive, kind)
    arguments = {k: from_dict(v) if isinstance(v, dict) else v for k, v in told.items() if k != "kind"}
    known = inspect.signature(make).parameters
    unknown = [name for name in arguments if name not in known]
    require(not unknown, "policy", unknown, f"{kind} takes {[*known]}")
    listed = [name for name, value in arguments.items() if isinstance(value, list)]
    require(not listed, "policy", told, f"{listed} must not be lists")
    missing = [name for name, p in known.items() if p.default is p.empty and name not in arguments]
    require(not missing, "policy", missing, f"{kind} needs them")
    try:
        policy = make(**arguments)
        whole("batch_size", policy.batch_size)
        positive("lr", policy.lr)
        return policy
    except (TypeError, ArithmeticError) as error:
        raise InputError(f"policy = {shown(told)}: {error}") from error


def check(policy: Policy, task: Task, seeds: tuple[int, ...]) -> None:
    """Raise `InputError` where the task cannot give this policy its signal."""
    kind = type(policy).__name__
    require(len(seeds) == 1, "seeds", seeds, "must be one where there is a policy: each seed would adapt by itself")
    if isinstance(policy, adaptive.AutoWU):
        why = f"must be true for {kind}, which looks at the losses of the batches"
        require(getattr(task, "running_metrics", None) is not None, "log_train_metrics", False, why)
        return
    why = f"must be false for {kind}, whose measurements would empty the tally"
    require(getattr(task, "running_metrics", None) is None, "log_train_metrics", True, why)
    networks = isinstance(task, MLP | NetworkTask)
    require(isinstance(policy, adaptive.GradNormTrigger) or networks, "policy", kind, "needs per-sample gradients")


def step(policy: Policy, task: Task, update: Update, steps: int, samples: int) -> tuple[int, int]:
    """A step of the policy, and its update: the batch's true size, and the probes that the signal cost.

    Raises `NotFinite` after an update whose signal is not; the policy is not shown it.
    """
    batch_size, lr = task.batch_size(samples, policy.batch_size), policy.lr
    due, signal, probes = policy.needs_signal, None, 0
    by_loss, by_norm = isinstance(policy, adaptive.AutoWU), isinstance(policy, adaptive.GradNormTrigger)
    if due and not by_loss and not by_norm:
        signal, probes = statistics(task, samples, batch_size), batch_size
        if isinstance(policy, adaptive.OptimalBatch):
            signal = signal.second_moment
    before = task.running_metrics.loss.item() if by_loss else 0.0
    update(task.gradients(steps, samples, batch_size), lr)
    if by_loss:
        signal = task.running_metrics.loss.item() - before
    elif due and by_norm:
        signal, probes = task.measure()["grad_sqnorm"].item() ** 0.5, task.probes
    told = (signal.mean_sqnorm, signal.variance) if isinstance(signal, GradientStatistics) else signal
    if signal is not None and not np.isfinite(told).all():
        raise NotFinite(batch_size, probes)
    policy.update(batch_size, signal)
    return batch_size, probes


def statistics(task: MLP | NetworkTask, samples: int, batch_size: int, per_tensor: bool = False) -> GradientStatistics:
    """T10's statistics of the batch that is due after `samples`, at the parameters as they are; needs 2 samples.

    A batch of one sample borrows the one before it, or after it at the start. Each rank looks at its part of the batch.
    per_tensor: see `gradients.gradient_statistics`.
    """
    start, share = (samples if batch_size > 1 or samples == 0 else samples - 1), task.ranks.part(max(batch_size, 2))
    x, y = (tensor[0] for tensor in task.batches.take(start + share.start, share.stop - share.start))
    told = {"l2": task.l2, "ranks": task.ranks, "per_tensor": per_tensor}
    if isinstance(task, NetworkTask):
        return gradient_statistics(task.models[0], cross_entropy, x, y, **told)
    return gradient_statistics(_as_module(task), cross_entropy, x[:, :-1], y.argmax(1), **told)


def _as_module(task: MLP) -> nn.Sequential:
    """The dense network as torch has it, on copies of the parameters; the bias is the last column."""
    if task not in _MODULES:
        shapes, made = [parameter.shape[1:] for parameter in task.parameters], task.parameters[0]
        layers = [nn.Linear(columns - 1, rows, device="meta", dtype=made.dtype) for rows, columns in shapes]
        relus = [module for layer in layers for module in (layer, nn.ReLU())]
        _MODULES[task] = nn.Sequential(*relus[:-1]).to_empty(device=made.device)
    with torch.no_grad():
        for layer, parameter in zip(_MODULES[task][::2], task.parameters, strict=True):
            layer.weight.copy_(parameter[0, :, :-1])
            layer.bias.copy_(parameter[0, :, -1])
    return _MODULES[task]
