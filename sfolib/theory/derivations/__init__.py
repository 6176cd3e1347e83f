"""The theory, derived with SymPy: each result lists its assumptions and its steps, and proves itself."""

from sfolib.theory.derivations.derivation import Derivation, DerivationError, evaluate
from sfolib.theory.derivations.mutation import altered, broken
from sfolib.theory.derivations.registry import result, results

__all__ = ["Derivation", "DerivationError", "altered", "broken", "evaluate", "result", "results"]
