"""Any network of `models` as a task: images stay on the device as bytes, seeds are trained side by side.

Each seed has a model of its own, whose weights are views into the stacked parameters of all seeds.
"""

from __future__ import annotations

import copy
import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from sfolib._utils.distributed import ProcessGroup, apart, share_batch_norm
from sfolib._utils.errors import require
from sfolib._utils.rng import Sampling, generator
from sfolib.gradients.curvature import eval_mode
from sfolib.gradients.statistics import CHUNK, full_gradient_sqnorm, population_variance, sampled_gradient_sqnorm
from sfolib.problems import models
from sfolib.problems.batches import Augment, Batches
from sfolib.problems.execution import Execution
from sfolib.problems.stacked import RunningMetrics, Task

_PUBLISHED = 1 << 34  # keeps the generator of the published norm's augmentation apart from all others
_CHOSEN = 1 << 38  # … and that of the samples σ² is measured on
_SAMPLED = 1 << 39  # … and that of the samples f is measured on
_LARGE = 1 << 20  # parameters, from which on what measuring leaves on the heap is worth giving back


class ImageData(NamedTuple):
    """Training and test (images, labels), images (n, channels, height, width) of bytes; how to scale and augment."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment | None


class Normalise(nn.Module):
    """Bytes to (byte/255 − mean)/std, a channel at a time."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], channels_last: bool):
        super().__init__()
        mean, std = (torch.tensor(t, dtype=torch.float64).view(-1, 1, 1) for t in (mean, std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", mean / std)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.scale.dtype, memory_format=self.layout) * self.scale).sub_(self.shift)


class NetworkTask(Task):
    """A network with cross-entropy and ℓ2 on all parameters; measured as the eval-mode function of the plain images.

    A batch above the micro-batch size is made of micro-batches, their gradients added up. That is the gradient of the
    batch, but under BatchNorm, whose statistics (and their running means) are then those of the micro-batches: another
    function, so rows tell the micro-batch size. Out of memory, the micro-batch halves and the run goes on from the
    micro-batch that failed; provenance tells when. On the CPU a network without BatchNorm takes no more at once than a
    chunk of a full gradient, which is up to twice as fast.

    Of several ranks each takes a part of the batch, and micro-batches are parts of that part: what rows tell is how
    many samples went through all ranks at once. BatchNorm's statistics are those of all ranks, of one micro-batch at a
    time, so that the function is that of one process; there a rank that is out of memory ends the run.
    """

    def __init__(
        self, model: str, data: ImageData, l2: float, seeds: tuple[int, ...], sampling: Sampling, device: str,
        dtype: str, how: Execution,
    ):  # fmt: skip
        single = how.precision == "fp32" or dtype == "float32"
        require(single, "precision", how.precision, f"needs dtype = 'float32', not {dtype!r}")
        tf32_here = how.precision != "tf32" or device != "cpu"
        require(tf32_here, "precision", how.precision, "is a mode of CUDA devices; use 'fp32' or 'bf16' on the CPU")
        self.l2, self.seeds, self.device, self.how, self.augment = l2, seeds, device, how, data.augment
        self.x, self.y = _on(device, data.train)
        self.test = _on(device, data.test) if len(data.test[1]) else None
        self.batches = Batches((self.x, self.y), seeds, sampling, data.augment)
        self.samples_per_epoch, self.chosen = len(self.x), None
        networks = [models.build(model, data.classes, tuple(self.x.shape[1:]), seed) for seed in seeds]
        channels_last = how.channels_last
        if channels_last is None:
            convolves = any(isinstance(module, nn.Conv2d) for module in networks[0].modules())
            channels_last = convolves and torch.device(device).type == "cpu"
        self.models = [
            nn.Sequential(
                Normalise(data.mean, data.std, channels_last),
                network,
            ).to(device, getattr(torch, dtype))
            for network in networks
        ]
        self.weights = [list(model.parameters()) for model in self.models]
        self.parameters = [_stack(same, channels_last) for same in zip(*self.weights, strict=True)]
        self.buffers = [buffer for model in self.models for buffer in model.buffers()]
        self.batch_norm = any(isinstance(module, _BatchNorm) for module in self.models[0].modules())
        # With neither of these the published norm is the exact one, and needs no pass of its own.
        self._own_published = bool(self.batch_norm or self.augment) and how.grad_norms in ("published", "both")
        self._exact = how.grad_norms in ("exact", "both") or (how.grad_norms == "published" and not self._own_published)
        self.sampled, m = None, how.eval_samples
        if m is not None:
            require(m <= len(self.x), "eval_samples", m, f"must be at most the {len(self.x)} training images")
            self.sampled = [torch.randperm(len(self.x), generator=generator(seed, _SAMPLED))[:m] for seed in seeds]
        self.probes = (m or len(self.x)) * self._exact + len(self.x) * self._own_published
        self.micro_batch, self.largest, self.out_of_memory = how.max_micro_batch, 0, []
        self._chunk = max(1, CHUNK["cpu" if device == "cpu" else "cuda"] // self.x[0].numel())  # a byte is no token
        self._piece = self._chunk if device == "cpu" and not self.batch_norm else None
        self.running_metrics = RunningMetrics(len(seeds), device) if how.log_train_metrics else None

    def measure_variance(self, samples: int) -> None:
        """From now on also σ² (per-sample gradients, eval mode), of so many training images, drawn for each seed."""
        n = len(self.x)
        require(samples <= n, "variance_samples", samples, f"must be at most the {n} training images")
        self.chosen = [torch.randperm(n, generator=generator(seed, _CHOSEN))[:samples] for seed in self.seeds]
        self.probes += samples

    def batch_size(self, samples: int, nominal: int) -> int:
        return self.batches.size(samples, nominal)

    def share_among(self, ranks: ProcessGroup) -> None:
        super().share_among(ranks)
        if ranks.size > 1:
            for model in self.models:
                share_batch_norm(model, ranks)

    def micro_batches(self, batch_size: int) -> list[tuple[int, int]] | None:
        size = self.micro_batch or batch_size
        return [(k, min(size, batch_size - k)) for k in range(0, batch_size, size)] if self.batch_norm else None

    def part(self, step: int, start: int, count: int, batch_size: int) -> tuple[list[Tensor], Tensor | None]:
        found, scores = [], []
        with _arithmetic(self.device, self.how.precision):
            for seed, (x, y) in enumerate(zip(*self.batches.take(start, count), strict=True)):
                gradient, loss, right = self._accumulated(seed, x, y, step, batch_size)
                found.append(gradient)
                scores.append(torch.stack([loss, right]))
        gradients = [torch.stack(same) if len(same) > 1 else same[0][None] for same in zip(*found, strict=True)]
        if self.l2:
            torch._foreach_add_(gradients, self.parameters, alpha=self.l2 * (count / batch_size))
        return gradients, torch.stack(scores, 1).double() if self.running_metrics else None

    def _accumulated(
        self, seed: int, x: Tensor, y: Tensor, step: int, batch_size: int
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """What samples add to the gradient and mean loss of a batch, and how many were right, a micro-batch at once."""
        n, start, total = len(x), 0, None
        most = self._piece or n
        loss = right = torch.zeros((), device=self.device)
        while total is None or start < n:  # without samples of its own a rank goes through BatchNorm all the same
            stop = min(n, start + min(most, self.micro_batch or most))
            part = self._backward(seed, x[start:stop], y[start:stop], (stop - start) / batch_size)
            if part is None:
                self._halve(stop - start, step)
                continue
            gradient, loss, right = part[0], loss + part[1], right + part[2]
            if total is None:
                total = gradient
            else:
                torch._foreach_add_(total, gradient)
            self.largest, start = max(self.largest, stop - start), stop
        return total, loss, right

    def _backward(self, seed: int, x: Tensor, y: Tensor, weight: float) -> tuple[Any, Tensor, Tensor] | None:
        """Gradient of weight × mean loss, that loss, and how many were right; None if memory does not suffice."""
        half = self.how.precision == "bf16"
        try:
            with torch.autocast(torch.device(self.device).type, torch.bfloat16) if half else nullcontext():
                logits = self.models[seed](x)
                loss = (cross_entropy(logits, y) if len(y) else logits.sum()) * weight
            gradient = torch.autograd.grad(loss, self.weights[seed])
        except torch.OutOfMemoryError:
            return None
        right = (logits.detach().argmax(1) == y).sum() if self.running_metrics else y.new_zeros(())
        return gradient, loss.detach(), right

    def _halve(self, size: int, step: int) -> None:
        require(size > 1, "batch_size", size, "one sample is already too much for the device's memory")
        alone = self.ranks.size == 1 or not self.batch_norm
        require(alone, "max_micro_batch", self.micro_batch, "is too much for the device's memory; set a smaller one")
        self.micro_batch = -(-size // 2)
        self.out_of_memory.append({"step": step, "micro_batch": self.micro_batch})
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def measure(self) -> dict[str, Tensor]:
        with self._heap_trimmed(), _arithmetic(self.device, "fp32"):
            by_seed = [self._measure(model, seed) for model, seed in zip(self.models, self.seeds, strict=True)]
            for k, chosen in enumerate(self.chosen or ()):
                by_seed[k]["variance"] = self._variance(self.models[k], chosen.to(self.device))
        found = {k: torch.tensor([of[k] for of in by_seed], dtype=torch.float64) for k in by_seed[0]}
        found["micro_batch"] = torch.full((len(self.seeds),), int(self.ranks.total(self.largest)))
        self.largest = 0
        return found | (self.running_metrics.take() if self.running_metrics else {})

    @contextmanager
    def _heap_trimmed(self) -> Iterator[None]:
        """glibc's freed blocks go back to the system before and after: measuring's are of other sizes than training's,
        and the heap would hold both."""
        large = self.device == "cpu" and sys.platform == "linux" and sum(p.numel() for p in self.weights[0]) > _LARGE
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if large else None
        if trim:
            trim(0)
        yield
        if trim:
            trim(0)

    def _measure(self, model: nn.Module, seed: int) -> dict[str, float]:
        found = {}
        if self._exact and self.sampled is None:
            found = self._function(model)
        elif self._exact:
            found = self._sample_of_function(model, self.sampled[self.seeds.index(seed)].to(self.device))
        if self._own_published:
            found["published_sqnorm"] = self._published(model, seed)
        elif self.how.grad_norms in ("published", "both"):
            found["published_sqnorm"] = found["grad_sqnorm"]
        if self.test:
            test_scores, size = _Scores(), self._chunk
            model.eval()
            with torch.no_grad():
                share = self.ranks.shard(len(self.test[1]))
                for x, y in zip(*(t[share].split(size) for t in self.test), strict=True):
                    if len(y):
                        test_scores(model(x), y)
            model.train()
            found |= dict(zip(("test_loss", "test_accuracy"), test_scores.means(self.ranks), strict=True))
        return found

    def _function(self, model: nn.Module) -> dict[str, float]:
        """Of f itself."""
        scores, share = _Scores(), self.ranks.shard(len(self.x))
        data = (self.x[share], self.y[share])
        options = {"chunk": self._chunk, "l2": self.l2, "ranks": self.ranks, "check": False}
        sqnorm = full_gradient_sqnorm(model, scores, data, **options)
        loss, accuracy = scores.means(self.ranks)
        return {"loss": loss + self._penalty(model), "accuracy": accuracy, "grad_sqnorm": sqnorm}

    def _sample_of_function(self, model: nn.Module, chosen: Tensor) -> dict[str, float]:
        """Of f from some of the images, with standard errors."""
        scores, n = _SampledScores(), len(self.x)
        options = {"chunk": self._chunk, "l2": self.l2, "ranks": self.ranks, "check": False}
        sqnorm = sampled_gradient_sqnorm(model, scores, (self.x[chosen], self.y[chosen]), n, **options)
        loss, accuracy = scores.means(self.ranks)
        return {
            "loss": loss + self._penalty(model),
            "loss_error": scores.error(n, self.ranks),
            "accuracy": accuracy,
            "grad_sqnorm": sqnorm.value,
            "grad_sqnorm_error": sqnorm.error,
        }

    def _penalty(self, model: nn.Module) -> float:
        return 0.5 * self.l2 * sum(p.detach().double().square().sum().item() for p in model.parameters())

    def _variance(self, model: nn.Module, chosen: Tensor) -> float:
        """σ² from a sample of images: unbiased but for their share in all."""
        with eval_mode(model):
            found = population_variance(
                model, cross_entropy, self.x[chosen], self.y[chosen], chunk=max(2, self._chunk), check=False
            )
        return found.variance * found.n / (found.n - 1)

    def _published(self, model: nn.Module, seed: int) -> float:
        """Order and augmentation are the same at every measuring point, a function of the seed."""
        rng, augment = generator(seed, _PUBLISHED), self.augment
        with apart(model):
            return full_gradient_sqnorm(
                model, cross_entropy, (self.x, self.y), "as_published", l2=self.l2, seed=seed, ranks=self.ranks,
                augment=(lambda x: augment(x, rng)) if augment else None,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        sizes = {"micro_batch": self.micro_batch, "largest": self.largest, "out_of_memory": self.out_of_memory}
        return super().state_dict() | sizes | {"buffers": self.buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.micro_batch, self.largest = state["micro_batch"], state["largest"]
        self.out_of_memory = copy.copy(state["out_of_memory"])
        for buffer, saved in zip(self.buffers, state["buffers"], strict=True):
            buffer.copy_(saved)

    def provenance(self) -> dict[str, Any]:
        return {
            "micro_batch": self.micro_batch,  # None: whole batches
            "out_of_memory": self.out_of_memory,
            "batch_norm": self.batch_norm,
        }


class _Scores:
    """Cross-entropy that remembers: the mean loss and accuracy over all the batches it was called on."""

    def __init__(self) -> None:
        self.loss, self.right, self.n = 0.0, 0, 0

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        loss = cross_entropy(logits, y)
        self.loss = self.loss + loss.detach().double() * len(y)
        self.right = self.right + (logits.detach().argmax(1) == y).sum()
        self.n += len(y)
        return loss

    def means(self, ranks: ProcessGroup) -> tuple[float, float]:
        """Over all ranks."""
        loss, right, n = ranks.total([float(self.loss), float(self.right), self.n]).tolist()
        return loss / n, right / n


class _SampledScores(_Scores):
    """With the standard error of the mean loss of n samples, of which these are some."""

    squares = 0.0

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        self.squares = self.squares + cross_entropy(logits.detach(), y, reduction="none").double().square().sum()
        return super().__call__(logits, y)

    def error(self, n: int, ranks: ProcessGroup) -> float:
        loss, squares, m = ranks.total([float(self.loss), float(self.squares), self.n]).tolist()
        return (max(squares / m - (loss / m) ** 2, 0.0) / (m - 1) * (1 - m / n)) ** 0.5


def _on(device: str, data: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
    images, labels = data
    return torch.as_tensor(images).to(device), torch.as_tensor(labels, dtype=torch.int64).to(device)


def _stack(same: tuple[nn.Parameter, ...], channels_last: bool) -> Tensor:
    """One parameter of all seeds as a tensor (seeds, …), of which the models' own become views."""
    if channels_last and same[0].dim() == 4:
        stacked = torch.stack([p.detach().permute(0, 2, 3, 1) for p in same]).permute(0, 1, 4, 2, 3)
    else:
        stacked = torch.stack([p.detach() for p in same])
    for parameter, view in zip(same, stacked, strict=True):
        parameter.data = view
    return stacked


@contextmanager
def _arithmetic(device: str, precision: str) -> Iterator[None]:
    """Matrix products and convolutions in TF32 or in full float32, which torch does not do by default."""
    if device == "cpu":
        yield
        return
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = precision == "tf32"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
