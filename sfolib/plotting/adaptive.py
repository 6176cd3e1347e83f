"""Adaptive policies: panels of their laws, each with its own axes and legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from sfolib.plotting.style import LINES, Band, draw, hues, legend_below, panel_row


def laws(panels: Mapping[str, tuple[Sequence[Band], Mapping[str, Any]]], height: float = 3.4) -> Figure:
    """Bands a panel, by its title, with settings of its axes: log-log where they do not say otherwise.

    Bands with the same label have one colour, in all panels, and one entry in a panel's legend: with the look of the
    first, and one in grey for the bounds that have the label of another band.
    """
    palette = hues(band.label for bands, _ in panels.values() for band in bands)
    with panel_row(panels, height) as (figure, axes):
        for axis, (bands, settings) in zip(axes, panels.values(), strict=True):
            labelled: set[str] = set()
            for band in bands:
                seen = band.label in labelled
                draw(axis, band, color=palette[band.label], label=None if seen else band.label)
                if seen and band.source == "bound" and "theory" not in labelled:
                    axis.plot([], [], color="0.3", label="theory", **LINES["bound"])
                    labelled.add("theory")
                labelled.add(band.label)
            axis.set(**{"xscale": "log", "yscale": "log", **settings})
            legend_below(axis, 0.17)
    return figure
