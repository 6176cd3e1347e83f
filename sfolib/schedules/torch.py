"""A plan or a policy in anyone's loop: its batch size by a batch sampler, its learning rate by a scheduler.

The two are tied: the scheduler's clock, which counts the batches that were trained on, says where the sampler's next
pass begins. docs/your_own_loop.md shows both in Lightning, Accelerate, transformers' Trainer, torchdata and Ignite.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from numbers import Integral
from typing import Any, Literal, NamedTuple, Protocol
from weakref import WeakValueDictionary, ref

import numpy as np
import torch.distributed as dist
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, Sampler, get_worker_info

from sfolib._utils.distributed import ProcessGroup
from sfolib._utils.errors import positive, require, whole
from sfolib._utils.rng import epoch_order
from sfolib.schedules.adaptive.base import Policy
from sfolib.schedules.plan import Plan, Step

_untied: WeakValueDictionary[int, ScheduledBatchSampler | PlanLR] = WeakValueDictionary()  # by their number
_numbers = count()


class Leader(Protocol):
    """What says the next step's batch size and lr: a `Plan`, or one of the policies of `sfolib.adaptive`."""

    def after(self, step: int, samples: int, samples_per_epoch: int) -> Step: ...


class Batch(NamedTuple):
    """A batch of a pass: its epoch, the steps and samples before it, and where its samples lie in the epoch's order."""

    epoch: int
    step: int
    samples: int
    start: int
    stop: int


class _Passes:
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


class _Record:
    """What the sampler remembers of a pass: where it began, what it has handed out, whether one trained on it."""

    def __init__(self, index: int, first: int, whole: bool):
        self.index, self.taken, self.whole = index, first, whole  # taken: batches begun, from the start of the pass
        self.complete = self.trained = False


class _Pass(Iterator[list[int]]):
    """One iteration. Where it begins is decided at its first batch, since clients make iterators before they load."""

    def __init__(self, sampler: ScheduledBatchSampler):
        self.sampler, self.record, self.drawn = sampler, None, 0
        self._loaded: dict[str, int] | None = None
        self._parts: list[list[int]] = []

    def _begin(self) -> None:
        sampler = self.sampler
        policy = isinstance(sampler.plan, Policy)
        if self._loaded and policy:  # whose own clock says it
            self._loaded = None
        index, first, whole_pass = sampler._position()
        if self._loaded:
            index, first = self._loaded["pass"], 0
        self.record = _Record(index, first, whole_pass or self._loaded is not None)
        sampler._passes.append((ref(self), self.record))
        if policy:
            self._step, self._samples = sampler._policy_start()
        else:  # a batch too small for the ranks is said at once, not at the epoch's end
            sampler._parts(min(sampler._table().batches(index), key=lambda batch: batch.stop - batch.start))
        if self._loaded:
            for _ in range(self._loaded["drawn"]):
                next(self)

    def __next__(self) -> list[int]:
        if self.record is None:
            self._begin()
        if not self._parts:
            if self.record.complete:
                raise StopIteration
            self._parts = self._next_batch()
        self.drawn += 1
        return self._parts.pop(0)

    def _next_batch(self) -> list[list[int]]:
        sampler, record = self.sampler, self.record
        if isinstance(sampler.plan, Policy):
            batch = sampler._policy_batch(self._step, self._samples)
            self._step, self._samples = batch.step + 1, batch.samples + batch.stop - batch.start
            record.complete = batch.stop == sampler.n
        else:
            batches = sampler._table().batches(record.index)
            batch = batches[record.taken]
            record.complete = record.taken + 1 == len(batches)
        record.taken += 1
        if record.complete:
            sampler._finished(record)
        return [list(sampler._order(batch.epoch)[part]) for part in sampler._parts(batch)]

    def state_dict(self) -> dict[str, int]:
        """The pass and what was drawn of it; for loaders that know what they have handed out."""
        return {"pass": self.record.index, "drawn": self.drawn} if self.record else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state:  # saved before its first batch it says nothing that the sampler's does not
            self._loaded, self.record, self.drawn, self._parts = state, None, 0, []
            self.sampler._resume = None
            self._begin()


