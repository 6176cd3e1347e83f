"""T15's N(b) against runs: written down first (`predict`), then measured (`measure`), never the other way round.

    python -m benchmarks.predict predict [CASE …]    # predictions.csv; refuses what is written there
    python -m benchmarks.predict measure [CASE …]    # trains, and writes predicted_and_measured.csv beside it
    python -m benchmarks.predict noise_free [CASE …] # … and beside mean paths what the noise-free path would have said
    python -m benchmarks.predict images CASE …       # … and how skewed the iterates are
    python -m benchmarks.predict pilots              # pilots.csv: the network again, with H and Σ where pilots are
    python -m benchmarks.predict notebook            # frozen.csv: what notebook 14 is held against, at all scales
    python -m benchmarks.predict loss                # loss.csv: E f at the end of runs, predicted and measured
    python -m benchmarks.predict adam predict             # … and what Adam is held against; then
    python -m benchmarks.predict adam measure [CASE …]    # trains, and writes adam.csv

A crossing is `Run.first_crossing`: of the mean of ‖∇f‖² over the seeds, with its 95 % interval.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sfolib._utils.errors import InputError, require
from sfolib.analysis.crossings import crossings
from sfolib.analysis.mean_path import MeanPath, smoothed
from sfolib.analysis.noise_free_path import NoiseFreePath, PlanClock, windows
from sfolib.analysis.predict import PAIRS, Prediction, predict_constant
from sfolib.analysis.predict import predict as predict_run
from sfolib.experiments import prediction
from sfolib.problems.specs import Digits
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.training import estimates, updates
from sfolib.training.optimizers import SGD, Adam
from sfolib.training.records import Run
from sfolib.training.run import run
from sfolib.training.spec import Spec

HERE = Path(__file__).parent
PREDICTED, MEASURED, PILOTS = HERE / "predictions.csv", HERE / "predicted_and_measured.csv", HERE / "pilots.csv"
PAIR, OF_PREDICTIONS = ["case", "batch_size", "eps2"], ["samples_noise_free", "images"]
ADAM, LOSS = HERE / "adam.csv", HERE / "loss.csv"
SEEDS, MOST_STEPS = 32, 12_000
TOGETHER, MEASURED_TOGETHER = 32, 4  # seeds of a network: more leave the cache
LOSS_SEEDS, LOSS_CASES = (
    96,
    ((0.1, 4, 8000), (0.1, 16, 16_000), (0.3, 12, 8000), (0.3, 50, 16_000)),
)  # lr, b, evaluations
BATCH_SIZES = [2**k for k in range(11)]
MEAN_PATH_SEEDS = 48, 64  # of runs of the first and the second round; these sizes too
MEAN_PATH_SIZES = [4, 8, 16, 32, 128], [8, 16, 64]  # each is a path; of the first and the second round

SOFTMAX, MLP = Digits(), Digits(model="mlp")
_NOISE_FREE = {  # problem, lr, targets ε², what else; predicted before there were mean paths
    "softmax, lr 0.1": (SOFTMAX, 0.1, [1e-2, 3e-3, 1e-3, 3e-4], {}),
    "softmax, lr 0.8": (SOFTMAX, 0.8, [1e-2, 3e-3, 1e-3, 3e-4], {}),
    "softmax, lr 0.1, by permutation": (SOFTMAX, 0.1, [1e-2, 3e-3, 1e-3, 3e-4], {"sampling": "permutation"}),
    "softmax, lr 0.02, momentum 0.9": (SOFTMAX, 0.02, [1e-2, 3e-3, 1e-3], {"optimizer": SGD(momentum=0.9)}),
    "mlp, lr 0.1": (MLP, 0.1, [4e-2, 2e-2, 1e-2, 3e-3], {}),
    # read as runs are, at the same points: what the first by permutation was not
    "softmax, lr 0.2, by permutation": (SOFTMAX, 0.2, [1e-2, 3e-3, 1e-3, 3e-4], {"sampling": "permutation"}),
    "softmax, lr 0.05, by permutation": (SOFTMAX, 0.05, [1e-2, 3e-3, 1e-3], {"sampling": "permutation"}),
}
CASES = _NOISE_FREE | {  # the first three from one start, with 16 pairs; what they taught is in the last two
    "mlp, lr 0.05, mean path": (MLP, 0.05, [4e-2, 2e-2], {"max_steps": 8000}),
    "mlp, lr 0.2, mean path": (MLP, 0.2, [4e-2, 2e-2], {"max_steps": 4000}),
    "32 hidden units, lr 0.1, mean path": (Digits(hidden=(32,)), 0.1, [4e-2, 2e-2], {"max_steps": 6000}),
    "64 hidden units, lr 0.1, mean paths": (Digits(hidden=(64,)), 0.1, [4e-2, 2e-2], {"max_steps": 4000}),
    "mlp, lr 0.15, mean paths": (MLP, 0.15, [4e-2, 2e-2], {"max_steps": 3000}),
}
_ADAM = {"problem": SOFTMAX, "optimizer": Adam(), "max_steps": 1500}
ADAM_EPS2 = (1e-2, 3e-3)
ADAM_CASES = (
    {f"lr 0.001, b = {b}": _ADAM | {"plan": Plan(b, 0.001), "max_steps": 3000} for b in (4, 16, 64, 256)}
    | {f"lr 0.004, b = {b}": _ADAM | {"plan": Plan(b, 0.004)} for b in (4, 16, 64, 256)}
    | {  # farther out: where might it fail?
        "lr 0.004, b = 1": _ADAM | {"plan": Plan(1, 0.004)},
        "lr 0.03, b = 4": _ADAM | {"plan": Plan(4, 0.03)},
        "lr 0.03, b = 64": _ADAM | {"plan": Plan(64, 0.03)},
        "lr 0.004, b = 16, β2 = 0.99": _ADAM
        | {"plan": Plan(16, 0.004), "optimizer": Adam(beta2=0.99), "max_steps": 750},
        "lr 0.004, b = 8 × 2 each 6,000 samples": _ADAM
        | {"plan": Plan(exponential(8, 2.0, 6000), 0.004, clock="sample"), "max_samples": 30_000},
        "lr 0.004, b = 16, β2 = 0.9": _ADAM | {"plan": Plan(16, 0.004), "optimizer": Adam(beta2=0.9), "max_steps": 140},
        # predicted before `predict` refused these; the two of β2 end where a fault, since mended, began
        "lr 0.004, b = 64, by permutation": _ADAM | {"plan": Plan(64, 0.004), "sampling": "permutation"},
        "16 hidden units, lr 0.004, b = 16": _ADAM | {"problem": Digits(hidden=(16,)), "plan": Plan(16, 0.004)},
    }
)


def spec_of(case: str, batch_size: int = 1) -> Spec:
    problem, lr, _, more = CASES[case]
    settings = {"sampling": "replacement", "eval_every": 1.02, "max_steps": MOST_STEPS, "max_samples": 10**8} | more
    return Spec(problem=problem, plan=Plan(batch_size, lr), seeds=tuple(range(SEEDS)), **settings)


def predict(cases: list[str]) -> None:
    written = pd.read_csv(PREDICTED) if PREDICTED.exists() else pd.DataFrame({"case": []})
    known = [case for case in CASES if case in {*written["case"]}]
    cases = cases or [case for case in CASES if case not in known]
    again = [case for case in cases if case in known]
    require(not again, "case", again, f"is written down in {PREDICTED}; a prediction is made once")
    for case in cases:
        sizes, pairs = MEAN_PATH_SIZES[case.endswith("paths")], None
        if case in _NOISE_FREE:
            sizes, pairs = BATCH_SIZES, 0
        frame = predict_constant(spec_of(case), sizes, CASES[case][2], pairs=pairs)
        print(frame.to_string(), flush=True)
        frame = frame.drop(columns="bias").assign(case=case, probes=frame.attrs["probes"])
        written = pd.concat([written, frame])
        written.to_csv(PREDICTED, index=False, float_format="%.6g")


def measure(cases: list[str]) -> None:
    """Runs of every batch size: half as long again as it was predicted to need, and as long as was looked ahead where
    it was predicted not to get to some target."""
    require(PREDICTED.exists(), "predictions", str(PREDICTED), "are not there: predict before you measure")
    predicted = pd.read_csv(PREDICTED)
    for case in cases or CASES:
        found = []
        for b, rows in predicted[predicted["case"] == case].groupby("batch_size"):
            trained = _trained(case, spec_of(case, int(b)), rows)
            measured = crossings([trained], rows["eps2"])
            both = rows.merge(measured, on=["batch_size", "eps2"], suffixes=("_predicted", ""))
            both["ratio"] = both["samples_predicted"] / both["samples"]
            both["seeds"] = len(trained.curves())
            if case not in _NOISE_FREE:
                both = both.join(_at_ends(trained, both))
            print(both[["case", "batch_size", "eps2", "samples", "low", "high", "ratio"]].to_string(), flush=True)
            found.append(both)
        before = pd.read_csv(MEASURED) if MEASURED.exists() else pd.DataFrame({"case": []})
        kept = [name for name in OF_PREDICTIONS if name in before]  # hangs on no run
        rows = pd.concat(found).merge(before[[*PAIR, *kept]], how="left", on=PAIR) if kept else pd.concat(found)
        every = pd.concat([before[before["case"] != case], rows])
        every = every.sort_values("case", key=lambda names: names.map([*CASES].index), kind="stable")
        every.to_csv(MEASURED, index=False, float_format="%.6g")


def _trained(case: str, spec: Spec, rows: pd.DataFrame) -> Run:
    """The run that a case's predictions of one batch size are held against."""
    predicted = rows["steps"][np.isfinite(rows["steps"])]
    if case in _NOISE_FREE:
        most = spec.max_steps if len(predicted) < len(rows) else int(1.5 * predicted.max()) + 10
        return run(
            spec.model_copy(update={"max_steps": most, "target_grad_norm": rows["eps2"].min() ** 0.5}), device="cpu"
        )
    most = spec.max_steps if len(predicted) < len(rows) else 0
    seeds, parts = MEAN_PATH_SEEDS[case.endswith("paths")], []
    for first in range(0, seeds, TOGETHER):
        part = spec.model_copy(update={"seeds": tuple(range(first, min(first + TOGETHER, seeds)))})
        parts.append(_near(part, 0.5 * predicted.min(), max(most, 2 * predicted.max())))
    return Run(None, {"status": "finished"}, pd.concat(parts, ignore_index=True))


