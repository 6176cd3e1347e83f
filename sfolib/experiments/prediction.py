"""14: predicted against measured, at configurations whose predictions were written before the runs (T14, T15)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from sfolib import plotting
from sfolib._utils.errors import InputError, require
from sfolib.analysis.claims import Check
from sfolib.analysis.crossings import crossings, minimizers
from sfolib.analysis.predict import Prediction, predict
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.experiments.project import root
from sfolib.gradients.curvature import Hessian, gradient_covariance, hessian
from sfolib.plotting.predicted import beside, ratios, successive_gradients
from sfolib.plotting.style import NAMES, Band
from sfolib.problems.modules import modules, training_data
from sfolib.problems.specs import Digits
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import late_switch
from sfolib.theory import local
from sfolib.training import estimates
from sfolib.training.estimates import Interval
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
            "network_samples": 6000,
            "draws": 2048,
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
            "network_samples": 6000,
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
    "resnet8": Digits(model="resnet8_16", holdout=1000),
}
PLANS = ["constant", "batch grows", "lr decays", "both grow", "late switch"]
VECTORS = {"mlp": 32, "cnn": 8, "resnet8": 4}  # noise vectors of their predictions
LABELS = {  # plans of each, as keys of `schedules`: by permutation, and with replacement
    "softmax": (PLANS, PLANS),
    "mlp": (["constant"], ["constant", "batch grows", "lr decays", "both grow"]),
}
FROZEN = "benchmarks/frozen.csv"
WHY = (
    "Where η is near 2/λ_max of the noise-free path, or above, the linear theory has noise that settles late or never. "
    "A run with noise leaves for places of smaller H, which the path without it does not see."
)
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
    small = p.stage // 4
    networks = {
        "cnn: constant": Plan(32, p.network_lr),
        "cnn: batch grows": Plan(exponential(16, 2.0, small), p.network_lr, **grows),
        "cnn: beyond 2/λ": Plan(32, p.steep_lr),
        "resnet8: constant": Plan(32, p.batch_norm_lr),
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
                known = label in PLANS  # any other is the reader's
                if not known or label in LABELS[model][sampling == "replacement"]:
                    found["plan", model, label, sampling] = Spec(
                        problem=PROBLEMS[model], plan=plan, sampling=sampling, max_samples=p.max_samples, **common
                    )
    common = {"seeds": tuple(range(100, 100 + p.network_seeds)), "eval_every": 1.2}
    for label, plan in schedules["networks"].items():
        model = label.partition(":")[0]
        found["plan", model, label, "permutation"] = Spec(
            problem=PROBLEMS[model], plan=plan, sampling="permutation", max_samples=p.network_samples, **common
        )
    found["online"] = Spec(
        problem=PROBLEMS["softmax"], plan=schedules["dense"]["batch grows"], sampling="replacement", eval_every=1.05,
        seeds=tuple(range(100, 100 + p.seeds)), max_samples=p.max_samples, noise_probes={"parts": 2, "decay": 0.9},
    )  # fmt: skip
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
    vectors = next((count for model, count in VECTORS.items() if spec.problem == PROBLEMS[model]), 1)  # else unused
    return predict(spec.model_copy(update=update), device, vectors=vectors)


def written() -> pd.DataFrame:
    """What was written before the runs: key, case, tolerance, and the arrays of `Prediction`, a row a point."""
    path = root() / FROZEN
    return pd.read_csv(path) if path.exists() else pd.DataFrame({"key": []})


def write(p: Parameters) -> None:
    """Predict what is not written yet of the runs that the notebook asks for, and write it down; nothing is replaced.
    Where there is no prediction, as the path without noise diverges, E‖∇f‖² is inf."""
    asked = {}
    for (_, model, label, *_), spec in ((k, s) for k, s in specs(p, schedules(p), {}).items() if k != "online"):
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


# --------------------------------------------------------------------------------------- T14, at points of a path
POINTS = [20, 60, 200, 600]  # steps of the noise-free path
PATH_LR = 0.4
MULTIPLES = [0.25, 0.5, 1.0, 2.0, 4.0]  # of the critical batch size
PER_POINT = 64  # runs side by side; each draws its pairs one after the other


class Point(NamedTuple):
    """A θ of the noise-free path and T14's constants there, exact. eigenvalues, noise: H's, and the diagonal of Σ in
    their basis. halving: Σ η until ‖G‖² is half as large."""

    theta: Tensor
    G2: float
    GHG: float
    trace: float
    Q: float
    S2: float
    eigenvalues: np.ndarray
    noise: np.ndarray
    halving: float = np.nan


def points(problem: Digits, steps: Sequence[int], lr: float) -> list[Point]:
    """Of softmax regression's path of full gradients; each costs n gradient evaluations for every row of H."""
    task, n = problem.build_task((0,), "permutation", "cpu", "float64"), problem.size
    (theta,), found, passed = task.parameters, [], []
    for step in range(10 * max(steps) + 100):
        G2 = float(task.measure()["grad_sqnorm"])
        passed.append(G2)
        if step in steps:
            (model,), (x, y) = modules(task), training_data(task)
            H, covariance = (
                hessian(model, cross_entropy, x, y, l2=problem.l2),
                gradient_covariance(model, cross_entropy, x, y),
            )
            g = Hessian(model, cross_entropy, x, y, problem.l2).gradient.double().numpy()
            values, basis = np.linalg.eigh(H)
            noise = np.sum(basis * (covariance @ basis), 0)
            S2 = np.sum(covariance**2)
            found.append(Point(theta[0].clone(), G2, g @ H @ g, noise.sum(), values @ noise, S2, values, noise))
        if len(found) == len(steps) and G2 <= found[-1].G2 / 2:
            break
        theta -= lr * task.gradients(step, 0, n)[0]
    clock = lr * np.arange(len(passed))
    reached = np.minimum.accumulate(passed)
    halved = [clock[np.argmax(reached <= point.G2 / 2)] - clock[step] for point, step in zip(found, steps, strict=True)]
    return [point._replace(halving=float(time)) for point, time in zip(found, halved, strict=True)]


