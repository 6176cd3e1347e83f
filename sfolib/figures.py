"""Records → matplotlib figures. No training and no files here.

One style: theory dashed, exact thin, measured solid with markers; confidence bands shaded; colour-blind safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

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

from sfolib.check import Front, Slope

if TYPE_CHECKING:
    from sfolib.optimal import Optimum

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
            ylabel="ratio of gradient evaluations",
        )
        axes[0].set_ylim(0.8, 1.1 * max(ratio.max() for ratio in predicted.values()))
        _log_ticks(axes[0].yaxis)
        dots = {"color": "0.3", "marker": "o", "linestyle": "none", "markersize": 4.5}
        handles = [
            *axes[0].get_legend_handles_labels()[0],
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
            axes[0, -1].axhline(limit, color="0.3", label=f"predicted worst case, {limit:.3g}", **LINES["bound"])
        for axis in axes[0]:
            axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def _log_ticks(*axes: Axis) -> None:
    """Ticks as plain numbers, at 1, or 1 and 3, or 1, 2 and 5 times the powers of ten, as the axis has room."""
    for axis in axes:
        decades = np.ptp(np.log10(axis.get_view_interval()))
        axis.set_major_locator(LogLocator(subs=(1,) if decades > 2.5 else (1, 3) if decades > 1.7 else (1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")


def fronts(panels: Mapping[str, Mapping[str, tuple[pd.DataFrame, Front | None]]], cloud: pd.DataFrame) -> Figure:
    """N against K to ε: a panel of raw fronts for each title, with their hyperbolas, and one where all must be one.

    A front is a frame of columns steps, sfo and source, and its fitted hyperbola; None for one that is the theory's.
    cloud: further points (steps, sfo) of the last title, those behind the front.
    """
    flat = [(label, *front) for of_title in panels.values() for label, front in of_title.items()]
    palette = dict(zip((label for label, _, _ in flat), sns.color_palette("colorblind", len(flat)), strict=True))
    dashes = {"color": "0.3", **LINES["bound"]}
    with style():
        figure, axes = plt.subplots(1, 1 + len(panels), figsize=(7.2, 4.1))
        for axis, (title, of_title) in zip(axes, panels.items(), strict=False):
            for label, (frame, fit) in of_title.items():
                source = frame["source"].iloc[0]
                axis.plot(frame["steps"], frame["sfo"], color=palette[label], label=label, **LINES[source])
                if fit is not None and source == "measured":
                    steps = np.geomspace(1.08 * fit.min_steps, frame["steps"].max(), 200)
                    axis.plot(steps, fit.sfo(steps), **dashes)
            axis.set(title=title)
        axes[-2].plot(cloud["steps"], cloud["sfo"], ".", color="0.75", markersize=3, zorder=0)
        for label, frame, fit in flat:
            if fit is not None:
                x, y = frame["steps"] / fit.min_steps, frame["sfo"] / fit.min_sfo
                axes[-1].plot(x, y, color=palette[label], **LINES[frame["source"].iloc[0]])
        _hyperbola(axes[-1], "$(K/K_{\\min}-1)(N/N_{\\min}-1)=1$")
        axes[-1].set(title="all, by their own fit", xlim=(0.9, 60), ylim=(0.9, 60))
        _log_ticks(axes[-1].xaxis, axes[-1].yaxis)
        for axis in axes[:-1]:
            axis.set(xscale="log", yscale="log", xlabel=r"steps $K$ to $\varepsilon$")
            _log_ticks(axis.xaxis, axis.yaxis)
        axes[0].set_ylabel(r"gradient evaluations $N$ to $\varepsilon$")
        for axis in axes:
            axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


def _hyperbola(axis: Axes, label: str) -> None:
    """T11's front in units of K_min and N_min."""
    x = np.geomspace(1.005, 200, 400)
    axis.plot(x, 1 + 1 / (x - 1), color="0.3", label=label, **LINES["bound"])
    axis.set(xscale="log", yscale="log", xlabel=r"steps $K/K_{\min}$", ylabel=r"gradient evaluations $N/N_{\min}$")


