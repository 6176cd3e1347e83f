"""Proofs and claims at a glance."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfolib.analysis.claims import Check
from sfolib.plotting.style import style


def proofs(frame: pd.DataFrame) -> Figure:
    """Steps of each result: assumed, and proved. frame: columns result, title, steps, assumed."""
    dark, light = sns.color_palette("colorblind")[:2]
    with style():
        figure, axis = plt.subplots(figsize=(7.2, 1 + 0.2 * len(frame)))
        y, proved = np.arange(len(frame)), frame["steps"] - frame["assumed"]
        axis.barh(y, proved, color=dark, label="proved by SymPy")
        axis.barh(y, frame["assumed"], left=proved, color=light, label="assumptions and definitions")
        axis.set_yticks(y, [f"{row.result}  {row.title}" for row in frame.itertuples()])
        axis.invert_yaxis()
        axis.set_axisbelow(True)
        axis.grid(axis="y", visible=False)
        axis.set(xlabel="steps")
        axis.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    return figure


def ratios(checks: Sequence[Check]) -> Figure:
    """How far computed / stated is from 1, a row for each claim of kind "equal" or "upper_bound" whose theory is not 0:
    dots with the tolerance as a bar for the first, rings for the second, red where one is above its bound."""
    shown = [c for c in checks if c.kind in ("equal", "upper_bound") and np.all(np.asarray(c.theory, dtype=float) != 0)]
    dark, _, _, red = sns.color_palette("colorblind")[:4]
    least, plain = 1e-12, {"linestyle": "none", "marker": "o", "markersize": 5}
    with style():
        figure, axis = plt.subplots(figsize=(7.2, 1.1 + 0.4 * len(shown)))
        for y, check in enumerate(shown):
            x = np.ravel(np.asarray(check.measured, dtype=float) / np.asarray(check.theory, dtype=float)) - 1
            bound = check.kind == "upper_bound"
            if not bound:
                axis.plot([least, check.tolerance], [y, y], color="0.85", linewidth=7, solid_capstyle="butt", zorder=1)
            for of, colour in ((x[~(x > 0)], dark), (x[x > 0], red if bound else dark)):
                at = np.maximum(np.abs(of), least)
                axis.plot(at, np.full(len(at), y), color=colour, fillstyle="none" if bound else "full", **plain)
        axis.set(
            xscale="log",
            xlabel="|computed / stated − 1|, or $10^{-12}$ where that is less",
            xlim=(least / 3, 2),
            yticks=range(len(shown)),
        )
        axis.set_yticklabels([textwrap.fill(f"{c.source}  {c.claim}", 56) for c in shown], fontsize=7)
        axis.invert_yaxis()
        handles = [
            Line2D([], [], color=dark, label="off by", **plain),
            Line2D([], [], color="0.85", linewidth=7, label="tolerance"),
            Line2D([], [], color=dark, fillstyle="none", label="below its bound by", **plain),
            Line2D([], [], color=red, fillstyle="none", label="above its bound by", **plain),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7.5)
    return figure
