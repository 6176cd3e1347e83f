"""Input that nobody meant: configs, specs, parameters and command lines, each run for a few steps or refused."""

import contextlib
import io
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

from hypothesis import strategies as st
from papermill.translators import PythonTranslator
from pydantic import PositiveFloat, PositiveInt

from sfolib import cli
from sfolib._utils import interrupt
from sfolib._utils.errors import InputError
from sfolib.experiments import notebook, report, run_notebooks
from sfolib.schedules import adaptive, base
from sfolib.training import updates
from sfolib.training.records import METRICS, RUN

STEPS = 3  # of an accepted run, before it is interrupted

NUMBERS = st.sampled_from(
    (
        0,
        1,
        -1,
        2,
        3,
        7,
        0.5,
        1.5,
        1e-3,
        1e-300,
        -0.0,
        2**31,
        2**63,
        10**30,
        10**400,
        1e30,
        1e39,
        1e300,
        -1e308,
        math.nan,
        math.inf,
        -math.inf,
    )
)
TEXT = st.sampled_from(
    (
        "",
        " ",
        "16",
        "1e-2",
        "nan",
        "sgd",
        "digits",
        "mlp",
        "exp_growth",
        "/dev/null/x",
        "a/../../b",
        "é\n✗",
        "\x00",
        "\x1b[31m",
        "\ud800",
        "{{x}}",
        "$(touch owned)",
        "__import__('os')",
        "<b>",
        "x" * 300,
    )
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT
ANY = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("kind"), inner, max_size=3),
    max_leaves=5,
)

CONFIG = {
    "model": "softmax", "bs": 200, "bs_method": "exp_growth", "bs_exp_rate": 2.0, "lr": 0.1, "lr_method": "constant",
    "incr_interval": 1, "epochs": 2, "csv_path": "csv", "coefficient": 8, "lr_coefficient": 0.1, "lr_exp_rate": 1.1,
    "max_bs": 300, "bs_step_type": "periodic", "checkpoint_path": None,
}  # fmt: skip
PLAN = {
    "batch_size": {"kind": "exponential", "v0": 100, "factor": 2, "every": 1}, "lr": {"kind": "constant", "v": 0.1},
    "clock": "epoch", "max_batch_size": None, "rows": [],
}  # fmt: skip
SCHEDULES = [
    base.linear(8, 4, 2), base.milestones(8, {1: 2.0}), base.piecewise([8, 16], [2]),
    base.polynomial(8, 1, 4), base.cosine(8, 1, 4), base.warmup(base.constant(8), 3),
    base.join([base.constant(8), base.linear(8, 8)], [2]), base.capped(base.exponential(8, 2), 20),
    base.power(base.linear(1, 1), 2.0), base.product([base.constant(2), base.constant(4)]),
]  # fmt: skip
SPEC = {
    "problem": {"kind": "digits", "hidden": [], "l2": 1e-3, "holdout": 900}, "plan": PLAN, "max_samples": 2000,
    "max_steps": None, "seeds": [0], "sampling": "permutation", "target_grad_norm": None, "eval_every": "epoch",
    "dtype": "float32", "optimizer": {"kind": "sgd", "momentum": 0.0, "weight_decay": 0.0}, "log_train_metrics": False,
}  # fmt: skip
QUADRATIC = {"kind": "quadratic", "d": 20, "lam_min": 1e-3, "L": 1.0, "gap": 1.0, "sigma2": 1.0, "noise": "white"}
TRIGGER = {
    "kind": "GradNormTrigger",
    "batch_size": 32,
    "lr": 0.2,
    "eps": 0.5,
    "delta": 2.0,
    "gamma": 1.0,
    "check_every": 2,
}
TEST = {"kind": "NormTest", "eta": 1.0, "batch_size": 16, "lr": 0.1, "test_interval": 1, "max_batch_size": 100}
SCALED = {"kind": "AdaScale", "scale": 4, "batch_size": 8, "lr": 0.1}
OPTIMAL = {"kind": "OptimalBatch", "h": 5.0, "L": 6.0, "mu": 0.01, "radius": 1.0, "L_max": 12.0, "n": 897}
AUTO = {"kind": "AutoWU", "total_steps": 20, "steps_per_epoch": 2, "batch_size": 100, "min_lr": 1e-5, "max_lr": 1.0}
SPECS = [
    SPEC, SPEC | {"problem": QUADRATIC, "sampling": "replacement", "eval_every": 1.5},
    SPEC | {"plan": None, "policy": TRIGGER}, SPEC | {"plan": None, "policy": TEST},
    SPEC | {"plan": None, "policy": SCALED}, SPEC | {"plan": None, "policy": OPTIMAL},
    SPEC | {"optimizer": {"kind": "adam", "beta2": 0.9}},
    SPEC | {"plan": None, "policy": AUTO, "log_train_metrics": True},
    SPEC | {"optimizer": {"kind": "sgd", "momentum": 0.9}},
    *(SPEC | {"plan": PLAN | {"batch_size": made.model_dump()}} for made in SCHEDULES),
]  # fmt: skip


