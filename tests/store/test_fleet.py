"""Test statements on workers and their leases: owners, which workers are alive, and which rows may be deleted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from coordination.base.ids import new_id
from coordination.domain.tasks.attempts import Outcome
from coordination.store.queries.fleet import workers
from coordination.store.queries.fleet.workers import Renewal
from coordination.store.queries.tasks import attempts
from coordination.store.tables.fleet.workers import workers as table
from coordination.store.types import db_after
from tests.support.world import World

TTL = timedelta(seconds=30)


def renew(world: World, *pairs: tuple[str, int], worker: str | None = None) -> list[Renewal]:
    keys = [(world.ids[key], number) for key, number in pairs]
    with world.store.write() as tx:
        return workers.renew(tx, worker or world.worker, keys, ttl=TTL)


def age(world: World, worker: str, **columns: float) -> None:
    """Set these times of a worker to so many seconds ago."""
    with world.store.write() as tx:
        values = {name: db_after(-seconds) for name, seconds in columns.items()}
        tx.execute(update(table).where(table.c.id == worker).values(**values))


def names(rows: Iterable[Any]) -> list[str]:
    return [row["id"] for row in rows]


class TestRenew:
    def test_it_answers_with_what_became_of_each_task(self, world: World) -> None:
        world.submit("runs", "canceled", "retried")
        world.claim("runs", "canceled", "retried")
        world.cancel("canceled")
        world.cancel("retried")
        world.retry("retried")

        answers = renew(world, ("runs", 1), ("canceled", 1), ("retried", 1))

        keys = {task_id: key for key, task_id in world.ids.items()}
        assert {(keys[one.task_id], one.number, one.state, one.attempt) for one in answers} == {
            ("runs", 1, "running", 1),
            ("canceled", 1, "canceled", 1),
            ("retried", 1, "queued", 1),
        }

    def test_it_leaves_out_and_does_not_renew_what_has_ended(self, world: World) -> None:
        world.submit("a")
        world.claim("a")
        world.expire("a")
        world.tick()
        before = world.attempts("a")[0].lease_until

        assert renew(world, ("a", 1)) == []

        assert world.attempts("a")[0].lease_until == before

    def test_it_leaves_out_and_does_not_renew_what_another_worker_runs(self, world: World) -> None:
        other = world.register(new_id())
        world.submit("a")
        world.claim("a")
        before = world.attempts("a")[0].lease_until

        assert renew(world, ("a", 1), worker=other) == []

        assert world.attempts("a")[0].lease_until == before

    def test_it_leaves_out_another_attempt_of_the_same_task(self, world: World) -> None:
        world.submit("a")
        world.claim("a")

        assert renew(world, ("a", 2)) == []

    def test_it_renews_by_the_ttl_from_now(self, world: World) -> None:
        world.submit("a")
        world.claim("a", lease=timedelta(seconds=1))

        renew(world, ("a", 1))

        (attempt,) = world.attempts("a")
        assert abs(attempt.lease_until - attempt.heartbeat_at - TTL) < timedelta(seconds=1)
        assert attempt.heartbeat_at > attempt.started_at


class TestAWorkersLife:
    def test_a_beat_of_one_that_was_stopped_says_so(self, world: World) -> None:
        with world.store.write() as tx:
            moment = workers.database_time(tx)
            alive = workers.beat(tx, world.worker, clock=moment)
            workers.stop(tx, world.worker)
            stopped = workers.beat(tx, world.worker, clock=moment)

        assert (alive, stopped) == (True, False)

    def test_a_revived_one_keeps_the_row_that_it_had(self, world: World) -> None:
        world.sql("UPDATE workers SET slots = 3")
        age(world, world.worker, stopped_at=60, started_at=600, heartbeat_at=120)
        row = {"id": world.worker, "name": "w", "host": "here", "boot_id": "boot", "pid": 1, "slots": 8, "version": "0"}

        with world.store.write() as tx:
            workers.revive(tx, row)

        with world.store.read() as tx:
            (alive,) = workers.list_live(tx, within=TTL)
        assert (alive["id"], alive["slots"]) == (world.worker, 3)
        assert alive["now"] - alive["started_at"] > timedelta(minutes=9)

    def test_a_stop_is_dated_once(self, world: World) -> None:
        age(world, world.worker, stopped_at=60)

        with world.store.write() as tx:
            workers.stop(tx, world.worker)

        with world.store.read() as tx:
            now = workers.database_time(tx)
            stopped = tx.execute(table.select()).mappings().one()["stopped_at"]
        assert now - stopped > timedelta(seconds=50)

    def test_only_the_silent_ones_are_declared_dead(self, world: World) -> None:
        silent, late = world.register(new_id()), world.register(new_id())
        age(world, silent, heartbeat_at=100)
        age(world, late, heartbeat_at=80)

        with world.store.write() as tx:
            assert names(workers.list_silent(tx, after=timedelta(seconds=90))) == [silent]
            dead = workers.stop_silent(tx, after=timedelta(seconds=90))
            again = workers.stop_silent(tx, after=timedelta(seconds=90))

        assert (dead, again) == ([f"w-{silent[-4:]}"], [])

    def test_slots_of_those_that_leave_or_are_silent_do_not_count(self, world: World) -> None:
        leaving, silent, stopped = (world.register(new_id()) for _ in range(3))
        age(world, silent, heartbeat_at=31)
        with world.store.write() as tx:
            workers.drain(tx, leaving)
            workers.stop(tx, stopped)

        with world.store.read() as tx:
            assert workers.count_live_slots(tx, within=TTL) == 8
            assert set(names(workers.list_live(tx, within=TTL))) == {world.worker, leaving}

    def test_one_that_still_has_an_open_attempt_is_not_forgotten(self, world: World) -> None:
        busy, idle, young = (world.register(new_id()) for _ in range(3))
        world.submit("a")
        world.claim("a", worker=busy)
        for worker in (busy, idle):
            age(world, worker, stopped_at=3600)
        age(world, young, stopped_at=5)

        with world.store.write() as tx:
            assert workers.count_open_attempts(tx) == {busy: 1}
            number = workers.count_deletable(tx, after=timedelta(minutes=10))
            deleted = workers.delete_stopped(tx, after=timedelta(minutes=10), limit=10)

        assert (number, deleted) == (1, 1)
        assert {str(row[0]) for row in world.sql("SELECT id FROM workers")} == {world.worker, busy, young}


class TestEndedJobs:
    @pytest.mark.parametrize(
        ("outcome", "expected"),
        [
            *((Outcome.COMPLETED, True), (Outcome.FAILED, True), (Outcome.DEFERRED, True)),
            *((Outcome.LOST, False), (Outcome.HANDED_BACK, False), (None, False)),
        ],
    )
    def test_only_an_end_of_a_jobs_own_counts(self, world: World, outcome: Outcome | None, *, expected: bool) -> None:
        world.submit("a")
        world.claim("a")
        if outcome is not None:
            world.finish("a", outcome)
        idle = world.register(new_id())

        with world.store.read() as tx:
            assert workers.has_ended_a_job(tx, world.worker) is expected
            assert not workers.has_ended_a_job(tx, idle)


class TestThisHost:
    def test_only_its_own_living_rows_of_this_boot_are_named(self, world: World) -> None:
        elsewhere, before, stopped = (world.register(new_id()) for _ in range(3))
        with world.store.write() as tx:
            tx.execute(update(table).where(table.c.id == elsewhere).values(host="there"))
            tx.execute(update(table).where(table.c.id == before).values(boot_id="earlier/boot"))
            workers.stop(tx, stopped)

        with world.store.read() as tx:
            assert workers.on_host(tx, host="here", boot_id="boot") == [(world.worker, 1)]
            assert workers.by_process(tx, host="here", boot_id="boot", pid=1) == [world.worker]
            assert workers.by_process(tx, host="here", boot_id="boot", pid=2) == []
            assert sorted(workers.of_other_kernels(tx, kernel="boot")) == sorted([world.worker, elsewhere, before])
            assert sorted(workers.of_other_kernels(tx, kernel="earlier")) == sorted([world.worker, elsewhere])

    @pytest.mark.parametrize("silent_for", [0, 29, 31])
    def test_an_expired_attempt_is_named_with_its_worker_and_whether_that_is_silent(
        self, world: World, silent_for: float
    ) -> None:
        world.submit("late", "fine", "ended")
        world.claim("late", "fine", "ended")
        world.finish("ended", Outcome.COMPLETED)
        world.expire("late")
        age(world, world.worker, heartbeat_at=silent_for)

        with world.store.read() as tx:
            expired = workers.list_expired_leases(tx, world.project_id, silent_after=TTL)

        assert expired == [
            workers.ExpiredLease(
                world.ids["late"], 1, world.worker, "here", "boot", silent=silent_for > TTL.total_seconds()
            )
        ]


def test_only_open_attempts_count_and_can_be_closed_once(world: World) -> None:
    world.submit("a", "b")
    world.claim("a", "b")
    world.finish("b")
    nothing = dict.fromkeys(("exit_code", "error", "output", "log", "began"))
    closing = {"number": 1, "outcome": Outcome.CANCELED, **nothing}

    with world.store.write() as tx:
        assert attempts.count_open(tx, world.workspace, world.project_id) == 1
        pairs = [(world.ids["a"], 1), (world.ids["b"], 1), (world.ids["a"], 2)]
        assert attempts.unfinished(tx, world.workspace, pairs) == {(world.ids["a"], 1)}
        first = attempts.close_one(tx, world.workspace, {"task": world.ids["a"], **closing})
        again = attempts.close_one(tx, world.workspace, {"task": world.ids["a"], **closing})
        ended = attempts.close_one(tx, world.workspace, {"task": world.ids["b"], **closing})

    assert (first, again, ended) == ((True, []), (False, []), (False, []))
    assert world.outcomes("b") == [Outcome.COMPLETED]
