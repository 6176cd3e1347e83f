"""The plan that the theory recommends for a problem and this machine, from what can be measured in a few seconds."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from sfolib._utils.errors import require
from sfolib.analysis import constants, step_time
from sfolib.analysis.constants import Estimate
from sfolib.analysis.step_time import StepTime
from sfolib.schedules.plan import Plan
from sfolib.schedules.theoretical import front_plan
from sfolib.training.loop import Trainer
from sfolib.training.spec import Spec

_MOST = 40  # stages

Objective = Literal["time", "samples"]


class Recommendation(NamedTuple):
    """estimates: L, σ², Δ and how each was obtained; step_time: τ0, τ1 of this machine; first_eps: ‖∇f(θ₀)‖/√r, the
    first stage's aim; spec: a run of the plan, ready for `training.run`."""

    estimates: list[Estimate]
    step_time: StepTime
    first_eps: float
    spec: Spec

    @property
    def table(self) -> str:
        """The constants, the machine and the stages, each with the time that it will take here."""
        stages = self.spec.plan.stages
        seconds = self.step_time.latency * stages["steps"] + self.step_time.per_sample * stages["samples"]
        shown = stages[["stage", "eps", "batch_size", "lr", "steps", "samples"]].assign(seconds=seconds)
        machine = (
            f"τ0     {self.step_time.latency:.3g} s a step, τ1 {self.step_time.per_sample:.3g} s a gradient evaluation"
        )
        return "\n".join(
            [constants.table(self.estimates), machine, "", shown.to_string(index=False, float_format="{:.4g}".format)]
        )


def recommend(
    spec: Spec, objective: Objective = "time", r: float = 2.0, max_batch_size: int | None = None, device: str = "auto"
) -> Recommendation:
    """T11, T12 [N]: stages on the front of steps and gradient evaluations for `spec`'s problem, ε² / r a stage.

    The constants are `constants.estimate`'s along `spec`'s own plan, the step time is measured here and now; see
    `theoretical.front_plan` for the objectives. As many stages as spec.max_samples holds; at least one, cut short where
    it is too long. The batch is at most `max_batch_size`, and at most the training set.
    The bounds are worst cases: stages are longer and batches larger than a run needs by a factor that a search for the
    best constant pair would tell.
    Raises `InputError` for the quadratic, and where a step's time does not grow with its batch.
    """
    require(spec.plan is not None, "plan", None, "is needed: the constants are measured along it")
    estimates = constants.estimate(spec, device)
    c = constants.as_constants(estimates)
    first_eps = (_start(spec, device) / r) ** 0.5
    step_time = _step_time(spec, device)
    top = min(max_batch_size or spec.problem.size, spec.problem.size)

    def stages(count: int) -> Plan:
        costs = step_time._asdict() if objective == "time" else {}
        return front_plan(c, first_eps, r, count, objective, max_batch_size=top, **costs)

    ends = np.cumsum([row.samples for row in stages(_MOST).rows])
    plan = stages(max(1, int(np.searchsorted(ends, spec.max_samples, side="right"))))
    return Recommendation(estimates, step_time, first_eps, spec.model_copy(update={"plan": plan}))


def _start(spec: Spec, device: str) -> float:
    """‖∇f(θ₀)‖² of the first seed."""
    return float(Trainer(spec.model_copy(update={"seeds": spec.seeds[:1]}), device).task.measure()["grad_sqnorm"][0])


def _step_time(spec: Spec, device: str) -> StepTime:
    """Timed at batch sizes that grow eightfold, until a step takes three times as long as at b = 1."""
    batches, seconds = [1], []
    while True:
        seconds += step_time.measure_step_time(spec.problem, batches[-1:], steps=20, repeats=3, device=device).tolist()
        if len(batches) > 1 and (seconds[-1] > 3 * seconds[0] or 8 * batches[-1] > spec.problem.size):
            return step_time.fit_step_time(batches, seconds)
        batches.append(8 * batches[-1])
