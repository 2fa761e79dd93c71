"""Test releases: each edge lowers its child's counter once, and only the last one releases the child."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from coordination.domain.plans.plans import Dependency
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import BlockReason, DependencyKind, OnDependencyFailure
from coordination.flows.projects.change_project import pause_project, resume_project
from coordination.store.queries.tasks import dependencies
from coordination.store.tables.tasks.tasks import dependencies as edges
from tests.support.world import World


def run_anyway(*keys: str) -> dict[str, dict[str, object]]:
    return {key: {"on_dependency_failure": OnDependencyFailure.RUN} for key in keys}


def test_an_edge_that_is_met_twice_lowers_the_counter_once(world: World) -> None:
    """Let a child run whatever the end of its parents: a parent's failure has met its edge, and so has its retry."""
    world.submit("one", "other", "child < one other", tasks=run_anyway("child"))
    world.fail("one")
    assert world.task("child").pending == 1
    world.retry("one")

    world.do("one")

    assert (world.task("child").pending, world.states()["child"]) == (1, "blocked")
    world.do("other")
    assert world.states()["child"] == "queued"


def test_an_edge_that_is_met_by_two_failures_lowers_the_counter_once(world: World) -> None:
    world.submit("one", "other", "child < one other", tasks=run_anyway("child"))
    world.fail("one")
    world.retry("one")

    world.fail("one")

    assert (world.task("child").pending, world.states()["child"]) == (1, "blocked")


def test_a_failure_lowers_the_counters_of_its_own_edges_only(world: World) -> None:
    world.submit("one", "other", "a < one other", "b < other", tasks=run_anyway("a", "b"))

    world.fail("one")

    assert [world.task(key).pending for key in "ab"] == [1, 1]
    assert world.states("ab") == {"a": "blocked", "b": "blocked"}


def test_two_parents_that_complete_together_lower_the_counter_by_two(world: World) -> None:
    world.submit("one", "two", "three", "child < one two three")
    world.claim("one", "two", "three")

    world.write(world.decide("one"), world.decide("two"))

    assert (world.task("child").pending, world.states()["child"]) == (1, "blocked")
    world.finish("three")
    assert (world.task("child").pending, world.states()["child"]) == (0, "queued")


def test_a_completion_that_is_written_twice_releases_once(world: World) -> None:
    world.submit("one", "other", "child < one other")
    world.claim("one")
    end = world.decide("one")
    world.write(end)

    world.write(end)

    assert (world.task("child").pending, world.states()["child"]) == (1, "blocked")


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.FAILED])
def test_an_attempt_that_has_lost_its_task_releases_nothing(world: World, outcome: Outcome) -> None:
    world.submit("parent", "child < parent", "anyway < parent", tasks=run_anyway("anyway"))
    world.claim("parent")
    late = world.decide("parent", outcome, **({"retryable": False} if outcome is Outcome.FAILED else {}))
    world.expire("parent")
    world.tick()

    world.write(late)

    assert world.states() == {"parent": "queued", "child": "blocked", "anyway": "blocked"}
    assert world.open_edges() == 2


def test_an_attempt_that_has_lost_its_task_to_a_running_one_ends_nothing_of_it(world: World) -> None:
    world.submit("parent", "child < parent")
    world.claim("parent")
    late = world.decide("parent")
    world.expire("parent")
    world.tick()
    world.claim("parent")

    finished = world.write(late)

    assert (finished.effects.fences, finished.effects.released) == (set(), [])
    assert world.states() == {"parent": "running", "child": "blocked"}
    assert world.outcomes("parent") == [Outcome.LOST, None]


def test_a_child_that_something_else_holds_too_stays_blocked(world: World) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    world.submit("parent", "child < parent", tasks={"child": {"not_before": later}})

    finished = None
    world.claim("parent")
    finished = world.finish("parent")

    assert finished.effects.released == []
    assert world.task("child").reasons == BlockReason.NOT_BEFORE
    assert world.states()["child"] == "blocked"


def test_a_parent_that_completes_while_the_project_is_on_hold_still_releases_its_child(world: World) -> None:
    world.submit("parent", "child < parent")
    world.claim("parent")
    world.store.transact(lambda tx: pause_project(tx, world.workspace, world.project_id))
    world.finish("parent")
    assert world.claim("child") == []
    assert world.task("child").reasons == BlockReason.PAUSED

    world.store.transact(lambda tx: resume_project(tx, world.workspace, world.project_id, actor="ann"))

    assert world.claim("child") == ["child"]


def test_a_child_that_was_canceled_meanwhile_stays_canceled(world: World) -> None:
    world.submit("one", "child < one", "after < child")
    world.claim("one")
    world.cancel("child")

    finished = world.finish("one")

    assert finished.effects.released == []
    assert world.states() == {"one": "completed", "child": "canceled", "after": "canceled"}


def test_a_child_that_is_retried_waits_for_as_many_as_have_not_completed(world: World) -> None:
    world.submit("one", "two", "three", "child < one two three")
    world.do("one")
    world.cancel("child")
    world.do("two")

    world.retry("child")

    assert (world.task("child").pending, world.states()["child"]) == (1, "blocked")
    world.do("three")
    assert world.states()["child"] == "queued"


def test_only_edges_that_hold_back_are_counted(world: World) -> None:
    world.submit(
        "parent",
        "child",
        "friend",
        tasks={
            "child": {"needs": [Dependency("parent", DependencyKind.PARENT_CHILD)]},
            "friend": {"needs": [Dependency("parent", DependencyKind.RELATED)]},
        },
    )
    assert world.states() == {"parent": "queued", "child": "blocked", "friend": "queued"}

    world.do("parent")

    assert world.states() == {"parent": "completed", "child": "queued", "friend": "queued"}
    (related,) = world.sql("SELECT satisfied_at FROM dependencies WHERE kind = 'related'")
    assert related[0] is None


def test_a_chain_of_failures_is_passed_on_to_the_last_dependant(world: World) -> None:
    world.submit("a", "b < a", "c < b", "d < c", "e", tasks=run_anyway("d"))

    world.fail("a")

    assert world.states() == {"a": "failed", "b": "canceled", "c": "canceled", "d": "queued", "e": "queued"}


def test_edges_of_one_parent_to_some_of_its_children_are_met_apart(world: World) -> None:
    world.submit("parent", "a < parent", "b < parent")

    with world.store.write() as tx:
        met = dependencies.satisfy_edges(tx, world.workspace, [world.ids["parent"]], [world.ids["a"]])
        again = dependencies.satisfy_edges(tx, world.workspace, [world.ids["parent"]], [world.ids["a"]])

    assert (dict(met), dict(again)) == ({world.ids["a"]: 1}, {})
    with world.store.read() as tx:
        left = tx.execute(edges.select().where(edges.c.satisfied_at.is_(None))).all()
    assert [row.child_id for row in left] == [world.ids["b"]]
