"""Where methods end at equal budgets."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfolib.plotting.style import log_ticks, style


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
        for row, problem in zip(axes, problems, strict=True):
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
                axis.set_title(criteria[criterion] if row is axes[0] else "", fontsize=8.5)
            steps = frame[(frame["problem"] == problem) & (frame["factor"] == default)].drop_duplicates("method")
            colours = [palette[group] for group in steps["group"]]
            row[-1].scatter(steps["steps"], [methods.index.get_loc(m) for m in steps["method"]], 12, colours, zorder=2)
            row[-1].set_title("steps, at η₀" if row is axes[0] else "", fontsize=8.5)
            for axis in row:
                axis.set(xscale="log", yticks=range(len(methods)), yticklabels=[*methods.index])
                log_ticks(axis.xaxis)
                axis.tick_params(labelsize=7)
            row[0].set_ylabel(problem)
        axes[0, 0].invert_yaxis()
        marks = [Line2D([], [], color=palette[group], marker="o", linestyle="", label=group) for group in groups]
        marks += [
            Line2D([], [], color="0.3", marker="o", markersize=3.5, linestyle="-", label="best η"),
            Line2D([], [], color="0.3", marker="o", markersize=6, fillstyle="none", linestyle="", label="at η₀"),
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=min(8, len(marks)))
    return figure
