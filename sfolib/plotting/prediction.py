"""What a run will do before it is trained (T15)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfolib.plotting.style import LINES, colours, number, style

GRADIENT, LOSS = r"$\mathrm{E}\,\|\nabla f\|^2$", r"$\mathrm{E}\,f$"


def prediction(run: pd.DataFrame, constant: pd.DataFrame | None = None) -> Figure:
    """E‖∇f‖² with its two parts, and E f, along a run; and N(b), each ε²'s least marked.

    run: columns samples, grad_sqnorm, bias, noise, loss. constant: columns batch_size, eps2, samples; those that are
    never reached are left out.
    """
    run, shown = run[run["samples"] > 0], constant is not None and np.isfinite(constant["samples"]).any()
    with style():
        figure, axes = plt.subplots(1, 3 if shown else 2, figsize=(7.2, 2.9 if shown else 3.2))
        for column, label, look in (
            ("grad_sqnorm", GRADIENT, {"color": "k", "linewidth": 1.4}),
            ("bias", "of the noise-free path", {"color": "C0", "linestyle": "--", "linewidth": 1}),
            ("noise", "of the noise", {"color": "C1", "linestyle": "--", "linewidth": 1}),
        ):
            axes[0].plot(run["samples"], run[column], label=label, **look)
        axes[1].plot(run["samples"], run["loss"], color="k", linewidth=1.4)
        axes[0].set(xscale="log", yscale="log", xlabel="gradient evaluations", title=f"predicted {GRADIENT}")
        axes[1].set(xscale="log", xlabel="gradient evaluations", title=f"predicted {LOSS}")
        axes[0].legend(fontsize=7)
        if shown:
            reached = constant[np.isfinite(constant["samples"])]
            palette = colours(reached["eps2"].unique())
            for eps2, curve in reached.groupby("eps2", sort=False):
                axes[2].plot(
                    curve["batch_size"], curve["samples"], color=palette[eps2], label=number(eps2), **LINES["exact"]
                )
                best = curve.loc[curve["samples"].idxmin()]
                axes[2].plot(best["batch_size"], best["samples"], "o", color=palette[eps2], markersize=5)
            axes[2].set(xscale="log", yscale="log", xlabel="batch size $b$", title=r"predicted $N(b)$ to $\varepsilon$")
            axes[2].legend(title=r"$\varepsilon^2$", fontsize=7, title_fontsize=7)
    return figure


def recommended(paths: dict[str, pd.DataFrame]) -> Figure:
    """Schedules and what they are predicted to do: batch size and lr, E‖∇f‖², E f, against gradient evaluations.

    paths: by name, columns samples, batch_size, lr, grad_sqnorm, loss.
    """
    with style():
        figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.7))
        for (name, path), colour in zip(paths.items(), ("C0", "0.4"), strict=False):
            for ax, column in zip(axes, ("batch_size", "lr", "grad_sqnorm", "loss"), strict=True):
                steps = "steps-post" if column in ("batch_size", "lr") else "default"
                ax.plot(path["samples"], path[column], color=colour, label=name, linewidth=1.3, drawstyle=steps)
        titles = (
            "batch size $b$",
            r"learning rate $\eta$",
            f"predicted {GRADIENT}",
            f"predicted {LOSS}",
        )
        for ax, title in zip(axes, titles, strict=True):
            ax.set(title=title, xlabel="gradient evaluations")
            ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        for ax in axes[:3]:
            ax.set_yscale("log")
        end = [path["loss"].iloc[len(path) // 3 :] for path in paths.values()]
        low, high = min(e.min() for e in end), max(e.max() for e in end)
        axes[3].set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))
        axes[0].legend(fontsize=7)
    return figure
