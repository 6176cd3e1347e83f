"""AdaScale's gain along a run, and its runs at common scale-invariant iterations."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sfolib.schedules.adaptive.adascale import gain, weight
from sfolib.training import records


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
        for i, seed in enumerate(run.spec.seeds)
    ]
    return records.Run(run.spec, run.provenance, pd.concat(frames, ignore_index=True))
