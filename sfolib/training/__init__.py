"""Runs: what they are, how they are trained, and what is left of them on disk."""

from sfolib._utils.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "records": ["Run", "load", "save"],
        "run": ["run", "run_all", "run_in", "train"],
        "spec": ["Spec"],
    },
)
