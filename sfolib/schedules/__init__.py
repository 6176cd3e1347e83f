"""Batch size and learning rate as functions of a clock: schedules, plans, and policies that adapt."""

from sfolib._utils.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "diagnostics": ["validity"],
        "plan": ["Plan"],
        "published": [
            "at_momentum",
            "increase_batch_size",
            "late_ramp",
            "late_switch",
            "scaled",
            "seesaw",
            "stagewise",
        ],
        "theoretical": ["critical_plan", "front_plan"],
        "torch": ["PlanLR", "ScheduledBatchSampler", "StreamDataset"],
    },
    ["adaptive", "base"],
)  # fmt: skip
