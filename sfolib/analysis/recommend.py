"""The schedule that the theory recommends for a problem, and what it is predicted to end with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from torch.nn.functional import cross_entropy as CE

from sfolib._utils.errors import InputError, require
from sfolib._utils.model import Above1, Count, Positive, checked
from sfolib.analysis import constants, horizon, step_time
from sfolib.analysis.constants import Estimate
from sfolib.analysis.horizon import Ends, Path, Ramp
from sfolib.analysis.step_time import StepTime
from sfolib.gradients.stable_lr import StableLr, largest_stable_lr
from sfolib.problems.modules import modules, training_data
from sfolib.problems.specs import Quadratic
from sfolib.schedules.adaptive.base import Description
from sfolib.schedules.base import interpolated
from sfolib.schedules.plan import Plan
from sfolib.schedules.published import in_budget
from sfolib.schedules.theoretical import front_plan
from sfolib.theory.bounds import norm_target
from sfolib.training.loop import Trainer
from sfolib.training.spec import Spec

Objective = Literal["grad_norm", "loss", "time"]
ANYTIME = "SuccessiveGradientTest"  # the policy of --anytime
SAFETY = 0.5  # of the largest stable lr
# predictions that differ by less are not told apart, and steps decide
_ALIKE = {"grad_norm": 1.03, "time": 1.03, "loss": 1.002}
_MOST = 40  # stages of a worst-case plan
_TIMINGS = 3
_POINTS = 60  # of a ramp


class Timing(NamedTuple):
    """τ0 and τ1 by several independent measurements; step_time is the middle one."""

    measured: tuple[StepTime, ...]

    @property
    def step_time(self) -> StepTime:
        return StepTime(*(float(np.median(values)) for values in zip(*self.measured, strict=True)))

    def seconds(self, steps: float, samples: float) -> np.ndarray:
        """By each of the measurements."""
        return np.array([found.latency * steps + found.per_sample * samples for found in self.measured])

    def __str__(self) -> str:
        (l0, l1), (s0, s1) = ((min(values), max(values)) for values in zip(*self.measured, strict=True))
        return f"τ0 {l0:.3g} to {l1:.3g} s a step, τ1 {s0:.3g} to {s1:.3g} s a gradient evaluation"


@dataclass(frozen=True)
class Recommendation:
    """spec: a run of the schedule to use, ready for `training.run`. table: it and the config's own, a row each, with
    what they are predicted to end with. paths: the same along both runs. notes: what decided, in sentences. probes:
    gradient evaluations spent."""

    spec: Spec
    table: pd.DataFrame
    paths: dict[str, pd.DataFrame]
    notes: list[str]
    probes: int

    def __str__(self) -> str:
        shown = self.table.to_string(index=False, float_format="{:.4g}".format, na_rep="")
        return "\n".join([shown, "", *self.notes])


@checked
def recommend(
    spec: Spec,
    *,
    budget: Count | None = None,
    eps: Positive | None = None,
    anytime: bool = False,
    objective: Objective = "grad_norm",
    max_batch_size: Count | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Recommendation:
    """T13, T15, T16 [N]: the schedule to use in place of `spec`'s own for its problem, and both as they are predicted.

    One of
    - budget (gradient evaluations; spec.max_samples if none is given): the least E‖∇f‖², or E f with objective "loss",
      at its end, of what is predicted no worse than spec's own in the other of the two where there is such. With
      "time" the budget is the seconds that spec's own takes here for its gradient evaluations.
    - eps: the fewest gradient evaluations to E‖∇f‖² ≤ eps²; seconds with "time".
    - anytime: `SuccessiveGradientTest`, good at every ε on the way (T14); it adapts, and is not predicted.
    lr is `cautious_lr`, at most; the batch is held and then follows 1/√κ, see `horizon.ramps`. Schedules
    whose predictions are alike (within 3 %, f within 0.2 %) are settled by steps. Above max_batch_size (and the data
    set's size) lr cools down in the batch's place.
    Everything but "time" is a function of the arguments. "time" measures this machine, three times; where these do not
    agree on one schedule, it is that of the fewest gradient evaluations and a note says so.
    Raises `InputError` for optimizers but SGD, where eps is not reached on the path of spec's budget, and for both
    budget and eps.
    """
    require(spec.plan is not None, "plan", None, "is needed, to be compared with")
    asked = [name for name, given in (("budget", budget), ("eps", eps), ("anytime", anytime or None)) if given]
    require(len(asked) <= 1, " and ".join(asked), True, "one of them at most")
    require(eps is None or objective != "loss", "objective", objective, "must be grad_norm or time with eps")
    if eps is not None:
        norm_target(eps)
    if budget is not None:
        spec = spec.model_copy(update={"max_samples": int(budget)})
    top = min(max_batch_size or math.inf, getattr(spec.problem, "size", math.inf))
    stable = stable_lr(spec, device)
    lr = cautious_lr(stable, spec.optimizer.momentum)
    if anytime:
        return _anytime(spec, lr, top, stable)
    return _at_horizon(spec, lr, top, stable, eps, objective, device, progress)


@checked
def stable_lr(spec: Spec, device: str = "auto") -> StableLr:
    """`largest_stable_lr` at the start of `spec`'s first seed. Raises `InputError` for optimizers but SGD."""
    momentum = getattr(spec.optimizer, "momentum", None)
    require(momentum is not None, "optimizer", spec.optimizer.kind, "must be 'sgd': T15 is of SGD")
    if isinstance(spec.problem, Quadratic):
        edge = 2 * (1 + momentum) / float(spec.problem.exact.eigenvalues.max())
        return StableLr(edge, edge, None, 0)
    task = Trainer(spec.model_copy(update={"seeds": spec.seeds[:1]}), device).task
    (model,), (x, y) = modules(task), training_data(task)
    return largest_stable_lr(model, CE, x, y, l2=spec.problem.l2, momentum=momentum, seed=spec.seeds[0])


def cautious_lr(stable: StableLr, momentum: float) -> float:
    """Half of the largest stable lr; with momentum m what makes steps as long, × (1 − m)/(1 + m) [N]: there curvature
    bears (1 + m) times more, and the noise of a run goes with η/(1 − m)."""
    return SAFETY * stable.lr * (1 - momentum) / (1 + momentum)


def _at_horizon(spec, lr, top, stable, eps, objective, device, progress) -> Recommendation:
    permuted = spec.sampling == "permutation" and not isinstance(spec.problem, Quadratic)
    n = spec.problem.samples_per_epoch
    sizes, rates = horizon.steps_of(spec.plan, spec.max_samples, n, permuted)
    own_time = float(rates.sum()) / (1 - spec.optimizer.momentum)
    eta = lr / (1 - spec.optimizer.momentum)
    power = 1 if objective == "loss" else 2

    def best_of(path: Path, costs: StepTime | None = None, aim: Objective = objective) -> Ramp | None:
        if eps is not None:
            made = horizon.ramps(path, lr, power, eps2=eps**2)
        else:
            made = horizon.ramps(path, lr, power, _room(spec, path.judge(sizes, rates), costs))
        return _best(made, path.judge(sizes, rates), eps, aim, costs) if made else None

    def enough(path: Path) -> bool:
        """Whether what is best so far ends well within the path."""
        if path.time[-1] < horizon.MARGIN * own_time:
            return False
        best = best_of(path)
        return best is not None and 1.5 * horizon.MARGIN * best.steps * eta < path.time[-1]

    # no batch below 1; and no more than so many times the gradient evaluations of the budget
    most = min(spec.max_samples, horizon.most_steps(spec, n))
    longest = horizon.MARGIN * max(own_time, eta * most)
    path = horizon.noise_free_path(spec, lr, longest, device, progress, enough)
    own = path.judge(sizes, rates)
    timing = _timing(spec, device) if objective == "time" else None
    chosen, notes = [best_of(path, costs) for costs in (timing.measured if timing else [None])], []
    best = chosen[len(chosen) // 2]
    require(best is not None or eps is None, "eps", eps, "is not reached in the budget's gradient evaluations")
    require(best is not None, "budget", spec.max_samples, "is too little for any schedule that can be predicted")
    if eps is None:
        worse = [name for name, field in (("‖∇f‖²", "grad_sqnorm"), ("loss", "loss"))
                 if getattr(best, field) > getattr(own, field)]  # fmt: skip
        if worse:
            notes.append(
                f"predicted to end above the config's own in {' and '.join(worse)}: no schedule found does not"
            )
    if timing:
        notes.append(f"timings: {timing}")
        if len({(found.batch_size, round(math.log(found.steps), 1)) for found in chosen}) > 1:
            best = best_of(path, aim="grad_norm")
            notes.append("timings do not decide: this is the schedule of the fewest gradient evaluations")
    plan, samples = _plan(best, top)
    recommended = spec.model_copy(update={"plan": plan, "max_samples": samples})
    steps = horizon.steps_of(plan, samples, n, permuted)
    ends = {"recommended": (path.judge(*steps), steps), "config": (own, (sizes, rates))}
    rows = [_row(name, end, taken, timing) for name, (end, taken) in ends.items()]
    swept = "" if stable.swept is None else f", {stable.swept:.3g} by a sweep"
    m = spec.optimizer.momentum
    part = f", times (1 − m)/(1 + m) for momentum m = {m:g}" if m else ""
    edge = f"({'2(1 + m)' if m else '2'}/λ_max {stable.edge:.3g}{swept})"
    notes[:0] = [f"lr {lr:.4g}: half of the largest stable one, {stable.lr:.3g} {edge}{part}", *_cooled(lr, *steps)]
    if rates.max() > stable.lr or not math.isfinite(own.grad_sqnorm):
        beyond = (
            "beyond the largest stable one of the start" if rates.max() > stable.lr else "beyond what T15 can follow"
        )
        reaches = f"config: its lr reaches {rates.max():.3g}, {beyond}"
        notes.append(f"{reaches}: it may diverge, and what is predicted of it, if anything, holds only if it does not")
    spent = path.probes + stable.samples
    notes.append(f"cost: {spent} gradient evaluations, {spent / samples:.3g} times the recommended run's own")
    paths = {name: _along(path, *taken) for name, (_, taken) in ends.items()}
    return Recommendation(recommended, pd.DataFrame(rows), paths, notes, spent)


def _room(spec: Spec, own: Ends, costs: StepTime | None) -> Callable[[float], float]:
    if costs is None:
        return lambda steps: spec.max_samples
    seconds = costs.latency * own.steps + costs.per_sample * own.samples
    return lambda steps: (seconds - costs.latency * steps) / costs.per_sample


def _best(made: list[Ramp], own: Ends, eps: float | None, objective: Objective, costs: StepTime | None) -> Ramp:
    """The least of what is asked for; of those alike, that of the fewest steps."""
    if eps is not None:
        value = [r.samples if costs is None else costs.latency * r.steps + costs.per_sample * r.samples for r in made]
    else:
        value = [r.loss if objective == "loss" else r.grad_sqnorm for r in made]
        other = [r.grad_sqnorm <= own.grad_sqnorm if objective == "loss" else r.loss <= own.loss for r in made]
        if any(other):
            made, value = zip(*[(r, v) for r, v, ok in zip(made, value, other, strict=True) if ok], strict=True)
    least = min(value)
    return min((r for r, v in zip(made, value, strict=True) if v <= _ALIKE[objective] * least), key=lambda r: r.steps)


def _plan(best: Ramp, top: float) -> tuple[Plan, int]:
    """The ramp on the clock of gradient evaluations."""
    budget = math.floor(best.samples)
    shares = np.linspace(1.0, 0.0, _POINTS)
    held = best.left[best.sizes > best.batch_size * 1.001]
    start = held.max() if len(held) else best.left.max()
    left = min(start, budget) * shares
    growth = np.maximum(np.interp(left, best.left, best.sizes) / best.batch_size, 1.0)
    times, kept = np.unique(np.floor(budget - left).astype(int), return_index=True)
    most = None if top == math.inf else int(top)
    batch_size = min(best.batch_size, most or math.inf)
    lr = best.lr * batch_size / best.batch_size  # T8: the same η/b, and as far along the path in more steps
    cooled = interpolated((lr / growth[kept]).tolist(), times.tolist())
    return in_budget(batch_size, cooled, budget, 1.0, most), budget


def _cooled(lr: float, sizes: np.ndarray, rates: np.ndarray) -> list[str]:
    """Why the lr of a recommended run is not `lr` all along, in a sentence; none where it is."""
    why = []
    if rates[0] < 0.999 * lr:
        why.append(f"begins at {rates[0]:.3g}, as the ramp is above b = {sizes[0]:.0f} from the first step on")
    if rates.min() < 0.999 * rates[0]:
        why.append(f"falls to {rates.min():.3g}, in place of batches above {sizes.max():.0f}")
    note = (
        f"the table's lr {' and '.join(why)}: noise goes with η/b, so a smaller lr does what a larger batch would (T8)"
    )
    return [note] if why else []


def _row(name: str, ends: Ends, steps: tuple[np.ndarray, np.ndarray], timing: Timing | None) -> dict:
    sizes, rates = steps
    row = {
        "schedule": name,
        "batch_size": f"{sizes[0]:.0f} to {sizes.max():.0f}", "lr": f"{rates[0]:.3g} to {rates[-1]:.3g}",
        "grad_sqnorm": ends.grad_sqnorm, "loss": ends.loss, "steps": ends.steps, "samples": ends.samples,
    }  # fmt: skip
    if timing:
        low, *_, high = np.sort(timing.seconds(ends.steps, ends.samples))
        row["seconds"] = f"{low:.3g} to {high:.3g}"
    return row


def _along(path: Path, sizes: np.ndarray, rates: np.ndarray) -> pd.DataFrame:
    """samples, batch_size, lr, grad_sqnorm, loss at some points of a run, but for the small last batches of epochs."""
    samples = np.cumsum(sizes)
    evenly = np.searchsorted(samples, samples[-1] * np.linspace(0.05, 1, 40)) + 1
    ends = np.unique(np.concatenate([np.geomspace(4, len(sizes), 20).astype(int), np.minimum(evenly, len(sizes))]))
    ends = np.unique([k - 1 if 1 < k < len(sizes) and sizes[k - 1] < sizes[k - 2] else k for k in ends])
    found = [path.judge(sizes[:k], rates[:k]) for k in ends]
    columns = {"samples": samples[ends - 1], "batch_size": sizes[ends - 1], "lr": rates[ends - 1]}
    return pd.DataFrame(columns | {"grad_sqnorm": [e.grad_sqnorm for e in found], "loss": [e.loss for e in found]})


def _anytime(spec: Spec, lr: float, top: float, stable: StableLr) -> Recommendation:
    require(ANYTIME in Description.kinds, "anytime", True, f"needs the policy {ANYTIME}, which is not there")
    batch_size = spec.plan.at(0)[0]
    policy = {"kind": ANYTIME, "batch_size": batch_size, "lr": lr}
    if top < math.inf:
        policy["max_batch_size"] = int(top)
    changed = {"plan": None, "policy": policy, "seeds": spec.seeds[:1], "log_train_metrics": False}
    recommended = Spec(**spec.model_dump() | changed)
    row = {"schedule": ANYTIME, "batch_size": f"from {batch_size}", "lr": f"{lr:.4g}", "samples": spec.max_samples}
    notes = ["it adapts to the run: nothing is predicted", f"cost: {stable.samples} gradient evaluations"]
    return Recommendation(recommended, pd.DataFrame([row]), {}, notes, stable.samples)


# ------------------------------------------------------------------------------------------------- worst cases
class WorstCase(NamedTuple):
    """estimates: L, σ², Δ and how each was obtained; step_time: τ0, τ1 of this machine, where they were asked for;
    first_eps: ‖∇f(θ₀)‖/√r, the first stage's aim; spec: a run of the plan, ready for `training.run`."""

    estimates: list[Estimate]
    step_time: StepTime | None
    first_eps: float
    spec: Spec

    @property
    def table(self) -> str:
        """The constants, the machine and the stages, each with the time that it will take here."""
        shown = self.spec.plan.stages[["stage", "eps", "batch_size", "lr", "steps", "samples"]]
        lines = [constants.table(self.estimates)]
        if self.step_time:
            latency, per_sample = self.step_time
            shown = shown.assign(seconds=latency * shown["steps"] + per_sample * shown["samples"])
            lines.append(f"τ0     {latency:.3g} s a step, τ1 {per_sample:.3g} s a gradient evaluation")
        return "\n".join([*lines, "", shown.to_string(index=False, float_format="{:.4g}".format)])


@checked
def worst_case(
    spec: Spec,
    objective: Literal["time", "samples"] = "samples",
    r: Above1 = 2.0,
    max_batch_size: Count | None = None,
    device: str = "auto",
) -> WorstCase:
    """T11, T12 [N]: stages on the front of steps and gradient evaluations for `spec`'s problem, ε² / r a stage.

    The constants are `constants.estimate`'s along `spec`'s own plan, the step time is measured here and now for
    objective "time"; see `theoretical.front_plan`. As many stages as spec.max_samples holds; at least one, cut short
    where it is too long. The batch is at most `max_batch_size`, and at most the training set.
    The bounds are worst cases: stages are longer and batches larger than a run needs, by an order of magnitude and more
    on digits; `recommend` is for use.
    Raises `InputError` for the quadratic, and where a step's time does not grow with its batch.
    """
    require(spec.plan is not None, "plan", None, "is needed: the constants are measured along it")
    estimates = constants.estimate(spec, device)
    c = constants.as_constants(estimates)
    first_eps = (_start(spec, device) / r) ** 0.5
    costs = _step_time(spec, device) if objective == "time" else None
    top = min(max_batch_size or spec.problem.size, spec.problem.size)

    def stages(count: int) -> Plan:
        return front_plan(c, first_eps, r, count, objective, max_batch_size=top, **(costs._asdict() if costs else {}))

    ends = np.cumsum([row.samples for row in stages(_MOST).rows])
    plan = stages(max(1, int(np.searchsorted(ends, spec.max_samples, side="right"))))
    return WorstCase(estimates, costs, first_eps, spec.model_copy(update={"plan": plan}))


def _start(spec: Spec, device: str) -> float:
    """‖∇f(θ₀)‖² of the first seed."""
    return float(Trainer(spec.model_copy(update={"seeds": spec.seeds[:1]}), device).task.measure()["grad_sqnorm"][0])


# -------------------------------------------------------------------------------------------------- this machine
def _timing(spec: Spec, device: str) -> Timing:
    found = []
    for _ in range(2 * _TIMINGS):
        try:
            found.append(_step_time(spec, device))
        except InputError:  # noise had it that larger batches take no longer
            continue
        if len(found) == _TIMINGS:
            return Timing(tuple(found))
    raise InputError("objective = 'time': a step's time could not be measured here; something else is running")


def _step_time(spec: Spec, device: str) -> StepTime:
    """Timed at batch sizes that grow eightfold, until a step takes three times as long as at b = 1."""
    batches, seconds = [1], []
    while True:
        seconds += step_time.measure_step_time(spec.problem, batches[-1:], steps=20, repeats=3, device=device).tolist()
        if len(batches) > 1 and (seconds[-1] > 3 * seconds[0] or 8 * batches[-1] > spec.problem.samples_per_epoch):
            return step_time.fit_step_time(batches, seconds)
        batches.append(8 * batches[-1])
