"""The stand-in for CIFAR-100: its files as torchvision reads CIFAR's, its pixels the digits', its records its own."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sfolib._utils.errors import InputError
from sfolib.experiments import cifar_stand_in
from sfolib.experiments.cifar_stand_in import Handwriting
from sfolib.problems.specs import split_digits
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.training import records
from sfolib.training.run import run
from sfolib.training.spec import Spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    cifar_stand_in.write(path)
    return str(path)


def test_the_files_are_in_the_format_of_cifar_100(folder):
    home = cifar_stand_in.write(folder)  # a second time, over what is there
    train, test, meta = (pickle.loads((home / name).read_bytes()) for name in ("train", "test", "meta"))
    assert train["data"].shape == (1437, 3 * 32 * 32)
    assert test["data"].shape == (360, 3 * 32 * 32)
    assert train["data"].dtype == np.uint8
    assert len(train["fine_labels"]) == 1437
    assert len(meta["fine_label_names"]) == 10


def test_every_image_is_a_digit_in_squares_of_4(folder):
    for (x, y), (pixels, labels) in zip(cifar_stand_in.read(folder), split_digits(360), strict=True):
        assert x.shape == (len(labels), 3, 32, 32)
        assert (y == labels).all()
        for channel in range(3):
            for i in range(4):
                assert np.abs(x[:, channel, i::4, (3 * i) % 4 :: 4].reshape(-1, 64) - 255 * pixels).max() <= 0.5
    whole = np.concatenate([pixels for pixels, _ in split_digits(360)])
    assert sorted(map(tuple, 16 * whole)) == sorted(map(tuple, load_digits().data))


def test_a_run_on_it_is_on_record_as_what_it_is(folder, tmp_path):
    problem = Handwriting(model="resnet8", data_dir=folder, train_images=40, test_images=20)
    plan = Plan(exponential(16, 2, 1), 0.1)
    spec = Spec(problem=problem, plan=plan, max_samples=80, grad_norms="both")
    made = run(spec, tmp_path, "cpu")
    assert made.spec.problem.dataset == "handwriting"
    assert "cifar" not in str(made.spec).lower()
    assert list(made.rows["step"]) == [0, 3, 5]
    assert list(made.rows["true_batch_size"]) == [0, 8, 8]
    again = made.spec
    assert (again, again.key) == (spec, spec.key)
    assert records.load(tmp_path / spec.key).rows.equals(made.rows)
    moved = problem.model_copy(update={"data_dir": "elsewhere"})
    assert Spec(problem=moved, plan=plan, max_samples=80, grad_norms="both").key == spec.key
    fewer = problem.model_copy(update={"train_images": 39})
    assert Spec(problem=fewer, plan=plan, max_samples=80, grad_norms="both").key != spec.key


def test_what_is_not_there_is_named(tmp_path):
    problem = Handwriting(model="cnn", data_dir=str(tmp_path), train_images=40, test_images=20)
    with pytest.raises(InputError, match=f"no {cifar_stand_in.FOLDER} there"):
        problem.size  # noqa: B018