class ScheduledBatchSampler(Sampler[list[int]]):
    """Batches of the sizes that `plan` says, for a plain `DataLoader(data, batch_sampler=…)`; an iteration is an epoch.

    n: samples of the data set. plan: a `Plan`, or a policy. The indices are those of `epoch_order` by permutation, so
    that they are a function of n, seed and plan alone: the batches are `plan.table(n, epochs)` exactly, whatever
    workers prefetch. shuffle=False: 0, 1, 2 …

    Which epoch an iteration is, in this order: what `load_state_dict` said; the epoch of the `PlanLR` that is tied to
    the sampler (made from it, or of the same plan object and n); `set_epoch`; with none of these, one more than the
    last that was handed out to its end. So other passes over the loader, of whatever length, do not move a tied plan.
    Where loop and scheduler drift apart the next step or pass raises `InputError`. A policy's own clock is the run's.

    rank, num_replicas: of several processes, by default those of torch.distributed. The plan's batch is the global one;
    each rank gets its part, sizes differing by one at most. per_replica: the plan's batch is one rank's.
    interleave: hand out the parts of all ranks in turn, for clients that deal batches out by themselves, as
    Accelerate's `prepare` does.
    max_micro_batch: hand a part out in pieces of about the same size, at most that many samples; one optimizer step is
    for all of them (`PlanLR.batch_size` samples).
    multiple_of: batches are rounded down to a multiple, at least one; "ranks": of the number of ranks. What is left at
    an epoch's end need not be one. drop_last: leave it out if it is incomplete. min_last_batch: if it is below that, it
    joins the batch before it (default 1; 2 with a policy that looks at per-sample gradients: one has no variance).
    epochs: how many epochs an iteration is, for clients that take all iterations to be of one length.
    lookahead: by how many batches a client draws ahead of the updates of a policy; its looks take effect as much later.
    """

    def __init__(
        self,
        n: int,
        plan: Leader,
        seed: int = 0,
        *,
        rank: int | None = None,
        num_replicas: int | None = None,
        per_replica: bool = False,
        interleave: bool = False,
        max_micro_batch: int | None = None,
        multiple_of: int | Literal["ranks"] = 1,
        drop_last: bool = False,
        min_last_batch: int | None = None,
        epochs: int = 1,
        lookahead: int = 0,
        shuffle: bool = True,
    ):
        require(hasattr(plan, "after"), "plan", plan, "must be a Plan or a policy")
        self.n, self.plan, self.seed, self.shuffle = whole("n", n), plan, seed, shuffle
        require((rank is None) == (num_replicas is None) or interleave, "rank", rank, "goes with num_replicas")
        if num_replicas is not None:
            whole("num_replicas", num_replicas)
        if rank is not None:
            require(not interleave, "rank", rank, "must be None with interleave")
            ok = isinstance(rank, Integral) and 0 <= rank < num_replicas
            require(ok, "rank", rank, f"must be a whole number from 0 to {num_replicas - 1}")
        if max_micro_batch is not None:
            whole("max_micro_batch", max_micro_batch)
        if min_last_batch is None:
            min_last_batch = 2 if getattr(plan, "signal", None) in ("gradient_statistics", "second_moment") else 1
        for name, value in (("multiple_of", multiple_of), ("min_last_batch", min_last_batch), ("epochs", epochs)):
            if (name, value) != ("multiple_of", "ranks"):
                whole(name, value)
        ok = isinstance(lookahead, Integral) and lookahead >= 0
        require(ok, "lookahead", lookahead, "must be a whole number, 0 or above")
        policy = isinstance(plan, Policy)
        require(not (policy and (drop_last or epochs > 1)), "plan", plan, "drop_last and epochs need a Plan")
        require(policy or not lookahead, "lookahead", lookahead, "is for policies; a plan is known ahead")
        self._rank, self._replicas, self.per_replica, self.interleave = rank, num_replicas, per_replica, interleave
        self.max_micro_batch, self._rules = max_micro_batch, (multiple_of, drop_last, min_last_batch)
        self._epochs, self.lookahead = epochs, lookahead
        self._sizes: dict[int, int] = {}  # of a policy's batches, by step, from the next to be trained on
        self._before: dict[int, int] = {}  # samples before each of those steps, and before the one after them
        self._clock: PlanLR | _OptimizerClock | None = None
        self._others: list[PlanLR] = []  # of the other optimizers of a loop that has several
        self._set: int | None = None  # by set_epoch
        self._next = self._complete = 0  # the pass after the last complete one; how many have been completed
        self._resume: tuple[int, int] | None = None  # by load_state_dict: pass and batches of it, or steps and samples
        self._passes: list[tuple[ref[_Pass], _Record]] = []
        self._cached: tuple[int, _Passes] | None = None
        self._permutation: tuple[int, list[int]] = (-1, [])
        self._number = next(_numbers)
        _tie(self, PlanLR)

    # --- what the batches are ---

    def group(self) -> ProcessGroup:
        """The processes over which a batch is split. Raises `InputError` where Accelerate hides who splits it."""
        if self._replicas is not None:
            return ProcessGroup(self._rank or 0, self._replicas)
        if not (dist.is_available() and dist.is_initialized()):
            return ProcessGroup()
        state = sys.modules.get("accelerate.state")
        unclear = state is not None and state.is_initialized() and not self.interleave and dist.get_world_size() > 1
        why = (
            "under Accelerate say interleave=True for a loader that `prepare` gets, or rank and num_replicas for others"
        )
        require(not unclear, "rank", None, why)
        return ProcessGroup(dist.get_rank(), dist.get_world_size())

    def _table(self) -> _Passes:
        ranks = self.group().size
        if self._cached is None or self._cached[0] != ranks:
            factor, (multiple_of, *rules) = ranks if self.per_replica else 1, self._rules
            multiple_of = ranks if multiple_of == "ranks" else multiple_of
            self._cached = ranks, _Passes(self.n, self.plan, self._epochs, factor, multiple_of, *rules)
        return self._cached[1]

    def _order(self, epoch: int) -> Sequence[int]:
        if not self.shuffle:
            return range(self.n)
        if self._permutation[0] != epoch:
            self._permutation = epoch, epoch_order(self.n, self.seed, epoch, "permutation").tolist()
        return self._permutation[1]

    def _parts(self, batch: Batch) -> list[slice]:
        """Where in the epoch's order the lists of indices lie that this batch is handed out as."""
        group, size = self.group(), batch.stop - batch.start
        few = f"samples are too few for {group.size} ranks; see min_last_batch, drop_last and multiple_of"
        require(size >= group.size, f"batch at step {batch.step}", size, few)
        ranks = range(group.size) if self.interleave else [group.rank]
        parts = []
        for rank in ranks:
            part = ProcessGroup(rank, group.size).shard(size)
            pieces = math.ceil((part.stop - part.start) / (self.max_micro_batch or size))
            for piece in range(pieces):
                inner = ProcessGroup(piece, pieces).shard(part.stop - part.start)
                offset = batch.start + part.start
                parts.append(slice(offset + inner.start, offset + inner.stop))
        return parts

    # --- where the run stands ---

    def _position(self) -> tuple[int, int, bool]:
        """(pass, its first batch, whether a step may follow that the scheduler counts) for an iteration that begins."""
        self._adopt()
        if isinstance(self.plan, Policy):
            return self._policy_start()[1] // self.n, 0, True
        self._passes = [(p, r) for p, r in self._passes if p() is not None or r.complete]
        if isinstance(self._clock, PlanLR) and self._clock.last_epoch < 0:  # so SequentialLR leaves it until its turn
            self._clock._part()
        resume, clock = self._resume, self._clock
        if clock is None:
            if resume:
                return *resume, True
            return self._next if self._set is None else self._set, 0, True
        for each in (clock, *self._others):
            each._catch_up()
        if not clock.batches and (found := next((each for each in self._others if each.batches), None)):
            self._others.remove(found)  # the first was left before it began
            self._clock = clock = found
        index, done = self._table().locate(clock.batches)
        if self._set is not None and self._set != index:
            why = f"but the scheduler is in iteration {index}; load its state too, or train each iteration to its end"
            require(self._set <= self._complete or self._set < self._next, "epoch", self._set, why)
        if resume and resume[0] == index:
            require(
                resume[1] <= done, "step", clock.batches, "of the scheduler is behind the sampler; load its state too"
            )
            return *resume, True
        stale = f"but the sampler was loaded at batch {resume[1]} of iteration {resume[0]}" if resume else ""
        require(not resume or resume[0] < index, "step of the scheduler", clock.batches, f"{stale}; load its state too")
        return index, 0, done == 0 or clock.batches == clock._loaded

    def _finished(self, record: _Record) -> None:
        self._complete += 1
        self._next = record.index + 1
        if self._clock is None:
            self._resume = None

    def _adopt(self) -> None:
        """Tie the schedulers of this plan and n that were made since, for another run, or for another optimizer."""
        for scheduler in _others(self, PlanLR):
            clock = self._clock and self._clock.scheduler
            if clock is None or scheduler._number > clock._number or scheduler._is_beside(self):
                _untied.pop(scheduler._number)
                scheduler._follow(self)

    def _restart(self) -> None:
        """For another run, with a scheduler of its own."""
        if self._passes:  # what was loaded before them was of the last run
            self._resume = None
        self._set, self._next, self._complete, self._passes = None, 0, 0, []

    def _policy_start(self) -> tuple[int, int]:
        self._check_told()
        return self._resume or (self.plan.step, self.plan.samples)

    def _check_told(self) -> None:
        """Require that the policy was told of the batches that were handed out."""
        wanted = self._before.get(self.plan.step, self.plan.samples)
        why = f"after {self.plan.step} steps must be {wanted}: tell update() sampler.taken, the batch over all ranks"
        require(self.plan.samples == wanted, "samples of the policy", self.plan.samples, why)

    def _policy_batch(self, step: int, samples: int) -> Batch:
        epoch, start = divmod(samples, self.n)
        self._check_told()
        self._sizes = {at: size for at, size in self._sizes.items() if at >= self.plan.step}
        self._before = {at: before for at, before in self._before.items() if at >= self.plan.step}
        if step not in self._sizes:  # decided once, so that other passes and resumed runs see the same batches
            row = self.plan.after(step, samples, self.n, self.lookahead)
            self._sizes[step] = self._table().size(row.batch_size, self.n - start)
        self._resume = None
        self._before |= {step: samples, step + 1: samples + self._sizes[step]}
        return Batch(epoch, step, samples, start, start + self._sizes[step])

    @property
    def taken(self) -> int:
        """Samples, on all ranks, of the step that a policy has to be told of next; for its `update`."""
        require(self.plan.step in self._sizes, "step", self.plan.step, "of the policy has not been handed out")
        return self._sizes[self.plan.step]

    def _taken(self, batches: int, accumulate: int) -> int:
        """Batches of the step that follows `batches`. Raises unless some iteration has handed them out."""
        index, done = self._table().locate(batches)
        left = len(self._table().batches(index)) - done
        taken = min(accumulate, left)
        alive = [(p() is not None, r) for p, r in self._passes if r.index == index and r.whole]
        ahead = _drawn_ahead()
        if ahead is not None and [living for living, _ in alive] == [True]:  # skipped steps are not told a scheduler
            taken = max(taken, min(left, alive[0][1].taken - done - ahead))
        alive = [(living, r) for living, r in alive if r.taken >= done + taken]
        why = (
            f"batch {done + taken - 1} of iteration {index} has not been handed out since the iteration began: the "
            "loop stepped the scheduler more often than it drew batches, or left an iteration before its end and began "
            "another; to go on inside one, load the sampler's state (for a resumed loader: StatefulDataLoader)"
        )
        require(bool(alive), "step", batches + 1, why)
        for living, record in alive:
            record.trained |= living
        return taken

    def _check_ended(self, batches: int, steps: int) -> None:
        """Require that an iteration is not over before the scheduler's first step of it."""
        index, _ = self._table().locate(batches)
        passes = [(p, r) for p, r in self._passes if r.index == index and r.whole]
        over = passes and all(p() is None and r.complete and not r.trained for p, r in passes)
        why = "times before the scheduler's step: call its step() after every one, not once an epoch"
        require(not over, "optimizer.step() was called", steps, why)

    def _left_over(self, clock: PlanLR | _OptimizerClock) -> int:
        """Batches that the iteration has left after the clock's, if it was trained on to its end; else 0."""
        index, done = self._table().locate(clock.batches)
        count = len(self._table().batches(index))
        # of a run that goes on with too few batches left for a step, the first pass to the end is the training's
        few_left = clock.batches == clock._loaded and count - done < clock.accumulate
        passes = [(p, r) for p, r in self._passes if r.index == index and (r.trained or (few_left and r.complete))]
        if not (done and passes and all(p() is None and r.complete for p, r in passes)):
            return 0
        why = (
            f"in an iteration of {count} that is over; call step() after every optimizer step, skipped ones too, "
            "before the next iteration's first batch is drawn, and say accumulate="
        )
        skips = _active_loader() is not None and 2 * done > count  # Accelerate does not tell of steps that are skipped
        require(skips or count - done < clock.accumulate, "batches that the scheduler has counted", done, why)
        return count - done

    # --- what clients ask for ---

    def __iter__(self) -> Iterator[list[int]]:
        return _Pass(self)

    def __len__(self) -> int:
        """Batches that the next iteration, if begun now, hands out; a policy's cannot be known."""
        if not isinstance(self.plan, Plan):
            raise TypeError("the number of batches is the policy's to decide")
        index, first, _ = self._position()
        batches = self._table().batches(index)[first:]
        if not self.max_micro_batch and self.group().size == 1:
            return len(batches)
        return sum(len(self._parts(batch)) for batch in batches)

    @property
    def sampler(self) -> ScheduledBatchSampler:
        """Itself: Lightning and Accelerate call `batch_sampler.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The iterations from here on are this epoch, until the next call (with `epochs` above 1: this iteration).

        Of a sampler that is tied to a scheduler, the scheduler says it; an epoch that the loop cannot be in raises
        `InputError` at the first batch. Loaders that count their iterations themselves may count too many.
        """
        ok = isinstance(epoch, Integral) and epoch >= 0
        require(ok, "epoch", epoch, "must be a whole number, 0 or above")
        self._set = int(epoch)
        if self._clock is None and self._resume and self._resume[0] != epoch and isinstance(self.plan, Plan):
            self._resume = None

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """Where the run stands: after `step` optimizer steps, by default those of the tied scheduler or policy.

        Alone, a sampler knows this only between two iterations: what a loader has drawn ahead it has handed out as
        well. Inside one the state has step None, and holds only together with that of the iteration (StatefulDataLoader
        takes both).
        """
        state = {"n": self.n, "seed": self.seed, "step": None, "samples": None}
        if isinstance(self.plan, Policy):
            sizes = [self._sizes[at] for at in sorted(self._sizes) if at >= self.plan.step]
            return state | {"step": self.plan.step, "samples": self.plan.samples, "drawn": sizes}
        if step is None and self._clock is not None:
            step = self._clock.batches
        if step is None and not any(p() is not None for p, _ in self._passes):
            index, first, _ = self._position()
            step = self._table().batches(index)[first].step
        if step is not None:
            require(isinstance(step, Integral) and step >= 0, "step", step, "must be a whole number, 0 or above")
            step = int(step)
            index, done = self._table().locate(step)
            state |= {"step": step, "samples": self._table().batches(index)[done].samples}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises `InputError` for the state of something else, or of another order of samples."""
        names = {"n", "seed", "step", "samples"}
        require(set(state) - {"drawn"} == names, "state", [*state], f"entries must be {sorted(names)}")
        for name in ("n", "seed"):
            require(state[name] == getattr(self, name), name, getattr(self, name), f"must be {state[name]} as saved")
        self._passes, self._resume, self._before = [], None, {}
        if state["step"] is None:  # the iteration's own state says it, which is loaded next
            self._resume = _Unknown()
        elif isinstance(self.plan, Policy):
            self._resume = state["step"], state["samples"]
            self._sizes = dict(enumerate(state.get("drawn", ()), state["step"]))
        else:
            self._resume = self._table().locate(state["step"])
            index, done = self._resume
            samples = self._table().batches(index)[done].samples
            require(samples == state["samples"], "plan", self.plan, f"makes {samples} samples, not those of the state")


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


class _Unknown(tuple):
    """A position that a sampler's state does not hold."""

    def __iter__(self) -> Iterator[Any]:
        require(False, "state", None, "was saved inside an iteration; tie a PlanLR to the sampler, or say the step")

    __getitem__ = __iter__

    def __bool__(self) -> bool:
        return True


