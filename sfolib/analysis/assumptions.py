"""Where a run left what the theory assumes, read from its record: a warning, for the report and for the figure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sfolib.training.records import Run
from sfolib.training.spec import Spec


class Violation(NamedTuple):
    """column: of the rows; point: first measuring point (index) at which it holds; short: for a legend; text: all."""

    column: str
    point: int
    short: str
    text: str


def violations(run: Run) -> list[Violation]:
    """A nominal batch above the data set's n, an lr not below 2/L (where L, or a proven bound on it, is known), and
    divergence. The network problems have no known L: their lr is never warned of here."""
    found, n, L = [], _size(run), _smoothness(run.spec)
    if n is not None:
        over, above = run.curves("batch_size").max(0) > n, f"is above the data set's {n} samples"
        found += _first(run, "batch_size", over, "b > n", lambda b: f"{b:g}", above)
    if L is not None and "lr" in run.rows:
        over = run.curves("lr").max(0) * L >= 2
        found += _first(run, "lr", over, "η ≥ 2/L", lambda lr: f"{lr:.6g}", f"is not below 2/L = {2 / L:.6g}")
    if run.status == "diverged":
        last = len(run.steps) - 1
        found.append(Violation("grad_sqnorm", last, "diverged", f"diverged at step {run.steps[last]:g}"))
    return found


def _first(run: Run, column: str, holds: np.ndarray, short: str, show: Any, why: str) -> list[Violation]:
    if not holds.any():
        return []
    point = int(holds.argmax())
    value = show(run.curves(column)[:, point].max())
    return [Violation(column, point, short, f"{column} = {value} at step {run.steps[point]:g} {why}")]


def _size(run: Run) -> int | None:
    """Training samples; the quadratic has none."""
    if run.spec is not None:
        return getattr(run.spec.problem, "size", None)
    if "epoch" not in run.rows or run.epochs[-1] == 0:
        return None
    return round(run.samples[-1] / run.epochs[-1])


def _smoothness(spec: Spec | None) -> float | None:
    """L where it is known, or a proven bound on it."""
    if spec is None or getattr(spec.problem, "hidden", ()) or getattr(spec.problem, "model", None):
        return None
    return getattr(spec.problem, "L", None) or getattr(spec.problem, "smoothness_bound", None)