def _at_ends(trained: Run, rows: pd.DataFrame) -> pd.DataFrame:
    """Whether N is within 15 % of the predicted, with more power than N's own interval has: E‖∇f‖²/ε² at N/1.15
    ("early"), which must be above 1, and at N/0.85 ("late"), below; with 95 % intervals. Each curve is `smoothed`.
    starts: deviation between seeds of ‖∇f‖² within a ratio of 1.25 of N, less what it fluctuates, over its mean."""
    steps = np.append(1, trained.steps)
    curves = np.array([smoothed(steps, np.append(np.nan, curve))[1:] for curve in trained.curves()])
    found = pd.DataFrame(index=rows.index)
    for name, error in (("early", 1.15), ("late", 0.85)):
        at = np.log(rows["samples_predicted"].replace(np.inf, np.nan) / error)
        values = np.array([np.interp(at, np.log(trained.samples), curve) for curve in curves]) / rows["eps2"].to_numpy()
        found[[name, f"{name}_low", f"{name}_high"]] = np.transpose(estimates.mean(values))
    for i, samples in rows["samples_predicted"][np.isfinite(rows["samples_predicted"])].items():
        near = trained.curves()[:, np.abs(np.log(trained.samples / samples)) <= np.log(1.25)]
        between = near.mean(1).var(ddof=1) - np.mean(near.var(1, ddof=1)) / near.shape[1]
        found.loc[i, "starts"] = max(between, 0) ** 0.5 / near.mean()
    return found


