"""A plan or a policy in anyone's loop: its batch size by a batch sampler, its learning rate by a scheduler.

The two are tied: the scheduler's clock, which counts the batches that were trained on, says where the sampler's next
pass begins. docs/your_own_loop.md shows both in Lightning, Accelerate, transformers' Trainer, torchdata and Ignite.
"""

from sfolib.schedules.passes import Batch
from sfolib.schedules.plan_lr import PlanLR
from sfolib.schedules.sampler import Leader, ScheduledBatchSampler
from sfolib.schedules.stream import StreamDataset

__all__ = ["Batch", "Leader", "PlanLR", "ScheduledBatchSampler", "StreamDataset"]
