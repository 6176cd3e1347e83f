"""What a run was and what it measured: in memory, on disk and back.

A run's folder holds `metrics.jsonl`, one row a measuring point and seed, and `run.json`, its specification and
provenance, written last: a folder without `run.json` is an unfinished run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from pydantic import ValidationError

from sfolib._utils import files
from sfolib._utils.errors import InputError, explain, positive, require
from sfolib._utils.files import write_json as write_json
from sfolib.training import estimates
from sfolib.training.estimates import Crossing, Interval
from sfolib.training.spec import SCHEMA, Spec

METRICS, RUN = "metrics.jsonl", "run.json"
_PART = 512  # rows
_WINDOW = ((1 / 1.08, "left"), (1.08, "right"))


@dataclass(frozen=True)
class Run:
    """One finished run. spec: what was asked (None: of another program); provenance: where and how it ran; rows: what
    was measured.

    Columns of rows: seed, epoch, step, samples (SFO so far, gradient evaluations), probes (gradient evaluations
    spent on measuring), batch (nominal), true_batch (of the last step), lr, loss, grad_sqnorm = ‖∇f‖², and what
    else the problem measures: variance (σ² at that point), accuracy, test_loss, test_accuracy, and the
    standard errors loss_error and grad_sqnorm_error where they are from a sample (see `Spec.eval_samples`).
    """

    spec: Spec | None
    provenance: dict[str, Any]
    rows: pd.DataFrame

    @property
    def status(self) -> str:
        """ "finished" (its budget), "reached" (its target_grad_norm) or "diverged"."""
        return self.provenance["status"]

    @cached_property
    def steps(self) -> np.ndarray:
        """Steps at the measuring points, shape (points,)."""
        return self._points["step"].to_numpy()

    @cached_property
    def samples(self) -> np.ndarray:
        """Gradient evaluations at the measuring points, shape (points,)."""
        return self._points["samples"].to_numpy()

    @cached_property
    def epochs(self) -> np.ndarray:
        """Epochs at the measuring points, shape (points,)."""
        return self._points["epoch"].to_numpy()

    def __str__(self) -> str:
        last = self.rows[self.rows["step"] == self.steps[-1]].mean(numeric_only=True)
        names = {"grad_sqnorm": "‖∇f‖²", "loss": "loss", "accuracy": "accuracy", "test_accuracy": "test accuracy"}
        ends = [f"{word} {last[name]:.4g}" for name, word in names.items() if np.isfinite(last.get(name, np.nan))]
        seeds = self.rows["seed"].nunique()
        over = f" (means over {seeds} seeds)" if seeds > 1 else ""
        end = f"; at the end{over}: {', '.join(ends)}" if ends else ""
        return f"{self.status} after {self.steps[-1]} steps, {self.samples[-1]} gradient evaluations{end}"

    def __repr__(self) -> str:
        return f"<Run {self}>"

    def curves(self, column: str = "grad_sqnorm") -> np.ndarray:
        """A measured column as an array of shape (seeds, points)."""
        return self.rows.pivot(index="seed", columns="step", values=column).to_numpy()

    @cached_property
    def expected(self) -> np.ndarray:
        """Estimate of E‖∇f‖² at the measuring points, (points,): the mean over seeds and over `averaged`'s window."""
        return self.averaged(self.curves().mean(0, keepdims=True))[0]

    def first_crossing(self, eps: float, confidence: float = 0.95) -> Crossing:
        """min_t E‖∇f(θ_t)‖² ≤ ε²: when the expectation of which the seeds are draws fell to ε² and stayed there, with
        an interval; see `estimates.first_crossing`."""
        positive("eps", eps)
        return estimates.first_crossing(self.steps, self.samples, self.curves(), eps**2, confidence)

    def first_above(self, level: float, column: str = "test_accuracy", confidence: float = 0.95) -> Crossing:
        """When the expectation of a column that should rise got to `level` and stayed there, as `first_crossing`."""
        return estimates.first_crossing(self.steps, self.samples, -self.curves(column), -level, confidence, log=False)

    def mean_ci(self, column: str = "grad_sqnorm", confidence: float = 0.95) -> Interval:
        """Mean over seeds of a column at the measuring points, with its interval (`estimates.mean`), each (points,).

        ‖∇f‖² is `averaged` over neighbouring points as in `expected`, all else is as measured.
        """
        curves = self.curves(column)
        return estimates.mean(self.averaged(curves) if column == "grad_sqnorm" else curves, confidence)

    def per_seed_crossings(self, eps: float) -> np.ndarray:
        """Gradient evaluations at which each seed's own ‖∇f‖² first was at most ε², shape (seeds,); inf if never.

        E min_t, where `first_crossing` is min_t E: a single run fluctuates below ε before its expectation gets there.
        """
        positive("eps", eps)
        with np.errstate(divide="ignore"):
            return estimates.first_points(self.samples, np.log(self.curves()), 2 * np.log(eps))

    def ratio_to(self, bound: np.ndarray) -> Interval:
        """The largest ratio, at any measuring point, of min_t `expected` to a bound on it; the same of its interval.

        bound: shape (last step,), entry k − 1 bounds the minimum over steps 0 … k − 1, as `bounds.gradient_bound`.
        """
        ends = (np.minimum.accumulate(curve)[:-1] for curve in self.mean_ci())
        return Interval(*(float((least / bound[self.steps[1:] - 1]).max()) for least in ends))

    def averaged(self, curves: np.ndarray) -> np.ndarray:
        """Means of curves (k, points) over the measuring points within 8 % of the gradient evaluations of each.

        A power law moves by less than 1 % where a few seeds fluctuate by much more.
        """
        first, last = (np.searchsorted(self.samples, self.samples * f, side) for f, side in _WINDOW)
        padded = np.pad(curves, ((0, 0), (0, 1)))  # for a window that ends with the run
        with np.errstate(over="ignore", invalid="ignore"):  # a diverged run has no value from there on
            sums = np.add.reduceat(padded, np.column_stack([first, last]).ravel(), axis=1)[:, ::2]
        return sums / (last - first)

    @cached_property
    def _points(self) -> pd.DataFrame:
        return self.rows[self.rows["seed"] == self.rows["seed"].iloc[0]]


