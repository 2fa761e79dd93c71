"""Celery's way to Redis, mended: a broken connection must neither take the worker with it nor stay with it for good.

What was fetched and not begun is put back when the channel is closed. Where Redis is gone by then, kombu 5.7 writes it
into a file in the folder for temporary files, for a person to find. Nothing is lost by letting it go: a doorbell that
nobody answers is rung again, and one that comes twice finds nothing to do. For the same reason nobody notes in Redis
which messages were fetched: two transactions there for each message, for what SQL knows better.

Each connection adds a call to every turn of the event loop, which kombu never takes back: a worker that has lost
Redis a thousand times makes a thousand calls for connections that are closed, and keeps all that they hold.

And for each thing that it says to Redis kombu makes a client anew, which costs more than to say it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import kombu.transport
import structlog
from celery.worker import state
from kombu.transport import TRANSPORT_ALIASES, redis, virtual

from workers.broker.signed_channel import SIGNATURES, SignedChannel, name_of

__all__ = ["SIGNATURES", "InstalledTransport", "PollingChannel", "TolerantQoS", "install", "name_of"]

log = structlog.get_logger()


class TolerantQoS(virtual.QoS):
    """Knows what was fetched and not begun, in this process; it goes back to the queue if that can be."""

    def restore_unacked(self) -> list[Any]:
        """Put it back; a failure is noted and ends there. Returns what kombu is to write into a file: nothing."""
        self._flush()  # type: ignore[no-untyped-call]
        fetched = list(reversed(self._delivered.values()))
        self._delivered.clear()
        try:
            for message in fetched:
                self.channel.put_back(message)
        except Exception as error:  # noqa: BLE001 - whatever it is, the channel must be closed and the worker connect again
            log.warning("fetched messages were not put back; their tasks are rung for again", why=repr(error))
        return []

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - as kombu has it
        """Refuse a message; on a channel that was closed meanwhile there is nobody to give it back to."""
        message = self._delivered.get(delivery_tag)
        if requeue and message is not None and self.channel.connection is not None:
            self.channel.put_back(message, last=True)
        self.ack(delivery_tag)  # type: ignore[no-untyped-call]


class PollingChannel(SignedChannel):
    """A channel that keeps its client, and no books in Redis of what it fetched."""

    ack_emulation = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._kept: Any = None
        super().__init__(*args, **kwargs)
        self.QoS = TolerantQoS  # type: ignore[assignment]

    def put_back(self, message: Any, *, last: bool = False) -> None:
        """Where it came from: as the next to be taken, or the *last*."""
        place, raw = message.delivery_info, message._raw  # noqa: SLF001 - as it came
        with self.conn_or_acquire() as client:
            self.put_signed(client, place["routing_key"], raw, last=last)

    def close(self) -> None:
        """Close it. When the worker ends, Redis is told to answer at once to what would wait for a second."""
        waits: Any = self._in_poll
        if waits and state.should_stop is not None:
            with contextlib.suppress(Exception):  # it may be gone, or not let us: then the answer is waited for
                self._answer_now(waits.handshake_metadata)
        super().close()  # type: ignore[no-untyped-call]

    def _answer_now(self, told: dict[Any, Any]) -> None:
        """*told*: what Redis said of itself when the connection that waits was made; its number is in it."""
        number = told.get("id", told.get(b"id"))
        with self.conn_or_acquire() as client:
            client.client_unblock(number)

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - as kombu has it
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._kept is None or self._kept.connection_pool is not self.pool:  # connections were given up
            self._kept = super()._create_client()  # type: ignore[no-untyped-call]
        return self._kept


class InstalledTransport(redis.Transport):
    """A connection that takes its call at every turn of the event loop back when it is closed."""

    Channel = PollingChannel
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


def install() -> None:
    """Let every connection to Redis in this process be one that leaves, and its channels thrifty ones."""
    for name in ("redis", "rediss"):
        TRANSPORT_ALIASES[name] = f"{__name__}:{InstalledTransport.__name__}"
        kombu.transport._transport_cache.pop(name, None)  # noqa: SLF001 - one that was found before
