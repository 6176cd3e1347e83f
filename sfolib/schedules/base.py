"""Schedules: pure functions of a clock, `int -> float`, and their composition. They hold no state.

A schedule does not know whether its clock counts epochs, steps or samples, nor whether its value is a
batch size or a learning rate; `Plan` does. Each is a frozen value, made by the lower-case name of its
class, with a repr that rebuilds it; `model_dump` is its JSON, `Schedule.of` reads it. Bad arguments raise `InputError`,
and so does a clock that is not a whole number, 0 or above. A schedule of one's own is a subclass of `Schedule` with a
`kind` and `_value`.
"""

from __future__ import annotations

import math
import operator
import re
import sys
from bisect import bisect_right
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, SerializeAsAny, field_serializer, model_validator

from sfolib._utils.errors import require
from sfolib._utils.model import Count, Family, Index, Number, Positive, any_of


class Schedule(Family):
    """The base of all: call it with a clock reading."""

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


AnySchedule = any_of(Schedule)
AnyFunction = Annotated[SerializeAsAny[Schedule] | Callable[[int], float], BeforeValidator(Schedule.of)]


def _number_or_schedule(value: Any) -> Any:
    value = Schedule.of(value) if isinstance(value, dict) else value
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
    if not (number or isinstance(value, Schedule)):
        raise ValueError("must be a finite number above 0, or a schedule")
    return value


NumberOrSchedule = Annotated[int | float | SerializeAsAny[Schedule], BeforeValidator(_number_or_schedule)]


def _stored(value: Any) -> dict[str, Any]:
    require(isinstance(value, Schedule), "f", value, "must be a Schedule to be stored")
    return value.model_dump()


class Constant(Schedule):
    """v at all times."""

    kind: Literal["constant"] = "constant"
    v: Number

    def _value(self, t: int) -> float:
        return self.v


