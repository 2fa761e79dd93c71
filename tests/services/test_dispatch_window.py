"""Test the window of enqueued tasks: it counts messages, takes the best tasks first, and skips those of full slots."""

from __future__ import annotations

from coordination.domain.plans.plans import Concurrency
from coordination.services.tasks import dispatch_window
from coordination.store.queries.tasks.ready import ReadyTask
from tests.support.world import World


def fill(world: World, window: int, size: int = 1) -> list[str]:
    with world.store.write() as tx:
        chosen = dispatch_window.fill_window(
            tx, world.workspace, world.project_id, window=window, bundle=lambda _kind: size
        )
    return [ready.key for ready in chosen]


def test_a_window_holds_so_many_messages_and_no_more(world: World) -> None:
    world.submit(*[f"t{n}" for n in range(10)])

    assert fill(world, 4) == ["t0", "t1", "t2", "t3"]
    assert fill(world, 4) == []
    assert fill(world, 5) == ["t4"]


def test_a_message_of_short_tasks_takes_two_places_for_all_its_tasks(world: World) -> None:
    world.submit(*[f"t{n}" for n in range(40)])

    assert len(fill(world, 4, size=8)) == 16
    assert fill(world, 4, size=8) == []


def test_nothing_is_rung_while_the_project_is_full(world: World) -> None:
    world.submit("a", "b", concurrency=Concurrency(project=1))
    world.claim("a")

    assert fill(world, 10) == []


def test_a_key_that_is_full_lets_others_pass(world: World) -> None:
    world.submit("a", "b", "c", tasks={key: {"concurrency_key": "k"} for key in "ab"})
    world.claim("a")

    assert fill(world, 10) == ["c"]


def ready(key: str, kind: str) -> ReadyTask:
    return ReadyTask(key, 1, key, key, kind)


SIZES = {"short": 4, "shorter": 8, "long": 1}.__getitem__


def keys(groups: list[list[ReadyTask]]) -> list[str]:
    return [" ".join(item.key for item in group) for group in groups]


def test_short_tasks_of_several_kinds_share_a_message_as_far_as_their_work_fits() -> None:
    ready_tasks = [ready(f"s{n}", "short") for n in range(3)] + [ready(f"q{n}", "shorter") for n in range(4)]

    assert keys(dispatch_window.group_by_message(ready_tasks, SIZES)) == ["s0 s1 s2 q0 q1", "q2 q3"]


def test_a_long_task_is_alone_in_its_message_and_parts_no_others() -> None:
    ready_tasks = [ready("a", "short"), ready("b", "long"), ready("c", "short"), ready("d", "long")]

    assert keys(dispatch_window.group_by_message(ready_tasks, SIZES)) == ["a c", "b", "d"]


def test_threads_that_go_on_get_short_tasks_up_to_the_first_long_one() -> None:
    ready_tasks = [ready(f"s{n}", "short") for n in range(6)] + [ready("b", "long"), ready("c", "short")]

    assert dispatch_window.split_into_shares(ready_tasks, threads=8, bundle=SIZES) == [
        ["s0", "s1", "s2", "s3"],
        ["s4", "s5"],
    ]
    assert dispatch_window.split_into_shares(ready_tasks, threads=1, bundle=SIZES) == [["s0", "s1", "s2", "s3"]]