def _near(spec: Spec, first: float, last: float) -> pd.DataFrame:
    """Rows of `run(spec)`, from step `first` to step `last` by 1 %: it is there that N is decided, and measuring is
    what costs. ‖∇f‖² alone, of a few seeds at a time."""
    how = spec.sampling, "cpu", spec.dtype
    task = spec.problem.build_task(spec.seeds, *how)
    whole = spec.problem.build_task(spec.seeds[:MEASURED_TOGETHER], "permutation", *how[1:])
    update, (b, lr), rows = updates.build(spec.optimizer, task.parameters), spec.plan.at(0), []
    points = np.unique(np.geomspace(first, last, round(np.log(last / first) / 0.01)).astype(int))
    for step in range(points[-1]):
        update(task.gradients(step, step * b, b), lr)
        if step + 1 not in points:
            continue
        for some in range(0, len(spec.seeds), MEASURED_TOGETHER):
            whole.parameters = [of[some : some + MEASURED_TOGETHER] for of in task.parameters]
            sqnorm = sum(of.square().sum((1, 2)) for of in whole.gradients(0, 0, whole.samples_per_epoch)).tolist()
            seeds = spec.seeds[some : some + MEASURED_TOGETHER]
            rows += [(seed, step + 1, (step + 1) * b, b, value) for seed, value in zip(seeds, sqnorm, strict=True)]
    return pd.DataFrame(rows, columns=["seed", "step", "samples", "batch_size", "grad_sqnorm"])


