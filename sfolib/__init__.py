"""sfolib: how batch size and learning rate should grow in SGD, and what that costs in gradient evaluations.

Public names are imported at their first use, so that `import sfolib` needs neither torch nor sympy.
"""

from sfolib._utils.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "_utils.errors": ["InputError"],
        "analysis.claims": ["Check"],
        "analysis.fits": ["fit_exponent"],
        "analysis.predict": ["predict", "predict_constant"],
        "analysis.recommend": ["recommend"],
        "problems.specs": ["Digits", "Quadratic"],
        "schedules.adaptive": [
            "AdaScale", "AugmentedInnerProductTest", "AutoWU", "CABS", "GradNormTrigger", "HorizonRamp",
            "IncreaseOnPlateau", "InnerProductTest", "NoiseScaleRule", "NormTest", "OptimalBatch",
            "SuccessiveGradientTest",
        ],
        "schedules.diagnostics": ["validity"],
        "schedules.plan": ["Plan"],
        "schedules.published": [
            "at_momentum", "increase_batch_size", "late_ramp", "late_switch", "scaled", "seesaw", "stagewise",
        ],
        "schedules.theoretical": ["critical_plan", "front_plan"],
        "schedules.torch": ["PlanLR", "ScheduledBatchSampler", "StreamDataset"],
        "theory.bounds": ["Constants"],
        "theory.derivations": ["Derivation", "DerivationError", "result", "results"],
        "theory.quadratic": ["PowerLawQuadratic"],
        "training.records": ["Run", "load", "save"],
        "training.run": ["run", "run_all"],
        "training.spec": ["Spec"],
    },
    ["analysis", "experiments", "gradients", "integrations", "plotting", "problems", "schedules", "theory", "training"],
)  # fmt: skip
