"""What a specification is made of: frozen pydantic models, told apart by their `kind` where there are several."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, wraps
from inspect import signature
from typing import Annotated, Any, ClassVar, ParamSpec, TypeVar, get_type_hints

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    InstanceOf,
    SerializeAsAny,
    ValidationError,
    create_model,
)

from sfolib._utils.errors import explain, require

P, T = ParamSpec("P"), TypeVar("T")


class Model(BaseModel):
    """A value that cannot change. Its arguments may go by position; bad ones raise `InputError`, which names each."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, *args: Any, **kwargs: Any):
        names = [name for name in type(self).model_fields if name != "kind"]
        require(len(args) <= len(names), type(self).__name__, args, f"takes {names}")
        args, kwargs = map(_plain, args), {name: _plain(value) for name, value in kwargs.items()}
        try:
            super().__init__(**dict(zip(names, args, strict=False)), **kwargs)
        except ValidationError as error:
            raise explain(error) from None

    def __repr_args__(self) -> Any:
        return [(name, value) for name, value in super().__repr_args__() if name != "kind"]


class Family(Model):
    """The base of models of which a field may hold any: a subclass says its `kind: Literal[…] = …`, and is stored
    with it. Each direct subclass of `Family` is a family, with its members by kind in `kinds`."""

    kinds: ClassVar[dict[str, type[Family]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if Family in cls.__bases__:
            cls.kinds = {}
        elif "kind" in cls.model_fields:
            kind = cls.model_fields["kind"].default
            own = all(
                base.model_fields["kind"].default != kind for base in cls.__bases__ if "kind" in base.model_fields
            )
            require(own, "kind", kind, f"{cls.__name__} needs one of its own, or it would be read back as its base")
            cls.kinds[kind] = cls

    @classmethod
    def of(cls, value: Any) -> Any:
        """A member of the family from {"kind": …, its arguments by name …}, or from the kind alone."""
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict):
            return value
        kind = value.get("kind")
        known = isinstance(kind, str) and kind in cls.kinds
        require(
            known,
            "kind",
            kind,
            f"must be one of {[*cls.kinds]}, or of a class that has been imported (in a command: --import MODULE)",
        )
        return cls.kinds[kind](**{name: argument for name, argument in value.items() if name != "kind"})


def any_of(family: type[Family]) -> Any:
    """The type of a field that holds a member of a family, given as one or as `Family.of` reads it."""
    return Annotated[SerializeAsAny[family], BeforeValidator(family.of)]


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's."""
    if type(value) in (tuple, list):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.integer | np.floating) else value


def _number(value: Any) -> Any:
    value = _plain(value)
    ok = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not ok:
        raise ValueError("must be a finite number")
    return value


def _at_least(least: int) -> BeforeValidator:
    def check(value: Any) -> Any:
        value = _plain(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= sys.float_info.max:
            raise ValueError(f"must be a whole number, {least} or above, in the range of a float")
        return value

    return BeforeValidator(check)


def _above_0(value: Any) -> Any:
    value = _number(value)
    if not value > 0:
        raise ValueError("must be above 0")
    return value


def arguments(function: Callable, name: str, base: type[Model], **more: Any) -> type[Model]:
    """A model of what a function takes, by its signature and annotations; more: fields besides."""
    types = get_type_hints(function, include_extras=True)
    fields = {}
    for each in signature(function).parameters.values():
        if each.name != "self":
            kind = types[each.name]
            if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel)):
                kind = InstanceOf[kind]  # and no dict of its fields
            fields[each.name] = (kind, ... if each.default is each.empty else each.default)
    return create_model(name, __base__=base, **more, **fields)


class _Strict(Model):
    model_config = ConfigDict(strict=True)


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """`InputError` that names each argument that its annotation does not allow. All are passed on as they are."""
    model, takes = cache(lambda: arguments(function, function.__name__, _Strict)), signature(function)

    @wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> T:
        try:
            given = takes.bind(*args, **named).arguments
        except TypeError:  # too many, too few, unknown ones: Python's own words
            return function(*args, **named)
        model()(**{name: value for name, value in given.items() if name != "self"})
        return function(*args, **named)

    return call


Number = Annotated[int | float, BeforeValidator(_number)]
Positive = Annotated[int | float, BeforeValidator(_above_0)]
Count = Annotated[int, _at_least(1)]
Index = Annotated[int, _at_least(0)]
# as floats
Above0 = Annotated[FiniteFloat, Field(gt=0)]
Nonnegative = Annotated[FiniteFloat, Field(ge=0)]
Above1 = Annotated[FiniteFloat, Field(gt=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Between0And1 = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
