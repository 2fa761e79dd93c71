"""A channel to Redis that signs what it sends, and drops what it cannot check or understand before anything obeys it.

kombu lets what a message raises end the worker that took it: a header of the wrong type is enough. The worker's
successor takes the next one, and the stack gives up. Here a message is never put back for what it is, and a key of
Redis that has the wrong type (then no message of its queue can be had any more) is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from queue import Empty
from typing import Any, TypeVar

import structlog
from kombu.exceptions import OperationalError
from kombu.transport import redis
from kombu.utils.json import dumps
from kombu.utils.uuid import uuid
from redis.exceptions import ResponseError

from coordination.base.errors import RedisUnavailable
from coordination.store.redis.signatures import Signatures
from workers.broker import queues
from workers.broker.envelopes import read_envelope

T = TypeVar("T")
log = structlog.get_logger()

SIGNATURES = "signatures"
"""The transport option that names the Signatures. A channel without it is not one of ours, and is kombu's own."""

_named: dict[str, Signatures] = {}


def name_of(signatures: Signatures) -> str:
    """The option's value for these: a text, because Celery shows its configuration to whoever may ask for it."""
    name = f"{SIGNATURES}-{len(_named) + 1}"
    _named[name] = signatures
    return name


_MOST_LINES = 20  # a minute: who floods a queue must not fill the disk as well
_LIST, _SET, _SORTED = "list", "set", "zset"


class Refusals:
    """Counts the messages that this process has refused, and logs a line for each, up to some a minute."""

    def __init__(self) -> None:
        self.count = 0
        self._since = float("-inf")
        self._lines = 0
        self._silent = 0

    def note(self, where: str, why: str) -> None:
        """One message was refused and dropped."""
        self.count += 1
        now = time.monotonic()
        if now - self._since > 60:  # noqa: PLR2004 - a minute
            if self._silent:
                log.warning("refused more messages", messages=self._silent)
            self._since, self._lines, self._silent = now, 0, 0
        self._lines += 1
        if self._lines <= _MOST_LINES:
            log.warning("refused a message", queue=where, why=why)
        else:
            self._silent += 1


refusals = Refusals()


