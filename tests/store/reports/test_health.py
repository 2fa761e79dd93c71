"""Test the health report: each way to be stuck or inconsistent is created by hand, reported, and fixed."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest

from coordination.base.clock import utc_now
from coordination.domain.fleet.health import Finding, shorten_list
from coordination.domain.fleet.supervisor_status import StatusThresholds
from coordination.domain.plans.plans import Concurrency
from coordination.domain.tasks.tasks import OnDependencyFailure, TaskState
from coordination.flows.projects.change_project import pause_project
from coordination.flows.tasks.force_tasks import force_task
from coordination.store.queries.fleet import supervisors, workers
from coordination.store.reports.fleet import health
from coordination.store.reports.fleet.health import HealthThresholds
from tests.support.world import World

PATIENCE = HealthThresholds(stuck=timedelta(seconds=60), lease=timedelta(seconds=30), late=timedelta(seconds=15))
LONG_AGO = "'2020-01-01T00:00:00.000000+00:00'"


def findings(world: World, *, messages: int | None = 0) -> list[Finding]:
    with world.store.read() as tx:
        return [
            *health.silent_workers(tx, patience=PATIENCE),
            *health.skewed_clocks(tx, patience=PATIENCE, apart=timedelta(seconds=2), besides="mine"),
            *health.unserved_queue(tx, world.workspace, patience=PATIENCE, messages=messages),
            *health.find_problems(tx, world.workspace, patience=PATIENCE, thresholds=StatusThresholds()),
        ]


def codes(world: World) -> list[str]:
    return [finding.code for finding in findings(world)]


def age(world: World, **columns: str) -> None:
    for table, column in columns.items():
        world.sql(f"UPDATE {table} SET {column} = {LONG_AGO}")  # noqa: S608 - names from this file


@pytest.fixture
def busy(world: World) -> World:
    """Provide a store with rows of every kind, and no problem."""
    world.submit(
        "done",
        "runs",
        "ready",
        "waits < runs",
        "failed",
        "stays < failed",
        concurrency=Concurrency(project=3),
        tasks={"stays": {"on_dependency_failure": OnDependencyFailure.BLOCK}},
    )
    world.do("done")
    world.fail("failed")
    world.claim("runs")
    world.tick()
    return world


def test_nothing_is_found_where_nothing_is_wrong(busy: World) -> None:
    assert findings(busy) == []


def test_nothing_is_found_in_work_that_only_waits(busy: World) -> None:
    age(busy, tasks="updated_at")
    busy.sql("UPDATE tasks SET enqueued_at = NULL")

    assert findings(busy) == [], "its project's other task runs, so its turn may come"


def test_a_project_on_hold_is_not_stuck(world: World) -> None:
    world.submit("a", "b")
    world.tick()
    with world.store.write() as tx:
        pause_project(tx, world.workspace, world.project_id)
    age(world, tasks="updated_at")
    world.sql(f"UPDATE tasks SET enqueued_at = {LONG_AGO}")  # noqa: S608

    assert findings(world) == []


def not_rung(world: World) -> None:
    world.cancel("waits")
    world.finish("runs")
    world.sql("UPDATE tasks SET enqueued_at = NULL")
    age(world, tasks="updated_at")


def not_claimed(world: World) -> None:
    world.sql(f"UPDATE tasks SET enqueued_at = {LONG_AGO}, updated_at = {LONG_AGO} WHERE key = 'ready'")  # noqa: S608


def without_attempt(world: World) -> None:
    world.sql("UPDATE attempts SET finished_at = started_at, outcome = 'lost' WHERE finished_at IS NULL")
    world.sql("UPDATE slots SET used = 0")


def blocked_without_count(world: World) -> None:
    world.sql("UPDATE tasks SET pending = 0 WHERE key = 'waits'")


def blocked_without_edge(world: World) -> None:
    world.sql("UPDATE dependencies SET satisfied_at = :now WHERE satisfied_at IS NULL", now="2026-01-01T00:00:00+00:00")
    world.sql("UPDATE tasks SET state = 'canceled', reasons = 0, finished_at = created_at WHERE key = 'stays'")


def start_time_is_over(world: World) -> None:
    world.sql(f"UPDATE tasks SET state = 'blocked', reasons = 64, not_before = {LONG_AGO} WHERE key = 'ready'")  # noqa: S608


def paused_without_hold(world: World) -> None:
    world.sql("UPDATE tasks SET state = 'blocked', reasons = 16 WHERE key = 'ready'")
    age(world, tasks="updated_at")


def run_ended_too_early(world: World) -> None:
    world.sql("UPDATE runs SET finished_at = created_at")


def run_never_closed(world: World) -> None:
    world.finish("runs")
    world.cancel_run(world.run_id)
    world.sql("UPDATE runs SET finished_at = NULL")
    age(world, runs="created_at", tasks="finished_at")


def lease_is_over(world: World) -> None:
    age(world, attempts="lease_until")


def supervisor_fails(world: World) -> None:
    with world.store.write() as tx:
        supervisors.begin_tick(tx, world.workspace, world.project_id, owner="x", lease=timedelta(seconds=9))
        supervisors.note_error(
            tx, world.workspace, world.project_id, owner="x", error="KeyError: 'wave'", rest=timedelta(0)
        )


def supervisor_sleeps(world: World) -> None:
    age(world, supervisors="heartbeat_at")


def supervisor_is_gone(world: World) -> None:
    age(world, supervisors="ended_at")


def slots_leak(world: World) -> None:
    world.sql("UPDATE slots SET used = 3")


def worker_is_silent(world: World) -> None:
    other = world.register("0" * 8 + world.worker[8:])
    world.sql(f"UPDATE workers SET heartbeat_at = {LONG_AGO} WHERE id = :id", id=other)  # noqa: S608


def clock_is_wrong(world: World) -> None:
    with world.store.write() as tx:
        assert workers.beat(tx, world.worker, clock=utc_now() - timedelta(hours=1))


def nobody_is_there(world: World) -> None:
    age(world, workers="stopped_at")


WRONG: dict[Callable[[World], None], tuple[str, str, str]] = {
    not_rung: ("task_not_enqueued", "task ready of shop", "coord worker"),
    not_claimed: ("task_not_claimed", "task ready of shop", "coord status"),
    without_attempt: ("task_without_attempt", "task runs of shop", "coord tasks force runs queued --run"),
    blocked_without_count: ("task_blocked_by_nothing", "task waits of shop", "coord tasks force waits queued"),
    blocked_without_edge: ("task_blocked_by_nothing", "task waits of shop", "coord tasks force waits queued"),
    start_time_is_over: ("task_blocked_by_nothing", "task ready of shop", "coord tasks force ready queued"),
    paused_without_hold: ("task_blocked_by_nothing", "task ready of shop", "coord tasks force ready queued"),
    run_ended_too_early: ("task_of_ended_run", "task ready of shop", "coord tasks force ready queued"),
    run_never_closed: ("run_not_closed", "of shop", "coord resume"),
    lease_is_over: ("lease_past_due", "task runs, attempt 1", "coord worker"),
    supervisor_fails: ("supervisor_failing", "supervisor of shop", "workers' logs"),
    supervisor_sleeps: ("supervisor_stopped", "supervisor of shop", "coord worker"),
    supervisor_is_gone: ("supervisor_missing", "supervisor of shop", "coord resume"),
    slots_leak: ("slot_counter", "limit project of shop", "recounts"),
    clock_is_wrong: ("clock_skew", "clock of here", "NTP"),
    worker_is_silent: ("worker_silent", "on here", "coord worker"),
    nobody_is_there: ("queue_without_workers", "queue jobs", "coord up"),
}


@pytest.mark.parametrize("sabotage", WRONG)
def test_each_thing_that_is_wrong_is_found_and_named_and_nothing_else(
    busy: World, sabotage: Callable[[World], None]
) -> None:
    sabotage(busy)

    (finding,) = findings(busy)

    code, subject, hint = WRONG[sabotage]
    assert finding.code == code
    assert subject in finding.subject
    assert hint in finding.hint
    assert finding.wrong


def test_a_failing_supervisor_says_since_when_and_with_what(busy: World) -> None:
    age(busy, supervisors="heartbeat_at")
    supervisor_fails(busy)

    (finding,) = findings(busy)

    assert "KeyError: 'wave'" in finding.sentence
    assert finding.since is not None
    assert finding.since.year == 2020


@pytest.mark.parametrize(
    "sabotage", [without_attempt, blocked_without_count, blocked_without_edge, start_time_is_over, run_ended_too_early]
)
def test_what_the_hint_says_mends_it(busy: World, sabotage: Callable[[World], None]) -> None:
    sabotage(busy)
    (finding,) = findings(busy)
    key = finding.subject.split()[1]

    busy.store.transact(
        lambda tx: force_task(tx, busy.workspace, busy.ids[key], TaskState.QUEUED, actor="ann", reason="as told")
    )
    busy.tick()

    assert findings(busy) == []


def test_of_many_stuck_tasks_a_few_are_named_and_the_others_counted(world: World) -> None:
    world.submit(*[f"t{number}" for number in range(12)])
    age(world, tasks="updated_at")

    mine = findings(world)

    assert [finding.code for finding in mine] == ["task_not_enqueued"] * 6
    assert mine[-1].subject == "7 more tasks"


def test_of_one_machine_the_clock_that_is_furthest_off_is_told_once(busy: World) -> None:
    for number, ahead in enumerate([3, 90, -20]):
        other = busy.register(f"{number:08x}{busy.worker[8:]}")
        with busy.store.write() as tx:
            assert workers.beat(tx, other, clock=utc_now() + timedelta(seconds=ahead))
    with busy.store.write() as tx:
        assert workers.beat(tx, busy.worker, clock=utc_now())

    (finding,) = findings(busy)

    assert re.fullmatch(
        r"The clock of 3 workers there, at the last heartbeat, is (89|90)\.\d s ahead of the database's",
        finding.sentence,
    )
    busy.sql("UPDATE workers SET host = 'mine'")
    assert findings(busy) == []


def test_messages_that_nobody_can_take_are_found_without_any_task(world: World) -> None:
    nobody_is_there(world)

    (finding,) = findings(world, messages=3)

    assert finding.sentence == "3 messages wait in Redis, and no worker is alive"
    assert findings(world, messages=None) == []


def test_attempts_that_have_ended_are_told_from_those_that_never_were(busy: World) -> None:
    done, runs = (busy.ids["done"], 1), (busy.ids["runs"], 1)

    with busy.store.read() as tx:
        ended, existing = health.ended_attempts(
            tx, busy.workspace, [done, runs, (busy.ids["done"], 9)], patience=timedelta(seconds=-1)
        )

    assert ended == {done}
    assert existing == {done, runs}


def test_some_names_a_few_and_counts_the_rest() -> None:
    assert shorten_list(["a", "b"], 2) == "a, b"
    assert shorten_list(["a", "b", "c"], 9, most=2) == "a, b and 7 more"
