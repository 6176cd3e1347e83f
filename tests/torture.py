"""Runs that are killed and started again, and input that nobody meant: the parts that tests and `make torture` share.

python tests/torture.py kill 200
python tests/torture.py input 20000
"""

import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import hypothesis

from sfolib import training as training
from sfolib._utils import files
from sfolib.problems.specs import Digits, Quadratic
from sfolib.schedules import adaptive
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.training import checkpoint, records
from sfolib.training.optimizers import SGD, Optimizer
from sfolib.training.spec import Spec

SOFTMAX, MLP, CNN = (
    Digits(hidden=(), holdout=900),
    Digits(hidden=(6,), holdout=900),
    Digits(model="cnn", holdout=1000),
)
for _problem in (MLP, CNN):
    _problem.size  # noqa: B018 splits the digits once, for all that are forked
_GROWING = Plan(exponential(4, 2, 40), exponential(0.05, 1.2, 40), "step")
_TESTED = {"batch_size": 16, "lr": 0.1, "test_interval": 3, "max_batch_size": 200}


def _spec(problem, steps=120, **settings):
    led = {} if "policy" in settings else {"plan": _GROWING}
    common = {"seeds": (3,), "eval_every": 1.1, "max_samples": 10**6, "max_steps": steps}
    return Spec(problem=problem, **common | led | settings)


def policies():
    """A spec for every kind of policy of `adaptive`."""
    grown = {
        "GradNormTrigger": {"batch_size": 8, "lr": 0.2, "eps": 0.6, "delta": 2.0, "gamma": 1.2, "check_every": 5},
        "NormTest": {"eta": 1.0, **_TESTED},
        "InnerProductTest": {"theta": 0.7, **_TESTED},
        "AugmentedInnerProductTest": {"theta": 0.7, "nu": 3.0, **_TESTED},
        "AdaScale": {"scale": 4, "batch_size": 4, "lr": 0.1},
        "OptimalBatch": {"h": 5.0, "L": 6.0, "mu": 0.01, "radius": 1.0, "L_max": 12.0, "n": 897, "check_every": 3},
        "SuccessiveGradientTest": {"batch_size": 8, "lr": 0.2, "max_batch_size": 64, "error": 0.3, "every": 3},
        "HorizonRamp": {"batch_size": 16, "lr": 0.1, "budget": 3000, "probes": 1000},
        "CABS": {"batch_size": 8, "lr": 0.2, "max_batch_size": 64, "every": 3},
        "NoiseScaleRule": {"batch_size": 8, "lr": 0.2, "max_batch_size": 64, "every": 3},
        "IncreaseOnPlateau": {"batch_size": 8, "lr": 0.1},
        "AutoWU": {"total_steps": 60, "steps_per_epoch": 10, "batch_size": 32},
    }
    problems = itertools.cycle((SOFTMAX, MLP))
    for kind, arguments in grown.items():
        policy = {"kind": kind, **arguments}
        watched = {"log_train_metrics": getattr(adaptive, kind).signal in ("loss", "noise_and_loss")}
        if "budget" in arguments:
            watched["max_samples"] = arguments["budget"]
        yield kind, _spec(next(problems), None if "budget" in arguments else 60, policy=policy, **watched)


def specs():
    """(name, spec) for every kind of policy, problem, optimizer and clock; small runs."""
    yield from policies()
    steps = {name: {"kind": name, "weight_decay": 1e-4} for name in Optimizer.kinds}
    for name, optimizer in (
        steps | {"momentum": SGD(momentum=0.9), "nesterov": SGD(momentum=0.9, nesterov=True)}
    ).items():
        yield name, _spec(SOFTMAX, optimizer=optimizer, seeds=(0, 2))
    for clock, every in (("epoch", 1), ("step", 30), ("sample", 3000)):
        yield (
            clock,
            _spec(MLP, plan=Plan(exponential(16, 1.5, every), 0.1, clock), log_train_metrics=True, eval_every="epoch"),
        )
    yield "cnn", _spec(CNN, 20, max_micro_batch=3, log_train_metrics=True)
    quadratic = {"sampling": "replacement", "dtype": "float64", "seeds": (0, 1, 2)}
    yield "quadratic", _spec(Quadratic(d=20, lam_min=0.01), 2000, eval_every=1.02, **quadratic)
    yield "noise probes", _spec(SOFTMAX, noise_probes={"parts": 2, "size": 4})
    workers = {"scale": 4, "iterations": 150}
    yield "workers", _spec(SOFTMAX, plan=Plan(8, 0.1), workers=workers, seeds=(0, 1))
    yield "replacement", _spec(MLP, sampling="replacement", target_grad_norm=1e-6)


