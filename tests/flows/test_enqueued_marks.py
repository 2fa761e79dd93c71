"""Test the mark of an enqueued task: it bounds the window, and ages until the task is enqueued again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from coordination.domain.plans.plans import Concurrency
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import BlockReason
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.fleet.tick_supervisor import TickResult
from coordination.flows.tasks.change_priority import change_priority
from coordination.services.tasks import dispatch_window
from coordination.store.queries.fleet import workers
from coordination.store.queries.tasks import ready
from tests.support.world import World


def marked(world: World) -> set[str]:
    """Return the keys of queued tasks that are marked as enqueued."""
    return {
        str(row[0]) for row in world.sql("SELECT key FROM tasks WHERE state = 'queued' AND enqueued_at IS NOT NULL")
    }


def age_marks(world: World, age: timedelta) -> None:
    with world.store.read() as tx:
        now = workers.database_time(tx)
    moment = (now - age).isoformat(timespec="microseconds")
    world.sql("UPDATE tasks SET enqueued_at = :moment WHERE enqueued_at IS NOT NULL", moment=moment)


def enqueued(ticked: TickResult | None) -> list[str]:
    assert ticked is not None
    return [item.key for item in ticked.ring]


def fill(world: World, window: int, *, size: int = 1, expected: int | None = None) -> list[str]:
    with world.store.write() as tx:
        chosen = dispatch_window.fill_window(
            tx, world.workspace, world.project_id, window=window, bundle=lambda _kind: size, expected=expected
        )
    return [item.key for item in chosen]


class TestAge:
    def test_what_nobody_claimed_is_enqueued_again_after_the_age_and_not_before(self, world: World) -> None:
        world.submit("a")
        assert enqueued(world.tick()) == ["a"]
        age_marks(world, timedelta(seconds=10))
        assert enqueued(world.tick(enqueue_again_after=timedelta(seconds=15))) == []

        age_marks(world, timedelta(seconds=20))

        assert enqueued(world.tick(enqueue_again_after=timedelta(seconds=15))) == ["a"]
        assert enqueued(world.tick(enqueue_again_after=timedelta(seconds=15))) == [], "its mark is new"

    def test_only_marks_of_this_project_are_taken_back(self, world: World) -> None:
        other = World(world.store, project="example.org/acme/mill")
        world.submit("a")
        other.submit("a")
        world.tick()
        other.tick()
        age_marks(world, timedelta(minutes=1))

        with world.store.write() as tx:
            number = ready.unmark_stale(tx, world.workspace, world.project_id, age=timedelta(seconds=15))

        assert number == 1
        assert [row[0] for row in world.sql("SELECT count(*) FROM tasks WHERE enqueued_at IS NOT NULL")] == [1]

    def test_a_parked_task_is_named_once_it_is_old_enough_and_due(self, world: World) -> None:
        world.submit("old", "waits", tasks={"waits": {"max_attempts": 2}})
        world.tick()
        age_marks(world, timedelta(minutes=1))
        world.do("waits", outcome=Outcome.FAILED, error="no")
        world.sql("UPDATE tasks SET enqueued_at = created_at WHERE key = 'waits'")

        def parked(age: timedelta) -> list[tuple[str, str]]:
            with world.store.read() as tx:
                return workers.list_unclaimed(tx, enqueued_before=age, limit=10)

        assert parked(timedelta(seconds=30)) == [(world.workspace, world.ids["old"])]
        assert parked(timedelta(minutes=2)) == []

    def test_a_task_that_no_worker_may_take_now_is_not_counted_as_unheard(self, world: World) -> None:
        world.submit("free", "held", tasks={"held": {"max_attempts": 2}})
        world.tick()
        world.claim("held")
        world.cancel("held")
        world.retry("held")
        world.sql("UPDATE tasks SET enqueued_at = created_at")
        age_marks(world, timedelta(minutes=1))

        with world.store.read() as tx:
            numbers = (
                workers.count_overdue(tx, after=timedelta(seconds=30)),
                workers.count_unclaimed(tx, after=timedelta(seconds=30)),
            )
            young = workers.count_overdue(tx, after=timedelta(minutes=2))

        assert (*numbers, young) == (1, 2, 0)


WAYS: dict[str, Callable[[World], object]] = {
    "claim": lambda world: world.claim("a"),
    "cancel": lambda world: world.cancel("a"),
    "loss": lambda world: (world.claim("a"), world.store.transact(lambda tx: rescue_worker(tx, world.worker))),
    "retry": lambda world: (world.fail("a"), world.retry("a")),
    "priority": lambda world: world.store.transact(
        lambda tx: change_priority(tx, world.workspace, world.ids["a"], 9, actor="ann")
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_mark_goes_with_whatever_happens_to_the_task(world: World, way: str) -> None:
    world.submit("a")
    world.tick()
    assert marked(world) == {"a"}

    WAYS[way](world)

    assert [row[0] for row in world.sql("SELECT enqueued_at FROM tasks")] == [None]


def test_what_a_pause_holds_back_is_not_out_any_more(world: World) -> None:
    world.submit("a")
    world.tick()

    with world.store.write() as tx:
        ready.hold_back(tx, world.workspace, [world.ids["a"]], BlockReason.PAUSED, {})

    assert [row[0] for row in world.sql("SELECT enqueued_at FROM tasks")] == [None]


def test_only_a_task_that_is_still_queued_is_marked_and_unmarked(world: World) -> None:
    world.submit("runs", "waits", "blocked < runs")
    world.claim("runs")
    ids = list(world.ids.values())

    with world.store.write() as tx:
        ready.mark_enqueued(tx, world.workspace, ids)
    assert [row[0] for row in world.sql("SELECT key FROM tasks WHERE enqueued_at IS NOT NULL")] == ["waits"]

    with world.store.write() as tx:
        ready.unmark_enqueued(tx, world.workspace, [world.ids["runs"]])
    assert marked(world) == {"waits"}


class TestTheWindow:
    def test_it_is_never_exceeded_whatever_happens(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.support.world.WINDOW", 3)  # that of ends
        keys = [f"t{number:02}" for number in range(24)]
        world.submit(*keys, tasks={key: {"max_attempts": 9} for key in keys})
        outcomes = [Outcome.COMPLETED, Outcome.FAILED, Outcome.HANDED_BACK, Outcome.LOST]
        sizes = []
        for turn in range(16):
            fill(world, 3)
            sizes.append(len(marked(world)))
            (key,) = world.claim(min(marked(world)))
            world.finish(key, outcomes[turn % 4], error="no")
            sizes.append(len(marked(world)))

        assert max(sizes) == 3

    def test_what_runs_takes_no_room(self, world: World) -> None:
        world.submit("a", "b", "c")
        assert fill(world, 2) == ["a", "b"]

        world.claim("a", "b")

        assert fill(world, 2) == ["c"]

    @pytest.mark.parametrize("expected", [None, 1, 8])
    def test_it_is_not_exceeded_when_the_caller_expects_short_tasks(self, world: World, expected: int | None) -> None:
        world.submit(*[f"t{number}" for number in range(20)])

        assert len(fill(world, 4, expected=expected)) == 4

    def test_a_project_with_places_for_few_has_no_more_messages_out_than_places(self, world: World) -> None:
        world.submit(*"abcde", concurrency=Concurrency(project=2))

        assert len(fill(world, 10)) == 2

    def test_an_agent_that_is_full_lets_others_pass(self, world: World) -> None:
        world.submit(
            "a", "b", "c", "d", concurrency=Concurrency(agents={"bo": 1}), tasks={key: {"agent": "bo"} for key in "abc"}
        )
        assert fill(world, 10) == ["a", "d"], "one place, one message"
        world.claim("a")

        assert fill(world, 10) == []

    def test_what_is_not_due_takes_no_room(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.support.world.WINDOW", 0)  # the end enqueues nothing
        world.submit("a", "b", tasks={"a": {"max_attempts": 2}})
        world.do("a", outcome=Outcome.FAILED, error="no")

        assert fill(world, 1) == ["b"]

    def test_another_project_has_a_window_of_its_own(self, world: World) -> None:
        other = World(world.store, project="example.org/acme/mill")
        world.submit("a", "b")
        other.submit("c", "d")

        assert fill(world, 1) == ["a"]
        assert fill(other, 1) == ["c"]
