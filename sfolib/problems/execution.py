"""How gradients are computed and what is measured beside them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from sfolib._utils.errors import require


class Execution(NamedTuple):
    """How gradients are computed and what is measured beside them; see `spec.Spec` for the fields."""

    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    channels_last: bool | None = None
    max_micro_batch: int | None = None
    grad_norms: Literal["exact", "published", "both", "none"] = "exact"
    eval_samples: int | None = None
    log_train_metrics: bool = False

    def only(self, *names: str) -> None:
        """Require the defaults but for `names`."""
        for name, default in self._field_defaults.items():
            why = f"is for networks only; use {default!r}"
            require(name in names or getattr(self, name) == default, name, getattr(self, name), why)


PLAIN = Execution()
