"""Small data sets in the real formats, as torchvision finds them on disk."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
from torchvision import datasets


def images(n, shape, classes, seed):
    """Bytes and labels that a network can learn: a class has a mean image of its own."""
    rng = np.random.default_rng(0)
    means = rng.integers(40, 216, (classes, *shape))
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=max(0, n - classes))])[:n]
    noise = rng.integers(-40, 40, (n, *shape))
    return (means[labels] + noise).astype(np.uint8), labels


def write_cifar(folder, monkeypatch, name="cifar10", n_train=50, n_test=20):
    """CIFAR's pickles; torchvision is told their md5."""
    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    classes, key = (10, "labels") if name == "cifar10" else (100, "fine_labels")
    home = folder / cls.base_folder
    home.mkdir(parents=True)

    def write(file, content):
        data = pickle.dumps(content)
        (home / file).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def part(files, n, seed):
        x, y = images(n, (3072,), classes, seed)
        size = n // len(files)
        slices = [slice(i * size, (i + 1) * size) for i in range(len(files))]
        return [[f, write(f, {"data": x[s], key: y[s].tolist()})] for f, s in zip(files, slices, strict=True)]

    monkeypatch.setattr(cls, "train_list", part([f for f, _ in cls.train_list], n_train, 1))
    monkeypatch.setattr(cls, "test_list", part([f for f, _ in cls.test_list], n_test, 2))
    names = {cls.meta["key"]: [str(i) for i in range(classes)]}
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": write(cls.meta["filename"], names)})


def write_mnist(home, n_train=50, n_test=20, pack=False):
    """The IDX files of MNIST or Fashion-MNIST in the folder `home`, gzipped or not."""
    home.mkdir(parents=True)
    for prefix, n, seed in (("train", n_train, 1), ("t10k", n_test, 2)):
        x, y = images(n, (28, 28), 10, seed)
        for name, content in (
            (f"{prefix}-images-idx3-ubyte", struct.pack(">iiii", 0x803, n, 28, 28) + x.tobytes()),
            (f"{prefix}-labels-idx1-ubyte", struct.pack(">ii", 0x801, n) + y.astype(np.uint8).tobytes()),
        ):
            (home / f"{name}.gz" if pack else home / name).write_bytes(gzip.compress(content) if pack else content)
