"""Celery's way to Redis, mended: a broken connection must neither take the worker with it nor stay with it for good.

When Redis goes away while messages are fetched and not yet acknowledged, kombu 5.7 wants to put them back as it closes
the channel, through a connection that is gone already, and fails with an AttributeError; and so does a message that was
to be acknowledged just then, on the channel that has been closed meanwhile. Celery expects errors of the connection
there and no others, so the whole worker ends. Nothing is lost by not putting them back, or by not acknowledging them: a
doorbell that nobody answers is rung again, and one that comes twice finds nothing to do.

And each connection adds a call to every turn of the event loop, which kombu never takes back: a worker that has lost
Redis a thousand times makes a thousand calls for connections that are closed, and keeps all that they hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis

log = structlog.get_logger()


class ForgivingQoS(redis.QoS):
    """What was fetched goes back to the queue when the channel is closed, if that can be."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put back what was not acknowledged; a failure is noted and ends there."""
        try:
            super().restore_unacked_once(stderr=stderr)  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001 - whatever it is, the channel must be closed and the worker connect again
            log.warning("fetched messages were not put back; their tasks are rung for again", why=repr(error))

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge, on a channel that is open; on a closed one there is nobody to tell."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except AttributeError:
            self._expect_closed("acknowledged")

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - as kombu has it
        """Refuse, likewise."""
        try:
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]
        except AttributeError:
            self._expect_closed("refused")

    def _expect_closed(self, what: str) -> None:
        if self.channel.connection is not None:
            raise  # noqa: PLE0704 - within the handlers above
        log.warning("a message was not %s: its channel is closed", what)


class LeavingTransport(redis.Transport):
    """A connection that takes its call at every turn of the event loop back when it is closed."""

    _leave: Callable[[], None] | None = None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Take part in *loop*, a ``kombu.asynchronous.Hub``."""
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        added = loop.on_tick - before
        self._leave = lambda: loop.on_tick.difference_update(added)

    def close_connection(self, connection: Any) -> None:
        """Close it, and be called no more."""
        if self._leave is not None:
            self._leave()
        super().close_connection(connection)  # type: ignore[no-untyped-call]


def mend() -> None:
    """Let every channel to Redis in this process be a forgiving one, and every connection one that leaves."""
    redis.Channel.QoS = ForgivingQoS
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:{LeavingTransport.__name__}"))
