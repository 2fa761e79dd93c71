"""Shutdown signals of a worker: the first one orders it to drain, a second one to hurry.

A signal may interrupt anything, even a transaction or a locked section, so its handler only writes a byte to a pipe; a
thread of every process that runs jobs waits for it. Prefork children inherit both pipes. Celery's own handlers are
replaced, because its "cold shutdown" waits for jobs on the threads pool, and on prefork kills the children, whose jobs
would count as lost instead of handed back.
"""

from __future__ import annotations

import os
import select
import signal
from datetime import timedelta
from types import FrameType
from typing import Any

from celery import bootsteps, signals
from celery.worker import state

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class ShutdownOrder:
    """An event that is set once, for this process and those it forks. Safe to set in a signal handler."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self._owner = os.getpid()
        self._is_set = False

    def set(self) -> None:
        """Set the event. Does nothing in a forked process."""
        if not self._is_set and os.getpid() == self._owner:
            self._is_set = True
            os.write(self._write_end, b"!")  # never read, so that every later wait returns at once

    def wait(self, limit: timedelta | None = None) -> bool:
        """Wait until the event is set or *limit* has passed. Return whether it is set."""
        poll = select.poll()
        poll.register(self._read_end, select.POLLIN)
        return bool(poll.poll(None if limit is None else max(0.0, limit.total_seconds() * 1000)))


class ShutdownOrders:
    """The shutdown events of a worker and its pool."""

    def __init__(self) -> None:
        self.drain = ShutdownOrder()
        self.hurry = ShutdownOrder()
        self.owner = os.getpid()


class Shutdown(bootsteps.StartStopStep):  # type: ignore[misc]
    """Celery boot step that replaces Celery's signal handlers, and drains however Celery is stopped."""

    requires = ("celery.worker.components:Pool",)
    orders: ShutdownOrders | None = None
    loop: Any = None  # kombu's Hub, if the worker has one

    @classmethod
    def wake(cls) -> None:
        """Wake up Celery's event loop, which sleeps up to a second, so that it stops at once."""
        if cls.loop is not None:
            cls.loop.call_soon(lambda: None)

    def start(self, parent: Any) -> None:
        """Install the handlers. Celery has installed its own and started the pool's children before."""
        Shutdown.loop = getattr(parent, "hub", None)

        def on_signal(number: int, _frame: FrameType | None) -> None:
            orders = self.orders
            if orders is None or os.getpid() != orders.owner:
                return  # a child between its fork and its own handlers
            first = state.should_stop is None
            state.should_stop = os.EX_OK
            if number == signal.SIGQUIT or not first:
                orders.hurry.set()
            orders.drain.set()
            if first:
                name = signal.Signals(number).name
                signals.worker_shutting_down.send(sender=parent.hostname, sig=name, how="Warm", exitcode=os.EX_OK)

        for number in _SIGNALS:
            signal.signal(number, on_signal)

    def close(self, _parent: Any) -> None:
        """Drain when the worker stops for any reason: a signal, a control command, a lost consumer."""
        if self.orders is not None:
            self.orders.drain.set()

    def stop(self, parent: Any) -> None:
        """Do nothing: ``close`` has done it."""

    terminate = stop
