"""Several runs side by side: when each got to a level, the cheapest, the front; single seeds as one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from sfolib._utils.errors import require
from sfolib.analysis.fits import fit_front
from sfolib.training.estimates import crossing_draws, percentiles
from sfolib.training.records import Run


def crossings(runs: Iterable[Run], eps2: Iterable[float], **labels: Any) -> pd.DataFrame:
    """`Run.first_crossing` of each constant-batch run at each ε²: columns eps2, batch_size, steps, samples, low, high,
    spent (what the run spent in all, gradient evaluations), and labels."""
    rows = []
    for run, target in product(runs, eps2):
        reached = run.first_crossing(target**0.5)
        batch_size = int(run.rows["batch_size"].iloc[0])
        rows.append({"eps2": target, "batch_size": batch_size, **reached._asdict(), "spent": run.samples[-1], **labels})
    return pd.DataFrame(rows)


def predicted(steps_to: Callable, batch_size: np.ndarray, eps2: Iterable[float], source: str) -> pd.DataFrame:
    """A theory's curves in the columns of `crossings`: steps_to(batch, eps) gives steps, shape of batch."""
    curves = [(target, steps_to(batch_size, target**0.5)) for target in eps2]
    frames = (
        pd.DataFrame(
            {"eps2": target, "batch_size": batch_size, "steps": steps, "samples": steps * batch_size, "source": source}
        )
        for target, steps in curves
    )
    return pd.concat(frames, ignore_index=True)


def cheapest(frame: pd.DataFrame, unreached: bool = False) -> pd.DataFrame:
    """The row of the fewest gradient evaluations at each ε² that was reached at all, largest ε² first.

    unreached: also a row for each other ε², of batch size nan; steps, samples and high are inf, low is the least.
    """
    reached = frame[np.isfinite(frame["samples"])]
    found = reached.loc[reached.groupby("eps2")["samples"].idxmin()]
    never = frame[~frame["eps2"].isin(found["eps2"])]
    if unreached and len(never):
        low = never["low"].fillna(np.inf)  # of one seed nothing is known of it
        least = never.loc[low.groupby(never["eps2"]).idxmin()].assign(batch_size=np.nan)
        found = pd.concat([found, least])
    return found.sort_values("eps2", ascending=False)


def minimizers(runs: Iterable[Run], eps2: Iterable[float], confidence: float = 0.95) -> pd.DataFrame:
    """`cheapest` of `crossings` with an interval for the batch size too: columns eps2, batch_size, batch_low,
    batch_high, samples, low, high. A row for each ε² that two runs reached, largest ε² first.

    Each draw of all runs' expectations, their seeds taken in pairs, has a cheapest batch size; intervals are
    percentiles of it and of its gradient evaluations. The least of several noisy numbers is too low (the winner's
    curse): so is `samples`, and the median of the draws, which is below it, says by how much.
    """
    rows, runs = [], list(runs)
    sizes = np.array([int(run.rows["batch_size"].iloc[0]) for run in runs])
    for target in sorted(eps2, reverse=True):
        every, of_all = drawn_crossings(runs, target)
        reached = np.flatnonzero(np.isfinite(every))
        if len(reached) < 2 or np.isnan(of_all[reached]).any():
            continue
        found, drawn = every[reached], of_all[reached]
        batch_low, batch_high = percentiles(sizes[reached][drawn.argmin(0)], confidence)
        low, high = percentiles(drawn.min(0), confidence)
        rows.append(
            {"eps2": target, "batch_size": sizes[reached][found.argmin()], "batch_low": batch_low,
             "batch_high": batch_high, "samples": found.min(), "low": low, "high": high}
        )  # fmt: skip
    return pd.DataFrame(
        rows or np.empty((0, 7)), columns=["eps2", "batch_size", "batch_low", "batch_high", "samples", "low", "high"]
    )


