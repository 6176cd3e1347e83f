"""Policies under transformers' Trainer. Needs `pip install 'sfolib[clients]'`."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from sfolib._utils.errors import require
from sfolib.gradients.per_sample import Loss
from sfolib.integrations.looks import Looks, Measure, one_batch_a_step
from sfolib.schedules.torch import ScheduledBatchSampler

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ImportError(f"{__name__} needs transformers and accelerate: pip install 'sfolib[clients]'") from error


class PolicyCallback(TrainerCallback):
    """Tells the policy of `sampler` of every step.

        Trainer(…, optimizers=(optimizer, PlanLR(optimizer, sampler)), callbacks=[PolicyCallback(sampler, signal=…)])

    The loader comes from an overridden `get_train_dataloader`, TrainingArguments say `max_steps`, since a policy's
    epochs have no length, and `ignore_data_skip=True` to resume: the scheduler's state holds the policy, and the
    sampler goes on where it stands.
    loss_fn, signal: see `Looks`; the batch is the dict of what the model was called with. For loss_fn it has two
    entries, of which "labels" is y. A policy that looks at losses gets the model's own, output["loss"].
    Raises `InputError` for gradient_accumulation_steps above 1.
    """

    def __init__(self, sampler: ScheduledBatchSampler, loss_fn: Loss | None = None, signal: Measure | None = None):
        self._looks, self._by_loss_fn = Looks(sampler, loss_fn, signal), signal is None and loss_fn is not None
        self._hook: RemovableHandle | None = None
        self._called: tuple[dict[str, Any], Any] = {}, None  # of the last forward pass in training

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        one_batch_a_step(args.gradient_accumulation_steps)
        skips = state.global_step > 0 and not args.ignore_data_skip
        require(not skips, "ignore_data_skip", False, "must be True to resume with a policy: its sampler goes on")
        self._hook = model.register_forward_hook(self._see, with_kwargs=True)

    def _see(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if model.training and not self._measuring:
            self._called = kwargs, output

    _measuring = False

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._hook.remove()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        self._measuring = True
        if self._looks.measures_before:
            self._looks.before(model, self._batch())
        self._measuring = False

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        output = self._called[1]
        self._measuring = True
        self._looks.after(model, self._called[0], output["loss"] if isinstance(output, dict) else output[0])
        self._measuring = False

    def _batch(self) -> Any:
        inputs = self._called[0]
        if not self._by_loss_fn:
            return inputs
        rest = [value for name, value in inputs.items() if name != "labels"]
        ok = "labels" in inputs and len(rest) == 1
        require(ok, "batch", [*inputs], "must be one input and labels for loss_fn; else say signal=")
        return rest[0], inputs["labels"]
