"""AutoWU: what its warm-up saw, and the lr it found beside a sweep. AdaScale: the same curve at every scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from sfolib.plotting.style import LINES, Band, draw, hues, panel_row, shared_legend, style


class WarmUp(NamedTuple):
    """One warm-up: losses of the steps at their lr, the curves that fits see behind them up to the decision (mean and
    standard deviation over lr), and the lr at the decision."""

    lr: np.ndarray
    losses: np.ndarray
    fits: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    decided: float


def warm_ups(panels: Mapping[str, WarmUp]) -> Figure:
    """Loss against the growing lr, a panel for each title. A star is the least of a curve; bands are ± 2 deviations."""
    with panel_row(panels, 3.5, sharey=True) as (figure, axes):
        for axis, seen in zip(axes, panels.values(), strict=True):
            axis.plot(seen.lr, seen.losses, ".", color="0.65", markersize=2.5, label="loss of a step")
            colours = sns.color_palette("colorblind")
            for (label, (lr, mean, deviation)), colour, line in zip(
                seen.fits.items(), colours, ("-", "--"), strict=False
            ):
                axis.plot(lr, mean, line, color=colour, linewidth=1.4, label=label)
                axis.fill_between(lr, mean - 2 * deviation, mean + 2 * deviation, color=colour, alpha=0.2, linewidth=0)
                axis.plot(lr[mean.argmin()], mean.min(), "*", color=colour, markersize=11, markeredgecolor="white")
            axis.axvline(seen.decided, color="0.3", linewidth=1.0, linestyle=":", label="decided")
            axis.set(xscale="log", xlabel=r"learning rate $\eta$ of the warm-up")
        start = max(seen.losses[0] for seen in panels.values())
        axes[0].set(ylabel="training loss", ylim=(-0.15, 1.35 * start))
        shared_legend(figure, axes[:1], ncols=4)
    return figure


def peaks(panels: Mapping[str, tuple[Band, Mapping[str, np.ndarray]]]) -> Figure:
    """Loss at the end against a constant lr, with its band, and below it the lr that each seed found by each system."""
    with panel_row(panels, 3.6, sharey=True) as (figure, axes):
        for axis, (sweep, found) in zip(axes, panels.values(), strict=True):
            draw(axis, sweep, color="0.25", label=sweep.label)
            colours = sns.color_palette("colorblind")
            for row, ((label, lr), colour, marker) in enumerate(zip(found.items(), colours, "sD^v", strict=False)):
                height = np.full(len(lr), 0.075 / 1.22**row)
                axis.plot(lr, height, marker, color=colour, markersize=5, alpha=0.75, label=label)
            axis.set(xscale="log", yscale="log", xlabel=r"learning rate $\eta$")
        axes[0].set_ylabel("training loss at the end")
        shared_legend(figure, axes, ncols=2)
    return figure


def scales(
    by_step: Sequence[Band], by_iteration: Sequence[Band], gains: Mapping[str, tuple[Band, Band, Band]], iterations: str
) -> Figure:
    """Loss against steps and against `iterations`; and r against those, of each scale: as used, exact, and lagged."""
    palette = hues(band.label for band in (*by_step, *by_iteration))
    with style():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(7.2, 3.3))
        middle.sharey(left)
        for axis, bands, xlabel in ((left, by_step, "steps"), (middle, by_iteration, iterations)):
            for band in bands:
                look = {"label": band.label, "markevery": max(1, len(band.x) // 12), "markersize": 3}
                draw(axis, band, color=palette[band.label], **look)
            axis.set(xscale="log", yscale="log", xlabel=xlabel)
        left.set_ylabel("training loss")
        for label, (used, exact, lagged) in gains.items():
            colour = palette[label]
            right.plot(used.x, used.y, color=colour, **LINES["measured"], markevery=max(1, len(used.x) // 12))
            right.plot(exact.x, exact.y, color=colour, **LINES["exact"])
            right.plot(lagged.x, lagged.y, color=colour, **LINES["bound"])
        right.set(xscale="log", yscale="log", xlabel=iterations, ylabel="gain $r$")
        right.set_ylim(top=2.5 * max(exact.y.max() for _, exact, _ in gains.values()))
        for key, label in (("measured", "as used"), ("exact", "exact"), ("bound", "exact, running means")):
            right.plot([], [], color="0.3", label=label, **LINES[key])
        right.legend(fontsize=7, loc="upper left")
        shared_legend(figure, [left], ncols=4)
    return figure
