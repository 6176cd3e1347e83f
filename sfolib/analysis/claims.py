"""A claim of the theory beside what was measured, and the verdict. The kind of claim picks the test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from sfolib._utils.errors import InputError, positive, require

Kind = Literal["equal", "upper_bound", "exponent", "ordering"]
Verdict = Literal["reproduced", "partly", "not reproduced"]

KINDS: dict[str, str] = {
    "equal": "every measured value equals the theory's within a relative tolerance",
    "upper_bound": "every measured value is at most the theory's bound",
    "exponent": "the predicted exponent lies in the fitted exponent's confidence interval",
    "ordering": "each measured value exceeds the one before it, by more than their confidence intervals where given",
}


@dataclass(frozen=True)
class Check:
    """One claim, tested.

    kind: what the claim says, see `KINDS`. measured, theory: a number or a sequence of them, in the claim's units;
    theory is unused for "ordering". interval: confidence interval (low, high) of measured; for "ordering" one pair a
    value. tolerance: relative, for "equal"; for "exponent" the distance below which a miss counts as "partly".
    source: the result of the theory, such as "T2 [S]". figure: name of the figure that shows it.
    expected: the verdict that is known; one other than "reproduced" needs an `explanation`.
    Raises `InputError` for a check that could not fail or lacks what its kind needs.
    """

    claim: str
    kind: Kind
    measured: Any
    theory: Any = None
    tolerance: float | None = None
    interval: Any = None
    source: str = ""
    figure: str = ""
    expected: Verdict = "reproduced"
    explanation: str = ""

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "kind", self.kind, f"must be one of {', '.join(KINDS)}")
        require(np.size(self.measured) > 0, "measured", self.measured, "must hold at least one value")
        if self.kind == "ordering":
            require(np.size(self.measured) > 1, "measured", self.measured, "an order needs two values or more")
        else:
            require(self.theory is not None, "theory", None, f"a check of kind {self.kind!r} needs a prediction")
        if self.kind == "equal":
            require(self.tolerance is not None, "tolerance", None, "'equal' needs a relative tolerance")
        if self.kind == "exponent":
            require(self.interval is not None, "interval", None, "'exponent' needs the fit's confidence interval")
        if self.tolerance is not None:
            positive("tolerance", self.tolerance)
        if self.expected != "reproduced":
            require(bool(self.explanation), "explanation", "", f"must say why {self.expected!r} is expected")

    @property
    def verdict(self) -> Verdict:
        """ "reproduced" if the claim holds everywhere, "partly" if somewhere, else "not reproduced"."""
        holds = getattr(self, f"_{self.kind}")()
        if np.all(holds):
            return "reproduced"
        return "partly" if np.any(holds) else "not reproduced"

    @property
    def ok(self) -> bool:
        return self.verdict == "reproduced"

    def _equal(self) -> np.ndarray:
        measured, theory = _numbers(self.measured), _numbers(self.theory)
        return np.abs(measured - theory) <= self.tolerance * np.abs(theory)  # False for nan

    def _upper_bound(self) -> np.ndarray:
        return _numbers(self.measured) <= _numbers(self.theory)

    def _exponent(self) -> list[bool]:
        low, high = self.interval
        near = self.tolerance is not None and abs(self.measured - self.theory) <= self.tolerance
        inside = bool(low <= self.theory <= high)
        return [inside, inside or near]

    def _ordering(self) -> np.ndarray:
        measured = _numbers(self.measured)
        low, high = (measured, measured) if self.interval is None else np.asarray(self.interval, dtype=float).T
        return (measured[1:] > measured[:-1]) & (low[1:] > high[:-1])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON: not-finite numbers become null."""
        return _plain(asdict(self) | {"verdict": self.verdict})


def table(checks: Iterable[Check]) -> Any:
    """The checks as a DataFrame: claim, source, kind, measured, theory, interval, verdict."""
    import pandas as pd

    columns = ["claim", "source", "kind", "measured", "theory", "interval", "verdict"]
    return pd.DataFrame([{name: check.to_dict()[name] for name in columns} for check in checks], columns=columns)


def differences(checks: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each published claim whose verdict is not the known one."""
    wrong = [check for check in checks if check["verdict"] != check.get("expected", check["verdict"])]
    return [f"{c['notebook']}: {c['claim']}: {c['verdict']} here, {c['expected']} before" for c in wrong]


def _numbers(value: Any) -> np.ndarray:
    return np.atleast_1d(np.asarray(value, dtype=float))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or (hasattr(value, "__array__") and np.ndim(value)):
        return [_plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if value is None or isinstance(value, str):
        return value
    raise InputError(f"value = {value!r}: must be made of numbers, text and lists")
