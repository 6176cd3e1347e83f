"""Generators that are a function of their key, and the order of samples in an epoch, which needs no state.

The order of epoch e of seed s is a function of (s, e) alone. A run is resumed, or split over processes, by the clock.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

Sampling = Literal["replacement", "permutation"]


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on all of `key`: the same key, the same numbers, whatever the device."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def epoch_order(n: int, seed: int, epoch: int, sampling: Sampling) -> torch.Tensor:
    """Sample indices of one epoch, shape (n,): a permutation, or n independent uniform draws."""
    rng = generator(seed, epoch)
    if sampling == "permutation":
        return torch.randperm(n, generator=rng)
    return torch.randint(n, (n,), generator=rng)