def _trained(spec, store, dies=None):
    """Train in `store` with a checkpoint at every measuring point; `dies`: (name of a call, at which one)."""
    if dies:
        _dying(*dies)
    training.run(spec, store, "cpu", checkpoint_every=0.0)


def _dying(call, count):
    """SIGKILL this process at the count-th call of what a write to disk is made of: before it, or half-way."""
    left = itertools.count(count, -1)

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def before(function):
        return lambda *given, **named: die() if next(left) == 1 else function(*given, **named)

    if call == "fsync":
        os.fsync = before(os.fsync)
    elif call == "replace":
        Path.replace = before(Path.replace)
    elif call == "rows":
        records.MetricsWriter.write = before(records.MetricsWriter.write)
    elif call == "unlink":
        Path.unlink = before(Path.unlink)
    else:  # half of a checkpoint's, or of run.json's, bytes
        whole = files.replacing

        @contextlib.contextmanager
        def half(path, mode="w"):
            with whole(path, mode) as file:
                yield file
                if next(left) == 1:
                    file.flush()
                    file.truncate(file.tell() // 2)
                    die()

        files.replacing = checkpoint.replacing = half


CALLS = ("fsync", "replace", "rows", "half", "unlink")


def server():
    """Processes that are forked where all is imported and nothing has run yet, so that each costs milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torture", "torch._dynamo", "sklearn.datasets", "sklearn.gaussian_process", "scipy.stats"]
    )
    return context


def killed(name, spec, rng, folder, context):
    """Kill a run of `spec` at random moments, resume it until it ends, and compare. Returns how often it was killed."""
    started = time.monotonic()
    child = context.Process(target=_trained, args=(spec, folder / "whole"))
    child.start()
    child.join()
    lasted, kills = time.monotonic() - started, 0
    whole, broken = (folder / store / spec.key for store in ("whole", "broken"))
    while not (broken / records.RUN).exists():
        dies = (rng.choice(CALLS), rng.randint(1, 12)) if kills < 6 and rng.random() < 0.7 else None
        child = context.Process(target=_trained, args=(spec, folder / "broken", dies))
        child.start()
        child.join(rng.uniform(0, lasted) if dies is None and kills < 6 else None)
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), (name, child.exitcode)
        kills += child.exitcode != 0
    assert (broken / records.METRICS).read_bytes() == (whole / records.METRICS).read_bytes(), name
    told = [records.load(at) for at in (whole, broken)]
    assert told[0].spec == told[1].spec, name
    assert told[0].status == told[1].status, name
    return kills


def kill(count, folder, seed=0):
    """Kill runs `count` times in all, in turn over `specs`; returns the names of those that were."""
    rng, context, done, names = random.Random(seed), server(), 0, []
    cases = list(specs())
    rng.shuffle(cases)
    for turn, (name, spec) in enumerate(itertools.cycle(cases)):
        if done >= count:
            return names
        at = folder / f"{turn}-{name}"
        done += killed(name, spec, rng, at, context)
        names.append(name)
        shutil.rmtree(at)


def tried(strategy, attempt, examples, **settings):
    """What came of that many examples: how often each answer of `attempt`."""
    found = Counter()

    @hypothesis.settings(max_examples=examples, **settings)
    @hypothesis.given(strategy)
    def each(data):
        found[attempt(data)] += 1

    each()
    return found


def garbled(count, **settings):
    """Half configs and specs, a quarter command lines, a quarter parameters; new ones every time, unless told."""
    import garbage

    settings = {"derandomize": False, "database": None, "deadline": None} | settings
    for share, strategy, attempt in (
        (2, garbage.FILES, garbage.try_file),
        (4, garbage.COMMANDS, garbage.try_command),
        (4, garbage.PARAMETERS, garbage.try_parameters),
    ):
        yield attempt.__name__, dict(tried(strategy, attempt, count // share, **settings))


if __name__ == "__main__":
    what, number = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as at:
        if what == "kill":
            print(f"{number} kills, {len(kill(number, Path(at)))} runs resumed to the last digit")
        else:
            print(f"{number} inputs: {dict(garbled(number))}")
