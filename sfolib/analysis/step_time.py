"""What a step costs on this machine: τ0 + τ1 b, the latency of a step and the time of a gradient evaluation (T12)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from sfolib._utils.errors import positive, require
from sfolib.problems.specs import Problem
from sfolib.schedules.plan import Plan
from sfolib.training.loop import Trainer
from sfolib.training.spec import Spec


class StepTime(NamedTuple):
    """latency τ0, seconds a step; per_sample τ1, seconds a gradient evaluation."""

    latency: float
    per_sample: float


def measure_step_time(
    problem: Problem, batches: Sequence[int], steps: int = 100, repeats: int = 5, device: str = "auto"
) -> np.ndarray:
    """Seconds a training step at each batch size, the median of repeats; shape of batches. One CPU thread, one seed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return np.array([np.median([_seconds(problem, b, steps, device) for _ in range(repeats)]) for b in batches])
    finally:
        torch.set_num_threads(threads)


def _seconds(problem: Problem, batch_size: int, steps: int, device: str) -> float:
    budget = {"max_steps": steps + 1, "max_samples": batch_size * (steps + 1), "eval_every": 1e12}
    trainer = Trainer(Spec(problem=problem, plan=Plan(batch_size, 1e-3), sampling="replacement", **budget), device)
    trainer.advance()  # one step, to warm up
    wait(trainer.device)
    started = time.perf_counter()
    trainer.advance()  # all the others
    wait(trainer.device)
    return (time.perf_counter() - started) / steps


def wait(device: str) -> None:
    """Until a GPU has done what it was asked for."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def fit_step_time(batches: Sequence[float], seconds: Sequence[float]) -> StepTime:
    """τ0 + τ1 b of the least squared relative error, τ0, τ1 ≥ 0. `InputError` if either is 0: no such machine."""
    from scipy.optimize import nnls

    positive("batches", batches)
    positive("seconds", seconds)
    batches, seconds = np.asarray(batches, dtype=float), np.asarray(seconds, dtype=float)
    require(len(batches) > 1, "batches", batches.tolist(), "must be two or more")
    fitted = StepTime(*map(float, nnls(np.column_stack([1 / seconds, batches / seconds]), np.ones_like(seconds))[0]))
    require(min(fitted) > 0, "seconds", seconds.tolist(), "must grow with the batch size, from more than 0")
    return fitted
