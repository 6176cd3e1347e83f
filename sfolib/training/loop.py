"""The one training loop: any problem, any plan, several seeds at once, SFO counted where a gradient is taken."""

from __future__ import annotations

import math
import re
import time
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import torch

from sfolib._utils import interrupt
from sfolib._utils.distributed import SINGLE, ProcessGroup
from sfolib._utils.errors import InputError, require
from sfolib.problems.execution import Execution
from sfolib.training import policy_signals, updates
from sfolib.training.adascale_workers import WorkersTask
from sfolib.training.noise_probes import ProbedTask
from sfolib.training.spec import Spec

_SETTLED = 10  # measuring points
_FINITE = ("loss", "grad_sqnorm", "published_sqnorm")  # of a run that has not diverged
_CLOCK = ("step", "samples", "probes", "true_batch_size", "below", "began", "midway", "measured")


class Trainer:
    """A run in progress. Its whole state is the clock, the task's, the optimizer's, the leader's, where the way to the
    next measuring point began, and how long ‖∇f‖ has been small. `ranks`: the processes that share the run; each has
    such a trainer, in the same state."""

    def __init__(self, spec: Spec, device: str = "auto", ranks: ProcessGroup = SINGLE):
        self.started = time.perf_counter()  # of a run that goes on, earlier by what it took before
        require(len(set(spec.seeds)) == len(spec.seeds), "seeds", spec.seeds, "must differ from each other")
        self.spec, self.device = spec, resolve_device(device)
        how = Execution(*(getattr(spec, name) for name in Execution._fields))
        self.task = spec.problem.build_task(spec.seeds, spec.sampling, self.device, spec.dtype, how)
        self.ranks = ranks
        self.task.share_among(ranks)
        if spec.noise_probes:
            self.task = ProbedTask(self.task, spec.noise_probes, spec.seeds)
        if spec.workers:
            self.task = WorkersTask(self.task, spec.workers, *spec.plan.at(0), len(spec.seeds))
        self.leader = spec.leader
        self.task = policy_signals.halved(self.task, self.leader, spec)
        self.update = updates.build(spec.optimizer, self.task.parameters)
        self.step = self.samples = self.probes = self.true_batch_size = self.below = 0
        self.measured = 0  # measuring points so far
        self.began, self.midway = [0, 0], False  # step and samples; whether a signal ended the way before its end
        self.status, self._finite = "running", True
        self._max_steps = spec.max_steps or math.inf
        self._largest = torch.finfo(getattr(torch, spec.dtype)).max
        self.signals = policy_signals.source(self.leader, self.task, spec.seeds, self.update)
        self._check_ends()

    def advance(self) -> None:
        """Take steps up to the next measuring point, the end of the budget, or the step in which a signal came."""
        task, update, leader, signals = self.task, self.update, self.leader, self.signals
        if not self.midway:
            self.began = [self.step, self.samples]
        last_step, last_sample = self._next_measurement()
        clock = None
        while self.step < last_step and self.samples < last_sample and self._finite and not interrupt.received():
            if clock != (now := leader.reading(self.step, self.samples, task.samples_per_epoch)):
                clock, self._pair = now, leader.at(now)
                batch_size, lr = self._pair[0], self._representable(self._pair[1])
            self.true_batch_size = taken = task.batch_size(self.samples, batch_size)
            if looks := leader.needs_signal:
                signals.before(self.samples, taken)
            update(task.gradients(self.step, self.samples, taken), lr)
            signal, probes = signals.after() if looks else (None, 0)
            self._finite = policy_signals.is_finite(signal)
            if self._finite:
                leader.update(taken, signal)
            self.step += 1
            self.samples += taken
            self.probes += probes
        self.midway = interrupt.received() is not None

    def rows(self) -> list[dict[str, Any]]:
        """Measure: one row a seed. Decides whether the run is over; where a loss, ‖∇f‖² or a policy's signal is not
        finite it has diverged."""
        norm = float(sum(p.square().sum() for p in self.task.parameters)) if self.ranks.size > 1 else 0.0
        self.ranks.agree("step, gradient evaluations and ‖θ‖²", self.step, self.samples, norm)
        measured = {name: value.tolist() for name, value in self.task.measure().items()}
        self.probes += self.task.probes
        self.measured += 1
        over = self.samples >= self.spec.max_samples or self.step >= self._max_steps or self.task.finished
        if self._finite:  # else the leader was not updated after the last step
            with suppress(InputError) if over else nullcontext():  # a decay that ends here may be at 0: no step uses it
                self._pair = self.leader.at(self.leader.reading(self.step, self.samples, self.task.samples_per_epoch))
        batch_size, lr = self._pair
        at = {
            "epoch": self.samples / self.task.samples_per_epoch,
            "step": self.step,
            "samples": self.samples,
            "probes": self.probes,
            "batch_size": batch_size,
            "true_batch_size": self.true_batch_size,
            "lr": lr,
        }
        target = self.spec.target_grad_norm
        below = target is not None and np.mean(measured["grad_sqnorm"]) <= target**2
        self.below = self.below + 1 if below else 0
        watched = [measured[name] for name in _FINITE if name in measured]
        if "loss" not in measured and "running_loss" in measured:
            watched.append(measured["running_loss"])
        lost = ~np.isfinite(watched).all(0) if watched else np.zeros(len(self.spec.seeds), bool)
        if lost.any() or not self._finite:
            self.status = "diverged"
            self.diverged = {"step": self.step, "seeds": np.array(self.spec.seeds)[lost].tolist() or [*self.spec.seeds]}
        elif self.below == _SETTLED:
            self.status = "reached"
        elif over:
            self.status = "finished"
        values = zip(*measured.values(), strict=True)
        rows = [
            {"seed": seed, **at, **dict(zip(measured, of_seed, strict=True))}
            for seed, of_seed in zip(self.spec.seeds, values, strict=True)
        ]
        for row, factor in zip(rows, self.task.lr_factors() or [], strict=False):
            row["lr"] *= factor
        return rows

    def _representable(self, lr: float) -> float:
        """lr as the run's numbers can hold it: what is larger than all of them is infinite, and the run diverges."""
        return lr if lr <= self._largest else math.inf

    def _check_ends(self) -> None:
        """A plan that starts or ends with what is no batch size or lr is found out before anything is written."""
        self.leader.at(0)
        plan, end = self.spec.plan, self.spec.max_samples - 1
        if plan and self.spec.max_steps is None and plan.clock != "step":
            plan.at(plan.reading(0, end, self.task.samples_per_epoch))

    def _next_measurement(self) -> tuple[float, int]:
        """(step, samples) at which `advance` ends, with the first of them that is reached."""
        step, sample = self._max_steps, self.spec.max_samples
        last_step, last_sample = self.began
        if self.spec.eval_every == "epoch":
            n = self.task.samples_per_epoch
            return step, min(sample, (last_sample // n + 1) * n)
        return min(step, max(last_step + 1, math.ceil(last_step * self.spec.eval_every))), sample

    def state_dict(self) -> dict[str, Any]:
        clock = {name: getattr(self, name) for name in _CLOCK}
        stateful = {"optimizer": self.update.state_dict(), "leader": self.leader.state_dict()}
        return clock | self.task.state_dict() | stateful

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _CLOCK:
            setattr(self, name, state[name])
        self.task.load_state_dict(state)
        self.update.load_state_dict(state["optimizer"])
        self.leader.load_state_dict(state["leader"])


def resolve_device(device: str) -> str:
    """ "auto" is the GPU when there is one. Raises `InputError` for a GPU that is not there."""
    gpu = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if gpu else "cpu"
    known = re.fullmatch(r"cpu|cuda(:\d+)?", device)
    require(known is not None, "device", device, "auto, cpu, cuda or cuda:<index>")
    require(device == "cpu" or gpu, "device", device, "no CUDA device here; use cpu or auto")
    if known[1]:
        count = torch.cuda.device_count()
        require(int(known[1][1:]) < count, "device", device, f"there are {count} CUDA devices, counted from 0")
    return device
