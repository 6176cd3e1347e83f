"""The front of steps against gradient evaluations (T11, T12), and the exact optimum beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfolib.analysis.fits import Front
from sfolib.plotting.style import LINES, Band, legend_below, lines, panel_row, style

if TYPE_CHECKING:
    from sfolib.theory.optimal_schedule import Optimum


def fronts(panels: Mapping[str, Mapping[str, tuple[pd.DataFrame, Front | None]]], cloud: pd.DataFrame) -> Figure:
    """N against K to ε: raw fronts under each of three titles, with their hyperbolas, and all where they must be one.

    A front is a frame of columns steps, samples and source, and its fitted hyperbola; None for one of theory.
    cloud: further points (steps, samples) of the last title, those behind the front.
    """
    flat = [(label, *front) for of_title in panels.values() for label, front in of_title.items()]
    palette = dict(zip((label for label, _, _ in flat), sns.color_palette("colorblind", len(flat)), strict=True))
    dashes = {"color": "0.3", "label": "fitted hyperbola", **LINES["bound"]}
    with style():
        figure, grid = plt.subplots(2, 2, figsize=(7.2, 7.4))
        axes = grid.ravel()
        for axis, (title, of_title) in zip(axes, panels.items(), strict=False):
            for label, (frame, fit) in of_title.items():
                source = frame["source"].iloc[0]
                axis.plot(frame["steps"], frame["samples"], color=palette[label], label=label, **LINES[source])
                if fit is not None and source == "measured":
                    steps = np.geomspace(1.08 * fit.min_steps, frame["steps"].max(), 200)
                    axis.plot(steps, fit.samples(steps), **dashes)
                    dashes["label"] = "_"  # one entry for all
            axis.set(title=title)
        dots = {"color": "0.75", "markersize": 3, "zorder": 0, "label": "pairs behind the front"}
        axes[-2].plot(cloud["steps"], cloud["samples"], ".", **dots)
        for label, frame, fit in flat:
            if fit is not None:
                x, y = frame["steps"] / fit.min_steps, frame["samples"] / fit.min_samples
                axes[-1].plot(x, y, color=palette[label], **LINES[frame["source"].iloc[0]])
        _hyperbola(axes[-1], "$(K/K_{\\min}-1)(N/N_{\\min}-1)=1$")
        axes[-1].set(title="all, by their own fit", xlim=(0.9, 60), ylim=(0.9, 60))
        for axis in axes[:-1]:
            axis.set(xscale="log", yscale="log", xlabel=r"steps $K$ to $\varepsilon$")
        for axis in (axes[0], axes[2]):
            axis.set_ylabel(r"gradient evaluations $N$ to $\varepsilon$")
        for axis in axes:
            legend_below(axis)
    return figure


def _hyperbola(axis: Axes, label: str) -> None:
    """T11's front in units of K_min and N_min."""
    x = np.geomspace(1.005, 200, 400)
    axis.plot(x, 1 + 1 / (x - 1), color="0.3", label=label, **LINES["bound"])
    axis.set(xscale="log", yscale="log", xlabel=r"steps $K/K_{\min}$", ylabel=r"gradient evaluations $N/N_{\min}$")


def best_lr(panels: Mapping[str, Sequence[tuple[Band, np.ndarray]]]) -> Figure:
    """The best learning rate against the batch size, a panel for each title; each curve with the rule's prediction."""
    with panel_row(panels, 3.7) as (figure, axes):
        for axis, pairs in zip(axes, panels.values(), strict=True):
            lines(axis, [curve for curve, _ in pairs], xscale="log", yscale="log", xlabel="batch size $b$")
            for (curve, rule), drawn in zip(pairs, axis.get_lines(), strict=True):
                axis.plot(curve.x, rule, color=drawn.get_color(), **LINES["bound"])
            axis.plot([], [], color="0.3", label="$(1/L)/(1+B/b)$ at the fitted $B$", **LINES["bound"])
            legend_below(axis)
        axes[0].set_ylabel(r"best learning rate $\eta$")
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
        plain = {"color": "0.3", "linestyle": "none"}
        plane.plot([], [], "o", markersize=9, fillstyle="none", label="first stage", **plain)
        plane.set(xlim=(0.9, 150), ylim=(0.9, 20))
        for curve, colour in zip(times, sns.color_palette("viridis", len(times)), strict=True):
            least = int(np.argmin(curve.y))
            clock.plot(curve.x, curve.y / curve.y[least], color=colour, label=curve.label, **LINES[curve.source])
            clock.plot(curve.x[least], 1, "*", color=colour, markersize=10)
        clock.plot([], [], "*", markersize=10, label="least time", **plain)
        clock.set(xscale="log", yscale="log", xlabel="batch size $b/B$", ylabel=r"time to $\varepsilon$ / least")
        clock.set_ylim(0.9, 20)
        for axis in (plane, clock):
            legend_below(axis)
    return figure


def optimal_schedules(optima: Mapping[str, Mapping[str, Optimum]]) -> Figure:
    """The exact optimum's lr and batch over its steps, each over its largest: a panel for each case and target.

    optima: what is to be reached, a row → the case, a column → the optimum.
    """
    dark, light = sns.color_palette("colorblind")[:2]
    with style():
        shape = (len(optima), len(next(iter(optima.values()))))
        figure, axes = plt.subplots(*shape, figsize=(7.2, 1.9 * shape[0]), sharex=True, sharey=True, squeeze=False)
        for row, (target, of_target) in zip(axes, optima.items(), strict=True):
            for axis, (case, found) in zip(row, of_target.items(), strict=True):
                u = np.arange(found.steps) / (found.steps - 1)
                axis.plot(u, found.lr / found.lr.max(), color=dark, label=r"$\eta_t/\max\eta$", **LINES["exact"])
                batch_size = {**LINES["exact"], "linewidth": 1.6}
                axis.plot(
                    u, found.batch_size / found.batch_size.max(), color=light, label=r"$b_t/\max b$", **batch_size
                )
                axis.set(yscale="log", ylim=(0.004, 1.4), xticks=[0, 0.5, 1])
                axis.set_title(f"{target}: {case}", fontsize=8.5)
            row[0].set_ylabel("over its largest")
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
        axis.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
