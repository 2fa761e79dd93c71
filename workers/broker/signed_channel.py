"""A kombu channel to Redis that signs messages, and drops unsigned or malformed ones before anything processes them.

In kombu, an exception that a message causes (a header of the wrong type is enough) ends the worker. Its successor
fetches the next such message, until the stack gives up. Here a malformed message is never put back, and a Redis key of
the wrong type, which would block its queue, is deleted.
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
"""The transport option that names the Signatures. A channel without it behaves as kombu's own."""

_signatures_by_name: dict[str, Signatures] = {}


def name_of(signatures: Signatures) -> str:
    """Register *signatures* and return its name for the option: a name, because Celery shows its configuration."""
    name = f"{SIGNATURES}-{len(_signatures_by_name) + 1}"
    _signatures_by_name[name] = signatures
    return name


_MAX_LINES = 20  # per minute: a flooded queue must not fill the disk as well
_LIST, _SET, _SORTED = "list", "set", "zset"


class Refusals:
    """Counts refused messages and logs them, up to a number of lines per minute."""

    def __init__(self) -> None:
        self.count = 0
        self._since = float("-inf")
        self._lines = 0
        self._suppressed = 0

    def note(self, where: str, why: str) -> None:
        """Count and log a message that was refused and dropped."""
        self.count += 1
        now = time.monotonic()
        if now - self._since > 60:  # noqa: PLR2004 - a minute
            if self._suppressed:
                log.warning("refused more messages", messages=self._suppressed)
            self._since, self._lines, self._suppressed = now, 0, 0
        self._lines += 1
        if self._lines <= _MAX_LINES:
            log.warning("refused a message", queue=where, why=why)
        else:
            self._suppressed += 1


refusals = Refusals()


