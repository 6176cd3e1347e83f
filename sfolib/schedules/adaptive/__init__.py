"""Policies: batch size and learning rate from what a run measures.

    for x, y in loader:
        ...  # a step with policy.batch_size and policy.lr
        policy.update(len(x), signal() if policy.needs_signal else None)

Each is a plain object, for any loop; see `base.Policy` for what all have, and its docstring for its signal.
Bad input raises `InputError`.
"""

from sfolib.schedules.adaptive.adascale import AdaScale
from sfolib.schedules.adaptive.autowu import AutoWU
from sfolib.schedules.adaptive.grad_norm_trigger import GradNormTrigger
from sfolib.schedules.adaptive.gradient_tests import AugmentedInnerProductTest, InnerProductTest, NormTest
from sfolib.schedules.adaptive.horizon_ramp import HorizonRamp
from sfolib.schedules.adaptive.noise_rules import CABS, NoiseAndLoss, NoiseScaleRule
from sfolib.schedules.adaptive.optimal_batch import OptimalBatch
from sfolib.schedules.adaptive.plateau import IncreaseOnPlateau
from sfolib.schedules.adaptive.successive_gradients import SuccessiveGradientTest

__all__ = [
    "CABS",
    "AdaScale",
    "AugmentedInnerProductTest",
    "AutoWU",
    "GradNormTrigger",
    "HorizonRamp",
    "IncreaseOnPlateau",
    "InnerProductTest",
    "NoiseAndLoss",
    "NoiseScaleRule",
    "NormTest",
    "OptimalBatch",
    "SuccessiveGradientTest",
]
