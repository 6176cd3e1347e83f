"""A claim of the theory beside what was measured, and the verdict. The kind of claim picks the test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from sfolib.errors import InputError, positive, require

Kind = Literal["tight", "upper", "rate", "order"]
Verdict = Literal["reproduced", "partly", "not reproduced"]

KINDS: dict[str, str] = {
    "tight": "every measured value equals the theory's within a relative tolerance",
    "upper": "every measured value is at most the theory's bound",
    "rate": "the predicted exponent lies in the fitted exponent's confidence interval",
    "order": "each measured value exceeds the one before it, by more than their confidence intervals where given",
}


@dataclass(frozen=True)
class Check:
    """One claim, tested.

    kind: what the claim says, see `KINDS`. measured, theory: a number or a sequence of them, in the claim's units;
    theory is unused for "order". interval: confidence interval (low, high) of measured; for "order" one pair a
    value. tolerance: relative, for "tight"; for "rate" the distance below which a miss counts as "partly".
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
        if self.kind == "order":
            require(np.size(self.measured) > 1, "measured", self.measured, "an order needs two values or more")
        else:
            require(self.theory is not None, "theory", None, f"a check of kind {self.kind!r} needs a prediction")
        if self.kind == "tight":
            require(self.tolerance is not None, "tolerance", None, "'tight' needs a relative tolerance")
        if self.kind == "rate":
            require(self.interval is not None, "interval", None, "'rate' needs the fit's confidence interval")
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

    def _tight(self) -> np.ndarray:
        measured, theory = _numbers(self.measured), _numbers(self.theory)
        return np.abs(measured - theory) <= self.tolerance * np.abs(theory)  # False for nan

    def _upper(self) -> np.ndarray:
        return _numbers(self.measured) <= _numbers(self.theory)

    def _rate(self) -> list[bool]:
        low, high = self.interval
        near = self.tolerance is not None and abs(self.measured - self.theory) <= self.tolerance
        inside = bool(low <= self.theory <= high)
        return [inside, inside or near]

    def _order(self) -> np.ndarray:
        measured = _numbers(self.measured)
        low, high = (measured, measured) if self.interval is None else np.asarray(self.interval, dtype=float).T
        return (measured[1:] > measured[:-1]) & (low[1:] > high[:-1])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON: not-finite numbers become null."""
        return _plain(asdict(self) | {"verdict": self.verdict})


class Slope(NamedTuple):
    """Exponent of a power law, with its confidence interval."""

    value: float
    low: float
    high: float


def fit_exponent(x: Any, y: Any, confidence: float = 0.95) -> Slope:
    """Least-squares slope of log y against log x, with Student's interval from the residuals (3 points or more)."""
    from scipy import stats

    positive("x", x)
    positive("y", y)
    require(np.size(x) >= 3, "x", x, "an exponent with an interval needs 3 points or more")
    fit = stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf((1 + confidence) / 2, np.size(x) - 2) * fit.stderr
    return Slope(float(fit.slope), float(fit.slope - half), float(fit.slope + half))


class Front(NamedTuple):
    """A hyperbola (K/K_min − 1)(N/N_min − 1) = 1 fitted to points; scatter: rms distance from it in ln K, ln N."""

    min_steps: float
    min_sfo: float
    scatter: float

    @property
    def batch(self) -> float:
        """B = N_min/K_min, T11's critical batch size."""
        return self.min_sfo / self.min_steps

    def sfo(self, steps: Any) -> np.ndarray:
        """N at K steps; inf for K ≤ K_min."""
        excess = np.asarray(steps, dtype=float) / self.min_steps - 1
        return self.min_sfo * (1 + np.where(excess > 0, 1 / np.where(excess > 0, excess, 1.0), np.inf))


def fit_front(steps: Any, sfo: Any) -> Front:
    """T11 [N]: K_min and N_min of the hyperbola nearest to points (K, N), least squares of the distance in ln K, ln N.

    Each point's foot on the curve, K_min (1 + 1/u) and N_min (1 + u), is found with it. 3 points or more.
    """
    from scipy.optimize import least_squares

    for field, value in (("steps", steps), ("sfo", sfo)):
        positive(field, value)
        require(np.size(value) >= 3, field, value, "a front with a scatter needs 3 points or more")
    points = np.log(np.array([steps, sfo], dtype=float))

    def distance(z: np.ndarray) -> np.ndarray:
        log_u = z[2:]
        return (points - z[:2, None] - np.logaddexp(0.0, [-log_u, log_u])).ravel()

    log_batch = points[1] - points[0]
    start = np.concatenate([points.min(1) - 0.1, log_batch - np.mean(log_batch)])
    fit = least_squares(distance, start, xtol=1e-12, ftol=1e-12)
    return Front(*map(float, np.exp(fit.x[:2])), float(np.sqrt(2 * fit.cost / points.shape[1])))


def power_law_scatter(x: Any, y: Any) -> float:
    """rms distance of points (x, y), in ln x and ln y, from the nearest power law: a straight line in any direction."""
    for field, value in (("x", x), ("y", y)):
        positive(field, value)
    points = np.log(np.array([x, y], dtype=float))
    return float(np.linalg.svd(points - points.mean(1, keepdims=True), compute_uv=False)[-1] / points.shape[1] ** 0.5)


def table(checks: Iterable[Check]) -> Any:
    """The checks as a DataFrame: claim, source, kind, measured, theory, interval, verdict."""
    import pandas as pd

    columns = ["claim", "source", "kind", "measured", "theory", "interval", "verdict"]
    return pd.DataFrame([{name: check.to_dict()[name] for name in columns} for check in checks], columns=columns)


def assert_expected(checks: Iterable[Check]) -> None:
    """Raise `AssertionError`, naming each claim whose verdict is not the one that is known."""
    wrong = [f"{c.claim}: {c.verdict}, expected {c.expected}" for c in checks if c.verdict != c.expected]
    if wrong:
        raise AssertionError("; ".join(wrong))


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
