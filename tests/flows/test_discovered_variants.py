"""Test that discovered tasks race in variants and are supervised like planned ones, within the same bounds."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from coordination.base.errors import CoordinationError, PlanError, Refused
from coordination.domain.plans.plans import Supervision
from coordination.domain.tasks.attempts import DiscoveredTask
from coordination.domain.tasks.tasks import RunState
from coordination.flows.tasks.choose_variant import choose_variant
from coordination.services.plans import add_discovered_tasks
from coordination.store.queries.tasks import dependencies, runs, tasks
from coordination.store.tables.tasks.tasks import tasks as task_table
from tests.support.refusals import refuses
from tests.support.world import World

AGENT = {"agent": "claude", "prompt": "Mend it"}
LOOP = Supervision(assess={"agent": "codex"}, analyze={"agent": "gemini"})


def discovered_task(key: str, *needs: str, first: bool = False, **fields: Any) -> DiscoveredTask:
    return DiscoveredTask({"key": key, "run": AGENT, "needs": list(needs), **fields}, blocks_finder=first)


def learn(world: World) -> None:
    with world.store.read() as tx:
        world.ids |= {task.key: task.id for task in tasks.of_run(tx, world.workspace, world.run_id)}


def edges(world: World, child: str) -> set[str]:
    with world.store.read() as tx:
        return {
            parent
            for parent, to, kind in dependencies.edges_of_run(tx, world.workspace, world.run_id)
            if to == child and kind == "blocks"
        }


def submit(world: World, *lines: str, supervision: Supervision | None = LOOP, **more: Any) -> None:
    """Submit a plan whose task "a" is an agent; the plan's own tasks have no supervisor."""
    a = {"run": AGENT, "supervised": False, **more.pop("tasks", {}).get("a", {})}
    world.submit(*lines, supervision=supervision, tasks={"a": a}, **more)


def test_it_is_assessed_done_and_analysed_as_a_task_of_the_plan(world: World) -> None:
    gates = {"a": {"gates": ["make"], "checkout": "git-worktree"}}
    submit(world, "a", tasks=gates)
    world.claim("a")
    finished = world.finish("a", discovered=(discovered_task("bug", "a"), discovered_task("alone", supervised=False)))
    learn(world)

    assert world.states() == {
        "a": "completed",
        "bug": "blocked",
        "bug/assess": "queued",
        "bug/work": "blocked",
        "alone": "queued",
    }
    assert {ready.key for ready in finished.work.enqueue} == {"bug/assess", "alone"}
    assert (edges(world, "bug"), edges(world, "bug/work")) == ({"bug/work"}, {"a", "bug/assess"})
    agents = {key: world.task(key).work["agent"] for key in ("bug", "bug/assess", "bug/work", "alone")}
    assert agents == {"bug": "gemini", "bug/assess": "codex", "bug/work": "claude", "alone": "claude"}
    assert {"gates", "checkout"} <= world.task("bug/work").options.keys()
    for key in ("bug", "bug/assess"):
        assert not {"gates", "checkout"} & world.task(key).options.keys()
    assert world.task("bug/work").parent_id == world.ids["bug"]


def test_who_waits_for_it_waits_for_its_judgement(world: World) -> None:
    submit(world, "a")
    world.claim("a")
    world.finish("a", discovered=(discovered_task("bug", first=True),))
    learn(world)
    assert edges(world, "a") == {"bug"}

    world.do("bug/assess", output={"strategy": "s"})
    world.do("bug/work")
    assert world.states(["a"]) == {"a": "blocked"}
    world.do("bug")

    assert world.states(["a"]) == {"a": "queued"}


def test_what_is_found_again_is_there_once(world: World) -> None:
    submit(world, "a")
    for _ in range(2):
        world.claim("a")
        world.finish("a", discovered=(discovered_task("bug"),), question="Why?")
        learn(world)
        world.sql("UPDATE tasks SET state = 'queued', reasons = 0 WHERE key = 'a'")

    assert set(world.ids) == {"a", "bug", "bug/assess", "bug/work"}


def test_variants_that_are_found_race_and_the_losers_do_not_make_the_run_fail(world: World) -> None:
    submit(world, "a", tasks={"a": {"gates": ["make"]}}, supervision=None)
    world.claim("a")
    world.finish("a", discovered=(discovered_task("bug", variants=2), discovered_task("after", "bug")))
    learn(world)
    assert world.states() == {
        "a": "completed",
        "bug": "blocked",
        "bug/1": "queued",
        "bug/2": "queued",
        "after": "blocked",
    }
    assert "gates" in world.task("bug/2").options
    assert "gates" not in world.task("bug").options

    world.fail("bug/1")
    (claim,) = [world.claims["bug/2"] for _ in world.claim("bug/2")]
    choice = world.store.transact(lambda tx: choose_variant(tx, world.workspace, claim.task_id, claim.attempt))
    assert choice.won
    world.finish("bug/2", output="mended")
    world.do("bug", output="mended")
    world.do("after")

    with world.store.read() as tx:
        run = runs.get(tx, world.workspace, world.run_id)
    assert run is not None
    assert run.state is RunState.COMPLETED


@pytest.mark.parametrize(
    ("bad", "kind", "field"),
    [
        ((discovered_task("bug", variants=[{"agent": 5}, {}]),), PlanError, "tasks.bug.variants"),
        ((discovered_task("bug", variants=2), discovered_task("bug/1")), PlanError, "tasks.bug.variants"),
        ((discovered_task("other"),), Refused, None),
        ((discovered_task("bug", "b", first=True),), Refused, None),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_there(
    world: World, bad: tuple[DiscoveredTask, ...], kind: type[CoordinationError], field: str | None
) -> None:
    submit(world, "a", "b", "other/assess")
    world.claim("a")

    with refuses(kind, field=field):
        world.finish("a", discovered=bad)

    learn(world)
    assert set(world.ids) == {"a", "b", "other/assess"}


def test_parts_count_among_what_a_run_may_find(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(add_discovered_tasks, "MOST_IN_A_RUN", 5)
    submit(world, "a")
    world.claim("a")

    with refuses(Refused):
        world.finish("a", discovered=(discovered_task("bug"), discovered_task("bug2")))


def test_what_may_find_nothing_any_more_is_not_supervised(world: World) -> None:
    submit(world, "a")
    with world.store.write() as tx:
        tx.execute(update(task_table).values(options={"depth": add_discovered_tasks.DEEPEST - 1}))
    world.claim("a")

    world.finish("a", discovered=(discovered_task("bug"),))

    learn(world)
    assert set(world.ids) == {"a", "bug"}
