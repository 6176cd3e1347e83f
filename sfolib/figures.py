"""Records → matplotlib figures. No training and no files here.

One style: theory dashed, exact thin, measured solid with markers; confidence bands shaded; colour-blind safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from sfolib.check import Slope

LINES: dict[str, dict] = {
    "bound": {"linestyle": (0, (4, 2)), "linewidth": 1.2},
    "exact": {"linestyle": "-", "linewidth": 0.8},
    "measured": {"linestyle": "-", "linewidth": 1.5, "marker": "o", "markersize": 3.5},
    "permutation": {"linestyle": ":", "linewidth": 1.2, "marker": "s", "markersize": 3, "fillstyle": "none"},
}
NAMES = {
    "bound": "theory (bound)",
    "exact": "exact expectation",
    "measured": "measured, with replacement",
    "permutation": "measured, by permutation",
}


@contextmanager
def style() -> Iterator[None]:
    """The one style of every figure."""
    settings = {
        "font.size": 8.5,
        "axes.titlesize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.9",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.facecolor": "white",
    }
    with mpl.rc_context(settings):
        yield


def colours(values: Sequence[float]) -> dict[float, tuple]:
    """A colour for each value, dark to light as values fall; legible in grey and to the colour-blind."""
    ordered = sorted(values, reverse=True)
    return dict(zip(ordered, sns.color_palette("viridis", len(ordered) + 1)[: len(ordered)], strict=True))


def against_batch(panels: Mapping[str, pd.DataFrame], quantity: str) -> Figure:
    """Gradient evaluations ("sfo") or steps ("steps") to ε against the batch size, a panel for each problem.

    Each panel's frame has columns source ("bound", "exact", "measured", "permutation"), eps2, batch, sfo, steps and,
    where there is an interval of sfo, low and high. A value of inf is one that was not reached: a cross at the top.
    The least sfo of the bound is a star, of the measured curve a large ring.
    """
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(7.2, 4.0), squeeze=False)
        for axis, (title, frame) in zip(axes[0], panels.items(), strict=True):
            _batch_panel(axis, frame, quantity)
            axis.set(title=title, xscale="log", yscale="log", xlabel="batch size $b$")
        axes[0, 0].set_ylabel(
            r"gradient evaluations $N$ to $\varepsilon$" if quantity == "sfo" else r"steps $K$ to $\varepsilon$"
        )
        figure.legend(handles=_batch_legend(panels, quantity), loc="outside lower center", ncols=3)
    return figure


def _batch_panel(axis: Axes, frame: pd.DataFrame, quantity: str) -> None:
    palette = colours(frame["eps2"].unique())
    measured = frame[frame["source"].isin(["measured", "permutation"]) & np.isfinite(frame[quantity])]
    top = measured[quantity].max() * 8
    for (source, eps2), curve in frame.groupby(["source", "eps2"], sort=False):
        curve = curve.sort_values("batch")
        reached = curve[np.isfinite(curve[quantity])]
        colour = palette[eps2]
        axis.plot(reached["batch"], reached[quantity], color=colour, **LINES[source])
        if source == "measured":
            missed = curve.loc[~np.isfinite(curve[quantity]), "batch"]
            axis.plot(missed, np.full(len(missed), top), "x", color=colour, markersize=4)
        if quantity == "sfo" and reached["low"].notna().any():
            high = reached["high"].where(np.isfinite(reached["high"]), top)
            axis.fill_between(reached["batch"], reached["low"], high, color=colour, alpha=0.25, linewidth=0)
        if quantity == "sfo" and len(reached) and source in ("bound", "measured"):
            best = reached.iloc[reached["sfo"].argmin()]
            marker = "*" if source == "bound" else "o"
            if best["sfo"] < top:
                axis.plot(best["batch"], best["sfo"], marker, color=colour, fillstyle="none", markersize=9)
    axis.set_xlim(0.8, measured["batch"].max() * 1.6)
    axis.set_ylim(measured[quantity].min() / 2, top * 1.5)
    handles = [Line2D([], [], color=palette[e], linewidth=2, label=f"{e:.0e}".replace("e-0", "e-")) for e in palette]
    axis.legend(
        handles=handles,
        title=r"$\varepsilon^2$",
        fontsize=7.5,
        title_fontsize=8,
        loc="lower right" if quantity == "sfo" else "lower left",
        handlelength=1.0,
        labelspacing=0.25,
    )


def _batch_legend(panels: Mapping[str, pd.DataFrame], quantity: str) -> list[Line2D]:
    shown = [s for s in LINES if any(s in set(frame["source"]) for frame in panels.values())]
    handles = [Line2D([], [], color="0.3", label=NAMES[s], **LINES[s]) for s in shown]
    plain = {"color": "0.3", "linestyle": "none", "fillstyle": "none"}
    if quantity == "sfo":
        handles.append(Line2D([], [], marker="*", markersize=9, label=r"least $N$ of the bound", **plain))
        handles.append(Line2D([], [], marker="o", markersize=9, label=r"least $N$ measured (band: 95 %)", **plain))
    if any((~np.isfinite(f.loc[f["source"] == "measured", quantity])).any() for f in panels.values()):
        handles.append(Line2D([], [], marker="x", markersize=4, label="not reached", **plain))
    return handles


class Curve(NamedTuple):
    """A curve of a figure. source picks its line (see `LINES`); slope, if there is one, is told in the legend."""

    label: str
    source: str
    x: np.ndarray
    y: np.ndarray
    slope: Slope | None = None


def power_laws(panels: Mapping[str, Sequence[Curve]], xlabel: str) -> Figure:
    """Curves on log-log axes, a panel for each y label. A problem (the label up to a colon) has one colour."""
    problems = list(dict.fromkeys(curve.label.split(":")[0] for curves in panels.values() for curve in curves))
    palette = dict(zip(problems, sns.color_palette("colorblind"), strict=False))
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(7.2, 4.0), squeeze=False)
        for axis, (ylabel, curves) in zip(axes[0], panels.items(), strict=True):
            for label, source, x, y, slope in curves:
                told = "" if slope is None else f", exponent {slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
                axis.plot(x, y, color=palette[label.split(":")[0]], label=label + told, **LINES[source])
            axis.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
            axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


class Band(NamedTuple):
    """A line of a figure with its confidence band, if it has one. source picks the line's style (see `LINES`)."""

    label: str
    source: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def lines(axis: Axes, bands: Sequence[Band], **settings: object) -> None:
    """Bands in colours that the colour-blind can tell apart, with a legend; settings are the axis'."""
    for (label, source, x, y, low, high), colour in zip(bands, sns.color_palette("colorblind"), strict=False):
        axis.plot(x, y, color=colour, label=label, **LINES[source])
        if low is not None:
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.set(**settings)