class SignedChannel(redis.Channel):
    """kombu's channel, for a worker that must outlive every message."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        client = getattr(self.connection, "client", None)
        name = getattr(client, "transport_options", {}).get(SIGNATURES)
        self.signatures: Signatures | None = None if name is None else _named[name]

    # --- what is sent

    def put_signed(self, client: Any, queue: str, message: Any, *, last: bool = False) -> None:
        """Put *message* into *queue*: as the next to be taken, or the *last*. Raises OperationalError without a key."""
        push = client.lpush if last else client.rpush
        text = self._signed(queue, message)
        self._mended([(queue, _LIST)], lambda: push(queue, text))

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        if self.signatures is None or self._expires.get(queue):
            self._put_expiring(queue, message, **kwargs)
        elif (batch := kwargs.get("_publish_batch")) is not None:
            batch.add("lpush", queue, self._signed(queue, message))
        else:
            with self.conn_or_acquire() as client:
                self.put_signed(client, queue, message, last=True)

    def _put_expiring(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Answers of workers to control commands: kombu says when they go."""
        if self.signatures is None:
            super()._put(queue, message, **kwargs)  # type: ignore[no-untyped-call]
            return
        with self.conn_or_acquire() as client:
            self.put_signed(client, queue, message, last=True)
            client.pexpire(queue, self._expires[queue])

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **kwargs: Any) -> None:
        if self.signatures is None:
            super()._put_fanout(exchange, message, routing_key, **kwargs)  # type: ignore[no-untyped-call]
            return
        text = self._signed(exchange, message)
        with self.conn_or_acquire() as client:
            for topic in self._get_publish_topics(exchange, routing_key):  # type: ignore[no-untyped-call]
                client.publish(topic, text)

    def _signed(self, place: str, message: Any) -> str:
        text: str = dumps(message)  # type: ignore[no-untyped-call]
        if self.signatures is None:
            return text
        try:
            return self.signatures.sign(place, text)
        except RedisUnavailable as error:
            raise OperationalError(error.sentence()) from error

    # --- what comes

    def _brpop_read(self, **options: Any) -> bool:
        if self.signatures is None:
            return bool(super()._brpop_read(**options))  # type: ignore[no-untyped-call]
        connection = self.client.connection
        try:
            try:
                found = self.client.parse_response(connection, "BRPOP", **options)
            except self.connection_errors:
                connection.disconnect()
                raise
            except ResponseError as error:
                self._delete_wrong_types([(queue, _LIST) for queue in self.active_queues], error)
                raise Empty from error
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]
        if not found:
            raise Empty
        queue = found[0].decode()
        self._queue_cycle.rotate(queue)
        message = self._opened(queue, found[1])
        if message is not None:
            self._deliver(message, queue)
        return True

    def _get(self, queue: str, timeout: Any = None) -> Any:  # noqa: ARG002 - as kombu has it
        if self.signatures is None:
            return super()._get(queue)  # type: ignore[no-untyped-call]
        with self.conn_or_acquire() as client:
            while (raw := self._mended([(queue, _LIST)], lambda: client.rpop(queue))) is not None:
                if (message := self._opened(queue, raw)) is not None:
                    return message
        raise Empty

    def _receive_one(self, c: Any) -> bool | None:
        if self.signatures is None:
            return super()._receive_one(c)  # type: ignore[no-untyped-call, no-any-return]
        try:
            response = c.parse_response()
        except self.connection_errors:
            self._in_listen = None  # type: ignore[assignment]
            raise
        if not isinstance(response, (list, tuple)):
            return None
        payload = self._handle_message(c, response)  # type: ignore[no-untyped-call]
        if not payload["type"].endswith(b"message"):
            return None
        exchange = payload["channel"].decode(errors="replace").partition(".")[2].split("/", 1)[0]
        queue = self._fanout_to_queue.get(exchange)
        message = self._opened(exchange, payload["data"], once=True)
        if queue is None or message is None:
            return None
        self._deliver(message, queue)
        return True

    def _opened(self, place: str, raw: bytes, *, once: bool = False) -> dict[str, Any] | None:
        """The message, with a delivery tag and a place that are ours; None when it was refused."""
        assert self.signatures is not None  # noqa: S101 - who calls has looked
        checked = self.signatures.check(place, raw, once=once)
        message = checked if isinstance(checked, str) else read_envelope(place, checked)
        if isinstance(message, str):
            refusals.note(place, message)
            return None
        properties = message["properties"]
        properties["delivery_tag"] = uuid()  # the same message may be here twice
        properties["delivery_info"] = {**properties.get("delivery_info", {}), "routing_key": place}
        return message

    def _deliver(self, message: dict[str, Any], queue: str) -> None:
        """Hand it on. What that raises is the message's fault, unless Redis has gone: it ends with this message."""
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001 - as kombu does
        except self.connection_errors:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker goes on
            self.qos.ack(message["properties"]["delivery_tag"])
            refusals.note(queue, f"it could not be handled: {error!r}"[:500])

    # --- keys that are not what they should be

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """The bindings of *exchange* as (routing key, pattern, queue); what is none is left out."""
        if self.signatures is None:
            return super().get_table(exchange)  # type: ignore[no-untyped-call, no-any-return]
        key = self.keyprefix_queue % exchange
        with self.conn_or_acquire() as client:
            members = self._mended([(key, _SET)], lambda: client.smembers(key))
        rows = [tuple(member.decode(errors="replace").split(self.sep)) for member in members]
        return [row for row in rows if len(row) == 3]  # noqa: PLR2004 - as it says

    def _lookup(self, exchange: str, routing_key: str, default: Any = None) -> list[str]:
        if self.signatures is not None and exchange == routing_key and exchange in queues.ALL:
            return [exchange]  # whatever Redis says: anybody may write bindings there
        return super()._lookup(exchange, routing_key, default)  # type: ignore[no-untyped-call, no-any-return]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        bind = super()._queue_bind
        self._mended(self._binding_keys(exchange), lambda: bind(exchange, routing_key, pattern, queue))  # type: ignore[no-untyped-call]

    def _size(self, queue: str) -> int:
        size = super()._size
        return self._mended([(queue, _LIST)], lambda: size(queue))  # type: ignore[no-untyped-call, no-any-return]

    def _delete(self, queue: str, exchange: str, *args: Any, **kwargs: Any) -> None:
        delete = super()._delete
        self._mended(self._binding_keys(exchange), lambda: delete(queue, exchange, *args, **kwargs))  # type: ignore[no-untyped-call]

    def maybe_refresh_binding_expiry(self) -> None:
        """As kombu has it, every second; what others have put there is deleted, and never a traceback a second."""
        refresh = super().maybe_refresh_binding_expiry
        bound = {exchange for queue in self._active_queues for exchange, *_ in self.state.queue_bindings(queue)}
        try:
            self._mended([key for exchange in bound for key in self._binding_keys(exchange)], refresh)
        except ResponseError as error:
            if self.signatures is None:
                raise
            refusals.note(self.keyprefix_binding_deadlines, f"the bindings cannot be kept: {error}"[:500])

    def _binding_keys(self, exchange: str) -> list[tuple[str, str]]:
        sets = [(key % (exchange,), _SET) for key in (self.keyprefix_queue, self.keyprefix_binding_permanent)]
        return [*sets, (self.keyprefix_binding_deadlines, _SORTED)]

    def _mended(self, keys: Iterable[tuple[str, str]], act: Callable[[], T]) -> T:
        """What *act* returns; where one of *keys*, each (key, type), has another type, it is deleted first."""
        try:
            return act()
        except ResponseError as error:
            self._delete_wrong_types(keys, error)
            return act()

    def _delete_wrong_types(self, keys: Iterable[tuple[str, str]], error: ResponseError) -> None:
        if self.signatures is None or "WRONGTYPE" not in str(error):
            raise error
        with self.conn_or_acquire() as client:
            for key, wanted in keys:
                found = client.type(self.global_keyprefix + key).decode()
                if found not in {wanted, "none"}:
                    client.delete(key)
                    log.warning("deleted a key that has the wrong type", key=key, found=found, wanted=wanted)
