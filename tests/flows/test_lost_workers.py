"""Test the recovery of a lost worker's attempts: each is ended once, and its task continues by its state."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from coordination.base.ids import new_id
from coordination.domain.fleet.leases import MAX_LOSSES
from coordination.domain.plans.plans import Concurrency
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import TaskState
from coordination.flows.fleet.rescue_worker import rescue_silent_worker, rescue_worker
from coordination.flows.tasks.force_tasks import force_task
from coordination.services.attempts.rescue import rescue_expired
from coordination.store.engine import Store, open_store
from coordination.store.queries.tasks import attempts, runs, tasks
from coordination.store.tables.fleet.workers import workers
from coordination.store.tables.tasks.attempts import attempts as table
from tests.support.world import World

pytestmark = pytest.mark.hot_sql


def rescue(world: World, worker: str | None = None, *started: str, alone: bool = False) -> list[tuple[str, str]]:
    jobs = frozenset((world.ids[key], world.task(key).attempt) for key in started)
    return world.store.transact(lambda tx: rescue_worker(tx, worker or world.worker, started=jobs, alone=alone))


def open_run(world: World) -> bool:
    with world.store.read() as tx:
        return bool(runs.list_unfinished(tx, world.workspace, world.project_id))


class TestADeadWorker:
    def test_only_what_it_ran_is_handed_back(self, world: World) -> None:
        other = world.register(new_id())
        world.submit("a", "b", "c")
        world.claim("a", "b")
        world.claim("c", worker=other)

        touched = rescue(world, world.worker, "a", "c")

        assert touched == [(world.workspace, world.project_id)]
        assert world.states() == {"a": "queued", "b": "queued", "c": "running"}
        assert [world.task(key).losses for key in "abc"] == [1, 0, 0], "only a's job had started there"
        with world.store.read() as tx:
            rows = tx.execute(select(workers.c.id).where(workers.c.stopped_at.is_not(None))).scalars().all()
        assert rows == [world.worker]

    def test_what_it_ran_in_every_workspace_is_handed_back(self, world: World) -> None:
        other = World(world.store, name="another", project="example.org/acme/mill")
        world.submit("a")
        other.submit("b")
        world.claim("a")
        other.claim("b", worker=world.worker)

        touched = rescue(world)

        assert set(touched) == {(world.workspace, world.project_id), (other.workspace, other.project_id)}
        assert (world.states(), other.states()) == ({"a": "queued"}, {"b": "queued"})

    def test_its_late_result_changes_nothing(self, world: World) -> None:
        world.submit("a", "b < a", concurrency=Concurrency(project=2))
        world.claim("a")
        late = world.decide("a")
        rescue(world)
        assert world.claim("a") == ["a"]

        world.write(late)

        assert world.states() == {"a": "running", "b": "blocked"}
        assert world.outcomes("a") == [Outcome.LOST, None]
        assert world.used() == {"project": 1}

    def test_a_second_rescue_finds_nothing(self, world: World) -> None:
        world.submit("a", concurrency=Concurrency(project=2))
        world.claim("a")
        rescue(world, world.worker, "a")

        assert rescue(world, world.worker, "a") == []

        assert world.task("a").losses == 1
        assert world.used() == {"project": 0}

    def test_the_run_ends_when_its_last_task_has_lost_too_many_workers(self, world: World) -> None:
        world.submit("a")
        world.claim("a")
        rescue(world, world.worker, "a")
        for _ in range(MAX_LOSSES):
            assert open_run(world)
            world.claim("a")
            rescue(world, alone=True)

        assert world.states() == {"a": "failed"}
        assert not open_run(world)

    def test_more_attempts_than_one_statement_ends_are_all_handed_back(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempts, "_PAGE", 2)
        keys = [f"t{number}" for number in range(5)]
        world.submit(*keys)
        world.claim(*keys)

        rescue(world)

        assert set(world.states().values()) == {"queued"}

    def test_where_nobody_knows_what_had_started_it_is_what_has_a_process(self, world: World) -> None:
        world.submit("a", "b")
        world.claim("a", "b")
        with world.store.write() as tx:
            attempts.record_process(tx, world.workspace, world.ids["a"], 1, pgid=4, pg_start=1.0)

        world.store.transact(lambda tx: rescue_worker(tx, world.worker))

        assert [world.task(key).losses for key in "ab"] == [1, 0]

    def test_a_job_that_comes_to_an_end_of_its_own_is_suspected_no_more(self, world: World) -> None:
        world.submit("a", tasks={"a": {"max_attempts": 3}})
        world.claim("a")
        rescue(world, world.worker, "a")
        world.claim("a")
        assert world.claims["a"].losses == 1

        world.finish("a", Outcome.FAILED)

        assert world.task("a").losses == 0


class TestASilentWorker:
    """Test a silent worker, which may return at any moment: its writes are refused, and its jobs are ended first."""

    def rescue(self, world: World, end_jobs: Callable[[], object], *, worker: str | None = None) -> list[Any]:
        return world.store.transact(
            lambda tx: rescue_silent_worker(
                tx, worker or world.worker, silent_after=timedelta(seconds=30), started=None, end_jobs=end_jobs
            )
        )

    def silence(self, world: World) -> None:
        world.sql("UPDATE workers SET heartbeat_at = '2020-01-01T00:00:00.000000+00:00'")

    def test_what_it_held_of_every_project_is_lost_in_one_step(self, world: World) -> None:
        other = World(world.store, project="example.org/acme/mill")
        world.submit("a")
        other.submit("b")
        world.claim("a")
        other.claim("b", worker=world.worker, lease=timedelta(hours=1))
        self.silence(world)
        ended: list[str] = []

        touched = self.rescue(world, lambda: ended.append("jobs"))

        assert len(touched) == 2
        assert (world.outcomes("a"), other.outcomes("b")) == ([Outcome.LOST], [Outcome.LOST])
        assert ended == ["jobs"]

    def test_the_failure_that_it_reports_of_a_job_that_was_ended_is_refused(self, world: World) -> None:
        world.submit("a", tasks={"a": {"max_attempts": 1}})
        world.claim("a")
        self.silence(world)
        report = world.decide("a", Outcome.FAILED, exit_code=-9)
        with ThreadPoolExecutor(1) as pool:
            reports = []

            def end_jobs() -> None:
                reports.append(pool.submit(world.write, report))

            self.rescue(world, end_jobs)
            reports[0].result(timeout=30)

        assert (world.outcomes("a"), world.states()) == ([Outcome.LOST], {"a": "queued"})
        assert world.task("a").failures == 0

    def test_one_that_was_heard_of_meanwhile_keeps_everything(self, world: World) -> None:
        world.submit("a")
        world.claim("a")
        ended: list[str] = []

        assert self.rescue(world, lambda: ended.append("jobs")) == []

        assert (world.states(), ended) == ({"a": "running"}, [])

    def test_its_jobs_are_left_alone_while_somebody_is_at_one_of_its_attempts(self, postgres_url: str) -> None:
        store = open_store(postgres_url)
        world = World(store)
        world.submit("a", "b")
        world.claim("a", "b")
        self.silence(world)
        ended: list[str] = []
        with ThreadPoolExecutor(1) as pool, store.write() as ending:
            where = (table.c.task_id == world.ids["a"], table.c.number == 1)
            ending.execute(select(table.c.number).where(*where).with_for_update()).all()

            pool.submit(self.rescue, world, lambda: ended.append("jobs")).result(timeout=15)

        assert (world.states(), ended) == ({"a": "running", "b": "queued"}, [])
        store.close()


class TestAnExpiredLease:
    def test_a_task_that_was_canceled_stays_canceled(self, world: World) -> None:
        world.submit("a", "b")
        world.claim("a")
        world.cancel("a")
        world.expire("a")

        world.tick()

        assert world.states() == {"a": "canceled", "b": "queued"}
        assert (world.outcomes("a"), world.task("a").losses) == ([Outcome.CANCELED], 0)

    def test_a_task_that_was_retried_since_stays_queued_and_loses_nothing(self, world: World) -> None:
        world.submit("a")
        world.claim("a")
        world.cancel("a")
        world.retry("a")
        world.expire("a")
        assert world.claim("a") == [], "its job may still run"

        world.tick()

        assert (world.outcomes("a"), world.task("a").losses) == ([Outcome.CANCELED], 0)
        assert world.claim("a") == ["a"]

    def test_the_attempt_under_a_forced_state_is_closed_and_the_state_stays(self, world: World) -> None:
        world.submit("a", "b < a")
        world.claim("a")
        world.store.transact(
            lambda tx: force_task(
                tx, world.workspace, world.ids["a"], TaskState.COMPLETED, actor="ann", reason="by hand"
            )
        )
        world.expire("a")

        world.tick()

        assert world.states() == {"a": "completed", "b": "queued"}
        assert world.outcomes("a") == [Outcome.CANCELED, Outcome.COMPLETED]

    def test_only_those_of_the_project_are_ended(self, world: World) -> None:
        other = World(world.store, project="example.org/acme/mill")
        world.submit("a")
        other.submit("b")
        world.claim("a")
        other.claim("b")
        world.expire("a")
        other.expire("b")

        world.tick()

        assert (world.states(), other.states()) == ({"a": "queued"}, {"b": "running"})

    def test_more_than_one_round_takes_are_ended_in_one_tick(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempts, "_PAGE", 2)
        keys = [f"t{number}" for number in range(5)]
        world.submit(*keys)
        world.claim(*keys)
        world.expire(*keys)

        ticked = world.tick()

        assert ticked is not None
        assert sorted(ticked.rescued) == sorted(world.ids.values())
        assert set(world.states().values()) == {"queued"}

    def test_what_it_ended_is_enqueued_in_the_same_tick(self, world: World) -> None:
        world.submit("a")
        world.claim("a")
        world.expire("a")

        ticked = world.tick()

        assert ticked is not None
        assert [(item.key, item.attempt) for item in ticked.ring] == [("a", 2)]

    def test_nobody_waits_for_a_task_that_somebody_is_at(self, postgres_url: str) -> None:
        store = open_store(postgres_url)
        world = World(store)
        world.submit("a", "b")
        world.claim("a", "b")
        world.expire("a", "b")
        with ThreadPoolExecutor(1) as pool, store.write() as canceling:
            tasks.lock(canceling, world.workspace, [world.ids["a"]])

            ended = pool.submit(store.transact, lambda tx: rescue_expired(tx, world.workspace, world.project_id))
            ids = set(ended.result(timeout=15).moved_tasks)

        assert ids == {world.ids["b"]}
        store.close()

    def test_nobody_waits_for_an_end_that_is_just_being_written(self, postgres_url: str) -> None:
        store = open_store(postgres_url)
        world = World(store)
        world.submit("a", "b")
        world.claim("a", "b")
        world.expire("a", "b")
        with ThreadPoolExecutor(1) as pool, store.write() as ending:
            where = (table.c.task_id == world.ids["a"], table.c.number == 1)
            ending.execute(select(table.c.number).where(*where).with_for_update()).all()

            ended = pool.submit(store.transact, lambda tx: rescue_expired(tx, world.workspace, world.project_id))
            ids = set(ended.result(timeout=15).moved_tasks)

        assert ids == {world.ids["b"]}
        store.close()


@pytest.mark.parametrize("lost", [False, True], ids=["alive", "lost"])
def test_a_tick_gives_an_agents_place_back_only_with_the_lease(world: World, lost: bool) -> None:  # noqa: FBT001
    world.submit("a", "b", concurrency=Concurrency(agents={"bo": 1}), tasks={key: {"agent": "bo"} for key in "ab"})
    world.claim("a", lease=timedelta(minutes=5))
    if lost:
        world.expire("a")

    world.tick()

    assert world.used() == {"agent:bo": int(not lost)}
    assert world.claim("b") == (["b"] if lost else [])


def test_a_store_that_is_opened_anew_knows_the_same_leases(store_url: str, store: Store) -> None:
    world = World(store)
    world.submit("a")
    world.claim("a")
    again = open_store(store_url)
    try:
        with again.write() as tx:
            ended = rescue_expired(tx, world.workspace, world.project_id)
    finally:
        again.close()

    assert (ended.moved_tasks, world.states()) == (set(), {"a": "running"})
