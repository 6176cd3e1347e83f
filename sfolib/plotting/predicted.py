"""What a plan promised beside what it did: against the target, and on the plane of steps and gradient evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfolib.plotting.style import LINES, NAMES, Band, log_ticks, looks, style


def against_target(rows: Mapping[str, Mapping[str, Sequence[Band]]], level: float | None = None) -> Figure:
    """Curves against ε², falling to the right: a row for each y label, in it a panel for each title.

    The titles are the first row's. Curves of one label have one colour throughout, and one entry in the legend.
    level: a line across the last row.
    """
    bands = [band for row in rows.values() for panel in row.values() for band in panel]
    look_of = looks(band.label for band in bands)
    shape = len(rows), max(map(len, rows.values()))
    with style():
        figure, axes = plt.subplots(
            *shape, figsize=(7.2, 2.3 * len(rows) + 0.7), sharex="col", sharey="row", squeeze=False
        )
        for axis, title in zip(axes[0], next(iter(rows.values())), strict=True):
            axis.set_title(title)
        for line, (ylabel, row) in zip(axes, rows.items(), strict=True):
            for axis, panel in zip(line, row.values(), strict=True):
                for label, source, x, y, low, high in panel:
                    axis.plot(x, y, **LINES[source] | look_of[label] | {"markersize": 4})
                    if low is not None:
                        axis.fill_between(x, low, high, color=look_of[label]["color"], alpha=0.2, linewidth=0)
                axis.set(xscale="log", yscale="log")
            line[0].set_ylabel(ylabel)
            log_ticks(line[0].yaxis)
        for axis, panel in zip(axes[-1], row.values(), strict=True):
            targets = sorted({x for band in panel for x in band.x})
            ticks = sorted({targets[0], targets[(len(targets) - 1) // 2], targets[-1]})
            axis.set_xticks(ticks, [f"{x:.2g}" for x in ticks])
            axis.set_xticks([], minor=True)
            axis.set_xlabel(r"target $\varepsilon^2$")
            axis.invert_xaxis()
            if level is not None:
                axis.axhline(level, color="0.5", linewidth=0.8, zorder=0)
        handles = [Line2D([], [], label=label, markersize=4, **look) for label, look in look_of.items()]
        sources = dict.fromkeys(band.source for band in bands if band.source != "measured")
        handles += [Line2D([], [], color="0.3", label=NAMES[source], **LINES[source]) for source in sources]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def plane(panels: Mapping[str, tuple[pd.DataFrame, pd.DataFrame, Sequence[Band]]]) -> Figure:
    """N against K to one ε, a panel for each title: all constant pairs (cloud), the best of them (front), the plans.

    cloud, front: frames of columns steps and sfo. A plan is a `Band` whose x is K and whose y, low, high are N, each
    of one value.
    """
    look_of = looks(band.label for _, _, plans in panels.values() for band in plans)
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(7.2, 3.5), squeeze=False)
        for axis, (title, (cloud, front, plans)) in zip(axes[0], panels.items(), strict=True):
            axis.plot(cloud["steps"], cloud["samples"], ".", color="0.7", markersize=4, zorder=0)
            axis.plot(front["steps"], front["samples"], color="0.3", linewidth=0.8, zorder=1)
            for label, _, steps, samples, low, high in plans:
                if low is not None:
                    axis.vlines(steps, low, high, color=look_of[label]["color"], linewidth=1.2)
                axis.plot(steps, samples, linestyle="none", markersize=6, **look_of[label])
            axis.set(title=title, xscale="log", yscale="log", xlabel=r"steps $K$ to $\varepsilon$")
            log_ticks(axis.xaxis, axis.yaxis)
        axes[0, 0].set_ylabel(r"gradient evaluations $N$ to $\varepsilon$")
        plain = {"linestyle": "none", "markersize": 6}
        handles = [Line2D([], [], label=label, **plain, **look) for label, look in look_of.items()]
        handles.append(Line2D([], [], color="0.7", linestyle="none", marker=".", label="constant pairs"))
        handles.append(Line2D([], [], color="0.3", linewidth=0.8, label="the best of them"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
