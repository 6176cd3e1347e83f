"""Input that nobody meant: configs, specs, parameters and command lines, each run for a few steps or refused; and
arguments of what people call, one at a time."""

import contextlib
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from hypothesis import strategies as st
from papermill.translators import PythonTranslator
from pydantic import PositiveFloat, PositiveInt

from sfolib import cli
from sfolib._utils import interrupt
from sfolib._utils.errors import InputError
from sfolib.analysis.recommend import recommend
from sfolib.experiments import notebook, report, run_notebooks
from sfolib.gradients import largest_stable_lr
from sfolib.problems.specs import Digits
from sfolib.schedules import adaptive, base, diagnostics, published, theoretical
from sfolib.schedules.adaptive import adascale, noise_scale
from sfolib.schedules.plan import Plan
from sfolib.theory import adam_bound, bounds, local, optimal_schedule
from sfolib.theory.quadratic import PowerLawQuadratic
from sfolib.training import updates
from sfolib.training.records import METRICS, RUN
from sfolib.training.spec import Spec

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
    "dtype": "float32", "optimizer": {"kind": "sgd", "momentum": 0.0, "weight_decay": 0.0},
            "log_train_metrics": False,
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


# ------------------------------------------------------------------------------------------- arguments, one by one
STRANGE = (
    None, "x", math.nan, math.inf, -math.inf, -1, 0, 1.5, True, [], {}, object(), 10**400, 2**63, 1e300, 1e-300, 1j,
    [1.0, "a"], [[1.0], [2.0, 3.0]],
)  # fmt: skip


def _within(low, high, ends="()", whole=False):
    """Whether a value is one number of that range."""

    def allowed(value):
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float if not whole else int):
            return False
        above = value >= low if ends[0] == "[" else value > low
        return above and (value <= high if ends[1] == "]" else value < high)

    return allowed


def _each(low, ends="("):
    """Whether a value is numbers of that range, one or an array of them."""
    one = _within(low, sys.float_info.max, f"{ends}]")

    def allowed(value):
        return bool(value) and all(map(allowed, value)) if isinstance(value, list) else one(value)

    return allowed


_MAX = sys.float_info.max
COUNT, INDEX = _within(1, _MAX, "[]", whole=True), _within(0, _MAX, "[]", whole=True)
POSITIVE, NOT_NEGATIVE, ABOVE_1 = _within(0, _MAX, "(]"), _within(0, _MAX, "[]"), _within(1, _MAX, "(]")
REAL, BELOW_1, BETWEEN, SHARE = _within(-_MAX, _MAX, "[]"), _within(0, 1, "[)"), _within(0, 1), _within(0, 1, "[]")
MANY, MANY_0, MANY_REAL = _each(0), _each(0, "["), _each(-_MAX)


def _or(kind, *others):
    return lambda value: kind(value) or any(value is other or value == other for other in others)


def _flag(value):
    return isinstance(value, bool)


def _never(value):
    return False


def _quadratic_loss(output, y):
    return (output - y).square().mean()


