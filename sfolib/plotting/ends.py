"""Where methods end at equal budgets, and what they take to equal ε."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from sfolib.plotting.style import colours, looks, number, style, tick


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


def relative(frame: pd.DataFrame, criteria: Mapping[str, str]) -> Figure:
    """A panel for each of `criteria` (column → label), in each a row for each method and a mark for each problem.

    frame: columns problem, method, criterion, and ratio, low, high: of the method's end to that of one that all are
    compared with (at the line of 1; of itself no interval: nan).
    """
    methods, problems = list(dict.fromkeys(frame["method"])), list(dict.fromkeys(frame["problem"]))
    apart = np.linspace(-0.17, 0.17, len(problems)) if len(problems) > 1 else [0.0]
    with style():
        size = (7.2, 0.16 * len(methods) + 1.0)
        figure, axes = plt.subplots(1, len(criteria), figsize=size, sharey=True, squeeze=False)
        for axis, (criterion, label) in zip(axes[0], criteria.items(), strict=True):
            axis.axvline(1.0, color="0.4", linewidth=0.8)
            for problem, look, dy in zip(problems, looks(problems).values(), apart, strict=True):
                rows = frame[(frame["problem"] == problem) & (frame["criterion"] == criterion)]
                rows = rows[np.isfinite(rows["ratio"])]
                y = [methods.index(method) + dy for method in rows["method"]]
                axis.hlines(y, rows["low"], rows["high"], color=look["color"], linewidth=1.5, alpha=0.6)
                axis.plot(rows["ratio"], y, look["marker"], color=look["color"], markersize=3.5, label=problem)
            axis.set(xscale="log", yticks=range(len(methods)), yticklabels=methods)
            axis.set_title(label, fontsize=8.5)
            few_ticks(axis)
            axis.tick_params(labelsize=7)
        axes[0, 0].invert_yaxis()
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(problems))
    return figure


def arrivals(frame: pd.DataFrame, clocks: Mapping[str, str]) -> Figure:
    """What each method took to each ε²: a row of panels for each problem, one for each of `clocks` (column → label);
    in each a row for each method and a colour for each ε². A cross at the right: it never got there.

    frame: columns problem, method, eps2, and of each clock its value, and _low and _high where it has an interval;
    inf: never.
    """
    methods, problems = list(dict.fromkeys(frame["method"])), list(dict.fromkeys(frame["problem"]))
    palette = colours(list(dict.fromkeys(frame["eps2"])))
    with style():
        size = (7.2, len(problems) * (0.55 + 0.17 * len(methods)) + 0.3)
        figure, axes = plt.subplots(len(problems), len(clocks), figsize=size, sharey=True, squeeze=False)
        for i, (row, problem) in enumerate(zip(axes, problems, strict=True)):
            of_problem = frame[frame["problem"] == problem]
            for axis, (clock, label) in zip(row, clocks.items(), strict=True):
                values = of_problem[clock][np.isfinite(of_problem[clock])]
                most = values.max() if len(values) else 1.0
                for j, (eps2, rows) in enumerate(of_problem.groupby("eps2", sort=False)):
                    y = np.array([methods.index(method) for method in rows["method"]])
                    there = np.isfinite(rows[clock].to_numpy())
                    if f"{clock}_low" in rows:
                        ends = [rows[f"{clock}_{end}"].clip(upper=most)[there] for end in ("low", "high")]
                        axis.hlines(y[there], *ends, color=palette[eps2], linewidth=2, alpha=0.35)
                    axis.plot(rows[clock][there], y[there], "o", color=palette[eps2], markersize=3.5)
                    axis.plot(
                        [most * (2 + 0.8 * j)] * (~there).sum(), y[~there], "x", color=palette[eps2], markersize=3
                    )
                axis.set(xscale="log", yticks=range(len(methods)), yticklabels=methods)
                axis.set_title("" if i else label, fontsize=8.5)
                few_ticks(axis)
                axis.tick_params(labelsize=7)
            row[0].set_ylabel(problem)
        axes[0, 0].invert_yaxis()
        marks = [
            Line2D([], [], color=colour, marker="o", linestyle="", label=rf"$\varepsilon^2$ = {number(eps2)}")
            for eps2, colour in palette.items()
        ]
        marks.append(Line2D([], [], color="0.3", marker="x", linestyle="", markersize=4, label="never"))
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    return figure


def few_ticks(axis: Axes) -> None:
    """Three ticks or so on a narrow panel's logarithmic x axis, evenly apart where it spans less than a decade."""
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(numticks=4) if high > 10 * low else MaxNLocator(3))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(tick)
