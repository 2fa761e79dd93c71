"""Test submissions: everything or nothing, large graphs in time, sessions, projects, limits, and the stored rows."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from coordination.base.errors import NotFound, PlanError, Refused
from coordination.domain.plans.plans import Concurrency, Defaults, Plan, Task
from coordination.domain.projects.projects import ProjectStatus
from coordination.flows.plans import submit_plan as flow
from coordination.services.projects import projects as project_service
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import runs
from coordination.store.tables import metadata
from coordination.store.tables.tasks.tasks import tasks
from tests.support.refusals import refuses
from tests.support.speed import patience
from tests.support.world import World, plan_of


def counts(world: World) -> dict[str, int]:
    with world.store.read() as tx:
        return {
            name: tx.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in metadata.tables.items()
        }


def test_when_the_last_statement_fails_nothing_is_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = counts(world)

    def fails(*_args, **_settings):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(flow.supervisors, "ensure", fails)

    with pytest.raises(RuntimeError, match="out of luck"):
        world.submit("a", "b < a", tasks={"a": {"concurrency_key": "k"}})

    assert counts(world) == before


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        (("a < b", "b < a"), "tasks.a.needs"),
        (("a < ghost",), "tasks.a.needs"),
        (("a", "a"), "tasks.a.key"),
        (("a", "b < a a"), "tasks.b.needs"),
        ((), "tasks"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_and_nothing_is_stored(world: World, lines, field: str | None) -> None:
    before = counts(world)

    with refuses(PlanError, field=field):
        world.submit(*lines)

    assert counts(world) == before


def test_a_plan_of_ten_thousand_tasks_is_stored_in_time(world: World) -> None:
    size = 10_000
    plan = Plan(
        [
            Task(
                f"t{n}",
                run={"shell": "true"},
                needs=[f"t{n - gap}" for gap in (1, 50) if n - gap >= 0 and n % 100],
            )
            for n in range(size)
        ]
    )
    edges = sum(len(task.needs) for task in plan.tasks)
    began = time.monotonic()

    world.submit_plan(plan)

    assert time.monotonic() - began < patience(20)
    stored = counts(world)
    assert (stored["tasks"], stored["dependencies"]) == (size, edges)
    assert edges > 14_000
    assert world.open_edges() == edges
    ready = world.sql("SELECT count(*) FROM tasks WHERE state = 'queued'")[0][0]
    assert ready == sum(not task.needs for task in plan.tasks)


def test_a_task_is_stored_as_its_author_wrote_it(world: World) -> None:
    due = datetime(2027, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    world.submit(
        "p",
        "a < p",
        tasks={
            "a": {
                "title": "Title",
                "parent": "p",
                "priority": 7,
                "due": due,
                "agent": "bo",
                "input": {"z": 1, "a": [None, 1.5]},
                "max_attempts": 4,
                "timeout": timedelta(seconds=90),
                "stall_timeout": timedelta(seconds=9),
                "repeatable": False,
                "concurrency_key": "k",
            }
        },
        defaults=Defaults(agent="cy", max_attempts=2),
    )

    task = world.task("a")

    assert (task.title, task.parent_id, task.priority, task.due_at) == ("Title", world.ids["p"], 7, due)
    assert (task.creator, task.agent, world.task("p").agent) == ("ann", "bo", "cy")
    assert (task.max_attempts, world.task("p").max_attempts) == (4, 2)
    assert (task.timeout, task.stall_timeout, task.repeatable) == (timedelta(seconds=90), timedelta(seconds=9), False)
    assert list(task.input.items()) == [("z", 1), ("a", [None, 1.5])]
    assert (task.pending, task.attempt, task.state) == (1, 0, "blocked")


def test_every_task_is_written_down_as_created_and_assigned(world: World) -> None:
    world.submit("a", "b", tasks={"b": {"agent": "bo"}})

    assert world.story("a") == ["created"]
    assert world.story("b") == ["created", "assigned"]


def test_limits_hold_for_the_project_from_now_on(world: World) -> None:
    world.submit("a", concurrency=Concurrency(project=5, keys={"x": 2}), tasks={"a": {"concurrency_key": "y"}})
    with world.store.read() as tx:
        from coordination.store.queries.tasks import slots

        assert slots.count_free(tx, world.workspace, world.project_id) == {"project": 5, "key:x": 2, "key:y": 1}
    world.claim("a")

    world.submit("b", concurrency=Concurrency(keys={"y": 3}), tasks={"b": {"concurrency_key": "x"}})

    with world.store.read() as tx:
        assert slots.count_free(tx, world.workspace, world.project_id) == {"project": 4, "key:x": 2, "key:y": 2}


def test_runs_of_a_project_share_its_ongoing_session(world: World) -> None:
    def session(run_id: str) -> str:
        with world.store.read() as tx:
            return runs.get(tx, world.workspace, run_id).session_id

    first = session(world.submit("a").run_id)
    second = session(world.submit("b").run_id)
    agents = session(world.submit("c", defaults=Defaults(agent="bo")).run_id)
    named = session(world.submit("d", session=agents).run_id)

    assert first == second != agents == named


@pytest.mark.parametrize("session", ["nonsense", "0190d6f0-0000-7000-8000-000000000000"])
def test_a_session_that_is_not_the_projects_is_refused(world: World, session: str) -> None:
    with refuses(NotFound):
        world.submit("a", session=session)

    assert counts(world)["projects"] == 0


def test_the_session_of_another_project_is_refused(world: World) -> None:
    other = World(world.store, "default", project="example.org/acme/other")
    other.submit("x")
    with world.store.read() as tx:
        foreign = runs.get(tx, other.workspace, other.run_id).session_id

    with refuses(NotFound):
        world.submit("a", session=foreign)


def test_a_project_is_found_again_by_its_other_name(world: World) -> None:
    first = world.submit("a")
    with world.store.write() as tx:
        project = projects.get(tx, world.workspace, first.project_id)
        project_service.rename_remote(tx, world.workspace, project, "example.org/new/shop")

    again = world.submit("b", origin=world.origin(identity="example.org/new/shop"))

    assert again.project_id == first.project_id
    assert counts(world)["projects"] == 1


def test_an_archived_project_takes_no_work_until_it_is_activated(world: World) -> None:
    first = world.submit("a")
    with world.store.write() as tx:
        project_service.set_status(tx, world.workspace, first.project_id, ProjectStatus.ARCHIVED)
    before = counts(world)

    with refuses(Refused):
        world.submit("b")

    assert counts(world) == before


def test_work_makes_a_completed_project_active_again(world: World) -> None:
    first = world.submit("a")
    with world.store.write() as tx:
        project_service.set_status(tx, world.workspace, first.project_id, ProjectStatus.COMPLETED)

    world.submit("b")

    with world.store.read() as tx:
        assert projects.get(tx, world.workspace, first.project_id).status is ProjectStatus.ACTIVE


def test_the_same_plan_submitted_twice_is_two_runs(world: World) -> None:
    plan = plan_of("a", "b < a")

    first, second = world.submit_plan(plan), world.submit_plan(plan)

    assert first.run_id != second.run_id
    assert first.project_id == second.project_id
    assert not set(first.task_ids.values()) & set(second.task_ids.values())


def stored(world: World, key: str) -> tuple[dict, str]:
    with world.store.read() as tx:
        return tuple(tx.execute(select(tasks.c.options, tasks.c.kind).where(tasks.c.id == world.ids[key])).one())


class TestWorkspacesAndGates:
    def test_a_task_carries_its_workspace_and_all_gates_that_apply(self, world: World) -> None:
        world.submit("x")
        with world.store.write() as tx:
            project = project_service.find(tx, world.workspace, "shop")
            project_service.amend(tx, world.workspace, project, merged={"settings": {"gates": ["of project"]}})

        submitted = world.submit(
            "a",
            "b",
            "c",
            tasks={"a": {"gates": ["of task", "of plan"]}, "b": {"checkout": "folder"}, "c": {"checkout": "folder"}},
            defaults=Defaults(checkout={"kind": "git-worktree", "base": "main"}),
            gates=["of plan"],
        )

        options, kind = stored(world, "a")
        assert options["checkout"] == {"kind": "git-worktree", "base": "main"}
        assert options["gates"] == ["of project", "of plan", "of task"]
        assert kind == "shell:true in a worktree"
        assert stored(world, "b") == ({}, "shell:true")
        with world.store.read() as tx:
            run = runs.get(tx, world.workspace, submitted.run_id)
        assert run is not None
        assert run.branch == f"coord/{submitted.run_id[-12:]}/run"

    def test_a_run_without_worktrees_has_no_branch(self, world: World) -> None:
        submitted = world.submit("a", tasks={"a": {"gates": ["make"]}})

        with world.store.read() as tx:
            run = runs.get(tx, world.workspace, submitted.run_id)
        assert run is not None
        assert run.branch is None
        assert stored(world, "a") == ({"gates": ["make"]}, "shell:true")

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"checkout": "worktree"}, "tasks.a.checkout"),
            ({"gates": [""]}, "tasks.a.gates"),
        ],
    )
    def test_what_cannot_be_is_refused(self, world: World, fields: dict, field: str | None) -> None:
        with refuses(PlanError, field=field):
            world.submit("a", tasks={"a": fields})
