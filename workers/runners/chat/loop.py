"""The asyncio loop, in its own thread, of all conversations of a worker process, and how jobs wait for them.

A job's thread sleeps in poll() on the end of its conversation and on stop requests. It also enforces the job's limits,
so that a conversation that blocks the loop cannot keep another job from ending.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from coordination.domain.tasks.attempts import Claim
from workers.runners.base import Control
from workers.runners.program import Interruption, check_limits, poll_interval

log = structlog.get_logger()

_CANCEL_PATIENCE = 2.0  # seconds in which a canceled conversation must end
_CLOSE_PATIENCE = 5.0

MakeConversation = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]


class ConversationTask:
    """One conversation on the loop. ``fileno()`` becomes readable when it has ended. Close it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, make: MakeConversation, on_progress: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._make = make
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._task: asyncio.Task[None] | None = None
        self.progress_at = time.monotonic()
        self.ended = False
        self.canceled = False
        self.error: BaseException | None = None
        loop.call_soon_threadsafe(self._begin)

    def note_progress(self) -> None:
        """Note progress of the conversation; called on the loop."""
        self.progress_at = time.monotonic()
        self._on_progress()

    def cancel(self) -> None:
        """Request the end of the conversation, which may take a moment."""
        self._loop.call_soon_threadsafe(self._cancel)

    def fileno(self) -> int:
        """Return the descriptor for poll()."""
        return self._wake

    def close(self) -> None:
        """Close the descriptor; a conversation that has not ended continues unobserved."""
        with self._lock:
            os.close(self._wake)
            self._wake = -1

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._make(self.note_progress))
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
    """The loop and its thread, which starts with the first conversation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None

    def start(self, make: MakeConversation, on_progress: Callable[[], None]) -> ConversationTask:
        """Start a conversation. *make* is called on the loop with a function that notes progress."""
        return ConversationTask(self._running_loop(), make, on_progress)

    def close(self) -> None:
        """End the loop with all its conversations."""
        with self._lock:
            thread, loop, closing = self._thread, self._loop, self._closing
            self._thread = self._loop = self._closing = None
        if thread is not None and loop is not None and closing is not None:
            loop.call_soon_threadsafe(closing.set)
            thread.join(_CLOSE_PATIENCE)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
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

        with asyncio.Runner() as runner:  # its end cancels all conversations
            runner.run(until_closed())


def wait_for(
    conversation: ConversationTask,
    claim: Claim,
    control: Control,
    *,
    began: float,
    poll: Callable[[], None] | None = None,
) -> Interruption | None:
    """Sleep until the conversation has ended. Return what interrupted it, if anything did.

    A canceled conversation that does not end soon is abandoned (``ended`` is false then). *poll*: called from time to
    time.
    """
    every = poll_interval(control)
    poll_at = math.inf if poll is None else began + every
    waiter = select.poll()
    waiter.register(conversation.fileno(), select.POLLIN)
    waiter.register(control.fileno(), select.POLLIN)
    interruption: Interruption | None = None
    end_by = math.inf
    while not conversation.ended:
        now = time.monotonic()
        if now >= end_by:
            log.error("abandoned a canceled conversation that does not end")
            return interruption
        if poll is not None and now >= poll_at:
            poll()
            poll_at = now + every
        reached, due = check_limits(claim, control, now, began=began, moved_at=conversation.progress_at)
        if reached is not None and (interruption is None or interruption.yields_to(reached)):
            if interruption is None:
                end_by = now + _CANCEL_PATIENCE
                conversation.cancel()
            interruption = reached
        due = min(due if interruption is None else end_by, end_by, poll_at)
        for fd, _ in waiter.poll(None if math.isinf(due) else math.ceil(max(due - now, 0) * 1000)):
            if fd != conversation.fileno():
                control.acknowledge()
    return interruption if conversation.canceled or conversation.error is not None else None
