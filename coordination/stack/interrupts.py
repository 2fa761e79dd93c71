"""Signals to the process that owns a stack: one interrupts it, the next one hurries it, none leaves jobs behind.

Only the main thread can handle signals; elsewhere these do nothing.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_TERMINATING = (signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], object]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does: what owns a stack must live to stop it."""
    # What nohup or a parent has set to be ignored stays so.
    wanted = [number for number in _TERMINATING if signal.getsignal(number) == signal.SIG_DFL]
    with _handled(wanted, signal.default_int_handler):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal interrupt the last, bounded part of a stop."""
    with _handled([signal.SIGINT, *_TERMINATING], lambda *_: None):
        yield


@contextlib.contextmanager
def _handled(numbers: list[signal.Signals], handler: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