@contextmanager
def run_lock(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold a run's folder against other processes, which wait; the system lets go of it when a process dies.

    What holds it is a file beside it, which goes where nothing is left that could go on.
    Raises `InputError` where another process has it and `wait` is False, or `folder`'s parent cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()  # "." has no name
        lock = FileLock(place.parent / f".{place.name}.lock")
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise InputError(f"folder = {str(folder)!r}: another process is training there; wait for it to end") from None
    except OSError as error:
        raise InputError(f"folder = {str(folder)!r}: cannot be written ({error.strerror})") from error
    try:
        yield
    finally:
        if (folder / RUN).exists() or not folder.exists():  # who waits for it will find the record, or fail as well
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


class MetricsWriter:
    """metrics.jsonl as it grows: how long it is, and the digest by which a reader knows that it has all of it.

    length, digest: of what a checkpoint covers; the file is cut back to it, and `InputError` raised, with the file
    left alone, where that is no longer what was written.
    """

    def __init__(self, path: Path, length: int = 0, digest: str = ""):
        self.length, self._sha256 = length, hashlib.sha256()
        self._file = open(path, "r+b" if length else "w+b")  # noqa: SIM115 closed by the run
        if length:
            self._sha256.update(self._file.read(length))
            if self.digest != digest:
                self._file.close()
                raise InputError(f"file = {str(path)!r}: damaged; delete its folder and run it again")
            self._file.truncate(length)

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        text = "".join(map(line, rows)).encode()
        self._file.write(text)
        self._sha256.update(text)
        self.length += len(text)

    def sync(self) -> None:
        """Get what was written onto the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a DataFrame, some at a time: as dictionaries they would take ten times the memory."""
    rows = iter(rows)
    parts = [pd.DataFrame(part) for part in iter(lambda: list(islice(rows, _PART)), [])]
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0] if parts else pd.DataFrame()


def save(run: Run, folder: Path | str) -> Path:
    """Write a run's two files into `folder` (made if missing) and return it."""
    folder = files.folder(Path(folder))
    text = "".join(line(row) for row in run.rows.to_dict("records")).encode()
    with files.replacing(folder / METRICS, "wb") as file:
        file.write(text)
    finish(run.spec, run.provenance, folder, hashlib.sha256(text).hexdigest())
    return folder


def finish(spec: Spec | None, provenance: dict[str, Any], folder: Path, digest: str) -> None:
    """Write run.json, which makes a folder with its metrics.jsonl, of that digest, a finished run."""
    files.write_json(
        folder / RUN, {"spec": spec and spec.model_dump(mode="json"), "provenance": provenance, "sha256": digest}
    )


def line(row: dict[str, Any]) -> str:
    """A row as a line of metrics.jsonl; floats keep every digit."""
    return json.dumps(row) + "\n"


def load(folder: Path | str) -> Run:
    """Read a finished run. `InputError` names the file that is missing, damaged or of another version of sfolib, and
    the remedy; nothing is written."""
    folder = Path(folder)
    remedy = "delete the folder and run it again"
    require((folder / RUN).is_file(), "run", str(folder), f"has no {RUN}: no finished run; run it again")
    head = files.read_json(folder / RUN, remedy, "run")
    known = isinstance(head, dict) and isinstance(head.get("provenance"), dict) and "spec" in head
    known = known and isinstance(head["provenance"].get("status"), str)
    require(known, "run", str(folder / RUN), f"damaged: no record of a run; {remedy}")
    schema = head["provenance"].get("schema", SCHEMA)
    other = f"is of schema {schema!r}, and this sfolib reads {SCHEMA}: use the sfolib that wrote it, or {remedy}"
    require(schema == SCHEMA, "run", str(folder / RUN), other)
    digest = hashlib.sha256()
    try:
        with open(folder / METRICS, "rb") as file:
            rows = table(json.loads(text) for text in file if digest.update(text) is None)
        missing = {"seed", "step", "samples"} - set(rows)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"run = {str(folder / METRICS)!r}: damaged ({error}); {remedy}") from error
    whole = not missing and head.get("sha256") in (None, digest.hexdigest())  # None: older than the digest
    require(whole, "run", str(folder / METRICS), f"damaged: not the rows that were written; {remedy}")
    try:
        spec = head["spec"] and Spec.model_validate(head["spec"])
    except ValidationError as error:
        raise InputError(f"run = {str(folder / RUN)!r}: damaged ({explain(error)}); {remedy}") from error
    return Run(spec, head["provenance"], rows)
