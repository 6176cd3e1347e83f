"""T8 put to the test: how far apart the runs of two schedules are.

Runs of one seed see the same samples in the same order, whatever their batch sizes, and so can be compared in pairs.
Units: batch and samples are gradient evaluations, steps updates. Source of the protocols here: [N].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sfolib._utils.errors import require
from sfolib.training import estimates
from sfolib.training.estimates import Interval
from sfolib.training.records import Run

_POINTS = 100


@dataclass(frozen=True)
class RunDistance:
    """How far the runs of two schedules are from each other, in ln of a column, or in an accuracy itself.

    distance: rms difference of two runs of the same seed, over seeds and points. seeds: the same of two runs of the
    first schedule with different seeds, the yardstick. shift: mean of second − first, over seeds and points.
    squares: mean square of that difference over the points, (seeds,).
    """

    distance: Interval
    seeds: float
    shift: Interval
    squares: np.ndarray

    @property
    def ratio(self) -> Interval:
        """distance/seeds: below 1 where another schedule changes a run less than another seed does."""
        return Interval(*(value / self.seeds for value in self.distance))


def compare(
    first: Run,
    second: Run,
    column: str = "loss",
    clock: Literal["samples", "steps"] = "samples",
    start: float = 0.0,
    stop: float = np.inf,
) -> RunDistance:
    """The likeness of two runs of the same seeds between `start` and `stop` on the clock, or where the shorter ends.

    Curves are linear between measuring points. Raises `InputError` for runs of different seeds, or of only one.
    """
    seeds = first.rows["seed"].unique().tolist()
    others = second.rows["seed"].unique().tolist()
    require(others == seeds, "seeds", others, f"must be {seeds} in both runs")
    require(len(seeds) > 1, "seeds", seeds, "a distance between seeds needs two or more")
    end = min(stop, *(getattr(run, clock)[-1] for run in (first, second)))
    require(start < end, "start", start, f"must be before {clock} = {end:g}, where the shorter run ends")
    grid = np.linspace(start, end, _POINTS)
    a, b = (_on(grid, run, column, clock) for run in (first, second))
    square = np.square(b - a).mean(1)  # (seeds,)
    across = np.square(a[:, None] - a).mean(2)  # (seeds, seeds), 0 on the diagonal
    count = len(seeds)
    return RunDistance(
        distance=Interval(*(float(np.sqrt(np.maximum(part, 0.0))) for part in estimates.mean(square))),
        seeds=float(np.sqrt(across.sum() / (count * (count - 1)))),
        shift=Interval(*map(float, estimates.mean((b - a).mean(1), log=False))),
        squares=square,
    )


def exponent(x: Sequence[float], run_distances: Sequence[RunDistance]) -> Interval:
    """Least-squares slope of ln distance against ln x, with its interval over seeds, which all must share."""
    count = {len(found.squares) for found in run_distances}
    require(len(count) == 1, "run_distances", sorted(count), "must be of the same seeds")
    squares = np.array([found.squares for found in run_distances])  # (x, seeds)
    centred = np.log(x) - np.mean(np.log(x))
    weights = 0.5 * centred / (centred @ centred)
    mean = squares.mean(1, keepdims=True)
    # first order in each seed's share of the mean squares: what each seed says the slope is
    return Interval(*map(float, estimates.mean(weights @ (np.log(mean) + squares / mean - 1), log=False)))


def _on(grid: np.ndarray, run: Run, column: str, clock: str) -> np.ndarray:
    curves = run.curves(column)
    curves = curves if column.endswith("accuracy") else np.log(curves)
    return np.array([np.interp(grid, getattr(run, clock), curve) for curve in curves])
