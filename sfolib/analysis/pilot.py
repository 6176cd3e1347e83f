"""Constants from a short pilot at one easy ε, in place of those that are loose: T2 turned round, run by run.

Units: steps in updates, SFO in gradient evaluations, eps is ε itself. [S], [N] as in `bounds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import positive, require, whole
from sfolib._utils.rng import generator
from sfolib.gradients.curvature import Hessian, largest_eigenvalue
from sfolib.problems.modules import modules, training_data
from sfolib.problems.stacked import NoisyQuadratic, Task
from sfolib.theory.bounds import Constants, stable_lr
from sfolib.training.estimates import first_points
from sfolib.training.records import Run


class Pilot(NamedTuple):
    """What one seed's pilot found, and its price in gradient evaluations: its runs until each was at ε, and L's."""

    constants: Constants
    samples: float


def fitted_constants(L: float, batch_size: ArrayLike, lr: ArrayLike, steps: ArrayLike, eps: float) -> Constants:
    """T2 [S] turned round [N]: σ² and Δ, given L, with which T2's K(b) is what pairs (lr, batch) were seen to need.

    With C1 and C2 at lr itself K = C1 b/(η(ε² b − C2 η)) is Δ/(ε² ηK) + Lη/2 + (Lσ²/(2ε²)) η/b = 1, linear in Δ and
    σ²: least squares with neither below 0. lr, batch, steps: (pairs,), two pairs or more, of different batch sizes.
    Raises `InputError` for a pair that did not get to ε, and where no Δ above 0 fits.
    """
    from scipy.optimize import nnls

    positive("L", L)
    lr, batch_size, steps = np.broadcast_arrays(
        stable_lr(L, lr), *(np.asarray(x, dtype=float) for x in (batch_size, steps))
    )
    for field, value in (("batch_size", batch_size), ("steps", steps), ("eps", eps)):
        positive(field, value)
    require(
        len(np.unique(batch_size)) > 1, "batch_size", batch_size.tolist(), "must hold two batch sizes to tell σ² from Δ"
    )
    columns = np.column_stack([1 / (lr * steps), lr / batch_size])
    (descent, noise), _ = nnls(columns, 1 - L * lr / 2)
    require(descent > 0, "steps", steps.tolist(), "no Δ above 0 fits; take an easier eps or other batch sizes")
    return Constants(L, float(2 * noise * eps**2 / L), float(descent * eps**2))


def local_smoothness(task: Task, batch_size: int = 64) -> tuple[np.ndarray, int]:
    """λ_max of the loss of `batch_size` training samples where the task is, for each seed: A1's L from below.

    Six Lanczos vectors of `gradients.largest_eigenvalue`: on the digits' networks at their start within 0.2 % of its
    full accuracy. Returns the estimates, (seeds,), and the largest price of a seed in gradient evaluations; the
    quadratic's is known, and free.
    """
    whole("batch_size", batch_size)
    if isinstance(task, NoisyQuadratic):
        return np.full(len(task.parameters[0]), float(task.eigenvalues.max())), 0
    x, y = training_data(task)
    chosen = torch.randperm(len(x), generator=generator(0))[:batch_size].to(x.device)
    found = [Hessian(model, cross_entropy, x[chosen], y[chosen], task.l2) for model in modules(task)]
    values = np.array([largest_eigenvalue(hessian, accuracy=0.1, vectors=6) for hessian in found])
    return values, max(hessian.samples for hessian in found)


def pilots(runs: Sequence[Run], smoothness: tuple[Sequence[float], int], eps: float) -> list[Pilot]:
    """A `Pilot` for each seed of runs of constant pairs, all with the same seeds.

    smoothness: each seed's L, and its price, as `local_smoothness` gives them. A run that a seed never brought to eps
    says nothing of σ² and Δ: it is paid for in full and left out of the fit.
    """
    require(len(runs) > 1, "runs", len(runs), "must be two or more")
    seeds = runs[0].rows["seed"].unique()
    each = zip(seeds, smoothness[0], strict=True)
    return [_pilot([_alone(run, seed) for run in runs], float(L), smoothness[1], eps) for seed, L in each]


def _pilot(runs: Sequence[Run], L: float, price: float, eps: float) -> Pilot:
    # a pilot ends when its own average is there: it cannot wait for what lasts
    clocks = [(run, np.log(run.expected[None])) for run in runs]
    steps, samples = (
        [float(first_points(getattr(run, clock), curve, 2 * np.log(eps))[0]) for run, curve in clocks]
        for clock in ("steps", "samples")
    )
    price += sum(min(spent, float(run.samples[-1])) for run, spent in zip(runs, samples, strict=True))
    got = [(*run.rows[["lr", "batch_size"]].iloc[0], count) for run, count in zip(runs, steps, strict=True)]
    lr, batch_size, steps = np.array([pair for pair in got if np.isfinite(pair[2])]).reshape(-1, 3).T
    how = f"only {len(steps)} of {len(runs)} pilots reached this norm; two are needed: a larger eps2, or budget of them"
    require(len(steps) > 1, "eps", eps, how)
    return Pilot(fitted_constants(L, batch_size, lr, steps, eps), price)


def _alone(run: Run, seed: int) -> Run:
    return Run(run.spec, run.provenance, run.rows[run.rows["seed"] == seed])