def rate_exponents(gamma: np.ndarray, delta: np.ndarray, p: np.ndarray, tested: pd.DataFrame) -> Figure:
    """p(δ, γ, τ = 1) as a map with the surface δ = γ² and the measured exponents on it; beside it, all against p.

    p has shape (len(delta), len(gamma)). tested has columns delta, gamma, tau, p, bound and exact; those at τ = 1 stand
    in the map, filled with the exponent measured by the exact recursion: where theory holds they have its colour.
    """
    with style():
        figure, (map_, parity) = plt.subplots(1, 2, figsize=(7.2, 3.7), width_ratios=(1.25, 1))
        map_.grid(False)
        shades = {"cmap": "viridis", "vmin": 0.0, "vmax": 0.5}
        mesh = map_.pcolormesh(gamma, delta, p, shading="gouraud", rasterized=True, **shades)
        map_.plot(gamma, gamma**2, color="white", label=r"$\delta=\gamma^2$: $p=1/2$", **LINES["bound"])
        map_.plot(gamma, gamma, color="white", linewidth=0.8, linestyle=":", label=r"$\delta=\gamma$: $p=0$")
        here = tested[tested["tau"] == 1]
        map_.scatter(here["gamma"], here["delta"], c=here["exact"], s=34, edgecolor="white", linewidth=0.9, **shades)
        map_.set(
            xlim=(gamma[0], gamma[-1]),
            ylim=(delta[0], delta[-1]),
            title=r"equal steps a stage, $\tau=1$",
            xlabel=r"learning-rate growth a stage $\gamma$",
            ylabel=r"batch growth a stage $\delta$",
        )
        map_.legend(loc="upper left", fontsize=7.5, labelcolor="white")
        figure.colorbar(mesh, ax=map_, label=r"exponent $p$ of $\min\mathbb{E}\|\nabla f\|^2=O(N^{-p})$", pad=0.02)
        parity.plot([0, 0.5], [0, 0.5], color="0.3", label="theory (T5)", **LINES["bound"])
        plain = {"linestyle": "none", "markersize": 4.5}
        dark, light = sns.color_palette("colorblind")[:2]
        parity.plot(tested["p"], tested["exact"], "o", color=dark, label="quadratic, exact", **plain)
        parity.plot(tested["p"], tested["bound"], "s", color=light, fillstyle="none", label="bound", **plain)
        parity.set(title=r"all $(\delta,\gamma,\tau)$", xlabel="predicted $p$", ylabel="fitted exponent")
        parity.legend(loc="upper left", fontsize=7.5)
    return figure


