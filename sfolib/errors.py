"""The one error for input that a person can mend, and the checks that raise it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Bad input; its message names the field, the value and what is allowed."""


class RankLost(RuntimeError):
    """A run in several processes cannot go on: one of them has ended, or they no longer agree."""


def require(ok: bool, field: str, value: object, allowed: str) -> None:
    """Raise `InputError` "field = value: allowed" unless `ok`."""
    if not ok:
        raise InputError(f"{field} = {value!r}: {allowed}")


def positive(field: str, value: object) -> None:
    """Require a finite number, or an array of them, above 0."""
    numbers = np.asarray(value)
    ok = numbers.dtype.kind in "iuf" and bool(np.all(np.isfinite(numbers)) and np.all(numbers > 0))
    require(ok, field, value, "must be a finite number above 0")


def explain(error: ValidationError) -> InputError:
    """pydantic's findings in one line: each names the field, the value and what is allowed."""
    found = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or "input"
        if item["type"] == "extra_forbidden":
            found.append(f"{field}: unknown name")
        elif item["type"] == "missing":
            found.append(f"{field}: missing")
        else:
            found.append(f"{field} = {item['input']!r}: {item['msg']}")
    return InputError("; ".join(found))
