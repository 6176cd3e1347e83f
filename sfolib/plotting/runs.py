"""Runs as curves: what a schedule did, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sfolib.analysis.assumptions import beyond
from sfolib.plotting.style import LINES, Band, log_ticks, style
from sfolib.training.records import Run

CLOCKS = {"samples": "gradient evaluations", "steps": "steps", "epochs": "epochs"}
COLUMNS = {
    "batch_size": "batch size $b$",
    "lr": r"learning rate $\eta$",
    "loss": "training loss",
    "grad_sqnorm": r"$\mathbb{E}\|\nabla f\|^2$",
    "test_error": "test error",
}


def trajectories(
    runs: Mapping[str, Run],
    columns: Sequence[str] = ("batch_size", "lr", "loss", "grad_sqnorm"),
    clock: str = "samples",
    theory: Mapping[str, Sequence[Band]] | None = None,
) -> Figure:
    """A panel for each of `columns`, of `COLUMNS`, against the clock ("samples", "steps", "epochs"), log-log.

    Curves are means over seeds, bands 95 % intervals over seeds; a batch size or lr is a mean of steps.
    theory: further curves of a column, in the colour of the run with the same label.
    Where a run left what the theory assumes (`assumptions.beyond`) the legend says so and a triangle marks it; a cross
    is where it diverged.
    """
    rows = -(-len(columns) // 2)
    palette = dict(zip(runs, sns.color_palette("colorblind", len(runs)), strict=True))
    with style():
        figure, axes = plt.subplots(rows, 2, figsize=(7.2, 2.55 * rows + 0.25), sharex=True, squeeze=False)
        for axis, column in zip(axes.flat, columns, strict=False):
            for label, run in runs.items():
                _curve(axis, run, column, clock, color=palette[label], label=_warned(label, run))
            for band in (theory or {}).get(column, ()):
                axis.plot(band.x, band.y, color=palette.get(band.label, "0.3"), **LINES[band.source])
            axis.set(xscale="log", yscale="log", ylabel=COLUMNS[column])
            log_ticks(axis.yaxis)
        for axis in axes.flat[len(columns) :]:
            axis.set_visible(False)
        for axis in axes.flat[: len(columns)][-2:]:  # the lowest of each column, where the last row has but one
            axis.set_xlabel(CLOCKS[clock])
            axis.tick_params(labelbottom=True)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(runs)))
    return figure


def against_clocks(
    runs: Mapping[str, Run],
    columns: Sequence[str] = ("grad_sqnorm", "loss", "test_error"),
    theory: Mapping[tuple[str, str], Sequence[Band]] | None = None,
) -> Figure:
    """The same runs against gradient evaluations, steps and epochs: a row for each of `columns`, as `trajectories`.

    theory: further curves of a (column, clock).
    """
    palette = dict(zip(runs, sns.color_palette("colorblind", len(runs)), strict=True))
    with style():
        shape = (len(columns), len(CLOCKS))
        figure, axes = plt.subplots(
            *shape, figsize=(7.2, 2.1 * len(columns) + 0.5), sharex="col", sharey="row", squeeze=False
        )
        for row, column in zip(axes, columns, strict=True):
            for axis, clock in zip(row, CLOCKS, strict=True):
                for label, run in runs.items():
                    _curve(axis, run, column, clock, color=palette[label], label=_warned(label, run))
                for band in (theory or {}).get((column, clock), ()):
                    axis.plot(band.x, band.y, color=palette.get(band.label, "0.3"), **LINES[band.source])
                axis.set(xscale="log", yscale="log")
                log_ticks(axis.yaxis)
            row[0].set_ylabel(COLUMNS[column])
        for axis, clock in zip(axes[-1], CLOCKS, strict=True):
            axis.set_xlabel(CLOCKS[clock])
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(runs)))
    return figure


def costs(frame: pd.DataFrame, groups: Sequence[str], xlabel: str = "gradient evaluations") -> Figure:
    """What each system needed to get to each goal: a panel for each of `groups`, a row for each system.

    frame: columns group, system, sfo, low, high, in the order of drawing; inf is what was not reached: a cross at the
    right.
    """
    systems = list(dict.fromkeys(frame["system"]))
    palette = dict(zip(systems, sns.color_palette("husl", len(systems)), strict=True))
    with style():
        figure, axes = plt.subplots(
            1, len(groups), figsize=(7.2, 0.9 + 0.24 * len(systems)), sharey=True, squeeze=False
        )
        for axis, group in zip(axes[0], groups, strict=True):
            part = frame[frame["group"] == group].set_index("system").reindex(systems)
            top = 2 * part["samples"].replace(np.inf, np.nan).max()
            for y, (system, row) in enumerate(part.iterrows()):
                if not np.isfinite(row["samples"]):
                    axis.plot(top, y, "x", color=palette[system], markersize=5)
                    continue
                axis.plot([row["low"], min(row["high"], top)], [y, y], color=palette[system], linewidth=2, alpha=0.6)
                axis.plot(row["samples"], y, "o", color=palette[system], markersize=4)
            axis.set(xscale="log", title=group, yticks=range(len(systems)))
            log_ticks(axis.xaxis)
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k: in narrow panels there is no room for more
            axis.tick_params(axis="x", labelsize=7.5)
        figure.supxlabel(xlabel, fontsize="medium")
        axes[0, 0].set_yticklabels(systems)
        axes[0, 0].invert_yaxis()
    return figure


def _curve(axis: Axes, run: Run, column: str, clock: str, **look: object) -> None:
    x = {"samples": run.samples, "steps": run.steps, "epochs": run.epochs}[clock]
    if column == "test_error":
        mean, high, low = (1 - part for part in run.mean_ci("test_accuracy"))
    else:
        mean, low, high = run.mean_ci(column)
    shown = x > 0
    for mark in beyond(run):
        if column == mark.column and mark.short != "diverged" and x[mark.point] > 0:
            axis.plot(x[mark.point], mean[mark.point], "^", color=look["color"], markersize=7, fillstyle="none")
    finite = np.flatnonzero(shown & np.isfinite(mean))
    if run.status == "diverged" and len(finite):
        axis.plot(x[finite[-1]], mean[finite[-1]], "X", color=look["color"], markersize=7)
    schedule = column in ("batch_size", "lr")
    settings = {"drawstyle": "steps-post"} if schedule else {}
    axis.plot(x[shown], mean[shown], **LINES["measured"], markevery=max(1, shown.sum() // 12), **settings, **look)
    filled = {"step": "post"} if schedule else {}
    axis.fill_between(x[shown], low[shown], high[shown], color=look["color"], alpha=0.2, linewidth=0, **filled)


def _warned(label: str, run: Run) -> str:
    """The label, with what there is to warn of."""
    return ", ".join([label, *(mark.short for mark in beyond(run))])
