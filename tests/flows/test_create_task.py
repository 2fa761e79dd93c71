"""Test that a person adds one task to an existing run."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from coordination.base.errors import NotFound, PlanError, Refused
from coordination.base.ids import new_id
from coordination.domain.agents.agents import Profile
from coordination.domain.plans.plans import Supervision, Task
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import TaskState
from coordination.flows.tasks.create_task import CreatedTask, create_task
from coordination.services.agents import agents
from coordination.store.queries.tasks import events, runs, slots, tasks
from tests.support.processes import until
from tests.support.refusals import refuses
from tests.support.world import World

SHELL = {"shell": "true"}


def create(world: World, task: Task, *, run: str | None = None) -> CreatedTask:
    created = world.store.transact(
        lambda tx: create_task(tx, world.workspace, run or world.run_id, task, actor="user:ann")
    )
    with world.store.read() as tx:
        world.ids |= {one.key: one.id for one in tasks.of_run(tx, world.workspace, world.run_id)}
    return created


def story(world: World) -> list[tuple[EventType, str | None]]:
    with world.store.read() as tx:
        return [(one.type, one.actor) for one in events.tail(tx, world.workspace, run_id=world.run_id)]


def test_it_is_a_task_of_the_run_like_those_of_the_plan(world: World) -> None:
    world.submit("a")

    created = create(world, Task("x", SHELL, title="More", priority=3, concurrency_key="db"))

    task = world.task("x")
    assert (task.id, task.state, task.title, task.priority) == (created.task_id, TaskState.QUEUED, "More", 3)
    assert (task.creator, task.workdir, created.ready, created.reopened) == ("user:ann", "/srv/shop", 1, False)
    assert (EventType.CREATED, "user:ann") in story(world)
    with world.store.read() as tx:
        assert [(one["name"], one["cap"]) for one in slots.list_slots(tx, world.workspace, world.project_id)] == [
            ("key:db", 1)
        ]
    world.do("a", "x")


def test_it_waits_for_what_it_needs_that_is_open(world: World) -> None:
    world.submit("a", "b")
    world.do("a")

    create(world, Task("x", SHELL, needs=["a", "b"]))

    assert (world.task("x").state, world.task("x").pending) == (TaskState.BLOCKED, 1)
    world.do("b", "x")
    assert world.task("x").state is TaskState.COMPLETED


def test_a_run_that_has_ended_goes_on_with_it(world: World) -> None:
    world.submit("a")
    world.do("a")

    assert create(world, Task("x", SHELL, needs=["a"])).reopened

    assert EventType.RUN_REOPENED in [type_ for type_, _ in story(world)]
    world.do("x")
    with world.store.read() as tx:
        run = runs.get(tx, world.workspace, world.run_id)
    assert run is not None
    assert run.finished_at is not None


def test_it_is_given_to_an_agent_and_supervised_as_the_run_is(world: World) -> None:
    world.store.transact(lambda tx: agents.create(tx, world.workspace, Profile("bob", runner={"agent": "codex"})))
    world.submit("a", supervision=Supervision(analyze={"agent": "claude"}))

    create(world, Task("x", {"agent": "bob", "prompt": "Look"}, variants=(), checkout="git-worktree"))

    assert (world.task("x/work").agent, world.task("x").work["agent"]) == ("bob", "claude")
    with world.store.read() as tx:
        assert "branch" in runs.metadata_of(tx, world.workspace, world.run_id)


@pytest.mark.parametrize(
    ("task", "before", "field"),
    [
        (Task("a", SHELL), (), None),
        (Task("a b", SHELL), (), "tasks.a b.key"),
        (Task("x", SHELL, needs=["nothing"]), (), "tasks.x.needs"),
        (Task("x", SHELL, needs=["x"]), (), "tasks.x.needs"),
        (Task("x", SHELL, needs=["a"]), ("a",), None),
        (Task("x", {"agent": "nobody", "prompt": "y"}), (), "tasks.x.run.agent"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_stored(
    world: World, task: Task, before: tuple[str, ...], field: str | None
) -> None:
    world.submit("a")
    world.fail(*before)
    report = story(world)

    with refuses(PlanError if field else Refused, field=field):
        create(world, task)

    with world.store.read() as tx:
        assert [one.key for one in tasks.of_run(tx, world.workspace, world.run_id)] == ["a"]
    assert story(world) == report


def test_a_run_that_is_none_is_said(world: World) -> None:
    world.submit("a")
    with pytest.raises(NotFound):
        create(world, Task("x", SHELL), run=new_id())


@pytest.mark.stores("postgres")
def test_of_two_persons_who_add_the_same_key_at_once_the_second_is_told(world: World) -> None:
    world.submit("a")
    errors: list[BaseException] = []

    def second() -> None:
        try:
            create(world, Task("x", SHELL))
        except BaseException as error:  # noqa: BLE001 - checked below
            errors.append(error)

    other = threading.Thread(target=second)
    with world.store.write() as tx:
        create_task(tx, world.workspace, world.run_id, Task("x", SHELL), actor="user:bob")
        other.start()
        until(lambda: waits_for_a_lock(world), what="the second one")
    other.join(timeout=60)

    assert [type(error) for error in errors] == [Refused]
    assert "has a task 'x' already" in str(errors[0])


def waits_for_a_lock(world: World) -> bool:
    with world.store.read() as tx:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(tx.execute(text(waiting)).scalar_one())
