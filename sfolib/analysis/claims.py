"""A claim of the theory beside what was measured, and the verdict. The kind of claim picks the test, the interval of
what was measured decides it: a value that its interval leaves open is neither held nor failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from sfolib._utils.errors import InputError, positive, require
from sfolib.training.estimates import Interval

Kind = Literal["equal", "upper_bound", "exponent", "ordering"]
Verdict = Literal["reproduced", "partly", "undecided", "not reproduced"]
Prediction = Literal["theory", "goal", "none"]

KINDS: dict[str, str] = {
    "equal": "the interval is within a relative tolerance of the theory's value; fails: all of it is outside",
    "upper_bound": "the interval is at most the theory's bound; fails: all of it is above",
    "exponent": "the interval is within 10 % of the predicted exponent; fails: all of it is outside",
    "ordering": "the interval is above that of the value before; fails: it is below",
}
VERDICTS: dict[str, str] = {
    "reproduced": "every value holds",
    "partly": "some values hold and some fail",
    "undecided": "none fails, and the intervals of some leave it open",
    "not reproduced": "some values fail, and none holds",
}
_MANY = 6  # a longer list is shown as its range
EXPONENT_TOLERANCE = 0.1  # one for all, lest it be chosen after looking
_ERRORS = {"equal": 0.05, "upper_bound": 0.025, "exponent": 0.05, "ordering": 0.025}  # of a 95 % interval


@dataclass(frozen=True)
class Check:
    """One claim, tested.

    kind: what the claim says, see `KINDS`. measured, theory: a number or a sequence of them, in the claim's units;
    theory is unused for "ordering". interval: 95 % confidence interval (low, high) of measured, one pair a value.
    exact: measured was computed and not sampled; it is its own interval. Without either nothing is decided.
    tolerance: relative, for "equal" and "exponent". source: the result of the theory, such as "T2 [S]".
    figure: name of the figure that shows it. prediction: what predicted it before the runs: the theory, a
    "goal" that was set and that no theory gives, or "none": then it is a finding. headline: among those shown first.
    explanation: why it is not reproduced.
    Raises `InputError` for a check that could not fail or lacks what its kind needs.
    """

    claim: str
    kind: Kind
    measured: Any
    theory: Any = None
    tolerance: float | None = None
    interval: Any = None
    exact: bool = False
    source: str = ""
    figure: str = ""
    prediction: Prediction = "theory"
    headline: bool = False
    explanation: str = ""

    def __post_init__(self) -> None:
        require(self.kind in [*KINDS], "kind", self.kind, f"must be one of {', '.join(KINDS)}")
        predictions = get_args(Prediction)
        require(
            self.prediction in predictions, "prediction", self.prediction, f"must be one of {', '.join(predictions)}"
        )
        count = np.size(self.measured)
        require(count > 0, "measured", self.measured, "must hold at least one value")
        if self.kind == "ordering":
            require(count > 1, "measured", self.measured, "an order needs two values or more")
        else:
            require(self.theory is not None, "theory", None, f"a check of kind {self.kind!r} needs a prediction")
        if self.kind == "equal":
            require(self.tolerance is not None, "tolerance", None, "'equal' needs a relative tolerance")
        if self.kind == "exponent":
            require(np.all(_numbers(self.theory) != 0), "theory", self.theory, "an exponent of 0 has no relative error")
        if self.tolerance is not None:
            positive("tolerance", self.tolerance)
            require(
                self.tolerance < 1, "tolerance", self.tolerance, "must be below 1: twice a value is not equal to it"
            )
        try:
            np.broadcast_to(
                0.0 if self.theory is None else _numbers(self.theory), np.shape(np.atleast_1d(self.measured))
            )
        except ValueError:
            require(False, "theory", self.theory, f"must be one value, or {count} as measured")
        require(not (self.exact and self.interval is not None), "interval", self.interval, "what is exact has none")
        if self.interval is not None:
            shape, each = np.shape(self.interval), f"must be a pair (low, high) for each of {count} values"
            fits = shape[-1:] == (2,) and np.size(self.interval) == 2 * count
            require(fits, "interval", self.interval, each)
            low, high = np.reshape(np.asarray(self.interval, dtype=float), (-1, 2)).T
            sound = np.isnan(low) & np.isnan(high) | (low <= high)
            require(bool(sound.all()), "interval", self.interval, f"{each}, low at most high, or both nan")

    @property
    def judged(self) -> np.ndarray:
        """1 where a value holds, −1 where it fails, 0 where its interval leaves that open; of each pair of neighbours
        for "ordering"."""
        holds, fails = getattr(self, f"_{self.kind}")(*self._ends())
        return np.where(holds, 1, np.where(fails | self.exact, -1, 0))

    @property
    def verdict(self) -> Verdict:
        """See `VERDICTS`."""
        judged = self.judged
        if np.any(judged < 0):
            return "partly" if np.any(judged > 0) else "not reproduced"
        return "reproduced" if np.all(judged > 0) else "undecided"

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        if self.exact:
            return (_numbers(self.measured).ravel(),) * 2
        if self.interval is None:
            return (np.full(np.size(self.measured), np.nan),) * 2
        low, high = np.reshape(np.asarray(self.interval, dtype=float), (-1, 2)).T
        return low, high

    def _equal(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        theory = self._theory()
        slack = (EXPONENT_TOLERANCE if self.tolerance is None else self.tolerance) * np.abs(theory)
        return (low >= theory - slack) & (high <= theory + slack), (high < theory - slack) | (low > theory + slack)

    _exponent = _equal

    def _theory(self) -> np.ndarray:
        return np.broadcast_to(_numbers(self.theory), np.shape(np.atleast_1d(self.measured))).ravel()

    def _upper_bound(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        theory = self._theory()
        return high <= theory, low > theory

    def _ordering(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return low[1:] > high[:-1], high[1:] < low[:-1]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON: not-finite numbers become null. holds, fails: how many of the `values` that were judged."""
        judged = self.judged
        counts = {"holds": (judged > 0).sum(), "fails": (judged < 0).sum(), "values": judged.size}
        return _plain(asdict(self) | {"verdict": self.verdict} | counts)


