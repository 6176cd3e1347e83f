"""What a run can tell of its best batch size: the noise scale, the optimal batch of strongly convex theory, Adam's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from sfolib.plotting.style import LINES, Band, colours, hues, legend_below, number, panel_row, shared_legend, style


class Estimated(NamedTuple):
    """An estimate of the critical batch size at each ε²: label, values and, where measured, low and high."""

    label: str
    source: str
    eps2: np.ndarray
    batch_size: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def along(panels: Mapping[str, tuple[str, Sequence[Band]]]) -> Figure:
    """Estimates along runs: two columns of panels (title → y label and bands), log-log, against gradient evaluations.

    A value of inf, an estimate that is lost, is a gap. One label has one colour in all panels.
    """
    palette = hues(band.label for _, bands in panels.values() for band in bands)
    rows = -(-len(panels) // 2)
    with style():
        figure, axes = plt.subplots(rows, 2, figsize=(7.2, 2.5 * rows + 0.5), squeeze=False)
        for axis, (title, (ylabel, bands)) in zip(axes.flat, panels.items(), strict=True):
            axis.set(xscale="log", yscale="log", title=title, ylabel=ylabel)
            _bands(axis, bands, palette)
        for axis in axes[-1]:
            axis.set_xlabel("gradient evaluations")
        shared_legend(figure, axes.flat, ncols=2, fontsize=7.5)
    return figure


def _bands(axis: Axes, bands: Sequence[Band], palette: Mapping[str, tuple]) -> None:
    """Lines first: they alone decide what is shown, as an interval may have no end. Gaps where a value is inf."""
    for label, source, x, y, *_ in bands:
        shown = np.asarray(x) > 0
        kept = np.where(np.isfinite(y), y, np.nan)[shown]
        every = {"markevery": max(1, len(kept) // 12)} if "marker" in LINES[source] else {}
        axis.plot(np.asarray(x)[shown], kept, color=palette[label], label=label, **LINES[source], **every)
    bottom, top = axis.get_ylim()
    for label, _, x, _, low, high in bands:
        if low is not None:
            ends = [np.clip(end, bottom / 10, top * 10) for end in (low, high)]
            axis.fill_between(x, *ends, where=np.asarray(x) > 0, color=palette[label], alpha=0.2, linewidth=0)
    axis.set_ylim(bottom, top)


def critical_batch_sizes(panels: Mapping[str, Sequence[Estimated]]) -> Figure:
    """The critical batch size against ε², measured and as the estimates have it: a panel for each problem."""
    palette = hues(item.label for items in panels.values() for item in items)
    with panel_row(panels, 3.9) as (figure, axes):
        for axis, items in zip(axes, panels.values(), strict=True):
            for label, source, eps2, batch_size, low, high in items:
                if low is not None:
                    axis.vlines(eps2, low, high, color=palette[label], linewidth=4, alpha=0.3)
                axis.plot(eps2, batch_size, color=palette[label], label=label, **LINES[source])
            axis.set(xscale="log", yscale="log", xlabel=r"$\varepsilon^2$")
            axis.invert_xaxis()
            if np.ptp(np.log10(axis.get_xlim())) > 1.2:  # narrow panels
                axis.xaxis.set_major_locator(LogLocator(subs=(1,)))
        axes[0].set_ylabel("batch size (gradient evaluations)")
        shared_legend(figure, axes, ncols=2, fontsize=7.5)
    return figure


def optimal_batch_size(
    exact: pd.DataFrame, best: float, runs: Mapping[str, tuple[Sequence[Band], Mapping[str, float]]]
) -> Figure:
    """Strongly convex theory: what a constant τ costs, and τ_k along runs, a panel for each of two problems.

    exact: columns batch_size, bound, exact (gradient evaluations); best: its τ*. runs: title → bands of τ_k and what
    they are held against, by the same label or another.
    """
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(7.2, 3.4))
        axes[0].plot(exact["batch_size"], exact["bound"], color="0.3", label="bound", **LINES["bound"])
        axes[0].plot(exact["batch_size"], exact["exact"], color="C0", label="exact expectation", **LINES["exact"])
        axes[0].axvline(best, color="C3", linewidth=0.8, label=r"$\tau^*$")
        axes[0].set(title="quadratic: cost", xlabel=r"batch size $\tau$", ylabel="gradient evaluations")
        axes[0].set(xscale="log", yscale="log")
        for axis, (title, (bands, known)) in zip(axes[1:], runs.items(), strict=True):
            palette = hues(band.label for band in bands)
            axis.set(
                xscale="log", yscale="log", title=title, xlabel="gradient evaluations", ylabel=r"batch size $\tau_k$"
            )
            for label, value in known.items():
                alone = {} if label in palette else {"label": label}
                axis.axhline(value, color=palette.get(label, "0.3"), **LINES["bound"], **alone)
            _bands(axis, bands, palette)
        for axis in axes:
            legend_below(axis, 0.22)
    return figure


def predicted_minimum(panels: Mapping[str, pd.DataFrame], fitted: Mapping[tuple[str, float], float]) -> Figure:
    """Gradient evaluations to ε against the batch size, and where the fitted K(b) has their minimum.

    panels: columns eps2, batch_size, samples, low, high as of `crossings`. fitted: b* of each (title, ε²), dashed.
    """
    with panel_row(panels, 3.4) as (figure, axes):
        for axis, (title, frame) in zip(axes, panels.items(), strict=True):
            palette = colours(frame["eps2"].unique())
            for eps2, curve in frame.groupby("eps2", sort=False):
                reached = curve[np.isfinite(curve["samples"])].sort_values("batch_size")
                axis.plot(reached["batch_size"], reached["samples"], color=palette[eps2], **LINES["measured"])
                high = reached["high"].where(np.isfinite(reached["high"]), 2 * reached["samples"])
                axis.fill_between(
                    reached["batch_size"], reached["low"], high, color=palette[eps2], alpha=0.25, linewidth=0
                )
                if (title, eps2) in fitted:
                    axis.axvline(fitted[title, eps2], color=palette[eps2], **LINES["bound"])
            axis.set(xscale="log", yscale="log", xlabel="batch size $b$")
            handles = [Line2D([], [], color=palette[e], linewidth=2, label=number(e)) for e in palette]
            axis.legend(handles=handles, title=r"$\varepsilon^2$", fontsize=7, loc="lower right")
        axes[0].set_ylabel(r"gradient evaluations $N$ to $\varepsilon$")
    return figure
