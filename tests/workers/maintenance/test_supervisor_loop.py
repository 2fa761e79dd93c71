"""Test what a worker's supervisor loop does beside its jobs."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.apps import context_of, worker_settings
from tests.support.processes import until
from tests.support.publishers import RecordingPublisher
from tests.support.world import World
from workers.context import Context
from workers.maintenance import supervisor_loop
from workers.maintenance.supervisor_loop import SupervisorLoop

THREADS = {"coord-housekeeping", "coord-cancels"}


class Node:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def context(store_url: str, redis_url: str, tmp_path: Path) -> Iterator[Context]:
    with context_of(worker_settings(store_url, redis_url, tmp_path)) as opened:
        yield opened


@pytest.fixture
def publisher(context: Context) -> RecordingPublisher:
    assert isinstance(context.publisher, RecordingPublisher)
    return context.publisher


@pytest.fixture
def sqlite_context(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Context]:
    with context_of(worker_settings(sqlite_url, redis_url, tmp_path)) as opened:
        yield opened


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """Turn off collections that allocations trigger."""
    gc.disable()
    yield
    gc.enable()


class TestNudges:
    def test_what_has_become_ready_is_enqueued_at_once(self, context: Context, publisher: RecordingPublisher) -> None:
        world = World(context.store)
        world.submit("a", "b", "c < a b")

        SupervisorLoop(context).handle_wakeups([(world.workspace, world.project_id)])

        assert sorted(publisher.keys) == ["a", "b"]
        assert {(message.workspace_id, message.project) for message in publisher.messages} == {
            (world.workspace, "shop")
        }

    def test_what_was_enqueued_is_not_enqueued_again(self, context: Context, publisher: RecordingPublisher) -> None:
        world = World(context.store)
        world.submit("a")
        loop = SupervisorLoop(context)

        loop.handle_wakeups([(world.workspace, world.project_id)])
        loop.handle_wakeups([(world.workspace, world.project_id)])

        assert publisher.keys == ["a"]

    def test_the_next_tick_enqueues_what_the_broker_refused(
        self, context: Context, publisher: RecordingPublisher
    ) -> None:
        world = World(context.store)
        world.submit("a")
        loop = SupervisorLoop(context)
        publisher.refuses = True
        loop.handle_wakeups([(world.workspace, world.project_id)])
        loop.tick(world.workspace, world.project_id)
        assert publisher.refused == ["a", "a"]
        publisher.refuses = False

        loop.tick(world.workspace, world.project_id)

        assert publisher.keys == ["a"]


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize(("every", "patience", "collected"), [(0.1, 30.0, True), (3600.0, 1.0, False)])
def test_cycles_go_by_time_and_not_only_when_much_was_allocated(
    every: float, patience: float, *, collected: bool, sqlite_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_loop, "_TIDY_EVERY", every)
    monkeypatch.setattr(supervisor_loop, "_POP_WAIT", 0.01)
    loop = SupervisorLoop(sqlite_context)
    gone = threading.Event()
    node = Node()
    weakref.finalize(node, gone.set)
    del node

    loop.start()
    was_collected = gone.wait(patience)
    loop.stop()

    assert was_collected is collected


def test_it_waits_for_the_thread_that_wakes_it(sqlite_context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    woken = threading.Event()
    loop = SupervisorLoop(sqlite_context)
    monkeypatch.setattr(loop, "_wake", lambda: time.sleep(0.5) or woken.set())

    loop.stop()

    assert woken.is_set()


@pytest.mark.parametrize("waits", [False, True])
def test_it_ends_at_once_although_it_waits_for_a_nudge(
    *, waits: bool, sqlite_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_loop, "_POP_WAIT", 60)
    context = sqlite_context
    context.terms = replace(context.terms, sweep=timedelta(minutes=10))
    loop = SupervisorLoop(context)
    loop.start()
    if waits:
        client = context.wakeups.client
        until(lambda: client.info("clients")["blocked_clients"] == 1, what="the supervisor loop waits for a nudge")
    began = time.monotonic()

    loop.stop()

    assert time.monotonic() - began < 30, "half of what it would wait"
    assert not THREADS & {thread.name for thread in threading.enumerate()}
