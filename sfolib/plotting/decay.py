"""Growing the batch against decaying the learning rate (T8): what is equal, and how far apart runs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from sfolib.plotting.runs import CLOCKS, COLUMNS, MARKS, marks
from sfolib.plotting.style import LINES, Band, hues, lines, looks, panel_row, style
from sfolib.training.records import Run


class Panel(NamedTuple):
    """A column of some runs against a clock, from `start` on it; clock and column as in `plotting.trajectories`.

    What is measured is shown from the first step on, batch and lr from 0."""

    runs: Mapping[str, Run]
    column: str
    clock: str = "samples"
    title: str = ""
    start: float = 0.0


def schedules(panels: Sequence[Panel]) -> Figure:
    """The panels, two a row, on linear clocks; a label has one colour in all.

    Curves are means over seeds, bands 95 % intervals over seeds. ‖∇f‖² is as measured: an average over
    neighbouring steps would span more epochs of a grown batch than of a decayed lr.
    """
    labels = list(dict.fromkeys(label for panel in panels for label in panel.runs))
    look = looks(labels, along=True)
    rows = -(-len(panels) // 2)
    with style():
        figure, axes = plt.subplots(rows, 2, figsize=(7.2, 2.15 * rows + 0.4), squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            for label, run in panel.runs.items():
                _curve(axis, run, panel, look[label], label)
            axis.set(yscale="log", xlabel=CLOCKS[panel.clock], ylabel=COLUMNS[panel.column], title=panel.title)
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        handles = {label: h for axis in axes.flat for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        drawn = {line.get_marker() for axis in axes.flat for line in axis.get_lines()}
        plain = {"linestyle": "none", "color": "0.3", "markersize": 7, "fillstyle": "none"}
        handles |= {words: Line2D([], [], marker=mark, **plain) for mark, words in MARKS.items() if mark in drawn}
        columns = len(handles) if len(handles) <= 4 else 3
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns)
    return figure


def _curve(axis: Axes, run: Run, panel: Panel, look: dict[str, object], label: str) -> None:
    error = panel.column == "test_error"
    values = 1 - run.rows["test_accuracy"] if error else run.rows[panel.column]
    mean, low, high = Run(run.spec, run.provenance, run.rows.assign(shown=values)).mean_ci("shown")
    x = run.steps if panel.clock == "steps" else run.samples
    post = panel.column in ("batch_size", "lr")
    at = x >= (panel.start if post else max(1.0, panel.start))
    drawn = {"drawstyle": "steps-post" if post else "default", "label": label}
    axis.plot(x[at], mean[at], **LINES["measured"] | look | drawn)
    marks(axis, run, panel.column, x, mean, look["color"])
    axis.fill_between(
        x[at], low[at], high[at], color=look["color"], alpha=0.2, linewidth=0, step="post" if post else None
    )


def exact_equality(paths: Mapping[str, Sequence[Band]], floors: Sequence[Band]) -> Figure:
    """Left: E‖∇f‖² against gradient evaluations, a colour for each of `paths` and in it a line for each schedule, the
    source of the band telling its look. Right: the ratio of the two schedules' noise floors against Lη."""
    with style():
        figure, (path, floor) = plt.subplots(1, 2, figsize=(7.2, 3.5))
        for (title, bands), colour in zip(paths.items(), sns.color_palette("colorblind"), strict=False):
            for band in bands:
                path.plot(band.x, band.y, color=colour, label=f"{title}: {band.label}", **LINES[band.source])
        path.set(yscale="log", xlabel="gradient evaluations", ylabel=r"$\mathrm{E}\,\|\nabla f\|^2$, exact")
        path.xaxis.set_major_formatter(EngFormatter(sep=""))
        path.legend(fontsize=7)
        lines(floor, floors, yscale="log", xlabel=r"$L\eta$ before the first decay")
        floor.set_ylabel("noise floor: batch grown / lr decayed")
        floor.legend(fontsize=7)
    return figure


def run_distances(frame: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """Distances of runs from the run that they should be like, over the distance between two seeds of it.

    frame: columns group, system, column, value, low, high and fewer (how many times fewer updates), in the order of
    drawing; a group has a heading. columns: name of a column → title of its panel. The line is at 1: another seed.
    """
    palette, places, ticks = hues(frame["group"]), {}, []
    for group in palette:
        ticks.append((len(ticks), group))
        for system, fewer in frame[frame["group"] == group].drop_duplicates("system")[["system", "fewer"]].to_numpy():
            places[group, system] = len(ticks)
            ticks.append((len(ticks), f"{system}  ({fewer:.2g}×)"))
    with panel_row(columns.values(), 0.8 + 0.21 * len(ticks), sharey=True) as (figure, axes):
        for axis, column in zip(axes, columns, strict=True):
            for row in frame[frame["column"] == column].itertuples():
                y, colour = places[row.group, row.system], palette[row.group]
                axis.plot([row.low, row.high], [y, y], color=colour, linewidth=2, alpha=0.6)
                axis.plot(row.value, y, "o", color=colour, markersize=4)
            axis.axvline(1, color="0.3", **LINES["bound"])
            axis.set(xscale="log")
        axes[len(columns) // 2].set_xlabel("distance / distance between two seeds")
        axes[0].set_yticks(*zip(*ticks, strict=True))
        for label in axes[0].get_yticklabels():
            if label.get_text() in palette:
                label.set(color=palette[label.get_text()], fontweight="bold")
        axes[0].invert_yaxis()
    return figure


def coarsening(panels: Mapping[str, Sequence[Band]], xlabels: Sequence[str], ylabel: str) -> Figure:
    """Distances of two schedules against how coarse their steps are, a panel for each title."""
    with panel_row(panels, 3.3, sharey=True) as (figure, axes):
        for axis, bands, xlabel in zip(axes, panels.values(), xlabels, strict=True):
            lines(axis, bands, xscale="log", yscale="log", xlabel=xlabel)
            axis.axhline(1, color="0.3", linewidth=0.8)
            axis.legend(fontsize=7)
        axes[0].set_ylabel(ylabel)
    return figure
