"""The optimizers, by description; `updates.build` makes them. All else is torch's default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sfolib._utils.errors import require
from sfolib._utils.model import Family, any_of

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Family):
    """weight_decay adds weight_decay·θ to the gradient, but for `AdamW`, which decouples it."""

    weight_decay: float = Field(0.0, ge=0, le=1e30)


class SGD(Optimizer):
    """θ ← θ − lr v, v the sum of momentum^k times the k-th last gradient; nesterov: the next v, by this gradient."""

    kind: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov(self) -> SGD:
        require(self.momentum > 0 or not self.nesterov, "momentum", self.momentum, "must be above 0 for nesterov")
        return self


class Adam(Optimizer):
    """beta2: the second moment is remembered over 1/(1 − beta2) steps."""

    kind: Literal["adam"] = "adam"
    beta2: Fraction = 0.999


class AdamW(Adam):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"


class AdaGrad(Optimizer):
    """lr over the root of the sum of squares of each coordinate's gradients."""

    kind: Literal["adagrad"] = "adagrad"


class AdaGradNorm(Optimizer):
    """lr over the root of the sum of ‖g‖², one for the whole model (Ward, Wu & Bottou, "AdaGrad stepsizes"; used with
    growing batches by AdAdaGrad). The first step has length lr."""

    kind: Literal["adagrad_norm"] = "adagrad_norm"


AnyOptimizer = any_of(Optimizer)
