"""Schedules: pure functions of a clock, `int -> float`, and their composition. They hold no state.

A schedule does not know whether its clock counts epochs, steps or samples, nor whether its value is a
batch size or a learning rate; `Plan` does. Each is a frozen value, made by the lower-case name of its
class, with a repr that rebuilds it and a `to_dict` for specs on disk. Bad arguments raise `InputError`,
and so does a clock that is not a whole number, 0 or above.
"""

from __future__ import annotations

import math
import operator
import re
import sys
from bisect import bisect_right
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import pairwise
from typing import Any, ClassVar

from sfolib._utils.errors import InputError, require, shown

_KINDS: dict[str, type[Schedule]] = {}


def _finite(field: str, value: Any) -> None:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    require(ok, field, value, "must be a finite number")


def _count(field: str, value: Any, least: int = 1) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(ok, field, value, f"must be a whole number, {least} or above")


@dataclass(frozen=True)
class Schedule:
    """The base of all: call it with a clock reading, store it with `to_dict`."""

    kind: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__.lower()
        _KINDS[cls.kind] = cls

    def __call__(self, t: int) -> float:
        try:
            t = operator.index(t)
        except TypeError:
            require(False, "t", t, "must be a whole number, 0 or above")
        require(t >= 0, "t", t, "must be a whole number, 0 or above")
        try:
            return float(self._value(t))
        except OverflowError:  # a growing exponential; a cap around it still holds
            return math.inf

    def _value(self, t: int) -> float:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The kind and the arguments, as literals that JSON can hold."""
        return {"kind": self.kind} | {f.name: _literal(getattr(self, f.name)) for f in fields(self)}


def from_dict(data: dict[str, Any]) -> Schedule:
    """The schedule that `to_dict` gave as data; `InputError` names an unknown kind or argument."""
    require(
        isinstance(data, dict) and data.get("kind") in [*_KINDS],
        "schedule",
        data,
        f"kind must be one of {[*_KINDS]}",
    )
    arguments = {name: _schedule(value) for name, value in data.items() if name != "kind"}
    cls = _KINDS[data["kind"]]
    names = [f.name for f in fields(cls)]
    require(set(arguments) == set(names), data["kind"], [*arguments], f"arguments must be {names}")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise InputError(f"{data['kind']} = {shown(arguments)}: {error}") from error


def _nested(field: str, value: Any) -> None:
    require(isinstance(value, Schedule), field, value, "must be a schedule")


def _literal(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_dict()
    return [_literal(v) for v in value] if isinstance(value, tuple) else value


def _schedule(value: Any) -> Any:
    if isinstance(value, dict):
        return from_dict(value)
    return tuple(_schedule(v) for v in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Constant(Schedule):
    """v at all times."""

    v: float

    def __post_init__(self) -> None:
        _finite("v", self.v)

    def _value(self, t: int) -> float:
        return self.v


@dataclass(frozen=True)
class Linear(Schedule):
    """v0 + increment ⌊t/every⌋."""

    v0: float
    increment: float
    every: int = 1

    def __post_init__(self) -> None:
        _finite("v0", self.v0)
        _finite("increment", self.increment)
        _count("every", self.every)

    def _value(self, t: int) -> float:
        return self.v0 + self.increment * (t // self.every)


@dataclass(frozen=True)
class Exponential(Schedule):
    """v0 factor^⌊t/every⌋, factor > 0; inf where that overflows."""

    v0: float
    factor: float
    every: int = 1

    def __post_init__(self) -> None:
        _finite("v0", self.v0)
        _finite("factor", self.factor)
        require(self.factor > 0, "factor", self.factor, "must be above 0")
        _count("every", self.every)

    def _value(self, t: int) -> float:
        return self.v0 * float(self.factor) ** (t // self.every)


@dataclass(frozen=True)
class Milestones(Schedule):
    """v0 times the factor of every milestone that is at or before t; factors as {at: factor} or pairs."""

    v0: float
    factors: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        _finite("v0", self.v0)
        pairs = self.factors.items() if isinstance(self.factors, dict) else self.factors
        object.__setattr__(self, "factors", tuple(sorted((at, factor) for at, factor in pairs)))
        for at, factor in self.factors:
            _count("milestone", at, least=0)
            _finite("factor", factor)
        require(
            len({at for at, _ in self.factors}) == len(self.factors),
            "factors",
            self.factors,
            "must differ in at",
        )

    def _value(self, t: int) -> float:
        return math.prod((factor for at, factor in self.factors if at <= t), start=self.v0)


@dataclass(frozen=True)
class Piecewise(Schedule):
    """values[k] from boundaries[k − 1] on (values[0] from 0 on): one value more than rising boundaries."""

    values: tuple[float, ...]
    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        for value in self.values:
            _finite("values", value)
        _check_boundaries(self.boundaries, len(self.values))

    def _value(self, t: int) -> float:
        return self.values[_piece(self.boundaries, t)]


@dataclass(frozen=True)
class Polynomial(Schedule):
    """end + (v0 − end)(1 − t/duration)^power up to duration, end from there on."""

    v0: float
    end: float
    duration: int
    power: float = 1.0

    def __post_init__(self) -> None:
        _finite("v0", self.v0)
        _finite("end", self.end)
        _count("duration", self.duration)
        _finite("power", self.power)
        require(self.power > 0, "power", self.power, "must be above 0")

    def _value(self, t: int) -> float:
        return self.end + (self.v0 - self.end) * max(0.0, 1 - t / self.duration) ** self.power


@dataclass(frozen=True)
class Cosine(Schedule):
    """end + (v0 − end)(1 + cos(πt/duration))/2 up to duration, end from there on."""

    v0: float
    end: float
    duration: int

    def __post_init__(self) -> None:
        _finite("v0", self.v0)
        _finite("end", self.end)
        _count("duration", self.duration)

    def _value(self, t: int) -> float:
        return self.end + (self.v0 - self.end) * (1 + math.cos(math.pi * min(t / self.duration, 1.0))) / 2


@dataclass(frozen=True)
class Warmup(Schedule):
    """schedule(t) (t + 1)/duration while t < duration, schedule(t) from there on."""

    schedule: Schedule
    duration: int

    def __post_init__(self) -> None:
        _nested("schedule", self.schedule)
        _count("duration", self.duration)

    def _value(self, t: int) -> float:
        return self.schedule(t) * min(1.0, (t + 1) / self.duration)


@dataclass(frozen=True)
class Join(Schedule):
    """schedules[k] from boundaries[k − 1] on, its own clock starting at 0 there."""

    schedules: tuple[Schedule, ...]
    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", tuple(self.schedules))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        for schedule in self.schedules:
            _nested("schedules", schedule)
        _check_boundaries(self.boundaries, len(self.schedules))

    def _value(self, t: int) -> float:
        piece = _piece(self.boundaries, t)
        return self.schedules[piece](t - (self.boundaries[piece - 1] if piece else 0))


@dataclass(frozen=True)
class Capped(Schedule):
    """The smaller of schedule(t) and maximum."""

    schedule: Schedule
    maximum: float

    def __post_init__(self) -> None:
        _nested("schedule", self.schedule)
        _finite("maximum", self.maximum)

    def _value(self, t: int) -> float:
        return min(self.schedule(t), self.maximum)


@dataclass(frozen=True)
class Power(Schedule):
    """factor schedule(t)^exponent, factor > 0; inf for a negative power of 0. Needs schedule(t) ≥ 0."""

    schedule: Schedule
    exponent: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        _nested("schedule", self.schedule)
        _finite("exponent", self.exponent)
        _finite("factor", self.factor)
        require(self.factor > 0, "factor", self.factor, "must be above 0")

    def _value(self, t: int) -> float:
        base = self.schedule(t)
        require(base >= 0, f"schedule at {t}", base, "must be 0 or above to be raised to a power")
        return math.inf if base == 0 and self.exponent < 0 else self.factor * base**self.exponent


@dataclass(frozen=True)
class Product(Schedule):
    """The product of the schedules at t."""

    schedules: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", tuple(self.schedules))
        for schedule in self.schedules:
            _nested("schedules", schedule)

    def _value(self, t: int) -> float:
        return math.prod(schedule(t) for schedule in self.schedules)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_ENTRY = re.compile(r"(\d+(?:\.\d+)?)([KMB]?):(\S+)", re.IGNORECASE)


def parse(text: str) -> Piecewise:
    """The piecewise schedule that a string such as "0:16 50K:32 1.5M:64" says: threshold:value, by blanks apart.

    Thresholds are readings of the clock (samples, as a rule) with K, M or B for a thousand, a million, a billion;
    the first is 0 and they rise. Raises `InputError` that names the entry at fault.
    """
    thresholds, values = [], []
    for entry in text.split():
        found = _ENTRY.fullmatch(entry)
        require(found is not None, "entry", entry, "must be threshold:value, as in 50K:32")
        number, unit, value = found.groups()
        threshold = Fraction(number) * _UNITS[unit.upper()]
        require(threshold.denominator == 1, "entry", entry, "the threshold must be a whole number")
        rises = threshold > thresholds[-1] if thresholds else threshold == 0
        require(rises, "entry", entry, "thresholds must start at 0 and rise")
        try:
            values.append(float(value))
        except ValueError:
            require(False, "entry", entry, "the value must be a number")
        require(math.isfinite(values[-1]) and values[-1] > 0, "entry", entry, "the value must be finite and above 0")
        thresholds.append(int(threshold))
    require(bool(values), "text", text, "must hold an entry at least, as in 0:16")
    return Piecewise(values, thresholds[1:])


def _piece(boundaries: tuple[int, ...], t: int) -> int:
    return bisect_right(boundaries, t)


def _check_boundaries(boundaries: tuple[int, ...], pieces: int) -> None:
    for at in boundaries:
        _count("boundaries", at)
    rising = all(a < b for a, b in pairwise(boundaries))
    require(rising and len(boundaries) == pieces - 1, "boundaries", boundaries, f"must be {pieces - 1}, rising")


constant, linear, exponential, milestones = Constant, Linear, Exponential, Milestones
piecewise, polynomial, cosine, warmup, join, capped = Piecewise, Polynomial, Cosine, Warmup, Join, Capped
power, product = Power, Product