def _tie(one: ScheduledBatchSampler | PlanLR, other: type) -> None:
    """Tie a sampler and a scheduler of the same plan object and n that were made apart: the newest that is not yet."""
    for found in _others(one, other)[::-1]:
        sampler, scheduler = (one, found) if other is PlanLR else (found, one)
        if sampler._clock is None:
            _untied.pop(found._number)
            scheduler._follow(sampler)
            return
    _untied[one._number] = one


def _others(one: ScheduledBatchSampler | PlanLR, other: type) -> list[Any]:
    """Those of the kind `other` that are not tied and of its plan and n, by age."""
    found = [x for _, x in sorted(_untied.items()) if isinstance(x, other)]
    return [x for x in found if x.plan is one.plan and _samples(x) == _samples(one)]


def _samples(one: ScheduledBatchSampler | PlanLR) -> int:
    return one.n if isinstance(one, ScheduledBatchSampler) else one.samples_per_epoch


class PlanLR(LRScheduler):
    """Sets the optimizer's lr to what `plan` says for the next step; call `step()` after every optimizer step.

    PlanLR(optimizer, sampler), or PlanLR(optimizer, plan, samples_per_epoch). The first is tied to the sampler: same
    batches, same clock (see there). The second is too, where a sampler of the same plan object and as many samples
    exists or is made; alone it counts the batches that the plan makes of `samples_per_epoch` samples. With a policy,
    update the policy first. Of a sampler that has one, the scheduler of another optimizer that is made before the first
    step goes beside it; one that is made later begins another run, and the sampler with it.

    accumulate: loader batches to one optimizer step. An optimizer step that ends an epoch may have fewer; batches at an
    epoch's end that no step followed are counted when the next iteration begins. Call step() after steps that a
    GradScaler skipped, too; Accelerate and Trainer do not, and those are counted with the next one.

    Every parameter group's lr is lr·base/reference: base is its lr when the scheduler was made, reference the largest
    of them, or that of the group number or group "name" `reference`. A group that is added later has as base the lr
    that it is added with, and follows the plan from the next step on. An lr of 0 is refused once a step was
    made with it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        plan: Leader | ScheduledBatchSampler,
        samples_per_epoch: int | None = None,
        *,
        accumulate: int = 1,
        reference: int | str | None = None,
    ):
        sampler = plan if isinstance(plan, ScheduledBatchSampler) else None
        if sampler is not None:
            require(samples_per_epoch is None, "samples_per_epoch", samples_per_epoch, "is the sampler's to say")
            plan, samples_per_epoch = sampler.plan, sampler.n
        kinds = "must be a Plan, a policy, or the ScheduledBatchSampler of a loader (its batch_sampler)"
        require(hasattr(plan, "after"), "plan", plan, kinds)
        self.plan, self.samples_per_epoch = plan, whole("samples_per_epoch", samples_per_epoch)
        self.accumulate = whole("accumulate", accumulate)
        bases = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        positive("largest lr of the parameter groups", max(bases))
        self._reference = max(bases) if reference is None else bases[self._group(optimizer, reference)]
        positive("lr of the reference group", self._reference)
        self.batches = 0  # of the plan, trained on
        self.sampler: ScheduledBatchSampler | None = None
        self._rules: ScheduledBatchSampler | None = None  # the sampler whose batches are counted, tied or not
        self._number, self._composed = next(_numbers), False
        self._lost = False  # its sampler is another scheduler's by now
        self._seen = getattr(plan, "step", 0)  # steps of a policy, at the last call of step()
        self._since = 0  # optimizer steps since the last call of step()
        self._loaded: int | None = None  # batches that a state said
        self._run: _OptimizerClock | None = None  # in SequentialLR
        self._own: _Passes | None = None
        if isinstance(plan, Plan):
            self._own = _Passes(self.samples_per_epoch, plan, 1, 1, 1, False, 1)
        super().__init__(optimizer)
        while not hasattr(optimizer, "_optimizer_step_post_hooks"):  # Accelerate's, around the one that steps
            optimizer = optimizer.optimizer
        optimizer.register_step_post_hook(_Count(self))
        if sampler is not None:
            _untied.pop(sampler._number, None)
            self._follow(sampler)
        else:
            _tie(self, ScheduledBatchSampler)

    @staticmethod
    def _group(optimizer: Optimizer, reference: int | str) -> int:
        names = [group.get("name") for group in optimizer.param_groups]
        known = reference in names if isinstance(reference, str) else 0 <= reference < len(names)
        require(known, "reference", reference, f"must be the number of a parameter group or one of the names {names}")
        return names.index(reference) if isinstance(reference, str) else reference

    def _follow(self, sampler: ScheduledBatchSampler) -> None:
        """Be the sampler's clock: from its start, if it has been another's in a run before; beside it, if that one has
        not begun and steps another optimizer."""
        self.sampler = self._rules = sampler
        if self._is_beside(sampler):
            sampler._others.append(self)
        else:
            if sampler._clock is not None:
                for each in (sampler._clock.scheduler, *sampler._others):
                    each._lost = True
                sampler._others.clear()
                sampler._restart()
            sampler._clock = self
        if self._composed:
            self._part()

    def _is_beside(self, sampler: ScheduledBatchSampler) -> bool:
        clock = sampler._clock
        return clock is not None and not clock.batches and clock.scheduler.optimizer is not self.optimizer

    @property
    def scheduler(self) -> PlanLR:
        """Itself, as a sampler's clock."""
        return self

    def _initial_step(self) -> None:
        if hasattr(self, "_last_lr"):
            self._part()
        super()._initial_step()

    def _part(self) -> None:
        """Composed by SequentialLR, it counts some of the run's steps only: the optimizer's are the sampler's clock."""
        self._composed = True
        if self.sampler is not None and self._own is not None:
            if self.sampler._clock is self:
                self._run = self.sampler._clock = _OptimizerClock(self)
            else:
                self.sampler._others.remove(self)
            self.sampler = None

    def _table(self) -> _Passes:
        return self._own if self._rules is None else self._rules._table()

    @property
    def samples(self) -> int:
        """Gradient evaluations so far."""
        return self.plan.samples if self._own is None else self._batch().samples

    @property
    def batch_size(self) -> int:
        """Samples of the next batch, in micro-batches or not: on this rank of a tied sampler, or in all."""
        if self._own is None:
            drawn = self.sampler is not None and self.sampler._sizes.get(self.plan.step)
            part = slice(0, drawn or self.plan.batch_size)
        else:
            batch = self._batch()
            part = slice(batch.start, batch.stop)
        if self.sampler is not None and not self.sampler.interleave:
            part = self.sampler.group().shard(part.stop - part.start)
        return part.stop - part.start

    def _batch(self) -> Batch:
        index, done = self._table().locate(self.batches)
        return self._table().batches(index)[done]

    def step(self, epoch: None = None) -> None:
        require(epoch is None, "epoch", epoch, "is counted here; call step() after every optimizer step")
        if self.last_epoch >= 0:  # torch's name for the steps so far, −1 while it is being built
            self._advance()
        self._since = 0
        self._add_groups()
        super().step()

    def _add_groups(self) -> None:
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            self.base_lrs.append(group.setdefault("initial_lr", group["lr"]))

    def _advance(self) -> None:
        lost = "of this plan has been made since, for another run: it sets the batches, and this one must not step"
        require(not self._lost, "scheduler", "another PlanLR", lost)
        if self._own is None:
            late = "of the policy are as many as before this step: update the policy, then call step()"
            require(not self._since or self.plan.step > self._seen, "steps", self.plan.step, late)
            self._seen = self.plan.step
            self.batches += 1
            return
        if self._rules is None:
            self._check_alone()
        positive(f"lr of batch {self.batches}", self._lr())
        if self.sampler is not None and self.sampler.interleave and not self._since:
            return  # Accelerate's prepared scheduler calls once for each rank
        if self.sampler is not None:
            if self._since > 1:
                self.sampler._check_ended(self.batches, self._since)
            self.batches += self.sampler._taken(self.batches, self.accumulate)
        else:
            index, done = self._table().locate(self.batches)
            self.batches += min(self.accumulate, len(self._table().batches(index)) - done)

    def _check_alone(self) -> None:
        """Require that no sampler of this plan, of another number of samples, is at work."""
        n = next((x.n for x in [*_untied.values()] if isinstance(x, ScheduledBatchSampler) and self._is_of(x)), None)
        why = f"must be {n}, the samples of the sampler of this plan: the scheduler counts its batches by itself"
        require(n is None, "samples_per_epoch", self.samples_per_epoch, why)

    def _is_of(self, sampler: ScheduledBatchSampler) -> bool:
        return sampler.plan is self.plan and sampler.n != self.samples_per_epoch and bool(sampler._passes)

    def _catch_up(self) -> None:
        """Before an iteration begins: count what the last one left over, if it was trained on to its end."""
        often = "times since the scheduler's last step: call its step() after every one"
        require(self._since <= 1, "optimizer.step() was called", self._since, often)
        if left := self.sampler._left_over(self):
            self.batches += left
            super().step()

    def _lr(self) -> float:
        if self._own is None:
            return self.plan.after(self.plan.step, self.plan.samples, self.samples_per_epoch).lr
        if not self.batches:  # before anyone knows how many ranks there are
            return self.plan.lr(0)
        batch = self._batch()
        return self.plan.lr(self._table().reading(batch.epoch, batch.step, batch.samples))

    def get_lr(self) -> list[float]:
        lr = self._lr()
        require(math.isfinite(lr) and lr >= 0, f"lr of batch {self.batches}", lr, "must be finite, 0 or above")
        return [lr * ratio for ratio in self._ratios()]

    def _ratios(self) -> list[float]:
        return [base / self._reference for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Steps and samples so far: the plan is not stored. A policy is, with the batches that a tied sampler has drawn
        ahead of it."""
        state = {"step": self.last_epoch, "batches": self.batches, "samples": self.samples, "ratios": self._ratios()}
        if self._own is None:
            return state | {
                "policy": self.plan.state_dict(),
                "sampler": None if self.sampler is None else self.sampler.state_dict(),
            }
        return state if self._run is None else state | {"run": self._run.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there. Raises `InputError` for the state of another scheduler, or of another plan."""
        names = {"step", "batches", "samples"} | ({"policy", "sampler"} if self._own is None else set())
        known = set(state_dict) - {"run", "ratios"} == names
        require(known, "state", [*state_dict], f"must be a PlanLR's, with entries {sorted(names)}")
        self._add_groups()
        ratios = state_dict.get("ratios", self._ratios())
        same = len(ratios) == len(self.base_lrs) and np.allclose(ratios, self._ratios(), rtol=1e-9)
        why = f"must be {ratios} as saved: make the parameter groups with the lrs of then, or say reference="
        require(same, "lrs of the parameter groups over the plan's", self._ratios(), why)
        if "run" in state_dict:
            self._part()
            if self._run is not None:
                self._run.batches = self._run._loaded = state_dict["run"]
        if self._own is None:
            self.plan.load_state_dict(state_dict["policy"])
            if self.sampler is not None and state_dict["sampler"]:
                self.sampler.load_state_dict(state_dict["sampler"])
        before, self.batches = self.batches, state_dict["batches"]
        if self._own is not None and self.samples != state_dict["samples"]:
            samples, self.batches = self.samples, before
            require(False, "plan", self.plan, f"makes {samples} samples, not {state_dict['samples']} as saved")
        self.last_epoch, self._loaded, self._since = state_dict["step"], self.batches, 0
        self._step_count = self.last_epoch + 1  # torch's, which warns of a first step before the optimizer's
        self._seen = getattr(self.plan, "step", 0)
        if "run" in state_dict or self.last_epoch < 0:  # in SequentialLR, which may be elsewhere
            return
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr


class _OptimizerClock:
    """Counts the steps of the optimizer of a `PlanLR` that SequentialLR composes, as the sampler's clock."""

    def __init__(self, scheduler: PlanLR):
        self.scheduler, self.sampler, self.accumulate = scheduler, scheduler.sampler, scheduler.accumulate
        self.batches = 0
        self._loaded: int | None = None

    def advance(self) -> None:
        self.batches += self.sampler._taken(self.batches, self.accumulate)

    def _catch_up(self) -> None:
        self.batches += self.sampler._left_over(self)


def _active_loader() -> Any:
    """The loader of Accelerate's that is iterated over, if one is."""
    state = sys.modules.get("accelerate.state")
    return state and state.GradientState().active_dataloader


def _drawn_ahead() -> int | None:
    """Batches that Accelerate's loader, if it is what is iterated over, has drawn beyond the one that it gave out."""
    loader = _active_loader()
    if type(loader).__name__ != "DataLoaderShard":
        return None
    return 1 + loader.num_workers * (loader.prefetch_factor or 0)


class _Count:
    """Counts the optimizer's steps for a scheduler, and does not keep it alive."""

    def __init__(self, scheduler: PlanLR):
        self._scheduler = ref(scheduler)

    def __call__(self, *_: Any) -> None:
        if (scheduler := self._scheduler()) is not None:
            scheduler._since += 1
            if scheduler._run is not None:
                scheduler._run.advance()
