"""What decides a run's numbers, checked before anything is written."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from sfolib._utils.errors import require
from sfolib._utils.model import Model
from sfolib.problems.specs import PLACE, AnyProblem
from sfolib.schedules import adaptive  # noqa: F401  whose policies are known by their kinds
from sfolib.schedules.adaptive.base import Description, Policy
from sfolib.schedules.adaptive.horizon_ramp import HorizonRamp
from sfolib.schedules.base import Schedule
from sfolib.schedules.plan import Plan
from sfolib.training.optimizers import SGD, AnyOptimizer

SCHEMA = 3  # raise it when the same spec no longer means the same numbers


def _described(value: Any) -> Any:
    return value.description if isinstance(value, Policy) else Description.of(value)


AnyPolicy = Annotated[SerializeAsAny[Description], BeforeValidator(_described)]


class NoiseProbes(Model):
    """Estimates of the noise scale as further columns of a run that follows a plan.

    loop_sqnorm, loop_variance: `NoiseScale` (with `decay`) of every step's batch and its `parts`; a batch that they do
    not divide is only trained on. With size > 0 (even; dense networks only), at the measuring points: probe_sqnorm and
    probe_variance, from the statistics of so many fresh samples a seed, and curvature_noise, an unbiased sample of
    tr(HΣ); these are counted as probes.
    """

    model_config = ConfigDict(strict=True)
    parts: int = Field(2, ge=2)
    decay: float = Field(0.99, ge=0, lt=1)
    size: int = Field(0, ge=0, multiple_of=2)


class Workers(Model):
    """AdaScale: the plan's constant batch, taken by `scale` workers, at a single worker's constant lr times the gain.

    Each seed goes at its own pace; the run ends when all have made so many scale-invariant `iterations`. Further
    columns: tau, the iterations so far, and gain; lr is the gain's. Every worker's gradient is counted.
    """

    model_config = ConfigDict(strict=True)
    scale: int = Field(ge=2)
    iterations: int = Field(ge=1)


class Spec(Model):
    """Everything that decides a run's numbers, but for rounding on another device.

    seeds: runs made at once, each its own batches. sampling: "replacement" is A3's assumption, "permutation" what
    data loaders do.
    max_samples: budget in gradient evaluations; the run ends with the step that reaches it.
    target_grad_norm: end after ten measuring points in a row whose mean ‖∇f‖² over seeds is at most its square; fewer
    could be a fluctuation, and `records.Run.first_crossing` looks at the points on both sides of a crossing.
    eval_every: ratio of the steps of successive measuring points, or "epoch" for the end of every epoch.
    optimizer: see `optimizers`; "adam" is `Adam()`. The measured f is without weight_decay.
    log_train_metrics: also the loss and accuracy of the batches as they were trained on, see `stacked.RunningMetrics`.
    For networks only: precision of the training steps ("bf16" is autocast; what is measured is measured in full),
    channels_last (None: for convolutions on the CPU, where it is faster), max_micro_batch (a larger batch is
    accumulated, see `network.NetworkTask`), grad_norms: "exact" is loss, accuracy and ‖∇f‖² of f itself; "published"
    is published_sqnorm in their place, as the authors' program takes it (see `gradients.full_gradient_sqnorm`; where
    there is neither BatchNorm nor augmentation it is the exact one, taken once). Without the exact norm there is no
    target_grad_norm, and what there is of the training loss is that of log_train_metrics. eval_samples: f and ‖∇f‖²
    from so many training images, a draw of each seed that is the same at every measuring point, with their standard
    errors (columns loss_error, grad_sqnorm_error); ‖∇f‖² is then unbiased and may be below 0, see
    `gradients.sampled_gradient_sqnorm`. None: all of them, exactly.
    noise_probes, workers: see `NoiseProbes` and `Workers`.
    policy: in place of plan, a policy of `adaptive`, or {"kind": its class, its arguments by name …}.
    """

    problem: AnyProblem
    plan: Plan | None = None
    max_samples: int = Field(ge=1, le=10**15)
    max_steps: int | None = Field(None, ge=1, le=10**15)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((0,), min_length=1)
    sampling: Literal["replacement", "permutation"] = "permutation"
    target_grad_norm: float | None = Field(None, gt=0, le=1e100)
    eval_every: Annotated[float, Field(gt=1, le=1e15)] | Literal["epoch"] = "epoch"
    dtype: Literal["float32", "float64"] = "float32"
    optimizer: AnyOptimizer = SGD()
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    channels_last: bool | None = None
    max_micro_batch: int | None = Field(None, ge=1)
    grad_norms: Literal["exact", "published", "both", "none"] = "exact"
    eval_samples: int | None = Field(None, ge=20, multiple_of=10)
    log_train_metrics: bool = False
    policy: AnyPolicy | None = None
    noise_probes: NoiseProbes | None = None
    workers: Workers | None = None

    @model_validator(mode="after")
    def _check_leader(self) -> Spec:
        require((self.plan is None) == (self.policy is not None), "plan", self.plan, "either a plan or a policy")
        if self.policy is not None and isinstance(policy := self.policy.build(), HorizonRamp):
            budget, most = policy.budget, self.max_samples
            require(budget == most, "policy.budget", budget, f"must be max_samples = {most}")
            looks = isinstance(self.optimizer, SGD) and policy.momentum == self.optimizer.momentum
            why = "must be sgd, of the policy's momentum, where it looks"
            require(looks or not policy.needs_looks, "optimizer", self.optimizer, why)
        for name in ("batch_size", "lr") if self.plan else ():
            value = getattr(self.plan, name)
            require(isinstance(value, Schedule), f"plan.{name}", value, "must be a Schedule, for the run to be stored")
        for name in ("noise_probes", "workers"):
            apart = getattr(self, name) is None or (self.policy is None and not self.log_train_metrics)
            require(apart, name, getattr(self, name), "is for a plan without log_train_metrics, not for a policy")
        require(self.noise_probes is None or self.workers is None, "workers", self.workers, "or noise_probes, not both")
        looks = self.policy is not None and self.policy.build().signal == "grad_norm"
        why = "must be None for a policy that looks at the gradient of all samples"
        require(self.eval_samples is None or not looks, "eval_samples", self.eval_samples, why)
        exact = self.grad_norms in ("exact", "both") or self.target_grad_norm is None
        require(exact, "target_grad_norm", self.target_grad_norm, "needs grad_norms = 'exact' or 'both'")
        if self.workers is not None:
            plain = self.optimizer == SGD()  # momentum and weight decay are not scaled by the gain
            require(
                self.plan.is_constant and plain,
                "workers",
                self.workers,
                "need plain SGD at a constant batch size and lr",
            )
        return self

    @property
    def leader(self) -> Plan | Policy:
        """What leads the run: its plan, or its policy at the start."""
        return self.plan or self.policy.build()

    @property
    def key(self) -> str:
        """Names this spec on disk: the same key, the same numbers."""
        fields = self.model_dump(mode="json")
        for name, field in type(self.problem).model_fields.items():
            if PLACE in field.metadata:
                fields["problem"].pop(name)
        for of, name in ((fields, "eval_samples"), (fields["problem"], "train_images")):
            if of.get(name, ()) is None:  # keys are those of before there was such a field: predictions go by them
                del of[name]
        text = json.dumps({"schema": SCHEMA, **fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
