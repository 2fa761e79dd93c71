"""One asyncio loop in a thread of its own for all conversations of a worker process, and how jobs wait for them.

A job's thread sleeps in poll() on the end of its conversation and on requests to stop, so sixty-four that wait cost
nothing. The thread keeps the job's limits: a loop that is held up by one of them cannot keep another one from ending.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import structlog

from workers.runners.base import Control
from workers.runners.process_watch import Interruption, glance_every

log = structlog.get_logger()

_PATIENCE = 2.0  # seconds that a conversation may take to end when it is told to
_CLOSE_PATIENCE = 5.0

Make = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]


class HttpExchange:
    """One conversation on the loop. ``fileno()`` turns readable when it has ended. Close it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Make, on_moved: Callable[[], None]) -> None:
        self._loop = loop
        self._make = make
        self._on_moved = on_moved
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._task: asyncio.Task[None] | None = None
        self.moved_at = time.monotonic()
        self.ended = False
        self.canceled = False
        self.error: BaseException | None = None
        loop.call_soon_threadsafe(self._begin)

    def moved(self) -> None:
        """The conversation went on; called on the loop."""
        self.moved_at = time.monotonic()
        self._on_moved()

    def cancel(self) -> None:
        """Ask it to end; it may take a moment."""
        self._loop.call_soon_threadsafe(self._cancel)

    def fileno(self) -> int:
        """For poll()."""
        return self._wake

    def close(self) -> None:
        """Give the descriptor back; one that has not ended goes on without anybody who waits for it."""
        with self._lock:
            os.close(self._wake)
            self._wake = -1

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._make(self.moved))
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        self.canceled = task.cancelled()
        self.error = None if self.canceled else task.exception()
        self._task = None
        with self._lock:
            self.ended = True
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)


class ChatLoop:
    """The loop and its thread, which begins with the first conversation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None

    def start(self, make: Make, on_moved: Callable[[], None]) -> HttpExchange:
        """Begin a conversation; *make* is called on the loop, with what it calls whenever it goes on."""
        return HttpExchange(self._running(), make, on_moved)

    def close(self) -> None:
        """End the loop, and every conversation that is left on it."""
        with self._lock:
            thread, loop, closing = self._thread, self._loop, self._closing
            self._thread = self._loop = self._closing = None
        if thread is not None and loop is not None and closing is not None:
            loop.call_soon_threadsafe(closing.set)
            thread.join(_CLOSE_PATIENCE)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                ready = threading.Event()
                self._thread = threading.Thread(target=self._main, args=(ready,), name="chats", daemon=True)
                self._thread.start()
                ready.wait()
            assert self._loop is not None  # noqa: S101 - the thread has set it
            return self._loop

    def _main(self, ready: threading.Event) -> None:
        async def until_closed() -> None:
            closing = asyncio.Event()
            self._loop, self._closing = asyncio.get_running_loop(), closing
            ready.set()
            await closing.wait()

        with asyncio.Runner() as runner:  # which cancels what is left
            runner.run(until_closed())


def wait_for(
    exchange: HttpExchange,
    control: Control,
    *,
    began: float,
    timeout: timedelta | None,
    stall_timeout: timedelta | None,
    glance: Callable[[], None] | None = None,
) -> Interruption | None:
    """Sleep until the conversation has ended. Returns what interrupted it, if anything did.

    One that was told to end and does not within a moment is left behind (``exchange.ended`` is false then). *glance*:
    called now and then meanwhile.
    """
    every = glance_every(control)
    glance_at = math.inf if glance is None else began + every
    waiter = select.poll()
    waiter.register(exchange.fileno(), select.POLLIN)
    waiter.register(control.fileno(), select.POLLIN)
    interruption: Interruption | None = None
    end_by = math.inf
    while not exchange.ended:
        now = time.monotonic()
        if now >= end_by:
            log.error("a conversation does not end, and is left behind")
            return interruption
        if glance is not None and now >= glance_at:
            glance()
            glance_at = now + every
        found, due = _limit(exchange, control, now, began=began, timeout=timeout, stall_timeout=stall_timeout)
        if found is not None and (interruption is None or interruption.yields_to(found)):
            if interruption is None:
                end_by = now + _PATIENCE
                exchange.cancel()
            interruption = found
        due = min(due if interruption is None else end_by, end_by, glance_at)
        for fd, _ in waiter.poll(None if math.isinf(due) else math.ceil(max(due - now, 0) * 1000)):
            if fd != exchange.fileno():
                control.acknowledge()
    return interruption if exchange.canceled or exchange.error is not None else None


def _limit(
    exchange: HttpExchange,
    control: Control,
    now: float,
    *,
    began: float,
    timeout: timedelta | None,
    stall_timeout: timedelta | None,
) -> tuple[Interruption | None, float]:
    """The limit that is reached, and else when the next one is due."""
    if (reason := control.stop_reason) is not None:
        return Interruption.stopped(reason), math.inf
    due = math.inf
    if timeout is not None:
        due = began + timeout.total_seconds()
        if now >= due:
            return Interruption.timed_out(timeout), math.inf
    if stall_timeout is not None:
        silent = exchange.moved_at + stall_timeout.total_seconds()
        if now >= silent:
            return Interruption.stalled(stall_timeout), math.inf
        due = min(due, silent)
    return None, due
