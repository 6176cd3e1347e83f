"""Batches by plan of data that can only be read in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import Dataset, get_worker_info

from sfolib._utils.errors import require


class StreamDataset(Dataset):
    """The samples of an `IterableDataset`, or of any iterable, for batches by plan.

        DataLoader(StreamDataset(stream), batch_sampler=ScheduledBatchSampler(n, plan, shuffle=False))

    An epoch is the first n samples that iter(stream) yields; a stream with fewer raises `InputError`. Samples of other
    ranks, and those before a resumed run's first batch, are read and left out, so every process reads the same stream.
    At most one worker, which alone can read in order.
    """

    def __init__(self, stream: Iterable[Any]):
        self.stream = stream
        self._samples: Iterator[Any] | None = None
        self._read = 0

    def __getitems__(self, indices: list[int]) -> list[Any]:
        info = get_worker_info()
        require(info is None or info.num_workers == 1, "num_workers", info and info.num_workers, "must be 0 or 1")
        first, last = indices[0], indices[-1]
        in_order = indices == list(range(first, last + 1))
        require(in_order, "indices", indices, "must be in order: say shuffle=False to the sampler")
        if self._samples is None or first < self._read:
            self._samples, self._read = iter(self.stream), 0
        found = list(islice(self._samples, first - self._read, last + 1 - self._read))
        enough = len(found) == len(indices)
        require(enough, "n", last + 1, f"samples are more than the stream's {self._read + len(found)}")
        self._read = last + 1
        return found

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]
