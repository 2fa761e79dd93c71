"""Test tasks that a run's own work discovers: added once, released when due, and waited for when they come first."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from coordination.base.errors import CoordinationError, PlanError, Refused
from coordination.domain.tasks.attempts import DiscoveredTask, Outcome
from coordination.domain.tasks.tasks import BlockReason, OnDependencyFailure, TaskState
from coordination.flows.tasks.force_tasks import force_task
from coordination.services.plans import add_discovered_tasks
from coordination.services.tasks import questions
from coordination.store.queries.tasks import dependencies, tasks
from coordination.store.queries.tasks import questions as question_rows
from coordination.store.tables.tasks.tasks import tasks as task_table
from tests.support.refusals import refuses
from tests.support.world import World


def discovered_task(key: str, *needs: str, first: bool = False, **fields: Any) -> DiscoveredTask:
    return DiscoveredTask({"key": key, "run": {"shell": "true"}, "needs": list(needs), **fields}, blocks_finder=first)


def learn(world: World) -> None:
    """Store the ids of all tasks of the run in the world."""
    with world.store.read() as tx:
        world.ids |= {task.key: task.id for task in tasks.of_run(tx, world.workspace, world.run_id)}


def force(world: World, key: str) -> None:
    """Queue an ended task again, as an operator."""
    world.store.transact(
        lambda tx: force_task(tx, world.workspace, world.ids[key], TaskState.QUEUED, actor="ann", reason="again")
    )


def edges(world: World) -> set[tuple[str, str, str]]:
    with world.store.read() as tx:
        return set(dependencies.edges_of_run(tx, world.workspace, world.run_id))


def test_found_tasks_join_the_run_and_are_rung_for_at_once(world: World) -> None:
    world.submit("a", "b")
    world.claim("a")

    finished = world.finish(
        "a", discovered=(discovered_task("bug", title="A bug"), discovered_task("fix", "bug", "a", "b"))
    )

    learn(world)
    assert world.states() == {"a": "completed", "b": "queued", "bug": "queued", "fix": "blocked"}
    assert {ready.key for ready in finished.work.enqueue} == {"b", "bug"}
    assert edges(world) == {
        ("a", "bug", "discovered-from"),
        ("a", "fix", "blocks"),
        ("b", "fix", "blocks"),
        ("bug", "fix", "blocks"),
    }
    assert (world.task("bug").title, world.task("bug").creator, world.task("fix").pending) == ("A bug", "task:a", 2)
    assert world.story("bug") == ["created"]
    world.claim("b", "bug")
    world.finish("b")
    world.finish("bug", output="found it")
    world.claim("fix")
    assert world.claims["fix"].needs["bug"] == {"state": "completed", "output": "found it"}
    world.finish("fix")
    assert world.sql("SELECT finished_at FROM runs")[0][0] is not None


def test_a_task_waits_for_what_comes_first_and_is_started_again(world: World) -> None:
    world.submit("a", "z < a")
    world.claim("a")

    world.finish(
        "a", Outcome.DEFERRED, discovered=(discovered_task("p1", first=True), discovered_task("p2", "p1", first=True))
    )

    learn(world)
    a = world.task("a")
    assert world.states() == {"a": "blocked", "z": "blocked", "p1": "queued", "p2": "blocked"}
    assert (a.reasons, a.pending, a.failures, a.deferrals) == (BlockReason.DEPENDENCIES, 2, 0, 0)
    assert world.task("p1").parent_id == a.id
    world.do("p1", "p2")
    assert world.states()["a"] == "queued"
    world.claim("a")
    assert (world.claims["a"].attempt, set(world.claims["a"].needs)) == (2, {"p1", "p2"})
    world.finish("a")
    assert world.states() == {"a": "completed", "z": "queued", "p1": "completed", "p2": "completed"}
    assert world.story("a")[2:4] == ["blocked", "unblocked"]


def test_what_is_found_again_is_the_same_task(world: World) -> None:
    world.submit("a", tasks={"a": {"max_attempts": 3}})
    world.claim("a")
    world.finish("a", Outcome.FAILED, discovered=(discovered_task("bug"),))
    world.make_due("a")
    world.claim("a")

    world.finish(
        "a", Outcome.DEFERRED, discovered=(discovered_task("bug", first=True), discovered_task("more", first=True))
    )

    learn(world)
    assert (world.states(), world.task("a").pending) == ({"a": "blocked", "bug": "queued", "more": "queued"}, 2)
    world.do("bug", "more")
    world.claim("a")
    finished = world.finish("a", Outcome.DEFERRED, discovered=(discovered_task("bug", first=True),))
    assert world.states()["a"] == "queued"
    assert [ready.key for ready in finished.work.enqueue] == ["a"]
    world.claim("a")
    world.finish("a", Outcome.DEFERRED, discovered=(discovered_task("quick"),))
    learn(world)
    world.do("quick")
    world.make_due("a")
    world.claim("a")
    world.finish("a", Outcome.DEFERRED, discovered=(discovered_task("quick", first=True),))
    world.claim("a")
    assert set(world.claims["a"].needs) == {"bug", "more", "quick"}


def test_what_failed_is_found_anew_under_a_key_of_its_own(world: World) -> None:
    world.submit("a")
    world.claim("a")
    world.finish("a", discovered=(discovered_task("bug"),))
    learn(world)
    world.claim("bug")
    world.finish("bug", Outcome.FAILED)
    force(world, "a")
    world.claim("a")

    world.finish("a", discovered=(discovered_task("bug"), discovered_task("after", "bug")))

    learn(world)
    assert world.states() == {"a": "completed", "bug": "failed", "bug.2": "queued", "after": "blocked"}


def test_a_late_attempt_finds_nothing(world: World) -> None:
    world.submit("a")
    world.claim("a")
    late = world.claims["a"]
    world.expire("a")
    world.tick()

    world.finish(late, discovered=(discovered_task("bug"),), question="May I?")

    assert world.states() == {"a": "queued"}
    with world.store.read() as tx:
        assert question_rows.list_unanswered(tx, world.workspace) == []


@pytest.mark.parametrize(
    ("bad", "kind", "field"),
    [
        (discovered_task("b"), Refused, None),
        (discovered_task("x", "nobody"), PlanError, "tasks.x.needs"),
        (discovered_task("x", "x"), PlanError, "tasks.x.needs"),
        (discovered_task("x", variants=17), PlanError, "tasks.x.variants"),
        (discovered_task("x", colour="red"), PlanError, "tasks.x.colour"),
        (discovered_task("x", "b", first=True), Refused, None),
        (discovered_task("x", "dead"), Refused, None),
        (discovered_task("x", parent="nobody"), PlanError, "tasks.x.parent"),
    ],
)
def test_what_cannot_be_added_changes_nothing(
    world: World, bad: DiscoveredTask, kind: type[CoordinationError], field: str | None
) -> None:
    world.submit("a", "b", "dead")
    world.claim("a", "dead")
    world.finish("dead", Outcome.FAILED)
    before = world.states()

    with refuses(kind, field=field):
        world.finish("a", discovered=(discovered_task("fine"), bad))

    assert world.states() == before


def test_a_task_without_a_key_is_refused_by_its_place_among_those_found(world: World) -> None:
    world.submit("a")
    world.claim("a")

    with refuses(PlanError, field="tasks[1].key", line=0):
        world.finish("a", discovered=(discovered_task("fine"), DiscoveredTask({"run": {"shell": "true"}})))

    assert world.states() == {"a": "running"}


def test_what_needs_a_failed_task_may_run_anyway(world: World) -> None:
    world.submit("a", "dead")
    world.claim("a", "dead")
    world.finish("dead", Outcome.FAILED)

    world.finish("a", discovered=(discovered_task("x", "dead", on_dependency_failure=OnDependencyFailure.RUN.value),))

    learn(world)
    assert world.states()["x"] == "queued"


def test_growth_has_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit("a")
    world.claim("a")
    with refuses(Refused):
        world.finish("a", discovered=tuple(discovered_task(f"f{number}") for number in range(101)))
    monkeypatch.setattr(add_discovered_tasks, "MOST_IN_A_RUN", 3)
    with refuses(Refused):
        world.finish("a", discovered=tuple(discovered_task(f"f{number}") for number in range(4)))
    world.finish("a", discovered=(discovered_task("d1"),))
    monkeypatch.setattr(add_discovered_tasks, "MOST_IN_A_RUN", 100)
    for depth in range(1, add_discovered_tasks.DEEPEST):
        learn(world)
        world.claim(f"d{depth}")
        world.finish(f"d{depth}", discovered=(discovered_task(f"d{depth + 1}"),))
    learn(world)
    world.claim(f"d{add_discovered_tasks.DEEPEST}")
    with refuses(Refused):
        world.finish(f"d{add_discovered_tasks.DEEPEST}", discovered=(discovered_task("deeper"),))


def test_found_tasks_go_by_the_rules_of_what_found_them(world: World) -> None:
    world.submit("a")
    with world.store.write() as tx:
        tx.execute(
            update(task_table)
            .where(task_table.c.id == world.ids["a"])
            .values(options={"gates": [{"run": "true"}], "metadata": {"issue": "1"}})
        )
    world.claim("a")

    world.finish("a", discovered=(discovered_task("x"),))

    with world.store.read() as tx:
        columns = task_table.c.options, task_table.c.authority
        options, authority = tx.execute(select(*columns).where(task_table.c.key == "x")).one()
    assert authority["folders"] == ["/srv/shop"]
    assert options == {"gates": [{"run": "true"}], "depth": 1}


def test_what_an_attempt_leaves_comes_to_the_next_one(world: World) -> None:
    world.submit("a", tasks={"a": {"max_attempts": 3}})
    world.claim("a")
    world.finish("a", Outcome.FAILED, carry_over={"session": "s1", "feedback": "red"})
    world.make_due("a")
    world.claim("a")
    assert world.claims["a"].carried_over == {"session": "s1", "feedback": "red"}

    world.finish("a", Outcome.DEFERRED, carry_over={"session": "s2"})

    world.make_due("a")
    world.claim("a")
    assert world.claims["a"].carried_over == {"session": "s2", "feedback": "red"}


def test_a_question_blocks_the_task_until_it_is_answered_once(world: World) -> None:
    world.submit("a", "z < a")
    world.claim("a")

    world.finish("a", output="half", question="Which colour?", carry_over={"session": "s1"})

    a = world.task("a")
    assert (a.state, a.reasons, world.story("a")) == (
        "blocked",
        BlockReason.QUESTION,
        ["created", "claimed", "blocked"],
    )
    assert world.outcomes("a") == ["deferred"]
    with world.store.read() as tx:
        (open_questions,) = question_rows.list_unanswered(tx, world.workspace)
    assert (open_questions.key, open_questions.question, open_questions.attempt) == ("a", "Which colour?", 1)
    answered, ready = world.store.transact(lambda tx: questions.answer(tx, world.workspace, a, "Blue", by="ann"))
    assert (answered.question, ready, world.states()["a"]) == ("Which colour?", True, "queued")
    for text in ("Red", " "):
        with pytest.raises(Refused):
            world.store.transact(lambda tx, text=text: questions.answer(tx, world.workspace, a, text, by="bob"))
    world.claim("a")
    assert world.claims["a"].carried_over == {
        "session": "s1",
        "answers": [{"question": "Which colour?", "answer": "Blue", "by": "ann"}],
    }
    world.finish("a")
    assert world.states() == {"a": "completed", "z": "queued"}
    with world.store.read() as tx:
        assert question_rows.list_unanswered(tx, world.workspace) == []


def test_a_question_that_no_task_waits_with_is_not_open_any_more(world: World) -> None:
    world.submit("a", "b")
    world.claim("a", "b")
    for key in ("a", "b"):
        world.finish(key, question="May I?")

    world.cancel("a")

    with world.store.read() as tx:
        assert [open_questions.key for open_questions in question_rows.list_unanswered(tx, world.workspace)] == ["b"]
