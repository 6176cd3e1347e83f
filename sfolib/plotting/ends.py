"""Where methods end at equal budgets."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

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
            of_problem = frame[frame["problem"] == problem]
            for axis, criterion in zip(row, [*criteria, "steps"], strict=True):
                part = of_problem[of_problem["criterion"] == (criterion if criterion in criteria else next(iter(criteria)))]
                for y, (method, group) in enumerate(methods.items()):
                    rows = part[(part["method"] == method) & np.isfinite(part["value"])].sort_values("value")
                    colour = palette[group]
                    if criterion == "steps":
                        axis.plot(rows["steps"][rows["factor"] == default], [y] * (rows["factor"] == default).sum(), "o", color=colour, markersize=4)
                        continue
                    for _, end in rows[rows["factor"] == default].iterrows():
                        axis.plot(end["value"], y, "o", color=colour, markersize=6, fillstyle="none", markeredgewidth=0.8)
                    for _, end in rows[:1].iterrows():
                        axis.plot([end["low"], end["high"]], [y, y], color=colour, linewidth=1.5, alpha=0.6)
                        axis.plot(end["value"], y, "o", color=colour, markersize=3.5)
                axis.set(xscale="log", yticks=range(len(methods)), yticklabels=[*methods.index])
                log_ticks(axis.xaxis)
                axis.yaxis.set_minor_locator(NullLocator())
                axis.tick_params(axis="x", labelsize=7)
                axis.tick_params(axis="y", labelsize=7.5)
                if row is axes[0]:
                    axis.set_title(criteria.get(criterion, "steps, at η₀"), fontsize=8.5)
            row[0].set_ylabel(problem)
        axes[0, 0].invert_yaxis()
        marks = [Line2D([], [], color=palette[group], marker="o", linestyle="", label=group) for group in groups]
        marks += [
            Line2D([], [], color="0.3", marker="o", markersize=3.5, linestyle="-", label="best η"),
            Line2D([], [], color="0.3", marker="o", markersize=6, fillstyle="none", linestyle="", label="at η₀"),
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=min(8, len(marks)))
    return figure
