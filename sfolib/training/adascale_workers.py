"""AdaScale with its S workers in the training loop, for all seeds at once, each at the pace of its own gain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sfolib._utils import provenance
from sfolib._utils.errors import require
from sfolib.problems.stacked import Task
from sfolib.schedules.adaptive.adascale import AdaScale, Parallel, gain, weight
from sfolib.schedules.plan import Plan
from sfolib.training import records
from sfolib.training.loop import Trainer
from sfolib.training.records import SCHEMA
from sfolib.training.spec import Spec


def run_adascale(spec: Spec, scale: int, store: Path | str | None = None) -> records.Run:
    """What a single worker does by `spec`, done by `scale` workers under `adascale.AdaScale`, on the CPU.

    spec: SGD at a constant batch size and lr, for max_steps; every seed is trained until it has made that many
    scale-invariant iterations. Each worker's gradient is counted, and none is a probe. Further columns of rows: tau,
    the iterations so far, and gain; lr is the gain's. A run in `store` is loaded in place of made.
    """
    plan = spec.plan
    plain = plan is not None and {plan.batch_size.kind, plan.lr.kind} == {"constant"}
    require(plain and spec.optimizer == "sgd", "spec", spec.key, "must be plain SGD at a constant batch size and lr")
    require(spec.max_steps is not None, "max_steps", None, "is needed: the iterations to make")
    folder = None if store is None else Path(store) / f"{spec.key}-adascale-{scale}"
    if folder is not None and (folder / records.RUN).exists():
        return records.load(folder)
    batch_size, lr = plan.at(0)
    most = {"max_samples": scale * batch_size * spec.max_steps, "plan": Plan(scale * batch_size, lr)}
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.problem.threads or threads)
    try:
        trainer, rows = Trainer(spec.model_copy(update=most), "cpu"), []
        policies = [AdaScale(scale, batch_size=batch_size, lr=lr) for _ in spec.seeds]
        trainer.task = _Workers(trainer.task, policies, lr)
        while trainer.status == "running" and min(policy.tau for policy in policies) < spec.max_steps:
            if trainer.probes:
                trainer.advance()
            rows += trainer.rows()
    finally:
        torch.set_num_threads(threads)
    table = pd.DataFrame(rows)
    table["lr"] *= table["gain"]
    told = {"status": trainer.status, "key": spec.key, "schema": SCHEMA, **provenance.machine("cpu")}
    run = records.Run(spec.model_copy(update=most).model_dump(mode="json"), told, table)
    if folder is not None:
        records.save(run, folder)
    return run


def exact_gain(run: records.Run, batch_size: int, scale: int) -> np.ndarray:
    """`adascale.gain` of what was measured on all samples, shape (seeds, points); batch is that of one worker."""
    return gain(run.curves("variance") / batch_size, run.curves(), scale)


def lagged_gain(run: records.Run, batch_size: int, scale: int) -> np.ndarray:
    """As `exact_gain`, of the exact σ² and ‖∇f‖² averaged over the steps so far as AdaScale averages its estimates.

    Between the measuring points both are taken for linear.
    """
    steps = np.arange(run.steps[-1])
    exact = np.stack([run.curves("variance") / batch_size, run.curves()])  # (2, seeds, points)
    slots = np.clip(np.searchsorted(run.steps, steps, side="right") - 1, 0, len(run.steps) - 2)
    share = (steps - run.steps[slots]) / np.diff(run.steps)[slots]
    every = exact[..., slots] * (1 - share) + exact[..., slots + 1] * share
    means, mean = np.empty(every.shape), np.zeros(every.shape[:2])
    for k in steps:
        mean = mean + weight(k + 1, scale) * (every[..., k] - mean)
        means[..., k] = mean
    gains = gain(*means, scale)
    return np.concatenate([np.ones((len(gains), 1)), gains], axis=1)[:, run.steps]


def by_iterations(
    run: records.Run, iterations: int, batch_size: int, points: int = 200, **further: np.ndarray
) -> records.Run:
    """The run at common scale-invariant iterations, up to so many, in place of steps, which differ between seeds.

    samples are the iterations times `batch`: what a single worker's would be. `further` columns are (seeds, points of
    the run). All is linear between the measuring points.
    """
    columns = {name: run.curves(name) for name in ("tau", "gain", "lr", "loss", "grad_sqnorm")} | further
    steps = np.broadcast_to(run.steps, columns["tau"].shape)
    grid = np.concatenate([[0], np.geomspace(1, iterations, points)])
    frames = [
        pd.DataFrame(
            {"seed": seed, "step": grid, "samples": grid * batch_size}
            | {name: np.interp(grid, columns["tau"][i], values[i]) for name, values in columns.items()}
            | {"true_steps": np.interp(grid, columns["tau"][i], steps[i])}
        )
        for i, seed in enumerate(run.spec["seeds"])
    ]
    return records.Run(run.spec, run.provenance, pd.concat(frames, ignore_index=True))


class _Workers(Task):
    """A task whose batches are taken in S parts, each seed's mean gradient times what its lr is above the plan's."""

    def __init__(self, task: Task, policies: list[AdaScale], lr: float):
        self.task, self.policies, self._planned = task, policies, lr
        self.samples_per_epoch, self.parameters, self.probes = task.samples_per_epoch, task.parameters, task.probes

    def batch_size(self, samples: int, nominal: int) -> int:
        size = self.task.batch_size(samples, nominal)
        require(size == nominal, "sampling", "permutation", "must be 'replacement': workers need whole batches")
        return size

    def gradients(self, step: int, samples: int, batch_size: int) -> list[Tensor]:
        scale = self.policies[0].scale
        part = batch_size // scale
        parts = [self.task.gradients(step * scale + i, samples + i * part, part) for i in range(scale)]
        mean = [sum(same) / scale for same in zip(*parts, strict=True)]
        sqnorms, of_mean = [_sqnorms(g) for g in parts], _sqnorms(mean)
        rates = []
        for seed, policy in enumerate(self.policies):
            rates.append(policy.lr / self._planned)
            policy.update(batch_size, Parallel.of([s[seed] for s in sqnorms], of_mean[seed]))
        return [g * torch.tensor(rates, dtype=g.dtype).view(-1, *[1] * (g.dim() - 1)) for g in mean]

    def measure(self) -> dict[str, Tensor]:
        now = {"tau": [policy.tau for policy in self.policies], "gain": [policy.gain for policy in self.policies]}
        return self.task.measure() | {name: torch.tensor(v, dtype=torch.float64) for name, v in now.items()}


def _sqnorms(gradients: list[Tensor]) -> list[float]:
    """‖g‖² of each seed's gradient."""
    return sum(g.double().square().flatten(1).sum(1) for g in gradients).tolist()