class Linear(Schedule):
    """v0 + increment ⌊t/every⌋."""

    kind: Literal["linear"] = "linear"
    v0: Number
    increment: Number
    every: Count = 1

    def _value(self, t: int) -> float:
        return self.v0 + self.increment * (t // self.every)


class Exponential(Schedule):
    """v0 factor^⌊t/every⌋, factor > 0; inf where that overflows."""

    kind: Literal["exponential"] = "exponential"
    v0: Number
    factor: Positive
    every: Count = 1

    def _value(self, t: int) -> float:
        return self.v0 * float(self.factor) ** (t // self.every)


def _by_time(factors: Any) -> Any:
    try:
        return tuple(sorted(factors.items() if isinstance(factors, dict) else factors))
    except TypeError:
        raise ValueError("must be {at: factor}, or pairs of them") from None


class Milestones(Schedule):
    """v0 times the factor of every milestone that is at or before t; factors as {at: factor} or pairs."""

    kind: Literal["milestones"] = "milestones"
    v0: Number
    factors: Annotated[tuple[tuple[Index, Number], ...], BeforeValidator(_by_time)]

    @model_validator(mode="after")
    def _differ(self) -> Milestones:
        times = {at for at, _ in self.factors}
        require(len(times) == len(self.factors), "factors", self.factors, "must differ in at")
        return self

    def _value(self, t: int) -> float:
        return math.prod((factor for at, factor in self.factors if at <= t), start=self.v0)


class Piecewise(Schedule):
    """values[k] from boundaries[k − 1] on (values[0] from 0 on): one value more than rising boundaries."""

    kind: Literal["piecewise"] = "piecewise"
    values: tuple[Number, ...]
    boundaries: tuple[Count, ...]

    @model_validator(mode="after")
    def _rising(self) -> Piecewise:
        _check_boundaries(self.boundaries, len(self.values))
        return self

    def _value(self, t: int) -> float:
        return self.values[bisect_right(self.boundaries, t)]


class Polynomial(Schedule):
    """end + (v0 − end)(1 − t/duration)^power up to duration, end from there on."""

    kind: Literal["polynomial"] = "polynomial"
    v0: Number
    end: Number
    duration: Count
    power: Positive = 1.0

    def _value(self, t: int) -> float:
        return self.end + (self.v0 - self.end) * max(0.0, 1 - t / self.duration) ** self.power


class Cosine(Schedule):
    """end + (v0 − end)(1 + cos(πt/duration))/2 up to duration, end from there on."""

    kind: Literal["cosine"] = "cosine"
    v0: Number
    end: Number
    duration: Count

    def _value(self, t: int) -> float:
        return self.end + (self.v0 - self.end) * (1 + math.cos(math.pi * min(t / self.duration, 1.0))) / 2


class Ramp(Schedule):
    """v0 up to start, end from duration on, and v^order linear in t between; order 0: the logarithm is."""

    kind: Literal["ramp"] = "ramp"
    v0: Positive
    end: Positive
    start: Index
    duration: Count
    order: Number = 0.0

    @model_validator(mode="after")
    def _lasts(self) -> Ramp:
        require(self.duration > self.start, "duration", self.duration, f"must be above start = {self.start}")
        ends = 0 < self(self.duration) < math.inf
        require(ends, "order", self.order, "is too large: (end/v0)^order leaves the range of a float")
        return self

    def _value(self, t: int) -> float:
        share = min(1.0, max(0, t - self.start) / (self.duration - self.start))
        ratio = self.end / self.v0
        if self.order == 0:
            return self.v0 * ratio**share
        return self.v0 * (1 - share + share * ratio**self.order) ** (1 / self.order)


class Interpolated(Schedule):
    """values[k] at times[k], all above 0, geometric between two of them; the first before, the last after them all."""

    kind: Literal["interpolated"] = "interpolated"
    values: tuple[Positive, ...]
    times: tuple[Index, ...]

    @model_validator(mode="after")
    def _rising(self) -> Interpolated:
        rising = all(a < b for a, b in pairwise(self.times))
        require(rising and len(self.times) == len(self.values) > 0, "times", self.times, "must rise, one a value")
        return self

    def _value(self, t: int) -> float:
        right = bisect_right(self.times, t)
        if right in (0, len(self.times)):
            return self.values[min(right, len(self.times) - 1)]
        (v0, v1), (t0, t1) = self.values[right - 1 : right + 1], self.times[right - 1 : right + 1]
        return v0 * (v1 / v0) ** ((t - t0) / (t1 - t0))


class Fitted(Schedule):
    """schedule(t), rounded, made a little smaller where steps of that size would not end at `total` exactly.

    For a batch size on the sample clock: R = total − t are left for k = ⌈R/b⌉ steps, of ⌈R/k⌉ samples the next. From
    total on it is schedule(total).
    """

    kind: Literal["fitted"] = "fitted"
    schedule: AnySchedule
    total: Count

    def _value(self, t: int) -> float:
        batch_size = max(1, math.floor(self.schedule(min(t, self.total)) + 0.5))
        left = self.total - t
        return -(-left // -(-left // batch_size)) if left > 0 else batch_size


class Cyclic(Schedule):
    """v0 + (end − v0) w(s) cycle_factor^c step_factor^t, from v0 to end in `duration` and back in `back` readings.

    c = ⌊t/(duration + back)⌋ is the cycle and s the reading in it; u = s/duration on the way there,
    1 − (s − duration)/back on the way back (back: as long as there, by default), and w = u, or (1 − cos(πu))/2 with
    shape="cosine". Smith 2017 (arXiv 1506.01186): triangular2 is cycle_factor=0.5, exp_range a step_factor.
    """

    kind: Literal["cyclic"] = "cyclic"
    v0: Number
    end: Number
    duration: Count
    back: Count | None = None
    shape: Literal["linear", "cosine"] = "linear"
    cycle_factor: Positive = 1.0
    step_factor: Positive = 1.0

    def _value(self, t: int) -> float:
        back = self.duration if self.back is None else self.back
        cycle, s = divmod(t, self.duration + back)
        u = s / self.duration if s <= self.duration else 1 - (s - self.duration) / back
        w = u if self.shape == "linear" else (1 - math.cos(math.pi * u)) / 2
        scale = float(self.cycle_factor) ** cycle * float(self.step_factor) ** t
        return self.v0 + (self.end - self.v0) * w * scale


class WarmRestarts(Schedule):
    """end + (v0 − end)(1 + cos(πs/T))/2 for s = 0 … T, then again from v0 with T factor times as long; T = duration
    at first. Loshchilov & Hutter 2017 (arXiv 1608.03983), with the end of each cycle taken once."""

    kind: Literal["warm_restarts"] = "warm_restarts"
    v0: Number
    end: Number
    duration: Count
    factor: Count = 1

    def _value(self, t: int) -> float:
        length = self.duration
        if self.factor == 1:
            t %= length + 1
        while t > length:
            t, length = t - length - 1, length * self.factor
        return self.end + (self.v0 - self.end) * (1 + math.cos(math.pi * t / length)) / 2


class Function(Schedule):
    """v0 f(t), of a schedule or of any function; the latter cannot be stored."""

    kind: Literal["function"] = "function"
    f: AnyFunction
    v0: Number = 1.0

    @field_serializer("f")
    def _stored(self, value: Any) -> dict[str, Any]:
        return _stored(value)

    def _value(self, t: int) -> float:
        return self.v0 * self.f(t)


class Multiplicative(Schedule):
    """v0 f(1) f(2) … f(t), of a schedule or of any function; the latter cannot be stored."""

    kind: Literal["multiplicative"] = "multiplicative"
    v0: Number
    f: AnyFunction

    @field_serializer("f")
    def _stored(self, value: Any) -> dict[str, Any]:
        return _stored(value)

    @cached_property
    def _products(self) -> list[float]:  # kept, so that a run costs a call a step
        return [1.0]

    def _value(self, t: int) -> float:
        while len(self._products) <= t:
            self._products.append(self._products[-1] * self.f(len(self._products)))
        return self.v0 * self._products[t]


class Warmup(Schedule):
    """schedule(t) (t + 1)/duration while t < duration, schedule(t) from there on."""

    kind: Literal["warmup"] = "warmup"
    schedule: AnySchedule
    duration: Count

    def _value(self, t: int) -> float:
        return self.schedule(t) * min(1.0, (t + 1) / self.duration)


class Join(Schedule):
    """schedules[k] from boundaries[k − 1] on, its own clock starting at 0 there."""

    kind: Literal["join"] = "join"
    schedules: tuple[AnySchedule, ...]
    boundaries: tuple[Count, ...]

    @model_validator(mode="after")
    def _rising(self) -> Join:
        _check_boundaries(self.boundaries, len(self.schedules))
        return self

    def _value(self, t: int) -> float:
        piece = bisect_right(self.boundaries, t)
        return self.schedules[piece](t - (self.boundaries[piece - 1] if piece else 0))


class Capped(Schedule):
    """The smaller of schedule(t) and maximum."""

    kind: Literal["capped"] = "capped"
    schedule: AnySchedule
    maximum: Number

    def _value(self, t: int) -> float:
        return min(self.schedule(t), self.maximum)


class Floored(Schedule):
    """The larger of schedule(t) and minimum."""

    kind: Literal["floored"] = "floored"
    schedule: AnySchedule
    minimum: Number

    def _value(self, t: int) -> float:
        return max(self.schedule(t), self.minimum)


class Power(Schedule):
    """factor schedule(t)^exponent, factor > 0; inf for a negative power of 0. Needs schedule(t) ≥ 0."""

    kind: Literal["power"] = "power"
    schedule: AnySchedule
    exponent: Number
    factor: Positive = 1.0

    def _value(self, t: int) -> float:
        base = self.schedule(t)
        require(base >= 0, f"schedule at {t}", base, "must be 0 or above to be raised to a power")
        return math.inf if base == 0 and self.exponent < 0 else self.factor * base**self.exponent


class Product(Schedule):
    """The product of the schedules at t."""

    kind: Literal["product"] = "product"
    schedules: tuple[AnySchedule, ...]

    def _value(self, t: int) -> float:
        return math.prod(schedule(t) for schedule in self.schedules)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_ENTRY = re.compile(r"(\d+(?:\.\d+)?)([KMBT]?):(\S+)", re.IGNORECASE)


def parse(text: str) -> Piecewise:
    """The piecewise schedule that a string such as "0:16 50K:32 1.5M:64" says: threshold:value, by blanks apart.

    Thresholds are readings of the clock (samples, as a rule) with K, M, B or T for a thousand, a million, a billion,
    a trillion; the first is 0 and they rise. Raises `InputError` that names the entry at fault.
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


def _check_boundaries(boundaries: tuple[int, ...], pieces: int) -> None:
    rising = all(a < b for a, b in pairwise(boundaries))
    require(rising and len(boundaries) == pieces - 1, "boundaries", boundaries, f"must be {pieces - 1}, rising")


constant, linear, exponential, milestones = Constant, Linear, Exponential, Milestones
piecewise, interpolated, polynomial, cosine = Piecewise, Interpolated, Polynomial, Cosine
cyclic, warm_restarts, ramp, warmup = Cyclic, WarmRestarts, Ramp, Warmup
join, capped, floored, fitted, power, product = Join, Capped, Floored, Fitted, Power, Product
function, multiplicative = Function, Multiplicative
