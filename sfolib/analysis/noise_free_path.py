"""The path of a run without its noise, and how the noise about it spreads: what T15's predictions are made of [N].

H and Σ are measured at nodes along the noise-free path θ̄, further and further apart. Between two of them H stays as at
the nearer one, and C is followed mode by mode in its eigenbasis; as every mode obeys a linear recursion, k like steps
cost log k products.

- Up to `MATRICES` parameters H and Σ are whole matrices, and C is carried from one eigenbasis to the next.
- Above, they enter by `noise_spectrum`: C has a value for each part of the noise, ordered by its λ, and keeps it as
  the λ move. Parts along λ < 0 are taken at λ = 0.
- The quadratic's H is diagonal and never changes: there all of this is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as CE

from sfolib._utils.errors import require, whole
from sfolib._utils.rng import generator
from sfolib.analysis.covariance import Covariance, Modes, Pulls, Steps
from sfolib.analysis.expected_adam import BETA1, ExpectedAdam
from sfolib.analysis.softmax import sample_correlation, softmax_hessian, third_order
from sfolib.gradients.curvature import NoiseSpectrum, gradient_covariance, hessian, noise_spectrum
from sfolib.problems.execution import Execution
from sfolib.problems.modules import modules, training_data
from sfolib.problems.specs import Quadratic
from sfolib.problems.stacked import MLP, NoisyQuadratic
from sfolib.schedules.plan import Plan
from sfolib.training import updates
from sfolib.training.loop import resolve_device
from sfolib.training.optimizers import SGD, Adam
from sfolib.training.spec import Spec

MATRICES = 1500  # parameters, at most, for H and Σ as whole matrices; above, H is known by its noise spectrum
SAID = "see docs/prediction.md"  # of what Adam's predictions are refused for
SAMPLE = 2048  # training samples that a noise spectrum is of, at most
VECTORS, _PRODUCTS = 64, 4  # of a noise spectrum; the same vectors' samples at every node, so that curves are smooth
_PARTS = 1024  # of the noise
_ROUNDING = 1e-9  # of ‖∇f‖² at the start
_LEAST_BETA2 = 0.9  # of Adam's predictions that were measured
_READ, _MATRIX_NODE, _SPECTRUM_NODE = 1.05, 1.3, 1.4  # ratios of the steps of successive readings and nodes
_CHOSEN = 1 << 36  # keeps the choice of samples apart from all other draws


class PlanClock:
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


class NoiseFreePath:
    """The noise-free path of a spec, or its pilot; H and Σ where it is."""

    starts = 1  # of the first seeds

    def __init__(
        self,
        spec: Spec,
        device: str,
        pilot: int | None,
        vectors: int = VECTORS,
        sample: int = SAMPLE,
        products: int = _PRODUCTS,
    ):
        require(isinstance(spec, Spec), "spec", spec, "must be a sfolib.Spec")
        require(spec.plan is not None, "policy", spec.policy, "adapts to the run; only a plan is known before")
        require(spec.workers is None, "workers", spec.workers, "adapt to the run; only a plan is known before")
        adam = isinstance(spec.optimizer, Adam)
        require(adam or isinstance(spec.optimizer, SGD), "optimizer", spec.optimizer.kind, "must be 'sgd' or 'adam'")
        self.spec, self.problem = spec, spec.problem
        self.vectors, self.products = whole("vectors", vectors), whole("products", products)
        self.sample = whole("sample", sample)
        require(sample >= 2, "sample", sample, "must be 2 or more: of one sample there is no variance")
        self.pilot = None if pilot is None else whole("pilot_batch_size", pilot)
        synthetic = isinstance(spec.problem, Quadratic)
        require(pilot is None or not synthetic, "pilot_batch_size", pilot, "must be None: the quadratic needs no pilot")
        # no model_copy: it would copy what is cached for the old sigma2
        quiet = Quadratic(**spec.problem.model_dump() | {"sigma2": 0.0}) if synthetic and not adam else spec.problem
        how = Execution(channels_last=spec.channels_last, max_micro_batch=spec.max_micro_batch)
        sampling = spec.sampling if synthetic else "replacement" if pilot else "permutation"
        self.device = resolve_device(device)
        self.task = quiet.build_task(spec.seeds[: self.starts], sampling, self.device, spec.dtype, how)
        self.epoch, self.permuted = self.task.samples_per_epoch, spec.sampling == "permutation"
        self.batch_size = pilot or (1 if synthetic else self.epoch)
        # the whole data set is the same in any order
        self.moving = bool(pilot or synthetic or getattr(self.task, "augment", None))
        self.matrices = sum(p[0].numel() for p in self.task.parameters) <= MATRICES
        self.softmax = self.matrices and isinstance(self.task, MLP) and len(self.task.parameters) == 1
        self.adam = self._adam() if adam else None
        self.update = None if adam else updates.build(spec.optimizer, self.task.parameters)
        self.ratio = _MATRIX_NODE if self.matrices or synthetic else _SPECTRUM_NODE
        self.step = self.probes = self.next_reading = 0
        # by permutation ‖∇f‖² goes up and down with the epoch: it is read where the run will be
        own = spec.eval_every if self.permuted and spec.eval_every != "epoch" else _READ
        self.read = min(_READ, own)
        self.start = self._measure()

    def _adam(self) -> ExpectedAdam:
        """`InputError` where the metric was not found to hold: docs/prediction.md."""
        optimizer, task, kind = self.spec.optimizer, self.task, self.problem.kind
        known = isinstance(task, NoisyQuadratic) or self.softmax
        only = f"of 'adam' must be softmax regression of at most {MATRICES} parameters or the quadratic; else use 'sgd'"
        require(known and self.matrices, "problem", kind, f"{only}: of networks no prediction held ({SAID})")
        why = "its second moment is derived for independent draws"
        require(not self.permuted, "sampling", "permutation", f"must be 'replacement' for 'adam': {why} ({SAID})")
        require(optimizer.weight_decay == 0, "weight_decay", optimizer.weight_decay, "must be 0 for 'adam'; use l2")
        known = f"must be {_LEAST_BETA2} or more: with a shorter memory no prediction was measured ({SAID})"
        require(optimizer.beta2 >= _LEAST_BETA2, "beta2", optimizer.beta2, known)
        require(self.pilot is None, "pilot_batch_size", self.pilot, "must be None for 'adam', whose path is its own")
        return ExpectedAdam(task, optimizer)

    def covariance(self, permuted: bool | None = None, with_mean: bool = False) -> Covariance:
        """with_mean: also how far noise moves the mean, where third derivatives are at hand, in softmax regression."""
        optimizer, permuted = self.spec.optimizer, self.permuted if permuted is None else permuted
        n = self.epoch if permuted else None
        if self.adam:
            return Covariance(BETA1)
        pulls = Pulls(self._third_order, self._correlation) if with_mean and self.softmax and not self.pilot else None
        return Covariance(optimizer.momentum, optimizer.nesterov, optimizer.weight_decay, n, pulls)

    def _third_order(self, C: np.ndarray) -> np.ndarray:
        (model,), (x, _) = modules(self.task), training_data(self.task)
        self.probes += 2 * len(C) * len(x)  # as if by products
        return third_order(model[0], x, C)

    def _correlation(self, R: np.ndarray) -> np.ndarray:
        (model,), data = modules(self.task), training_data(self.task)
        self.probes += 2 * len(data[0])
        return sample_correlation(model[0], *data, R)

    def advance(self, steps: Steps, gradients: list[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """After how many of the steps it was measured, the last included, and what `_measure` found there; ∇f there is
        added to `gradients`, (P,) in the order of a layer's parameters."""
        at, measured = [], []
        for i, (b, eta, samples) in enumerate(zip(steps.batch_size, steps.lr, steps.samples, strict=True), 1):
            self._move(int(b), float(eta), int(samples - b))
            self.step += 1
            if self.step >= self.next_reading or i == len(steps):
                at.append(i)
                measured.append(self._measure())
                if gradients is not None:
                    (of,) = self._full_gradient()
                    gradients.append(torch.cat([of[0, :, :-1].flatten(), of[0, :, -1]]).double().cpu().numpy())
                    self.probes += self.epoch
            if self.step >= self.next_reading:
                self.next_reading = max(self.step + 1, math.ceil(self.step * self.read))
        return np.array(at), np.array(measured)

    def _full_gradient(self) -> list[Tensor]:
        return self.task.gradients(self.step, self.step * self.batch_size if self.moving else 0, self.batch_size)

    def _move(self, batch_size: int, lr: float, start: int) -> None:
        """A step of the path. batch_size: of the run that is predicted, after `start` samples."""
        if self.adam:
            self.adam(batch_size, lr)
        else:
            self.update(self._full_gradient(), lr)
        self.probes += self.batch_size

    def _measure(self) -> tuple[float, ...]:
        """f's ‖∇f‖², and f."""
        self.probes += self.starts * self.task.probes
        found = self.task.measure()
        values = tuple(float(found[name].double().mean()) for name in ("grad_sqnorm", "loss"))
        require(bool(np.all(np.isfinite(values))), "plan", self.step, "steps in, the path of the mean has diverged")
        return values

    def modes(self, batch_size: float) -> Modes:
        """H and Σ at the present θ, in the metric of the step that comes, of this batch size."""
        root = self.adam.metric(batch_size) ** 0.5 if self.adam else None
        if isinstance(self.problem, Quadratic):
            diagonals = self.problem.exact.eigenvalues, self.problem.exact.noise_variance
            return Modes.of(*map(np.diag, diagonals), root) if self.adam else Modes(*diagonals)
        (model,), (x, y), l2 = modules(self.task), training_data(self.task), self.problem.l2
        if self.matrices:
            H = softmax_hessian(model[0], x, l2) if self.softmax else hessian(model, CE, x, y, l2=l2)
            self.probes += 2 * (1 + len(H)) * len(x)  # as if by products
            return Modes.of(H, gradient_covariance(model, CE, x, y), root)
        return parts_of(self.spectrum())

    def spectrum(self) -> NoiseSpectrum:
        """Of at most `sample` training samples, at the present θ."""
        (model,), (x, y), seed = modules(self.task), training_data(self.task), self.spec.seeds[0]
        chosen = torch.randperm(len(x), generator=generator(seed, _CHOSEN))[: self.sample].to(x.device)
        settings = {"vectors": self.vectors, "products": self.products, "seed": seed}
        found = noise_spectrum(model, CE, x[chosen], y[chosen], l2=self.problem.l2, **settings)
        self.probes += found.probes
        return found


