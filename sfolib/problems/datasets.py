"""MNIST, Fashion-MNIST and CIFAR as arrays of bytes, read from where they lie."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sfolib._utils.errors import InputError, require

Dataset = Literal["mnist", "fashion_mnist", "cifar10", "cifar100"]
Part = tuple[np.ndarray, np.ndarray]


class Kind(NamedTuple):
    """A data set's class in torchvision.datasets, its number of classes, channel means and deviations (of 1).

    augment: whether crops and flips are the custom for it. package: of Debian, and the folder where that puts it.
    """

    name: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: bool = False
    package: tuple[str, str] | None = None


KINDS: dict[str, Kind] = {
    "mnist": Kind("MNIST", 10, (0.1307,), (0.3081,)),
    "fashion_mnist": Kind(
        "FashionMNIST",
        10,
        (0.2860,),
        (0.3530,),
        package=("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
    ),
    "cifar10": Kind("CIFAR10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), augment=True),
    # as in the program of "Optimal Growth Schedules …"
    "cifar100": Kind(
        "CIFAR100", 100, (129.3 / 255, 124.1 / 255, 112.4 / 255), (68.2 / 255, 65.4 / 255, 70.4 / 255), augment=True
    ),
}
DATA_DIR = "data"  # where data sets are by default
_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@lru_cache(maxsize=2)
def load(dataset: Dataset, data_dir: str, download: bool) -> tuple[Part, Part]:
    """((train images, labels), (test images, labels)); images (n, channels, height, width) of bytes.

    `data_dir` holds torchvision's layout; for the MNISTs also the bare IDX files, gzipped or not. Fashion-MNIST is
    found where Debian's package puts it, too. Raises `InputError` that says how to get a data set that is not there,
    and names a file that is damaged.
    """
    kind = KINDS[dataset]
    if dataset in ("mnist", "fashion_mnist"):
        home = Path(data_dir) / kind.name
        places = [home / "raw", home, Path(data_dir)]
        if kind.package and (data_dir == DATA_DIR or Path(data_dir).is_dir()):  # not in place of a folder misspelt
            places.append(Path(kind.package[1]))
        found = [files for place in places if (files := _idx_files(place))]
        if found:
            x, y, x_test, y_test = map(_read_idx, found[0])
            for images, labels in ((x, y), (x_test, y_test)):
                matches = images.ndim == 3 and labels.shape == (len(images),)
                require(matches, "data_dir", str(found[0][0].parent), f"holds no images of {dataset} with their labels")
            return (x[:, None], y), (x_test[:, None], y_test)
    from torchvision import datasets

    cls = getattr(datasets, kind.name)
    try:
        parts = [cls(data_dir, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        fetch = f"from torchvision.datasets import {kind.name} as D; D({data_dir!r}, download=True)"
        ways = f"add --download to `python -m sfolib train`, or run python -c {fetch!r}"
        if kind.package:
            ways = f"run apt-get install {kind.package[0]}, or {ways}"
        raise InputError(
            f"data_dir = {data_dir!r}: no {dataset} there ({str(error).splitlines()[0]}); {ways}"
        ) from error
    return tuple((_channels_first(np.asarray(part.data)), np.asarray(part.targets)) for part in parts)


def _idx_files(folder: Path) -> list[Path] | None:
    """The four IDX files in a folder, each gzipped or not; None unless all are there."""
    either = [[path for path in (folder / name, folder / f"{name}.gz") if path.is_file()] for name in _IDX]
    return [paths[0] for paths in either] if all(either) else None


def _read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: big-endian 0x08dd, dd the number of dimensions; their lengths; the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dims = data[3]
        shape = np.frombuffer(data, ">i4", dims, 4)
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise InputError(f"file = {str(path)!r}: damaged ({error}); get the data set again") from error
    require(data[:3] == b"\0\0\x08", "file", str(path), "is no IDX file of bytes; get the data set again")
    return values if values.ndim > 1 else values.astype(np.int64)


def _channels_first(images: np.ndarray) -> np.ndarray:
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images)
