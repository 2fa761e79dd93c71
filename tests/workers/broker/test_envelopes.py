"""Test the validation of control commands before Celery reads them, and keys that other programs put in their place."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from coordination.settings import load_settings
from tests.support.apps import app_of
from workers.broker import queues
from workers.broker.envelopes import read_envelope
from workers.broker.signed_channel import refusals

PING = {"method": "ping", "arguments": {}, "destination": None, "pattern": None, "matcher": None, "ticket": "t"}


def sent(body: Any) -> bytes:
    """Return a control command as Celery writes it."""
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {},
            "properties": {"body_encoding": "base64", "delivery_info": {}},
        }
    ).encode()


@pytest.mark.parametrize(
    "body",
    [
        *([], [PING], "ping", None, 5, {}),
        {**PING, "method": None},
        {**PING, "method": ["shutdown"]},
        {**PING, "arguments": []},
        {**PING, "arguments": "x"},
        {**PING, "destination": "worker"},
        {**PING, "destination": [1]},
        {**PING, "pattern": 5},
        {**PING, "matcher": {}},
        {**PING, "ticket": [1]},
        {**PING, "reply_to": []},
        {**PING, "reply_to": {"exchange": 1}},
        {**PING, "self": 1},
        {**PING, "method": "no_such_command"},
        {**PING, "method": "enable_events", "arguments": {"no_such_argument": 1}},
        {**PING, "arguments": {"state": 1}},
        {**PING, "method": "rate_limit", "arguments": {"task_name": "t"}},
    ],
)
def test_what_is_no_control_command_is_refused_before_celery_raises_for_it(body: Any) -> None:
    assert isinstance(read_envelope(queues.CONTROL, sent(body)), str)


@pytest.mark.parametrize(
    "body",
    [
        PING,
        {**PING, "reply_to": {"exchange": "x", "routing_key": "y"}, "later": 1},
        {**PING, "method": "rate_limit", "arguments": {"task_name": "t", "rate_limit": "1/s"}},
        {**PING, "method": "shutdown", "arguments": None},
    ],
)
def test_a_control_command_may_have_more(body: Any) -> None:
    assert isinstance(read_envelope(queues.CONTROL, sent(body)), dict)


@pytest.fixture
def channel(redis_url: str, sqlite_url: str, tmp_path: Any) -> Iterator[Any]:
    """Provide our channel class consuming an expiring queue, as a worker's channel for control commands does."""
    from kombu import Consumer, Exchange, Queue

    settings = load_settings(
        {"COORD_DATABASE_URL": sqlite_url, "COORD_REDIS_URL": redis_url, "COORD_HOME": str(tmp_path / "home")}
    )
    with ExitStack() as open_:
        app = open_.enter_context(app_of(settings))
        connection = open_.enter_context(app.connection_for_read())
        created = connection.default_channel
        queue = Queue("mine", Exchange(queues.CONTROL, type="fanout"), expires=10.0)
        open_.enter_context(Consumer(created, [queue], callbacks=[print]))
        yield created


@pytest.mark.parametrize("key", ["_kombu.binding.celery.pidbox", "_kombu.binding.deadlines"])
def test_a_key_in_the_way_of_bindings_is_deleted_and_costs_no_traceback_a_second(
    channel: Any, redis_url: str, key: str
) -> None:
    before = refusals.count
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"coord:{channel.keyprefix_binding_deadlines if key.endswith('deadlines') else key}", "x")
        for _ in range(3):
            channel._binding_expiry_refreshed_at = channel._bindings_swept_at = float("-inf")
            channel.maybe_refresh_binding_expiry()  # kombu writes a traceback for the exception of this call

        assert client.type("coord:_kombu.binding.celery.pidbox") == b"set"
    assert refusals.count - before <= 1
