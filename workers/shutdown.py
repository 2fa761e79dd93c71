"""How a worker process hears that it must go: first to drain, then, when it is told again, to hurry.

A signal may interrupt anything, a transaction or a held lock included, so its handler does no more than write a byte
to a pipe; a thread of every process that runs jobs waits for it. Prefork's children inherited both pipes: what the
parent hears they hear. Celery's own handlers are replaced, because its "cold shutdown" waits for jobs on the threads
pool, and on prefork kills the children, whose jobs would count as lost instead of handed back.
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
    """Something to be said once, to this process and to all that it forks. Safe to give in a signal handler."""

    def __init__(self) -> None:
        self._hears, self._says = os.pipe()
        self._owner = os.getpid()
        self._given = False

    def give(self) -> None:
        """Say it, for good; only the process that made the order can."""
        if not self._given and os.getpid() == self._owner:
            self._given = True
            os.write(self._says, b"!")  # nobody ever reads it: whoever looks, however late, finds it there

    def wait(self, limit: timedelta | None = None) -> bool:
        """Wait until it is said, or *limit* has passed; whether it was said."""
        poll = select.poll()
        poll.register(self._hears, select.POLLIN)
        return bool(poll.poll(None if limit is None else max(0.0, limit.total_seconds() * 1000)))


class ShutdownOrders:
    """The two orders of a worker and its pool."""

    def __init__(self) -> None:
        self.drain = ShutdownOrder()
        self.hurry = ShutdownOrder()
        self.owner = os.getpid()


class Shutdown(bootsteps.StartStopStep):  # type: ignore[misc]
    """Puts our signal handlers in the place of Celery's, and drains however Celery was told to stop."""

    requires = ("celery.worker.components:Pool",)
    orders: ShutdownOrders | None = None
    loop: Any = None  # kombu's Hub, of a worker that has one

    @classmethod
    def wake(cls) -> None:
        """Let Celery see at once that it was told to stop: its event loop sleeps up to a second, whatever happens."""
        if cls.loop is not None:
            cls.loop.call_soon(_nothing)

    def start(self, parent: Any) -> None:
        """Celery's handlers are in place by now; the pool's children have been started."""
        Shutdown.loop = getattr(parent, "hub", None)

        def on_signal(number: int, _frame: FrameType | None) -> None:
            orders = self.orders
            if orders is None or os.getpid() != orders.owner:
                return  # a child between its fork and its own handlers
            first = state.should_stop is None
            state.should_stop = os.EX_OK
            if number == signal.SIGQUIT or not first:
                orders.hurry.give()
            orders.drain.give()
            if first:
                name = signal.Signals(number).name
                signals.worker_shutting_down.send(sender=parent.hostname, sig=name, how="Warm", exitcode=os.EX_OK)

        for number in _SIGNALS:
            signal.signal(number, on_signal)

    def close(self, _parent: Any) -> None:
        """The worker stops, for whatever reason: a signal, a control command, a lost consumer."""
        if self.orders is not None:
            self.orders.drain.give()

    def stop(self, parent: Any) -> None:
        """Nothing is left to do: whoever runs jobs has heard."""

    terminate = stop


def _nothing() -> None:
    """What the loop is woken for."""
