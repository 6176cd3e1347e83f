"""The authors' files, in and out, and the commands that take them."""

import csv
import importlib
import json
import math
import os

import numpy as np
import pandas as pd
import pytest
import torch
from archives import write_cifar

from sfolib import cli
from sfolib._utils.errors import InputError
from sfolib.analysis import constants
from sfolib.experiments import umeda_iiduka
from sfolib.problems import datasets
from sfolib.problems.specs import Digits, Quadratic
from sfolib.schedules.plan import Plan
from sfolib.theory.bounds import Constants
from sfolib.training import records
from sfolib.training.loop import Trainer
from sfolib.training.spec import Spec

CONST = {"model": "softmax", "bs": 16, "bs_method": "constant", "lr": 0.1, "lr_method": "constant", "epochs": 3}
LINEAR = CONST | {"bs_method": "linear_growth", "coefficient": 8, "bs_step_type": "periodic", "incr_interval": 2}
EXP = CONST | {"bs_method": "exp_growth", "bs_exp_rate": 1.5, "bs_step_type": "periodic", "incr_interval": 1}
BOTH = EXP | {"lr_method": "exp_growth", "lr_exp_rate": 1.4, "epochs": 30, "incr_interval": 2}


@pytest.fixture
def write(tmp_path):
    """Write a config with its csv_path in the test's folder; the path of the file."""

    def write(config, name="config.json"):
        path = tmp_path / name
        path.write_text(json.dumps({"csv_path": str(tmp_path / "csv")} | config))
        return path

    return write


def authors_schedule(config, epochs):
    """(batch, lr) of every epoch, as their two schedulers step along: the cap of 2048 is on a growing batch alone."""
    found, stage = [], 0
    for epoch in range(epochs):
        batch_size = config["bs"]
        if config["bs_method"] == "exp_growth":
            batch_size = min(2048, math.ceil(config["bs"] * config["bs_exp_rate"] ** stage))
        if config["bs_method"] == "linear_growth":
            batch_size = min(2048, math.ceil(config["bs"] * (1 + config["coefficient"] * stage / config["bs"])))
        rate = config["lr_exp_rate"] if config["lr_method"] == "exp_growth" else 1.0
        found.append((batch_size, config["lr"] * rate**stage))
        if "incr_interval" in config and (epoch + 1) % config["incr_interval"] == 0:
            stage += 1
    return found


@pytest.mark.parametrize("config", [CONST, LINEAR, EXP, BOTH, CONST | {"bs": 4096}, BOTH | {"bs_method": "constant"}])
def test_plan_is_the_authors_schedule(config, write):
    config = config | {"epochs": 30}
    plan = umeda_iiduka.read(write(config)).plan()
    ours = [plan.at(epoch) for epoch in range(30)]
    theirs = authors_schedule(config, 30)
    assert [b for b, _ in ours] == [b for b, _ in theirs]
    assert [lr for _, lr in ours] == pytest.approx([lr for _, lr in theirs], rel=1e-13)
    assert Plan.model_validate(plan.model_dump()) == plan


def test_the_cap_is_a_setting_and_lr_may_grow_by_steps(write):
    config = umeda_iiduka.read(write(BOTH | {"max_bs": 100, "lr_method": "linear_growth", "lr_coefficient": 0.05}))
    pairs = [config.plan().at(epoch) for epoch in range(30)]
    assert max(b for b, _ in pairs) == 100
    assert [lr for _, lr in pairs[::2]] == pytest.approx([0.1 + 0.05 * k for k in range(15)])