def anytime(
    r: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    worst: pd.DataFrame,
    over_eps: Mapping[str, tuple[Sequence[Band], float]],
) -> Figure:
    """The price of not knowing ε: against r in the first panel, against the target in one more for each of over_eps.

    predicted: a label's ratio at each r, its minimum marked. worst: columns label (as in predicted), r, ratio and
    restart. over_eps: a title's curves against ε² and the predicted maximum.
    """
    palette = dict(zip(predicted, sns.color_palette("colorblind"), strict=False))
    with style():
        figure, axes = plt.subplots(1, 1 + len(over_eps), figsize=(7.2, 3.9))
        for label, ratio in predicted.items():
            least = int(np.argmin(ratio))
            told = f"{label}: least {ratio[least]:.2f} at r = {r[least]:.2f}"
            axes[0].plot(r, ratio, color=palette[label], label=told, **LINES["bound"])
            axes[0].plot(r[least], ratio[least], "*", color=palette[label], markersize=10)
        for (label, restart), points in worst.groupby(["label", "restart"], sort=False):
            fill = "full" if restart else "none"
            axes[0].plot(points["r"], points["ratio"], "o", color=palette[label], fillstyle=fill, markersize=4.5)
        axes[0].set(
            yscale="log",
            xlabel=r"$r=(\varepsilon_{m-1}/\varepsilon_m)^2$",
            title="worst case over ε",
            ylabel="gradient evaluations / best constant batch's",
        )
        axes[0].set_ylim(0.8, 1.1 * max(ratio.max() for ratio in predicted.values()))
        _log_ticks(axes[0].yaxis)
        dots = {"color": "0.3", "marker": "o", "linestyle": "none", "markersize": 4.5}
        handles = [*axes[0].get_legend_handles_labels()[0],
                   
            Line2D([], [], label="exact, each stage from $\\theta_0$", **dots),
            Line2D([], [], label="exact, stages go on", fillstyle="none", **dots),
        ]
        axes[0].legend(handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
        for axis, (title, (curves, limit)) in zip(axes[1:], over_eps.items(), strict=True):
            lines(axis, curves, title=title, xscale="log", xlabel=r"target $\varepsilon^2$")
            axis.axhline(limit, color="0.3", label=f"predicted worst case, {limit:.3g}", **LINES["bound"])
            axis.axhline(1, color="0.6", linewidth=0.8)
            axis.invert_xaxis()
            axis.set_ylim(0, None)
            axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def overheads(panels: Mapping[str, tuple[Sequence[Band], str]], limit: float | None = None) -> Figure:
    """Curves with bands against ε² (falling to the right), a panel for each title, with its y label.

    limit: a predicted worst case, drawn in the last panel.
    """
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(7.2, 3.7), squeeze=False)
        for axis, (title, (curves, ylabel)) in zip(axes[0], panels.items(), strict=True):
            lines(axis, curves, title=title, xscale="log", yscale="log", ylabel=ylabel)
            axis.set_xlabel(r"target $\varepsilon^2$")
            axis.invert_xaxis()
            _log_ticks(axis.xaxis, axis.yaxis)
        if limit is not None:
            axis.axhline(limit, color="0.3", label=f"predicted worst case, {limit:.3g}", **LINES["bound"])
        for axis in axes[0]:
            axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def _log_ticks(*axes: Axis, at: Sequence[float] = (1, 2, 5)) -> None:
    """Ticks at 1, 2, 5 (or at) times the powers of ten, as plain numbers."""
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=at))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
