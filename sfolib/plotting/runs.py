"""Runs as curves: what a schedule did, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator

from sfolib.analysis.assumptions import violations
from sfolib.plotting.style import LINES, NAMES, Band, log_ticks, looks, style
from sfolib.training.records import Run

CLOCKS = {"samples": "gradient evaluations", "steps": "steps", "epochs": "epochs"}
Clock = Callable[[Run], np.ndarray]  # at its measuring points, (points,)
COLUMNS = {
    "batch_size": "batch size $b$",
    "lr": r"learning rate $\eta$",
    "loss": "training loss",
    "grad_sqnorm": r"$\mathrm{E}\,\|\nabla f\|^2$",
    "test_error": "test error",
}
MARKS = {"H": "leaves what the theory assumes", "X": "diverged"}


def trajectories(
    runs: Mapping[str, Run],
    columns: Sequence[str] = ("batch_size", "lr", "loss", "grad_sqnorm"),
    clock: str = "samples",
    theory: Mapping[str, Sequence[Band]] | None = None,
) -> Figure:
    """A panel for each of `columns`, of `COLUMNS`, against the clock ("samples", "steps", "epochs"), log-log.

    Curves are means over seeds, bands 95 % intervals over seeds; a batch size or lr is a mean of steps.
    theory: further curves of a column, in the colour of the run with the same label.
    Where a run left what the theory assumes (`assumptions.violations`) the legend says so and a hexagon marks it; a
    cross is where it diverged.
    """
    rows = -(-len(columns) // 2)
    look = looks(runs, along=True)
    with style():
        figure, axes = plt.subplots(rows, 2, figsize=(7.2, 2.55 * rows + 0.25), sharex=True, squeeze=False)
        for axis, column in zip(axes.flat, columns, strict=False):
            for label, run in runs.items():
                _curve(axis, run, column, clock, look[label], _warned(label, run))
            for band in (theory or {}).get(column, ()):
                axis.plot(band.x, band.y, color=look.get(band.label, {}).get("color", "0.3"), **LINES[band.source])
            axis.set(xscale="log", yscale="log", ylabel=COLUMNS[column])
            _within(axis, runs.values(), column)
        empty = axes.flat[len(columns) :]
        for axis in empty:
            axis.set_axis_off()
        for axis in axes.flat[: len(columns)][-2:]:  # the lowest of each column, where the last row has but one
            axis.set_xlabel(CLOCKS[clock])
            axis.tick_params(labelbottom=True)
        _legend(figure, axes, [band for of_column in (theory or {}).values() for band in of_column], *empty)
    return figure


def against_clocks(
    runs: Mapping[str, Run],
    columns: Sequence[str] = ("grad_sqnorm", "loss", "test_error"),
    theory: Mapping[tuple[str, str], Sequence[Band]] | None = None,
    times: Mapping[str, Clock] | None = None,
) -> Figure:
    """The same runs against gradient evaluations (epochs are proportional) and steps: a row for each of `columns`, as
    `trajectories`.

    theory: further curves of a (column, clock). times: further clocks, by label: (run) → (points,).
    """
    look, clocks = looks(runs, along=True), {name: CLOCKS[name] for name in ("samples", "steps")}
    clocks |= {label: label for label in times or ()}
    with style():
        shape = (len(columns), len(clocks))
        figure, axes = plt.subplots(
            *shape, figsize=(7.2, (2.1 if times is None else 1.6) * len(columns) + 0.5), sharex="col", sharey="row",
            squeeze=False,
        )  # fmt: skip
        for row, column in zip(axes, columns, strict=True):
            for axis, clock in zip(row, clocks, strict=True):
                for label, run in runs.items():
                    _curve(axis, run, column, (times or {}).get(clock, clock), look[label], _warned(label, run))
                for band in (theory or {}).get((column, clock), ()):
                    axis.plot(band.x, band.y, color=look.get(band.label, {}).get("color", "0.3"), **LINES[band.source])
                axis.set(xscale="log", yscale="log")
                _within(axis, runs.values(), column)
            row[0].set_ylabel(COLUMNS[column])
        for axis, label in zip(axes[-1], clocks.values(), strict=True):
            axis.set_xlabel(label, fontsize="medium" if times is None else 7.5)
        _legend(figure, axes, [band for of_panel in (theory or {}).values() for band in of_panel])
    return figure


def costs(frame: pd.DataFrame, groups: Sequence[str], xlabel: str = "gradient evaluations") -> Figure:
    """What each system needed to get to each goal: a panel for each of `groups`, a row for each system.

    frame: columns group, system, samples, low, high, in the order of drawing; inf is what was not reached: a cross at
    the right.
    """
    systems, colour = list(dict.fromkeys(frame["system"])), sns.color_palette("colorblind")[0]
    with style():
        figure, axes = plt.subplots(
            1, len(groups), figsize=(7.2, 0.9 + 0.24 * len(systems)), sharey=True, squeeze=False
        )
        for axis, group in zip(axes[0], groups, strict=True):
            part = frame[frame["group"] == group].set_index("system").reindex(systems)
            top = 2 * part["samples"].replace(np.inf, np.nan).max()
            for y, row in enumerate(part.itertuples()):
                if not np.isfinite(row.samples):
                    axis.plot(top, y, "x", color="0.3", markersize=5)
                    continue
                axis.plot([row.low, min(row.high, top)], [y, y], color=colour, linewidth=2, alpha=0.6)
                axis.plot(row.samples, y, "o", color=colour, markersize=4)
            axis.set(xscale="log", title=group, yticks=range(len(systems)))
            log_ticks(axis.xaxis)
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=3 + 4 // len(groups)))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k: in narrow panels there is no room for more
            axis.tick_params(axis="x", labelsize=7.5)
        figure.supxlabel(xlabel, fontsize="medium")
        axes[0, 0].set_yticklabels(systems)
        axes[0, 0].invert_yaxis()
        if not np.isfinite(frame["samples"]).all():
            cross = Line2D([], [], marker="x", color="0.3", linestyle="none", markersize=5, label="not reached")
            figure.legend(handles=[cross], loc="outside upper right", fontsize=7.5)
    return figure


def _legend(figure: Figure, axes: np.ndarray, theory: Sequence[Band] = (), empty: Axes | None = None) -> None:
    """The runs, then whatever else is drawn: below the figure, or in the place of an empty panel."""
    handles, labels = axes.flat[0].get_legend_handles_labels()
    handles += [
        Line2D([], [], color="0.3", label=NAMES[s], **LINES[s]) for s in dict.fromkeys(b.source for b in theory)
    ]
    drawn = {line.get_marker(): line.get_label() for axis in axes.flat for line in axis.get_lines()}
    for mark, words in MARKS.items():
        if drawn.get(mark, "").startswith("_"):  # a mark, not a run's own
            plain = {"marker": mark, "linestyle": "none", "color": "0.3", "markersize": 7, "fillstyle": "none"}
            handles.append(Line2D([], [], label=words, **plain))
    labels = [*labels, *(h.get_label() for h in handles[len(labels) :])]
    if empty is not None:
        empty.legend(handles, labels, loc="center")
        return
    below = partial(figure.legend, handles, labels, loc="outside lower center")
    legend = below(ncols=min(3, len(handles)))
    if legend.get_window_extent().width > figure.bbox.width:
        legend.remove()
        below(ncols=2)


def _within(axis: Axes, runs: Iterable[Run], column: str) -> None:
    """Keep what diverged from flattening the others, no higher than ten times where any began, and a band that has no
    lower end from filling the panel."""
    if column in ("batch_size", "lr"):
        return
    means = [_of_column(run, column)[0] for run in runs]
    least = min((float(mean[mean > 0].min()) for mean in means if (mean > 0).any()), default=0.0)
    axis.set_ylim(bottom=max(axis.get_ylim()[0], least / 3))
    begun = 10 * max(float(mean[0]) for mean in means)
    if any((mean[np.isfinite(mean)] > begun).any() for mean in means):
        axis.set_ylim(top=begun)


def _of_column(run: Run, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds, and the low and high end of its interval."""
    if column == "test_error":
        mean, high, low = (1 - part for part in run.mean_ci("test_accuracy"))
        return mean, low, high
    return run.mean_ci(column)