def noise_free(cases: list[str]) -> None:
    """The column samples_noise_free of the cases on mean paths: it was not written down before, but nothing in how it
    is made has changed since the cases on the noise-free path were."""
    measured = pd.read_csv(MEASURED)
    on_mean_paths = measured[~measured["case"].isin([*_NOISE_FREE])]
    for case, rows in on_mean_paths[on_mean_paths["case"].isin(cases or [*CASES])].groupby("case", sort=False):
        found = predict_constant(spec_of(case), rows["batch_size"].unique(), CASES[case][2], pairs=0)
        samples = found.set_index(["batch_size", "eps2"])["samples"]
        at = pd.MultiIndex.from_frame(rows[["batch_size", "eps2"]])
        measured.loc[rows.index, "samples_noise_free"] = samples.reindex(at).to_numpy()
        print(measured.loc[rows.index].to_string(), flush=True)
        measured.to_csv(MEASURED, index=False, float_format="%.6g")


def images(cases: list[str]) -> None:
    """The column images of cases on mean paths: ‖∇f‖² of the cloud's mirror images over that of its runs, in the mean
    within a ratio of 1.25 of the predicted steps. Below 1 the iterates are skewed, which the mean path leaves out."""
    measured, found = pd.read_csv(MEASURED), []
    for (case, b), rows in measured[measured["case"].isin(cases)].groupby(["case", "batch_size"]):
        spec, ends = spec_of(case, int(b)), rows.set_index("eps2")["steps_predicted"]
        ends = ends[np.isfinite(ends)]
        path, lr = MeanPath(spec, "cpu", PAIRS), spec.plan.at(0)[1]
        points = {eps2: np.unique(np.geomspace(end / 1.25, 1.25 * end, 20).astype(int)) for eps2, end in ends.items()}
        wanted, squares = {*np.concatenate([*points.values()])}, {}
        for step in range(1, max(wanted) + 1):
            path._move(int(b), lr, (step - 1) * int(b))
            path.step += 1
            if step in wanted:
                squares[step] = path.around.measure()["grad_sqnorm"].view(2, -1).mean(1).numpy()
        for eps2, steps in points.items():
            runs, mirrored = np.mean([squares[step] for step in steps], axis=0)
            found.append((case, int(b), eps2, mirrored / runs))
            print(found[-1], flush=True)
    found = pd.DataFrame(found, columns=[*PAIR, "images"]).set_index(PAIR)
    measured = pd.read_csv(MEASURED).set_index(PAIR)
    measured.loc[found.index, "images"] = found["images"]
    measured.reset_index().to_csv(MEASURED, index=False, float_format="%.6g")


def pilots(_: list[str]) -> None:
    """Why N(b) of the network is off at small b. Four starts, and at each H and Σ along the noise-free path as ever, or
    along a run of the batch size asked for; the bias is the path's in both. Means over the starts."""
    case, most, seeds = "mlp, lr 0.1", 2600, range(4)
    measured = pd.read_csv(MEASURED)
    measured = measured[(measured["case"] == case) & (measured["steps"] <= 0.8 * most)]
    measured = measured[measured["batch_size"].isin([8, 16])]

    def mean(batch_size: int, **how: int) -> Prediction:
        asked = [spec_of(case, batch_size).model_copy(update={"max_steps": most, "seeds": (seed,)}) for seed in seeds]
        found = [predict_run(spec, "cpu", pairs=0, vectors=16, **how) for spec in asked]
        bias, noise = (np.mean([getattr(of, name) for of in found], axis=0) for name in ("bias", "noise"))
        return replace(found[0], bias=bias, noise=noise, grad_sqnorm=bias + noise)

    def crossings_of(prediction: Prediction, eps2: pd.Series) -> list[float]:
        return [prediction.first_crossing(target**0.5).samples for target in eps2]

    path, found = mean(1), []
    for b, rows in measured.groupby("batch_size"):
        own = path.with_batch_size(b)
        noise = mean(b, pilot_batch_size=b).noise
        on_pilots = replace(own, noise=noise, grad_sqnorm=own.bias + noise)
        kept = rows[["batch_size", "eps2", "samples", "low", "high", "samples_predicted"]]
        starts, piloted = (crossings_of(prediction, rows["eps2"]) for prediction in (own, on_pilots))
        found.append(kept.assign(samples_starts=starts, samples_pilots=piloted))
        pd.concat(found).to_csv(PILOTS, index=False, float_format="%.6g")
        print(found[-1].to_string(), flush=True)


