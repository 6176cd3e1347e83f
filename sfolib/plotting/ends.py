"""Where methods end at equal budgets, and how they get there."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from sfolib.plotting.style import style, tick


def ends(frame: pd.DataFrame, criteria: Mapping[str, str], default: float) -> Figure:
    """A row of panels for each problem, one for each of `criteria` (column → label) and one for steps; in each a row
    for each method, at its best factor for this criterion (dot) and at the default factor (ring).

    frame: columns problem, group, method, factor, criterion, value, low, high (inf: diverged), steps, looked (share of
    the budget).
    """
    methods = frame.drop_duplicates("method").set_index("method")["group"]
    groups = list(dict.fromkeys(methods))
    palette = dict(zip(groups, sns.color_palette("colorblind", len(groups)), strict=True))
    problems = list(dict.fromkeys(frame["problem"]))
    with style():
        figure, axes = plt.subplots(
            len(problems),
            len(criteria) + 1,
            figsize=(7.2, len(problems) * (0.55 + 0.17 * len(methods)) + 0.3),
            sharey=True,
            squeeze=False,
        )
        for i, (row, problem) in enumerate(zip(axes, problems, strict=True)):
            of_problem = frame[(frame["problem"] == problem) & np.isfinite(frame["value"])]
            for axis, criterion in zip(row, criteria, strict=False):
                part = of_problem[of_problem["criterion"] == criterion].sort_values("value")
                for y, (method, group) in enumerate(methods.items()):
                    of_method, colour = part[part["method"] == method], palette[group]
                    ring = of_method.loc[of_method["factor"] == default, "value"]
                    axis.plot(ring, [y] * len(ring), "o", color=colour, fillstyle="none", markeredgewidth=0.8)
                    best = of_method[:1]
                    axis.plot([best["low"], best["high"]], [[y]] * 2, color=colour, linewidth=1.5, alpha=0.6)
                    axis.plot(best["value"], [y] * len(best), "o", color=colour, markersize=3.5)
                axis.set_title("" if i else criteria[criterion], fontsize=8.5)
            steps = frame[(frame["problem"] == problem) & (frame["factor"] == default)].drop_duplicates("method")
            colours = [palette[group] for group in steps["group"]]
            row[-1].scatter(steps["steps"], [methods.index.get_loc(m) for m in steps["method"]], 12, colours, zorder=2)
            row[-1].set_title("" if i else "steps, at η₀", fontsize=8.5)
            for axis in row:
                axis.set(xscale="log", yticks=range(len(methods)), yticklabels=[*methods.index])
                few_ticks(axis)
                axis.tick_params(labelsize=7)
            row[0].set_ylabel(problem)
        axes[0, 0].invert_yaxis()
        marks = [Line2D([], [], color=palette[group], marker="o", linestyle="", label=group) for group in groups]
        marks += [
            Line2D([], [], color="0.3", marker="o", markersize=3.5, linestyle="-", label="best η"),
            Line2D([], [], color="0.3", marker="o", markersize=6, fillstyle="none", linestyle="", label="at η₀"),
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=4)
    return figure


def to_the_end(curves: Mapping[str, Mapping[str, pd.DataFrame]], columns: Mapping[str, str]) -> Figure:
    """A row of panels for each problem, one for each of `columns` (column → label), against gradient evaluations.

    curves: by problem and method, rows of several seeds at the same `samples`; drawn are means over the seeds, and
    bands from the least to the largest.
    """
    methods = list(dict.fromkeys(method for of_problem in curves.values() for method in of_problem))
    palette = dict(zip(methods, sns.color_palette("colorblind", len(methods)), strict=True))
    with style():
        size = (7.2, 1.75 * len(curves) + 0.5)
        figure, axes = plt.subplots(len(curves), len(columns), figsize=size, sharex="row", squeeze=False)
        for i, (row, (problem, of_problem)) in enumerate(zip(axes, curves.items(), strict=True)):
            for axis, (column, label) in zip(row, columns.items(), strict=True):
                for method, rows in of_problem.items():
                    at = rows[rows["samples"] > 0].groupby("samples")[column].agg(["mean", "min", "max"])
                    axis.plot(at.index, at["mean"], color=palette[method], linewidth=1.1, label=method)
                    axis.fill_between(at.index, at["min"], at["max"], color=palette[method], alpha=0.12, linewidth=0)
                axis.set_yscale("log")
                axis.xaxis.set_major_locator(MaxNLocator(3))
                axis.xaxis.set_major_formatter(EngFormatter(sep=""))
                axis.tick_params(labelsize=7)
                axis.set_title("" if i else label, fontsize=8.5)
            row[0].set_ylabel(problem)
        for axis in axes[-1]:
            axis.set_xlabel("gradient evaluations", fontsize=7.5)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def few_ticks(axis: Axes) -> None:
    """Three ticks or so on a narrow panel's logarithmic x axis, evenly apart where it spans less than a decade."""
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(numticks=4) if high > 10 * low else MaxNLocator(3))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(tick)
