"""What the program of "Optimal Growth Schedules …" logs beside what it means: the gradient norm and the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from sfolib.plotting.style import Band, draw, legend_below, lines, panel_row, style
from sfolib.training.records import Run


def norms(run: Run, variants: Mapping[str, Run]) -> Figure:
    """Left: ‖∇f‖ of one run, exact and as published. Right: their ratio in each of the variants. Against epochs;
    means over seeds (of the logarithm, on the right) and the range of the seeds."""
    look = {"exact": "measured", "published": "permutation"}
    columns = {"exact": "grad_sqnorm", "published": "published_sqnorm"}
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4))
        for (name, column), colour in zip(columns.items(), sns.color_palette("colorblind"), strict=False):
            curves = run.curves(column) ** 0.5
            label = "of f, exact" if name == "exact" else "as published"
            ends = curves.min(0), curves.max(0)
            band = Band(label, look[name], run.epochs, np.exp(np.log(curves).mean(0)), *ends)
            draw(left, band, color=colour, label=label)
        bands = []
        for label, of in variants.items():
            ratio = (of.curves("published_sqnorm") / of.curves("grad_sqnorm")) ** 0.5
            mean = np.exp(np.log(ratio).mean(0))
            bands.append(Band(label, "measured", of.epochs, mean, ratio.min(0), ratio.max(0)))
        lines(right, bands, xlabel="epochs", yscale="log")
        left.set(xlabel="epochs", yscale="log", ylabel=r"$\|\nabla f\|$")
        right.set_ylabel(r"$\|\nabla f\|$ as published / of f")
        left.legend(fontsize=7.5)
        legend_below(right, 0.18)
    return figure


def nominal_counts(panels: Mapping[str, Sequence[Band]]) -> Figure:
    """Steps times nominal batch size over the true samples, epoch by epoch: a panel for each data set."""
    with panel_row(panels, 3.0) as (figure, axes):
        for axis, bands in zip(axes, panels.values(), strict=True):
            lines(axis, bands, xlabel="epoch")
            for line, width in zip(axis.get_lines(), np.linspace(2.4, 1.2, len(bands)), strict=True):
                line.set(drawstyle="steps-mid", marker="", linewidth=width)  # one count an epoch, nothing between two
            legend_below(axis, 0.18, fontsize=7.5, ncols=2)
        axes[0].set_ylabel("steps × nominal batch / samples")
    return figure