def _paths(data, at=()):
    """Ways to every entry of nested data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from _paths(value, (*at, key))


@st.composite
def spoilt(draw, whole):
    """Data as it should be, with an entry or two changed, taken away, or added."""
    data = json.loads(json.dumps(draw(st.sampled_from(whole))))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        paths = list(_paths(data))
        *way, last = draw(st.sampled_from(paths))
        at = data
        for key in way:
            at = at[key]
        what = draw(st.sampled_from(["change", "change", "change", "remove", "add"]))
        if what == "change":
            at[last] = "up" if last == "csv_path" else draw(st.sampled_from([1, 2, 3, 0.5, 1.5, 1e39]) | LEAVES | ANY)
        elif what == "remove":
            del at[last]
        elif isinstance(at, dict):
            at[draw(TEXT)] = draw(ANY)
    return data


_BROKEN = st.sampled_from(['{"model": ', "[]", "", "\ufeff{}", "[" * 20_000, '{"a": ' * 5000, "1", '"text"', "{}"])
FILES = st.one_of(*[spoilt([CONFIG])] * 3, *[spoilt(SPECS)] * 5, ANY, _BROKEN)
_WORDS = (
    TEXT.filter(lambda text: "\x00" not in text and "\ud800" not in text)
    | st.sampled_from(["train", "constants", "figures", "plan", "readme", "config.json", "--out", "out", "--seed", "5"])
    | st.sampled_from(
        ["--dataset", "digits", "mnist", "--device", "cpu", "cuda:9", "tpu", "--jobs", "0", "1", "9" * 30]
    )
    | st.sampled_from(
        ["--scale", "smoke", "01", "--resume", "--data-dir", "--precision", "bf16", "--again", "-x", "--"]
    )
    | st.sampled_from(["--seed=-1", "--jobs=nan", "--objective", "time", "--out=/dev/null/x"])
)
COMMANDS = st.lists(_WORDS, max_size=6) | st.lists(_WORDS, max_size=4).map(
    lambda words: ["train", "config.json", "--dataset", "digits", *words]
)


class _Enough:
    """An update that asks the run to end after some steps."""

    def __init__(self, update):
        self.update, self.left = update, STEPS
        self.state_dict, self.load_state_dict = update.state_dict, update.load_state_dict

    def __call__(self, gradients, lr):
        self.update(gradients, lr)
        self.left -= 1
        if not self.left:
            interrupt._received = interrupt.signal.SIGTERM


@contextlib.contextmanager
def project():
    """A project with a notebook, in which to work: what is written must stay in it. Accepted runs end early."""
    build, execute = updates.build, run_notebooks.execute
    back, outer = Path.cwd(), Path(tempfile.mkdtemp())
    try:
        (outer / "project" / "notebooks").mkdir(parents=True)
        (outer / "project" / "pyproject.toml").touch()
        (outer / "project" / "notebooks" / "01_a.ipynb").write_text('{"cells": [{"source": ["# A"]}]}')
        os.chdir(outer / "project")
        updates.build = lambda *given: _Enough(build(*given))
        run_notebooks.execute = lambda path, *_: report.Outcome(path.stem, 0.0, None)
        yield outer
    finally:
        updates.build, run_notebooks.execute = build, execute
        os.chdir(back)
        shutil.rmtree(outer)


def command(arguments, told=None):
    """Run a command line in the project; what it says (into `told`) and leaves must be as promised."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(arguments)
        except SystemExit as left:  # --help
            status = left.code
    said = [line for line in err.getvalue().replace("\r", "\n").splitlines() if line.startswith("sfolib: ")]
    if told is not None:
        told += said
    assert status in (0, 1, interrupt.STATUS), (arguments, status)
    if status == 1 and "diverged after" not in out.getvalue():
        assert len(said) == 1, (arguments, err.getvalue())
        assert ": " in said[0].removeprefix("sfolib: "), said
    outer = Path.cwd().parent
    assert [path.name for path in outer.iterdir()] == ["project"], arguments
    for path in outer.rglob("*"):
        if path.name.endswith(".lock"):  # of a run that was interrupted: it can go on
            assert not (path.with_name(path.name[1:].removesuffix(".lock")) / RUN).exists(), path
            continue
        assert not path.name.startswith("."), path
        assert path.name not in ("owned",), path
        if path.name in (RUN, "checks.json", "plan.json"):
            json.loads(path.read_text())
        if path.name == METRICS:
            assert all(json.loads(line) for line in path.read_text().splitlines())
        if path.suffix == ".csv":
            assert path.read_text().endswith("\n")
    return status


