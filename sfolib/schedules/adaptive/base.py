"""What all adaptive policies have in common: a clock, the `update` after every step, and state of plain numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, SerializerFunctionWrapHandler, model_serializer

from sfolib._utils.errors import InputError, require, shown, whole
from sfolib._utils.model import Family, arguments
from sfolib.schedules.plan import Step

Signal = Literal[
    "grad_norm", "gradient_statistics", "second_moment", "loss", "noise_spectrum", "successive_gradients",
    "noise_and_loss",
]  # fmt: skip


class Description(Family):
    """A policy as a `Spec` holds it: its kind, the name of its class, and the arguments of that class, by name. What is
    at its default is not stored."""

    model_config = ConfigDict(strict=True)
    policy: ClassVar[type[Policy]]

    @model_serializer(mode="wrap")
    def _stored(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {k: v for k, v in handler(self).items() if k == "kind" or getattr(self, k) != fields[k].default}

    def __reduce__(self) -> tuple[Any, ...]:  # its class is in no module
        return Description.of, (self.model_dump(),)

    def build(self) -> Policy:
        """A new policy, at its start. Raises `InputError` for arguments that do not go together."""
        arguments = {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}
        try:
            return self.policy(**arguments)
        except (TypeError, ArithmeticError) as error:
            raise InputError(f"policy = {shown(self)}: {error}") from error


def _described(cls: type[Policy], init: Callable) -> Callable:
    """`__init__` of a policy, which keeps its arguments as `description`, and refuses what their types do not allow."""

    @wraps(init)
    def made(self: Policy, *args: Any, **named: Any) -> None:
        if type(self) is cls:
            try:
                given = inspect.signature(cls).bind(*args, **named).arguments
            except TypeError:  # too many, too few, unknown ones: Python's own words
                return init(self, *args, **named)
            self.description = cls.Description(**given)
            args, named = (), {name: getattr(self.description, name) for name in given}
        init(self, *args, **named)

    return made


class Policy:
    """Batch size and lr of the next step; the steps and samples (gradient evaluations) so far.

    Call `update` after every step, with the true size of its batch and, where `needs_signal`, with the policy's signal.
    `schedules.torch`'s `ScheduledBatchSampler` and `PlanLR` take a policy in place of a plan. Errors are `InputError`s.
    """

    batch_size: int
    lr: float
    signal: ClassVar[Signal]
    Description: ClassVar[type[Description]]
    description: Description  # what it was made of; not its state
    _state: ClassVar[tuple[str, ...]] = ()  # the attributes that change, beside the clock

    def __init_subclass__(cls) -> None:
        if cls.__name__.startswith("_"):
            return
        kind = (Literal[cls.__name__], cls.__name__)
        cls.Description = arguments(cls.__init__, cls.__name__, Description, kind=kind)
        cls.Description.policy = cls
        cls.__init__ = _described(cls, cls.__init__)

    def __init__(self, every: int):
        self.every, self.step, self.samples = whole("every", every), 0, 0

    @property
    def needs_signal(self) -> bool:
        """Whether the `update` that follows the present step needs the signal."""
        return (self.step + 1) % self.every == 0

    def update(self, taken: int, signal: Any = None) -> tuple[int, float]:
        """After a step on `taken` samples; returns (batch, lr) of the next one."""
        whole("taken", taken)
        wanted = (
            "is needed after this step" if self.needs_signal else "must be None: it is not looked at after this step"
        )
        require((signal is not None) == self.needs_signal, "signal", signal, wanted)
        self.step, self.samples = self.step + 1, self.samples + taken
        if signal is not None:
            self.observe(signal)
        return self.batch_size, self.lr

    def observe(self, signal: Any) -> None:
        raise NotImplementedError

    def after(self, step: int, samples: int, samples_per_epoch: int, lookahead: int = 0) -> Step:
        """As `Plan.after`, for the next step; for later ones (with the present lr) while no signal is due before them.

        lookahead: signals that were due in that many steps before may be missing; they take effect later by as many.
        Raises `InputError` otherwise.
        """
        ahead = step - self.step
        known = 0 <= ahead <= lookahead or (ahead > 0 and not self._due(ahead - lookahead))
        why = f"of {step} steps; call update after each, and prefetch nothing (num_workers=0)"
        require(known, "steps that the policy has seen", self.step, f"{why}; lookahead= is for clients that look ahead")
        epoch, done = divmod(samples, samples_per_epoch)
        batch_size = min(self.batch_size, samples_per_epoch - done)
        return Step(epoch, step + 1, samples + batch_size, batch_size, self.lr)

    def reading(self, step: int, samples: int, samples_per_epoch: int) -> int:
        """A policy's clock counts steps."""
        return step

    def at(self, t: int) -> tuple[int, float]:
        """As `Plan.at`, but for the next step alone."""
        why = f"of {t} steps; call update after each, and prefetch nothing (num_workers=0)"
        require(t == self.step, "steps that the policy has seen", self.step, why)
        return self.batch_size, self.lr

    def _due(self, steps: int) -> bool:
        """Whether one of the next `steps` updates needs a signal."""
        step = self.step
        try:
            for self.step in range(step, step + steps):
                if self.needs_signal:
                    return True
        finally:
            self.step = step
        return False

    def provenance(self) -> dict[str, Any]:
        """What it decided that the measuring points of a run need not show."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Numbers, and lists of them, that JSON can hold."""
        state = {name: getattr(self, name) for name in ("step", "samples", *self._state)}
        return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        names = ("step", "samples", *self._state)
        require(set(state) == set(names), "state", [*state], f"entries must be {[*names]}")
        for name in names:
            value = state[name]
            setattr(self, name, list(value) if isinstance(value, list) else value)


def capped_at(max_batch_size: int | None, batch_size: int) -> float:
    """The largest batch size, inf for None; `InputError` where that is below the first."""
    top = math.inf if max_batch_size is None else max_batch_size
    require(top >= batch_size, "max_batch_size", max_batch_size, f"must be at least batch_size = {batch_size}")
    return top