def marks(axis: Axes, run: Run, column: str, x: np.ndarray, mean: np.ndarray, colour: object) -> None:
    """Where the run left what the theory assumes in this column, and where it diverged."""
    for mark in violations(run):
        if column == mark.column and mark.short != "diverged" and x[mark.point] > 0:
            axis.plot(x[mark.point], mean[mark.point], "H", color=colour, markersize=8, fillstyle="none", zorder=4)
    finite = np.flatnonzero((x > 0) & np.isfinite(mean))
    if run.status == "diverged" and len(finite):
        axis.plot(x[finite[-1]], mean[finite[-1]], "X", color=colour, markersize=7, fillstyle="none", zorder=4)


def _curve(axis: Axes, run: Run, column: str, clock: str | Clock, look: dict[str, object], label: str) -> None:
    x = getattr(run, clock) if isinstance(clock, str) else clock(run)
    mean, low, high = _of_column(run, column)
    shown = x > 0
    marks(axis, run, column, x, mean, look["color"])
    schedule = column in ("batch_size", "lr")
    settings = {"drawstyle": "steps-post"} if schedule else {}
    axis.plot(x[shown], mean[shown], **LINES["measured"] | look | settings | {"label": label})
    filled = {"step": "post"} if schedule else {}
    axis.fill_between(x[shown], low[shown], high[shown], color=look["color"], alpha=0.2, linewidth=0, **filled)


def _warned(label: str, run: Run) -> str:
    """The label, with what there is to warn of."""
    return ", ".join([label, *(mark.short for mark in violations(run))])