def try_file(data, told=None):
    with project():
        text = data if isinstance(data, str) else json.dumps(data)
        Path("config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        ours = isinstance(data, dict) and "problem" in data
        where = ["--out", "run"] if ours else ["--dataset", "digits"]
        return command(["train", "config.json", "--device", "cpu", *where], told)


def try_command(arguments):
    with project():
        Path("config.json").write_text(json.dumps(CONFIG))
        return command([*arguments])


class Tried(notebook.Parameters):
    SCALES: ClassVar = {"smoke": {"seeds": 3, "eps2": [0.1]}}
    lr: PositiveFloat = 0.1
    seeds: PositiveInt = notebook.by_scale("independent runs")
    eps2: list[PositiveFloat] = notebook.by_scale("targets")


GIVEN = {"scale": "smoke", "device": "auto", "jobs": None, "out": None, "lr": 0.1, "seeds": None, "eps2": None}
PARAMETERS = st.dictionaries(
    st.sampled_from([*GIVEN] * 5 + ["learning_rate"]) | TEXT, NUMBERS | LEAVES | ANY, max_size=2
)


def try_parameters(given):
    """As papermill does: a cell of assignments, run after the defaults."""
    cell = PythonTranslator.codify(given)
    namespace = dict(GIVEN)
    try:
        exec(compile(cell, "cell", "exec"), namespace)
    except (SyntaxError, UnicodeEncodeError, TypeError, AttributeError, NameError, ValueError):
        return None  # no such cell runs: papermill itself, or the kernel, says so
    try:
        p = notebook.parameters(Tried, namespace | {"In": ["", cell]})
    except InputError as refused:
        said = str(refused)
    else:
        assert not set(given) - set(GIVEN)
        assert p.seeds > 0
        assert all(math.isfinite(value) and value > 0 for value in (p.lr, *p.eps2))
        return True
    assert len(said.splitlines()) == 1
    return False


assert {told["policy"]["kind"] for told in SPECS if told.get("policy")} <= set(adaptive.__all__)
