"""Test that a process's clock decides nothing: leases, waits and marks are judged alike with an hour of error.

PostgreSQL has its own clock. On SQLite the database's clock is that of the machine (``utc_now()`` in SQL): there, the
clock that Python reads is wrong, and the clock that the store reads is right.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta, tzinfo

import pytest

from coordination.domain.tasks.attempts import Outcome
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.projects import retain
from coordination.store.queries.fleet import supervisors, workers
from coordination.store.queries.money import costs
from coordination.store.queries.tasks import claims, ready
from tests.support.world import LEASE, World

pytestmark = pytest.mark.hot_sql

# The place where the store reads the machine's clock for SQLite.
CLOCK_OF_SQLITE = {
    "coordination.store.engine",
    "coordination.store.queries.tasks.claims",
    "coordination.store.queries.tasks.attempts",
    "coordination.store.queries.jobs.output",
    "coordination.store.queries.tasks.ready",
}
REAL = datetime


@pytest.fixture(params=[timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
def off(request: pytest.FixtureRequest, world: World, monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """Set how wrong this process's clock is; every module that reads it gets the wrong time."""
    wrong: timedelta = request.param

    class Off(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return REAL.now(tz) + wrong

    right = CLOCK_OF_SQLITE if world.store.dialect == "sqlite" else set()
    for name, module in list(sys.modules.items()):
        if not name.startswith(("coordination.", "workers.")) or name in right:
            continue
        if vars(module).get("datetime") is datetime:
            monkeypatch.setattr(module, "datetime", Off)
        if "utc_now" in vars(module) and name != "coordination.base.clock":
            monkeypatch.setattr(module, "utc_now", lambda: REAL.now(UTC) + wrong)
    return wrong


def remaining(world: World, key: str) -> timedelta:
    """Return how long the lease of a task's latest attempt is still valid, by the database's clock."""
    with world.store.read() as tx:
        now = workers.database_time(tx)
    until = world.attempts(key)[-1].lease_until
    assert until is not None
    return until - now


@pytest.mark.usefixtures("off")
class TestLeases:
    def test_a_lease_that_lasts_is_not_taken_away(self, world: World) -> None:
        world.submit("a")
        world.claim("a")

        ticked = world.tick()

        assert ticked is not None
        assert (ticked.rescued, world.states()) == ([], {"a": "running"})

    def test_a_lease_that_ran_out_is_taken_away_at_once(self, world: World) -> None:
        world.submit("a")
        world.claim("a")
        world.expire("a")

        ticked = world.tick()

        assert ticked is not None
        assert (ticked.rescued, world.outcomes("a")) == ([world.ids["a"]], [Outcome.LOST])

    def test_a_claim_has_its_whole_lease(self, world: World) -> None:
        world.submit("a", "b", tasks={"b": {"concurrency_key": "k"}})
        world.claim("a", "b")

        for key in "ab":
            assert LEASE - timedelta(seconds=20) < remaining(world, key) <= LEASE

    def test_a_renewal_gives_the_whole_lease_again(self, world: World) -> None:
        world.submit("a")
        world.claim("a")
        world.expire("a")

        with world.store.write() as tx:
            workers.renew(tx, world.worker, [(world.ids["a"], 1)], ttl=LEASE)

        assert LEASE - timedelta(seconds=20) < remaining(world, "a") <= LEASE

    def test_what_a_dead_worker_ran_is_handed_back_whatever_its_leases_say(self, world: World) -> None:
        world.submit("a")
        world.claim("a", lease=timedelta(days=1))

        world.store.transact(lambda tx: rescue_worker(tx, world.worker))

        assert world.outcomes("a") == [Outcome.LOST]


@pytest.mark.usefixtures("off")
class TestWorkers:
    def test_one_that_was_heard_of_just_now_is_not_declared_dead(self, world: World) -> None:
        with world.store.write() as tx:
            assert workers.beat(tx, world.worker, clock=REAL.now(UTC))
            assert workers.stop_silent(tx, after=timedelta(seconds=90)) == []
            assert workers.count_live_slots(tx, within=timedelta(seconds=30)) == 8

    def test_one_that_is_silent_is_declared_dead(self, world: World) -> None:
        world.sql("UPDATE workers SET heartbeat_at = '2020-01-01T00:00:00.000000+00:00'")

        with world.store.write() as tx:
            assert workers.count_live_slots(tx, within=timedelta(seconds=30)) == 0
            assert len(workers.stop_silent(tx, after=timedelta(seconds=90))) == 1

    def test_only_the_leases_that_ran_out_are_named(self, world: World) -> None:
        world.submit("a", "b")
        world.claim("a", "b")
        world.expire("a")

        with world.store.read() as tx:
            expired = workers.list_expired_leases(tx, world.project_id, silent_after=timedelta(seconds=30))

        assert [(one.task_id, one.silent) for one in expired] == [(world.ids["a"], False)]


@pytest.mark.usefixtures("off")
class TestWaits:
    def test_a_back_off_ends_neither_early_nor_late(self, world: World) -> None:
        world.submit("a", tasks={"a": {"max_attempts": 3}})
        world.do("a", outcome=Outcome.FAILED, error="no")
        assert world.claim("a") == []
        assert world.tick().ring == []  # type: ignore[union-attr]

        world.make_due("a")

        assert [item.key for item in world.tick().ring] == ["a"]  # type: ignore[union-attr]
        assert world.claim("a") == ["a"]

    def test_a_limited_task_that_backs_off_is_not_claimed_early(self, world: World) -> None:
        world.submit("a", tasks={"a": {"max_attempts": 3, "concurrency_key": "k"}})
        world.do("a", outcome=Outcome.FAILED, error="no")
        with world.store.write() as tx:
            assert claims.lock_candidates(tx, world.workspace, [world.ids["a"]], held_if=()) == []

        world.make_due("a")

        assert world.claim("a") == ["a"]

    def test_a_mark_ages_by_the_databases_clock(self, world: World) -> None:
        world.submit("a")
        world.tick()

        with world.store.write() as tx:
            young = ready.unmark_stale(tx, world.workspace, world.project_id, age=timedelta(seconds=20))
            old = ready.unmark_stale(tx, world.workspace, world.project_id, age=timedelta(seconds=-1))

        assert (young, old) == (0, 1)

    def test_a_tick_holds_its_project_for_its_lease_and_no_longer(self, world: World) -> None:
        world.submit("a")
        with world.store.write() as tx:
            supervisors.begin_tick(tx, world.workspace, world.project_id, owner="one", lease=timedelta(seconds=60))
        assert world.tick("another") is None

        world.sql("UPDATE supervisors SET tick_until = '2020-01-01T00:00:00.000000+00:00'")

        assert world.tick("another") is not None

    def test_a_project_is_due_when_its_last_tick_is_long_enough_ago(self, world: World) -> None:
        world.submit("a")
        world.tick()
        with world.store.read() as tx:
            assert supervisors.list_due(tx, every=timedelta(seconds=20)) == []

        world.sql("UPDATE supervisors SET heartbeat_at = '2020-01-01T00:00:00.000000+00:00'")

        with world.store.read() as tx:
            assert supervisors.list_due(tx, every=timedelta(seconds=20)) == [(world.workspace, world.project_id)]


def test_the_wrong_clock_is_what_a_process_sees(world: World, off: timedelta) -> None:
    """Check the fixture itself: otherwise the tests above would check nothing."""
    with world.store.read() as tx:
        database = workers.database_time(tx)

    assert abs(retain.utc_now() - database - off) < timedelta(seconds=20)
    assert abs(costs.datetime.now(UTC) - database - off) < timedelta(seconds=20)
