"""The critical batch size (T2): gradient evaluations and steps against the batch size."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfolib.plotting.style import LINES, NAMES, colours, number, style


def against_batch_size(panels: Mapping[str, pd.DataFrame], quantity: str) -> Figure:
    """Gradient evaluations ("samples") or steps ("steps") to ε against the batch size, a panel for each problem.

    Each panel's frame has columns source ("bound", "predicted", "exact", "measured", "permutation"), eps2,
    batch_size, samples, steps and, where there is an interval of samples, low and high. A value of inf is one that was
    not reached: a cross at the top, the rows of different ε apart. The least samples of the bound are a star, of the
    measured curve a large ring. A bound that is off the page of what was measured has a panel of its own.
    """
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(7.2, 4.7), squeeze=False)
        for axis, (title, frame) in zip(axes[0], panels.items(), strict=True):
            _batch_panel(axis, frame, quantity)
            axis.set(title=title, xscale="log", yscale="log", xlabel="batch size $b$")
        axes[0, 0].set_ylabel(
            r"gradient evaluations $N$ to $\varepsilon$" if quantity == "samples" else r"steps $K$ to $\varepsilon$"
        )
        figure.legend(handles=_batch_legend(panels, quantity), loc="outside lower center", ncols=3)
    return figure


def _batch_panel(axis: Axes, frame: pd.DataFrame, quantity: str) -> None:
    palette = colours(frame["eps2"].unique())
    tried = frame[frame["source"].isin(["measured", "permutation"])]
    finite = frame[np.isfinite(frame[quantity])]
    measured = finite[finite["source"].isin(["measured", "permutation"])]
    measured = measured if len(measured) else finite if len(finite) else frame.assign(**{quantity: 1.0})
    top = measured[quantity].max() * 8
    rows = {eps2: 0.985 - 0.03 * k for k, eps2 in enumerate(palette)}  # of what was not reached, each ε in its own
    above = axis.get_xaxis_transform()  # heights as shares of the axis
    for (source, eps2), curve in frame.groupby(["source", "eps2"], sort=False):
        curve = curve.sort_values("batch_size")
        reached = curve[np.isfinite(curve[quantity])]
        colour = "k" if source == "predicted" else palette[eps2]  # it lies on what is measured
        axis.plot(reached["batch_size"], reached[quantity], color=colour, **LINES[source])
        if source == "measured":
            missed = curve.loc[~np.isfinite(curve[quantity]), "batch_size"]
            axis.plot(missed, np.full(len(missed), rows[eps2]), "x", color=colour, markersize=4, transform=above)
        if quantity == "samples" and "low" in reached and reached["low"].notna().any():
            high = reached["high"].where(np.isfinite(reached["high"]), top)
            axis.fill_between(reached["batch_size"], reached["low"], high, color=colour, alpha=0.25, linewidth=0)
        if quantity == "samples" and len(reached) and source in ("bound", "measured"):
            best = reached.iloc[reached["samples"].argmin()]
            marker = "*" if source == "bound" else "o"
            if best["samples"] < top:
                axis.plot(best["batch_size"], best["samples"], marker, color=colour, fillstyle="none", markersize=9)
    if len(tried):
        axis.set_xlim(0.8, tried["batch_size"].max() * 1.6)
        axis.set_ylim(measured[quantity].min() / 2, top * 1.5)
    else:  # a bound alone: from its least, far from where it has none
        least = finite.loc[finite.groupby("eps2")["samples"].idxmin()]
        axis.set_xlim(least["batch_size"].min() / 10, least["batch_size"].max() * 20)
        ends = finite[finite["batch_size"].between(*axis.get_xlim())].groupby("eps2")[quantity]
        axis.set_ylim(ends.min().min() / 2, least[quantity].max() * 20)
    handles = [Line2D([], [], color=palette[e], linewidth=2, label=number(e)) for e in palette]
    axis.legend(
        handles=handles,
        title=r"$\varepsilon^2$",
        fontsize=7.5,
        title_fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=2,
        handlelength=1.0,
        labelspacing=0.25,
    )


def _batch_legend(panels: Mapping[str, pd.DataFrame], quantity: str) -> list[Line2D]:
    shown = [s for s in LINES if any(s in set(frame["source"]) for frame in panels.values())]
    handles = [Line2D([], [], color="0.3", label=NAMES[s], **LINES[s]) for s in shown]
    plain = {"color": "0.3", "linestyle": "none", "fillstyle": "none"}
    if quantity == "samples":
        if "bound" in shown:
            handles.append(Line2D([], [], marker="*", markersize=9, label=r"least $N$ of the bound", **plain))
        handles.append(Line2D([], [], marker="o", markersize=9, label=r"least $N$ measured (band: 95 %)", **plain))
    if any((~np.isfinite(f.loc[f["source"] == "measured", quantity])).any() for f in panels.values()):
        handles.append(Line2D([], [], marker="x", markersize=4, label="not reached", **plain))
    return handles
