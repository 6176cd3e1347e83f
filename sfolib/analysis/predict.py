"""T15 [N] put to work: E‖∇f‖² and E f along a run, and N(b), before it is trained; nothing is fitted.

The run fluctuates about its noise-free path θ̄ with covariance C, C ← (I − ηH) C (I − ηH) + η² Σ/b, and
E‖∇f(θ_t)‖² ≈ ‖∇f(θ̄_t)‖² + tr(HCH), E f ≈ f(θ̄_t) + ½ tr(HC): bias and noise. H and Σ are measured at nodes along θ̄,
further and further apart. Between two of them H stays as at the nearer one, and C is followed mode by mode in its
eigenbasis; as every mode obeys a linear recursion, k like steps cost log k products.

- Up to `MATRICES` parameters H and Σ are whole matrices, and C is carried from one eigenbasis to the next.
- Above, they enter by `noise_spectrum`: C has a value for each part of the noise, ordered by its λ, and keeps it as
  the λ move. Parts along λ < 0 are taken at λ = 0.
- The quadratic's H is diagonal and never changes: there all of this is exact.

Momentum m: δ and the buffer v are two components of every mode. Adam: the same in its metric (`expected_adam`).
By permutation the noise of an epoch is what n independent draws would give less their mean, which is exact for a fixed
H and Σ.
Under BatchNorm the path is trained with batch statistics, and all that is measured is of the eval-mode function.
Dropped: what third derivatives make of C (the mean of θ_t is taken for θ̄_t, H at it for H on average), and that Σ is
larger away from θ̄. Both are of the order of the noise itself where b is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as CE

from sfolib._utils.errors import positive, require, whole
from sfolib._utils.rng import generator
from sfolib.analysis.covariance import Covariance, Modes, Steps
from sfolib.analysis.expected_adam import BETA1, ExpectedAdam
from sfolib.gradients.curvature import Hessian, NoiseSpectrum, gradient_covariance, hessian, noise_spectrum
from sfolib.problems.execution import Execution
from sfolib.problems.modules import modules, training_data
from sfolib.problems.specs import Quadratic
from sfolib.problems.stacked import MLP, NoisyQuadratic
from sfolib.schedules.base import Constant
from sfolib.schedules.plan import Plan
from sfolib.training import updates
from sfolib.training.loop import resolve_device
from sfolib.training.optimizers import SGD, Adam
from sfolib.training.spec import Spec

MATRICES = 1500  # parameters, at most, for H and Σ as whole matrices; above, H is known by its noise spectrum
_SAID = "see docs/prediction.md"  # of what Adam's predictions are refused for
SAMPLE = 2048  # training samples that a noise spectrum is of, at most
VECTORS, _PRODUCTS = 64, 4  # of a noise spectrum; the same vectors' samples at every node, so that curves are smooth
_PARTS = 1024  # of the noise
_READ, _MATRIX_NODE, _SPECTRUM_NODE, _LOCAL_NODE = (
    1.05,
    1.3,
    1.4,
    1.5,
)  # ratios of the steps of successive readings and nodes
_NO_END = 1e3  # noise over ‖∇f‖² at the start, above which Adam's linear theory has no say
_SETTLED = 10  # readings below the target after which a run would have ended
_CHOSEN = 1 << 36  # keeps the choice of samples apart from all other draws


class Reach(NamedTuple):
    """Steps and gradient evaluations at which E‖∇f‖² first is at a level; inf where it never is."""

    steps: float
    samples: float


@dataclass(frozen=True)
class Prediction:
    """A run before it is trained, at points along it, arrays (points,): steps and samples (gradient evaluations so
    far); grad_sqnorm, E‖∇f‖² = bias (of the noise-free path) + noise; loss, E f, of which loss_noise is the noise's.
    probes: gradient evaluations spent on the prediction. optimizer: of the run, its kind."""

    steps: np.ndarray
    samples: np.ndarray
    grad_sqnorm: np.ndarray
    bias: np.ndarray
    noise: np.ndarray
    loss: np.ndarray
    loss_noise: np.ndarray
    probes: int
    optimizer: str = "sgd"

    def first_crossing(self, eps: float) -> Reach:
        """When E‖∇f‖² first is at ε² or below; between points it is taken for a power law of the steps."""
        positive("eps", eps)
        return Reach(*(_crossing(clock, self.grad_sqnorm, eps**2) for clock in (self.steps, self.samples)))

    def with_batch_size(self, batch_size: int) -> Prediction:
        """Of SGD at b = 1, drawn with replacement: the same for another constant batch size, as noise is as 1/b."""
        b = whole("batch_size", batch_size)
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
    vectors: int = VECTORS,
    sample: int = SAMPLE,
) -> Prediction:
    """E‖∇f‖² and E f along the run that `spec` describes, from its first seed's start.

    Ends where the run does: by max_samples, max_steps or target_grad_norm. The noise-free path takes full gradients, n
    gradient evaluations a step; with pilot_batch_size it is a run of such batches, drawn with replacement, less its own
    predicted noise. Above `MATRICES` parameters the noise spectrum is of so many vectors, of at most `sample` training
    samples; what it costs goes with both.
    Adam: softmax regression of at most `MATRICES` parameters or the quadratic, drawn with replacement, without
    weight_decay and pilot.
    Raises `InputError` for a policy or workers, for other optimizers, and where the path, or Adam's noise, diverges.
    """
    path = _Path(spec, device, pilot_batch_size, vectors, sample)
    clock = _Clock(spec.plan, path.epoch, path.permuted, spec.max_samples, spec.max_steps)
    points, below = [(0, 0, *path.start, 0.0, 0.0)], 0
    for window in _windows(path, [(clock, path.covariance())]):
        for point in window[0]:
            points.append(point)
            ends = not path.adam or point[4] <= _NO_END * path.start[0]
            why = f"must be below {point[0]}: from there on Adam's noise is predicted to have no end ({_SAID})"
            require(ends, "max_steps", spec.max_steps, why)
            under = spec.target_grad_norm is not None and point[2] + point[4] <= spec.target_grad_norm**2
            below = below + 1 if under else 0
            if below == _SETTLED:
                break
        if below == _SETTLED:
            break
    steps, samples, bias, loss, noise, excess = np.array(points, dtype=float).T
    steps, samples = steps.astype(int), samples.astype(int)
    arrays = steps, samples, bias + noise, bias, noise, loss + excess, excess
    return Prediction(*arrays, path.probes, spec.optimizer.kind)


def predict_constant(
    spec: Spec,
    batch_sizes: Sequence[int],
    eps2: ArrayLike,
    device: str = "auto",
    *,
    pilot_batch_size: int | None = None,
) -> pd.DataFrame:
    """T15's N(b): steps and gradient evaluations to each ε² at each constant batch size, from one noise-free path (of
    Adam from one for each batch size, as its P depends on b).

    Columns batch_size, eps2, steps, samples (inf where the budget of `spec` ends before), bias (the noise-free ‖∇f‖²
    there; the rest of ε² is noise); attrs["probes"] is the cost.
    The plan of `spec` must have a constant lr; its batch size is not used. The rest as for `predict`.
    """
    sizes, targets = [whole("batch_sizes", b) for b in batch_sizes], np.atleast_1d(np.asarray(eps2, dtype=float))
    positive("eps2", targets)
    require(len(sizes) > 0, "batch_sizes", batch_sizes, "must hold at least one")
    path = _Path(spec, device, pilot_batch_size)
    require(isinstance(spec.plan.lr, Constant), "plan", spec.plan.lr, "must have a constant learning rate")
    if path.adam:
        return _one_by_one(spec, sizes, targets, device)
    (_, lr), most = spec.plan.at(0), spec.max_steps or math.inf
    if path.permuted:
        budget = path.permuted, spec.max_samples, most
        runs = [(_Clock(Plan(b, lr), path.epoch, *budget), path.covariance()) for b in sizes]
    else:  # noise is as 1/b: once is enough
        lengths = [min(most, -(-spec.max_samples // b)) for b in sizes]
        runs = [(_Clock(Plan(1, lr), path.epoch, False, math.inf, max(lengths)), path.covariance())]
    curves = [[(0, 0, path.start[0], path.start[0])] for _ in sizes]
    for window in _windows(path, runs):
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
            not points or min(p[2] for p in curve) <= min(targets) for curve, points in zip(curves, new, strict=True)
        ):
            break
    return _reached(sizes, targets, curves, path.probes)


def _one_by_one(spec: Spec, sizes: list[int], targets: np.ndarray, device: str) -> pd.DataFrame:
    """`predict_constant` by a prediction for each batch size."""
    lr, least = spec.plan.at(0)[1], float(min(targets)) ** 0.5
    asked = [spec.model_copy(update={"plan": Plan(b, lr), "target_grad_norm": least}) for b in sizes]
    found = [predict(each, device) for each in asked]
    curves = [[*zip(of.steps, of.samples, of.grad_sqnorm, of.bias, strict=True)] for of in found]
    return _reached(sizes, targets, curves, sum(of.probes for of in found))


def _reached(sizes: list[int], targets: np.ndarray, curves: list[list[tuple]], probes: int) -> pd.DataFrame:
    """What `predict_constant` returns, from curves of (steps, samples, E‖∇f‖², bias)."""
    found = pd.DataFrame(
        [
            (
                b,
                float(target),
                *(_crossing(clock, values, target) for clock in clocks),
                _at(clocks[0], bias, values, target),
            )
            for b, curve in zip(sizes, curves, strict=True)
            for *clocks, values, bias in [np.array(curve, dtype=float).T]
            for target in targets
        ],
        columns=["batch_size", "eps2", "steps", "samples", "bias"],
    )
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


def _at(x: np.ndarray, other: np.ndarray, values: np.ndarray, level: float) -> float:
    """`other` over x where values first are at or below the level; nan where they never are."""
    crossing = _crossing(x, values, level)
    return float(np.interp(crossing, x, other)) if np.isfinite(crossing) else np.nan


# ------------------------------------------------------------------------------------- constants along the path
@dataclass(frozen=True)
class LocalPath:
    """T13's constants along the noise-free path, at points of it, arrays (points,), named as in `theory.local`.

    time: Σ η; G2 = ‖G‖²; GHG = GᵀHG; trace = tr Σ, Q = tr(HΣ) and their errors by `spectra`, one a point. probes:
    gradient evaluations spent.
    """

    steps: np.ndarray
    time: np.ndarray
    G2: np.ndarray
    GHG: np.ndarray
    spectra: list[NoiseSpectrum]
    probes: int

    @property
    def trace(self) -> np.ndarray:
        return np.array([found.moment(0)[0] for found in self.spectra])

    @property
    def Q(self) -> np.ndarray:
        return np.array([found.moment(1)[0] for found in self.spectra])

    def noise(self, lr: float) -> np.ndarray:
        """b × what noise adds to E‖∇f‖² at the points, (points,), along steps of this lr from the start: T15, with H
        and Σ as they are after the same Σ η; the C of each part of the noise as in `predict`."""
        covariance, found = Covariance(), [0.0]
        modes = [_parts(spectrum) for spectrum in self.spectra]
        covariance.move(modes[0])
        for (first, last), after in zip(pairwise(np.round(self.time / lr).astype(int)), modes[1:], strict=True):
            middle = math.ceil((first * last) ** 0.5) - first if first else last - first
            for count in (middle, last - first - middle):
                covariance.advance(Steps(np.ones(count), np.full(count, lr), *np.zeros((2, count), int)))
                covariance.move(after)
            found.append(covariance.read()[0])
        return np.array(found)

    def pairs(self, lr: float, eps2: float) -> pd.DataFrame:
        """T15: the b with which K steps of lr end at ε², for K along the path: columns batch_size, lr, steps, samples.
        The path is taken for one of Σ η, whatever the lr."""
        clock = np.log(self.time[1:])
        at = np.linspace(clock[0], clock[-1], 400)
        noise = np.maximum(self.noise(lr), 1e-300)  # 0 before the first step
        bias, noise = (np.exp(np.interp(at, clock, np.log(of[1:]))) for of in (self.G2, noise))
        left = (bias < eps2) & (at >= np.log(lr))
        steps, batch_size = np.exp(at[left]) / lr, noise[left] / (eps2 - bias[left])
        return pd.DataFrame({"batch_size": batch_size, "lr": lr, "steps": steps, "samples": steps * batch_size})


def local_path(
    spec: Spec, device: str = "auto", *, vectors: int = 16, products: int = 6, sample: int = SAMPLE
) -> LocalPath:
    """T13's constants along the noise-free path of `spec`, at its start and at steps 1.5 times as many each time, until
    ‖∇f‖ is half of target_grad_norm or max_steps are over.

    Exact up to `MATRICES` parameters. vectors, products: of each point's `noise_spectrum` above, on at most `sample`
    training samples: it costs some 2n × vectors × products gradient evaluations. A step costs n. `InputError` as for
    `predict`, and for the quadratic.
    """
    require(isinstance(spec.optimizer, SGD), "optimizer", spec.optimizer.kind, "must be 'sgd': T13 is of its steps")
    path = _Path(spec, device, None, vectors, sample, products)
    require(not isinstance(spec.problem, Quadratic), "problem", "quadratic", "has its constants in `exact`")
    clock = _Clock(spec.plan, path.epoch, False, math.inf, spec.max_steps)
    rows, spectra, least = [], [], (spec.target_grad_norm or 0.0) ** 2 / 4
    time, G2 = 0.0, path.start[0]
    while True:
        if path.matrices:
            modes = path.modes(1)
            spectra.append(NoiseSpectrum(modes.values[None], np.diagonal(modes.noise)[None], 0))
        else:
            spectra.append(path.spectrum())
        (model,), (x, y) = modules(path.task), training_data(path.task)
        H = Hessian(model, CE, x, y, path.problem.l2)
        along = (H.product(H.gradient).double() @ H.gradient.double()).item()
        path.probes += H.samples
        rows.append((path.step, time, G2, along))
        if clock.over or least >= G2:
            break
        steps = clock.take(max(1, int(path.step * _LOCAL_NODE) - path.step))
        G2, time = path.advance(steps)[1][-1, 0], time + steps.lr.sum()
    steps, *others = np.array(rows).T
    return LocalPath(steps.astype(int), *others, spectra, path.probes)


# -------------------------------------------------------------------------------------------------- as text
def by_batch_size(
    spec: Spec, along: Prediction, device: str = "auto", *, pilot_batch_size: int | None = None
) -> pd.DataFrame | None:
    """`predict_constant` for b = 1, 2, 4, … the data set's size, to the powers of ten that the run `along` passes on
    its way down; None where it passes none, its lr is not constant, or each b would take a path of its own (Adam)."""
    start, least = along.grad_sqnorm[0], max(along.grad_sqnorm.min(), 1e-30)
    powers = 10.0 ** np.arange(math.floor(math.log10(start)), math.floor(math.log10(least)), -1)
    targets = powers[(least <= powers) & (powers < start)]
    if not len(targets) or not isinstance(spec.plan.lr, Constant) or not isinstance(spec.optimizer, SGD):
        return None
    most = 2**14 if isinstance(spec.problem, Quadratic) else spec.problem.size
    sizes = [2**k for k in range(most.bit_length())]
    return predict_constant(spec, sizes, targets, device, pilot_batch_size=pilot_batch_size)


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
    return "\n".join(["N(b), gradient evaluations to ε² (inf: never)", *lines, *best])


# ----------------------------------------------------------------------------------------- the noise-free path
class _Clock:
    """The steps that a plan makes, as `training.loop` does. epoch: its samples; permuted: a batch ends with it."""

    def __init__(self, plan: Plan, epoch: int, permuted: bool, max_samples: float, max_steps: float | None):
        self.plan, self.epoch, self.permuted = plan, epoch, permuted
        self.max_samples, self.max_steps = max_samples, max_steps or math.inf
        self.step = self.samples = 0

    @property
    def over(self) -> bool:
        return self.samples >= self.max_samples or self.step >= self.max_steps

    @property
    def pair(self) -> tuple[int, float]:
        """(batch size, lr) of the next step, a last batch of an epoch taken for whole."""
        return self.plan.at(0 if self.plan.is_constant else self.plan.reading(self.step, self.samples, self.epoch))

    def take(self, count: int) -> Steps:
        """The next steps, at most `count`."""
        rows, now, at = [], None, (0, 0.0)
        while len(rows) < count and not self.over:
            reading = 0 if self.plan.is_constant else self.plan.reading(self.step, self.samples, self.epoch)
            if reading != now:
                now, at = reading, self.plan.at(reading)
            b, lr = at
            left = self.epoch - self.samples % self.epoch
            if self.permuted:
                b = min(b, left)
            self.step, self.samples = self.step + 1, self.samples + b
            rows.append((b, lr, self.samples, self.permuted and b == left))
        b, lr, samples, end = zip(*rows, strict=True) if rows else ((),) * 4
        return Steps(np.array(b, float), np.array(lr, float), np.array(samples, int), np.array(end, bool))


class _Path:
    """The noise-free path of a spec, or its pilot; H and Σ where it is."""

    def __init__(
        self,
        spec: Spec,
        device: str,
        pilot: int | None,
        vectors: int = VECTORS,
        sample: int = SAMPLE,
        products: int = _PRODUCTS,
    ):
        require(spec.plan is not None, "policy", spec.policy, "adapts to the run; only a plan is known before")
        require(spec.workers is None, "workers", spec.workers, "adapt to the run; only a plan is known before")
        adam = isinstance(spec.optimizer, Adam)
        require(adam or isinstance(spec.optimizer, SGD), "optimizer", spec.optimizer.kind, "must be 'sgd' or 'adam'")
        self.spec, self.problem = spec, spec.problem
        self.vectors, self.sample, self.products = vectors, sample, products
        self.pilot = None if pilot is None else whole("pilot_batch_size", pilot)
        synthetic = isinstance(spec.problem, Quadratic)
        require(pilot is None or not synthetic, "pilot_batch_size", pilot, "must be None: the quadratic needs no pilot")
        # no model_copy: it would copy what is cached for the old sigma2
        quiet = Quadratic(**spec.problem.model_dump() | {"sigma2": 0.0}) if synthetic and not adam else spec.problem
        how = Execution(channels_last=spec.channels_last, max_micro_batch=spec.max_micro_batch)
        sampling = spec.sampling if synthetic else "replacement" if pilot else "permutation"
        self.task = quiet.build_task(spec.seeds[:1], sampling, resolve_device(device), spec.dtype, how)
        self.epoch, self.permuted = self.task.samples_per_epoch, spec.sampling == "permutation"
        self.batch_size = pilot or (1 if synthetic else self.epoch)
        # the whole data set is the same in any order
        self.moving = bool(pilot or synthetic or getattr(self.task, "augment", None))
        self.matrices = sum(p[0].numel() for p in self.task.parameters) <= MATRICES
        self.adam = self._adam() if adam else None
        self.update = None if adam else updates.build(spec.optimizer, self.task.parameters)
        self.ratio = _MATRIX_NODE if self.matrices or synthetic else _SPECTRUM_NODE
        self.step = self.probes = 0
        self.start = self._measure()

    def _adam(self) -> ExpectedAdam:
        """`InputError` where the metric was not found to hold: docs/prediction.md."""
        optimizer, task, kind = self.spec.optimizer, self.task, self.problem.kind
        known = isinstance(task, NoisyQuadratic) or (isinstance(task, MLP) and len(task.parameters) == 1)
        only = f"of 'adam' must be softmax regression of at most {MATRICES} parameters or the quadratic; else use 'sgd'"
        require(known and self.matrices, "problem", kind, f"{only} ({_SAID})")
        require(not self.permuted, "sampling", "permutation", f"must be 'replacement' for 'adam' ({_SAID})")
        require(optimizer.weight_decay == 0, "weight_decay", optimizer.weight_decay, "must be 0 for 'adam'; use l2")
        require(self.pilot is None, "pilot_batch_size", self.pilot, "must be None for 'adam', whose path is its own")
        return ExpectedAdam(task, optimizer)

    def covariance(self, permuted: bool | None = None) -> Covariance:
        optimizer, permuted = self.spec.optimizer, self.permuted if permuted is None else permuted
        n = self.epoch if permuted else None
        if self.adam:
            return Covariance(BETA1)
        return Covariance(optimizer.momentum, optimizer.nesterov, optimizer.weight_decay, n)

    def advance(self, steps: Steps) -> tuple[np.ndarray, np.ndarray]:
        """After how many of the steps it was measured, the last included, and (f's ‖∇f‖², f) there."""
        at, measured, next_reading = [], [], max(self.step + 1, math.ceil(self.step * _READ))
        for i, (b, eta) in enumerate(zip(steps.batch_size, steps.lr, strict=True), 1):
            if self.adam:
                self.adam(b, eta)
            else:
                start = self.step * self.batch_size if self.moving else 0
                self.update(self.task.gradients(self.step, start, self.batch_size), float(eta))
            self.step, self.probes = self.step + 1, self.probes + self.batch_size
            if self.step >= next_reading or i == len(steps):
                at.append(i)
                measured.append(self._measure())
                next_reading = max(self.step + 1, math.ceil(self.step * _READ))
        return np.array(at), np.array(measured)

    def _measure(self) -> tuple[float, float]:
        self.probes += self.task.probes
        found = self.task.measure()
        values = float(found["grad_sqnorm"][0]), float(found["loss"][0])
        require(bool(np.all(np.isfinite(values))), "plan", self.step, "steps in, the path without noise has diverged")
        return values

    def modes(self, batch_size: float) -> Modes:
        """H and Σ at the present θ, in the metric of the step that comes, of this batch size."""
        root = self.adam.metric(batch_size) ** 0.5 if self.adam else None
        if isinstance(self.problem, Quadratic):
            diagonals = self.problem.exact.eigenvalues, self.problem.exact.noise_variance
            return Modes.of(*map(np.diag, diagonals), root) if self.adam else Modes(*diagonals)
        (model,), (x, y), l2 = modules(self.task), training_data(self.task), self.problem.l2
        if self.matrices:
            softmax = isinstance(self.task, MLP) and len(self.task.parameters) == 1
            H = _softmax_hessian(model[0], x, l2) if softmax else hessian(model, CE, x, y, l2=l2)
            self.probes += 2 * (1 + len(H)) * len(x)  # as if by products
            return Modes.of(H, gradient_covariance(model, CE, x, y), root)
        return _parts(self.spectrum())

    def spectrum(self) -> NoiseSpectrum:
        """Of at most `sample` training samples, at the present θ."""
        (model,), (x, y), seed = modules(self.task), training_data(self.task), self.spec.seeds[0]
        chosen = torch.randperm(len(x), generator=generator(seed, _CHOSEN))[: self.sample].to(x.device)
        settings = {"vectors": self.vectors, "products": self.products, "seed": seed}
        found = noise_spectrum(model, CE, x[chosen], y[chosen], l2=self.problem.l2, **settings)
        self.probes += found.probes
        return found


def _softmax_hessian(layer: nn.Linear, x: Tensor, l2: float) -> np.ndarray:
    """`hessian` of softmax regression in closed form, mean (diag p − ppᵀ) ⊗ x̃x̃ᵀ + l2 I, rows as in the layer."""
    p, ones = torch.softmax(layer(x), 1).detach(), x.new_ones(len(x), 1)
    x, (classes, inputs) = torch.cat([x, ones], 1), layer.weight.shape
    H = x.new_empty(classes, inputs + 1, classes, inputs + 1)
    for c in range(classes):
        weight = -p[:, c : c + 1] * p
        weight[:, c] += p[:, c]
        H[c] = (x.T @ (weight[:, :, None] * x[:, None]).flatten(1) / len(x)).unflatten(1, (classes, -1))
    order = np.arange(H[0, 0].numel()).reshape(classes, -1)
    order = np.concatenate([order[:, :-1].ravel(), order[:, -1]])  # the weights, then the biases
    flat = H.reshape(len(order), -1).double().cpu().numpy()[np.ix_(order, order)]
    return (flat + flat.T) / 2 + l2 * np.eye(len(order))


def _parts(found: NoiseSpectrum) -> Modes:
    """The noise in `_PARTS` equal parts, ordered by λ: each has the mean λ of its share of the spectrum."""
    order = np.argsort(found.eigenvalues, axis=None)
    values = np.maximum(found.eigenvalues.ravel()[order], 0.0)
    weights = found.weights.ravel()[order] / len(found.weights)
    mass, moment = (np.concatenate([[0.0], np.cumsum(w)]) for w in (weights, weights * values))
    edges = np.linspace(0, mass[-1], _PARTS + 1)
    return Modes(np.diff(np.interp(edges, mass, moment)) / (mass[-1] / _PARTS), np.full(_PARTS, mass[-1] / _PARTS))


def _windows(path: _Path, runs: list[tuple[_Clock, Covariance]]) -> Iterator[list[list[tuple[float, ...]]]]:
    """From node to node until every run's budget is spent, all on one path: for each run the points on the way, (step,
    samples, bias, loss without noise, what C adds to ‖∇f‖², what C adds to f)."""
    own = path.covariance(permuted=False) if path.pilot else None
    modes = path.modes(runs[0][0].pair[0])
    for covariance in [*(covariance for _, covariance in runs), *([own] if own else [])]:
        covariance.move(modes)
    while not all(clock.over for clock, _ in runs):
        first = path.step
        taken = [clock.take(max(1, int(first * path.ratio) - first)) for clock, _ in runs]
        longest = max(taken, key=len)
        lr, last = longest.lr, first + len(longest)
        if path.adam:
            taken = [Steps(b, path.adam.sgd_lr(lr), *others) for b, lr, *others in taken]
        at, measured = path.advance(longest)
        modes = path.modes(runs[0][0].pair[0])
        middle = max(1, math.ceil((first * last) ** 0.5) - first)
        position = np.log((first + at) / first) / np.log(last / first) if first else np.ones(1)
        if own:
            steps = Steps(np.full(len(lr), float(path.pilot)), lr, *np.zeros((2, len(lr)), dtype=int))
            measured = measured - own.cross(steps, at, middle, position, modes)
            measured[:, 0] = np.maximum(measured[:, 0], 0.0)  # one run fluctuates below what it does on average
        points = []
        for steps, (_, covariance) in zip(taken, runs, strict=True):
            on = at <= len(steps)
            added = covariance.cross(steps, at[on], middle, position[on], modes)
            if path.adam:
                path.adam.spread = covariance.gradient_variance()
            points.append([*zip(first + at[on], steps.samples[at[on] - 1], *measured[on].T, *added.T, strict=True)])
        yield points
