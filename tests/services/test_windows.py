"""The window of doorbells: it counts messages, best tasks first, and never rings for a full slot."""

from __future__ import annotations

from coordination.domain.plans import Concurrency
from coordination.services import windows
from tests.support.world import World


def fill(world: World, window: int, size: int = 1) -> list[str]:
    with world.store.write() as tx:
        chosen = windows.fill(tx, world.workspace, world.project_id, window=window, bundle=lambda _kind: size)
    return [ready.key for ready in chosen]


def test_a_window_holds_so_many_messages_and_no_more(world: World) -> None:
    world.submit(*[f"t{n}" for n in range(10)])

    assert fill(world, 4) == ["t0", "t1", "t2", "t3"]
    assert fill(world, 4) == []
    assert fill(world, 5) == ["t4"]


def test_a_message_of_a_bundle_takes_one_place_for_all_its_tasks(world: World) -> None:
    world.submit(*[f"t{n}" for n in range(40)])

    assert len(fill(world, 4, size=8)) == 32
    assert fill(world, 4, size=8) == []


def test_nothing_is_rung_while_the_project_is_full(world: World) -> None:
    world.submit("a", "b", concurrency=Concurrency(project=1))
    world.claim("a")

    assert fill(world, 10) == []


def test_a_key_that_is_full_lets_others_pass(world: World) -> None:
    world.submit("a", "b", "c", tasks={key: {"concurrency_key": "k"} for key in "ab"})
    world.claim("a")

    assert fill(world, 10) == ["c"]
