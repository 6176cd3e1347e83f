"""Growth by stages (T4–T6): rate exponents and overheads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfolib.plotting.style import LINES, Band, hues, legend_below, lines, panel_row, style


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
        map_.scatter(
            here["gamma"],
            here["delta"],
            c=here["exact"],
            s=34,
            edgecolor="white",
            linewidth=0.9,
            label="quadratic, exact (its fill)",
            **shades,
        )
        map_.set(
            xlim=(gamma[0], gamma[-1]),
            ylim=(delta[0], delta[-1]),
            title=r"equal steps a stage, $\tau=1$",
            xlabel=r"learning-rate growth a stage $\gamma$",
            ylabel=r"batch growth a stage $\delta$",
        )
        map_.legend(loc="upper left", fontsize=7.5, labelcolor="white")
        figure.colorbar(mesh, ax=map_, label=r"exponent $p$ of $\min\mathrm{E}\,\|\nabla f\|^2=O(N^{-p})$", pad=0.02)
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
    palette = hues(predicted)
    with style():
        figure, axes = plt.subplots(1, 1 + len(over_eps), figsize=(7.2, 3.9))
        for label, ratio in predicted.items():
            least = int(np.argmin(ratio))
            text = f"{label}: least {ratio[least]:.2f} at r = {r[least]:.2f}"
            axes[0].plot(r, ratio, color=palette[label], label=text, **LINES["bound"])
            axes[0].plot(r[least], ratio[least], "*", color=palette[label], markersize=10)
        for (label, restart), points in worst.groupby(["label", "restart"], sort=False):
            fill = "full" if restart else "none"
            axes[0].plot(points["r"], points["ratio"], "o", color=palette[label], fillstyle=fill, markersize=4.5)
        axes[0].set(
            yscale="log",
            xlabel=r"$r=(\varepsilon_{m-1}/\varepsilon_m)^2$",
            title="worst case over ε",
            ylabel="gradient evaluations / best constant $b$'s",
        )
        axes[0].set_ylim(0.8, 1.1 * max(ratio.max() for ratio in predicted.values()))
        dots = {"color": "0.3", "marker": "o", "linestyle": "none", "markersize": 4.5}
        handles = [
            *axes[0].get_legend_handles_labels()[0],
            Line2D([], [], label="exact, each stage from $\\theta_0$", **dots),
            Line2D([], [], label="exact, stages go on", fillstyle="none", **dots),
            Line2D([], [], label="least predicted", **dots | {"marker": "*", "markersize": 8}),
        ]
        legend_below(axes[0], 0.2, handles=handles)
        for axis, (title, (curves, limit)) in zip(axes[1:], over_eps.items(), strict=True):
            lines(axis, curves, title=title, xscale="log", xlabel=r"target $\varepsilon^2$")
            axis.axhline(limit, color="0.3", label=f"predicted worst case, {limit:.3g}", **LINES["bound"])
            axis.axhline(1, color="0.6", linewidth=0.8, label="best constant $b$ for each $\\varepsilon$")
            axis.invert_xaxis()
            axis.set_ylim(0, None)
            legend_below(axis, 0.2)
    return figure


def overheads(panels: Mapping[str, tuple[Sequence[Band], str]], limit: float | None = None) -> Figure:
    """Curves with bands against ε² (falling to the right), a panel for each title, with its y label.

    limit: a predicted worst case, drawn in the last panel.
    """
    with panel_row(panels, 3.7) as (figure, axes):
        for axis, (curves, ylabel) in zip(axes, panels.values(), strict=True):
            lines(axis, curves, xscale="log", yscale="log", ylabel=ylabel)
            axis.set_xlabel(r"target $\varepsilon^2$")
            axis.invert_xaxis()
        if limit is not None:
            axes[-1].axhline(limit, color="0.3", label=f"predicted worst case, {limit:.3g}", **LINES["bound"])
        for axis in axes:
            legend_below(axis, ncols=2)
    return figure
