"""Test which variant wins: one, the first, also when it asks twice, and only while it owns its lease."""

from __future__ import annotations

import threading

from coordination.domain.plans.plans import Plan, Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import RunState
from coordination.flows.tasks.choose_variant import VariantChoice, choose_variant
from coordination.store.queries.tasks import runs
from tests.support.world import World


def race(world: World, variants: int = 3) -> None:
    """Return a task with variants, all of them claimed."""
    world.submit_plan(Plan([Task("fix", {"shell": "true"}, variants=variants)]))
    world.claim(*(f"fix/{number}" for number in range(1, variants + 1)))


def choose(world: World, key: str, attempt: int = 1) -> VariantChoice:
    return world.store.transact(lambda tx: choose_variant(tx, world.workspace, world.ids[key], attempt))


def test_the_first_wins_and_the_others_are_canceled_at_once(world: World) -> None:
    race(world)

    choice = choose(world, "fix/2")

    assert choice.won
    assert {task_id for task_id, _ in choice.canceled} == {world.ids["fix/1"], world.ids["fix/3"]}
    assert world.states() == {"fix/1": "canceled", "fix/2": "running", "fix/3": "canceled", "fix": "blocked"}
    world.finish("fix/2", output="mine")
    assert world.states()["fix"] == "queued"
    world.do("fix")
    with world.store.read() as tx:
        run = runs.get(tx, world.workspace, world.run_id)
    assert run is not None
    assert run.state is RunState.COMPLETED


def test_it_wins_again_when_it_asks_again_and_nobody_else_does(world: World) -> None:
    race(world)
    choose(world, "fix/2")

    assert choose(world, "fix/2") == VariantChoice(True, "fix/2 was the first of 3 to pass")
    assert not choose(world, "fix/1").won
    world.expire("fix/2")
    world.tick()
    world.claim("fix/2")
    assert not choose(world, "fix/2", attempt=1).won
    assert choose(world, "fix/2", attempt=2).won
    decided = [event for event in world.story("fix") if event == "progress"]
    assert len(decided) == 1


def test_of_many_that_pass_at_once_one_wins(world: World) -> None:
    race(world, variants=8)
    won: list[str] = []

    def ask(key: str) -> None:
        if choose(world, key).won:
            won.append(key)

    threads = [threading.Thread(target=ask, args=(f"fix/{number}",)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert sorted(world.states().values()) == sorted(["running", "blocked", *["canceled"] * 7])


def test_a_variant_that_fails_does_not_fail_the_run(world: World) -> None:
    race(world, variants=2)
    world.finish("fix/1", Outcome.FAILED, error="no")
    choose(world, "fix/2")
    world.finish("fix/2")
    world.do("fix")

    with world.store.read() as tx:
        run = runs.get(tx, world.workspace, world.run_id)
    assert run is not None
    assert run.state is RunState.COMPLETED


def test_a_task_without_variants_wins_alone(world: World) -> None:
    world.submit("a")
    world.claim("a")

    assert choose(world, "a").won
