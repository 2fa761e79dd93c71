"""Test ticks: one at a time per project, errors limited to their project, no stranded task, status thresholds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import update

from coordination.domain.fleet.supervisor_status import StatusThresholds
from coordination.domain.plans.plans import Concurrency
from coordination.flows.fleet import tick_supervisor as flow
from coordination.flows.plans.submit_plan import submit_plan
from coordination.store.engine import open_store
from coordination.store.queries.fleet import supervisors
from coordination.store.reports.fleet import supervision
from coordination.store.tables.fleet.workers import supervisors as table
from coordination.store.types import db_after
from tests.support.processes import until
from tests.support.world import World, plan_of

pytestmark = pytest.mark.hot_sql


def supervisor(world: World):
    with world.store.read() as tx:
        supervisor_row = supervisors.get(tx, world.workspace, world.project_id)
    assert supervisor_row is not None
    return supervisor_row


def orchestrator(world: World) -> dict:
    with world.store.read() as tx:
        return supervision.orchestrator(tx, world.workspace, world.project_id, thresholds=StatusThresholds())


def age_heartbeat(world: World, age: timedelta) -> None:
    with world.store.write() as tx:
        tx.execute(update(table).values(heartbeat_at=db_after(-age.total_seconds())))


def test_while_one_ticks_a_second_one_does_nothing(world: World) -> None:
    world.submit("a")
    with world.store.write() as tx:
        assert supervisors.begin_tick(tx, world.workspace, world.project_id, owner="first", lease=timedelta(seconds=60))

    assert world.tick("second") is None

    world.sql("UPDATE supervisors SET tick_until = heartbeat_at")
    assert [ready.key for ready in world.tick("second").ring] == ["a"], "the first one died"


def test_a_project_that_was_ticked_a_moment_ago_is_not_ticked_again_for_being_due(world: World) -> None:
    world.submit("a")
    age_heartbeat(world, timedelta(seconds=20))
    every = timedelta(seconds=5)

    assert world.tick("first", every=every) is not None
    assert world.tick("second, with the same list of what is due", every=every) is None
    assert world.tick("somebody who was nudged") is not None


def test_a_tick_that_dies_in_the_middle_holds_the_project_up_no_longer_than_its_lease(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.submit("a")

    def die(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(flow, "rescue_expired", die)
    with pytest.raises(SystemExit):
        world.tick("first", lease=timedelta(milliseconds=300))
    monkeypatch.undo()

    until(lambda: world.tick("second") is not None, within=timedelta(seconds=20), what="a tick by somebody else")


def test_a_long_tick_keeps_its_lease_unless_somebody_else_has_it_by_now(world: World) -> None:
    world.submit("a")
    lease = timedelta(seconds=60)

    def go_on() -> bool:
        with world.store.write() as tx:
            return supervisors.renew_tick(tx, world.workspace, world.project_id, owner="first", lease=lease)

    with world.store.write() as tx:
        supervisors.begin_tick(tx, world.workspace, world.project_id, owner="first", lease=timedelta(seconds=-1))
    assert go_on()
    assert world.tick("second") is None

    world.sql("UPDATE supervisors SET tick_owner = 'second'")
    assert not go_on()


def test_a_tick_whose_lease_was_lost_writes_no_heartbeat(world: World) -> None:
    world.submit("a")
    with world.store.write() as tx:
        supervisors.begin_tick(tx, world.workspace, world.project_id, owner="first", lease=timedelta(seconds=60))
    world.sql("UPDATE supervisors SET tick_owner = 'second'")

    with world.store.write() as tx:
        assert not supervisors.end_tick(
            tx, world.workspace, world.project_id, owner="first", state={"x": 1}, lifetime=timedelta(hours=4)
        )
        assert not supervisors.end(tx, world.workspace, world.project_id, owner="first", state={"x": 1}, submissions=1)
        supervisors.note_error(tx, world.workspace, world.project_id, owner="first", error="old", rest=timedelta(0))

    assert (supervisor(world).state, supervisor(world).error, supervisor(world).ended_at) == ({}, None, None)


def test_a_tick_that_fails_says_so_on_its_row_and_other_projects_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.submit("a")
    broken = world.project_id
    other = World(world.store, "default", project="example.org/acme/other")
    other.submit("b")
    age_heartbeat(world, timedelta(minutes=2))
    before = supervisor(world).heartbeat_at
    real = flow.rescue_expired

    def fails_there(tx, workspace_id, project_id):
        if project_id == broken:
            raise ValueError("a row nobody expected")
        return real(tx, workspace_id, project_id)

    monkeypatch.setattr(flow, "rescue_expired", fails_there)

    with pytest.raises(ValueError, match="nobody expected"):
        world.tick(rest=timedelta(milliseconds=300))
    assert [ready.key for ready in other.tick().ring] == ["b"]

    assert supervisor(world).error == "ValueError: a row nobody expected"
    assert supervisor(world).heartbeat_at == before
    assert not orchestrator(world)["isHealthy"]
    monkeypatch.undo()
    until(lambda: world.tick() is not None, within=timedelta(seconds=20), what="its lease was given back")
    assert supervisor(world).error is None


@pytest.mark.parametrize(
    ("age", "status"), [(0, "running"), (9.9, "running"), (10.1, "stale"), (59.9, "stale"), (60.1, "stopped")]
)
def test_the_status_follows_from_the_age_of_the_heartbeat(world: World, age: float, status: str) -> None:
    world.submit("a")

    age_heartbeat(world, timedelta(minutes=age))

    shown = orchestrator(world)
    assert shown["status"] == status
    assert shown["isRunning"] is (status == "running")
    assert shown["timeSinceLastPoll"] == pytest.approx(age * 60_000, abs=5_000)


def test_a_supervisor_that_has_ended_is_stopped_however_young_its_heartbeat(world: World) -> None:
    world.submit("a")
    world.do("a")

    assert world.tick().ended

    assert orchestrator(world)["status"] == "stopped"
    assert orchestrator(world)["completedCount"] == 1
    assert world.tick() is None


def test_a_tick_renews_the_lifetime_while_there_is_work(world: World) -> None:
    world.submit("a")
    world.sql("UPDATE supervisors SET expires_at = started_at")

    world.tick(lifetime=timedelta(hours=4))

    supervisor_row = supervisor(world)
    assert abs(supervisor_row.expires_at - supervisor_row.heartbeat_at - timedelta(hours=4)) < timedelta(seconds=5)
    assert supervisor_row.session_key == f"supervisor:shop:{world.run_id}"


def test_the_state_has_the_shape_that_dashboards_read(world: World) -> None:
    world.submit("a", "b", "c < b", "d", tasks={"b": {"agent": "bo", "title": "Bee"}})
    world.do("a")
    world.claim("b")

    world.tick()

    shown = orchestrator(world)
    assert {
        "tasksTotal": 4,
        "tasksCompleted": 1,
        "tasksInProgress": 1,
        "tasksTodo": 2,
        "nextWave": ["d"],
    }.items() <= shown["state"].items()
    (active,) = shown["activeAgents"]
    assert (active["agentId"], active["taskId"], active["taskTitle"]) == ("bo", "b", "Bee")
    assert set(active) == {"agentId", "taskId", "taskTitle", "spawnedAt", "sessionKey"}
    assert {"status", "isRunning", "isHealthy", "lastPoll", "timeSinceLastPoll", "sessionKey"} <= set(shown)


def test_work_submitted_during_the_last_tick_is_not_stranded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit("a")
    world.do("a")
    real = supervisors.end

    def submits_first(tx, workspace_id, project_id, **rest):
        # the commit of another process between the search for work and the end
        submit_plan(tx, world.workspace, plan_of("late"), world.origin())
        return real(tx, workspace_id, project_id, **rest)

    monkeypatch.setattr(supervisors, "end", submits_first)

    ticked = world.tick()

    monkeypatch.undo()
    assert not ticked.ended
    assert supervisor(world).ended_at is None
    assert [ready.key for ready in world.tick().ring] == ["late"]


def test_work_submitted_after_the_end_wakes_the_supervisor_under_a_new_key(world: World) -> None:
    world.submit("a")
    world.do("a")
    world.tick()
    old = supervisor(world).session_key

    world.submit("b")

    assert supervisor(world).ended_at is None
    assert supervisor(world).session_key != old
    assert [ready.key for ready in world.tick().ring] == ["b"]


def test_a_project_has_at_most_a_window_of_doorbells_out_the_best_first(world: World) -> None:
    keys = [f"t{n}" for n in range(20)]
    world.submit(*keys, tasks={"t9": {"priority": 9}, "t15": {"priority": 1}})

    first = [ready.key for ready in world.tick(window=5).ring]

    assert first == ["t9", "t15", "t0", "t1", "t2"]
    assert world.tick(window=5).ring == []
    world.claim("t9", "t0")
    assert [ready.key for ready in world.tick(window=5).ring] == ["t3", "t4"]


def test_a_doorbell_that_nobody_answered_is_rung_again(world: World) -> None:
    world.submit("a")
    world.tick()
    assert world.tick().ring == []

    again = world.tick(enqueue_again_after=timedelta(0)).ring

    assert [(ready.key, ready.attempt) for ready in again] == [("a", 1)]


def test_only_what_a_slot_is_free_for_is_rung(world: World) -> None:
    world.submit(
        "a",
        "b",
        "c",
        "d",
        concurrency=Concurrency(agents={"bo": 1}),
        tasks={"a": {"concurrency_key": "k"}, "b": {"concurrency_key": "k"}, "c": {"agent": "bo"}},
    )

    assert {ready.key for ready in world.tick().ring} == {"a", "c", "d"}
    world.claim("a", "c")
    assert world.tick().ring == []


def test_a_start_time_holds_a_task_back_until_it_has_come(world: World) -> None:
    from datetime import UTC, datetime

    later = datetime.now(UTC) + timedelta(hours=1)
    world.submit("a", "b < a", tasks={"b": {"not_before": later}, "a": {"not_before": later}})
    assert (world.states()["a"], world.task("a").reasons.names()) == ("blocked", ["not_before"])
    world.tick()
    assert world.claim("a") == []

    world.make_due("a")
    assert [ready.key for ready in world.tick().ring] == ["a"]
    world.do("a")

    assert world.task("b").reasons.names() == ["not_before"]
    world.make_due("b")
    world.tick()
    assert world.states()["b"] == "queued"
    assert world.story("b")[-1] == "unblocked"


def test_only_supervisors_that_live_and_rest_are_due(world: World) -> None:
    world.submit("a")
    every = timedelta(seconds=5)

    def due():
        with world.store.read() as tx:
            return supervisors.list_due(tx, every=every)

    assert due() == []
    age_heartbeat(world, timedelta(seconds=6))
    assert due() == [(world.workspace, world.project_id)]
    with world.store.write() as tx:
        supervisors.begin_tick(tx, world.workspace, world.project_id, owner="x", lease=timedelta(seconds=60))
    assert due() == []


def submitted_to(world: World, *names: str) -> list[str]:
    """Return the ids of projects with open work, the one that has waited longest first."""
    matches = []
    for age, name in enumerate(reversed(names)):
        project_id = world.submit("a", origin=world.origin(identity=f"local:{name}", name=name)).project_id
        with world.store.write() as tx:
            tx.execute(update(table).where(table.c.project_id == project_id).values(heartbeat_at=db_after(-20.0 - age)))
        matches.insert(0, project_id)
    return matches


def take(world: World, owner: str = "me") -> str | None:
    with world.store.write() as tx:
        begun = supervisors.begin_due_tick(tx, every=timedelta(seconds=5), owner=owner, lease=timedelta(seconds=60))
    return begun and begun.project_id


def test_who_has_waited_longest_is_ticked_first_and_nobody_twice(world: World) -> None:
    wanted = submitted_to(world, "oldest", "middle", "newest")

    assert [take(world) for _ in range(4)] == [*wanted, None]


def test_a_project_that_fails_each_time_lets_others_have_their_turn(world: World) -> None:
    broken, healthy = submitted_to(world, "broken", "healthy")
    assert take(world) == broken
    with world.store.write() as tx:
        supervisors.note_error(tx, world.workspace, broken, owner="me", error="no", rest=timedelta(seconds=60))

    assert [take(world), take(world)] == [healthy, None]
    world.sql("UPDATE supervisors SET tick_until = heartbeat_at")
    assert take(world) == broken


def test_many_at_once_share_what_is_due_among_them(world: World) -> None:
    wanted = submitted_to(world, *[f"p{number}" for number in range(24)])

    def walk(owner: str) -> list[str]:
        return list(iter(lambda: take(world, owner), None))

    with ThreadPoolExecutor(6) as pool:
        results = [project for each in pool.map(walk, "abcdef") for project in each]

    assert sorted(results) == sorted(wanted)


def test_nobody_waits_for_who_is_about_to_tick_another_project(postgres_url: str) -> None:
    """Tick without waiting: SQLite has one writer at a time."""
    store = open_store(postgres_url)
    world = World(store)
    first, second = submitted_to(world, "first", "second")
    with store.write() as tx:
        begun = supervisors.begin_due_tick(tx, every=timedelta(0), owner="slow", lease=timedelta(seconds=60))
        assert begun is not None
        assert begun.project_id == first

        assert take(world) == second
    store.close()


def test_a_run_whose_closer_died_is_closed_by_the_tick(world: World) -> None:
    world.submit("a")
    world.claim("a")
    world.sql("UPDATE tasks SET state = 'completed', finished_at = updated_at")
    world.sql("UPDATE attempts SET outcome = 'completed', finished_at = started_at")

    assert world.tick().closed_runs == [world.run_id]


def test_doorbells_that_nobody_answered_do_not_keep_the_window_full(world: World) -> None:
    """Count each task as a message when its worker, which had enqueued many short jobs, has died."""
    world.submit(*[f"t{number}" for number in range(40)])
    first = world.tick(bundle=lambda _kind: 64)
    assert first is not None
    assert len(first.ring) == 40

    again = world.tick(window=8, bundle=lambda _kind: 1, enqueue_again_after=timedelta(0))

    assert again is not None
    assert [item.key for item in again.ring] == [f"t{number}" for number in range(8)]
    assert world.sql("SELECT count(*) FROM tasks WHERE enqueued_at IS NOT NULL")[0][0] == 8
