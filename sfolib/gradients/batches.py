"""Samples in the forms in which models take and return them: tensors, and dicts, tuples or dataclasses of tensors.

Every tensor but those without a dimension has the samples as its first one; what is no tensor belongs to all samples.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfolib._utils.errors import require

Batch = Any
Index = slice | Tensor


def _items(value: Batch) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}


def tensors(value: Batch) -> list[Tensor]:
    """All tensors of it, in a fixed order."""
    if isinstance(value, Tensor):
        return [value]
    return [t for item in _items(value).values() for t in tensors(item)]


def mapped(f: Callable[[Tensor], Tensor], value: Batch) -> Batch:
    """The same with f(t) for every tensor t, called in the order of `tensors`."""
    if isinstance(value, Tensor):
        return f(value)
    if not tensors(value):
        return value
    items = {key: mapped(f, item) for key, item in _items(value).items()}
    if isinstance(value, tuple):
        return type(value)(*items.values()) if hasattr(value, "_fields") else type(value)(items.values())
    value = copy.copy(value)
    for key, item in items.items():
        if isinstance(value, Mapping | list):
            value[key] = item
        else:
            object.__setattr__(value, key, item)  # of a frozen dataclass too
    return value


def take(value: Batch, index: Index) -> Batch:
    """The samples at `index`, a slice or positions."""
    return mapped(lambda t: t[index] if t.dim() else t, value)


def rows(value: Batch) -> list[Tensor]:
    """The tensors that have samples."""
    return [t for t in tensors(value) if t.dim()]


def one(value: Batch, of: list[Tensor]) -> Batch:
    """A batch of one sample in the form of `value`; `of` are its `rows`, without the dimension of the samples."""
    left = iter(of)
    return mapped(lambda t: next(left).unsqueeze(0) if t.dim() else t, value)


def n_samples(x: Batch, y: Batch) -> int:
    """How many samples `x` is, and the labels `y`."""
    found = rows(x)
    require(bool(found), "x", type(x).__name__, "must hold a tensor whose first dimension is the samples")
    n = found[0].shape[0]
    for name, ts in (("x", found), ("y", rows(y))):
        for t in ts:
            if t.shape[0] != n:
                require(False, name, tuple(t.shape), f"must have x's leading dimension, {n}: the samples")
    return n


def device(x: Batch) -> torch.device:
    return rows(x)[0].device


def arguments(model: nn.Module, x: Batch) -> tuple[tuple, dict]:
    """How `model` is called on `x`: with a dict as keyword arguments and a tuple as positional ones where its `forward`
    takes them so, with `x` as it is otherwise."""
    if isinstance(x, Mapping) and all(isinstance(key, str) for key in x) and _takes(model, (), dict(x)):
        return (), dict(x)
    if isinstance(x, tuple) and _takes(model, x, {}):
        return x, {}
    return (x,), {}


def _takes(model: nn.Module, args: tuple, kwargs: dict) -> bool:
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def call(model: nn.Module, x: Batch) -> Batch:
    args, kwargs = ((x,), {}) if isinstance(x, Tensor) else arguments(model, x)
    return model(*args, **kwargs)


def wide(t: Tensor) -> Tensor:
    """In float32 where it is of less."""
    return t.float() if t.is_floating_point() and t.dtype.itemsize < 4 else t
