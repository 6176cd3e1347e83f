"""Plans and policies in loops with Accelerate. Needs `pip install 'sfolib[clients]'`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from sfolib._utils.errors import require
from sfolib.gradients.per_sample import Loss
from sfolib.integrations.looks import Looks, Measure, one_batch_a_step
from sfolib.schedules.torch import ScheduledBatchSampler

try:
    from accelerate import Accelerator
    from accelerate.data_loader import prepare_data_loader
except ModuleNotFoundError as error:
    raise ImportError(f"{__name__} needs accelerate, which is not installed: pip install 'sfolib[clients]'") from error


def prepare(accelerator: Accelerator, *objects: Any) -> Any:
    """`accelerator.prepare(*objects)`, whatever its split_batches, for loaders of an interleaved sampler too.

    Accelerate deals out whole batches of a sampler with interleave=True, one to each process, which are the parts of
    the plan's global batch. With split_batches it would cut batches itself, and take none that change their size.
    """
    return_one = len(objects) == 1
    prepared = []
    for each in objects:
        sampler = getattr(each, "batch_sampler", None) if isinstance(each, DataLoader) else None
        if isinstance(sampler, ScheduledBatchSampler):
            each = _prepared(accelerator, each, sampler)
        prepared.append(each)
    found = accelerator.prepare(*prepared)
    return found if return_one else tuple(found)


def _prepared(accelerator: Accelerator, loader: DataLoader, sampler: ScheduledBatchSampler) -> DataLoader:
    several = accelerator.num_processes > 1
    require(sampler.interleave or not several, "interleave", False, "must be True for a loader that is prepared")
    own = accelerator.dataloader_config
    shard = prepare_data_loader(
        loader,
        accelerator.device,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        split_batches=False,
        put_on_device=accelerator.device_placement,
        rng_types=accelerator.rng_types.copy(),
        dispatch_batches=False,
        even_batches=own.even_batches,
        use_seedable_sampler=own.use_seedable_sampler,
        data_seed=own.data_seed,
        non_blocking=own.non_blocking,
        use_stateful_dataloader=own.use_stateful_dataloader,
    )
    shard._is_accelerate_prepared = True
    return shard


class PolicyCallback:
    """Tells the policy of `sampler` of every step.

        callback = PolicyCallback(accelerator, sampler, loss_fn)
        scheduler = PlanLR(optimizer, sampler)
        model, optimizer, loader, scheduler = prepare(accelerator, model, optimizer, loader, scheduler)
        for x, y in loader:
            callback.on_batch_begin(model, (x, y))
            loss = loss_fn(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            callback.on_optimizer_step(loss)
            scheduler.step()
            optimizer.zero_grad()

    `accelerator.save_state` keeps the policy with the prepared scheduler; after `load_state` begin with the loader as
    it is (no `skip_first_batches`): the sampler goes on where the policy stands.
    loss_fn, signal: see `Looks`. Raises `InputError` for gradient_accumulation_steps above 1.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        sampler: ScheduledBatchSampler,
        loss_fn: Loss | None = None,
        signal: Measure | None = None,
    ):
        one_batch_a_step(accelerator.gradient_accumulation_steps)
        self._accelerator, self._looks = accelerator, Looks(sampler, loss_fn, signal)
        self._seen: tuple[nn.Module, Any] | None = None

    def on_batch_begin(self, model: nn.Module, batch: Any) -> None:
        """Before the forward pass: measures, if a look is due."""
        self._seen = self._accelerator.unwrap_model(model), batch
        self._looks.before(*self._seen)

    def on_optimizer_step(self, loss: Tensor | None = None) -> None:
        """After `optimizer.step()`, skipped or not, and before `scheduler.step()`."""
        require(self._seen is not None, "batch", None, "is unknown: call on_batch_begin before every step")
        self._looks.after(*self._seen, loss)
        self._seen = None
