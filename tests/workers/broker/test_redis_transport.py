"""Test that a connection to Redis which breaks while messages are fetched does not end the worker."""

from __future__ import annotations

import json
import os
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub
from kombu.transport import redis, resolve_transport, virtual
from kombu.utils.url import parse_url

from coordination.settings import broker_url
from tests.support.processes import until
from tests.support.redis import RedisServer
from workers.broker.redis_transport import InstalledTransport, PollingChannel, TolerantQoS, install
from workers.shutdown import Shutdown


def fetched(kind: type[virtual.QoS]) -> virtual.QoS:
    """Return a channel whose connection is gone: one message was fetched, and no client can be created."""
    gone = AttributeError("'NoneType' object has no attribute 'hostname'")
    channel = Mock(do_restore=True, connection=None)
    channel.put_back.side_effect = channel._restore.side_effect = channel._restore_at_beginning.side_effect = gone
    created = kind(channel)
    created._delivered["tag"] = Mock()
    created._on_collect.cancel()  # otherwise the end of this process would try it again
    return created


@pytest.fixture
def dumped(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Collect what kombu dumps into files."""
    dump = Mock()
    monkeypatch.setattr("kombu.transport.virtual.base.emergency_dump_state", dump)
    return dump


def test_messages_that_cannot_be_put_back_are_let_go(dumped: Mock) -> None:
    fetched(TolerantQoS).restore_unacked_once()

    assert not dumped.called


@pytest.mark.parametrize("answer", [lambda made: made.ack("tag"), lambda made: made.reject("tag", requeue=True)])
def test_a_message_whose_channel_was_closed_meanwhile_is_let_go(answer: Callable[[virtual.QoS], None]) -> None:
    made = fetched(TolerantQoS)

    answer(made)

    assert made.can_consume()
    made.append(Mock(), "another")
    assert list(made._delivered) == ["another"]


def test_the_mend_is_still_needed(dumped: Mock) -> None:
    """Detect a fixed kombu: when this fails, remove the workaround."""
    fetched(virtual.QoS).restore_unacked_once()

    assert dumped.called


@contextmanager
def consuming(server: RedisServer, found: list[Any]) -> Iterator[PollingChannel]:
    """Provide a channel that consumes the queue ``bells``, with a prefetch of at most three messages."""
    install()
    with Connection(broker_url(server.url)) as connection:
        channel = connection.default_channel
        channel.basic_qos(0, 3, False)
        consumer = Consumer(channel, [Queue("bells", Exchange("bells"), routing_key="bells")])
        consumer.register_callback(lambda _body, message: found.append(message))
        with consumer, Producer(channel, Exchange("bells"), routing_key="bells") as producer:
            for number in range(4):
                producer.publish(number)
            yield channel


def test_what_was_fetched_and_not_begun_goes_back_in_its_order_and_nothing_is_noted_in_redis(
    redis_server: RedisServer,
) -> None:
    matches: list[Any] = []
    with consuming(redis_server, matches) as channel:
        while len(matches) < 3:
            channel.connection.client.drain_events(timeout=10)

        assert not channel.qos.can_consume()
        with redis_server.client() as client:
            assert not client.keys("*unacked*")

        matches[0].ack()
        channel.qos.restore_unacked_once()

        with redis_server.client() as client:
            bodies = [b64decode(json.loads(raw)["body"]) for raw in client.lrange("bells", 0, -1)]
        assert bodies == [b"3", b"2", b"1"]


def test_a_channel_keeps_its_client_until_its_connections_were_given_up(redis_server: RedisServer) -> None:
    with consuming(redis_server, []) as channel:
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second

        channel._disconnect_pools()

        with channel.conn_or_acquire() as third:
            assert third is not first
            assert third.ping()


def turns_after(connections: int, url: str, transport: type[redis.Transport]) -> int:
    """Count the calls of each turn of an event loop after this many connections were opened and closed."""
    loop = Hub()
    for _ in range(connections):
        client = Connection(broker_url(url))
        created = transport(client=client)
        connection = created.establish_connection()
        created.register_with_event_loop(connection, loop)
        created.close_connection(connection)
    try:
        return len(loop.on_tick)
    finally:
        loop.close()


def test_a_closed_connection_costs_no_turn_of_the_event_loop(redis_server: RedisServer) -> None:
    assert turns_after(5, redis_server.url, InstalledTransport) == 0


def test_kombu_still_leaves_closed_connections_in_the_event_loop(redis_server: RedisServer) -> None:
    """Detect a fixed kombu: when this fails, remove the workaround."""
    assert turns_after(5, redis_server.url, redis.Transport) == 5


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "rediss://127.0.0.1:1/0", "redis+socket:///nowhere.sock"])
def test_a_worker_connects_by_the_mended_transport(url: str) -> None:
    install()

    assert resolve_transport(parse_url(url)["transport"].partition("+")[0]) is InstalledTransport


def test_an_open_connection_takes_part_in_the_event_loop(redis_server: RedisServer) -> None:
    loop = Hub()
    transport = InstalledTransport(client=Connection(broker_url(redis_server.url)))
    connection = transport.establish_connection()
    transport.register_with_event_loop(connection, loop)

    assert len(loop.on_tick) == 1

    transport.close_connection(connection)
    loop.close()


def test_a_worker_that_ends_does_not_wait_out_what_it_asked_last(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.broker.redis_transport.state.should_stop", 0)
    install()
    with Connection(broker_url(redis_server.url)) as connection:
        channel = connection.channel()
        channel.queue_declare("nothing-comes-here")
        channel.basic_consume("nothing-comes-here", no_ack=True, callback=Mock(), consumer_tag="t")
        channel.client.connection = channel.client.connection_pool.get_connection()
        channel._brpop_start(timeout=60)
        closing = threading.Thread(target=channel.close, daemon=True)

        closing.start()
        closing.join(20)

        assert not closing.is_alive()


def test_celerys_loop_is_woken_when_the_worker_is_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    silent, _ = os.pipe()
    hub.add_reader(silent, Mock())
    hub.timer.call_after(60, Mock())
    monkeypatch.setattr(hub, "fire_timers", lambda **_: 60)  # it would sleep until then
    slept = threading.Thread(target=lambda: next(hub.create_loop()), daemon=True)
    monkeypatch.setattr(Shutdown, "loop", hub)
    slept.start()
    until(lambda: hub._loop_thread == slept.ident, what="the loop runs")

    Shutdown.wake()

    slept.join(20)
    assert not slept.is_alive()
    hub.close()
