"""Real handwriting in CIFAR-100's container, to run CIFAR's code where CIFAR itself is not at hand.

scikit-learn's digits (8×8 grey) as 32×32 RGB, in the pickled files that torchvision's CIFAR-100 reads. They are not
CIFAR-100 and are never called so: their own folder, their own dataset name in every record.
"""

from __future__ import annotations

import os
import pickle
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from sfolib._utils.errors import InputError
from sfolib.problems import datasets
from sfolib.problems.batches import crop_and_flip
from sfolib.problems.execution import PLAIN, Execution
from sfolib.problems.network import ImageData, NetworkTask
from sfolib.problems.specs import Images, split_digits
from sfolib.problems.stacked import Task

FOLDER = "handwriting-python"
_TEST = 360  # the test split of the digits; the rest is for training


class Handwriting(Images):
    """The first `train_images` and `test_images` of the archive, classified by a network as `Images`."""

    threads: ClassVar[int | None] = 1  # too small to share

    kind: Literal["handwriting"] = "handwriting"
    dataset: Literal["handwriting"] = "handwriting"
    train_images: int = Field(ge=1, le=1797 - _TEST)
    test_images: int = Field(ge=1, le=_TEST)

    def build_task(
        self, seeds: tuple[int, ...], sampling: str, device: str, dtype: str, how: Execution = PLAIN
    ) -> Task:
        kind = datasets.KINDS["cifar100"]
        augment = None if self.augment is False else crop_and_flip
        data = ImageData(*self._padded(), 10, kind.mean, kind.std, augment)
        return NetworkTask(self.model, data, self.l2, seeds, sampling, device, dtype, how)

    def _load(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        parts = zip(read(self.data_dir), (self.train_images, self.test_images), strict=True)
        return tuple((x[:n], y[:n]) for (x, y), n in parts)


def write(folder: Path | str) -> Path:
    """Write the archive into `folder`, if it is not there yet: train, test and meta, as CIFAR-100's; its path.

    A pixel of the digits is a square of 4×4, the same in the three channels. The order of samples is fixed.
    """
    home = Path(folder) / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    content = {"meta": {"fine_label_names": [f"digit {i}" for i in range(10)]}}
    for name, (x, y) in zip(("train", "test"), split_digits(_TEST), strict=True):
        squares = np.kron(np.round(255 * x).astype(np.uint8).reshape(-1, 8, 8), np.ones((1, 4, 4), np.uint8))
        content[name] = {"data": np.repeat(squares.reshape(len(y), 1, -1), 3, axis=1).reshape(len(y), -1)}
        content[name]["fine_labels"] = y.tolist()
    for name, entries in content.items():
        if not (home / name).exists():
            temporary = home / f".{name}.{os.getpid()}"
            temporary.write_bytes(pickle.dumps(entries))
            temporary.replace(home / name)
    return home


@lru_cache(maxsize=2)
def read(folder: str) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """((train images, labels), (test images, labels)) by torchvision's reader of CIFAR-100; images (n, 3, 32, 32)."""
    from torchvision import datasets

    class Archive(datasets.CIFAR100):
        base_folder = FOLDER
        train_list, test_list = [["train", None]], [["test", None]]  # no checksum: nobody has published one
        meta = datasets.CIFAR100.meta | {"md5": None}

    try:
        parts = [Archive(folder, train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"data_dir = {folder!r}: no {FOLDER} there; write it by sfolib.problems.archive.write"
        ) from error
    return tuple((np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets)) for part in parts)
