"""The one error for input that a person can mend, and the checks that raise it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from unicodedata import category

import numpy as np

if TYPE_CHECKING:
    from pydantic import ValidationError


_LONGEST = 200  # characters of a value in an error
_LARGEST = sys.float_info.max


class InputError(ValueError):
    """Bad input; its message names the field, the value and what is allowed."""


class ProcessLost(RuntimeError):
    """A run in several processes cannot go on: one of them has ended, or they no longer agree."""


def require(ok: bool, field: str, value: object, allowed: str) -> None:
    """Raise `InputError` "field = value: allowed" unless `ok`."""
    if not ok:
        raise InputError(f"{field} = {shown(value)}: {allowed}")


def shown(value: object) -> str:
    """A value as an error shows it: on one line, and not all of a long one."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"<{type(value).__name__}>"
    return one_line(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def one_line(text: object) -> str:
    """Text that a terminal shows on one line: what it would take for a command or a new line is written out."""
    plain = (c if c.isprintable() or category(c) == "Zs" else c.encode("unicode_escape").decode() for c in str(text))
    return "".join(plain)


def positive(field: str, value: object) -> None:
    """Require a finite number, or an array of them, above 0."""
    if type(value) in (float, int) and 0 < value < 2**63:  # most of the time; a plan asks at every step
        return
    found = _array(value)
    ok = found is not None and bool(np.all(np.isfinite(found)) and np.all(found > 0))
    require(ok, field, value, "must be a finite number above 0")


def number(field: str, value: object) -> None:
    """Require one finite number above 0."""
    if type(value) not in (float, int):
        scalar(field, value)
    positive(field, value)


def real(field: str, value: object) -> np.ndarray:
    """The value as an array of floats, if it is a number or an array of them; nan and infinite ones too."""
    found = _array(value)
    require(found is not None, field, value, "must be a number, or an array of them")
    return found.astype(float)


def scalar(field: str, value: object) -> float:
    """The value as a float, if it is one number; nan and infinite ones too."""
    found = _array(value)
    require(found is not None and found.ndim == 0, field, value, "must be one number")
    return float(found)


def _array(value: object) -> np.ndarray | None:
    """Of one number or more; None for all else, bool among it."""
    try:
        found = np.asarray(value)
    except ValueError:  # rows of several lengths
        return None
    return found if found.dtype.kind in "iuf" and found.size else None


def whole(field: str, value: object) -> int:
    """The value as an int, if it is a whole number above 0, of Python's or numpy's."""
    ok = isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 < value <= _LARGEST
    require(ok, field, value, "must be a whole number above 0, in the range of a float")
    return int(value)


def explain(error: ValidationError) -> InputError:
    """pydantic's findings in one line: each names the field, the value and what is allowed."""
    found = []
    for item in error.errors():
        field = one_line(".".join(str(part) for part in item["loc"])) or "input"
        cause = item.get("ctx", {}).get("error")
        if item["type"] == "extra_forbidden":
            found.append(f"{field}: unknown name")
        elif isinstance(cause, InputError):  # which names its own field
            found.append(str(cause) if field == "input" else f"{field}: {cause}")
        elif item["type"] == "missing":
            found.append(f"{field}: missing")
        else:
            found.append(f"{field} = {shown(item['input'])}: {one_line(cause or item['msg'])}")
    return InputError("; ".join(found))
