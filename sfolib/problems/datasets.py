"""MNIST and CIFAR as arrays of bytes, read by torchvision from where they lie."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from sfolib._utils.errors import InputError

Dataset = Literal["mnist", "cifar10", "cifar100"]


class Kind(NamedTuple):
    """A data set's class in torchvision.datasets, its number of classes, and channel means and deviations (of 1)."""

    name: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


KINDS: dict[str, Kind] = {
    "mnist": Kind("MNIST", 10, (0.1307,), (0.3081,)),
    "cifar10": Kind("CIFAR10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # as in the program of "Optimal Growth Schedules …"
    "cifar100": Kind("CIFAR100", 100, (129.3 / 255, 124.1 / 255, 112.4 / 255), (68.2 / 255, 65.4 / 255, 70.4 / 255)),
}


@lru_cache(maxsize=2)
def load(dataset: Dataset, data_dir: str, download: bool) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """((train images, labels), (test images, labels)); images (n, channels, height, width) of bytes.

    Raises `InputError` that says what to run where the data set is not in `data_dir` or damaged.
    """
    from torchvision import datasets

    cls = getattr(datasets, KINDS[dataset].name)
    try:
        found = [cls(data_dir, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        fetch = f"from torchvision.datasets import {cls.__name__} as D; D({data_dir!r}, download=True)"
        raise InputError(
            f"data_dir = {data_dir!r}: no {dataset} there ({str(error).splitlines()[0]}); "
            f"add --download to `python -m sfolib train`, or run python -c {fetch!r}"
        ) from error
    return tuple((_channels_first(np.asarray(part.data)), np.asarray(part.targets)) for part in found)


def _channels_first(images: np.ndarray) -> np.ndarray:
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images)
