"""Test that write access to Redis cannot end a worker or make it execute anything: real workers and a real Redis."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from celery import Celery

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from coordination.services.fleet import broker_keys
from coordination.settings import load_settings
from tests.support.apps import app_of
from tests.support.fleet import Fleet
from tests.support.processes import until

pytestmark = pytest.mark.own_worker

JSON, UTF8 = "application/json", "utf-8"
ODD: list[Any] = [
    None,
    True,
    7,
    -1,
    1e400,
    "",
    "x",
    "9" * 400,
    "\ud800",
    [],
    ["coordination.run"],
    {},
    {"a": {}},
    [[]] * 3,
]
CALL = {"task": "coordination.run", "args": [], "kwargs": {}, "options": {"queue": "jobs"}}
HEADERS = {
    "lang": "py",
    "task": "coordination.run",
    "id": "1",
    "root_id": "1",
    "retries": 0,
    "eta": None,
    "expires": None,
    "timelimit": [None, None],
    "argsrepr": "",
    "kwargsrepr": "",
    "compression": None,
    "group": None,
    "stamps": {},
}


def raw(body: Any = None, *, headers: Any = HEADERS, properties: Any = None, **more: Any) -> bytes:
    """Return a message as a Celery client would write it, with these values replaced."""
    if not isinstance(body, str):
        body = base64.b64encode(json.dumps([[], {}, {}] if body is None else body).encode()).decode()
    place = {"exchange": "", "routing_key": "jobs"}
    ordinary = {"delivery_info": place, "body_encoding": "base64", "delivery_tag": "t", "priority": 0}
    message = {
        "body": body,
        "content-encoding": UTF8,
        "content-type": JSON,
        "headers": headers,
        "properties": ordinary if properties is None else properties,
        **more,
    }
    return json.dumps({name: value for name, value in message.items() if value != "gone"}).encode()


def malformed(number: int) -> bytes:
    """Return a malformed message that our programs never send; it is the same for the same *number*."""
    dice = random.Random(number)  # noqa: S311 - a test
    odd = dice.choice(ODD)
    place = {"exchange": "", "routing_key": "jobs"}
    properties = {"delivery_info": place, "body_encoding": "base64", "delivery_tag": "t", "priority": 0}
    kinds: list[Callable[[], bytes]] = [
        lambda: dice.randbytes(dice.randrange(60)),
        lambda: json.dumps(odd).encode(),
        lambda: b"[" * 100_000,
        lambda: b'{"a":' * 50_000,
        lambda: raw(odd),
        lambda: raw(dice.choice(["%", "AAA", "====", "W1td", "gAR9lC4="])),
        lambda: raw(headers=odd),
        lambda: raw(headers={**HEADERS, dice.choice([*HEADERS]): odd}),
        lambda: raw(headers={name: value for name, value in HEADERS.items() if name != dice.choice([*HEADERS])}),
        lambda: raw(headers={**HEADERS, "compression": dice.choice(["zlib", "bzip2", "application/x-gzip", "x"])}),
        lambda: raw(headers={**HEADERS, "task": dice.choice(["celery.chain", "celery.backend_cleanup", "os.system"])}),
        lambda: raw(properties=odd),
        lambda: raw(properties={**properties, dice.choice([*properties, "reply_to", "correlation_id"]): odd}),
        lambda: raw(**{dice.choice(["content-type", "content-encoding", "body", "headers", "properties"]): odd}),
        lambda: raw(**{dice.choice(["content-type", "content-encoding", "body", "headers", "properties"]): "gone"}),
        lambda: raw(**{"content-type": dice.choice(["application/x-python-serialize", "application/x-yaml", "x"])}),
        lambda: raw([[], {}, {dice.choice(["callbacks", "errbacks", "chain", "chord"]): [{**CALL}]}]),
        lambda: raw([[], {}, {"chord": odd, "chain": odd, "callbacks": odd, "errbacks": odd}]),
    ]
    return dice.choice(kinds)()


@contextmanager
def client_of(fleet: Fleet) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(fleet.env["COORD_REDIS_URL"]) as client:
        yield client


@contextmanager
def sender_of(fleet: Fleet) -> Iterator[Celery]:
    """Return a Celery app that has the key."""
    with app_of(load_settings(fleet.env)) as app:
        yield app


def settled(client: redis.Redis, *names: str) -> None:
    """Wait until the worker has consumed all messages of these queues."""
    until(lambda: not any(client.llen(f"coord:{name}") for name in names), what="all messages are taken")


def assert_works(fleet: Fleet) -> None:
    assert fleet.submit(Task("job", {"shell": "echo fine"})).wait(timeout=30) is RunState.COMPLETED


@pytest.mark.smoke
@pytest.mark.parametrize("signed", [False, True])
def test_a_storm_of_malformed_messages_leaves_the_worker_as_it_was(fleet: Fleet, *, signed: bool) -> None:
    """Include signed messages: they come from a client that has the key and a bug."""
    worker = fleet.worker("-c", "2")
    signatures = fleet.co.runtime.wakeups.signatures  # type: ignore[union-attr]

    def written(queue: str, number: int) -> bytes:
        message = malformed(number)
        if not signed or message[-1:] not in {b"}", b"]"}:
            return message
        return signatures.sign(queue, message.decode()).encode()

    with client_of(fleet) as client:
        for queue, numbers in (("jobs", range(250)), ("supervise", range(250, 500))):
            client.lpush(f"coord:{queue}", *[written(queue, number) for number in numbers])
        settled(client, "jobs", "supervise")
        assert_works(fleet)
        assert not client.keys("coord:*unacked*")

    assert worker.exit_code is None
    assert worker.output.count("worker process begun") <= 1
    assert "Unrecoverable" not in worker.output
    assert "refused a message" in worker.output
    assert worker.output.count("refused a message") == 20, "who floods a queue does not fill the log"


def test_a_message_of_fifty_megabytes_is_dropped(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    with client_of(fleet) as client:
        client.lpush("coord:jobs", raw("A" * 50_000_000))
        settled(client, "jobs")

    worker.wait_for("refused a message.*bytes")
    assert_works(fleet)
    assert worker.exit_code is None


@pytest.mark.parametrize("wrong", ["string", "hash"])
def test_keys_of_a_wrong_type_are_deleted_and_work_goes_on(fleet: Fleet, wrong: str) -> None:
    keys = [
        "jobs",
        "supervise",
        "wakeups",
        "_kombu.binding.jobs",
        "_kombu.binding.celery.pidbox",
        "unacked",
        "unacked_index",
    ]

    def spoil(client: redis.Redis) -> None:
        for key in keys:
            client.delete(f"coord:{key}")
            if wrong == "hash":
                client.hset(f"coord:{key}", "a", "b")
            else:
                client.set(f"coord:{key}", "x")

    with client_of(fleet) as client:
        spoil(client)
        worker = fleet.worker("-c", "1")
        assert_works(fleet)
        spoil(client)
        assert_works(fleet)
        with sender_of(fleet) as app:
            until(lambda: app.control.ping(timeout=1), what="an answer")

    assert worker.exit_code is None
    assert "Unrecoverable" not in worker.output


def test_what_has_no_signature_of_ours_stops_nothing_and_nobody(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    run = fleet.submit(Task("held", {"shell": "touch begun; while [ ! -e go ]; do sleep 0.05; done"}))
    fleet.await_file_made("begun")
    task = run.task("held").record
    with Celery(
        broker=fleet.env["COORD_REDIS_URL"].replace("unix://", "redis+socket://").replace("?db=", "?virtual_host=")
    ) as app:
        app.conf.broker_transport_options = {"global_keyprefix": "coord:"}
        for command in ("shutdown", "cancel_consumer"):
            app.control.broadcast(command, arguments={"queue": "jobs"} if command == "cancel_consumer" else {})
    with client_of(fleet) as client:
        for garbage in (
            b"",
            b"{",
            b"null",
            b"\xff\xfe",
            b"[" * 100_000,
            json.dumps([[task.id, task.attempt]]).encode(),
        ):
            client.publish("coord:cancels", garbage)
            client.publish("coord:/0.celery.pidbox", garbage)
            client.lpush("coord:wakeups", garbage)
    worker.wait_for("refused a message.*celery.pidbox")
    worker.wait_for("refused a message.*coord:cancels")
    worker.wait_for("refused a message.*coord:wakeups")
    fleet.file("go").touch()

    assert run.wait(timeout=30) is RunState.COMPLETED
    assert_works(fleet)
    assert worker.exit_code is None


def test_a_control_command_is_obeyed_once_and_a_copy_of_it_never(fleet: Fleet) -> None:
    first = fleet.worker("-c", "1")
    with client_of(fleet) as client, client.pubsub() as copier:
        copier.psubscribe("coord:/0.celery.pidbox*")
        with sender_of(fleet) as app:
            until(lambda: app.control.ping(timeout=1), what="an answer")
            copies = []
            while (copy := copier.get_message(timeout=2)) is not None:
                if copy["type"] == "pmessage":
                    copies.append(copy)
            for copy in copies:
                client.publish(copy["channel"], copy["data"])
            first.wait_for("it is a copy of an earlier one")
            app.control.shutdown()
        assert first.wait() == 0


def test_a_message_for_another_queue_is_refused(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    signatures = fleet.co.runtime.wakeups.signatures  # type: ignore[union-attr]
    with client_of(fleet) as client:
        client.lpush("coord:supervise", signatures.sign("jobs", raw().decode()))

        worker.wait_for("refused a message.*its signature is wrong")


def test_a_new_key_takes_effect_without_a_restart(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    assert_works(fleet)

    broker_keys.rotate(fleet.co.runtime.store)

    with sender_of(fleet) as app:
        until(lambda: app.control.ping(timeout=1), what="an answer to what was signed with the new key")
    assert_works(fleet)
    assert worker.exit_code is None
