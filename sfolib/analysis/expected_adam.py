"""T15 for Adam [N]: near a point Adam is SGD with momentum β1 in the metric P = 1/(√v̂ + ε) of its second moment.

v̂ averages squares of *batch* gradients, so that E v is known coordinate by coordinate from its own recursion,
E v ← β2 E v + (1 − β2) E g², E g² = (∇f)² + diag HCH + diag Σ/b.
Dropped: how v̂ fluctuates, and that it holds the gradient that it divides. Both are of the order of 1/t in the first
t steps and of 1 − β2 later, times how heavy the tails of a batch gradient are. What was measured: docs/prediction.md.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sfolib.problems.stacked import MLP, NoisyQuadratic, dense
from sfolib.training.optimizers import Adam

BETA1, EPS = 0.9, 1e-8  # torch's
_FORGOTTEN = 1e-4  # β1^t from which on the first moment has lost its start


class ExpectedAdam:
    """Steps of Adam on `task`, of one seed, with ∇f for its gradient and E g² for its square.

    Draws are independent. spread: diag HCH when it was last known, (P,), in the order of `modules`.
    """

    def __init__(self, task: MLP | NoisyQuadratic, optimizer: Adam):
        self.task, self.beta2, self.steps = task, optimizer.beta2, 0
        self.sizes = [p.numel() for p in task.parameters]
        places = torch.arange(sum(self.sizes)).double()
        if isinstance(task, MLP):
            parts = [
                part.reshape(p[0].shape) for part, p in zip(places.split(self.sizes), task.parameters, strict=True)
            ]
            places = torch.cat([p.detach().reshape(-1) for p in dense(parts).parameters()])
        self.places = places.long()  # of the order of `modules` in that of the task
        self.spread = np.zeros(len(places))
        self.m, self.v = task.parameters[0].new_zeros(2, len(places))

    def __call__(self, batch_size: float, lr: float) -> None:
        """One step."""
        gradient, self.v = self._moments(batch_size)
        self.m, self.steps = torch.lerp(gradient, self.m, BETA1), self.steps + 1
        step = -lr / (1 - BETA1**self.steps) * self.m * self._metric(self.v, self.steps)
        for parameter, part in zip(self.task.parameters, step.split(self.sizes), strict=True):
            parameter += part.view_as(parameter)

    def metric(self, batch_size: float) -> np.ndarray:
        """The diagonal of P in the step that comes next, (P,), in the order of `modules`."""
        P = self._metric(self._moments(batch_size)[1], self.steps + 1)
        return P[self.places.to(P.device)].double().cpu().numpy()

    def sgd_lr(self, lr: np.ndarray) -> np.ndarray:
        """The lr of steps that follow, as SGD's momentum, a sum where Adam's is a mean, has it."""
        left = BETA1 ** np.arange(self.steps + 1, self.steps + 1 + len(lr))
        return lr * (1 - BETA1) / (1 - np.where(left < _FORGOTTEN, 0.0, left))

    def _moments(self, batch_size: float) -> tuple[Tensor, Tensor]:
        """∇f, and E v after a step from here."""
        gradient, variance = (torch.cat([part.reshape(-1) for part in of]) for of in self.task.moments())
        around = torch.zeros_like(gradient)
        around[self.places] = torch.from_numpy(self.spread).to(around)
        around *= (gradient != 0) | (variance > 0)  # what no gradient moves must not be moved by rounding
        square = gradient.square() + around + variance / batch_size
        return gradient, torch.lerp(square, self.v, self.beta2)

    def _metric(self, v: Tensor, steps: int) -> Tensor:
        """1 where no gradient ever is: such a coordinate does not move."""
        return torch.where(v > 0, 1 / ((v / (1 - self.beta2**steps)).sqrt() + EPS), 1.0)
