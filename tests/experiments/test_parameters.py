"""Whatever parameters an experiment accepts, it ends well: results, figures and claims, of few seeds and short runs."""

import contextlib
import json
import math
import random
import re

import matplotlib.pyplot as plt
import pytest
from pydantic import ValidationError

from sfolib._utils.errors import InputError
from sfolib.analysis.claims import Check, LeftOut
from sfolib.experiments import notebook, registry

NOTEBOOKS = sorted((notebook.root() / "notebooks").glob("*.ipynb"))
# so little that runs take no time; what is drawn at random is each parameter but these
TINY = {
    "derivations": {"points": 50, "altered": "last"},
    "critical_batch_size": {"seeds": 2, "largest_batch_size": 16, "max_steps": 60, "max_samples": 600},
    "growth_rates": {"seeds": 2, "largest_batch_size": 16, "max_steps": 60, "max_samples": 600, "random_designs": 1},
    "tradeoff_front": {
        "seeds": 2, "largest_batch_size": 16, "max_steps": 40, "max_samples": 600, "optimum_d": 8, "lrs": [0.2, 0.8],
    },
    "batch_growth": {"seeds": 2, "epochs": 2, "quadratic_seeds": 2, "model": "softmax"},
    "joint_growth": {"seeds": 2, "epochs": 4, "model": "softmax"},
    "stage_allocation": {"seeds": 2, "epochs": {"softmax": [2, 3], "mlp": [2]}},
    "predict_then_run": {
        "seeds": 2, "max_samples": dict.fromkeys(["softmax", "mlp"], 900), "max_steps": {"softmax": 60, "mlp": 60},
        "raw_samples": {"softmax": 900, "mlp": 900}, "models": ["softmax"],
    },
    "grow_or_decay": {"seeds": 2, "epochs": 4},
    "adaptive": {
        "seeds": 2, "test_seeds": 2, "max_samples": 900, "test_samples": 900, "look_samples": 300,
    },
    "autowu": {"seeds": 2, "epochs": 6, "iterations": 40, "model": "softmax"},
    "noise_scale": {
        "seeds": 2, "largest_batch_size": 16, "max_steps": 60, "max_samples": 600, "tuned_largest_batch_size": 16,
        "tuned_seeds": 2, "tuned_max_steps": 60, "tuned_max_samples": 600, "mlp_max_samples": 600, "adam_seeds": 2,
        "adam_largest_batch_size": 16, "adam_max_samples": 600, "adam_max_steps": 60, "watched_seeds": 2,
        "watched_samples": [900, 900, 900], "tracking_samples": [900, 900], "rest_steps": 200, "tuned_lrs": [0.2, 0.8],
    },
    "all_side_by_side": {"seeds": 2, "epochs": 3, "model": "softmax"},
    "cifar100": {"seeds": 2, "epochs": 2, "train_images": 40, "test_images": 20},
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # inf and nan of few seeds
CASES = [  # seen to end in a traceback
    ("critical_batch_size", {"eps2": [0.02, 0.008]}),
    ("critical_batch_size", {"eps2": [0.01]}),
    ("critical_batch_size", {"quadratic_eps2": [0.01, 0.001]}),
    ("growth_rates", {"r": [2.0]}),
    ("batch_growth", {"batch_sizes": [32]}),
    ("joint_growth", {"model": "mlp"}),
    ("grow_or_decay", {"momentum": [0.9]}),
    ("adaptive", {"seeds": 3}),
    ("critical_batch_size", {"lr": 0.05}),
    ("predict_then_run", {"models": ["softmax"]}),
]


def drawn(schema, tiny, rng):
    """Each parameter but the tiny ones, with even odds: another value of its type near the default that is allowed."""
    fixed = {"scale": "smoke", **tiny}
    given, changed = schema(**fixed), {}
    for name in sorted(
        set(schema.model_fields) - set(tiny) - {"scale", "device", "jobs", "out", "dataset", "data_dir"}
    ):
        for _ in range(20 if rng.random() < 0.5 else 0):
            value = near(getattr(given, name), rng)
            with contextlib.suppress(InputError, ValidationError):
                schema(**fixed | changed | {name: value})
                changed[name] = value
                break
    return dict(sorted(changed.items()))


def near(value, rng):
    if isinstance(value, float):
        return value * math.exp(rng.uniform(-0.7, 0.7))
    if isinstance(value, int) and not isinstance(value, bool):
        return max(1, round(value * math.exp(rng.uniform(-0.7, 0.7))))
    if isinstance(value, list):
        kept = sorted(rng.sample(range(len(value)), rng.randint(1, len(value))))
        return [near(value[i], rng) for i in kept]
    if isinstance(value, dict):
        return {key: near(item, rng) for key, item in value.items()}
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("figures"))


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


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("seed", range(2))
def test_documented_parameters_work_in_any_combination(name, seed, folder):
    rng = random.Random(f"{name} {seed}")
    module = registry.experiment(next(path for path in NOTEBOOKS if path.stem.endswith(name)))
    ends_well(name, drawn(module.Parameters, TINY[name], rng), folder)
