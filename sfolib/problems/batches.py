"""Where batches come from: tensors that stay on the device, and an order of samples that needs no state.

The order of epoch e of seed s is a function of (s, e) alone. A run is resumed, or split over processes, by the clock.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import pad

from sfolib._utils.errors import require
from sfolib._utils.rng import Sampling, epoch_order, generator

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
_CHUNK = 4096
_LARGEST = 1 << 20  # samples of a batch by replacement, each in memory
_AUGMENTING = 1 << 33  # keeps the augmentation's generator apart from the order's


def crop_and_flip(images: torch.Tensor, rng: torch.Generator, padding: int = 4) -> torch.Tensor:
    """Each of `images` (n, channels, height, width) cropped at random out of a black frame, and mirrored or not."""
    n, _, height, width = images.shape
    shifts = torch.randint(2 * padding + 1, (2, n), generator=rng).to(images.device)
    mirrored = (torch.rand(n, 1, 1, 1, generator=rng) < 0.5).to(images.device)
    windows = pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    cropped = windows[torch.arange(n, device=images.device), :, shifts[0], shifts[1]]
    return torch.where(mirrored, cropped.flip(3), cropped)


class Batches:
    """Batches of device-resident `tensors` (each of n samples), for several seeds at once.

    `take(start, count)` returns each tensor's samples start … start + count of the run, shape (seeds, count, …).
    An epoch is gathered once; a batch is then a slice of it, so that its size may change at any step.
    With `sampling="permutation"` a batch ends with its epoch (the short last batch); draws with replacement have no
    such end. `augment` changes the samples of the first tensor as the epoch is gathered, from the seed and the epoch.
    """

    def __init__(
        self,
        tensors: tuple[torch.Tensor, ...],
        seeds: tuple[int, ...],
        sampling: Sampling,
        augment: Augment | None = None,
    ):
        require(sampling in ("replacement", "permutation"), "sampling", sampling, "'replacement' or 'permutation'")
        self.tensors, self.seeds, self.sampling = tensors, seeds, sampling
        self.n, self.augment = len(tensors[0]), augment
        self._epoch, self._gathered = -1, ()

    def size(self, start: int, count: int) -> int:
        """True size of the batch that starts after `start` samples when `count` are asked for."""
        return min(count, self.n - start % self.n) if self.sampling == "permutation" else count

    def take(self, start: int, count: int) -> list[torch.Tensor]:
        most = max(_LARGEST, self.n)
        require(
            count <= most,
            "batch_size",
            count,
            f"at most {most} samples can be gathered at once; cap it by max_batch_size",
        )
        epoch, offset = divmod(start, self.n)
        whole = self._load(epoch)
        parts = [[tensor[:, offset : offset + count] for tensor in whole]]
        left = count - (self.n - offset)
        while left > 0:
            epoch += 1
            parts.append([tensor[:, :left] for tensor in self._load(epoch)])
            left -= self.n
        return parts[0] if len(parts) == 1 else [torch.cat(same, dim=1) for same in zip(*parts, strict=True)]

    def _load(self, epoch: int) -> tuple[torch.Tensor, ...]:
        if epoch != self._epoch:
            order = torch.stack([epoch_order(self.n, seed, epoch, self.sampling) for seed in self.seeds])
            order = order.to(self.tensors[0].device)
            self._gathered = tuple(
                # a row at a time: five times as fast as tensor[order]
                tensor.index_select(0, order.flatten()).unflatten(0, order.shape)
                for tensor in self.tensors
            )
            if self.augment:
                for seed, samples in zip(self.seeds, self._gathered[0], strict=True):
                    rng = generator(seed, _AUGMENTING, epoch)
                    for part in samples.split(_CHUNK):  # the frames of a whole epoch would be large
                        part.copy_(self.augment(part, rng))
            self._epoch = epoch
        return self._gathered