@pytest.mark.parametrize(
    ("config", "field"),
    [
        *(({k: v for k, v in CONST.items() if k != key}, f"{key}: missing") for key in CONST),
        ({k: v for k, v in EXP.items() if k != "incr_interval"}, "incr_interval: missing.* README's value is 20"),
        ({k: v for k, v in EXP.items() if k != "bs_exp_rate"}, "bs_exp_rate: missing"),
        ({k: v for k, v in LINEAR.items() if k != "coefficient"}, "coefficient: missing"),
        (CONST | {"lr_method": "exp_growth", "incr_interval": 1}, "lr_exp_rate: missing"),
        (CONST | {"lr_method": "linear_growth", "incr_interval": 1}, "lr_coefficient: missing"),
        (CONST | {"bs": "16"}, "bs = '16'"),
        (CONST | {"bs": 0}, "bs = 0"),
        (CONST | {"epochs": 1.5}, "epochs = 1.5"),
        (CONST | {"bs_method": "cosine"}, "bs_method = 'cosine'"),
        (CONST | {"bs": True}, "bs = True"),
        (CONST | {"bs": 16.5}, "bs = 16.5"),
    ],
)
def test_a_bad_config_names_the_key(config, field, write, capsys):
    path = write(config)
    with pytest.raises(InputError, match=field):
        umeda_iiduka.read(path)
    assert cli.main(["train", str(path), "--dataset", "digits"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("model", ["softmax", "mlp", "cnn"])
def test_train_on_digits_writes_a_run_and_the_four_files(model, write, tmp_path, capsys):
    path = write(EXP | {"model": model, "bs": 200})
    assert cli.main(["train", str(path), "--dataset", "digits", "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert not (tmp_path / "csv").exists()
    run = records.load(tmp_path / "run")
    n, sizes = 1437, [200, 300, 450]
    steps = np.cumsum([math.ceil(n / b) for b in sizes])
    assert list(run.rows["step"]) == [0, *steps]
    assert list(run.samples) == [0, n, 2 * n, 3 * n]
    folder = tmp_path / "run"
    read = {name: rows(folder / f"{name}.csv") for name in umeda_iiduka.HEADERS}
    assert {name: tuple(lines[0]) for name, lines in read.items()} == umeda_iiduka.HEADERS
    assert [line[:2] for line in read["norm"][1:]] == [[str(e + 1), str(s)] for e, s in enumerate(steps)]
    norms = np.array([float(line[2]) for line in read["norm"][1:]])
    assert norms == pytest.approx(
        run.rows["grad_sqnorm"].to_numpy()[1:] ** 0.5, rel=1e-4
    )  # no BatchNorm, no augmentation
    test = pd.read_csv(folder / "test.csv")
    assert test["Test Accuracy"].to_numpy() == pytest.approx(100 * run.rows["test_accuracy"].to_numpy()[1:])
    train = pd.read_csv(folder / "train.csv")
    assert train["Train Loss"].to_numpy() == pytest.approx(run.rows["running_loss"].to_numpy()[1:])
    assert train["Train Accuracy"].between(0, 100).all()
    lr_bs = pd.read_csv(folder / "lr_bs.csv")
    assert list(lr_bs["Steps"]) == list(range(1, steps[-1] + 1))
    assert list(lr_bs["Batch Size"]) == [b for b in sizes for _ in range(math.ceil(n / b))]
    assert "SFO" in capsys.readouterr().err


PUBLISHED = {  # the values of the three files that they publish, and their README's keys of another program of theirs
    "const": {"model": "softmax", "bs": 16, "bs_method": "constant", "lr": 0.1, "lr_method": "constant", "epochs": 1},
    "exp": {"model": "softmax", "bs": 16, "bs_method": "exp_growth", "bs_exp_rate": 2, "bs_step_type": "periodic",
            "lr": 0.1, "lr_method": "constant", "epochs": 1},
    "linear": {"model": "softmax", "bs": 16, "bs_method": "linear_growth", "coefficient": 8,
               "bs_step_type": "periodic", "lr": 0.1, "lr_method": "constant", "epochs": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_their_files_as_they_are(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    config = PUBLISHED[name] | {"csv_path": "../result/CIFAR100/run1/"}
    command = ["train", "config.json", "--dataset", "digits"]
    (tmp_path / "src" / "config.json").write_text(json.dumps(config))
    if name != "const":
        assert cli.main(command) == 1
        assert "their README's value is 20" in capsys.readouterr().err
        (tmp_path / "src" / "config.json").write_text(json.dumps(config | {"incr_interval": 20}))
    assert cli.main([*command, "--out", "here"]) == 0
    assert not (tmp_path / "result").exists()
    assert cli.main(command) == 0
    folder = tmp_path / "result" / "CIFAR100" / "run1"
    out, err = capsys.readouterr()
    assert f"output: {folder}" in out
    assert ("without effect, as in the authors' program: ('bs_step_type',)" in err) == (name != "const")
    for file in umeda_iiduka.HEADERS:
        assert (folder / f"{file}.csv").read_bytes() == (tmp_path / "src" / "here" / f"{file}.csv").read_bytes()


def test_the_output_is_announced_before_training(write, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "rows", lambda self: pytest.fail(capsys.readouterr().out))
    with pytest.raises(pytest.fail.Exception, match=f"output: {tmp_path / 'csv'}"):
        cli.main(["train", str(write(CONST)), "--dataset", "digits"])


def test_whole_numbers_in_json_and_keys_without_effect(write, tmp_path):
    config = umeda_iiduka.read(write(EXP | {"bs": 16.0, "epochs": 200.0, "incr_interval": 2.0, "eps": 0.5, "x": None}))
    assert (config.bs, config.epochs, config.incr_interval) == (16, 200, 2)
    assert all(type(value) is int for value in (config.bs, config.epochs, config.incr_interval))
    assert config.ignored == ("bs_step_type", "eps", "x")
    assert config.plan() == umeda_iiduka.read(write(EXP | {"epochs": 200, "incr_interval": 2})).plan()


def test_a_file_without_csv_path_needs_a_folder(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONST | {"epochs": 1}))
    assert cli.main(["train", str(path), "--dataset", "digits"]) == 1
    assert "add --out DIR" in capsys.readouterr().err
    assert cli.main(["train", str(path), "--dataset", "digits", "--out", str(tmp_path / "out")]) == 0


def test_train_learning_rates_are_those_of_the_epoch(write, tmp_path):
    path = write(EXP | {"bs": 500, "lr_method": "exp_growth", "lr_exp_rate": 1.4})
    assert cli.main(["train", str(path), "--dataset", "digits"]) == 0
    assert pd.read_csv(tmp_path / "csv" / "train.csv")["Learning Rate"].to_numpy() == pytest.approx([0.1, 0.14, 0.196])
    assert (tmp_path / "csv" / records.RUN).exists()


def test_a_killed_command_resumes(write, tmp_path, monkeypatch, capsys):
    path = write(EXP | {"model": "mlp", "epochs": 4})
    command = ["train", str(path), "--dataset", "digits", "--out"]
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    measured = Trainer.rows

    def killed(self, left=[3]):  # noqa: B006
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return measured(self)

    monkeypatch.setattr(Trainer, "rows", killed)
    assert cli.main([*command, str(tmp_path / "run")]) == 130
    monkeypatch.setattr(Trainer, "rows", measured)
    assert cli.main([*command, str(tmp_path / "run")]) == 1
    assert "--resume" in capsys.readouterr().err
    assert cli.main([*command, str(tmp_path / "run"), "--resume"]) == 0
    files = [(tmp_path / name / records.METRICS).read_bytes() for name in ("run", "whole")]
    assert files[0] == files[1]
    assert cli.main([*command, str(tmp_path / "run"), "--resume", "--seed", "1"]) == 1
    assert "another" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "warned"), [([], True), (["--threads", "2"], False)])
def test_a_run_that_one_thread_makes_faster_is_warned_of(arguments, warned, write, tmp_path, monkeypatch, capsys):
    write_cifar(tmp_path / "data", monkeypatch, "cifar100", n_train=120, n_test=100)
    datasets.load.cache_clear()
    monkeypatch.setattr(importlib.import_module("sfolib.training.run"), "single_thread_gain", lambda trainer: 2.8)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    command = ["train", str(write(CONST | {"bs": 120, "epochs": 1})), "--data-dir", str(tmp_path / "data")]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert cli.main([*command, "--device", "cpu", *arguments]) == 0
    finally:
        torch.set_num_threads(before)
    told = "a step on 2 CPU threads takes 2.8 times as long as on one; add --threads 1"
    assert (told in capsys.readouterr().err) == warned


def test_train_on_cifar_as_the_authors_do(write, tmp_path, monkeypatch):
    write_cifar(tmp_path / "data", monkeypatch, "cifar100", n_train=120, n_test=100)
    datasets.load.cache_clear()
    path = write(CONST | {"bs": 50, "epochs": 1, "lr": 0.01})
    assert cli.main(["train", str(path), "--data-dir", str(tmp_path / "data")]) == 0
    assert len(rows(tmp_path / "csv" / "lr_bs.csv")) == 1 + 3
    run = records.load(tmp_path / "csv")
    assert {"published_sqnorm", "running_loss", "micro_batch"} <= set(run.rows)
    assert "grad_sqnorm" not in run.rows  # which they do not pay for
    assert rows(tmp_path / "csv" / "norm.csv")[1][2] == str(run.rows["published_sqnorm"].iloc[1] ** 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digits", "--seed", "-1"], "seeds"),
        (["--dataset", "digits", "--device", "tpu"], "device = 'tpu'"),
        (["--dataset", "digits", "--precision", "bf16"], "precision"),
        (["--data-dir", "nowhere"], "data_dir = 'nowhere'"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, write, capsys):
    assert cli.main(["train", str(write(CONST)), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_other_models_are_no_digits(write, capsys, tmp_path):
    assert cli.main(["train", str(write(CONST | {"model": "resnet18"})), "--dataset", "digits"]) == 1
    assert "model = 'resnet18'" in capsys.readouterr().err
    for bad in ("[1, 2]", "{", None):
        path = tmp_path / "bad.json"
        path.unlink(missing_ok=True)
        if bad:
            path.write_text(bad)
        assert cli.main(["train", str(path)]) == 1
        assert "config = " in capsys.readouterr().err


@pytest.mark.parametrize("place", [".", "..", "./", "../beside/."])
def test_csv_path_without_a_name(place, write, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    path = write(CONST | {"bs": 700, "epochs": 1, "csv_path": place})
    monkeypatch.chdir(tmp_path / "in")
    assert cli.main(["train", str(path), "--dataset", "digits"]) == 0
    assert (tmp_path / "in" / place / "train.csv").exists()
    assert not list(tmp_path.rglob("*.lock"))
    assert cli.main(["train", str(path), "--dataset", "digits"]) == 1
    assert cli.main(["train", str(path), "--dataset", "digits", "--resume"]) == 0


def test_a_diverged_run_is_not_a_success(write, tmp_path):
    assert cli.main(["train", str(write(CONST | {"model": "mlp", "lr": 1e30})), "--dataset", "digits"]) == 1
    assert records.load(tmp_path / "csv").status == "diverged"


def test_settings_of_measuring_and_speed(write, tmp_path, monkeypatch, capsys):
    threads = []
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(
        Trainer, "rows", lambda self, rows=Trainer.rows: threads.append(torch.get_num_threads()) or rows(self)
    )
    path = write(CONST | {"model": "cnn", "bs": 500})
    options = ["--norms", "none", "--eval-every", "2", "--no-channels-last", "--threads", "2", "--out"]
    assert cli.main(["train", str(path), "--dataset", "digits", *options, str(tmp_path / "run")]) == 0
    run = records.load(tmp_path / "run")
    assert (run.spec.grad_norms, run.spec.eval_every, run.spec.channels_last) == ("none", 2.0, False)
    assert list(run.steps) == [0, 1, 2, 4, 8, 9]
    assert set(threads) == {2}
    assert not (tmp_path / "run" / "train.csv").exists()  # which has a row an epoch
    assert "no CSV files" in capsys.readouterr().err
    sampled = ["--eval-samples", "100", "--out", str(tmp_path / "sampled")]
    assert cli.main(["train", str(path), "--dataset", "digits", *sampled]) == 0
    assert records.load(tmp_path / "sampled").rows["probes"].iloc[0] == 100
    assert (tmp_path / "sampled" / "norm.csv").exists()
    assert cli.main(["train", str(path), "--dataset", "digits", "--norms", "none"]) == 0
    assert {file.name for file in (tmp_path / "csv").glob("*.csv")} == {"train.csv", "test.csv", "lr_bs.csv"}
    assert "no CSV files" not in capsys.readouterr().err
    for wrong in (
        *("--eval-every 0.5", "--eval-every x", "--eval-every nan", "--eval-every inf"),
        *("--threads 0", "--threads 3", "--threads 100000", "--norms all"),
    ):
        option, value = wrong.split()
        assert cli.main(["train", str(path), "--dataset", "digits", option, value, "--out", str(tmp_path / "no")]) == 1
        error = capsys.readouterr().err
        assert all(part in error for part in (option.strip("-"), value))
        assert "_" not in error
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("model", "norms", "measured"),
    [
        *(("softmax", norms, {"grad_sqnorm"}) for norms in (None, "exact", "published", "both")),
        ("resnet8_16", None, {"published_sqnorm"}),
        ("resnet8_16", "both", {"grad_sqnorm", "published_sqnorm"}),
    ],
)
def test_norms_of_digits(model, norms, measured, write, tmp_path):
    """The published one by default; of dense networks it is the exact one."""
    options = ["--norms", norms] if norms else []
    path = write(CONST | {"model": model, "bs": 700, "epochs": 1})
    assert cli.main(["train", str(path), "--dataset", "digits", *options]) == 0
    assert {"grad_sqnorm", "published_sqnorm"} & set(records.load(tmp_path / "csv").rows) == measured
    assert (tmp_path / "csv" / "norm.csv").exists()


@pytest.mark.parametrize("model", ["softmax", "mlp", "cnn"])
def test_constants_are_what_the_run_measures(model):
    plan = Plan(100, 0.1)
    spec = Spec(problem=Digits(model=model, holdout=1000), plan=plan, max_samples=150, dtype="float64")
    estimates = {e.name: e for e in constants.estimate(spec, "cpu")}
    assert all(e.low <= e.value <= e.high for e in estimates.values())
    trainer = Trainer(spec, "cpu")
    assert estimates["gap"].value == pytest.approx(trainer.rows()[0]["loss"], rel=1e-9)
    c = constants.as_constants(list(estimates.values()))
    assert c == Constants(*(estimates[name].value for name in ("L", "sigma2", "gap")))
    assert np.isfinite([estimates["L"].high, estimates["sigma2"].high]).all() == (model == "softmax")


def test_variance_of_the_constants_is_that_of_the_task():
    spec = Spec(problem=Digits(hidden=(9,), holdout=1000), plan=Plan(100, 0.1), max_samples=150, dtype="float64")
    trainer = Trainer(spec, "cpu")
    measured = [trainer.rows()[0]["variance"]]
    while trainer.status == "running":
        trainer.advance()
        measured.append(trainer.rows()[0]["variance"])
    found = {e.name: e.value for e in constants.estimate(spec.model_copy(update={"eval_every": 10.0}), "cpu")}
    assert found["sigma2"] >= max(measured[0], measured[-1]) * (1 - 1e-9)


def test_constants_command(write, capsys):
    assert cli.main(["constants", str(write(CONST | {"bs": 500})), "--dataset", "digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["L", "sigma2", "gap"]
    with pytest.raises(InputError, match="problem"):
        constants.estimate(Spec(problem=Quadratic(), plan=Plan(1, 0.1), sampling="replacement", max_samples=10))
