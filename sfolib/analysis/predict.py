"""T15 [N] put to work: E‖∇f‖² and E f along a run, and N(b), before it is trained; nothing is fitted.

The run fluctuates about its noise-free path θ̄ with covariance C, C ← (I − ηH) C (I − ηH) + η² Σ/b, and
E‖∇f(θ_t)‖² ≈ ‖∇f(θ̄_t)‖² + tr(HCH), E f ≈ f(θ̄_t) + ½ tr(HC) + ∇f(θ̄_t)·E δ_t: bias and noise. How they are followed:
`noise_free_path`.

Momentum m: δ and the buffer v are two components of every mode. Adam: the same in its metric (`expected_adam`).
By permutation the noise of an epoch is what n independent draws would give less their mean, which is exact for a fixed
H and Σ.
Under BatchNorm the path is trained with batch statistics, and all that is measured is of the eval-mode function.
E δ, by which noise moves the mean, is followed for SGD on softmax regression without a pilot (`covariance`, `softmax`);
elsewhere, and in E‖∇f‖², where softmax regression is predicted well without, it is dropped.
Dropped on the noise-free path: what third derivatives make of C itself (H at θ̄ for H on average), and that Σ is larger
away from θ̄. Both are of the order of the noise itself where b is small. A dense network with hidden layers is predicted
on its mean path (`mean_path`), which has all of these, and is another for each batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sfolib._utils.errors import positive, require, whole
from sfolib.analysis.mean_path import MeanPath, smoothed
from sfolib.analysis.noise_free_path import SAID, SAMPLE, VECTORS, NoiseFreePath, PlanClock, windows
from sfolib.problems.specs import Digits, Quadratic
from sfolib.schedules.base import Constant
from sfolib.schedules.plan import Plan
from sfolib.training.estimates import isotonic_crossing
from sfolib.training.optimizers import SGD
from sfolib.training.spec import Spec

PAIRS = 32  # of a mean path's cloud
_NO_END = 1e3  # noise over ‖∇f‖² without it, above which linear theory has no say
_LASTS = 1.5  # times the steps to a level by permutation, that a prediction goes on for
_SETTLED = 10  # readings below the target after which a run would have ended


Crossing = Callable[[np.ndarray, np.ndarray, float], float]


class Reach(NamedTuple):
    """Steps and gradient evaluations at which E‖∇f‖² first is at a level; inf where it never is."""

    steps: float
    samples: float


@dataclass(frozen=True)
class Prediction:
    """A run before it is trained, at points along it, arrays (points,): steps and samples (gradient evaluations so
    far); grad_sqnorm, E‖∇f‖² = bias (of the noise-free path) + noise; loss, E f, of which loss_noise is the noise's.
    probes: gradient evaluations spent on the prediction. optimizer: of the run, its kind. pairs: see `predict`; bias
    and loss are then of the mean path. permuted: by permutation, where noise rises and falls with every epoch."""

    steps: np.ndarray
    samples: np.ndarray
    grad_sqnorm: np.ndarray
    bias: np.ndarray
    noise: np.ndarray
    loss: np.ndarray
    loss_noise: np.ndarray
    probes: int
    optimizer: str = "sgd"
    pairs: int = 0
    permuted: bool = False

    def first_crossing(self, eps: float) -> Reach:
        """When E‖∇f‖² first is at ε² or below; between points it is taken for a power law of the steps. Of a mean path,
        whose cloud fluctuates, and by permutation as of a run: `estimates`."""
        positive("eps", eps)
        crossing = isotonic_crossing if self.pairs or self.permuted else _crossing
        return Reach(*(crossing(clock, self.grad_sqnorm, eps**2) for clock in (self.steps, self.samples)))

    def with_batch_size(self, batch_size: int) -> Prediction:
        """Of SGD at b = 1 on the noise-free path, drawn with replacement: the same for another constant batch size, as
        noise is as 1/b."""
        b = whole("batch_size", batch_size)
        require(self.pairs == 0, "pairs", self.pairs, "makes a path for each batch size: predict each, or with pairs=0")
        require(self.optimizer == "sgd", "optimizer", self.optimizer, "has noise not as 1/b: predict each batch size")
        one = np.array_equal(self.samples, self.steps)
        require(one, "samples", self.samples[-1], f"must be those of {self.steps[-1]} steps of one sample")
        noise, excess = self.noise / b, self.loss_noise / b
        loss = self.loss - self.loss_noise + excess
        return replace(
            self, samples=b * self.steps, grad_sqnorm=self.bias + noise, noise=noise, loss=loss, loss_noise=excess
        )

    @property
    def table(self) -> pd.DataFrame:
        """The arrays as columns."""
        return pd.DataFrame({name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)})


def predict(
    spec: Spec,
    device: str = "auto",
    *,
    pilot_batch_size: int | None = None,
    pairs: int | None = None,
    vectors: int = VECTORS,
    sample: int = SAMPLE,
) -> Prediction:
    """E‖∇f‖² and E f along the run that `spec` describes, from its first seed's start; of a mean path in the mean over
    the starts of the first `STARTS` seeds.

    Ends where the run does: by max_samples, max_steps or target_grad_norm. The noise-free path takes full gradients, n
    gradient evaluations a step; with pilot_batch_size it is a run of such batches, drawn with replacement, less its own
    predicted noise. Above `MATRICES` parameters the noise spectrum is of so many vectors, of at most `sample` training
    samples; what it costs goes with both.
    pairs: the mean path of a cloud of so many pairs (`mean_path`), starts × n + 3 × pairs × b gradient evaluations a
    step, and 2n × (starts + pairs) each time it is 5 % further; 0 is the noise-free path. None: 32 for dense networks
    with hidden layers by SGD without a pilot, else 0.
    Adam: softmax regression of at most `MATRICES` parameters or the quadratic, drawn with replacement, without
    weight_decay and pilot.
    Raises `InputError` for a policy or workers, for other optimizers, and where the path, or its noise, diverges.
    """
    found = follow(spec, device, pilot_batch_size=pilot_batch_size, pairs=pairs, vectors=vectors, sample=sample)
    _bounded(spec, found.steps, found.noise, found.bias)
    return found


def _bounded(spec: Spec, steps: np.ndarray, noise: np.ndarray, bias: np.ndarray) -> None:
    """`InputError` where noise leaves what linear theory is of; the quadratic never does."""
    if isinstance(spec.problem, Quadratic):
        return
    over = noise / np.maximum.accumulate(bias)
    i = int(np.argmax(over > _NO_END))
    what = f"has a learning rate too large: {steps[i]:.0f} steps in the noise is predicted as {over[i]:.1g} times the "
    what += "largest ‖∇f‖² before it, of which linear theory has no say; take 2/λ_max at most"
    require(over[i] <= _NO_END, "plan", spec.plan, what)


def follow(
    spec: Spec,
    device: str = "auto",
    *,
    pilot_batch_size: int | None = None,
    pairs: int | None = None,
    vectors: int = VECTORS,
    sample: int = SAMPLE,
) -> Prediction:
    """`predict`, however large SGD's noise becomes: what is as 1/b may be of use at another b."""
    pairs = _pairs(spec, pilot_batch_size, pairs)
    path = MeanPath(spec, device, pairs) if pairs else NoiseFreePath(spec, device, pilot_batch_size, vectors, sample)
    clock = PlanClock(spec.plan, path.epoch, path.permuted, spec.max_samples, spec.max_steps)
    points, below = [(0, 0, *path.start, 0.0, 0.0)], 0
    for window in path.windows(clock) if pairs else windows(path, [(clock, path.covariance(with_mean=True))]):
        for point in window[0]:
            points.append(point)
            ends = not path.adam or point[4] <= _NO_END * path.start[0]
            why = f"must be below {point[0]}, or lr less: from there on Adam's noise has no end ({SAID})"
            require(ends, "max_steps", spec.max_steps, why)
            if spec.target_grad_norm is not None:
                # of a cloud, which fluctuates, the mean over as many readings
                level = np.mean([of[2] + of[4] for of in points[-_SETTLED:]]) if pairs else point[2] + point[4]
                below = below + 1 if level <= spec.target_grad_norm**2 else 0
            if below == (1 if pairs else _SETTLED):
                break
        else:
            continue
        break
    steps, samples, bias, loss, noise, excess = np.array(points, dtype=float).T
    steps, samples = steps.astype(int), samples.astype(int)
    if pairs:
        noise, excess = smoothed(steps, noise), smoothed(steps, excess)
    arrays = steps, samples, bias + noise, bias, noise, loss + excess, excess
    return Prediction(*arrays, path.probes, spec.optimizer.kind, pairs, path.permuted)


