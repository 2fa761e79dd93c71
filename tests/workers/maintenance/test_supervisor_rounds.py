"""Test the rounds of a worker's supervisor loop: it answers messages, ticks due projects, and survives errors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from coordination.base.errors import DatabaseUnavailable
from coordination.base.host import boot_id, host
from coordination.base.ids import new_id
from coordination.domain.tasks.attempts import Outcome
from coordination.store.queries.fleet import supervisors
from coordination.store.tables.fleet.workers import supervisors as supervisor_table
from coordination.store.tables.fleet.workers import workers as worker_table
from coordination.store.types import db_after
from tests.support.processes import until
from tests.support.worker_parts import WorkerParts, worker_parts
from tests.support.world import World
from workers.runners.base import Control, StopReason

WAIT = timedelta(seconds=20)


@pytest.fixture
def parts(store_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerParts]:
    monkeypatch.setenv("COORD_REDIS_URL", redis_url)
    with worker_parts(store_url, redis_url, tmp_path) as opened:
        yield opened


@pytest.fixture
def world(parts: WorkerParts) -> World:
    return parts.world


def age_supervisors(world: World, age: timedelta = timedelta(minutes=5)) -> None:
    with world.store.write() as tx:
        tx.execute(update(supervisor_table).values(heartbeat_at=db_after(-age.total_seconds())))


def age_marks(world: World, seconds: float) -> None:
    with world.store.read() as tx:
        row = supervisors.get(tx, world.workspace, world.project_id)
    assert row is not None
    moment = (row.heartbeat_at + row.age - timedelta(seconds=seconds)).isoformat(timespec="microseconds")
    world.sql("UPDATE tasks SET enqueued_at = :moment WHERE enqueued_at IS NOT NULL", moment=moment)


def age_worker(world: World, worker: str, seconds: float, **more: object) -> None:
    with world.store.write() as tx:
        values = {"heartbeat_at": db_after(-seconds), **more}
        tx.execute(update(worker_table).where(worker_table.c.id == worker).values(**values))


def stopped_workers(world: World) -> set[str]:
    return {str(row[0]) for row in world.sql("SELECT id FROM workers WHERE stopped_at IS NOT NULL")}


@contextmanager
def keeping_house(parts: WorkerParts) -> Iterator[None]:
    parts.supervisor_loop.start()
    try:
        yield
    finally:
        parts.supervisor_loop.stop()
        for thread in threading.enumerate():  # the call that notifies the others uses Redis, which is closed next
            if thread.name == "coord-wake":
                thread.join(WAIT.total_seconds())


class TestASweep:
    def test_every_project_that_is_due_is_ticked_and_none_that_is_not(self, parts: WorkerParts, world: World) -> None:
        other = World(world.store, name="another", project="example.org/acme/mill")
        world.submit("a")
        other.submit("b")
        age_supervisors(world)
        fresh = World(world.store, name="third", project="example.org/acme/farm")
        fresh.submit("c")

        until(lambda: not parts.supervisor_loop.sweep(), within=WAIT, what="the end of what is due")

        assert parts.queued_messages() == 2
        unmarked = {str(row[0]) for row in world.sql("SELECT key FROM tasks WHERE enqueued_at IS NULL")}
        assert unmarked == {"c"}

    def test_a_worker_is_declared_dead_after_three_leases_of_silence(self, parts: WorkerParts, world: World) -> None:
        ttl = parts.context.terms.ttl.total_seconds()
        late, silent = world.register(new_id()), world.register(new_id())
        age_worker(world, late, 2.5 * ttl)
        age_worker(world, silent, 3.1 * ttl)

        parts.supervisor_loop.sweep()

        assert stopped_workers(world) == {silent}

    def test_a_project_that_cannot_be_ticked_keeps_no_other_waiting(
        self, parts: WorkerParts, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = World(world.store, name="another", project="example.org/acme/mill")
        world.submit("a")
        other.submit("b")
        age_supervisors(world)
        healthy = parts.loop_module.run_tick

        def breaks_once(store: Any, begun: Any, **settings: Any) -> Any:
            if begun.project_id == world.project_id:
                raise RuntimeError("a bug")
            return healthy(store, begun, **settings)

        monkeypatch.setattr(parts.loop_module, "run_tick", breaks_once)

        until(lambda: not parts.supervisor_loop.sweep(), within=WAIT, what="the end of what is due")

        assert parts.queued_messages() == 1
        marked = {str(row[0]) for row in world.sql("SELECT key FROM tasks WHERE enqueued_at IS NOT NULL")}
        assert marked == {"b"}

    def test_those_with_nothing_to_do_are_ticked_together_and_the_others_one_by_one(
        self, parts: WorkerParts, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quiet = [World(world.store, project=f"example.org/acme/quiet-{number}") for number in range(3)]
        for each in quiet:
            each.submit("a")
            each.do("a")
        world.submit("b")
        age_supervisors(world)
        ticked: list[str] = []
        healthy = parts.loop_module.run_tick

        def noted(store: Any, begun: Any, **settings: Any) -> Any:
            ticked.append(begun.project_id)
            return healthy(store, begun, **settings)

        monkeypatch.setattr(parts.loop_module, "run_tick", noted)

        until(lambda: not parts.supervisor_loop.sweep(), within=WAIT, what="the end of what is due")

        assert ticked == [world.project_id]
        alive = {str(row[0]) for row in world.sql("SELECT project_id FROM supervisors WHERE ended_at IS NULL")}
        assert alive == {world.project_id}

    def test_when_they_cannot_be_ticked_together_each_is_ticked_alone(
        self, parts: WorkerParts, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.submit("a")
        world.do("a")
        age_supervisors(world)

        def breaks(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(parts.loop_module, "tick_quiet", breaks)

        until(lambda: not parts.supervisor_loop.sweep(), within=WAIT, what="the end of what is due")

        assert world.sql("SELECT 1 FROM supervisors WHERE ended_at IS NULL") == []


class TestEnqueueingAgain:
    """Test tasks that were enqueued and not claimed: the message was lost, or is prefetched behind a long job."""

    @pytest.mark.parametrize(("age", "again"), [(0.0, 0), (12.0, 1)], ids=["young", "old"])
    def test_with_an_empty_queue_a_message_that_is_not_that_young_was_lost(
        self, parts: WorkerParts, world: World, monkeypatch: pytest.MonkeyPatch, age: float, again: int
    ) -> None:
        monkeypatch.setattr(parts.loop_module, "_LOST_MESSAGE", timedelta(seconds=10))  # two would end too soon here
        world.submit("a")
        world.tick()
        age_marks(world, age)

        parts.supervisor_loop.tick(world.workspace, world.project_id)

        assert parts.queued_messages() == again

    @pytest.mark.parametrize(("age", "again"), [(4.0, 0), (20.0, 1)], ids=["young", "old"])
    def test_with_messages_in_the_queue_it_may_still_be_among_them(
        self, parts: WorkerParts, world: World, age: float, again: int
    ) -> None:
        world.submit("a")
        world.tick()
        age_marks(world, age)
        parts.context.wakeups.client.lpush("coord:jobs", "{}")

        parts.supervisor_loop.tick(world.workspace, world.project_id)

        assert parts.queued_messages() == 1 + again

    def test_what_redis_refuses_is_enqueued_at_the_next_look(
        self, parts: WorkerParts, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from kombu.exceptions import OperationalError

        def refuse(*_: object, **__: object) -> None:
            raise OperationalError("away")

        world.submit("a", "b")
        with monkeypatch.context() as broken:
            broken.setattr(parts.app, "send_task", refuse)
            parts.supervisor_loop.tick(world.workspace, world.project_id)
        assert parts.queued_messages() == 0
        assert world.sql("SELECT key FROM tasks WHERE enqueued_at IS NOT NULL") == []

        parts.supervisor_loop.tick(world.workspace, world.project_id)

        assert parts.queued_messages() == 2


class TestNudges:
    def test_what_is_ready_is_enqueued_at_once_and_one_tick_follows_however_many_nudges_come(
        self, parts: WorkerParts, world: World
    ) -> None:
        world.submit("a", "b")

        for _ in range(3):
            parts.supervisor_loop.handle_wakeups([(world.workspace, world.project_id)])

        assert parts.queued_messages() == 2
        assert [entry[1:] for entry in parts.supervisor_loop._later] == [(world.workspace, world.project_id)]

    def test_nudges_that_come_together_are_answered_together(self, parts: WorkerParts, world: World) -> None:
        places = []
        for number in range(3):
            other = World(world.store, project=f"example.org/acme/p{number}")
            other.submit(f"a{number}")
            places.append((other.workspace, other.project_id))
        parts.context.wakeups.wake_projects([*places, places[0]])

        parts.supervisor_loop._next_sweep = time.monotonic() + 600
        parts.supervisor_loop._once()

        assert parts.queued_messages() == 3
        assert {entry[1:] for entry in parts.supervisor_loop._later} == set(places)
        assert parts.context.wakeups.client.llen("coord:wakeups") == 0

    def test_a_project_whose_nudge_cannot_be_answered_keeps_no_other_waiting(
        self, parts: WorkerParts, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = World(world.store, project="example.org/acme/mill")
        world.submit("a")
        other.submit("b")
        healthy = parts.loop_module.dispatch_window.fill_window

        def breaks_once(tx: Any, workspace_id: str, project_id: str, **settings: Any) -> Any:
            if project_id == world.project_id:
                raise RuntimeError("a bug")
            return healthy(tx, workspace_id, project_id, **settings)

        monkeypatch.setattr(parts.loop_module.dispatch_window, "fill_window", breaks_once)

        parts.supervisor_loop.handle_wakeups([(world.workspace, world.project_id), (other.workspace, other.project_id)])

        marked = {str(row[0]) for row in world.sql("SELECT key FROM tasks WHERE enqueued_at IS NOT NULL")}
        assert marked == {"b"}
        assert parts.queued_messages() == 1
        assert len(parts.supervisor_loop._later) == 2

    def test_a_nudge_through_redis_brings_a_message(self, parts: WorkerParts, world: World) -> None:
        with keeping_house(parts):
            until(lambda: parts.supervisor_loop._next_sweep > 0, what="the first sweep")
            world.submit("a")
            parts.context.wake_projects([(world.workspace, world.project_id)])

            until(lambda: parts.queued_messages() == 1, within=WAIT, what="a message")

    def test_a_nudge_that_cannot_be_read_stops_nothing(self, parts: WorkerParts, world: World) -> None:
        world.submit("a")
        with keeping_house(parts):
            for body in ("nonsense", '["one"]', json.dumps([world.workspace, world.project_id])):
                parts.context.wakeups.client.lpush("coord:wakeups", body)

            until(lambda: parts.queued_messages() >= 1, within=WAIT, what="a message")

    def test_a_database_that_is_away_costs_the_nudge_and_not_the_tick(
        self, parts: WorkerParts, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.submit("a")

        @contextmanager
        def away() -> Iterator[None]:
            raise DatabaseUnavailable("away")
            yield

        with monkeypatch.context() as broken:
            broken.setattr(parts.context.store, "write", away)
            parts.supervisor_loop.handle_wakeups([(world.workspace, world.project_id)])

        assert parts.queued_messages() == 0
        assert len(parts.supervisor_loop._later) == 1

    def test_a_back_off_is_looked_at_when_it_ends_and_not_before(self, parts: WorkerParts, world: World) -> None:
        world.submit("a", tasks={"a": {"max_attempts": 2}})
        now = time.monotonic()

        parts.supervisor_loop.schedule_tick(world.workspace, world.project_id, after=timedelta(seconds=30))
        parts.supervisor_loop.schedule_tick(world.workspace, world.project_id, after=timedelta(seconds=5))

        nearest = parts.supervisor_loop._later[0][0]
        assert 5 <= nearest - now < 10


class TestCancels:
    def test_a_cancel_through_redis_stops_the_attempt_and_no_other(
        self, parts: WorkerParts, world: World, tmp_path: Path
    ) -> None:
        world.submit("a", "b")
        world.claim("a", "b")
        controls = []
        for entry in parts.context.in_flight.add([world.claims["a"], world.claims["b"]], sent=time.monotonic()):
            controls.append(Control(scratch=tmp_path))
            parts.context.in_flight.attach(entry, controls[-1])
        world.cancel("a")

        def heard() -> bool:
            parts.context.stop(world.workspace, world.project_id, [(world.ids["a"], 1)])
            return controls[0].stop_reason is not None

        with keeping_house(parts):
            until(heard, within=WAIT, what="the cancel")
        reasons = [control.stop_reason for control in controls]
        for control in controls:
            control.close()

        assert reasons == [StopReason.CANCELED, None]


class TestWhatADeadWorkerLeft:
    """Test that a dead worker's jobs on this host are ended before their tasks can be claimed again."""

    @pytest.fixture
    def ended(self, parts: WorkerParts, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        """Collect the ended processes, in their order."""
        names: list[object] = []
        monkeypatch.setattr(parts.loop_module, "end_worker", lambda worker: names.append(worker) or 1)
        monkeypatch.setattr(parts.loop_module, "end_attempt", lambda task, number: names.append((task, number)) or 1)
        return names

    def test_a_silent_workers_jobs_are_ended_and_its_tasks_are_enqueued(
        self, parts: WorkerParts, world: World, ended: list[object]
    ) -> None:
        other = world.register(new_id())
        world.submit("a")
        world.claim("a", worker=other)
        world.expire("a")
        age_worker(world, other, 60, host=host(), boot_id=boot_id())

        parts.supervisor_loop.tick(world.workspace, world.project_id)

        assert ended == [other]
        assert world.outcomes("a") == [Outcome.LOST]
        assert parts.queued_messages() == 1

    def test_all_that_a_silent_worker_holds_is_lost_in_the_tick_of_any_of_its_projects(
        self, parts: WorkerParts, world: World, ended: list[object]
    ) -> None:
        mill = World(world.store, project="example.org/acme/mill")
        other = world.register(new_id())
        world.submit("a")
        mill.submit("b")
        world.claim("a", worker=other)
        mill.claim("b", worker=other)
        world.expire("a")
        age_worker(world, other, 60, host="elsewhere", boot_id="another")

        parts.supervisor_loop.tick(world.workspace, world.project_id)

        assert (world.outcomes("a"), mill.outcomes("b")) == ([Outcome.LOST], [Outcome.LOST])
        assert ended == [], "its processes are on another machine"

    def test_a_worker_that_was_stopped_keeps_what_nobody_took(
        self, parts: WorkerParts, world: World, ended: list[object]
    ) -> None:
        world.submit("a")
        world.claim("a")
        parts.context.in_flight.add([world.claims["a"]], sent=time.monotonic())
        world.expire("a")
        age_worker(world, world.worker, 60, host=host(), boot_id=boot_id())

        parts.supervisor_loop.tick(world.workspace, world.project_id)

        assert (ended, world.outcomes("a")) == ([], [None])

    def test_of_a_worker_that_is_heard_of_only_the_expired_attempt_is_ended(
        self, parts: WorkerParts, world: World, ended: list[object]
    ) -> None:
        other = world.register(new_id())
        world.submit("a", "b")
        world.claim("a", "b", worker=other)
        world.expire("a")
        age_worker(world, other, 0, host=host(), boot_id=boot_id())

        parts.supervisor_loop.tick(world.workspace, world.project_id)

        assert ended == [(world.ids["a"], 1)]

    def test_a_worker_never_ends_itself(self, parts: WorkerParts, world: World, ended: list[object]) -> None:
        world.submit("a")
        world.claim("a")
        world.expire("a")
        age_worker(world, world.worker, 60, host=host(), boot_id=boot_id())

        parts.supervisor_loop.tick(world.workspace, world.project_id)

        assert ended == [(world.ids["a"], 1)]


def test_both_threads_survive_an_error_in_a_round(
    parts: WorkerParts, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.loop_module, "_RECONNECT", 0.01)
    healthy = parts.supervisor_loop.sweep
    rounds: list[Exception] = [RuntimeError("a bug"), DatabaseUnavailable("away")]
    swept = threading.Event()

    def breaks_first() -> bool:
        parts.supervisor_loop._next_sweep = 0.0
        if rounds:
            raise rounds.pop()
        swept.set()
        return bool(healthy())

    monkeypatch.setattr(parts.supervisor_loop, "sweep", breaks_first)
    world.submit("a")
    age_supervisors(world)

    with keeping_house(parts):
        assert swept.wait(WAIT.total_seconds())
        until(lambda: parts.queued_messages() == 1, within=WAIT, what="a message")
