"""A thread's own descriptor on which it is woken while it runs a batch."""

from __future__ import annotations

import contextlib
import os
import threading


class _Wake:
    """A descriptor that goes with its thread: threads that take parked work live for one task."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.fd)


_own = threading.local()


def wake() -> int:
    """This thread's descriptor that a request to stop makes readable; one for all batches it will ever run."""
    if not hasattr(_own, "wake"):
        _own.wake = _Wake()
    descriptor: int = _own.wake.fd
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(descriptor)  # what the last batch did not hear is not for this one
    return descriptor
