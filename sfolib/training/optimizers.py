"""How a gradient becomes a step. Parameters have a leading dimension of seeds (`problems.tasks`) and so has all state.

torch's optimizers work element by element, which makes stacked seeds as good as separate ones; AdaGrad-Norm's scalar is
kept per seed.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from sfolib._utils.errors import require

Optimizer = Literal["sgd", "momentum", "nesterov", "adam", "adamw", "adagrad", "adagrad_norm"]
BETA2 = 0.999  # torch's default
_TINY = 1e-10  # added to the root of a sum of squares, as torch's Adagrad does


class Update(Protocol):
    """One step of `parameters`, in place; its state is all that a resumed run needs beside the parameters."""

    def __call__(self, gradients: list[Tensor], lr: float) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def build(
    name: Optimizer, parameters: list[Tensor], momentum: float = 0.0, weight_decay: float = 0.0, beta2: float = BETA2
) -> Update:
    """The update by name. weight_decay adds weight_decay·θ to the gradient, but for "adamw", which decouples it.

    momentum: of "momentum" and "nesterov" alone. beta2: of "adam" and "adamw" alone, whose second moment is remembered
    over 1/(1 − beta2) steps. The rest of torch's settings are torch's defaults.
    Raises `InputError` for a momentum or beta2 that the optimizer would not use, or a momentum that it needs and is 0.
    """
    has_momentum = name in ("momentum", "nesterov")
    wanted = "must be above 0" if has_momentum else "must be 0"
    require((momentum > 0) == has_momentum, "momentum", momentum, f"{wanted} where optimizer = {name!r}")
    has_moments = name in ("adam", "adamw")
    require(has_moments or beta2 == BETA2, "beta2", beta2, f"must be {BETA2} where optimizer = {name!r}")
    if name == "sgd" and not weight_decay:
        return PlainSGD(parameters)
    if name == "adagrad_norm":
        return AdaGradNorm(parameters, weight_decay)
    settings = {"weight_decay": weight_decay, "foreach": True}
    if name in ("sgd", "momentum", "nesterov"):
        return FromTorch(torch.optim.SGD, parameters, momentum=momentum, nesterov=name == "nesterov", **settings)
    if name == "adagrad":
        return FromTorch(torch.optim.Adagrad, parameters, **settings)
    with_moments = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return FromTorch(with_moments, parameters, betas=(0.9, beta2), **settings)


class PlainSGD:
    """θ ← θ − lr g, one call for all parameters."""

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters

    def __call__(self, gradients: list[Tensor], lr: float) -> None:
        torch._foreach_add_(self.parameters, gradients, alpha=-lr)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class FromTorch:
    """An optimizer of torch.optim, its learning rate set before every step."""

    def __init__(self, cls: type[torch.optim.Optimizer], parameters: list[Tensor], **settings: Any):
        self.parameters = parameters
        self.optimizer = cls(parameters, lr=1.0, **settings)
        self.state_dict = self.optimizer.state_dict
        self.load_state_dict = self.optimizer.load_state_dict

    def __call__(self, gradients: list[Tensor], lr: float) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()


class AdaGradNorm:
    """One step size for the whole model: a² ← a² + ‖g‖², θ ← θ − lr g/a, from a² = 0 (Ward, Wu & Bottou,
    "AdaGrad stepsizes"; used with growing batches by AdAdaGrad). The first step has length lr."""

    def __init__(self, parameters: list[Tensor], weight_decay: float):
        self.parameters, self.weight_decay = parameters, weight_decay
        self.sqsum = parameters[0].new_zeros(len(parameters[0]))  # (seeds,)

    def __call__(self, gradients: list[Tensor], lr: float) -> None:
        if self.weight_decay:
            gradients = torch._foreach_add(gradients, self.parameters, alpha=self.weight_decay)
        self.sqsum += sum(g.flatten(1).square().sum(1) for g in gradients)
        step = -lr / (self.sqsum.sqrt() + _TINY)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.addcmul_(gradient, step.view(-1, *[1] * (gradient.dim() - 1)))

    def state_dict(self) -> dict[str, Any]:
        return {"sqsum": self.sqsum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sqsum.copy_(state["sqsum"])
