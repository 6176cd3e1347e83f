"""A problem on a device, for several seeds at once: stochastic gradients, and everything measured on the whole of it.

Parameters, batches and measurements carry a leading dimension of seeds, so that one matrix product serves them all.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from sfolib._utils.distributed import SINGLE, ProcessGroup
from sfolib._utils.rng import Sampling, generator
from sfolib.problems.batches import Batches

_AT_ONCE = 1 << 20  # numbers of a layer's outputs that are measured at once: what a core's cache holds

threshold_backward = torch.ops.aten.threshold_backward  # of ReLU: the gradient where its input is above 0, else 0


class Task:
    """What the training loop needs of a problem."""

    samples_per_epoch: int
    parameters: list[Tensor]  # each (seeds, …)
    probes: int  # gradient evaluations that one `measure` costs
    ranks: ProcessGroup = SINGLE
    running_metrics: RunningMetrics | None = None

    def share_among(self, ranks: ProcessGroup) -> None:
        """Share the work with the other processes of the run."""
        self.ranks = ranks

    def batch_size(self, samples: int, nominal: int) -> int:
        """True size of the batch due after `samples` gradient evaluations."""
        raise NotImplementedError

    def gradients(self, step: int, samples: int, batch_size: int) -> list[Tensor]:
        """Gradient of the mean loss of the batch due then, one tensor a parameter; the same on every rank."""
        if self.ranks.size == 1:
            gradients, scores = self.part(step, samples, batch_size, batch_size)
        else:
            gradients, scores = self._together(step, samples, batch_size)
        if self.running_metrics:
            self.running_metrics.add(*scores, batch_size)
        return gradients

    def of_parts(self, step: int, samples: int, sizes: Sequence[int]) -> list[list[Tensor]]:
        """`gradients` of successive batches of these sizes at the same parameters, each a step by its number."""
        starts = [samples + sum(sizes[:i]) for i in range(len(sizes))]
        return [
            self.gradients(step + i, start, size) for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
        ]

    def part(self, step: int, start: int, count: int, batch_size: int) -> tuple[list[Tensor], Tensor | None]:
        """What `count` samples after the first `start` add to the gradient of the mean loss of a batch; where there is
        a tally also what they add to that loss and to the right answers, (2, seeds) in float64."""
        raise NotImplementedError

    def micro_batches(self, batch_size: int) -> list[tuple[int, int]] | None:
        """(first, size) of the pieces of a batch that the ranks must go through in step, even with no sample of their
        own; None where samples do not see each other."""
        return None

    def _together(self, step: int, samples: int, batch_size: int) -> tuple[list[Tensor], Tensor | None]:
        """Every rank's part of the batch, or of its pieces."""
        gradients = [torch.zeros_like(p) for p in self.parameters]
        scores = torch.zeros(2, len(gradients[0]), dtype=torch.float64, device=gradients[0].device)
        pieces = self.micro_batches(batch_size)
        for first, size in pieces or [(0, batch_size)]:
            share = self.ranks.shard(size)
            count = share.stop - share.start
            if count or pieces:
                found, score = self.part(step, samples + first + share.start, count, batch_size)
                torch._foreach_add_(gradients, found)
                scores += 0.0 if score is None else score
        self.ranks.all_reduce_([*gradients, scores])
        return gradients, scores

    def measure(self) -> dict[str, Tensor]:
        """Measurements on the whole problem, each (seeds,); draws no random number and changes no part of the run."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the clock and the optimizer's state."""
        return {"parameters": self.parameters} | (
            {"running_metrics": self.running_metrics.state_dict()} if self.running_metrics else {}
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(saved)
        if self.running_metrics:
            self.running_metrics.__dict__.update(state["running_metrics"])

    def provenance(self) -> dict[str, Any]:
        """What happened on the way that the numbers may show."""
        return {}

    @property
    def finished(self) -> bool:
        """Whether the run is over before its budget is."""
        return False

    def lr_factors(self) -> list[float] | None:
        """What each seed's lr is, over the plan's; None where all have the plan's."""
        return None


class RunningMetrics:
    """Loss and accuracy of the batches as they were trained on, over the steps since `take` was last called.

    The mean over steps of the batches' mean losses, and the share of samples that were right: what the authors'
    program logs as its training loss and accuracy. Stays on the device between calls of `take`.
    """

    def __init__(self, seeds: int, device: str):
        self.loss, self.right = torch.zeros(2, seeds, dtype=torch.float64, device=device)
        self.steps = self.samples = 0

    def add(self, loss: Tensor, right: Tensor, samples: int) -> None:
        """A step: mean loss and number of right answers, each (seeds,)."""
        self.loss += loss
        self.right += right
        self.steps, self.samples = self.steps + 1, self.samples + samples

    def take(self) -> dict[str, Tensor]:
        if not self.steps:
            return {}
        found = {"running_loss": self.loss / self.steps, "running_accuracy": self.right / self.samples}
        self.loss, self.right = torch.zeros_like(self.loss), torch.zeros_like(self.right)
        self.steps = self.samples = 0
        return found

    def state_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


class MLP(Task):
    """ReLU network with cross-entropy and ℓ2 on all parameters; no hidden layer is softmax regression.

    f_i(θ) = CE(θ; x_i, y_i) + (l2/2)‖θ‖².  Layer l's parameters are (seeds, out, in + 1), the bias its last column.
    Gradients are written out by hand: at small batches autograd's bookkeeping would cost more than the arithmetic.
    Samples run along the last axis, which torch's softmax is fastest across.
    """

    def __init__(
        self, train, test, hidden, classes, l2, seeds, sampling: Sampling, device, dtype, running: bool = False
    ):
        self.l2, self.running_metrics = l2, RunningMetrics(len(seeds), device) if running else None
        self.x, self.y = _augmented(*train, classes, device, dtype)
        self.test = _augmented(*test, classes, device, dtype)[0] if len(test[1]) else None
        self.labels, self.test_labels = (torch.as_tensor(labels, device=device) for _, labels in (train, test))
        self.x_sqnorm = self.x.square().sum(1)
        self.batches = Batches((self.x, self.y), seeds, sampling)
        self.samples_per_epoch = self.probes = len(self.x)
        self._module: nn.Sequential | None = None
        widths = [self.x.shape[1] - 1, *hidden, classes]
        self.parameters = [
            torch.stack([_layer(fan_in, fan_out, seed, layer, bool(hidden)) for seed in seeds]).to(device, dtype)
            for layer, (fan_in, fan_out) in enumerate(pairwise(widths))
        ]

    def batch_size(self, samples: int, nominal: int) -> int:
        return self.batches.size(samples, nominal)

    @torch.no_grad()
    def part(self, step: int, start: int, count: int, batch_size: int) -> tuple[list[Tensor], Tensor | None]:
        return self._part(*self.batches.take(start, count), batch_size)

    def _part(self, x: Tensor, y: Tensor, batch_size: int) -> tuple[list[Tensor], Tensor | None]:
        inputs, logits = self._forward(x)
        scores = None
        if self.running_metrics:
            loss = -(torch.log_softmax(logits, 1) * y.mT).sum(1).mean(1) * (x.shape[1] / batch_size)
            scores = torch.stack([loss.double(), (logits.argmax(1) == y.argmax(2)).sum(1).double()])
        return self._backward(inputs, torch.softmax(logits, 1).sub_(y.mT), batch_size)[0], scores

    @torch.no_grad()
    def of_parts(self, step: int, samples: int, sizes: Sequence[int]) -> list[list[Tensor]]:
        """Parts of one size of a single seed go side by side, as seeds do; to the same bits, which for a sample alone
        BLAS does not give."""
        k, size = len(sizes), sizes[0]
        if len(self.parameters[0]) > 1 or size == 1 or sizes.count(size) < k or self.ranks.size > 1:
            return super().of_parts(step, samples, sizes)
        x, y = (t[0].unflatten(0, (k, size)) for t in self.batches.take(samples, k * size))
        gradients, scores = self._with([p.expand(k, -1, -1) for p in self.parameters])._part(x, y, size)
        if self.running_metrics:
            for score in scores.split(1, dim=1):
                self.running_metrics.add(*score, size)
        # apart: what BLAS makes of numbers depends on where in memory they begin
        return [[g[i : i + 1].clone() for g in gradients] for i in range(k)]

    def _with(self, parameters: list[Tensor]) -> MLP:
        """The same task at other parameters."""
        other = copy.copy(self)
        other.parameters = parameters
        return other

    @torch.no_grad()
    def measure(self) -> dict[str, Tensor]:
        widest = max(p.shape[1] for p in self.parameters) * len(self.x)
        some = max(1, _AT_ONCE // widest) if self.x.device.type == "cpu" else len(self.parameters[0])
        parts = [self._with([*ps])._measure() for ps in zip(*(p.split(some) for p in self.parameters), strict=True)]
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return found | (self.running_metrics.take() if self.running_metrics else {})

    def _measure(self) -> dict[str, Tensor]:
        seeds, n, share = len(self.parameters[0]), len(self.x), self.ranks.shard(len(self.x))
        x, y = self.x[share], self.y[share]
        inputs, logits = self._forward(x.expand(seeds, -1, -1))
        scores = _scores("", logits, self.labels[share])
        gradients, deltas = self._backward(inputs, torch.softmax(logits, 1).sub_(y.T), n)
        # ‖∇f_i‖² of a layer is ‖input_i‖²‖delta_i‖²; the ℓ2 term is the same for every i and has no variance.
        sqnorms = [self.x_sqnorm[share], *(a.square().sum(1) for a in inputs[1:])]
        second_moment = sum((a * d.square().sum(1)).mean(1) for a, d in zip(sqnorms, deltas, strict=True))
        *means, second_moment = self.ranks.mean([*scores.values(), second_moment], len(x) / n)
        found = dict(zip(scores, means, strict=True))
        self.ranks.all_reduce_(gradients)
        found["loss"] += 0.5 * self.l2 * sum(p.square().sum((1, 2)) for p in self.parameters)
        found["grad_sqnorm"] = sum(g.square().sum((1, 2)) for g in gradients)
        mean = [g - self.l2 * p for g, p in zip(gradients, self.parameters, strict=True)]
        found["variance"] = second_moment - sum(m.square().sum((1, 2)) for m in mean)
        if self.test is not None:
            share = self.ranks.shard(len(self.test))
            x, labels = self.test[share], self.test_labels[share]
            scores = _scores("test_", self._forward(x.expand(seeds, -1, -1))[1], labels)
            weight = len(x) / len(self.test)
            found |= dict(zip(scores, self.ranks.mean([*scores.values()], weight), strict=True))
        return found

    @torch.no_grad()
    def moments(self) -> tuple[list[Tensor], list[Tensor]]:
        """∇f, and the variance of one sample's gradient coordinate by coordinate (the diagonal of Σ), as parameters."""
        inputs, logits = self._forward(self.x.expand(len(self.parameters[0]), -1, -1))
        n = len(self.x)
        gradients, deltas = self._backward(inputs, torch.softmax(logits, 1).sub_(self.y.T), n)
        means = [g - self.l2 * p for g, p in zip(gradients, self.parameters, strict=True)]
        squares = [torch.bmm(d.square(), a.square().mT) / n for a, d in zip(inputs, deltas, strict=True)]
        return gradients, [square - mean.square() for square, mean in zip(squares, means, strict=True)]

    def module(self) -> nn.Sequential:
        """The first seed's network as torch has it, on copies of the parameters; the same module at every call, since
        making it takes as long as a look at a batch."""
        if self._module is None:
            self._module = dense([parameter[0] for parameter in self.parameters])
        with torch.no_grad():
            for layer, parameter in zip(self._module[::2], self.parameters, strict=True):
                layer.weight.copy_(parameter[0, :, :-1])
                layer.bias.copy_(parameter[0, :, -1])
        return self._module

    def _forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Inputs of every layer, each (seeds, in + 1, batch), and logits (seeds, classes, batch), from
        x (seeds, batch, in + 1)."""
        inputs = [x.mT]
        for parameter in self.parameters[:-1]:
            inputs.append(pad(torch.bmm(parameter, inputs[-1]).relu_(), (0, 0, 0, 1), value=1.0))
        return inputs, torch.bmm(self.parameters[-1], inputs[-1])

    def _backward(self, inputs: list[Tensor], delta: Tensor, batch_size: int) -> tuple[list[Tensor], list[Tensor]]:
        """What these samples add to the gradients of the mean loss of a batch, and per-sample ∂f_i/∂(layer's output),
        each (seeds, out, samples)."""
        gradients, deltas, l2 = [], [], self.l2 * (delta.shape[2] / batch_size)
        for layer in reversed(range(len(inputs))):
            x, parameter = inputs[layer], self.parameters[layer]
            gradients.append(torch.baddbmm(parameter, delta, x.mT, beta=l2, alpha=1.0 / batch_size))
            deltas.append(delta)
            if layer:
                # a product with x > 0, a mask of bytes, takes five times as long
                delta = threshold_backward(torch.bmm(parameter[:, :, :-1].mT, delta), x[:, :-1], 0)
        return gradients[::-1], deltas[::-1]


def dense(parameters: list[Tensor]) -> nn.Sequential:
    """Linear layers with ReLU between them; a layer's bias is the last column of its parameter (out, in + 1)."""
    layers: list[nn.Module] = []
    for parameter in parameters:
        outputs, inputs = parameter.shape
        layer = nn.utils.skip_init(nn.Linear, inputs - 1, outputs, device=parameter.device, dtype=parameter.dtype)
        layer.weight.data, layer.bias.data = parameter[:, :-1].clone(), parameter[:, -1].clone()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _augmented(images: np.ndarray, labels: np.ndarray, classes: int, device, dtype) -> tuple[Tensor, Tensor]:
    """Images with a column of ones for the bias, labels as one-hot rows."""
    x = pad(torch.as_tensor(images, dtype=dtype), (0, 1), value=1.0)
    return x.to(device), one_hot(torch.as_tensor(labels), classes).to(device, dtype)


def _layer(fan_in: int, fan_out: int, seed: int, layer: int, random: bool) -> Tensor:
    """He-initialised layer; a lone softmax layer starts at 0, its one canonical start."""
    weight = torch.zeros(fan_out, fan_in + 1, dtype=torch.float64)
    if random:
        rng = generator(seed, 1 << 31, layer)  # apart from every epoch's key
        weight[:, :-1] = torch.randn(fan_out, fan_in, generator=rng, dtype=torch.float64) * (2.0 / fan_in) ** 0.5
    return weight


def _scores(prefix: str, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Mean cross-entropy and accuracy of logits (seeds, classes, n) for labels (n,)."""
    right = logits.mT.contiguous().argmax(2) == labels  # argmax is slow along any axis but the last
    loss = -torch.log_softmax(logits, 1).gather(1, labels.expand(len(logits), 1, -1)).squeeze(1).mean(1)
    return {prefix + "loss": loss, prefix + "accuracy": right.to(logits.dtype).mean(1)}


class NoisyQuadratic(Task):
    """f = ½ Σ λ_i θ_i², seen through gradients λ_i θ_i + √(s_i/b) ξ_i, ξ standard normal: a Monte Carlo twin of
    `sfolib.theory.quadratic`. One gradient evaluation is one draw."""

    probes = 1
    _block = 64  # steps of noise drawn at once

    def __init__(self, eigenvalues, theta0, noise_variance, samples_per_epoch, seeds, device, dtype):
        self.samples_per_epoch = samples_per_epoch
        self.eigenvalues = torch.tensor(eigenvalues, dtype=dtype, device=device)
        self.scale = torch.tensor(noise_variance, dtype=dtype, device=device).sqrt()
        self.parameters = [torch.tensor(theta0, dtype=dtype, device=device).repeat(len(seeds), 1)]
        self.seeds, self._drawn, self._noise = seeds, -1, None

    def batch_size(self, samples: int, nominal: int) -> int:
        return nominal

    def gradients(self, step: int, samples: int, batch_size: int) -> list[Tensor]:
        block, row = divmod(step, self._block)
        if block != self._drawn:
            theta = self.parameters[0]
            rng = generator(*self.seeds, 1 << 32, block)
            noise = torch.randn(self._block, *theta.shape, generator=rng, dtype=theta.dtype)
            self._drawn, self._noise = block, noise.to(theta.device) * self.scale
        return [torch.addcmul(self._noise[row] / batch_size**0.5, self.eigenvalues, self.parameters[0])]

    def moments(self) -> tuple[list[Tensor], list[Tensor]]:
        """∇f, and the variance of one draw's gradient coordinate by coordinate, as parameters."""
        return [self.eigenvalues * self.parameters[0]], [self.scale.square().expand_as(self.parameters[0])]

    def measure(self) -> dict[str, Tensor]:
        gradient = self.eigenvalues * self.parameters[0]
        return {"loss": 0.5 * (gradient * self.parameters[0]).sum(1), "grad_sqnorm": gradient.square().sum(1)}