def _pairs(spec: Spec, pilot_batch_size: int | None, pairs: int | None) -> int:
    """How many of a mean path's cloud; 0: no such path."""
    require(isinstance(spec, Spec), "spec", spec, "must be a sfolib.Spec")
    if pairs is None:
        network = isinstance(spec.problem, Digits) and bool(spec.problem.hidden)
        return PAIRS if network and isinstance(spec.optimizer, SGD) and pilot_batch_size is None else 0
    if pairs != 0:
        ok = isinstance(pairs, int | np.integer) and pairs > 0
        require(ok, "pairs", pairs, "must be 0, for the noise-free path, or a whole number above")
        require(pilot_batch_size is None, "pairs", pairs, "must be 0 with a pilot, which is a path of its own")
    return int(pairs)


def predict_constant(
    spec: Spec,
    batch_sizes: Sequence[int],
    eps2: ArrayLike,
    device: str = "auto",
    *,
    pilot_batch_size: int | None = None,
    pairs: int | None = None,
) -> pd.DataFrame:
    """T15's N(b): steps and gradient evaluations to each ε² at each constant batch size, from one noise-free path; of
    Adam, as its P depends on b, and of a network's mean path from one for each batch size.

    Columns batch_size, eps2, steps, samples (inf where the budget of `spec` ends before), bias (the noise-free ‖∇f‖²
    there; the rest of ε² is noise); attrs["probes"] is the cost.
    The plan of `spec` must have a constant lr; its batch size is not used. By permutation E‖∇f‖² rises and falls with
    every epoch: it is read at the measuring points that spec.eval_every gives the run, if it is a number below 1.05,
    and N from that curve as from a run's. The rest as for `predict`.
    """
    sizes, targets = _sizes(batch_sizes), _targets(eps2)
    pairs = _pairs(spec, pilot_batch_size, pairs)
    path = NoiseFreePath(spec, device, pilot_batch_size)
    require(isinstance(spec.plan.lr, Constant), "plan", spec.plan.lr, "must have a constant learning rate")
    if path.adam or pairs:
        return _one_by_one(spec, sizes, targets, device, pairs)
    (_, lr), most = spec.plan.at(0), spec.max_steps or math.inf
    if path.permuted:
        budget = path.permuted, spec.max_samples, most
        runs = [(PlanClock(Plan(b, lr), path.epoch, *budget), path.covariance()) for b in sizes]
    else:  # noise is as 1/b: once is enough
        lengths = [min(most, -(-spec.max_samples // b)) for b in sizes]
        runs = [(PlanClock(Plan(1, lr), path.epoch, False, math.inf, max(lengths)), path.covariance())]
    crossing = isotonic_crossing if path.permuted else _crossing
    curves = [[(0, 0, path.start[0], path.start[0])] for _ in sizes]
    for window in windows(path, runs):
        if path.permuted:
            new = [[(step, samples, bias + noise, bias) for step, samples, bias, _, noise, _ in run] for run in window]
        else:
            new = [
                [(step, step * b, bias + noise / b, bias) for step, _, bias, _, noise, _ in window[0] if step <= length]
                for b, length in zip(sizes, lengths, strict=True)
            ]
        for curve, points in zip(curves, new, strict=True):
            curve += points
        if all(
            not points or _is_reached(curve, min(targets), crossing) for curve, points in zip(curves, new, strict=True)
        ):
            break
    steps, _, values, bias = np.array(curves[int(np.argmax(sizes))], dtype=float).T
    _bounded(spec, steps, values - bias, bias)
    return _reached(sizes, targets, curves, path.probes, crossing)


def _is_reached(curve: list[tuple], level: float, crossing: Crossing) -> bool:
    """Also that it lasts, where curves go up and down."""
    if min(point[2] for point in curve) > level:
        return False
    steps, _, values, _ = np.array(curve, dtype=float).T
    return crossing is _crossing or _LASTS * crossing(steps, values, level) <= steps[-1]


def _sizes(batch_sizes: Sequence[int]) -> list[int]:
    sizes = [*batch_sizes] if np.iterable(batch_sizes) else []
    require(len(sizes) > 0, "batch_sizes", batch_sizes, "must be a list of one batch size or more, as [8, 64]")
    return [whole("batch_sizes", b) for b in sizes]


def _targets(eps2: ArrayLike) -> np.ndarray:
    targets = [*eps2] if np.iterable(eps2) else [eps2]
    listed = len(targets) > 0 and all(np.ndim(target) == 0 for target in targets)
    require(listed, "eps2", eps2, "must be a number, or a list of one or more, as [0.01, 0.003]")
    for target in targets:
        positive("eps2", target)
    return np.array(targets, dtype=float)


def _one_by_one(spec: Spec, sizes: list[int], targets: np.ndarray, device: str, pairs: int) -> pd.DataFrame:
    """`predict_constant` by a prediction for each batch size."""
    lr, least = spec.plan.at(0)[1], float(min(targets)) ** 0.5
    asked = [spec.model_copy(update={"plan": Plan(b, lr), "target_grad_norm": least}) for b in sizes]
    found = [predict(each, device, pairs=pairs) for each in asked]
    rows = [
        (b, float(target), *reach, float(np.interp(reach.steps, of.steps, of.bias, right=np.nan)))
        for b, of in zip(sizes, found, strict=True)
        for target in targets
        for reach in [of.first_crossing(float(target) ** 0.5)]
    ]
    return _frame(rows, sum(of.probes for of in found))


def _reached(
    sizes: list[int], targets: np.ndarray, curves: list[list[tuple]], probes: int, crossing: Crossing
) -> pd.DataFrame:
    """What `predict_constant` returns, from curves of (steps, samples, E‖∇f‖², bias)."""
    rows = [
        (
            b,
            float(target),
            *(crossing(clock, values, target) for clock in clocks),
            _at(clocks[0], bias, crossing(clocks[0], values, target)),
        )
        for b, curve in zip(sizes, curves, strict=True)
        for *clocks, values, bias in [np.array(curve, dtype=float).T]
        for target in targets
    ]
    return _frame(rows, probes)


def _frame(rows: list[tuple[float, ...]], probes: int) -> pd.DataFrame:
    found = pd.DataFrame(rows, columns=["batch_size", "eps2", "steps", "samples", "bias"])
    found.attrs["probes"] = probes
    return found


def _crossing(x: np.ndarray, values: np.ndarray, level: float) -> float:
    """Where values over x first are at or below the level, log-log interpolated; inf where they never are."""
    below = np.flatnonzero(values <= level)
    if not len(below):
        return np.inf
    i = below[0]
    if i == 0 or x[i - 1] == 0:
        return float(x[i])
    return float(np.exp(np.interp(-np.log(level), -np.log(values[[i - 1, i]]), np.log(x[[i - 1, i]]))))


def _at(x: np.ndarray, other: np.ndarray, crossing: float) -> float:
    """`other` over x at a crossing; nan where there is none."""
    return float(np.interp(crossing, x, other)) if np.isfinite(crossing) else np.nan


def by_batch_size(
    spec: Spec, along: Prediction, device: str = "auto", *, pilot_batch_size: int | None = None, pairs: int = 0
) -> pd.DataFrame | None:
    """`predict_constant` for b = 1, 2, 4, … the data set's size, to the powers of ten that the run `along` passes on
    its way down; None where it passes none, its lr is not constant, or of Adam. All from one noise-free path, unless
    pairs asks for mean paths: of so many b, b = 1 among them, they take long."""
    start, least = along.grad_sqnorm[0], max(along.grad_sqnorm.min(), 1e-30)
    powers = 10.0 ** np.arange(math.floor(math.log10(start)), math.floor(math.log10(least)), -1)
    targets = powers[(least <= powers) & (powers < start)]
    if not len(targets) or not isinstance(spec.plan.lr, Constant) or not isinstance(spec.optimizer, SGD):
        return None
    most = 2**14 if isinstance(spec.problem, Quadratic) else spec.problem.size
    sizes = [2**k for k in range(most.bit_length())]
    found = predict_constant(spec, sizes, targets, device, pilot_batch_size=pilot_batch_size, pairs=pairs)
    steps = "" if spec.max_steps is None else f" and {spec.max_steps:,} steps"
    found.attrs["budget"] = f"{spec.max_samples:,} gradient evaluations{steps}"
    return found


def table(found: Prediction) -> str:
    """Some dozen points of a prediction, evenly in the logarithm of the steps, the last included; and its cost."""
    rows = np.unique(np.round(np.linspace(0, len(found.steps) - 1, 13)).astype(int))
    shown = found.table.iloc[rows].to_string(index=False, float_format="{:.4g}".format)
    spent, run = found.probes, found.samples[-1]
    words = "grad_sqnorm: E‖∇f‖², the noise-free path's (bias) and the noise's; loss: E f, of which loss_noise"
    return f"{shown}\n{words}\ncost: {spent} gradient evaluations, {spent / run:.3g} times the run's own\n"


def table_by_batch_size(constant: pd.DataFrame) -> str:
    """N(b): a row a batch size, a column for each ε², and below the best batch size of the table and its N."""
    samples = constant.pivot(index="batch_size", columns="eps2", values="samples").sort_index(axis=1, ascending=False)
    reached = samples.columns[np.isfinite(samples).any()]
    best = [f"b* = {samples[eps2].idxmin()}, N* = {samples[eps2].min():.4g} to ε² = {eps2:g}" for eps2 in reached]
    lines = samples.to_string(float_format="{:.4g}".format).splitlines()
    cost = f"cost: {constant.attrs['probes']} gradient evaluations"
    within = f"inf: not within {constant.attrs['budget']}"
    return "\n".join([f"N(b), gradient evaluations to ε² ({within})", *lines, *best, cost])