def best_lr(panels: Mapping[str, Sequence[tuple[Band, np.ndarray]]]) -> Figure:
    """The best learning rate against the batch size, a panel for each title; each curve with the rule's prediction."""
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(7.2, 3.7), squeeze=False)
        for axis, (title, pairs) in zip(axes[0], panels.items(), strict=True):
            lines(axis, [curve for curve, _ in pairs], title=title, xscale="log", yscale="log", xlabel="batch size $b$")
            for (curve, rule), drawn in zip(pairs, axis.get_lines(), strict=True):
                axis.plot(curve.x, rule, color=drawn.get_color(), **LINES["bound"])
            axis.plot([], [], color="0.3", label="$(1/L)/(1+B/b)$ at the fitted $B$", **LINES["bound"])
            axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16))
            _log_ticks(axis.xaxis, axis.yaxis)
        axes[0, 0].set_ylabel(r"best learning rate $\eta$")
    return figure


def front_paths(paths: Mapping[str, np.ndarray], times: Sequence[Band]) -> Figure:
    """Left: schedules stage by stage on the plane of the front. Right: time to ε over the least, against b/B.

    paths: (2, stages) each, K/K_min and N/N_min; the first stage is a ring. times: against b/B; the least is a star.
    """
    with style():
        figure, (plane, clock) = plt.subplots(1, 2, figsize=(7.2, 4.2))
        _hyperbola(plane, "front (T11)")
        shapes = zip(paths.items(), sns.color_palette("colorblind"), "ovsD^", strict=False)
        for (label, path), colour, marker in shapes:
            plane.plot(*path, color=colour, marker=marker, markersize=4.5, linewidth=1.0, label=label, alpha=0.9)
            plane.plot(*path[:, :1], "o", color=colour, markersize=9, fillstyle="none")
        plane.set(xlim=(0.9, 150), ylim=(0.9, 20))
        _log_ticks(plane.xaxis, plane.yaxis)
        for curve, colour in zip(times, sns.color_palette("viridis", len(times)), strict=True):
            least = int(np.argmin(curve.y))
            clock.plot(curve.x, curve.y / curve.y[least], color=colour, label=curve.label, **LINES[curve.source])
            clock.plot(curve.x[least], 1, "*", color=colour, markersize=10)
        clock.set(xscale="log", yscale="log", xlabel="batch size $b/B$", ylabel=r"time to $\varepsilon$ / least")
        clock.set_ylim(0.9, 20)
        _log_ticks(clock.yaxis)
        for axis in (plane, clock):
            axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def optimal_schedules(optima: Mapping[str, Mapping[str, Optimum]]) -> Figure:
    """The exact optimum's lr and batch over its steps, each over its largest: a panel for each case and target.

    optima: a row's title → a column's title → the optimum.
    """
    dark, light = sns.color_palette("colorblind")[:2]
    with style():
        shape = (len(optima), len(next(iter(optima.values()))))
        figure, axes = plt.subplots(*shape, figsize=(7.2, 1.9 * shape[0]), sharex=True, sharey=True, squeeze=False)
        for row, (target, of_target) in zip(axes, optima.items(), strict=True):
            for axis, found in zip(row, of_target.values(), strict=True):
                u = np.arange(found.steps) / (found.steps - 1)
                axis.plot(u, found.lr / found.lr.max(), color=dark, label=r"$\eta_t/\max\eta$", **LINES["exact"])
                batch = {**LINES["exact"], "linewidth": 1.6}
                axis.plot(u, found.batch / found.batch.max(), color=light, label=r"$b_t/\max b$", **batch)
                axis.set(yscale="log", ylim=(0.004, 1.4), xticks=[0, 0.5, 1])
                _log_ticks(axis.yaxis)
            row[0].set_ylabel(target)
        for axis, spectrum in zip(axes[0], next(iter(optima.values())), strict=True):
            axis.set_title(spectrum)
        for axis in axes[-1]:
            axis.set_xlabel("share of the steps")
        axes[0, 0].legend(fontsize=7.5, loc="lower left")
    return figure


def family_costs(costs: pd.DataFrame) -> Figure:
    """Gradient evaluations over the exact optimum's: a row for each family (the index), a marker for each column."""
    with style():
        figure, axis = plt.subplots(figsize=(7.2, 3.4))
        looks = zip(sns.color_palette("colorblind"), "osD^vP", strict=False)
        for (case, ratio), (colour, marker) in zip(costs.items(), looks, strict=False):
            axis.plot(ratio, np.arange(len(ratio)), marker, color=colour, markersize=5.5, label=case, alpha=0.85)
        axis.set(xscale="log", xlabel="gradient evaluations / those of the exact optimum", yticks=range(len(costs)))
        axis.set_yticklabels(costs.index)
        axis.invert_yaxis()
        _log_ticks(axis.xaxis)
        axis.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
