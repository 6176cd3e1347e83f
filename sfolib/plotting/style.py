"""The one style of all figures, and the curves that many of them share.

Its rules: theory dashed (a prediction with dots between), exact thin, measured solid with markers; confidence bands
shaded; colour-blind safe.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogLocator, NullLocator

from sfolib.training.estimates import Interval

LINES: dict[str, dict] = {
    "bound": {"linestyle": (0, (4, 2)), "linewidth": 1.2},
    "predicted": {"linestyle": (0, (5, 2, 1, 2)), "linewidth": 1.0, "zorder": 3},
    "exact": {"linestyle": "-", "linewidth": 0.8},
    "measured": {"linestyle": "-", "linewidth": 1.5, "marker": "o", "markersize": 3.5},
    "permutation": {"linestyle": ":", "linewidth": 1.2, "marker": "s", "markersize": 3, "fillstyle": "none"},
}
NAMES = {
    "bound": "theory (bound)",
    "predicted": "theory (prediction)",
    "exact": "exact expectation",
    "measured": "measured, with replacement",
    "permutation": "measured, by permutation",
}


@contextmanager
def style() -> Iterator[None]:
    """The one style of every figure. pyplot forgets those made in it: a notebook shows each once, where it is
    returned or displayed, and many of them fill no memory."""
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
    plt.draw_if_interactive()  # loads the backend: what a notebook's switches on would else end with the context
    before = plt.get_fignums()
    try:
        with mpl.rc_context(settings):
            yield
            for made in set(plt.get_fignums()) - set(before):
                for axes in plt.figure(made).axes:
                    log_ticks(*filter(_as_made, (axes.xaxis, axes.yaxis)))
    finally:
        for number in plt.get_fignums():
            if number not in before:
                plt.close(number)


@contextmanager
def panel_row(titles: Collection[str], height: float, **shared: object) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A row of panels with these titles in the one style, `height` inches high. shared: as `plt.subplots` takes it."""
    with style():
        figure, axes = plt.subplots(1, len(titles), figsize=(7.2, height), squeeze=False, **shared)
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title)
        yield figure, axes[0]


def legend_below(axis: Axes, drop: float = 0.16, **settings: object) -> None:
    """The panel's legend, so far below it (in its heights)."""
    axis.legend(**{"fontsize": 7, "loc": "upper center", "bbox_to_anchor": (0.5, -drop)} | settings)


def shared_legend(figure: Figure, axes: Iterable[Axes], **settings: object) -> None:
    """One legend below all panels, with one entry for each label."""
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", **settings)


def hues(labels: Iterable[str]) -> dict[str, tuple]:
    """A colour for each label, in order, that the colour-blind can tell apart."""
    names = list(dict.fromkeys(labels))
    return dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))


def colours(values: Sequence[float]) -> dict[float, tuple]:
    """A colour for each value, dark to light as values fall; legible in grey and to the colour-blind."""
    ordered = sorted(values, reverse=True)
    return dict(zip(ordered, sns.color_palette("viridis", len(ordered) + 1)[: len(ordered)], strict=True))


class Curve(NamedTuple):
    """A curve of a figure. source picks its line (see `LINES`); slope, if there is one, is in the legend."""

    label: str
    source: str
    x: np.ndarray
    y: np.ndarray
    slope: Interval | None = None


def power_laws(panels: Mapping[str, Sequence[Curve]], xlabel: str) -> Figure:
    """Curves on log-log axes, a panel for each y label. A problem (the label up to a colon) has one colour."""
    palette = hues(curve.label.split(":")[0] for curves in panels.values() for curve in curves)
    with panel_row([""] * len(panels), 4.0) as (figure, axes):
        for axis, (ylabel, curves) in zip(axes, panels.items(), strict=True):
            for label, source, x, y, slope in curves:
                exponent = "" if slope is None else f", exponent {slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
                axis.plot(x, y, color=palette[label.split(":")[0]], label=label + exponent, **LINES[source])
            axis.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
            legend_below(axis)
    return figure


class Band(NamedTuple):
    """A line of a figure with its confidence band, if it has one. source picks the line's style (see `LINES`)."""

    label: str
    source: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def draw(axis: Axes, band: Band, **look: object) -> None:
    """A band: its line, as its source has it but for `look` (colour, label …), and what is between low and high."""
    (line,) = axis.plot(band.x, band.y, **LINES[band.source] | look)
    if band.low is not None:
        axis.fill_between(band.x, band.low, band.high, color=line.get_color(), alpha=0.2, linewidth=0)


def lines(axis: Axes, bands: Sequence[Band], **settings: object) -> None:
    """Bands in colours that the colour-blind can tell apart, with a legend; settings are the axis'."""
    for band, colour in zip(bands, sns.color_palette("colorblind"), strict=False):
        draw(axis, band, color=colour, label=band.label)
    axis.set(**settings)


def log_ticks(*axes: Axis) -> None:
    """Ticks at 1, or 1 and 3, or 1, 2 and 5 times the powers of ten, as the axis has room; see `tick`. Those of every
    logarithmic axis that its figure does not set itself."""
    for axis in axes:
        decades = np.ptp(np.log10(axis.get_view_interval()))
        axis.set_major_locator(LogLocator(subs=(1,) if decades > 2.2 else (1, 3) if decades > 1.7 else (1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(tick)


def _as_made(axis: Axis) -> bool:
    return isinstance(axis.get_major_locator(), LogLocator) and isinstance(axis.get_major_formatter(), LogFormatter)


def tick(x: float, _: int = 0) -> str:
    """0.001 to 5000 as they are, all else by its power of ten."""
    if x == 0 or 1e-3 <= abs(x) < 1e4:
        return f"{x:g}"
    digits, power = f"{x:e}".split("e")
    times = "" if float(digits) == 1 else rf"{float(digits):g}\cdot"
    return f"${times}10^{{{int(power)}}}$"


def number(x: float, digits: int = 2) -> str:
    """x to so many digits, written as `tick` does: for legends, titles and captions."""
    return tick(float(f"{x:.{digits - 1}e}"))


def looks(labels: Iterable[str], along: bool = False) -> dict[str, dict[str, object]]:
    """Colour, width and marker of each label's curves, in the order of drawing: what a later one covers is wider, and
    shows on both of its sides. along: markers are a tenth of the panel apart, each label's in places of its own."""
    names = list(dict.fromkeys(labels))
    widths = np.linspace(1.2 + 0.45 * min(len(names), 5), 1.2, len(names))
    each = zip(names, sns.color_palette("colorblind", len(names)), widths, cycle("osDv^P"), strict=False)
    found = {name: {"color": colour, "linewidth": width, "marker": mark} for name, colour, width, mark in each}
    places = {name: {"markevery": (0.1 * k / len(names), 0.1)} for k, name in enumerate(names if along else ())}
    return {name: look | places.get(name, {}) for name, look in found.items()}
