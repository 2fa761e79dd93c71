"""A connection to Redis that broke while messages were fetched does not take the worker with it."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest
from kombu import Connection
from kombu.asynchronous import Hub
from kombu.transport import redis, resolve_transport
from kombu.transport.redis import QoS
from kombu.utils.url import parse_url

from coordination.settings import broker_url
from tests.support.redis import RedisServer
from workers.channel import ForgivingQoS, LeavingTransport, mend


def fetched(kind: type[QoS]) -> QoS:
    """What a channel knows whose connection is gone: one message was fetched, and nobody can be asked for a client."""
    channel = Mock(do_restore=True, connection=None)
    channel.conn_or_acquire.side_effect = AttributeError("'NoneType' object has no attribute 'hostname'")
    made = kind(channel)
    made._delivered["tag"] = Mock()
    made._on_collect.cancel()  # or it would be tried again at the end of this process
    return made


def test_messages_that_cannot_be_put_back_are_let_go() -> None:
    fetched(ForgivingQoS).restore_unacked_once()


@pytest.mark.parametrize("answer", ["ack", "reject"])
def test_a_message_whose_channel_was_closed_meanwhile_is_let_go(answer: str) -> None:
    getattr(fetched(ForgivingQoS), answer)("tag")


@pytest.mark.parametrize("answer", ["ack", "reject"])
def test_on_an_open_channel_what_is_wrong_is_said(answer: str) -> None:
    made = fetched(ForgivingQoS)
    made.channel.connection = Mock()

    with pytest.raises(AttributeError):
        getattr(made, answer)("tag")


@pytest.mark.parametrize("answer", [QoS.restore_unacked_once, lambda made: made.ack("tag")])
def test_the_mend_is_still_needed(answer: Callable[[QoS], None]) -> None:
    """When this fails, kombu has learnt it: take the mend away."""
    with pytest.raises(AttributeError):
        answer(fetched(QoS))


def test_every_channel_of_a_worker_is_mended() -> None:
    mend()

    assert redis.Channel.QoS is ForgivingQoS


def turns_after(connections: int, url: str, transport: type[redis.Transport]) -> int:
    """How many calls each turn of an event loop makes after so many connections were made and closed."""
    loop = Hub()
    for _ in range(connections):
        client = Connection(broker_url(url))
        made = transport(client=client)
        connection = made.establish_connection()
        made.register_with_event_loop(connection, loop)
        made.close_connection(connection)
    try:
        return len(loop.on_tick)
    finally:
        loop.close()


def test_a_closed_connection_costs_no_turn_of_the_event_loop(redis_server: RedisServer) -> None:
    assert turns_after(5, redis_server.url, LeavingTransport) == 0


def test_kombu_still_leaves_closed_connections_in_the_event_loop(redis_server: RedisServer) -> None:
    """When this fails, kombu has learnt it: take the mend away."""
    assert turns_after(5, redis_server.url, redis.Transport) == 5


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "rediss://127.0.0.1:1/0", "redis+socket:///nowhere.sock"])
def test_a_worker_connects_by_the_mended_transport(url: str) -> None:
    mend()

    assert resolve_transport(parse_url(url)["transport"].partition("+")[0]) is LeavingTransport


def test_an_open_connection_takes_part_in_the_event_loop(redis_server: RedisServer) -> None:
    loop = Hub()
    transport = LeavingTransport(client=Connection(broker_url(redis_server.url)))
    connection = transport.establish_connection()
    transport.register_with_event_loop(connection, loop)

    assert len(loop.on_tick) == 1

    transport.close_connection(connection)
    loop.close()
