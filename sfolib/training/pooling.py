"""Runs of one seed each as one run of several seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sfolib._utils.errors import require
from sfolib.training.records import Run


def pooled(runs: Sequence[Run], points: int = 300) -> Run:
    """Runs of different seeds, each with its own batch sizes, as one run of them all: rows at common numbers of
    gradient evaluations, up to where the shortest ended.

    ‖∇f‖² and losses are interpolated in logarithms, batch and lr are those in force, all else is linear between the
    measuring points; all against log SFO. `steps` are means over the seeds.
    """
    require(len(runs) > 0, "runs", len(runs), "must be at least one")
    tables = [run.rows[run.rows["seed"] == seed] for run in runs for seed in run.rows["seed"].unique()]
    seeds = [int(table["seed"].iloc[0]) for table in tables]
    require(len(set(seeds)) == len(seeds), "seeds", seeds, "must differ from each other")
    first = max(table["samples"].iloc[1] for table in tables)
    grid = np.unique([0, *np.geomspace(first, min(table["samples"].iloc[-1] for table in tables), points)])
    frames = [pd.DataFrame({name: _on_grid(table, name, grid) for name in table.columns}) for table in tables]
    steps = np.mean([frame["step"] for frame in frames], axis=0)
    rows = pd.concat([frame.assign(step=steps, samples=grid) for frame in frames], ignore_index=True)
    status = "diverged" if any(run.status == "diverged" for run in runs) else runs[0].status
    seconds = sum(run.provenance.get("seconds", 0.0) for run in runs)
    spec = runs[0].spec and runs[0].spec.model_copy(update={"seeds": tuple(seeds)})
    return Run(spec, runs[0].provenance | {"status": status, "seconds": seconds}, rows)


def _on_grid(table: pd.DataFrame, name: str, grid: np.ndarray) -> np.ndarray:
    x, y = np.log1p(table["samples"].to_numpy()), table[name].to_numpy()
    if name in ("seed", "batch_size", "true_batch_size", "lr"):
        return y[np.searchsorted(table["samples"], grid, side="right") - 1]
    if name in ("grad_sqnorm", "loss", "test_loss"):
        with np.errstate(divide="ignore"):
            return np.exp(np.interp(np.log1p(grid), x, np.log(y)))
    return np.interp(np.log1p(grid), x, y)
