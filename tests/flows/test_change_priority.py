"""Test that a person changes priorities: of waiting tasks, with an event, and never of tasks that have ended."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from coordination.base.errors import NotFound
from coordination.base.ids import new_id
from coordination.flows.tasks.change_priority import change_priority
from coordination.store.queries.tasks import events, ready
from coordination.store.tables.tasks.tasks import tasks
from tests.support.world import World


def change(world: World, key: str, priority: int) -> bool:
    return world.store.transact(
        lambda tx: change_priority(tx, world.workspace, world.ids[key], priority, actor="user:ann")
    )


def waiting(world: World) -> list[str]:
    """Return the keys of the project's tasks that are not enqueued, the best first."""
    with world.store.write() as tx:
        return [row["key"] for row in ready.next_to_enqueue(tx, world.workspace, world.project_id, room=10)]


def test_what_waits_goes_by_its_new_place_even_when_it_was_rung_for(world: World) -> None:
    world.submit("a", "b", "c")
    world.tick()
    assert waiting(world) == []  # all of them were enqueued

    assert change(world, "c", 5)

    assert waiting(world) == ["c"]
    ticked = world.tick()
    assert ticked is not None
    assert [item.key for item in ticked.ring] == ["c"]


def test_the_story_says_who_changed_it_from_what_to_what(world: World) -> None:
    world.submit("a")

    change(world, "a", 5)
    change(world, "a", -3)

    with world.store.read() as tx:
        messages = events.tail(tx, world.workspace, task_id=world.ids["a"])[-2:]
    assert [(event.type, event.actor, event.payload) for event in messages] == [
        ("reprioritized", "user:ann", {"from": 0, "to": 5}),
        ("reprioritized", "user:ann", {"from": 5, "to": -3}),
    ]


def test_the_same_priority_again_changes_nothing(world: World) -> None:
    world.submit("a")
    world.tick()

    assert change(world, "a", 0)

    assert "reprioritized" not in world.story("a")
    with world.store.read() as tx:
        assert tx.execute(select(tasks.c.enqueued_at)).scalar_one() is not None


def test_a_blocked_task_takes_its_place_when_it_is_released(world: World) -> None:
    world.submit("a", "b < a", "c < a")

    change(world, "c", 1)
    world.claim("a")
    finished = world.finish("a")

    assert [item.key for item in finished.work.enqueue] == ["c", "b"]


def test_what_has_ended_keeps_its_priority(world: World) -> None:
    world.submit("a")
    world.do("a")
    before = world.story("a")

    assert not change(world, "a", 5)

    assert world.story("a") == before
    assert world.task("a").priority == 0


def test_a_task_that_does_not_exist_is_refused(world: World) -> None:
    world.ids["x"] = new_id()

    with pytest.raises(NotFound):
        change(world, "x", 5)
