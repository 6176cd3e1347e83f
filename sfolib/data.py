"""Where batches come from: tensors that stay on the device, and an order of samples that needs no state.

The order of epoch e of seed s is a function of (s, e) alone. A run is resumed, or split over processes, by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.data import Sampler

from sfolib.errors import require
from sfolib.plan import Plan, Step

Sampling = Literal["replacement", "permutation"]
Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
_CHUNK = 4096
_LARGEST = 1 << 20  # samples of a batch by replacement, each in memory
_AUGMENTING = 1 << 33  # keeps the augmentation's generator apart from the order's


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on all of `key`: the same key, the same numbers, whatever the device."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def epoch_order(n: int, seed: int, epoch: int, sampling: Sampling) -> torch.Tensor:
    """Sample indices of one epoch, shape (n,): a permutation, or n independent uniform draws."""
    rng = generator(seed, epoch)
    if sampling == "permutation":
        return torch.randperm(n, generator=rng)
    return torch.randint(n, (n,), generator=rng)


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
        require(count <= most, "batch", count, f"at most {most} samples can be gathered at once; cap it by max_batch")
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
            self._gathered = tuple(tensor[order] for tensor in self.tensors)
            if self.augment:
                for seed, samples in zip(self.seeds, self._gathered[0], strict=True):
                    rng = generator(seed, _AUGMENTING, epoch)
                    for part in samples.split(_CHUNK):  # the frames of a whole epoch would be large
                        part.copy_(self.augment(part, rng))
            self._epoch = epoch
        return self._gathered


class Followed(Protocol):
    """What says the next step's batch size and lr: a `Plan`, or one of the policies of `sfolib.adaptive`."""

    def after(self, step: int, samples: int, samples_per_epoch: int) -> Step: ...


class ScheduledBatchSampler(Sampler[list[int]]):
    """Batches of the sizes that `plan` says, for a plain `DataLoader(data, batch_sampler=…)`; an iteration is an epoch.

    The indices are those of `epoch_order` by permutation, so that they are a function of n, seed and plan alone: the
    batches are `plan.table(n, epochs)` exactly, whatever workers prefetch. A policy must see each step before it can
    say the next batch size: with prefetching workers it raises `InputError` at the second batch.
    An iteration that is left before its end begins again where it began; to go on, load the state of that moment.
    """

    def __init__(self, n: int, plan: Followed, seed: int = 0):
        require(isinstance(n, int) and n > 0, "n", n, "must be a whole number above 0")
        require(hasattr(plan, "after"), "plan", plan, "must be a Plan or a policy")
        self.n, self.plan, self.seed = n, plan, seed
        self._start = (0, 0)  # steps and samples when the next iteration begins
        self._trail = [self._start]  # the same after each batch that was handed out since

    def __iter__(self) -> Iterator[list[int]]:
        step, samples = self._start
        self._trail = [self._start]
        epoch = samples // self.n
        order, first = epoch_order(self.n, self.seed, epoch, "permutation").tolist(), epoch * self.n
        while samples < first + self.n:
            row = self.plan.after(step, samples, self.n)
            indices = order[samples - first : row.samples - first]
            step, samples = row.step, row.samples
            self._trail.append((step, samples))
            yield indices
        self._start = (step, samples)

    def __len__(self) -> int:
        """Batches of the present iteration, or of the next one between two; a policy's cannot be known."""
        if not isinstance(self.plan, Plan):
            raise TypeError("the number of batches is the policy's to decide")
        (step, samples), batches = self._start, 0
        end = (samples // self.n + 1) * self.n
        while samples < end:
            row = self.plan.after(step, samples, self.n)
            step, samples, batches = row.step, row.samples, batches + 1
        return batches

    def state_dict(self, step: int) -> dict[str, int]:
        """Where a run stands after `step` optimizer steps (since the first epoch), which the sampler cannot know: with
        prefetching workers it has handed out batches that are still to be trained on."""
        first, last = self._trail[0][0], self._trail[-1][0]
        require(first <= step <= last, "step", step, f"must be among the steps of this epoch so far, {first} to {last}")
        step, samples = self._trail[step - first]
        return {"n": self.n, "seed": self.seed, "step": step, "samples": samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there. Raises `InputError` for the state of another order of samples."""
        for name in ("n", "seed"):
            require(state[name] == getattr(self, name), name, getattr(self, name), f"must be {state[name]} as saved")
        self._start = (state["step"], state["samples"])
        self._trail = [self._start]