def _calls():
    """By name: the function, and of each argument a good value and which others are allowed as well."""
    b, lr, cap = (16, COUNT), (0.1, POSITIVE), (64, _or(COUNT, None))
    cosine, C = base.cosine(0.3, 0.003, 1000), bounds.Constants(1.0, 1.0, 1.0)
    plan, q = Plan(8, 0.1, "sample"), PowerLawQuadratic(d=8, lam_min=1e-2)
    adam = adam_bound.AdamConstants(1.0, 1.0, 1.0, 1.0, 1.0)
    ob = adaptive.OptimalBatch(5.0, 6.0, 0.01, 1.0, L_max=12.0, n=897)
    decay, clock, top = (cosine, _never), ("epoch", _never), (1.0, _or(POSITIVE, math.inf))
    shared = {"batch_size": b, "lr": lr, "max_batch_size": cap}
    test = {"batch_size": b, "lr": lr, "test_interval": (2, COUNT), "max_batch_size": cap}
    trigger = {
        "batch_size": b, "lr": lr, "eps": (0.5, POSITIVE), "delta": (2.0, POSITIVE), "gamma": (1.4, POSITIVE),
        "check_every": (10, COUNT), "max_batch_size": cap,
    }  # fmt: skip
    c, eps, lrs, sizes = {"c": (C, _never)}, (0.5, MANY), (0.1, MANY), (8, MANY)
    one_eps, target, L2 = (0.5, POSITIVE), ("loss", _never), [[1.0, 0.0], [0.0, 1.0]]
    lr_max, beta1 = (0.5, _or(MANY, None)), (0.9, BELOW_1)
    spectrum = {"eigenvalues": ([1.0, 0.5], MANY), "noise": ([1.0, 1.0], MANY_0)}
    power = (2, lambda value: value == 1 and not isinstance(value, bool))
    stages = ([(8, 0.1, 10), (16, 0.1, 1000)], lambda value: value in ([], {}))
    searched = {"q": (q, _never), "eps": one_eps, "target": target, "max_lr": (1.0, _or(POSITIVE, None)),
                "min_batch_size": (1.0, POSITIVE)}  # fmt: skip
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spec = Spec(problem=Digits(holdout=900), plan=Plan(16, 0.1), max_samples=2000)
    return {
        # plans
        "increase_batch_size": (published.increase_batch_size, shared | {"lr": decay, "share": (0.5, SHARE),
            "clock": clock}),
        "seesaw": (published.seesaw, shared | {"lr": decay, "share": (0.4, _within(0, 0.5, "[]")), "clock": clock}),
        "scaled": (published.scaled, {"plan": (plan, _never), "factor": (4, POSITIVE), "rule": ("linear", _never)}),
        "at_momentum": (published.at_momentum, {"plan": (plan, _never), "momentum": (0.9, BELOW_1), "before": (0.5,
            BELOW_1)}),
        "late_switch": (published.late_switch, {"batch_size": b, "large": (64, COUNT), "at": (9, COUNT), "lr": lr,
            "clock": clock}),
        "late_ramp": (published.late_ramp, shared | {"budget": (1000, COUNT), "start": (0.8, BELOW_1),
            "growth": (32.0, ABOVE_1),
                      "q": (2.0, POSITIVE), "share": (1.0, SHARE)}),
        "in_budget": (published.in_budget, shared | {"lr": decay, "budget": (1000, COUNT), "share": (1.0, SHARE)}),
        "stagewise": (published.stagewise, shared | {"delta": (2.0, POSITIVE), "gamma": (1.4, POSITIVE), "stages": (4,
            COUNT),
                      "total": (1000, COUNT), "exponent": (2.0, REAL), "max_lr": top, "clock": clock}),
        "allocation": (published.allocation, {"ratio": (1.4, POSITIVE), "stages": (4, COUNT), "total": (1000,
            COUNT)}),
        "critical_plan": (theoretical.critical_plan, {"constants": (C, _never), "eps0": one_eps, "r": (2.0, ABOVE_1),
                          "stages": (4, COUNT), "lr": lr, "lr_growth": (1.4, _or(POSITIVE, None)),
                          "max_lr": (0.5, _or(POSITIVE, None)), "max_batch_size": cap}),
        "front_plan": (theoretical.front_plan, {"constants": (C, _never), "eps0": one_eps, "r": (2.0, ABOVE_1),
            "stages": (4, COUNT),
                       "objective": ("time", _never), "ratio": (1.0, POSITIVE), "latency": (1.0, POSITIVE),
                       "per_sample": (1.0, POSITIVE), "max_batch_size": cap}),
        "validity": (diagnostics.validity, {"plan": (plan, _never), "c": (C, _never), "samples_per_epoch": (9, COUNT),
                     "epochs": (3, COUNT)}),
        "Plan": (Plan, {"batch_size": (8, POSITIVE), "lr": lr, "clock": clock, "max_batch_size": cap}),
        # policies
        "HorizonRamp": (adaptive.HorizonRamp, shared | {"budget": (10**5, COUNT), "objective": ("loss", _never),
                        "look": (0.8, _or(BETWEEN, None)), "share": (1.0, SHARE), "momentum": (0.5, BELOW_1),
                        "probes": (3000, _or(COUNT, None))}),
        "GradNormTrigger": (adaptive.GradNormTrigger, trigger | {"max_lr": top, "rule": ("critical", _never)}),
        "published trigger": (adaptive.GradNormTrigger, trigger | {"rule": ("published", _never)}),
        "NormTest": (adaptive.NormTest, test | {"eta": (0.5, POSITIVE)}),
        "InnerProductTest": (adaptive.InnerProductTest, test | {"theta": (0.5, POSITIVE)}),
        "AugmentedInnerProductTest": (adaptive.AugmentedInnerProductTest, test | {"theta": (0.5, POSITIVE),
            "nu": (0.5, POSITIVE)}),
        "AdaScale": (adaptive.AdaScale, {"scale": (4, COUNT), "batch_size": b, "lr": lr, "every": (2, COUNT)}),
        "AutoWU": (adaptive.AutoWU, {"total_steps": (100, COUNT), "steps_per_epoch": (10, COUNT), "batch_size": b,
                   "min_lr": (1e-5, POSITIVE), "max_lr": (1.0, POSITIVE), "max_warmup_fraction": (0.5, _within(0, 1,
            "(]")),
                   "warmup": ("linear", _never), "cooldown_fraction": (0.2, _or(BELOW_1, None)), "fit": ("adam",
            _never),
                   "seed": (0, INDEX)}),
        "CABS": (adaptive.CABS, shared | {"every": (3, COUNT), "decay": (0.9, BELOW_1)}),
        "NoiseScaleRule": (adaptive.NoiseScaleRule, shared | {"every": (3, COUNT), "decay": (0.9, BELOW_1),
                           "exchange_rate": (2.0, _or(POSITIVE, None))}),
        "OptimalBatch": (adaptive.OptimalBatch, {"h": (5.0, NOT_NEGATIVE), "L": (6.0, POSITIVE), "mu": (0.01,
            POSITIVE),
                         "radius": (1.0, POSITIVE), "L_max": (12.0, _or(POSITIVE, None)), "check_every": (3, COUNT),
                         "n": (897, lambda n: n in (math.inf, 1e300) or COUNT(n))}),
        "OptimalBatch.steps_at": (ob.steps_at, {"batch_size": (3, MANY), "start": (3.0, POSITIVE)}),
        "IncreaseOnPlateau": (adaptive.IncreaseOnPlateau, shared | {"factor": (2.0, ABOVE_1), "patience": (3, INDEX),
                              "check_every": (10, COUNT), "threshold": (1e-4, NOT_NEGATIVE), "threshold_mode": ("rel",
            _never),
                              "mode": ("min", _never), "cooldown": (0, INDEX)}),
        "SuccessiveGradientTest": (adaptive.SuccessiveGradientTest, shared | {"growth": (2.0, ABOVE_1),
            "error": (0.05, BETWEEN),
                                   "every": (10, COUNT), "momentum": (0.9, BELOW_1), "memory": (10.0, _within(1, _MAX,
            "[]"))}),
        "NoiseScale": (noise_scale.NoiseScale, {"decay": (0.9, BELOW_1)}),
        "NoiseScale.update": (lambda **given: noise_scale.NoiseScale().update(**given), {"small_sqnorm": (3.0,
            MANY_REAL),
                              "small": (4, COUNT), "big_sqnorm": (2.0, MANY_REAL), "big": (8, COUNT)}),
        "sqnorm_variance": (noise_scale.sqnorm_variance, {"along": (1.0, MANY_0), "square": (1.0, MANY_0),
            "batch_size": sizes,
                            "parts": (4, MANY)}),
        "fitted critical_batch_size": (noise_scale.critical_batch_size, {"batch_size": ([1, 2, 4], MANY),
            "steps": ([9, 6, 5], MANY)}),
        "gain": (adascale.gain, {"variance": (1.0, MANY_0), "sqnorm": (1.0, MANY_0), "scale": (4, _within(1, _MAX,
            "[]"))}),
        # the largest stable lr, and the plan to use
        "largest_stable_lr": (largest_stable_lr, {"model": (torch.nn.Linear(3, 1).double(), _never),
            "loss_fn": (_quadratic_loss, _never),
                              "x": (x, _never), "y": (x.sum(1, keepdim=True), _never), "l2": (0.01, NOT_NEGATIVE),
                              "momentum": (0.5, BELOW_1), "batch_size": (16, COUNT), "sweep": (False, _flag),
            "seed": (0, INDEX)}),
        "recommend": (recommend, {"spec": (spec, _never), "budget": (2000, _or(COUNT, None)), "anytime": (False,
            _flag),
                      "objective": ("loss", _never), "max_batch_size": cap}),
        "recommend to ε": (recommend, {"spec": (spec, _never), "eps": (0.5, _or(POSITIVE, None))}),
        # theory
        "Constants": (bounds.Constants, {"L": (1.0, POSITIVE), "sigma2": (1.0, NOT_NEGATIVE), "gap": (1.0,
            POSITIVE)}),
        "steps_to": (bounds.steps_to, c | {"batch_size": sizes, "lr": lrs, "eps": (0.7, MANY), "lr_max": lr_max}),
        "samples_to": (bounds.samples_to, c | {"batch_size": sizes, "lr": lrs, "eps": (0.7, MANY), "lr_max": lr_max}),
        "gradient_bound": (bounds.gradient_bound, c | {"batch_size": sizes, "lr": lrs, "n": (100, _or(COUNT, None)),
                           "lr_max": (0.5, _or(POSITIVE, None))}),
        "finite_population": (bounds.finite_population, {"batch_size": sizes, "n": (100, COUNT)}),
        "noise_floor": (bounds.noise_floor, c | {"batch_size": sizes, "lr": lrs, "lr_max": lr_max}),
        **{name: (getattr(bounds, name), c | {"lr": lrs, "eps": eps, "lr_max": lr_max})
           for name in ("critical_batch_size", "minimal_samples", "minimal_steps")},
        "calibrated": (bounds.calibrated, {"batch_size": (8, POSITIVE), "lr": lr, "steps": (100, POSITIVE),
            "eps": one_eps,
                       "max_lr": (0.5, _or(POSITIVE, None))}),
        "price_of_parallelism": (bounds.price_of_parallelism, c | {"lr": lrs}),
        "growth": (bounds.growth, {"delta": (2.0, MANY), "gamma": (1.4, MANY)}),
        "rate_exponent": (bounds.rate_exponent, {"delta": (2.0, MANY), "gamma": (1.4, MANY), "tau": (1.1, MANY)}),
        "anytime_ratio": (bounds.anytime_ratio, {"r": (2.0, MANY), "stop_early": (True, _flag)}),
        "stagewise_bound": (bounds.stagewise_bound, {"eps": ([1.0, 0.5], MANY)}),
        "capped_stage": (bounds.capped_stage, {"m": (2, INDEX), "batch_size": (8, POSITIVE), "lr": lr, "delta": (2.0,
            POSITIVE),
                         "gamma": (1.4, POSITIVE), "max_lr": top, "max_batch_size": (64, _or(POSITIVE, None))}),
        "stage_ends": (bounds.stage_ends, c | {"eps0": one_eps, "r": (2.0, ABOVE_1), "lr": lr, "lr_growth": (1.4,
            _within(1, _MAX, "[]")),
                       "max_lr": (0.5, POSITIVE), "max_batch_size": (64, POSITIVE)}),
        "step_noise": (bounds.step_noise, {"batch_size": sizes, "lr": lrs, "momentum": (0.9, BELOW_1)}),
        "power_sum": (bounds.power_sum, {"a": (0.5, NOT_NEGATIVE), "steps": (10, MANY)}),
        "decaying_lr_bound": (bounds.decaying_lr_bound, c | {"batch_size": sizes, "lr": lrs, "a": (0.5, NOT_NEGATIVE),
            "steps": (9, MANY)}),
        "decaying_lr_steps": (bounds.decaying_lr_steps, c | {"batch_size": (8, POSITIVE), "lr": lr, "a": (0.5,
            BETWEEN), "eps": one_eps}),
        "norm_test_batch_size": (bounds.norm_test_batch_size, c | {"eta": (0.5, MANY), "eps": eps}),
        "norm_test_lr": (bounds.norm_test_lr, c | {"eta": (0.5, MANY), "own_batch": (True, _flag)}),
        **{name: (getattr(bounds, name), c | {"eps": eps}) for name in ("noise_scale", "front_min_steps",
            "front_min_samples")},
        **{name: (getattr(bounds, name), c | {"steps": (100, MANY), "eps": eps}) for name in ("front_samples",
            "front_batch_size")},
        **{name: (getattr(bounds, name), c | {"batch_size": sizes, "eps": eps}) for name in ("front_steps",
            "optimal_lr")},
        "front_time": (bounds.front_time, c | {"batch_size": sizes, "eps": eps, "latency": (1.0, MANY),
            "per_sample": (0.1, MANY)}),
        "time_optimal_batch_size": (bounds.time_optimal_batch_size, c | {"eps": eps, "latency": (1.0, MANY),
            "per_sample": (1.0, MANY)}),
        "local critical_batch_size": (local.critical_batch_size, {"lr": lrs, "G2": (1.0, MANY), "Q": (1.0, MANY_0),
            "GHG": (0.5, MANY_REAL)}),
        "local optimal_lr": (local.optimal_lr, {"batch_size": sizes, "G2": (1.0, MANY), "GHG": (0.5, MANY_REAL),
            "Q": (1.0, MANY_0)}),
        "successive_gradients": (local.successive_gradients, {"batch_size": sizes, "lr": lrs, "G2": (1.0, MANY_0),
            "Q": (1.0, MANY_0),
                                 "GHG": (0.5, MANY_REAL), "n": (100, _or(COUNT, None)), "trace": (1.0, MANY_0)}),
        "noise_explains": (local.noise_explains, {"batch_size": sizes, "lr": lrs, "G2": (1.0, MANY_0), "trace": (1.0,
            MANY_0),
                           "largest": (1.0, MANY)}),
        "momentum_product": (local.momentum_product, {"batch_size": sizes, "lr": lrs, "momentum": (0.5, BELOW_1),
            "G2": (1.0, MANY_0),
                             "Q": (1.0, MANY_0)}),
        "momentum_threshold": (local.momentum_threshold, {"momentum": (0.5, BELOW_1), "G2": (1.0, MANY_0)}),
        "momentum_critical_batch_size": (local.momentum_critical_batch_size, {"lr": lrs, "momentum": (0.5, BELOW_1),
            "G2": (1.0, MANY),
                                         "Q": (1.0, MANY_0)}),
        "preconditioned": (local.preconditioned, {"gradient": ([1.0, 2.0], _never), "hessian": (L2, _never),
            "covariance": (L2, _never),
                           "preconditioner": ([1.0, 1.0], _never)}),
        "detection_steps": (local.detection_steps, {"lr": lrs, "Q": (1.0, MANY), "S2": (1.0, MANY), "z": (2.0,
            POSITIVE)}),
        "expected_path": (local.expected_path, spectrum | {"batch_size": ([8, 8], MANY), "lr": lrs, "start": ([1.0,
            1.0], _never)}),
        "stationary_noise": (local.stationary_noise, spectrum | {"batch_size": (8, POSITIVE), "lr": lr,
            "power": power}),
        "best_constant_batch_size": (local.best_constant_batch_size, {"lr": lr, "Q": (1.0, POSITIVE), "eps": one_eps,
                                     "path": ([1.0, 0.5, 0.1, 0.05, 0.04, 0.04], _never)}),
        "stationary_best_batch_size": (local.stationary_best_batch_size, {"lr": lrs, "Q": (1.0, MANY), "eps": eps,
            "p": (1.0, MANY)}),
        "noise_kernel": (local.noise_kernel, spectrum | {"lr": ([0.1, 0.1], MANY), "power": power}),
        "best_batch_sizes": (local.best_batch_sizes, {"kappa": ([1.0, 2.0], MANY_0), "room": (0.5, POSITIVE),
            "minimum": (1.0, POSITIVE),
                             "maximum": (64, _or(POSITIVE, math.inf))}),
        "joint_growth_steps": (local.joint_growth_steps, {"gamma": (1.4, MANY), "stages": (4, MANY)}),
        "lr_price": (local.lr_price, {"lr": lrs, "eigenvalue": (1.0, MANY)}),
        "anytime_part": (local.anytime_part, {"p": (1.0, MANY)}),
        "horizon_part": (local.horizon_part, {"kappa": ([1.0, 2.0], MANY_0)}),
        "AdamConstants": (adam_bound.AdamConstants, dict.fromkeys(("sigma2", "M2", "D2", "h", "reach"), (1.0,
            POSITIVE))),
        "Adam steps_to": (adam_bound.steps_to, {"c": (adam, _never), "lr": lrs, "beta1": beta1, "batch_size": sizes,
            "target": (9.0, MANY)}),
        "Adam critical_batch_size": (adam_bound.critical_batch_size, {"c": (adam, _never), "lr": lrs, "beta1": beta1,
            "target": (9.0, MANY)}),
        "PowerLawQuadratic": (PowerLawQuadratic, {"d": (8, COUNT), "lam_min": (1e-2, POSITIVE), "L": (1.0, POSITIVE),
            "gap": (1.0, POSITIVE),
                              "sigma2": (1.0, NOT_NEGATIVE), "noise": ("white", _never), "init": ("flat", _never)}),
        "grad_sqnorm_path": (q.grad_sqnorm_path, {"batch_size": ([8, 8], MANY), "lr": lrs}),
        "grad_sqnorm": (q.grad_sqnorm, {"batch_size": sizes, "lr": lrs, "steps": (10, MANY_0)}),
        "batch_size_to": (q.batch_size_to, {"lr": lrs, "steps": (100, MANY_0), "eps": eps, "target": target}),
        "quadratic samples_to": (q.samples_to, {"batch_size": sizes, "lr": lrs, "eps": eps, "target": target}),
        "quadratic best_constant_batch_size": (q.best_constant_batch_size, {"lr": lr, "eps": (0.1, POSITIVE),
            "target": target}),
        "front": (q.front, {"steps": (100, COUNT), "eps": (0.1, POSITIVE), "target": target}),
        "fastest_pair": (q.fastest_pair, {"eps": (0.3, POSITIVE), "latency": (1.0, POSITIVE), "per_sample": (0.1,
            POSITIVE), "target": target}),
        "stage_path": (q.stage_path, {"stages": stages}),
        "stages_to": (q.stages_to, {"stages": stages, "eps": (0.3, POSITIVE), "target": target}),
        "optimum": (optimal_schedule.optimum, searched | {"steps": (20, COUNT), "nodes": (4, _or(COUNT, None))}),
        "best_of_family": (optimal_schedule.best_of_family, searched | {"family": ("constant", _never), "steps": (20,
            COUNT)}),
        "fastest": (optimal_schedule.fastest, searched | {"latency": (1.0, POSITIVE), "per_sample": (0.1, POSITIVE)}),
    }  # fmt: skip


