"""Policies under Lightning's Trainer. Needs `pip install 'sfolib[clients]'`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sfolib._utils.errors import require
from sfolib.gradients.per_sample import Loss
from sfolib.integrations.looks import Looks, Measure, one_batch_a_step
from sfolib.schedules.torch import ScheduledBatchSampler

try:
    import lightning.pytorch as lightning
except ModuleNotFoundError as error:
    raise ImportError(f"{__name__} needs lightning, which is not installed: pip install 'sfolib[clients]'") from error


class PolicyCallback(lightning.Callback):
    """Tells the policy of `sampler` of every step.

        sampler = ScheduledBatchSampler(len(data), NormTest(0.5, batch_size=16, lr=0.1, max_batch_size=512))
        Trainer(callbacks=[PolicyCallback(sampler, loss_fn)])

    `configure_optimizers` returns PlanLR(optimizer, sampler) with "interval": "step", as for a plan. It goes into
    checkpoints with the policy, and `ckpt_path` goes on with the next batch, inside an epoch too.
    loss_fn, signal: see `Looks`; the batch is (x, y), the model the LightningModule.
    Raises `InputError` for several optimizers and for accumulate_grad_batches above 1.
    """

    def __init__(self, sampler: ScheduledBatchSampler, loss_fn: Loss | None = None, signal: Measure | None = None):
        self._looks = Looks(sampler, loss_fn, signal)
        self._loss: Tensor | None = None
        self._hook: RemovableHandle | None = None
        self._batch: tuple[nn.Module, Any] | None = None  # of which the policy has not been told

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        require(len(trainer.optimizers) == 1, "optimizers", len(trainer.optimizers), "must be one")
        one_batch_a_step(trainer.accumulate_grad_batches)
        # Lightning steps the lr before on_train_batch_end
        self._hook = trainer.optimizers[0].register_step_post_hook(lambda *_: self._tell())

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._hook.remove()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        one_batch_a_step(trainer.accumulate_grad_batches)  # GradientAccumulationScheduler may change it
        self._batch = pl_module, batch
        self._looks.before(pl_module, batch)

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        self._loss = loss

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._tell()  # of a step that was skipped

    def _tell(self) -> None:
        if self._batch is not None:
            self._looks.after(*self._batch, self._loss)
            self._batch = self._loss = None
