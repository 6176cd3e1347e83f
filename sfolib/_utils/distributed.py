"""One run in several processes, as `torchrun` starts them: each takes a part of every batch and of every measurement.

The plan's batch size is the global one. The order of samples is a function of (seed, epoch) alone (`data`), so that a
rank's part of a batch is a slice of it, and the batches are the same whatever the number of ranks. Parameters, policy
and clock are replicas, which stay equal because every number that they depend on is a sum over the ranks, of which
all get the same bits.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfolib._utils.errors import ProcessLost, require


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one run, seen from the one numbered `rank`; all call the same methods in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def shard(self, n: int) -> slice:
        """This rank's share of n samples in a row; shares differ by at most one."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def all_reduce_(self, tensors: Sequence[Tensor]) -> None:
        """Sum over the ranks, in place; one collective a dtype."""
        if self.size == 1:
            return
        for _, same in groupby(sorted(tensors, key=lambda t: str(t.dtype)), lambda t: t.dtype):
            same = list(same)
            flat = torch.cat([t.reshape(-1) for t in same])
            _together(dist.all_reduce, flat)
            for tensor, total in zip(same, flat.split([t.numel() for t in same]), strict=True):
                tensor.copy_(total.view(tensor.shape))

    def mean(self, tensors: list[Tensor], weight: float) -> list[Tensor]:
        """Mean over the ranks of each one's means, weighted; the weights are shares and add up to 1."""
        if self.size == 1:
            return tensors
        weighted = [t * weight if weight else torch.zeros_like(t) for t in tensors]  # the mean of nothing is nan
        self.all_reduce_(weighted)
        return weighted

    def total(self, values: np.ndarray | float) -> np.ndarray:
        """Sum over the ranks of an array, in float64."""
        values = np.asarray(values, dtype=np.float64)
        if self.size == 1:
            return values
        tensor = torch.tensor(values, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        self.all_reduce_([tensor])
        return tensor.cpu().numpy()

    def agree(self, what: str, *values: float) -> None:
        """Raise `ProcessLost` on every rank unless all have the same values."""
        if self.size == 1:
            return
        here = np.zeros((self.size, len(values)))
        here[self.rank] = values
        everywhere = self.total(here)
        if not np.array_equal(everywhere, np.broadcast_to(everywhere[0], everywhere.shape), equal_nan=True):
            readings = "; ".join(f"rank {rank}: {row.tolist()}" for rank, row in enumerate(everywhere))
            raise ProcessLost(
                f"the ranks do not agree on {what} ({readings}); they must see one folder and one data set"
            )

    def barrier(self) -> None:
        """Until all ranks are here."""
        self.total(0.0)


SINGLE = ProcessGroup()


def _together(collective: Callable[..., Any], *arguments: Any) -> None:
    try:
        collective(*arguments)
    except RuntimeError as error:
        raise ProcessLost(f"another process of this run has ended, or cannot be reached ({error})") from error


@contextmanager
def joined(device: str) -> Iterator[tuple[ProcessGroup, str]]:
    """The ranks and this one's device under torchrun, for as long as the block lasts; alone where there is none.

    device: "cpu" or "cuda", as `loop.resolve_device` says.

    NCCL between GPUs, rank i of a machine on its i-th; gloo on the CPU. A SIGTERM, which torchrun sends to all when
    one process has died, raises `ProcessLost` meanwhile. Raises `InputError` for more ranks than GPUs, or for one GPU.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield SINGLE, device
        return
    ranks, local = ProcessGroup(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])), int(os.environ["LOCAL_RANK"])
    if device != "cpu":
        require(device == "cuda", "device", device, "is one GPU; under torchrun use auto or cuda")
        count, wanted = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
        require(wanted <= count, "nproc-per-node", wanted, f"must be at most the {count} GPUs of this machine")
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    before = signal.signal(signal.SIGTERM, _ended)
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    try:
        yield ranks, device
        dist.destroy_process_group()
    finally:
        signal.signal(signal.SIGTERM, before)


def _ended(*_: object) -> None:
    raise ProcessLost("stopped by SIGTERM, which torchrun sends to all processes when one of them has died")


class _Sum(torch.autograd.Function):
    """Sum over the ranks, and of the gradients over the ranks on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: ProcessGroup) -> Tensor:
        ctx.ranks, total = ranks, x.clone()
        ranks.all_reduce_([total])
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        ctx.ranks.all_reduce_([total])
        return total, None


class GroupBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all ranks together, weighted by their sizes; a rank's own may be empty.

    torch's SyncBatchNorm is for GPUs only. Works on the parameters and buffers of `like`. Within `apart` its
    statistics are the rank's own.
    """

    def __init__(self, like: nn.BatchNorm2d, ranks: ProcessGroup):
        super().__init__(like.num_features, like.eps, like.momentum)
        self.weight, self.bias, self.ranks = like.weight, like.bias, ranks
        for name, buffer in like.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.ranks.size == 1:
            return super().forward(x)
        wide = x.to(self.weight.dtype)
        n = wide.new_tensor([x.numel() / x.shape[1]])
        *total, n = _Sum.apply(torch.cat([wide.sum((0, 2, 3)), n]), self.ranks).split([x.shape[1], 1])
        mean = total[0] / n
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _Sum.apply(centred.square().sum((0, 2, 3)), self.ranks) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def share_batch_norm(model: nn.Module, ranks: ProcessGroup) -> None:
    """Replace every BatchNorm of `model` by one over all ranks; its parameters and buffers stay the same objects."""
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm):
            require(type(child) is nn.BatchNorm2d, "model", type(child).__name__, "only BatchNorm2d runs on ranks")
            setattr(model, name, GroupBatchNorm(child, ranks).train(child.training))
        else:
            share_batch_norm(child, ranks)


@contextmanager
def apart(model: nn.Module) -> Iterator[None]:
    """Meanwhile each rank's BatchNorm looks at its own batches, and the ranks need not keep step."""
    layers = [module for module in model.modules() if isinstance(module, GroupBatchNorm)]
    before = [layer.ranks for layer in layers]
    for layer in layers:
        layer.ranks = SINGLE
    try:
        yield
    finally:
        for layer, ranks in zip(layers, before, strict=True):
            layer.ranks = ranks
