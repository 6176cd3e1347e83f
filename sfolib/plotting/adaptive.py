"""Adaptive policies: panels of their laws, each with its own axes and legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from sfolib.plotting.style import LINES, Band, style


def laws(panels: Mapping[str, tuple[Sequence[Band], Mapping[str, Any]]], height: float = 3.4) -> Figure:
    """Bands a panel, by its title, with settings of its axes: log-log where they do not say otherwise.

    Bands with the same label have one colour, in all panels, and one entry in a panel's legend: with the look of the
    first, and one in grey for the bounds that have the label of another band.
    """
    labels = list(dict.fromkeys(band.label for bands, _ in panels.values() for band in bands))
    palette = dict(zip(labels, sns.color_palette("colorblind", len(labels)), strict=True))
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(7.2, height), squeeze=False)
        for axis, (title, (bands, settings)) in zip(axes[0], panels.items(), strict=True):
            labelled: set[str] = set()
            for label, source, x, y, low, high in bands:
                shown = None if label in labelled else label
                axis.plot(x, y, color=palette[label], label=shown, **LINES[source])
                if label in labelled and source == "bound" and "theory" not in labelled:
                    axis.plot([], [], color="0.3", label="theory", **LINES[source])
                    labelled.add("theory")
                labelled.add(label)
                if low is not None:
                    axis.fill_between(x, low, high, color=palette[label], alpha=0.2, linewidth=0)
            axis.set(title=title, **{"xscale": "log", "yscale": "log", **settings})
            axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=1)
    return figure