def sampled(*intervals: Interval) -> dict[str, np.ndarray]:
    """`measured` and `interval` of a `Check`, from estimates with their intervals, numbers or arrays."""
    if not intervals:
        return {"measured": np.empty(0), "interval": np.empty((0, 2))}
    measured, low, high = (np.concatenate([np.ravel(end) for end in ends]) for ends in zip(*intervals, strict=True))
    return {"measured": measured, "interval": np.array([low, high]).T}


def over_next(*groups: Iterable[Interval]) -> dict[str, np.ndarray]:
    """`measured` and `interval` of an "upper_bound" of 1 that holds where each of a group is below the next, as
    "ordering" would have it of one group: the ratios of neighbours, of all groups."""
    pairs = [pair for group in groups for pair in pairwise(group)]
    with np.errstate(invalid="ignore"):  # of two that were not reached nothing is known
        found = [Interval(a.value / b.value, a.low / b.high, a.high / b.low) for a, b in pairs]
    return sampled(*found)


class LeftOut(NamedTuple):
    """A claim that cannot be judged with the parameters given, and what is missing for it."""

    claim: str
    missing: str


def check(claim: str, kind: Kind, measured: Any, missing: str = "", **further: Any) -> Check | LeftOut:
    """The `Check` of a claim whose values depend on parameters; `LeftOut` where too few of them were measured.

    missing: what the claim lacks, in words, shown in place of the verdict. further: as for `Check`.
    """
    least, known = 2 if kind == "ordering" else 1, np.size(measured)
    if known < least or np.isnan(np.asarray(measured, dtype=float)).all():
        return LeftOut(claim, missing or f"{known} values were measured, and it needs {least} or more")
    return Check(claim, kind, measured, **further)


