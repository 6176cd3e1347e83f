"""How a gradient becomes a step. Parameters have a leading dimension of seeds (`problems.stacked`) and so has
all state.

torch's optimizers work element by element, which makes stacked seeds as good as separate ones; AdaGrad-Norm's scalar is
kept per seed.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from sfolib.training.optimizers import SGD, AdaGrad, AdaGradNorm, Adam, AdamW, Optimizer

_TINY = 1e-10  # added to the root of a sum of squares, as torch's Adagrad does


class Update(Protocol):
    """One step of `parameters`, in place; its state is all that a resumed run needs beside the parameters."""

    def __call__(self, gradients: list[Tensor], lr: float) -> None: ...

    def metric(self) -> list[Tensor] | None:
        """The diagonal of P, a tensor a parameter, in the step −lr Pv; None where it is 1, or not known yet."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def build(optimizer: Optimizer, parameters: list[Tensor]) -> Update:
    """The update that an optimizer's description says."""
    if optimizer == SGD():
        return PlainSGD(parameters)
    if isinstance(optimizer, AdaGradNorm):
        return NormUpdate(parameters, optimizer.weight_decay)
    settings = optimizer.model_dump(exclude={"kind", "beta2"})
    if isinstance(optimizer, Adam):
        settings["betas"] = (0.9, optimizer.beta2)
    makers = {SGD: torch.optim.SGD, Adam: torch.optim.Adam, AdamW: torch.optim.AdamW, AdaGrad: torch.optim.Adagrad}
    return FromTorch(makers[type(optimizer)], parameters, **settings)


class PlainSGD:
    """θ ← θ − lr g, one call for all parameters."""

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters

    def __call__(self, gradients: list[Tensor], lr: float) -> None:
        torch._foreach_add_(self.parameters, gradients, alpha=-lr)

    def metric(self) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class FromTorch:
    """An optimizer of torch.optim, its learning rate set before every step."""

    def __init__(self, cls: type[torch.optim.Optimizer], parameters: list[Tensor], **settings: Any):
        self.parameters = parameters
        self.optimizer = cls(parameters, lr=1.0, foreach=True, **settings)
        self.state_dict = self.optimizer.state_dict
        self.load_state_dict = self.optimizer.load_state_dict

    def __call__(self, gradients: list[Tensor], lr: float) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()

    def metric(self) -> list[Tensor] | None:
        state = [self.optimizer.state.get(parameter, {}) for parameter in self.parameters]
        if "sum" in state[0]:  # Adagrad: it has a sum from the start, of nothing
            return [1 / (s["sum"].sqrt() + _TINY) for s in state]
        if "exp_avg_sq" not in state[0]:
            return None
        group = self.optimizer.param_groups[0]
        correction = 1 - group["betas"][1] ** float(state[0]["step"])
        return [1 / ((s["exp_avg_sq"] / correction).sqrt() + group["eps"]) for s in state]


class NormUpdate:
    """AdaGrad-Norm: a² ← a² + ‖g‖², θ ← θ − lr g/a, from a² = 0 (Ward, Wu & Bottou,
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

    def metric(self) -> list[Tensor]:
        scale = 1 / (self.sqsum.sqrt() + _TINY)
        return [scale.view(-1, *[1] * (p.dim() - 1)).expand_as(p) for p in self.parameters]

    def state_dict(self) -> dict[str, Any]:
        return {"sqsum": self.sqsum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sqsum.copy_(state["sqsum"])
