"""A plan or a policy as batches: the batch sampler of a plain `DataLoader`, whose clock is the run's."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from itertools import count
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import WeakValueDictionary, ref

import torch.distributed as dist
from torch.utils.data import Sampler

from sfolib._utils.distributed import ProcessGroup
from sfolib._utils.errors import require, whole
from sfolib._utils.rng import epoch_order
from sfolib.schedules.adaptive.base import Policy
from sfolib.schedules.passes import Batch, Passes
from sfolib.schedules.plan import Plan, Step

if TYPE_CHECKING:
    from sfolib.schedules.plan_lr import OptimizerClock, PlanLR

# what is not tied to another yet, by number, which is its age
samplers: MutableMapping[int, ScheduledBatchSampler] = WeakValueDictionary()
schedulers: MutableMapping[int, PlanLR] = WeakValueDictionary()
numbers = count()


def untied(those: MutableMapping[int, Any], one: ScheduledBatchSampler | PlanLR) -> list[Any]:
    """Those of the plan object and n of `one`, by age."""
    found = [x for _, x in sorted(those.items())]
    return [x for x in found if x.plan is one.plan and x.n == one.n]


class Leader(Protocol):
    """What says the next step's batch size and lr: a `Plan`, or one of the policies of `sfolib.adaptive`."""

    def after(self, step: int, samples: int, samples_per_epoch: int) -> Step: ...


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
        else:  # a batch too small for the ranks is refused at once, not at the epoch's end
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

    Which epoch an iteration is, in this order: what `load_state_dict` set; the epoch of the `PlanLR` that is tied to
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
        self._clock: PlanLR | OptimizerClock | None = None
        self._others: list[PlanLR] = []  # of the other optimizers of a loop that has several
        self._set: int | None = None  # by set_epoch
        self._next = self._complete = 0  # the pass after the last complete one; how many have been completed
        self._resume: tuple[int, int] | None = None  # by load_state_dict: pass and batches of it, or steps and samples
        self._passes: list[tuple[ref[_Pass], _Record]] = []
        self._cached: tuple[int, Passes] | None = None
        self._permutation: tuple[int, list[int]] = (-1, [])
        self._number = next(numbers)
        if found := untied(schedulers, self):
            del schedulers[found[-1]._number]
            found[-1]._follow(self)
        else:
            samplers[self._number] = self

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

    def _table(self) -> Passes:
        ranks = self.group().size
        if self._cached is None or self._cached[0] != ranks:
            factor, (multiple_of, *rules) = ranks if self.per_replica else 1, self._rules
            multiple_of = ranks if multiple_of == "ranks" else multiple_of
            self._cached = ranks, Passes(self.n, self.plan, self._epochs, factor, multiple_of, *rules)
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
        if self._clock is not None:
            self._clock._begin()
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
        for scheduler in untied(schedulers, self):
            clock = self._clock and self._clock.scheduler
            if clock is None or scheduler._number > clock._number or scheduler._is_beside(self):
                del schedulers[scheduler._number]
                scheduler._follow(self)

    def _restart(self) -> None:
        """For another run, with a scheduler of its own."""
        if self._passes:  # what was loaded before them was of the last run
            self._resume = None
        self._set, self._next, self._complete, self._passes = None, 0, 0, []

    def _policy_start(self) -> tuple[int, int]:
        self._check_updated()
        return self._resume or (self.plan.step, self.plan.samples)

    def _check_updated(self) -> None:
        """Require that the policy was updated after each of the batches that were handed out."""
        wanted = self._before.get(self.plan.step, self.plan.samples)
        why = f"after {self.plan.step} steps must be {wanted}: tell update() sampler.taken, the batch over all ranks"
        require(self.plan.samples == wanted, "samples of the policy", self.plan.samples, why)

    def _policy_batch(self, step: int, samples: int) -> Batch:
        epoch, start = divmod(samples, self.n)
        self._check_updated()
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
        """Samples, on all ranks, of the step that the policy's next `update` is about."""
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

    def _left_over(self, clock: PlanLR | OptimizerClock) -> int:
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


class _Unknown(tuple):
    """A position that a sampler's state does not hold."""

    def __iter__(self) -> Iterator[Any]:
        require(False, "state", None, "was saved inside an iteration; tie a PlanLR to the sampler, or say the step")

    __getitem__ = __iter__

    def __bool__(self) -> bool:
        return True


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
