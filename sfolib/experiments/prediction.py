"""14: predicted against measured, at configurations whose predictions were written before the runs (T14, T15)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt
from tqdm.auto import tqdm

from sfolib._utils.errors import InputError, require
from sfolib.analysis.predict import Prediction, predict
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.experiments.project import root
from sfolib.problems.specs import Digits
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import late_switch
from sfolib.training.records import Run
from sfolib.training.spec import Spec

ALL_SIZES = [1, 2, 4, 8, 32, 128, 512]


class Parameters(notebook.Parameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "seeds": 4,
            "network_seeds": 2,
            "lrs": [0.4, 1.6],
            "mlp_lrs": [0.2],
            "batch_sizes": [2, 8, 128],
            "time": 40.0,
            "mlp_time": 8.0,
            "max_samples": 6000,
            "network_samples": 800,
            "draws": 256,
        },
        "quick": {
            "seeds": 16,
            "network_seeds": 3,
            "lrs": [0.05, 0.4, 1.6, 2.0],
            "mlp_lrs": [0.05, 0.2, 0.8],
            "batch_sizes": ALL_SIZES,
            "time": 250.0,
            "mlp_time": 100.0,
            "max_samples": 30_000,
            "network_samples": 12_000,
            "draws": 1024,
        },
        "paper": {
            "seeds": 256,
            "network_seeds": 16,
            "lrs": [0.05, 0.2, 0.4, 0.8, 1.6, 2.0],
            "mlp_lrs": [0.05, 0.2, 0.8],
            "batch_sizes": ALL_SIZES,
            "time": 250.0,
            "mlp_time": 100.0,
            "max_samples": 30_000,
            "network_samples": 12_000,
            "draws": 16_384,
        },
    }

    lrs: list[PositiveFloat] = by_scale("softmax regression, constant pairs: learning rates η")
    mlp_lrs: list[PositiveFloat] = by_scale("… of the network of one hidden layer")
    batch_sizes: list[PositiveInt] = by_scale("… batch sizes of both")
    time: PositiveFloat = by_scale("… a run takes time/η steps, or until ‖∇f‖² is at its least target")
    mlp_time: PositiveFloat = by_scale("… of the network")
    eps2: list[PositiveFloat] = Field([0.01, 0.003, 0.001], description="… targets ε²")
    mlp_eps2: list[PositiveFloat] = Field([0.04, 0.02], description="… of the network")
    lr: PositiveFloat = Field(0.15, description="plans: learning rate η")
    stage: PositiveInt = Field(6000, description="… gradient evaluations a stage")
    max_samples: PositiveInt = by_scale("… budget of a run in gradient evaluations")
    seeds: PositiveInt = by_scale("independent runs of all these")
    network_lr: PositiveFloat = Field(0.02, description="convolutional network: learning rate η")
    steep_lr: PositiveFloat = Field(0.1, description="… and one beyond 2/λ of its start")
    batch_norm_lr: PositiveFloat = Field(0.1, description="ResNet-8 with BatchNorm: learning rate η")
    network_samples: PositiveInt = by_scale("… budget of a run of both in gradient evaluations")
    network_seeds: PositiveInt = by_scale("… independent runs")
    draws: PositiveInt = by_scale("successive gradients: pairs drawn at each point")


PROBLEMS = {
    "softmax": Digits(),
    "mlp": Digits(model="mlp"),
    "cnn": Digits(model="cnn", holdout=1000),
    "resnet8": Digits(model="resnet8", holdout=1000),
}
VECTORS = {"cnn": 24, "resnet8": 8}  # noise vectors of their predictions
PERMUTED = {"softmax": None, "mlp": ("constant", "batch grows")}  # plans by permutation as well; None: all
FROZEN = "benchmarks/frozen.csv"
TOLERANCE = {"softmax": 0.1, "mlp": 0.15, "cnn": 0.25, "resnet8": 0.5}  # of E‖∇f‖², said before the runs


def schedules(p):
    """The plans that are predicted; a stage is p.stage gradient evaluations."""
    grows = {"clock": "sample"}
    dense = {
        "constant": Plan(16, p.lr),
        "batch grows": Plan(exponential(8, 2.0, p.stage), p.lr, **grows),
        "lr decays": Plan(16, exponential(2 * p.lr, 0.5, p.stage), **grows),
        "both grow": Plan(exponential(16, 2.0, p.stage), exponential(p.lr / 2, 1.4, p.stage), **grows),
        "late switch": late_switch(8, 128, 4 * p.stage, p.lr),
    }
    small = p.stage // 2
    networks = {
        "cnn: constant": Plan(32, p.network_lr),
        "cnn: batch grows": Plan(exponential(16, 2.0, small), p.network_lr, **grows),
        "cnn: beyond 2/λ": Plan(32, p.steep_lr),
        "resnet8: constant": Plan(32, p.batch_norm_lr),
        "resnet8: batch grows": Plan(exponential(16, 2.0, small), p.batch_norm_lr, **grows),
    }
    return {"dense": dense, "networks": networks}


def specs(p: Parameters, schedules: Mapping[str, Any], runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    """Keys: ("pair", model, lr, batch size) and ("plan", model, label, sampling)."""
    found: dict[Hashable, Spec] = {}
    common = {"seeds": tuple(range(100, 100 + p.seeds)), "eval_every": 1.05}
    for model, rates, time, eps2 in (("softmax", p.lrs, p.time, p.eps2), ("mlp", p.mlp_lrs, p.mlp_time, p.mlp_eps2)):
        for lr in rates:
            for b in p.batch_sizes:
                found["pair", model, lr, b] = Spec(
                    problem=PROBLEMS[model], plan=Plan(b, lr), sampling="replacement", max_samples=10**9,
                    max_steps=round(time / lr), target_grad_norm=min(eps2) ** 0.5, **common,
                )  # fmt: skip
        for label, plan in schedules["dense"].items():
            for sampling in ("replacement", "permutation"):
                if sampling == "replacement" or PERMUTED[model] is None or label in PERMUTED[model]:
                    found["plan", model, label, sampling] = Spec(
                        problem=PROBLEMS[model], plan=plan, sampling=sampling, max_samples=p.max_samples, **common
                    )
    common = {"seeds": tuple(range(100, 100 + p.network_seeds)), "eval_every": 1.2}
    for label, plan in schedules["networks"].items():
        model = label.partition(":")[0]
        found["plan", model, label, "permutation"] = Spec(
            problem=PROBLEMS[model], plan=plan, sampling="permutation", max_samples=p.network_samples, **common
        )
    return found


# ------------------------------------------------------------------------------- predictions, written before
NONE = Prediction(*np.array([[0, 1], [0, 1]]), *np.full((5, 2), np.inf), probes=0)


def described(spec: Spec) -> str:
    """Names what a prediction is of: the spec but for its ends, its measuring points, and all seeds but the first; of
    a constant pair with replacement also but for its batch size."""
    plan = spec.plan
    if plan.is_constant and spec.sampling == "replacement":
        plan = Plan(1, plan.at(0)[1])
    same = {"max_samples": 1, "max_steps": None, "target_grad_norm": None, "eval_every": "epoch"}
    return spec.model_copy(update=same | {"seeds": spec.seeds[:1], "plan": plan}).key


def forecast(spec: Spec, device: str = "auto") -> Prediction:
    """The prediction of a run's whole budget; of a constant pair with replacement, that of b = 1 for as many steps."""
    update: dict[str, Any] = {"target_grad_norm": None}
    if spec.plan.is_constant and spec.sampling == "replacement":
        b, lr = spec.plan.at(0)
        steps = spec.max_steps or -(-spec.max_samples // b)
        update |= {"plan": Plan(1, lr), "max_steps": steps, "max_samples": 10**9}
    model = spec.problem.model
    return predict(spec.model_copy(update=update), device, **({"vectors": VECTORS[model]} if model else {}))


def written() -> pd.DataFrame:
    """What was written before the runs: key, case, tolerance, and the arrays of `Prediction`, a row a point."""
    path = root() / FROZEN
    return pd.read_csv(path) if path.exists() else pd.DataFrame({"key": []})


def write(p: Parameters) -> None:
    """Predict what is not written yet of the runs that the notebook asks for, and write it down; nothing is replaced.
    Where there is no prediction, as the path without noise diverges, E‖∇f‖² is inf."""
    asked = {}
    for (_, model, label, *_), spec in specs(p, schedules(p), {}).items():
        asked.setdefault(described(spec), (model, label, spec))
    frame = written()
    for key, (model, label, spec) in tqdm([item for item in asked.items() if item[0] not in {*frame["key"]}]):
        try:
            found = forecast(spec, p.device)
        except InputError as error:
            print(error)
            found = NONE
        case = f"{model}, {label if isinstance(label, str) else f'lr {label:g}'}, {spec.sampling}"
        table = found.table.assign(probes=found.probes)
        # a point in 12 % of the steps is enough: curves are interpolated as power laws
        kept = [0, *np.unique(np.searchsorted(table["steps"], 1.12 ** np.arange(200)).clip(max=len(table) - 1))]
        table = table.iloc[sorted({*kept})]
        table.insert(0, "case", case)
        table.insert(0, "key", key)
        frame = pd.concat([frame, table.assign(tolerance=TOLERANCE[model])])
        frame.to_csv(root() / FROZEN, index=False, float_format="%.5g")
        print(case, f"{found.probes:.3g} gradient evaluations", flush=True)


def predictions(p: Parameters, asked: Mapping[Hashable, Spec]) -> dict[str, tuple[Prediction, float]]:
    """Of each `described`: the prediction and its tolerance, as written; predicted now where nothing is."""
    frame, found = written(), {}
    known = dict(iter(frame.groupby("key"))) if len(frame) else {}
    for (_, model, *_), spec in asked.items():
        key = described(spec)
        if key in found:
            continue
        if key in known:
            own = known[key]
            arrays = {name: own[name].to_numpy() for name in Prediction.__dataclass_fields__ if name != "probes"}
            found[key] = Prediction(**arrays, probes=int(own["probes"].iloc[0])), float(own["tolerance"].iloc[0])
        else:
            print(f"predicted now, as it is not in {FROZEN}: {model}, {spec.plan}")
            found[key] = forecast(spec, p.device), TOLERANCE[model]
    require(bool(found), "specs", len(asked), "must hold at least one")
    return found
