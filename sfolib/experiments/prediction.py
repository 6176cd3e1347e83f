"""14: predicted against measured, at configurations whose predictions were written before the runs (T14, T15)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt
from tqdm.auto import tqdm

from sfolib import plotting
from sfolib._utils.errors import InputError, require
from sfolib.analysis.claims import Check, sampled
from sfolib.analysis.crossings import crossings, minimizers, places_apart
from sfolib.analysis.predict import Prediction, follow
from sfolib.analysis.successive import successive
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.experiments.project import root
from sfolib.plotting.predicted import beside, ratios, successive_gradients
from sfolib.plotting.style import NAMES, Band
from sfolib.problems.specs import Digits
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import late_switch
from sfolib.training import estimates
from sfolib.training.estimates import Interval
from sfolib.training.optimizers import SGD
from sfolib.training.records import Run
from sfolib.training.spec import Spec

ALL_SIZES = [1, 2, 4, 8, 32, 128, 512]


_BY_SCALE = {  # smoke, quick, paper
    "seeds": (4, 16, 256),
    "network_seeds": (2, 3, 16),
    "lrs": ([0.4, 1.6], [0.05, 0.4, 1.6, 2.0], [0.05, 0.2, 0.4, 0.8, 1.6, 2.0]),
    "mlp_lrs": ([0.2], [0.05, 0.2, 0.8], [0.05, 0.2, 0.8]),
    "batch_sizes": ([2, 8, 128], ALL_SIZES, ALL_SIZES),
    "time": (40.0, 250.0, 250.0),
    "mlp_time": (8.0, 100.0, 100.0),
    "max_samples": (6000, 30_000, 30_000),
    "network_samples": (800, 6000, 6000),
    "draws": (256, 2048, 16_384),
}


class Parameters(notebook.Parameters):
    SCALES: ClassVar[dict[str, dict[str, Any]]] = notebook.scales(**_BY_SCALE)

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
# of E‖∇f‖², said before the runs; adam is of softmax regression, for `python -m benchmarks.predict adam`
TOLERANCE = {"softmax": 0.1, "mlp": 0.15, "cnn": 0.25, "resnet8": 0.5, "adam": 0.25}


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


def _for_all_sizes(spec: Spec) -> bool:
    """Whether one prediction, of b = 1, serves every batch size: a constant pair of SGD with replacement."""
    return spec.plan.is_constant and spec.sampling == "replacement" and isinstance(spec.optimizer, SGD)


def described(spec: Spec) -> str:
    """Names what a prediction is of: the spec but for its ends, its measuring points, and all seeds but the first;
    where it is for all batch sizes also but for that."""
    plan = spec.plan
    if _for_all_sizes(spec):
        plan = Plan(1, plan.at(0)[1])
    same = {"max_samples": 1, "max_steps": None, "target_grad_norm": None, "eval_every": "epoch"}
    return spec.model_copy(update=same | {"seeds": spec.seeds[:1], "plan": plan}).key


def forecast(spec: Spec, device: str = "auto") -> Prediction:
    """The prediction of a run's whole budget on the noise-free path, as all in `FROZEN` is; where it is for all batch
    sizes, that of b = 1 for as many steps."""
    update: dict[str, Any] = {"target_grad_norm": None}
    if _for_all_sizes(spec):
        b, lr = spec.plan.at(0)
        steps = spec.max_steps or -(-spec.max_samples // b)
        update |= {"plan": Plan(1, lr), "max_steps": steps, "max_samples": 10**9}
    vectors = next((count for model, count in VECTORS.items() if spec.problem == PROBLEMS[model]), 1)  # else unused
    return follow(spec.model_copy(update=update), device, pairs=0, vectors=vectors)


def written() -> pd.DataFrame:
    """What was written before the runs: key, case, tolerance, and the arrays of `Prediction`, a row a point."""
    path = root() / FROZEN
    return pd.read_csv(path) if path.exists() else pd.DataFrame({"key": []})


def write(p: Parameters) -> None:
    """`write_down` the runs that the notebook asks for."""
    asked = {}
    for (_, model, label, *_), spec in ((k, s) for k, s in specs(p, schedules(p), {}).items() if k != "online"):
        case = f"{model}, {label if isinstance(label, str) else f'lr {label:g}'}, {spec.sampling}"
        asked.setdefault(described(spec), (case, spec))
    write_down([*asked.values()], p.device)


def write_down(asked: Sequence[tuple[str, Spec]], device: str = "auto") -> None:
    """Predict what is not written yet of these cases (key of `TOLERANCE`, comma, what else), and write it down; nothing
    is replaced. Where there is no prediction, as the path without noise diverges, E‖∇f‖² is inf."""
    frame = written()
    for case, spec in tqdm([item for item in asked if described(item[1]) not in {*frame["key"]}]):
        try:
            found = forecast(spec, device)
        except InputError as error:
            print(error)
            found = NONE
        key, (model, *_) = described(spec), case.split(",")
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
            arrays = {name: own[name].to_numpy() for name in Prediction.__dataclass_fields__ if name in own}
            arrays["probes"], kind = int(own["probes"].iloc[0]), spec.optimizer.kind
            found[key] = Prediction(**arrays, optimizer=kind), float(own["tolerance"].iloc[0])
        else:
            print(f"predicted now, as it is not in {FROZEN}: {model}, {spec.plan}")
            found[key] = forecast(spec, p.device), TOLERANCE[model]
    require(bool(found), "specs", len(asked), "must hold at least one")
    return found


# ------------------------------------------------------------------------------------------- results and figures
POINTS, PATH_LR = [20, 60, 200, 600], 0.4  # of softmax regression's path without noise: steps, and its η
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
        predicted[key] = found.with_batch_size(spec.plan.at(0)[0]) if _for_all_sizes(spec) else found
    rows, least = [], []
    for model, rates, eps2 in (("softmax", p.lrs, p.eps2), ("mlp", p.mlp_lrs, p.mlp_eps2)):
        for lr in rates:
            own = {key: run for key, run in runs.items() if key[:3] == ("pair", model, lr)}
            measured = crossings(own.values(), eps2, model=model, lr=lr, source="measured")
            budget = {key[3]: run.spec.max_steps for key, run in own.items()}
            foreseen = pd.DataFrame(
                {"batch_size": key[3], "eps2": e, **predicted[key].first_crossing(e**0.5)._asdict()}
                for key in own
                for e in eps2
            )
            foreseen.loc[foreseen["steps"] > foreseen["batch_size"].map(budget), ["steps", "samples"]] = np.inf
            rows.append(measured.merge(foreseen, on=["batch_size", "eps2"], suffixes=("", "_predicted")))
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
        successive=successive(PROBLEMS["softmax"], POINTS[: 3 if p.scale == "smoke" else None], PATH_LR, p.draws),
        online=runs["online"],
        probes=sum(found.probes for found, _ in known.values()),
    )


def at(found: Prediction, steps: np.ndarray, column: str = "grad_sqnorm") -> np.ndarray:
    """A column of a prediction at these steps (above 0), a power law between its points."""
    x, y = found.steps[1:], getattr(found, column)[1:]
    return np.exp(np.interp(np.log(steps), np.log(x), np.log(y)))


def ratio(run: Run, found: Prediction) -> tuple[np.ndarray, Interval]:
    """Gradient evaluations, and measured E‖∇f‖² over the predicted with its interval there, from the first step on."""
    expected = at(found, run.steps[1:])
    with np.errstate(invalid="ignore"):  # inf over inf
        return run.samples[1:], Interval(*(end[1:] / expected for end in run.mean_ci()))


def in_windows(run: Run, found: Prediction) -> list[Interval]:
    """Measured over predicted E‖∇f‖² in each of `WINDOWS`, in the mean over its measuring points, with its interval."""
    values, steps = [], run.steps
    for first, last in WINDOWS:
        chosen = (steps > first * steps[-1]) & (steps <= last * steps[-1])
        values.append(estimates.mean((run.curves()[:, chosen] / at(found, steps[chosen])).mean(1)))
    return values


def ends(res: SimpleNamespace, keys: Sequence[Hashable]) -> dict[str, np.ndarray]:
    """`measured` and `interval` of a claim: `in_windows` of each run."""
    return sampled(*(window for key in keys for window in res.windows[key]))


TITLES = {"softmax": "softmax", "mlp": "one hidden layer"}


def curves(res: SimpleNamespace, key: Hashable, column: str = "grad_sqnorm") -> list[Band]:
    """A run and its prediction."""
    _, _, _, sampling = key
    run, found = res.runs[key], res.predicted[key]
    source, value = {"replacement": "measured"}.get(sampling, sampling), [end[1:] for end in run.mean_ci(column)]
    steps = run.steps[1:][run.steps[1:] <= found.steps[-1]]
    predicted = Band("predicted", "predicted", run.samples[1:][: len(steps)], at(found, steps, column))
    return [Band(NAMES[source], source, run.samples[1:], *value), predicted]


def cost(res: SimpleNamespace, keys: Sequence[Hashable]) -> str:
    """What predicting these runs took, as a sentence; one prediction may serve several."""
    spent = sum({described(res.runs[key].spec): res.predicted[key].probes for key in keys}.values())
    return f"Predicting took {spent:.2g} gradient evaluations."


def figures(res: SimpleNamespace) -> notebook.Figures:
    p, both = res.p, res.crossings
    found = {}
    for model, title in TITLES.items():
        own = both[both["model"] == model]
        panels = {}
        for lr, frame in own.groupby("lr"):
            if not np.isfinite(frame["samples"]).any() or len(panels) == 3:  # there is room for three
                continue
            predicted = frame[["batch_size", "eps2"]].assign(
                samples=frame["samples_predicted"], steps=frame["steps_predicted"], source="predicted"
            )
            panels[rf"{title}, $\eta$ = {lr:g}"] = pd.concat([frame, predicted])
        if not panels:  # nothing was reached
            continue
        found[f"{model}-pairs"] = (
            plotting.against_batch_size(panels, "samples"),
            f"Gradient evaluations to ε against the batch size, {title} on digits: predicted (dashes and dots) and "
            f"measured, {p.seeds} seeds. Predictions were written before the runs. "
            + cost(res, [key for key in res.predicted if key[:2] == ("pair", model)]),
        )
    keys = [key for key in res.predicted if key[0] == "plan"]
    dense = list(dict.fromkeys(key[2] for key in keys if key[1] in TITLES))
    found["plans"] = (
        beside(
            {
                rf"{title}: $\mathrm{{E}}\,\|\nabla f\|^2$": {
                    label: [b for key in keys if key[1:3] == (model, label) for b in curves(res, key)]
                    for label in dense
                }
                for model, title in TITLES.items()
            }
        ),
        "E‖∇f‖² along runs of five plans, predicted (black) and measured (band: 95 % interval over seeds). "
        "Nothing is fitted. " + cost(res, [key for key in keys if key[1] in TITLES]),
    )
    networks = [key for key in keys if key[1] not in TITLES]
    found["networks"] = (
        beside(
            {
                name: {key[2]: curves(res, key, column) for key in networks}
                for column, name in (("grad_sqnorm", r"$\mathrm{E}\,\|\nabla f\|^2$"), ("loss", r"$\mathrm{E}\,f$"))
            }
        ),
        "A convolutional network with GroupNorm and a ResNet-8 with BatchNorm on 797 digits, by permutation: predicted "
        "(black) and measured. " + cost(res, networks),
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
        "a constant pair, against the batch size. Right: along the networks' runs. The predictions are those of the "
        "other figures.",
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
        f"than the stage has. Last: by permutation of b = {seen.batch_size}. The exact constants of a point cost n "
        "gradient evaluations for each row of H.",
    )
    return found


def claims(res: SimpleNamespace) -> notebook.Claims:
    p, both = res.p, res.crossings
    both = both[np.isfinite(both["samples"]) & np.isfinite(both["samples_predicted"])]

    def counts(claim: str, rows: pd.DataFrame, tolerance: float, figure: str, **more: Any) -> Check | None:
        """A claim on N(b), of the pairs whose interval is short enough to decide it."""
        sharp = rows[(rows["high"] - rows["low"]) <= 2 * tolerance * rows["samples"]]
        if not len(sharp):
            return None
        of_sharp = Interval(*(sharp[end] / sharp["samples_predicted"] for end in ("samples", "low", "high")))
        return Check(
            claim,
            "equal",
            **sampled(of_sharp),
            theory=1.0,
            tolerance=tolerance,
            source="T15 [N]",
            figure=figure,
            **more,
        )

    def nearest(model: str, title: str) -> Check | None:
        own = res.least[(res.least["model"] == model) & (res.least["lr"] <= 0.8)]
        claim = f"{title.capitalize()}, η <= 0.8: the measured b* is at most one place of the grid from the predicted"
        off = places_apart(own, own["batch_size_predicted"], p.batch_sizes) if len(own) else {"measured": []}
        more = {"theory": 1.0, "source": "T15 [N]", "figure": f"{model}-pairs"}
        return Check(claim, "upper_bound", **off, **more) if len(own) else None

    softmax, mlp = (both[both["model"] == model] for model in TITLES)
    stable = softmax[softmax["lr"] <= 0.8]
    large = stable["batch_size"] >= 8
    checks = [
        counts(
            "Softmax, η <= 0.8, b >= 8: the measured N(b) is the predicted one within 5 %, wherever the interval is "
            "short enough to tell", stable[large], 0.05, "softmax-pairs", headline=True,
        ),
        counts("Softmax, η <= 0.8, b < 8: within 15 %", stable[~large], 0.15, "softmax-pairs"),
        counts("Softmax, η = 1.6: within 15 %", softmax[softmax["lr"] == 1.6], 0.15, "softmax-pairs"),
        counts("One hidden layer, η <= 0.2: N(b) within 15 %", mlp[mlp["lr"] <= 0.2], 0.15, "mlp-pairs"),
        *(nearest(*of_model) for of_model in TITLES.items()),
    ]  # fmt: skip
    plans = [key for key in res.predicted if key[0] == "plan"]
    shares = "from 5 % to 20 % of the steps, to 50 % and to the end"
    groups = {}  # what is claimed of → runs
    for key in plans:
        title = TITLES.get(key[1])
        how = {"replacement": "with replacement", "permutation": "by permutation"}[key[3]]
        whose = "" if key[2] in PLANS else ", plans of your own"  # predicted when they are asked for
        groups.setdefault(f"{title.capitalize()}, {how}{whose}" if title else key[2], []).append(key)
    for name, keys in groups.items():
        model, tolerance = keys[0][1], res.tolerance[keys[0]]
        checks.append(
            Check(
                f"{name}: E‖∇f‖² is the predicted within {tolerance:.0%} {shares}"
                + (f", for {len(keys)} plans" if model in TITLES else ""),
                "equal",
                **ends(res, keys),
                theory=1.0,
                tolerance=tolerance,
                explanation="" if model == "softmax" else why(res, keys),
                source="T15 [N]",
                figure="plans" if model in TITLES else "networks",
            )
        )
    return [found for found in checks if found] + successive_claims(res)


def why(res: SimpleNamespace, keys: Sequence[Hashable]) -> str:
    """Why networks' runs are not what was predicted of them, with the numbers of the one that is farthest off."""

    def farthest(key: Hashable) -> float:
        return max((window.value for window in res.windows[key]), key=distance)

    def distance(ratio: float) -> float:
        return abs(np.log(max(ratio, 1e-300)))

    _, model, label, _ = key = max(keys, key=lambda of: distance(farthest(of)))
    found, ratio = res.predicted[key], farthest(key)
    if abs(ratio - 1) <= res.tolerance[key]:
        return f"All are within it; {res.p.seeds if model in TITLES else res.p.network_seeds} seeds do not tell."
    peak = f"{found.noise.max():.2g} after {found.steps[found.noise.argmax()]} steps"
    if model in TITLES:
        return (
            f"Farthest off is '{label}', at {ratio:.2g}. It is predicted on the noise-free path of one start; with H "
            "and Σ where runs are, less noise is predicted (docs/prediction.md)."
        )
    if model == "resnet8":
        return (
            "The path is trained with BatchNorm's batch statistics, and H is of the function that is measured, with "
            f"running ones. Along it the linear noise grows to {peak}, and the run knows nothing of it."
        )
    if label.endswith("beyond 2/λ"):
        return (
            f"η is beyond 2/λ_max of the start, where the linear noise grows to {peak}, until the noise-free path has "
            f"found a flatter place. Runs know nothing of it; in the last half they are at "
            f"{res.windows[key][-1].value:.2g} of the predicted."
        )
    return (
        f"The prediction is nearly all noise, at its most {peak} of the noise-free path. The runs are at {ratio:.2g} "
        "of it at the least: as if noise moved them off that path to flatter places, which was not measured."
    )


