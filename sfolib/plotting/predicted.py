"""What a plan promised beside what it did: against the target, and on the plane of steps and gradient evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from sfolib.plotting.style import (
    LINES,
    NAMES,
    Band,
    colours,
    draw,
    hues,
    legend_below,
    lines,
    looks,
    number,
    panel_row,
    style,
)


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
                for band in panel:
                    draw(axis, band, **look_of[band.label] | {"markersize": 4})
                axis.set(xscale="log", yscale="log")
            line[0].set_ylabel(ylabel)
        for axis, panel in zip(axes[-1], row.values(), strict=True):
            targets = sorted({x for band in panel for x in band.x})
            ticks = sorted({targets[0], targets[(len(targets) - 1) // 2], targets[-1]})
            axis.set_xticks(ticks, [f"{x:.2g}" for x in ticks])
            axis.set_xticks([], minor=True)
            axis.get_xticklabels()[0].set_ha("right")  # the axis falls; else next to the neighbouring panel's
            axis.get_xticklabels()[-1].set_ha("left")
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

    cloud, front: frames of columns steps and samples. A plan is a `Band` whose x is K and whose y, low, high are N,
    each of one value.
    """
    look_of = looks(band.label for _, _, plans in panels.values() for band in plans)
    with panel_row(panels, 3.5) as (figure, axes):
        for axis, (cloud, front, plans) in zip(axes, panels.values(), strict=True):
            axis.plot(cloud["steps"], cloud["samples"], ".", color="0.7", markersize=4, zorder=0)
            axis.plot(front["steps"], front["samples"], color="0.3", linewidth=0.8, zorder=1)
            for label, _, steps, samples, low, high in plans:
                if low is not None:
                    axis.vlines(steps, low, high, color=look_of[label]["color"], linewidth=1.2)
                axis.plot(steps, samples, linestyle="none", markersize=6, **look_of[label])
            axis.set(xscale="log", yscale="log", xlabel=r"steps $K$ to $\varepsilon$")
        axes[0].set_ylabel(r"gradient evaluations $N$ to $\varepsilon$")
        plain = {"linestyle": "none", "markersize": 6}
        handles = [Line2D([], [], label=label, **plain, **look) for label, look in look_of.items()]
        handles.append(Line2D([], [], color="0.7", linestyle="none", marker=".", label="constant pairs"))
        handles.append(Line2D([], [], color="0.3", linewidth=0.8, label="the best of them"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def beside(rows: Mapping[str, Mapping[str, Sequence[Band]]]) -> Figure:
    """Measured curves and what was predicted of them (black), a row for each y label, in it a panel for each title,
    against gradient evaluations. One label has one colour in all panels; a panel without bands is left out."""
    bands = [band for row in rows.values() for panel in row.values() for band in panel]
    palette = hues(band.label for band in bands if band.source != "predicted")
    shape = len(rows), max(map(len, rows.values()))
    with style():
        figure, axes = plt.subplots(*shape, figsize=(7.2, 1.75 * shape[0] + 0.7), sharex="col", squeeze=False)
        handles = {}
        for line, (ylabel, row) in zip(axes, rows.items(), strict=True):
            for axis, (title, bands) in zip(line, row.items(), strict=True):
                if not bands:
                    axis.set_visible(False)
                    continue
                for label, source, x, y, low, high in bands:
                    look = {**LINES[source], "marker": ""}
                    (handles[label],) = axis.plot(x, y, color=palette.get(label, "k"), label=label, **look)
                    if low is not None:
                        axis.fill_between(x, low, high, color=palette[label], alpha=0.25, linewidth=0)
                axis.set(xscale="log", yscale="log")
                most = 100 * max((max(b.y) for b in bands if b.source != "predicted"), default=np.inf)
                if axis.get_ylim()[1] > most:  # a prediction that runs away leaves the panel to the run
                    axis.set_ylim(top=most)
                axis.set_title(title, fontsize=8)
                axis.xaxis.set_major_locator(LogLocator(subs=(1,)))
                axis.xaxis.set_minor_locator(NullLocator())
                axis.tick_params(labelsize=7, labelbottom=True)
            next(axis for axis in line if axis.get_visible()).set_ylabel(ylabel)
        for axis in axes[-1]:
            axis.set_xlabel("gradient evaluations", fontsize=7.5)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=7.5)
    return figure


def ratios(panels: Mapping[str, tuple[str, Sequence[Band]]], tolerance: float) -> Figure:
    """Measured over predicted, a panel for each title, against what its x label says; grey: what `tolerance` allows."""
    with panel_row(panels, 3.6) as (figure, axes):
        for axis, (xlabel, bands) in zip(axes, panels.values(), strict=True):
            axis.axhspan(1 - tolerance, 1 + tolerance, color="0.92", zorder=0)
            axis.axhline(1, color="0.3", linewidth=0.8)
            lines(axis, bands, xscale="log", yscale="log", xlabel=xlabel)
            axis.set_ylim(bottom=max(axis.get_ylim()[0], 0.02))  # where a prediction runs away
            legend_below(axis, 0.2)
        axes[0].set_ylabel(r"measured / predicted $\mathrm{E}\,\|\nabla f\|^2$")
    return figure


def successive_gradients(
    pairs: pd.DataFrame, pflug: pd.DataFrame, epoch: pd.DataFrame, online: Sequence[Band]
) -> Figure:
    """T14 in six panels: s, ‖∇f‖² and tr Σ of half batches, ‖∇f‖² along a run, m against b; Pflug's rule; an epoch.

    pairs, pflug, epoch: as `experiments.prediction.successive` has them. online: curves against gradient evaluations.
    """
    palette = colours(pairs["G2"].unique())
    drawn = pairs[pairs["sampling"] == "replacement"]
    with style():
        figure, ((sign, halves, along), (steps, rule, permuted)) = plt.subplots(2, 3, figsize=(7.2, 5.4))
        for G2, of in drawn.groupby("G2", sort=False):
            x, look = of["batch_size"] / of["critical"], {"color": palette[G2], "markersize": 3}
            sign.errorbar(x, of["product"] / G2, 2 * of["product_error"] / G2, fmt="o", **look)
            sign.plot(x, of["theory"] / G2, color=palette[G2], **LINES["predicted"])
            halves.errorbar(x, of["halves"] / G2, 2 * of["halves_error"] / G2, fmt="o", **look)
            exact = of["trace"] / of["batch_size"]
            halves.errorbar(x, of["spread"] / exact, 2 * of["spread_error"] / exact, fmt="s", fillstyle="none", **look)
            steps.plot(of["batch_size"], of["m"], "o", **look, label=rf"$\|\nabla f\|^2$ = {number(G2)}")
            steps.plot(of["batch_size"], of["m_theory"], color=palette[G2], **LINES["predicted"])
        sign.axhline(0, color="0.3", linewidth=0.6)
        sign.set(xscale="log", title=r"$s=\mathrm{E}\,g_t\cdot g_{t+1}$, over $\|G\|^2$", xlabel="$b/b_c$")
        halves.axhline(1, color="0.3", linewidth=0.6)
        halves.set(xscale="log", ylim=(0, 2), title="half batches over exact", xlabel="$b/b_c$")
        halves.plot([], [], "o", color="0.3", markersize=3, label=r"$g_a\cdot g_b\,/\,\|G\|^2$")
        label = r"$\|g_a-g_b\|^2/4\,/\,(\mathrm{tr}\,\Sigma/b)$"
        halves.plot([], [], "s", color="0.3", markersize=3, fillstyle="none", label=label)
        steps.set(xscale="log", yscale="log", title=r"$m$ at $b_c$, against $b$", xlabel="batch size $b$")
        lines(along, online, title=r"$\|\nabla f\|^2$ along a run", xscale="log", yscale="log")
        along.set_xlabel("gradient evaluations")
        least, most = min(online[0].y), max(online[0].y)
        along.set_ylim(least / 4, most * 4)  # an estimate may be below 0
        for (name, of), colour in zip(pflug.groupby("rule", sort=False), sns.color_palette("colorblind"), strict=False):
            rule.plot(of["G2"], of["m"], "o-", color=colour, markersize=3, label=f"{name}: $m$")
            rule.plot(of["G2"], of["stage"], color=colour, label=f"{name}: stage", **LINES["bound"])
        rule.invert_xaxis()
        rule.set(xscale="log", yscale="log", title="Pflug's rule: steps", xlabel=r"$\|\nabla f\|^2$")
        permuted.errorbar(epoch["step"], epoch["value"], 2 * epoch["error"], fmt="o", color="C0", markersize=3)
        for column, source, label in (("t14", "bound", "T14"), ("theory", "predicted", "with what the epoch forgets")):
            permuted.plot(epoch["step"], epoch[column], color="0.3", label=label, **LINES[source])
        permuted.set(title=r"$s-\|G_t\|^2$ by permutation", xlabel="step $t$ of an epoch")
        for axis in (halves, along, steps, rule, permuted):
            axis.legend(fontsize=6.5)
            axis.tick_params(labelsize=7)
    return figure


def factors(frame: pd.DataFrame) -> Figure:
    """A product taken apart on a log scale: a row of bars for each index (ε²), one for each column, one after the
    other from 1; the product stands at the row's end."""
    palette = sns.color_palette("colorblind", len(frame.columns))
    with style():
        figure, axis = plt.subplots(figsize=(7.2, 0.45 * len(frame) + 1.8))
        for row, values in enumerate(frame.to_numpy()):
            ends = np.concatenate([[1.0], np.cumprod(values)])
            # side by side in a row, as a factor below 1 goes back over the one before it
            for i, (start, end) in enumerate(pairwise(ends)):
                height = 0.8 / len(values)
                axis.barh(row - 0.4 + (i + 0.5) * height, end - start, height, start, color=palette[i])
            axis.annotate(f" × {ends[-1]:.3g}", (max(ends), row), va="center")
        axis.set(xscale="log", yticks=range(len(frame)), xlabel=r"T2's $b^*$ over the measured one, factor by factor")
        axis.set_yticklabels([rf"$\varepsilon^2$ = {number(eps2)}" for eps2 in frame.index])
        axis.set_xlim(right=axis.get_xlim()[1] * 2.5)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        handles = [Patch(color=colour, label=name) for name, colour in zip(frame.columns, palette, strict=True)]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=7.5)
    return figure
