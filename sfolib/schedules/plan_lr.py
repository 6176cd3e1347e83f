"""A plan or a policy as a learning rate: torch's scheduler, which counts the batches that were trained on."""

from __future__ import annotations

import math
from typing import Any
from weakref import ref

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sfolib._utils.errors import positive, require, whole
from sfolib.schedules.passes import Batch, Passes
from sfolib.schedules.plan import Plan
from sfolib.schedules.sampler import Leader, ScheduledBatchSampler, numbers, samplers, schedulers, untied


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
        self._number, self._composed = next(numbers), False
        self._lost = False  # its sampler is another scheduler's by now
        self._seen = getattr(plan, "step", 0)  # steps of a policy, at the last call of step()
        self._since = 0  # optimizer steps since the last call of step()
        self._loaded: int | None = None  # batches of a state that was loaded
        self._run: OptimizerClock | None = None  # in SequentialLR
        self._own: Passes | None = None
        if isinstance(plan, Plan):
            self._own = Passes(self.samples_per_epoch, plan, 1, 1, 1, False, 1)
        super().__init__(optimizer)
        while not hasattr(optimizer, "_optimizer_step_post_hooks"):  # Accelerate's, around the one that steps
            optimizer = optimizer.optimizer
        optimizer.register_step_post_hook(_Count(self))
        if sampler is not None:
            samplers.pop(sampler._number, None)
            self._follow(sampler)
        elif found := untied(samplers, self):
            del samplers[found[-1]._number]
            self._follow(found[-1])
        else:
            schedulers[self._number] = self

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
                self._run = self.sampler._clock = OptimizerClock(self)
            else:
                self.sampler._others.remove(self)
            self.sampler = None

    def _begin(self) -> None:
        """Before an iteration does: SequentialLR leaves what it composes at its start until its turn."""
        if self.last_epoch < 0:
            self._part()

    @property
    def n(self) -> int:
        return self.samples_per_epoch

    def _table(self) -> Passes:
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
        n = next((sampler.n for sampler in [*samplers.values()] if self._is_other(sampler)), None)
        why = f"must be {n}, the samples of the sampler of this plan: the scheduler counts its batches by itself"
        require(n is None, "samples_per_epoch", self.samples_per_epoch, why)

    def _is_other(self, sampler: ScheduledBatchSampler) -> bool:
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


class OptimizerClock:
    """Counts the steps of the optimizer of a `PlanLR` that SequentialLR composes, as the sampler's clock."""

    def __init__(self, scheduler: PlanLR):
        self.scheduler, self.sampler, self.accumulate = scheduler, scheduler.sampler, scheduler.accumulate
        self.batches = 0
        self._loaded: int | None = None

    def _begin(self) -> None:
        pass

    def advance(self) -> None:
        self.batches += self.sampler._taken(self.batches, self.accumulate)

    def _catch_up(self) -> None:
        self.batches += self.sampler._left_over(self)


class _Count:
    """Counts the optimizer's steps for a scheduler, and does not keep it alive."""

    def __init__(self, scheduler: PlanLR):
        self._scheduler = ref(scheduler)

    def __call__(self, *_: Any) -> None:
        if (scheduler := self._scheduler()) is not None:
            scheduler._since += 1
            if scheduler._run is not None:
                scheduler._run.advance()
