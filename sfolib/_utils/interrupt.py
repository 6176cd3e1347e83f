"""SIGINT and SIGTERM: a run in progress ends at its next step with a checkpoint; a second signal ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 130  # exit status of a command that was interrupted, by either signal
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: signal.Signals | None = None


class Interrupted(KeyboardInterrupt):
    """A run that stopped because it was asked to; the message says where, and how it goes on."""


def received() -> signal.Signals | None:
    """The signal that came while `listening`, if one did."""
    return _received


@contextmanager
def listening() -> Iterator[None]:
    """Note a signal, for the loop to see, in place of raising it. Only the main thread can; in others this is void."""
    global _received

    def note(number: int, frame: FrameType | None) -> None:
        global _received
        if _received is not None:
            raise KeyboardInterrupt
        _received = signal.Signals(number)

    with _handled(note, SIGNALS):
        try:
            yield
        finally:
            _received = None


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as SIGINT does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(stop, (signal.SIGTERM,)):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    # who ignores a signal, as nohup does, goes on doing so
    mine = [number for number, old in before.items() if old is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number] or signal.SIG_DFL)
