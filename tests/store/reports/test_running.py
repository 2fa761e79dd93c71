"""Test the report of running tasks, with the last sign of progress; on both databases."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import insert, update

from coordination.domain.tasks.events import EventType, NewEvent
from coordination.store.queries.tasks import events
from coordination.store.reports.tasks.running import RunningTask, list_running_tasks
from coordination.store.tables.jobs.output import output_chunks
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.types import db_after
from tests.support.world import World


def look(world: World, *, most: int = 20) -> tuple[list[RunningTask], int]:
    with world.store.read() as tx:
        return list_running_tasks(tx, world.workspace, most=most)


def report(world: World, key: str, **payload: object) -> None:
    with world.store.write() as tx:
        event = NewEvent(EventType.PROGRESS, world.project_id, world.run_id, world.ids[key], 1, payload=payload)
        events.append(tx, world.workspace, [event])


def test_what_runs_is_listed_with_its_latest_sign(world: World) -> None:
    world.submit("a", "b", "c", name="nightly")
    assert look(world) == ([], 0)
    world.claim("a")
    world.claim("b")

    (first, second), number = look(world)
    assert ([first.key, second.key], number) == (["a", "b"], 2)
    assert (first.project, first.run, first.attempt, first.sign) == ("shop", "nightly", 1, "heartbeat")
    assert (first.report, first.cost_usd, first.unpriced_calls) == (None, Decimal(0), 0)
    assert first.worker == f"w-{world.worker[-4:]}"

    with world.store.write() as tx:
        mine = {"task_id": world.ids["a"], "attempt": 1, "workspace_id": world.workspace}
        chunk = {"slot": 0, "position": 0, "size": 2, "pieces": [["out", "hi"]]}
        tx.execute(insert(output_chunks).values(**mine, **chunk, written_at=db_after(5.0)))
    assert look(world)[0][0].sign == "output"
    report(world, "a", text="half of it", percent=50)
    with world.store.write() as tx:
        later = update(attempts).where(attempts.c.task_id == world.ids["a"])
        tx.execute(later.values(progress_at=db_after(10.0), heartbeat_at=db_after(60.0)))
    (first, _), _ = look(world)
    assert (first.sign, first.report) == ("work", "half of it (50 %)")

    world.finish("a")
    assert [one.key for one in look(world)[0]] == ["b"]


def test_only_the_longest_are_listed_and_the_others_counted(world: World) -> None:
    world.submit("a", "b", "c")
    world.claim("a")
    world.claim("b")
    world.claim("c")

    shown, number = look(world, most=2)

    assert (len(shown), number) == (2, 3)
