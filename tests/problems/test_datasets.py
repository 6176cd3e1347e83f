"""Data sets in their real formats: every layout on disk, what is missing, what is damaged."""

from pathlib import Path

import numpy as np
import pytest
from archives import images, write_mnist

from sfolib._utils.errors import InputError
from sfolib.problems import datasets
from sfolib.problems.specs import Images, named
from sfolib.schedules.plan import Plan
from sfolib.training.spec import Spec

PACKAGE, PACKAGED = datasets.KINDS["fashion_mnist"].package


@pytest.fixture(autouse=True)
def nothing_cached():
    datasets.load.cache_clear()
    yield
    datasets.load.cache_clear()


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("layout", ["torchvision", "its own folder", "bare"])
def test_idx_files_are_found_in_every_layout(layout, dataset, pack, tmp_path):
    home = tmp_path / datasets.KINDS[dataset].name
    write_mnist({"torchvision": home / "raw", "its own folder": home, "bare": tmp_path / "x"}[layout], pack=pack)
    folder = tmp_path / "x" if layout == "bare" else tmp_path
    (x, y), (x_test, y_test) = datasets.load(dataset, str(folder), False)
    for found, labels, n, seed in ((x, y, 50, 1), (x_test, y_test, 20, 2)):
        pixels, wanted = images(n, (28, 28), 10, seed)
        assert found.dtype == np.uint8
        assert np.array_equal(found, pixels[:, None])
        assert np.array_equal(labels, wanted)


def test_some_of_the_images_are_the_same_draw_each_time(tmp_path):
    write_mnist(tmp_path / "x")
    problem = named("fashion_mnist", "cnn", data_dir=str(tmp_path / "x"))
    (x, y), test = problem._load()
    some = problem.model_copy(update={"train_images": 30})
    for _ in range(2):
        (chosen, labels), same = some._load()
        assert len(np.unique(chosen, axis=0)) == some.size == 30
        assert all((image == x).all((1, 2, 3)) @ (y == label) for image, label in zip(chosen, labels, strict=True))
        assert np.array_equal(same[0], test[0][np.random.default_rng(0).permutation(20)[:12]])
    with pytest.raises(InputError, match="train_images = 51: must be at most the 50 there are"):
        problem.model_copy(update={"train_images": 51}).size  # noqa: B018


def test_what_torchvision_reads_is_the_same(tmp_path):
    from torchvision.datasets import FashionMNIST

    write_mnist(tmp_path / "FashionMNIST" / "raw")
    theirs = FashionMNIST(str(tmp_path), train=True)
    (x, y), _ = datasets.load("fashion_mnist", str(tmp_path), False)
    assert np.array_equal(x[:, 0], theirs.data.numpy())
    assert np.array_equal(y, theirs.targets.numpy())


def test_packed_and_unpacked_side_by_side(tmp_path):
    write_mnist(tmp_path / "a")
    write_mnist(tmp_path / "b", pack=True)
    for path in (tmp_path / "b").iterdir():
        path.rename(tmp_path / "a" / path.name)
    assert len(datasets.load("mnist", str(tmp_path / "a"), False)[0][1]) == 50


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "damaged"),
        (lambda data: b"", "damaged"),
        (lambda data: b"\0\0\x09" + data[3:], "no IDX file of bytes"),
        (lambda data: data[:3] + b"\xff" + data[4:], "damaged"),
    ],
)
def test_a_damaged_file_is_named(damage, message, tmp_path):
    write_mnist(tmp_path / "x")
    path = tmp_path / "x" / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"train-images-idx3-ubyte.*{message}"):
        datasets.load("mnist", str(tmp_path / "x"), False)


def test_images_without_their_labels_are_refused(tmp_path):
    write_mnist(tmp_path / "x")
    write_mnist(tmp_path / "y", n_train=40)
    name = "train-labels-idx1-ubyte"
    (tmp_path / "x" / name).write_bytes((tmp_path / "y" / name).read_bytes())
    with pytest.raises(InputError, match="no images of mnist with their labels"):
        datasets.load("mnist", str(tmp_path / "x"), False)


def test_padding_frames_the_images_with_zeros_and_is_another_run(tmp_path):
    write_mnist(tmp_path / "x")
    plain, padded = (Images(dataset="mnist", model="softmax", data_dir=str(tmp_path / "x"), padding=n) for n in (0, 2))
    (x, _), (x_test, _) = datasets.load("mnist", str(tmp_path / "x"), False)
    task = padded.build_task((0,), "permutation", "cpu", "float32")
    assert task.x.shape[1:] == (1, 32, 32)
    assert np.array_equal(task.x[:, :, 2:-2, 2:-2], x)
    assert int(task.x.sum()) == int(x.sum())
    assert task.test[0].shape == (len(x_test), 1, 32, 32)
    assert Spec(problem=plain, plan=Plan(8, 0.1), max_samples=8).key != Spec(
        problem=padded, plan=Plan(8, 0.1), max_samples=8).key  # fmt: skip


def test_missing_data_are_an_error_that_says_both_ways(tmp_path, monkeypatch):
    kind = datasets.KINDS["fashion_mnist"]
    monkeypatch.setitem(datasets.KINDS, "fashion_mnist", kind._replace(package=(PACKAGE, str(tmp_path / "none"))))
    with pytest.raises(InputError, match=f"no fashion_mnist there .*apt-get install {PACKAGE}, or add --download"):
        datasets.load("fashion_mnist", str(tmp_path), False)


@pytest.mark.skipif(not Path(PACKAGED).is_dir(), reason=f"needs Debian's package {PACKAGE}")
def test_the_packages_real_images_are_found_unasked(tmp_path):
    problem = named("fashion_mnist", "cnn", data_dir=str(tmp_path))
    assert problem.size == 60_000
    (x, y), (x_test, _) = datasets.load("fashion_mnist", str(tmp_path), False)
    assert x.shape == (60_000, 1, 28, 28)
    assert x_test.shape == (10_000, 1, 28, 28)
    assert np.bincount(y).tolist() == [6000] * 10
    kind = datasets.KINDS["fashion_mnist"]
    assert x.mean() / 255 == pytest.approx(kind.mean[0], abs=1e-4)
    assert x.std() / 255 == pytest.approx(kind.std[0], abs=1e-4)


def test_a_folder_misspelt_is_not_replaced_by_the_package(tmp_path):
    with pytest.raises(InputError, match=r"data_dir = .*: no fashion_mnist there"):
        datasets.load("fashion_mnist", str(tmp_path / "misspelt"), False)
