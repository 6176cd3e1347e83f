"""Runs under growing schedules, made ready for figures and checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sfolib._utils.errors import require
from sfolib.analysis.claims import Check, LeftOut, check
from sfolib.plotting.style import LINES, looks, panel_row, shared_legend, style
from sfolib.schedules.base import piecewise
from sfolib.schedules.plan import Plan
from sfolib.theory.quadratic import StagePath
from sfolib.training.estimates import Interval
from sfolib.training.records import Run

_CLOCKS = {"samples": "gradient evaluations", "steps": "steps"}


def value_at(run: Run, column: str, step: float | None = None) -> Interval:
    """The column's `Run.mean_ci` at the last measuring point up to `step`, or at the last of all."""
    step = run.steps[-1] if step is None else step
    require(step >= run.steps[0], "step", step, f"must be at least {run.steps[0]}, the first measured")
    point = int(np.searchsorted(run.steps, step, side="right")) - 1
    return Interval(*(float(part[point]) for part in run.mean_ci(column)))


def rising(claim: str, values: Sequence[Interval], source: str, figure: str, **known: str) -> Check | LeftOut:
    """The claim that each value exceeds the one before it, beyond their intervals. known: as in `Check`."""
    means, intervals = [v.value for v in values], [v[1:] for v in values]
    return check(claim, "ordering", means, interval=intervals, source=source, figure=figure, **known)


def at_step(run: Run, column: str, step: float) -> np.ndarray:
    """The column at `step`, linear in log step between the measuring points around it, (seeds,)."""
    require(run.steps[1] <= step <= run.steps[-1], "step", step, f"must be in [{run.steps[1]}, {run.steps[-1]}]")
    return np.array([np.interp(np.log(step), np.log(run.steps[1:]), of_seed[1:]) for of_seed in run.curves(column)])


def taken(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """nominal batch size and lr of each step, (T,): those in force at the measuring point before it.

    Exact where the pair changes at measuring points only, as with measure = "epoch" and a plan that counts epochs.
    """
    each = run.rows.drop_duplicates("step").sort_values("step")
    return tuple(np.repeat(each[name].to_numpy()[:-1], np.diff(run.steps)) for name in ("batch_size", "lr"))


def without_noise(run: Run, n: int) -> Plan:
    """A plan that takes the lr of each of the run's steps, with all n images in every step."""
    each = run.rows.drop_duplicates("step").sort_values("step")
    changed = each["lr"].to_numpy()[:-1] != each["lr"].shift().to_numpy()[:-1]
    lr, at = each["lr"].to_numpy()[:-1][changed], run.steps[:-1][changed]
    return Plan(n, piecewise(lr.tolist(), at[1:].tolist()), "step")


def goals(runs: Mapping[str, Run], level: float, group: str, column: str = "grad_sqnorm") -> pd.DataFrame:
    """`Run.first_crossing` of ‖∇f‖² ≤ level by each run, or `Run.first_above` of the level by another column: a row a
    run with group and system, as `plotting.costs` wants them, and steps, samples, low and high."""
    found = {
        label: run.first_crossing(level**0.5) if column == "grad_sqnorm" else run.first_above(level, column)
        for label, run in runs.items()
    }
    return pd.DataFrame([{"group": group, "system": label, **reached._asdict()} for label, reached in found.items()])


def spending(
    lr: float, batches: Sequence[float], lengths: Sequence[float], total: float
) -> list[tuple[float, float, float]]:
    """Stages at these batch sizes of so many gradient evaluations each, as (batch, lr, steps) for
    `PowerLawQuadratic.stage_path`: whole steps, at least one a stage, as many stages as fit into `total`."""
    steps = np.maximum(1.0, np.round(np.divide(lengths, batches)))
    fits = np.cumsum(steps * batches) <= total
    return [(float(b), lr, float(k)) for b, k in zip(np.asarray(batches)[fits], steps[fits], strict=True)]


def exact_paths(panels: Mapping[str, tuple[str, Mapping[str, StagePath]]], most: float = np.inf) -> Figure:
    """E‖∇f‖² of exact paths at the ends of their stages, up to `most` of the clock: a panel for each title, against its
    clock, "samples" or "steps". A label has one colour in all panels."""
    look = looks(label for _, paths in panels.values() for label in paths)
    with panel_row(panels, 3.5) as (figure, axes):
        for axis, (clock, paths) in zip(axes, panels.values(), strict=True):
            for label, path in paths.items():
                x = getattr(path, clock)[1:]
                axis.plot(x[x <= most], path.grad_sqnorm[1:][x <= most], label=label, **look[label] | {"marker": ""})
            axis.set(xscale="log", yscale="log", xlabel=_CLOCKS[clock])
        axes[0].set_ylabel(r"$\mathrm{E}\,\|\nabla f\|^2$")
        shared_legend(figure, axes, ncols=3, fontsize=7.5)
    return figure


def exponents(gamma: np.ndarray, p: np.ndarray, tested: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """T5's exponent against γ, dashed, and for each label of `tested` exponents at some γ."""
    with style():
        figure, axis = plt.subplots(figsize=(5.0, 3.2))
        axis.plot(gamma, p, color="0.3", label="theory (T5)", **LINES["bound"])
        for (label, (x, y)), colour in zip(tested.items(), sns.color_palette("colorblind"), strict=False):
            axis.plot(x, y, "o", color=colour, label=label, markersize=4.5)
        axis.set(xlabel=r"learning-rate growth a stage $\gamma$", ylabel=r"exponent $p$ of $O(N^{-p})$")
        figure.legend(loc="outside lower center", ncols=2, fontsize=7.5)
    return figure