CALLS = _calls()
SLOW = {
    "validity",
    "fastest",
    "fastest_pair",
    "recommend",
    "recommend to ε",
    "decaying_lr_steps",
}  # where they accept what is strange


def try_arguments(name):
    """Every argument of a call in turn strange, the others good: run, or refused with the argument's name, value and
    what is allowed. Nothing that is not allowed is run. Returns what was refused."""
    function, arguments = CALLS[name]
    good, refused = {argument: value for argument, (value, _) in arguments.items()}, []
    for argument, (value, allowed) in arguments.items():
        as_numpy = {int: [np.int64], float: [np.float64]}.get(type(value), ())
        half = [value + 0.5] if allowed in (COUNT, INDEX) else []
        for strange in (*STRANGE, *half, *(kind(value) for kind in as_numpy)):
            ok = isinstance(strange, np.generic) or allowed(strange)
            if ok and name in SLOW:
                continue
            try:
                with np.errstate(all="ignore"):
                    function(**good | {argument: strange})
            except InputError as error:
                said = str(error)
                assert len(said.splitlines()) == 1, (argument, strange)
                assert not isinstance(strange, np.generic), (argument, strange, said)
                assert ok or re.search(rf"(^|[;,:] ){argument}\b[^;]*?( = |: )", said), (argument, strange, said)
                refused.append((argument, strange))
            else:
                assert ok, (argument, strange, "was accepted")
    return refused
