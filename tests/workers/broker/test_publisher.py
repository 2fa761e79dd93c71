"""Test how ready tasks become messages: several in one round trip to Redis, and one by one if that trip fails."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import BatchPublishError
from kombu.transport.redis import PublishBatch
from sqlalchemy import select

from coordination.base.ids import new_id
from coordination.store.engine import Store, open_store
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.ready import ReadyTask
from coordination.store.tables.tasks.tasks import tasks as task_table
from tests.support.apps import app_of, worker_settings
from tests.support.redis import RedisServer
from tests.support.world import World
from workers.broker.publisher import CeleryPublisher, Publisher

QUEUE = "coord:jobs"
TASKS = [ReadyTask(new_id(), number + 1, f"k{number}", "A title", "python:x:y") for number in range(5)]


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    opened = open_store(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def publisher(store: Store, sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Publisher]:
    with app_of(worker_settings(sqlite_url, redis_url, tmp_path)) as app:
        yield CeleryPublisher(app, store)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the sizes of the batches that were sent in one round trip, in their order."""
    sizes: list[int] = []
    flush = PublishBatch.flush

    def counted(batch: PublishBatch) -> None:
        sizes.append(batch._buffered)
        flush(batch)

    monkeypatch.setattr(PublishBatch, "flush", counted)
    return sizes


def publish(publisher: Publisher, tasks: list[ReadyTask], *, together: int = 1) -> bool:
    return publisher.publish(new_id(), "shop", tasks, bundle=lambda _kind: together)


def messages(server: RedisServer) -> list[Any]:
    """Return the messages in the queue, the oldest first: the headers and arguments of each."""
    with server.client() as client:
        queue = [json.loads(raw) for raw in reversed(client.lrange(QUEUE, 0, -1))]
    return [(message["headers"], json.loads(b64decode(message["body"]))[0]) for message in queue]


def tasks_in(server: RedisServer) -> list[list[Any]]:
    return [task for _, (_, tasks) in messages(server) for task in tasks]


def test_a_message_has_ids_for_the_worker_and_a_name_for_people(
    publisher: Publisher, redis_server: RedisServer
) -> None:
    workspace = new_id()

    assert publisher.publish(workspace, "shop", TASKS[:3], bundle=lambda _kind: 2)

    (pair, pair_arguments), (single, single_arguments) = messages(redis_server)
    assert pair_arguments == [workspace, [[TASKS[0].id, 1], [TASKS[1].id, 2]]]
    assert single_arguments == [workspace, [[TASKS[2].id, 3]]]
    assert (pair["task"], pair["shadow"]) == ("coordination.run", "shop/k0 +1")
    assert pair["argsrepr"] == "project=shop task=k0 +1 title='A title'"
    assert single["shadow"] == "shop/k2"


def test_no_tasks_are_no_message(publisher: Publisher, redis_server: RedisServer) -> None:
    assert publish(publisher, [])

    assert messages(redis_server) == []


def test_several_messages_take_one_trip_and_one_message_needs_none(
    publisher: Publisher, redis_server: RedisServer, trips: list[int]
) -> None:
    assert publish(publisher, TASKS, together=9)
    assert trips == []

    assert publish(publisher, TASKS)

    assert trips == [5]
    assert tasks_in(redis_server) == 2 * [[task.id, task.attempt] for task in TASKS]


def test_messages_are_sent_one_by_one_when_their_trip_fails(
    publisher: Publisher, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_batch: PublishBatch) -> None:
        raise BatchPublishError("delivery is uncertain")

    monkeypatch.setattr(PublishBatch, "flush", fail)

    assert publish(publisher, TASKS)

    assert tasks_in(redis_server) == [[task.id, task.attempt] for task in TASKS]


def test_messages_arrive_also_when_redis_has_closed_the_connection(
    publisher: Publisher, redis_server: RedisServer, trips: list[int]
) -> None:
    assert publish(publisher, TASKS[:1])
    with redis_server.client() as client:
        assert client.client_kill_filter(_type="normal", skipme=True) > 0

    assert publish(publisher, TASKS[1:])

    assert trips == [4]
    assert tasks_in(redis_server) == [[task.id, task.attempt] for task in TASKS]


def test_tasks_that_redis_did_not_take_count_as_not_enqueued(sqlite_url: str, store: Store, tmp_path: Path) -> None:
    world = World(store)
    world.submit("a", "b", "c")
    marked = [world.ids["a"], world.ids["b"], world.ids["c"]]
    with store.write() as tx:
        ready.mark_enqueued(tx, world.workspace, marked)
    unsent = [ReadyTask(world.ids[key], 1, key, "", "shell") for key in "ab"]
    nowhere = f"unix://{tmp_path / 'nowhere.sock'}?db=0"

    with app_of(worker_settings(sqlite_url, nowhere, tmp_path)) as app:
        accepted = CeleryPublisher(app, store).publish(world.workspace, "shop", unsent, bundle=lambda _kind: 1)

    with store.read() as tx:
        enqueued = set(tx.execute(select(task_table.c.key).where(task_table.c.enqueued_at.is_not(None))).scalars())
    assert not accepted
    assert enqueued == {"c"}