def successive_claims(res: SimpleNamespace) -> list[Check]:
    seen, p = res.successive, res.p
    pairs, rules, middle = seen.pairs, seen.pflug, seen.epoch.iloc[1:]
    drawn, permuted = (pairs[pairs["sampling"] == sampling] for sampling in ("replacement", "permutation"))

    def about(value: Any, error: Any, theory: Any) -> Interval:
        """A drawn value over the formula's, with two standard errors."""
        value, error = np.asarray(value) / theory, 2 * np.abs(np.asarray(error) / theory)
        return Interval(value, value - error, value + error)

    def shift(frame: pd.DataFrame) -> Interval:
        """‖G‖² − s."""
        return about(frame["G2"] - frame["product"], frame["product_error"], frame["G2"] - frame["theory"])

    def over(column: str, exact: pd.Series) -> Interval:
        """The mean over all points, weighed by their errors, which add: points share their draws."""
        value, error = drawn[column] / exact, drawn[f"{column}_error"] / exact
        weight = 1 / error**2
        return about(weight @ value / weight.sum(), weight @ error / weight.sum(), 1.0)

    def of_variance(value: pd.Series) -> Interval:
        spread = 2 * (2 / p.draws) ** 0.5 * 1.5  # products have heavier tails than the normal law
        return Interval(value, value * (1 - spread), value * (1 + spread))

    near = drawn[drawn["batch_size"] <= drawn["critical"]]
    growing, falling = (rules[rules["rule"] == rule] for rule in ("b grows", "η decays"))
    late = res.online.steps >= 100  # ten times its memory
    halves, exact = (res.online.curves(name)[:, late].mean(1) for name in ("loop_sqnorm", "grad_sqnorm"))
    online = estimates.of_means(lambda a, b: a / b, halves, exact)
    # fmt: off
    equal = [
        ("Successive gradients with replacement: ‖G‖² − s is η(GᵀHG + Q/b) within 15 %, at all points and b",
         shift(drawn), 0.15, {"headline": True}),
        ("… by permutation, the first two batches of an epoch: with tr Σ/(n − 1) and (n − b)/(n − 1), within 15 %",
         shift(permuted), 0.15, {}),
        ("… by permutation, further on in an epoch: as its past is forgotten, 2 Σ σ²(1 − (1 − ηλ)^t)/(n − 1) comes "
         "back, within 15 %", about(middle["value"], middle["error"], middle["theory"]), 0.15, {"source": "[N]"}),
        ("Half batches: g_a·g_b is ‖∇f‖² within 5 %, in the mean over points", over("halves", drawn["G2"]), 0.05, {}),
        ("Half batches: ‖g_a − g_b‖²/4 is tr Σ/b within 5 %, in the mean over points",
         over("spread", drawn["trace"] / drawn["batch_size"]), 0.05, {}),
        ("Along a run from step 100 on: the free ‖∇f‖² of half batches is the exact one within 10 %, in the mean",
         online, 0.1, {}),
        ("m = z² tr(Σ²)/(ηQ)² within 30 % at b up to b_c, whatever b is", of_variance(near["m"] / near["m_theory"]),
         0.3, {"explanation": "It does not go with b, and is larger by what is left out, 2GᵀΣG/b of the variance: most "
                              "where ‖G‖² is large."}),
    ]
    rising = [
        ("b growing at one η", "falls", (growing["m"] / growing["stage"])[::-1]),
        ("η decaying at one b", "grows", falling["m"] / falling["stage"]),
    ]
    # fmt: on
    of_all = {"figure": "successive", "source": "T14 [N]"}
    return [
        Check(claim, "equal", **sampled(values), theory=1.0, tolerance=tolerance, **of_all | more)
        for claim, values, tolerance, more in equal
    ] + [
        Check(
            f"Pflug's rule, {rule}: the share of a stage that the test needs {how} from each point to the next",
            "ordering", **sampled(of_variance(share)), **of_all,
        )
        for rule, how, share in rising
    ]  # fmt: skip
