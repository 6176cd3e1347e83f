"""L, σ² and Δ of a problem on the way of a short run, each with how it was obtained and the interval it is in.

L and σ² are suprema over θ in A1 and A3: a measurement bounds them from below, and only a proof from above.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import require
from sfolib._utils.rng import generator
from sfolib.gradients.statistics import population_variance, smoothness
from sfolib.problems.modules import modules
from sfolib.problems.network import NetworkTask
from sfolib.problems.specs import Digits
from sfolib.problems.stacked import MLP
from sfolib.theory.bounds import Constants
from sfolib.training.loop import Trainer
from sfolib.training.spec import Spec

STEPS = 100  # of the run that is followed; measured after 0, 1, 10 and 100
SAMPLE = 1000  # training samples measured on, at most


class Estimate(NamedTuple):
    """value is in [low, high]; how: where it comes from, in a sentence."""

    name: str
    value: float
    low: float
    high: float
    how: str


def estimate(spec: Spec, device: str = "auto") -> list[Estimate]:
    """L, sigma2 and gap of `spec`'s problem from its first seed's first steps by `spec`'s plan.

    Costs some hundred passes over at most `SAMPLE` samples, beside the run. Raises `InputError` for the quadratic,
    whose constants are its parameters.
    """
    update = {"seeds": spec.seeds[:1], "max_steps": STEPS, "eval_every": 10.0, "grad_norms": "exact"}
    trainer = Trainer(spec.model_copy(update=update), device)
    known = isinstance(trainer.task, MLP | NetworkTask)
    require(known, "problem", spec.problem.kind, "has its constants as parameters; no need to measure")
    x, y = _sample(trainer.task, spec.seeds[0])
    points = [_at(trainer.task, x, y, spec.problem.l2)]
    while trainer.step < STEPS and trainer.samples < spec.max_samples:
        trainer.advance()
        points.append(_at(trainer.task, x, y, spec.problem.l2))
    constants = [max(values) for values in list(zip(*points, strict=True))[:2]]
    losses = [point[2] for point in points]
    n, whole = len(x), trainer.task.samples_per_epoch
    where = f"largest at {len(points)} points of a run of {trainer.step} steps, on {n} of {whole} samples"
    L, sigma2 = _upper(spec.problem)
    return [
        Estimate("L", L if math.isfinite(L) else constants[0], constants[0], L, _how(L, "Hessian eigenvalue", where)),
        Estimate("sigma2", constants[1], constants[1], sigma2, _how(math.inf, "per-sample gradient variance", where)),
        Estimate(
            "gap", losses[0], losses[0] - min(losses), losses[0],
            "f at the start, f* >= 0; from below the least f seen on the way",
        ),
    ]  # fmt: skip


def as_constants(estimates: list[Estimate]) -> Constants:
    """The values, for `sfolib.bounds` and `sfolib.plan`."""
    return Constants(**{e.name: e.value for e in estimates})


def table(estimates: list[Estimate]) -> str:
    """Lines of name, value, interval and how."""
    return "\n".join(f"{e.name:7}{e.value:<12.6g}[{e.low:.6g}, {e.high:.6g}]  {e.how}" for e in estimates)


def _how(bound: float, what: str, where: str) -> str:
    return f"proven upper bound; from below the {what}, {where}" if math.isfinite(bound) else f"{what}, {where}"


def _upper(problem: object) -> tuple[float, float]:
    """Proven upper bounds on L and σ²: for softmax regression, σ² ≤ mean ‖p − e_y‖²‖x̃‖² ≤ 2 mean ‖x̃‖²."""
    if not isinstance(problem, Digits) or problem.hidden or problem.model:
        return math.inf, math.inf
    return problem.smoothness_bound, 2 * float(np.square(problem.design()).sum(1).mean())


def _sample(task: MLP | NetworkTask, seed: int) -> tuple[Tensor, Tensor]:
    chosen = torch.randperm(len(task.x), generator=generator(seed, 1 << 35))[:SAMPLE].to(task.x.device)
    if isinstance(task, NetworkTask):
        return task.x[chosen], task.y[chosen]
    return task.x[chosen, :-1], task.y[chosen].argmax(1)


def _at(task: MLP | NetworkTask, x: Tensor, y: Tensor, l2: float) -> tuple[float, float, float]:
    """Largest Hessian eigenvalue, variance and loss at the task's parameters."""
    model = modules(task)[0]
    training = model.training
    model.eval()
    variance = population_variance(model, cross_entropy, x, y, check=False).variance
    with torch.no_grad():
        weights = sum(p.double().square().sum().item() for p in model.parameters())
        loss = cross_entropy(model(x), y).item() + l2 / 2 * weights
    found = smoothness(model, cross_entropy, x, y, l2=l2), variance, loss
    model.train(training)
    return found
