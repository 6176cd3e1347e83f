"""T13's constants, ‖∇f‖², ∇fᵀH∇f, tr Σ and tr(HΣ), along the noise-free path of a run [N]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from torch.nn.functional import cross_entropy as CE

from sfolib._utils.errors import require
from sfolib.analysis.covariance import Covariance, Steps
from sfolib.analysis.noise_free_path import SAMPLE, NoiseFreePath, PlanClock, parts_of
from sfolib.gradients.curvature import Hessian, NoiseSpectrum
from sfolib.problems.modules import modules, training_data
from sfolib.problems.specs import Quadratic
from sfolib.training.optimizers import SGD
from sfolib.training.spec import Spec

_NODE = 1.5  # ratio of the steps of successive points


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
        modes = [parts_of(spectrum) for spectrum in self.spectra]
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
    require(isinstance(spec, Spec), "spec", spec, "must be a sfolib.Spec")
    require(isinstance(spec.optimizer, SGD), "optimizer", spec.optimizer.kind, "must be 'sgd': T13 is of its steps")
    path = NoiseFreePath(spec, device, None, vectors, sample, products)
    require(not isinstance(spec.problem, Quadratic), "problem", "quadratic", "has its constants in `exact`")
    clock = PlanClock(spec.plan, path.epoch, False, math.inf, spec.max_steps)
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
        steps = clock.take(max(1, int(path.step * _NODE) - path.step))
        G2, time = path.advance(steps)[1][-1, 0], time + steps.lr.sum()
    steps, *others = np.array(rows).T
    return LocalPath(steps.astype(int), *others, spectra, path.probes)
