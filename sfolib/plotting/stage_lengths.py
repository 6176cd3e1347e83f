"""How a budget is allotted to stages: the rate of each allotment, and where a given budget ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfolib.plotting.style import LINES, NAMES, Band, draw, hues, looks, panel_row, style

EXPONENT = r"$k$ of $e=(\delta/\gamma)^k$"
ENDS = r"$\min\mathrm{E}\,\|\nabla f\|^2$"


def exponents(tested: pd.DataFrame, paths: Sequence[Band], span: tuple[float, float]) -> Figure:
    """Left: p(k) = min(1 − 1/k, 1/k) and the fitted exponents of `tested` (columns delta, gamma, k, bound, exact).

    Right: paths of min E‖∇f‖² against gradient evaluations from span[0] to span[1].
    """
    k = np.linspace(0.4, 1.05 * tested["k"].max(), 400)
    with style():
        figure, (rate, path) = plt.subplots(1, 2, figsize=(7.2, 3.6))
        rate.plot(k, np.maximum(0, np.minimum(1 - 1 / k, 1 / k)), color="0.3", label="T5", **LINES["bound"])
        pairs = tested.groupby(["delta", "gamma"], sort=False)
        apart = np.linspace(-0.06, 0.06, len(pairs))  # or they would cover each other
        for ((delta, gamma), of_pair), colour, x in zip(pairs, sns.color_palette("colorblind"), apart, strict=False):
            label = rf"$\delta={delta:g}$, $\gamma={gamma:g}$"
            plain = {"color": colour, "linestyle": "none"}
            rate.plot(of_pair["k"] + x, of_pair["exact"], "o", label=label, markersize=4, **plain)
            rate.plot(of_pair["k"] + x, of_pair["bound"], "s", fillstyle="none", markersize=6.5, **plain)
        rate.set(xlabel=EXPONENT, ylabel=r"exponent $p$ of $O(N^{-p})$", title="rate; dots: quadratic, squares: bound")
        rate.legend(fontsize=7.5, loc="lower right")
        look = looks(band.label for band in paths)
        for label, source, x, y, *_ in paths:
            path.plot(x, y, label=label, **LINES[source] | look[label] | {"marker": ""})
        path.set(
            xscale="log",
            yscale="log",
            xlim=span,
            ylabel=ENDS,
            xlabel="gradient evaluations",
            title="quadratic, exact, going on for ever",
        )
        inside = np.concatenate([band.y[(band.x >= span[0]) & (band.x <= span[1])] for band in paths])
        path.set_ylim(inside.min() / 3, inside.max() * 2)
        path.legend(fontsize=7.5)
    return figure


def allotments(best: Sequence[Band], ends: Mapping[str, Sequence[Band]]) -> Figure:
    """Left: the best k at each budget. Right: the end of each allotment over the best one's, a colour a label."""
    palette = hues(ends)
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.9))
        for label, source, x, y, *_ in best:
            left.plot(x, y, color="0.2", label=label, **LINES[source])
        left.axhline(2, color="0.7", linewidth=0.8)
        left.set(xscale="log", xlabel="budget, gradient evaluations", ylabel=f"best {EXPONENT}")
        left.legend(fontsize=7.5)
        for label, bands in ends.items():
            for band in bands:
                right.plot(band.x, band.y, color=palette[label], **LINES[band.source] | {"linewidth": 1.3})
        right.set(
            xscale="log",
            yscale="log",
            xlabel="budget, gradient evaluations",
            ylabel=f"{ENDS} over the best allotment's",
        )
        handles = [Line2D([], [], color=colour, label=label) for label, colour in palette.items()]
        handles += [Line2D([], [], color="0.3", label=NAMES[source], **LINES[source]) for source in ("bound", "exact")]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def budget_ends(panels: Mapping[str, Sequence[Band]]) -> Figure:
    """What each allotment comes to against the budget in epochs, with intervals, a panel for each title."""
    palette = hues(band.label for bands in panels.values() for band in bands)
    with panel_row(panels, 3.6) as (figure, axes):
        for axis, bands in zip(axes, panels.values(), strict=True):
            for band in bands:
                draw(axis, band, color=palette[band.label])
            axis.set(xscale="log", yscale="log", xlabel="budget, epochs")
            ticks = sorted({x for band in bands for x in band.x})
            axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axis.set_xticks([], minor=True)
        axes[0].set_ylabel(ENDS)
        handles = [Line2D([], [], color=colour, label=label, **LINES["measured"]) for label, colour in palette.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure
