"""The batches that a plan makes of a data set, epoch by epoch, as its sampler hands them out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from sfolib._utils.errors import require
from sfolib.schedules.plan import Plan


class Batch(NamedTuple):
    """A batch of a pass: its epoch, the steps and samples before it, and where its samples lie in the epoch's order."""

    epoch: int
    step: int
    samples: int
    start: int
    stop: int


class Passes:
    """The batches of each pass over the data, a pass being `epochs` epochs: a function of its arguments alone."""

    def __init__(self, n: int, plan: Plan, epochs: int, factor: int, multiple_of: int, drop_last: bool, least: int):
        self.n, self.plan, self.epochs, self.factor = n, plan, epochs, factor
        self.multiple_of, self.drop_last, self.least = multiple_of, drop_last, least
        self._starts, self._latest = [(0, 0)], (-1, [])  # (steps, samples) before each pass; the last pass asked for

    def size(self, batch_size: int, left: int) -> int:
        """Samples of a batch of which the plan says `batch_size`, with `left` samples to the end of the epoch."""
        size = batch_size * self.factor
        size = max(self.multiple_of, size // self.multiple_of * self.multiple_of)
        if size >= left:
            return 0 if self.drop_last and size > left else left
        return left if left - size < self.least and not self.drop_last else size

    def batches(self, index: int) -> list[Batch]:
        if self._latest[0] != index:
            for earlier in range(len(self._starts) - 1, index):
                self.batches(earlier)
            self._latest = index, list(self._walk(index, *self._starts[index]))
        return self._latest[1]

    def _walk(self, index: int, step: int, samples: int) -> Iterator[Batch]:
        first = step
        for epoch in range(index * self.epochs, (index + 1) * self.epochs):
            start = 0
            while start < self.n:
                size = self.size(self.plan.batch_size_at(self.reading(epoch, step, samples)), self.n - start)
                if not size:
                    break
                yield Batch(epoch, step, samples, start, start + size)
                step, samples, start = step + 1, samples + size, start + size
        require(step > first, "batch_size", self.plan, f"leaves no batch of {self.n} samples with drop_last")
        if len(self._starts) == index + 1:
            self._starts.append((step, samples))

    def reading(self, epoch: int, step: int, samples: int) -> int:
        return {"epoch": epoch, "step": step, "sample": samples}[self.plan.clock]

    def locate(self, step: int) -> tuple[int, int]:
        """(pass, batches of it) after `step` steps."""
        while self._starts[-1][0] <= step:
            self.batches(len(self._starts) - 1)
        index = bisect_right(self._starts, step, key=lambda start: start[0]) - 1
        return index, step - self._starts[index][0]
