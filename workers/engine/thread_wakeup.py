"""Wakes up a thread that runs a batch, through a file descriptor of its own."""

from __future__ import annotations

import contextlib
import os
import threading


class _EventFd:
    """Closes its descriptor with its thread: threads of prefetch recovery live for one task only."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.fd)


_thread_data = threading.local()


def thread_wakeup_fd() -> int:
    """Return the calling thread's descriptor, unreadable until the next stop request. All its batches share it."""
    if not hasattr(_thread_data, "event"):
        _thread_data.event = _EventFd()
    descriptor: int = _thread_data.event.fd
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(descriptor)  # a request that the last batch did not handle
    return descriptor