def drawn(
    problem: Digits, point: Point, batch_size: int, lr: float, draws: int, sampling: str
) -> dict[str, np.ndarray]:
    """Pairs of successive gradients from one θ, arrays (draws,): product is g·g′; halves and spread, of the first one's
    halves, are g_a·g_b and ‖g_a − g_b‖²/4. By permutation the pairs are the first of an epoch each."""
    task = problem.build_task(tuple(range(PER_POINT)), sampling, "cpu", "float32")
    (theta,), half, rows = task.parameters, batch_size // 2, []
    at = 0
    for i in range(max(1, draws // PER_POINT)):
        theta[:] = point.theta
        a, b = (task.gradients(3 * i + k, at + k * half, half)[0] for k in range(2))
        first = (a + b) / 2
        theta -= lr * first
        second = task.gradients(3 * i + 2, at + batch_size, batch_size)[0]
        of_pair = (first * second, a * b, (a - b).square() / 4)
        rows.append([value.double().sum((1, 2)).numpy() for value in of_pair])
        at = (i + 1) * problem.size if sampling == "permutation" else at + 2 * batch_size
    return dict(zip(("product", "halves", "spread"), np.concatenate(rows, axis=1), strict=True))


def over_an_epoch(problem: Digits, point: Point, batch_size: int, lr: float, epochs: int) -> pd.DataFrame:
    """E g_t·g_{t+1} − E‖G_t‖² over an epoch's permutation of steps from one θ: columns step, value, error."""
    task, n = problem.build_task(tuple(range(PER_POINT)), "permutation", "cpu", "float32"), problem.size
    (theta,), steps = task.parameters, n // batch_size
    looks = range(0, steps - 1, max(1, steps // 8))
    found = np.zeros((epochs, len(looks), PER_POINT))
    for epoch in range(epochs):
        theta[:] = point.theta
        before, sqnorm = None, {}
        for t in range(steps):
            if t in looks:
                sqnorm[t] = task.measure()["grad_sqnorm"].double().numpy()
            now = task.gradients(t, epoch * n + t * batch_size, batch_size)[0]
            if t - 1 in looks:
                products = (before * now).double().sum((1, 2)).numpy()
                found[epoch, looks.index(t - 1)] = products - sqnorm[t - 1]
            theta -= lr * now
            before = now
    flat = found.transpose(1, 0, 2).reshape(len(looks), -1)
    return pd.DataFrame({"step": list(looks), "value": flat.mean(1), "error": flat.std(1) / flat.shape[1] ** 0.5})


def successive(p: Parameters) -> SimpleNamespace:
    """pairs: a row a point and batch size, what was drawn beside T14; pflug: a row a point and rule, the steps to see
    the sign (m, measured and by the formula) and those of the stage until ‖∇f‖² is half; epoch: as `over_an_epoch`."""
    problem, rows, rules = PROBLEMS["softmax"], [], []
    along = points(problem, POINTS[: 3 if p.scale == "smoke" else None], PATH_LR)

    def even(b: float) -> int:
        return max(2, 2 * round(b / 2))

    first = even(local.critical_batch_size(PATH_LR, along[0].G2, along[0].Q, along[0].GHG))
    for point in along:
        critical = local.critical_batch_size(PATH_LR, point.G2, point.Q, point.GHG)
        for sampling, of_critical in (("replacement", MULTIPLES), ("permutation", MULTIPLES[:2])):
            for b in sorted({even(x * critical) for x in of_critical}):
                if 2 * b > problem.size:
                    continue
                seen = drawn(problem, point, b, PATH_LR, p.draws, sampling)
                n = None if sampling == "replacement" else problem.size
                rows.append(
                    {"G2": point.G2, "trace": point.trace, "sampling": sampling, "batch_size": b, "critical": critical,
                     "theory": local.successive_gradients(b, PATH_LR, point.G2, point.Q, point.GHG, n, point.trace),
                     "m_theory": local.detection_steps(PATH_LR, point.Q, point.S2),
                     "m": 1.96**2 * seen["product"].var() / (PATH_LR * point.Q / b) ** 2}
                    | {name: values.mean() for name, values in seen.items()}
                    | {f"{name}_error": values.std() / len(values) ** 0.5 for name, values in seen.items()}
                )  # fmt: skip
        falling = first * point.G2 / (point.Q + first * point.GHG)  # the lr whose critical batch size is `first`
        for rule, b, lr in (("b grows", even(critical), PATH_LR), ("η decays", first, falling)):
            seen = drawn(problem, point, b, lr, p.draws, "replacement")
            rules.append(
                {"rule": rule, "G2": point.G2, "m": 1.96**2 * seen["product"].var() / (lr * point.Q / b) ** 2,
                 "m_theory": local.detection_steps(lr, point.Q, point.S2), "stage": point.halving / lr}
            )  # fmt: skip
    last = along[min(2, len(along) - 1)]
    b = 32
    epoch = over_an_epoch(problem, last, b, PATH_LR, max(2, p.draws // 128))
    n, forgotten = problem.size, 1 - (1 - PATH_LR * last.eigenvalues) ** epoch["step"].to_numpy()[:, None]
    t14 = local.successive_gradients(b, PATH_LR, last.G2, last.Q, last.GHG, n, last.trace) - last.G2
    epoch = epoch.assign(t14=t14, theory=t14 + 2 * forgotten @ last.noise / (n - 1))
    return SimpleNamespace(pairs=pd.DataFrame(rows), pflug=pd.DataFrame(rules), epoch=epoch, batch_size=b, last=last)


# ------------------------------------------------------------------------------------------- results and figures
LEAST = ["model", "lr", "eps2", "batch_size", "batch_low", "batch_high", "batch_size_predicted"]
WINDOWS = ((0.05, 0.2), (0.2, 0.5), (0.5, 1.0))  # of a run's steps, in which E‖∇f‖² is compared


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """predicted: a `Prediction` for each run, as long as it; tolerance: said with it. crossings: N(b), measured and
    (columns with _predicted) predicted, a row a (model, lr, batch_size, eps2). least: by (model, lr, eps2), the
    measured b* with its interval beside the predicted. ratios: measured E‖∇f‖² over predicted, `Interval`s along each
    run; windows: the same in `WINDOWS`. successive: T14, see there; online: the run that watched its half batches.
    probes: gradient evaluations that the predictions cost, in all."""
    asked = {key: run.spec for key, run in runs.items() if key != "online"}
    known = predictions(p, asked)
    predicted, tolerance = {}, {}
    for key, spec in asked.items():
        found, tolerance[key] = known[described(spec)]
        constant = spec.plan.is_constant and spec.sampling == "replacement"
        predicted[key] = found.with_batch_size(spec.plan.at(0)[0]) if constant else found
    rows, least = [], []
    for model, rates, eps2 in (("softmax", p.lrs, p.eps2), ("mlp", p.mlp_lrs, p.mlp_eps2)):
        for lr in rates:
            own = {key: run for key, run in runs.items() if key[:3] == ("pair", model, lr)}
            measured = crossings(own.values(), eps2, model=model, lr=lr, source="measured")
            budget = {key[3]: run.spec.max_steps for key, run in own.items()}
            told = pd.DataFrame(
                {"batch_size": key[3], "eps2": e, **predicted[key].first_crossing(e**0.5)._asdict()}
                for key in own
                for e in eps2
            )
            told.loc[told["steps"] > told["batch_size"].map(budget), ["steps", "samples"]] = np.inf
            rows.append(measured.merge(told, on=["batch_size", "eps2"], suffixes=("", "_predicted")))
            best = rows[-1].loc[rows[-1].groupby("eps2")["samples_predicted"].idxmin()]
            sure = minimizers(own.values(), eps2)
            if len(sure):
                best = best[np.isfinite(best["samples_predicted"])][["model", "lr", "eps2", "batch_size"]]
                least.append(sure.merge(best, on="eps2", suffixes=("", "_predicted")))
    return SimpleNamespace(
        p=p,
        runs=runs,
        predicted=predicted,
        tolerance=tolerance,
        crossings=pd.concat(rows, ignore_index=True),
        least=pd.concat(least or [pd.DataFrame(columns=LEAST, dtype=float)], ignore_index=True),
        ratios={key: ratio(runs[key], found) for key, found in predicted.items()},
        windows={key: in_windows(runs[key], found) for key, found in predicted.items()},
        successive=successive(p),
        online=runs["online"],
        probes=sum(found.probes for found, _ in known.values()),
    )


def at(found: Prediction, steps: np.ndarray, column: str = "grad_sqnorm") -> np.ndarray:
    """A column of a prediction at these steps (above 0), a power law between its points."""
    x, y = found.steps[1:], getattr(found, column)[1:]
    return np.exp(np.interp(np.log(steps), np.log(x), np.log(y)))


def ratio(run: Run, found: Prediction) -> tuple[np.ndarray, Interval]:
    """Gradient evaluations, and measured E‖∇f‖² over the predicted with its interval there, from the first step on."""
    told = at(found, run.steps[1:])
    with np.errstate(invalid="ignore"):  # inf over inf
        return run.samples[1:], Interval(*(end[1:] / told for end in run.mean_ci()))


def in_windows(run: Run, found: Prediction) -> list[Interval]:
    """Measured over predicted E‖∇f‖² in each of `WINDOWS`, in the mean over its measuring points, with its interval."""
    values, steps = [], run.steps
    for first, last in WINDOWS:
        chosen = (steps > first * steps[-1]) & (steps <= last * steps[-1])
        values.append(estimates.mean((run.curves()[:, chosen] / at(found, steps[chosen])).mean(1)))
    return values


def ends(res: SimpleNamespace, keys: Sequence[Hashable]) -> dict[str, np.ndarray]:
    """`measured` and `interval` of a claim: `in_windows` of each run."""
    measured, low, high = np.array([window for key in keys for window in res.windows[key]]).T
    return {"measured": measured, "interval": np.array([low, high]).T}


TITLES = {"softmax": "softmax", "mlp": "one hidden layer"}


def curves(res: SimpleNamespace, key: Hashable, column: str = "grad_sqnorm") -> list[Band]:
    """A run and its prediction."""
    _, _, _, sampling = key
    run, found = res.runs[key], res.predicted[key]
    source, value = {"replacement": "measured"}.get(sampling, sampling), [end[1:] for end in run.mean_ci(column)]
    steps = run.steps[1:][run.steps[1:] <= found.steps[-1]]
    told = Band("predicted", "predicted", run.samples[1:][: len(steps)], at(found, steps, column))
    return [Band(NAMES[source], source, run.samples[1:], *value), told]


def figures(res: SimpleNamespace) -> notebook.Figures:
    p, both = res.p, res.crossings
    found = {}
    for model, title in TITLES.items():
        own = both[both["model"] == model]
        panels = {}
        for lr, frame in own.groupby("lr"):
            if not np.isfinite(frame["samples"]).any() or len(panels) == 3:  # there is room for three
                continue
            told = frame[["batch_size", "eps2"]].assign(
                samples=frame["samples_predicted"], steps=frame["steps_predicted"], source="predicted"
            )
            panels[rf"{title}, $\eta$ = {lr:g}"] = pd.concat([frame, told])
        if not panels:  # nothing was reached
            continue
        found[f"{model}-pairs"] = (
            plotting.against_batch_size(panels, "samples"),
            f"Gradient evaluations to ε against the batch size, {title} on digits: predicted (dashes and dots) and "
            f"measured, {p.seeds} seeds. Predictions were written before the runs.",
        )
    keys = [key for key in res.predicted if key[0] == "plan"]
    dense = list(dict.fromkeys(key[2] for key in keys if key[1] in TITLES))
    found["plans"] = (
        beside(
            {
                rf"{title}: $\mathbb{{E}}\|\nabla f\|^2$": {
                    label: [b for key in keys if key[1:3] == (model, label) for b in curves(res, key)]
                    for label in dense
                }
                for model, title in TITLES.items()
            }
        ),
        "E‖∇f‖² along runs of five plans, predicted (black) and measured (band: 95 % interval over seeds). "
        "Nothing is fitted.",
    )
    networks = [key for key in keys if key[1] not in TITLES]
    found["networks"] = (
        beside(
            {
                name: {key[2]: curves(res, key, column) for key in networks}
                for column, name in (("grad_sqnorm", r"$\mathbb{E}\|\nabla f\|^2$"), ("loss", r"$\mathbb{E}f$"))
            }
        ),
        "A convolutional network with GroupNorm and a ResNet-8 with BatchNorm on 797 digits, by permutation: predicted "
        "(black) and measured.",
    )
    by_b = {model: [] for model in TITLES}
    for model, lr in both[["model", "lr"]].drop_duplicates().itertuples(index=False):
        last = {key[3]: [*windows[-1]] for key, windows in res.windows.items() if key[:3] == ("pair", model, lr)}
        kept = {b: values for b, values in last.items() if np.isfinite(values).all() and values[0] > 0}
        if kept:
            by_b[model].append(Band(rf"$\eta$ = {lr:g}", "measured", [*kept], *np.array([*kept.values()]).T))
    along = [Band(key[2], "measured", res.ratios[key][0], *res.ratios[key][1]) for key in networks]
    shown = {f"{TITLES[model]}, last half": ("batch size $b$", bands) for model, bands in by_b.items()}
    found["failures"] = (
        ratios(shown | {"networks, along the run": ("gradient evaluations", along)}, TOLERANCE["softmax"]),
        "Where the prediction fails: measured E‖∇f‖² over the predicted. Left and middle: in the last half of runs of "
        "a constant pair, against the batch size. Right: along the networks' runs.",
    )
    run = res.online
    online = [
        Band("exact", "exact", run.samples[1:], run.mean_ci()[0][1:]),
        Band("half batches, free", "measured", run.samples[1:], *(end[1:] for end in run.mean_ci("loop_sqnorm"))),
    ]
    seen = res.successive
    found["successive"] = (
        successive_gradients(seen.pairs, seen.pflug, seen.epoch, online),
        "T14 at points of softmax regression's path (colour: ‖∇f‖²), points: drawn, bars: two standard errors; lines: "
        "the formulas. m is 1.96² Var(g·g′)/(ηQ/b)² against z² tr(Σ²)/(ηQ)². Pflug's rule: where the batch grows at "
        "one η a stage has ever more steps than the test needs; where η decays at one batch size the test needs more "
        f"than the stage has. Last: by permutation of b = {seen.batch_size}.",
    )
    return found


def claims(res: SimpleNamespace) -> list[Check]:
    p, both = res.p, res.crossings.copy()
    both = both[np.isfinite(both["samples"]) & np.isfinite(both["samples_predicted"])]
    for end in ("samples", "low", "high"):
        both[f"of_{end}"] = both[end] / both["samples_predicted"]

    def counts(claim: str, rows: pd.DataFrame, tolerance: float, figure: str, **more: Any) -> list[Check]:
        """A claim on N(b), of the pairs whose interval is short enough to decide it."""
        sharp = rows[(rows["of_high"] - rows["of_low"]) <= 2 * tolerance * rows["of_samples"]]
        if not len(sharp):
            return []
        interval = sharp[["of_low", "of_high"]].to_numpy()
        return [
            Check(
                claim, "equal", measured=sharp["of_samples"], interval=interval, theory=1.0, tolerance=tolerance,
                source="T15 [N]", figure=figure, **more,
            )
        ]  # fmt: skip

    softmax, mlp = (both[both["model"] == model] for model in TITLES)
    stable = softmax[softmax["lr"] <= 0.8]
    large = stable["batch_size"] >= 8
    checks = counts(
        "Softmax, η <= 0.8, b >= 8: the measured N(b) is the predicted one within 5 %, wherever the interval is short "
        "enough to tell", stable[large], 0.05, "softmax-pairs", headline=True,
    )  # fmt: skip
    checks += counts("Softmax, η <= 0.8, b < 8: within 15 %", stable[~large], 0.15, "softmax-pairs")
    checks += counts("Softmax, η = 1.6: within 15 %", softmax[softmax["lr"] == 1.6], 0.15, "softmax-pairs")
    checks += counts("One hidden layer, η <= 0.2: N(b) within 15 %", mlp[mlp["lr"] <= 0.2], 0.15, "mlp-pairs")
    grid = np.log(np.array(p.batch_sizes, dtype=float))
    least = res.least.assign(
        **{
            f"at_{end}": np.interp(np.log(res.least[f"batch_{end}"]), grid, np.arange(len(grid)))
            - np.interp(np.log(res.least["batch_size_predicted"]), grid, np.arange(len(grid)))
            for end in ("size", "low", "high")
        }
    )
    for model, title in TITLES.items():
        own = least[(least["model"] == model) & (least["lr"] <= 0.8)]
        if len(own):
            low, high = own["at_low"], own["at_high"]
            nearest = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(low.abs(), high.abs()))
            checks.append(
                Check(
                    f"{title.capitalize()}, η <= 0.8: the measured b* is at most one place of the grid from the "
                    "predicted",
                    "upper_bound",
                    measured=own["at_size"].abs(),
                    interval=np.array([nearest, np.maximum(low.abs(), high.abs())]).T,
                    theory=1.0,
                    source="T15 [N]",
                    figure=f"{model}-pairs",
                )
            )
    plans = [key for key in res.predicted if key[0] == "plan"]
    shares = "from 5 % to 20 % of the steps, to 50 % and to the end"
    for model, title in TITLES.items():
        for sampling in ("replacement", "permutation"):
            keys = [key for key in plans if key[1] == model and key[3] == sampling]
            tolerance = res.tolerance[keys[0]]
            checks.append(
                Check(
                    f"{title.capitalize()}, {'with' if sampling == 'replacement' else 'by'} {sampling}: E‖∇f‖² is the "
                    f"predicted within {tolerance:.0%} {shares}, for {len(keys)} plans",
                    "equal",
                    **ends(res, keys),
                    theory=1.0,
                    tolerance=tolerance,
                    headline=model == "softmax" and sampling == "replacement",
                    explanation="" if model == "softmax" else WHY,
                    source="T15 [N]",
                    figure="plans",
                )
            )
    for key in plans:
        if key[1] not in TITLES:
            checks.append(
                Check(
                    f"{key[2]}: E‖∇f‖² is the predicted within {res.tolerance[key]:.0%} {shares}",
                    "equal",
                    **ends(res, [key]),
                    theory=1.0,
                    tolerance=res.tolerance[key],
                    explanation=WHY,
                    source="T15 [N]",
                    figure="networks",
                )
            )
    return checks + successive_claims(res)


def successive_claims(res: SimpleNamespace) -> list[Check]:
    seen, p = res.successive, res.p
    pairs, rules = seen.pairs, seen.pflug
    drawn = pairs[pairs["sampling"] == "replacement"]
    permuted = pairs[pairs["sampling"] == "permutation"]

    def shift(frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """‖G‖² − s over the formula's."""
        theory = frame["G2"] - frame["theory"]
        value, error = (frame["G2"] - frame["product"]) / theory, 2 * frame["product_error"] / theory
        return {"measured": value, "interval": np.array([value - error, value + error]).T}

    def over(column: str, exact: pd.Series) -> dict[str, np.ndarray]:
        """The mean over all points, weighed by their errors."""
        value, error = drawn[column] / exact, drawn[f"{column}_error"] / exact
        weight = 1 / error**2 / np.sum(1 / error**2)
        mean, spread = float(weight @ value), 2 * float(np.sum(1 / error**2)) ** -0.5
        return {"measured": mean, "interval": (mean - spread, mean + spread)}

    near = drawn[drawn["batch_size"] <= drawn["critical"]]
    spread = 2 * (2 / p.draws) ** 0.5 * 1.5  # of a variance; products have heavier tails than the normal law
    growing, falling = (rules[rules["rule"] == rule] for rule in ("b grows", "η decays"))
    middle = seen.epoch.iloc[1:]
    late = res.online.steps >= 100  # ten times its memory
    per_seed = [res.online.curves(name)[:, late].mean(1) for name in ("loop_sqnorm", "grad_sqnorm")]
    online, error = per_seed[0].mean() / per_seed[1].mean(), 2 * np.std(per_seed[0] / per_seed[1], ddof=1)
    error /= len(per_seed[0]) ** 0.5
    return [
        Check(
            "Successive gradients with replacement: ‖G‖² − s is η(GᵀHG + Q/b) within 15 %, at all points and b",
            "equal",
            **shift(drawn),
            theory=1.0,
            tolerance=0.15,
            headline=True,
            source="T14 [N]",
            figure="successive",
        ),
        Check(
            "… by permutation, the first two batches of an epoch: with tr Σ/(n − 1) and (n − b)/(n − 1), within 15 %",
            "equal",
            **shift(permuted),
            theory=1.0,
            tolerance=0.15,
            source="T14 [N]",
            figure="successive",
        ),
        Check(
            "… by permutation, further on in an epoch: as its past is forgotten, 2 Σ σ²(1 − (1 − ηλ)^t)/(n − 1) comes "
            "back, within 15 %",
            "equal",
            measured=middle["value"] / middle["theory"],
            interval=np.sort(
                [(middle["value"] + sign * 2 * middle["error"]) / middle["theory"] for sign in (-1, 1)], axis=0
            ).T,
            theory=1.0,
            tolerance=0.15,
            source="[N]",
            figure="successive",
        ),
        *(
            Check(
                f"Half batches: {what} within 5 %, in the mean over points",
                "equal",
                **over(column, exact),
                theory=1.0,
                tolerance=0.05,
                source="T14 [N]",
                figure="successive",
            )
            for what, column, exact in (
                ("g_a·g_b is ‖∇f‖²", "halves", drawn["G2"]),
                ("‖g_a − g_b‖²/4 is tr Σ/b", "spread", drawn["trace"] / drawn["batch_size"]),
            )
        ),
        Check(
            "Along a run from step 100 on: the free ‖∇f‖² of half batches is the exact one within 10 %, in the mean",
            "equal",
            measured=online,
            interval=(online - error, online + error),
            theory=1.0,
            tolerance=0.1,
            source="T14 [N]",
            figure="successive",
        ),
        Check(
            "m = z² tr(Σ²)/(ηQ)² within 30 % at b up to b_c, whatever b is",
            "equal",
            measured=near["m"] / near["m_theory"],
            interval=np.array([near["m"] / near["m_theory"] * (1 + sign * spread) for sign in (-1, 1)]).T,
            theory=1.0,
            tolerance=0.3,
            source="T14 [N]",
            figure="successive",
            explanation="It does not go with b, and is larger by what is left out, 2GᵀΣG/b of the variance: most where "
            "‖G‖² is large.",
        ),
        *(
            Check(
                f"Pflug's rule, {rule}: the share of a stage that the test needs {how} from each point to the next",
                "ordering",
                measured=share,
                interval=np.outer(share, [1 - spread, 1 + spread]),
                source="T14 [N]",
                figure="successive",
            )
            for rule, how, share in (
                ("b growing at one η", "falls", (growing["m"] / growing["stage"])[::-1]),
                ("η decaying at one b", "grows", falling["m"] / falling["stage"]),
            )
        ),
    ]
