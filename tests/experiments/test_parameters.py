"""Whatever parameters an experiment accepts, it ends well: results, figures and claims, of few seeds and short runs."""

import contextlib
import json
import math
import random
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from pydantic import ValidationError

from sfolib._utils.errors import InputError
from sfolib.analysis.claims import Check, LeftOut
from sfolib.analysis.predict import Prediction
from sfolib.cli import main
from sfolib.experiments import adaptive, critical_batch_size, derivations, notebook, prediction, registry
from sfolib.schedules.plan import CLOCKS

NOTEBOOKS = sorted((notebook.root() / "notebooks").glob("*.ipynb"))
# so little that runs take no time; what is drawn at random is each parameter but these
TINY = {
    "derivations": {"points": 50, "altered": "last"},
    "critical_batch_size": {"seeds": 2, "largest_batch_size": 16, "max_steps": 60, "max_samples": 600},
    "growth_rates": {"seeds": 2, "largest_batch_size": 16, "max_steps": 60, "max_samples": 600, "random_designs": 1},
    "tradeoff_front": {
        "seeds": 2, "largest_batch_size": 32, "max_steps": 300, "max_samples": 6000, "optimum_d": 8, "lrs": [0.4, 1.6],
    },
    "batch_growth": {"seeds": 2, "epochs": 2, "quadratic_seeds": 2, "model": "softmax"},
    "joint_growth": {"seeds": 2, "epochs": 4, "model": "softmax"},
    "stage_allocation": {"seeds": 2, "epochs": {"softmax": [2, 3], "mlp": [2]}},
    "predict_then_run": {
        "seeds": 2, "max_samples": {"softmax": 12_000}, "max_steps": {"softmax": 1500},
        "raw_samples": {"softmax": 12_000},
        "eps2": {"softmax": [0.04, 0.01]}, "lrs": {"softmax": [0.2]}, "models": ["softmax"],
    },
    "grow_or_decay": {"seeds": 2, "epochs": 4},
    "adaptive": {
        "seeds": 2, "test_seeds": 2, "max_samples": 900, "test_samples": 900, "look_samples": 300,
    },
    "autowu": {"seeds": 2, "epochs": 6, "iterations": 40, "model": "softmax"},
    "noise_scale": {
        "seeds": 2, "largest_batch_size": 16, "max_steps": 60, "max_samples": 600, "tuned_largest_batch_size": 16,
        "tuned_seeds": 2, "tuned_max_steps": 60, "tuned_max_samples": 600, "mlp_max_samples": 600, "adam_seeds": 2,
        "adam_largest_batch_size": 64, "adam_max_samples": 12_000, "adam_max_steps": 400, "watched_seeds": 2,
        "watched_samples": [900, 900, 900], "tracking_samples": [900, 900], "rest_steps": 200, "tuned_lrs": [0.2, 0.8],
    },
    "the_schedule_to_use": {
        "problems": ["digits/softmax"], "budget": 3000, "factors": [], "seeds": 2, "policy_seeds": 2,
    },
    "all_side_by_side": {"seeds": 2, "epochs": 3, "model": "softmax"},
    "prediction": {
        "seeds": 2, "network_seeds": 2, "network_samples": 64, "max_samples": 600, "stage": 200, "draws": 16,
        "time": 4.0, "mlp_time": 2.0, "batch_sizes": [2, 8], "lrs": [0.4], "mlp_lrs": [0.2],
    },
    "cifar100": {"seeds": 2, "epochs": 2, "train_images": 40, "test_images": 20},
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # inf and nan of few seeds
OWN = {
    "diverges": {"batch_size": 8, "lr": 50.0},
    "by steps": {
        "batch_size": {"kind": "linear", "v0": 2, "increment": 3, "every": 7}, "lr": 0.02, "clock": "step",
        "max_batch_size": 8,
    },
}  # fmt: skip
CASES = [  # seen to end in a traceback
    ("critical_batch_size", {"eps2": [0.02, 0.008]}),
    ("critical_batch_size", {"eps2": [0.01]}),
    ("critical_batch_size", {"quadratic_eps2": [0.01, 0.001]}),
    ("growth_rates", {"r": [2.0]}),
    ("batch_growth", {"batch_sizes": [32]}),
    ("joint_growth", {"model": "mlp"}),
    ("grow_or_decay", {"momentum": [0.9]}),
    ("the_schedule_to_use", {"factors": [2.0], "seeds": 2}),
    ("the_schedule_to_use", {"optimizer": "momentum"}),
    ("the_schedule_to_use", {"optimizer": "adam"}),
    *(
        (name, {"plans": OWN})
        for name in ("batch_growth", "joint_growth", "all_side_by_side", "cifar100", "the_schedule_to_use")
    ),
]


def drawn(schema, tiny, rng):
    """Each parameter but the tiny ones, with even odds: another value of its type near the default that is allowed."""
    fixed = {"scale": "smoke", **tiny}
    given, changed = schema(**fixed), {}
    if issubclass(schema, notebook.PlansParameters):
        changed["plans"] = {f"mine {clock}": own_plan(clock, rng) for clock in CLOCKS}
    for name in sorted(
        set(schema.model_fields) - {*tiny, *changed, "scale", "device", "jobs", "out", "dataset", "data_dir"}
    ):
        for _ in range(20 if rng.random() < 0.5 else 0):
            value = near(getattr(given, name), rng)
            with contextlib.suppress(InputError, ValidationError):
                schema(**fixed | changed | {name: value})
                changed[name] = value
                break
    return dict(sorted(changed.items()))


def own_plan(clock, rng):
    """As a reader writes one: batch size and lr each at random, a number or a schedule of the plan's clock."""
    every = max(1, round({"epoch": 1, "step": 20, "sample": 500}[clock] * math.exp(rng.uniform(-0.7, 0.7))))
    batch_size, lr = rng.randint(1, 40), math.exp(rng.uniform(-5, 1.5))  # up to one that diverges
    grown = {"kind": "exponential", "v0": batch_size, "factor": rng.uniform(1, 4), "every": every}
    falling = {"kind": "polynomial", "v0": lr, "end": lr / 9, "duration": 3 * every}
    return {"batch_size": rng.choice([batch_size, grown]), "lr": rng.choice([lr, falling]), "clock": clock}


def near(value, rng):
    if isinstance(value, float):
        return value * math.exp(rng.uniform(-0.7, 0.7))
    if isinstance(value, int) and not isinstance(value, bool):
        return max(1, round(value * math.exp(rng.uniform(-0.7, 0.7))))
    if isinstance(value, list):
        kept = sorted(rng.sample(range(len(value)), rng.randint(min(1, len(value)), len(value))))
        return [near(value[i], rng) for i in kept]
    if isinstance(value, dict):
        return {key: near(item, rng) for key, item in value.items()}
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("figures"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """What takes long and no parameter decides: the proofs, and H and Σ along a path."""
    few, sure = derivations.derivations()[:2], critical_batch_size.predicted
    monkeypatch.setattr(derivations, "derivations", lambda: few)

    def predicted(spec, batch_sizes, eps2, device):
        frame = sure(lambda b, eps: np.ceil(3 / eps**2 + 1 / b), np.array(batch_sizes), eps2, "predicted")
        frame.attrs["probes"] = 0
        return frame.drop(columns="source").assign(bias=0.0)

    monkeypatch.setattr(critical_batch_size, "predict_constant", predicted)

    def forecast(spec, device):
        steps = np.arange(1 + (spec.max_steps or spec.max_samples))
        constant = spec.plan.is_constant and spec.sampling == "replacement"
        bias, noise = 1 / (1 + steps), np.full(len(steps), 0.01)
        samples = steps * (1 if constant else spec.plan.at(0)[0])
        return Prediction(steps, samples, bias + noise, bias, noise, bias + noise, noise, probes=1)

    monkeypatch.setattr(prediction, "forecast", forecast)
    looks = adaptive.looks
    monkeypatch.setattr(adaptive, "looks", lambda spec, marks, *how, **more: looks(spec, marks[:2], *how, **more))


def ends_well(name, change, folder):
    """Whether the experiment accepts the parameters; where it does, it publishes."""
    module = registry.experiment(next(path for path in NOTEBOOKS if path.stem.endswith(name)))
    given = {"scale": "smoke", "device": "cpu", "jobs": 1, "out": folder} | TINY[name] | change
    try:
        p = notebook.parameters(module.Parameters, given)
        res = module.results(p, notebook.train(module, p))
    except InputError as error:  # refused, or nothing came of it that could be shown
        named = [field for field in module.Parameters.model_fields if re.search(rf"\b{field}\b", str(error))]
        if not named:
            raise
        return False
    figures, claims = module.figures(res), module.claims(res)
    plt.close("all")
    assert all(claim.figure in figures for claim in claims if isinstance(claim, Check))
    assert all(claim.missing for claim in claims if isinstance(claim, LeftOut))
    assert any(isinstance(claim, Check) for claim in claims)
    json.dumps([claim.to_dict() for claim in claims if isinstance(claim, Check)], allow_nan=False)
    return True


@pytest.mark.parametrize(("name", "change"), CASES, ids=lambda value: str(value))
def test_documented_parameters_work_alone(name, change, folder):
    assert ends_well(name, change, folder)


def test_parameters_that_are_not_allowed_are_refused_before_a_kernel_is_started(tmp_path, capsys):
    for given, message in (
        (["learning_rate", "0.1"], "learning_rate = 0.1: unknown to 01_critical_batch_size"),
        (["eps2", "0.02"], "eps2 = 0.02: must be list[float]"),
        (["lr", "-1"], "lr = -1: Input should be greater than 0"),
        (["scale", "smoke"], "scale = 'smoke': is said by --scale"),
    ):
        assert main(["figures", "01", "--out", str(tmp_path), "-p", *given]) == 1
        assert message in capsys.readouterr().err
    assert main(["figures", "1"]) == 1
    assert re.search("could be 10_autowu, 11_.*; say more of it, or 01$", capsys.readouterr().err)
    assert main(["figures", "01", "--out", str(tmp_path), "-p", "esp2", "[0.02]"]) == 1
    assert "did you mean eps2? it has" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", TINY)
def test_documented_parameters_work_in_any_combination(name, folder):
    rng = random.Random(name)
    module = registry.experiment(next(path for path in NOTEBOOKS if path.stem.endswith(name)))
    ends_well(name, drawn(module.Parameters, TINY[name], rng), folder)