def drawn_crossings(runs: Iterable[Run], target: float, count: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Gradient evaluations to ε² of runs, (runs,), and draws of them, (runs, count): of all their expectations, seeds
    taken in pairs. Both are inf for a run that did not reach it, the draws nan for one of a single seed."""
    runs = list(runs)
    found = np.array([run.first_crossing(target**0.5).samples for run in runs])
    drawn = np.full((len(runs), count), np.inf)
    for i in np.flatnonzero(np.isfinite(found)):
        curves = runs[i].curves()
        drawn[i] = crossing_draws(runs[i].samples, curves, target, count=count) if len(curves) > 1 else np.nan
    return found, drawn


def places_apart(found: pd.DataFrame, other: Any, grid: Any) -> dict[str, np.ndarray]:
    """By how many places of the grid of batch sizes each of `minimizers` is off another batch size, as `measured` and
    `interval` of a `Check`."""

    def place(batch_size: Any) -> np.ndarray:
        return np.interp(np.log(np.asarray(batch_size, dtype=float)), np.log(grid), np.arange(len(grid)))

    off, low, high = (place(found[name]) - place(other) for name in ("batch_size", "batch_low", "batch_high"))
    ends = np.sort(np.abs([low, high]), axis=0)  # nan last: both ends are
    return {"measured": np.abs(off), "interval": np.array([np.where(low * high <= 0, 0.0, ends[0]), ends[1]]).T}


def pareto(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other beats in both steps and SFO, fewest steps first: the front, at one ε²."""
    ordered = frame[np.isfinite(frame["samples"])].sort_values(["steps", "samples"])
    before = ordered["samples"].cummin().shift(fill_value=np.inf)
    return ordered[ordered["samples"] < before]


def with_range(frame: pd.DataFrame) -> pd.DataFrame:
    """The cheapest batch at each ε², and those that the intervals cannot tell from it."""
    best = cheapest(frame)
    near_best = [
        frame[(frame["eps2"] == row.eps2) & (frame["low"] <= row.high)]["batch_size"] for row in best.itertuples()
    ]
    return best.assign(first=[b.min() for b in near_best], last=[b.max() for b in near_best])


def front_batch_size(sizes: np.ndarray, samples: np.ndarray) -> float:
    """B of the front of these pairs; nan where it has fewer than three."""
    front = pareto(pd.DataFrame({"steps": samples / sizes, "samples": samples}))
    return fit_front(front["steps"], front["samples"]).batch_size if len(front) > 2 else np.nan


def ratios(frame: pd.DataFrame, other: pd.DataFrame) -> dict[str, np.ndarray]:
    """Gradient evaluations of frame over other's, row by row, as `measured` and `interval` of a `Check`: from the far
    ends of both intervals, so that it covers at least as often as they do."""
    mine, theirs = (of[["samples", "low", "high"]].to_numpy(float).T for of in (frame, other))
    with np.errstate(invalid="ignore"):
        return {"measured": mine[0] / theirs[0], "interval": np.transpose([mine[1] / theirs[2], mine[2] / theirs[1]])}


def ratio_to(frame: pd.DataFrame, bound: pd.DataFrame, default: float | None = None) -> float:
    """The largest ratio of frame's gradient evaluations to bound's at the same ε² and batch, where bound has a number.

    inf where what the bound promises was not reached, though the run spent as much. Where the run ended before, it
    says nothing and is left out; a theory's curve (`predicted`) never ends. default: where there is nothing to compare;
    without one that raises `InputError`.
    """
    frame = frame if "spent" in frame else frame.assign(spent=np.inf)
    both = frame.merge(bound, on=["eps2", "batch_size"], suffixes=("", "_bound"))
    both = both[
        np.isfinite(both["samples_bound"]) & (np.isfinite(both["samples"]) | (both["spent"] >= both["samples_bound"]))
    ]
    if default is not None and both.empty:
        return default
    require(len(both) > 0, "bound", len(bound), "has no finite value where frame has one; nothing to compare")
    return float((both["samples"] / both["samples_bound"]).max())