class SignedChannel(redis.Channel):
    """kombu's channel, made robust against any message."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        client = getattr(self.connection, "client", None)
        name = getattr(client, "transport_options", {}).get(SIGNATURES)
        self.signatures: Signatures | None = None if name is None else _signatures_by_name[name]

    # --- sending

    def put_signed(self, client: Any, queue: str, message: Any, *, last: bool = False) -> None:
        """Sign *message* and put it at the front of *queue*, or at the end if *last*.

        Raises OperationalError when there is no key to sign with.
        """
        push = client.lpush if last else client.rpush
        text = self._signed(queue, message)
        self._with_repair([(queue, _LIST)], lambda: push(queue, text))

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        batch, expires = kwargs.get("_publish_batch"), self._expires.get(queue)
        if self.signatures is None:
            super()._put(queue, message, **kwargs)  # type: ignore[no-untyped-call]
        elif batch is not None and not expires:
            batch.add("lpush", queue, self._signed(queue, message))
        else:
            with self.conn_or_acquire() as client:
                self.put_signed(client, queue, message, last=True)
                if expires:  # it is the reply to a control command
                    client.pexpire(queue, expires)

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

    # --- receiving

    def _brpop_read(self, **options: Any) -> bool:
        if self.signatures is None:
            return bool(super()._brpop_read(**options))  # type: ignore[no-untyped-call]
        connection = self.client.connection
        try:
            try:
                reply = self.client.parse_response(connection, "BRPOP", **options)
            except self.connection_errors:
                connection.disconnect()
                raise
            except ResponseError as error:
                self._delete_wrong_types([(queue, _LIST) for queue in self.active_queues], error)
                raise Empty from error
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]
        if not reply:
            raise Empty
        queue = reply[0].decode()
        self._queue_cycle.rotate(queue)
        message = self._verified(queue, reply[1])
        if message is not None:
            self._deliver(message, queue)
        return True

    def _get(self, queue: str, timeout: Any = None) -> Any:  # noqa: ARG002 - as kombu has it
        if self.signatures is None:
            return super()._get(queue)  # type: ignore[no-untyped-call]
        with self.conn_or_acquire() as client:
            while (raw := self._with_repair([(queue, _LIST)], lambda: client.rpop(queue))) is not None:
                if (message := self._verified(queue, raw)) is not None:
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
        message = self._verified(exchange, payload["data"], once=True)
        if queue is None or message is None:
            return None
        self._deliver(message, queue)
        return True

    def _verified(self, place: str, raw: bytes, *, once: bool = False) -> dict[str, Any] | None:
        """Check and parse a message, and replace its delivery tag and routing key. Return None when it is refused."""
        assert self.signatures is not None  # noqa: S101 - callers have checked
        checked = self.signatures.check(place, raw, once=once)
        message = checked if isinstance(checked, str) else read_envelope(place, checked)
        if isinstance(message, str):
            refusals.note(place, message)
            return None
        properties = message["properties"]
        properties["delivery_tag"] = uuid()  # the same message may arrive twice
        properties["delivery_info"] = {**properties.get("delivery_info", {}), "routing_key": place}
        return message

    def _deliver(self, message: dict[str, Any], queue: str) -> None:
        """Deliver a message. Drop it when it raises anything but a connection error, so that the worker goes on."""
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001 - as kombu does
        except self.connection_errors:
            raise
        except Exception as error:  # noqa: BLE001 - no message may end the worker
            self.qos.ack(message["properties"]["delivery_tag"])
            refusals.note(queue, f"it could not be handled: {error!r}"[:500])

    # --- keys of the wrong type

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """Return the bindings of *exchange* as (routing key, pattern, queue). Ignores malformed ones."""
        if self.signatures is None:
            return super().get_table(exchange)  # type: ignore[no-untyped-call, no-any-return]
        key = self.keyprefix_queue % exchange
        with self.conn_or_acquire() as client:
            members = self._with_repair([(key, _SET)], lambda: client.smembers(key))
        rows = [tuple(member.decode(errors="replace").split(self.sep)) for member in members]
        return [row for row in rows if len(row) == 3]  # noqa: PLR2004 - see the docstring

    def _lookup(self, exchange: str, routing_key: str, default: Any = None) -> list[str]:
        if self.signatures is not None and exchange == routing_key and exchange in queues.ALL:
            return [exchange]  # ignore bindings in Redis: anybody may write them
        return super()._lookup(exchange, routing_key, default)  # type: ignore[no-untyped-call, no-any-return]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        bind = super()._queue_bind
        self._with_repair(self._binding_keys(exchange), lambda: bind(exchange, routing_key, pattern, queue))  # type: ignore[no-untyped-call]

    def _size(self, queue: str) -> int:
        size = super()._size
        return self._with_repair([(queue, _LIST)], lambda: size(queue))  # type: ignore[no-untyped-call, no-any-return]

    def _delete(self, queue: str, exchange: str, *args: Any, **kwargs: Any) -> None:
        delete = super()._delete
        self._with_repair(self._binding_keys(exchange), lambda: delete(queue, exchange, *args, **kwargs))  # type: ignore[no-untyped-call]

    def maybe_refresh_binding_expiry(self) -> None:
        """Refresh the bindings, as kombu does every second, but delete keys of the wrong type instead of raising."""
        refresh = super().maybe_refresh_binding_expiry
        bound = {exchange for queue in self._active_queues for exchange, *_ in self.state.queue_bindings(queue)}
        try:
            self._with_repair([key for exchange in bound for key in self._binding_keys(exchange)], refresh)
        except ResponseError as error:
            if self.signatures is None:
                raise
            refusals.note(self.keyprefix_binding_deadlines, f"the bindings cannot be kept: {error}"[:500])

    def _binding_keys(self, exchange: str) -> list[tuple[str, str]]:
        sets = [(key % (exchange,), _SET) for key in (self.keyprefix_queue, self.keyprefix_binding_permanent)]
        return [*sets, (self.keyprefix_binding_deadlines, _SORTED)]

    def _with_repair(self, keys: Iterable[tuple[str, str]], act: Callable[[], T]) -> T:
        """Return *act*(). If one of *keys*, pairs of (key, type), has another type, delete it and call *act* again."""
        try:
            return act()
        except ResponseError as error:
            self._delete_wrong_types(keys, error)
            return act()

    def _delete_wrong_types(self, keys: Iterable[tuple[str, str]], error: ResponseError) -> None:
        if self.signatures is None or "WRONGTYPE" not in str(error):
            raise error
        with self.conn_or_acquire() as client:
            for key, expected in keys:
                actual = client.type(self.global_keyprefix + key).decode()
                if actual not in {expected, "none"}:
                    client.delete(key)
                    log.warning("deleted a key that has the wrong type", key=key, type=actual, expected=expected)