def loss(_: list[str]) -> None:
    """E f of softmax regression at the end of runs, and what the noise adds to that of the noise-free path: in all, and
    were the mean of the iterates there (½ tr HC)."""
    rows = []
    for sampling, (lr, b, most) in product(("replacement", "permutation"), LOSS_CASES):
        spec = Spec(
            problem=SOFTMAX, plan=Plan(b, lr), sampling=sampling, seeds=tuple(range(LOSS_SEEDS)), max_samples=most,
            eval_every=1.05,
        )  # fmt: skip
        measured = estimates.mean(run(spec, device="cpu").curves("loss")[:, -1])
        path = NoiseFreePath(spec, "cpu", None)
        clocks = [PlanClock(spec.plan, path.epoch, path.permuted, most, None) for _ in range(2)]
        asked = zip(clocks, [path.covariance(with_mean=True), path.covariance()], strict=True)
        *_, (moved, unmoved) = windows(path, [*asked])
        quiet, added = moved[-1][3], [of[-1][5] for of in (moved, unmoved)]
        rows.append((sampling, lr, b, most, *measured, *(quiet + of for of in added), quiet))
        print(rows[-1], flush=True)
    columns = ["sampling", "lr", "batch_size", "samples", "loss", "low", "high", "predicted", "unmoved", "noise_free"]
    pd.DataFrame(rows, columns=columns).to_csv(LOSS, index=False, float_format="%.6g")


def notebook(scales: list[str]) -> None:
    for scale in scales or ("quick", "paper"):
        prediction.write(prediction.Parameters(scale=scale, device="cpu"))


def adam(stage: list[str]) -> None:
    """E‖∇f‖² with Adam along the run in `prediction.WINDOWS`, and N(b) where b is constant: measured over predicted."""
    common = {"sampling": "replacement", "dtype": "float64", "max_samples": 10**8, "eval_every": 1.02}
    asked = {case: Spec(**common | settings, seeds=tuple(range(SEEDS))) for case, settings in ADAM_CASES.items()}
    if stage == ["predict"]:
        prediction.write_down([(f"adam, {case}", spec) for case, spec in asked.items()], "cpu")
        return
    require(stage[:1] == ["measure"], "adam", stage, "must begin with 'predict' or 'measure'")
    missing = [case for case, spec in asked.items() if prediction.described(spec) not in {*prediction.written()["key"]}]
    require(not missing, "adam", missing, "are not written down: predict before you measure")
    written = {("adam", case): spec for case, spec in asked.items()}
    known = prediction.predictions(prediction.Parameters(device="cpu"), written)
    for case in stage[1:] or asked:
        spec, rows = asked[case], []
        found, measured = known[prediction.described(spec)][0], run(spec, device="cpu")
        with np.errstate(invalid="ignore"):  # where the prediction has diverged; and inf over inf: never, as predicted
            for (_, end), ratio in zip(prediction.WINDOWS, prediction.in_windows(measured, found), strict=True):
                rows.append((case, f"E‖∇f‖² to {end:.0%}", measured.steps[-1], *ratio))
            for eps2 in ADAM_EPS2 if spec.plan.is_constant else ():
                crossing, samples = measured.first_crossing(eps2**0.5), found.first_crossing(eps2**0.5).samples
                ends = np.array([crossing.samples, crossing.low, crossing.high])
                rows.append((case, f"N to ε² = {eps2:g}", measured.steps[-1], *(ends / samples)))
        frame = pd.DataFrame(rows, columns=["case", "what", "steps", "ratio", "low", "high"])
        print(frame.to_string(header=False), flush=True)
        before = pd.read_csv(ADAM) if ADAM.exists() else frame[:0]
        every = pd.concat([before[before["case"] != case], frame])
        every = every.sort_values("case", key=lambda names: names.map([*ADAM_CASES].index), kind="stable")
        every.to_csv(ADAM, index=False, float_format="%.4g")


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        commands = {of.__name__: of for of in (predict, measure, noise_free, images, pilots, loss, notebook, adam)}
        commands[sys.argv[1]](sys.argv[2:])
    except (IndexError, KeyError):
        sys.exit(__doc__)
    except InputError as error:
        sys.exit(str(error))
