"""Signal handling of the process that owns a stack, so that a signal stops the stack and leaves no jobs.

Only the main thread can handle signals; in other threads these do nothing.
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
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does, so that the owner can stop its stack."""
    # Signals that nohup or a parent ignores stay ignored.
    default = [number for number in _TERMINATING if signal.getsignal(number) == signal.SIG_DFL]
    with _with_handler(default, signal.default_int_handler):
        yield


@contextlib.contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore signals during the last part of a stop, which takes limited time."""
    with _with_handler([signal.SIGINT, *_TERMINATING], lambda *_: None):
        yield


@contextlib.contextmanager
def _with_handler(numbers: list[signal.Signals], handler: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
