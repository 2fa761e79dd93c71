"""kombu's Redis transport with fixes: a broken connection must neither end the worker nor leak.

- When a channel closes, messages that were fetched but not started go back to the queue. If Redis is gone by then,
  kombu 5.7 would write them to a file in the temporary folder; here they are dropped. Tasks whose message is lost are
  enqueued again, and a duplicate message has no effect.
- Fetched messages are not recorded in Redis. That would cost two transactions per message for what SQL knows better.
- A closed connection unregisters its callback from the event loop. kombu never does, so a worker that has lost Redis a
  thousand times would make a thousand calls per turn for closed connections, and keep their memory.
- A channel keeps its client. kombu creates one for every command, which costs more than the command.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import kombu.transport
import structlog
from celery.worker import state
from kombu.transport import TRANSPORT_ALIASES, redis, virtual

from workers.broker.signed_channel import SignedChannel

log = structlog.get_logger()


class TolerantQoS(virtual.QoS):
    """Tracks fetched messages in this process only, and returns unstarted ones to the queue if possible."""

    def restore_unacked(self) -> list[Any]:
        """Put fetched messages back; log a failure. Return an empty list, because kombu writes the result to a file."""
        self._flush()  # type: ignore[no-untyped-call]
        fetched = list(reversed(self._delivered.values()))
        self._delivered.clear()
        try:
            for message in fetched:
                self.channel.put_back(message)
        except Exception as error:  # noqa: BLE001 - the channel must close in any case, to reconnect
            log.warning("fetched messages were not put back; their tasks will be enqueued again", why=repr(error))
        return []

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - as kombu has it
        """Refuse a message and requeue it if asked, unless the channel has closed meanwhile."""
        message = self._delivered.get(delivery_tag)
        if requeue and message is not None and self.channel.connection is not None:
            self.channel.put_back(message, last=True)
        self.ack(delivery_tag)  # type: ignore[no-untyped-call]


class PollingChannel(SignedChannel):
    """A channel that reuses its client and does not record fetched messages in Redis."""

    ack_emulation = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client_cache: Any = None
        super().__init__(*args, **kwargs)
        self.QoS = TolerantQoS  # type: ignore[assignment]

    def put_back(self, message: Any, *, last: bool = False) -> None:
        """Return a message to its queue, at the front, or at the end if *last*."""
        place, raw = message.delivery_info, message._raw  # noqa: SLF001 - raw bytes
        with self.conn_or_acquire() as client:
            self.put_signed(client, place["routing_key"], raw, last=last)

    def close(self) -> None:
        """Close the channel. During shutdown, unblock the pending BRPOP first, which may wait for a second."""
        polling: Any = self._in_poll
        if polling and state.should_stop is not None:
            with contextlib.suppress(Exception):  # Redis may be gone or refuse: then BRPOP times out
                self._unblock(polling.handshake_metadata)
        super().close()  # type: ignore[no-untyped-call]

    def _unblock(self, handshake: dict[Any, Any]) -> None:
        """Unblock the connection whose id is in *handshake*, the reply of Redis to HELLO."""
        with self.conn_or_acquire() as client:
            client.client_unblock(handshake.get("id", handshake.get(b"id")))

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - as kombu has it
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._client_cache is None or self._client_cache.connection_pool is not self.pool:  # the pool was replaced
            self._client_cache = super()._create_client()  # type: ignore[no-untyped-call]
        return self._client_cache


class InstalledTransport(redis.Transport):
    """A transport that unregisters from the event loop when its connection closes."""

    Channel = PollingChannel
    _unregister: Callable[[], None] | None = None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Register callbacks in *loop*, a ``kombu.asynchronous.Hub``, and remember them."""
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        added = loop.on_tick - before
        self._unregister = lambda: loop.on_tick.difference_update(added)

    def close_connection(self, connection: Any) -> None:
        """Close the connection and remove its callbacks from the event loop."""
        if self._unregister is not None:
            self._unregister()
        super().close_connection(connection)  # type: ignore[no-untyped-call]


def install() -> None:
    """Use this transport for every Redis connection of kombu in this process."""
    for name in ("redis", "rediss"):
        TRANSPORT_ALIASES[name] = f"{__name__}:{InstalledTransport.__name__}"
        kombu.transport._transport_cache.pop(name, None)  # noqa: SLF001 - forget a transport that was resolved before