def parts_of(found: NoiseSpectrum) -> Modes:
    """The noise in `_PARTS` equal parts, ordered by λ: each has the mean λ of its share of the spectrum."""
    order = np.argsort(found.eigenvalues, axis=None)
    values = np.maximum(found.eigenvalues.ravel()[order], 0.0)
    weights = found.weights.ravel()[order] / len(found.weights)
    mass, moment = (np.concatenate([[0.0], np.cumsum(w)]) for w in (weights, weights * values))
    edges = np.linspace(0, mass[-1], _PARTS + 1)
    return Modes(np.diff(np.interp(edges, mass, moment)) / (mass[-1] / _PARTS), np.full(_PARTS, mass[-1] / _PARTS))


def windows(path: NoiseFreePath, runs: list[tuple[PlanClock, Covariance]]) -> Iterator[list[list[tuple[float, ...]]]]:
    """From node to node until every run's budget is spent, all on one path: for each run the points on the way, (step,
    samples, bias, loss without noise, what noise adds to ‖∇f‖², what it adds to f)."""
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
        gradients = [] if any(covariance.pulls for _, covariance in runs) else None
        at, measured = path.advance(longest, gradients)
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
            added = covariance.cross(steps, at[on], middle, position[on], modes, gradients)
            if path.adam:
                path.adam.spread = covariance.gradient_variance()
            lowest = float(np.min(measured[on, 0] + added[:, 0], initial=0.0))
            what = f"is too large: {first} steps in E‖∇f‖² is predicted as {lowest:.3g}; take 2/λ_max at most"
            require(lowest >= -_ROUNDING * path.start[0], "lr", float(lr[-1]), what)
            points.append([*zip(first + at[on], steps.samples[at[on] - 1], *measured[on].T, *added.T, strict=True)])
        yield points