class Table(list):
    """Published claims, a dict each, that show themselves whole: as a table in a notebook, as lines elsewhere."""

    _COLUMNS = ("claim", "result", "kind", "measured", "theory", "verdict", "why not")

    def _row(self, check: Mapping[str, Any]) -> tuple[str, ...]:
        ends = check["interval"] or []
        interval = values(ends) if ends and isinstance(ends[0], list) else f"[{values(ends)}]" if ends else ""
        measured = " ".join(filter(None, [values(check["measured"]), interval]))
        kind, theory = check["kind"].replace("_", " "), values(check["theory"])
        why = check["explanation"] if check["verdict"] != "reproduced" else ""
        return check["claim"], check["source"], kind, measured, theory, outcome(check), why

    def _repr_html_(self) -> str:
        rows = (self._COLUMNS, *map(self._row, self))
        cells = ("".join(f'<td style="text-align: left">{escape(text)}</td>' for text in row) for row in rows)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"

    def __repr__(self) -> str:
        return "\n".join(" | ".join(filter(None, row)) for row in map(self._row, self))


def table(checks: Iterable[Check]) -> Any:
    """The checks as a DataFrame: claim, source, kind, measured, theory, interval, verdict."""
    import pandas as pd

    columns = ["claim", "source", "kind", "measured", "theory", "interval", "verdict"]
    rows = [check.to_dict() for check in checks]
    return pd.DataFrame([check | {"verdict": outcome(check)} for check in rows], columns=columns)


def values(value: Any) -> str:
    """Numbers as people read them, to three digits. In a list, what has no number was not reached."""
    if isinstance(value, list) and len(value) > _MANY and not isinstance(value[0], list):
        numbers = [item for item in value if item is not None]
        return f"{len(value)} values, {values(min(numbers))} … {values(max(numbers))}"
    if isinstance(value, list) and len(value) > _MANY and all(len(pair) == 2 for pair in value):
        low, high = zip(*value, strict=True)
        ends = [end for end in (*low, *high) if end is not None]
        return f"{len(value)} intervals, within [{values(min(ends))}, {values(max(ends))}]" if ends else "not reached"
    if isinstance(value, list):
        return ", ".join("not reached" if item is None else _bracketed(item) for item in value)
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    if 1e3 <= abs(value) < 1e7:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def _bracketed(item: Any) -> str:
    if not isinstance(item, list):
        return values(item)
    return "not reached" if item == [None, None] else f"[{values(item)}]"


def outcome(check: Mapping[str, Any]) -> str:
    """The verdict of a published claim, with how many values hold where not all of them do: "partly (3 of 5)"."""
    some = check["verdict"] in ("partly", "undecided") and check.get("values", 1) > 1
    return f"{check['verdict']} ({check['holds']} of {check['values']} hold)" if some else check["verdict"]


def differences(
    checks: Iterable[Mapping[str, Any]],
    known: Mapping[tuple[str, str], str],
    left_out: Iterable[Mapping[str, Any]] = (),
    ended: str = "",
) -> list[str]:
    """A line for each published claim that is decided otherwise than by `known`, verdicts by (notebook, claim), and for
    each decided there that is not claimed here: of the notebook `ended`, which has said all.

    What is undecided here or there has not turned.
    """
    checks, lines = [*checks], []
    here = {check["claim"] for check in [*checks, *left_out]}
    for (name, claim), before in known.items():
        if name == ended and before != "undecided" and claim not in here:
            lines.append(f"{name}: {claim}: is not claimed here, {before} before")
    for check in checks:
        before = known.get((check["notebook"], check["claim"]), "undecided")
        if "undecided" not in (before, check["verdict"]) and before != check["verdict"]:
            lines.append(f"{check['notebook']}: {check['claim']}: {check['verdict']} here, {before} before")
    return lines


class Chance(NamedTuple):
    """claims: how many are judged by intervals; expected: how many of them would at most be expected to fail if all
    were true; failed: how many have a value that fails."""

    claims: int
    expected: float
    failed: int


def chance(checks: Iterable[Mapping[str, Any]]) -> Chance:
    """What many claims at 95 % let chance do: a true one of m values, each at the edge of what it says, fails with
    probability 1 − (1 − α)^m at most, α = 5 %, and half of it where an interval fails on one side alone."""
    sampled = [check for check in checks if check.get("interval") is not None and "values" in check]  # else of old
    expected = sum(1 - (1 - _ERRORS[check["kind"]]) ** check["values"] for check in sampled)
    return Chance(len(sampled), float(expected), sum(check["fails"] > 0 for check in sampled))


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
