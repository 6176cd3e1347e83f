"""Proofs and claims at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sfolib.analysis.claims import Check
from sfolib.plotting.style import LINES, style


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
    """Measured over theory, a row for each claim of kind "equal" or "upper_bound" whose theory is not 0: 1 is agreement
    for the first (full marks) and a limit from above for the second (rings)."""
    shown = [c for c in checks if c.kind in ("equal", "upper_bound") and np.all(np.asarray(c.theory, dtype=float) != 0)]
    dark = sns.color_palette("colorblind")[0]
    with style():
        figure, axis = plt.subplots(figsize=(7.2, 0.8 + 0.3 * len(shown)))
        axis.axvline(1, color="0.3", **LINES["bound"])
        for y, check in enumerate(shown):
            x = np.ravel(np.asarray(check.measured, dtype=float) / np.asarray(check.theory, dtype=float))
            fill = "full" if check.kind == "equal" else "none"
            axis.plot(x, np.full(len(x), y), "o", color=dark, fillstyle=fill, markersize=5, clip_on=False)
        axis.set(xlabel="computed / stated (ring: must not exceed 1)", yticks=range(len(shown)), xlim=(0, 1.1))
        axis.set_yticklabels([check.source for check in shown])
        axis.invert_yaxis()
    return figure
