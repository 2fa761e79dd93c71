"""Test that real workers delete old data while they work, without an effect on running tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from coordination.api.runs import Run
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState, TaskState
from coordination.services.projects import archives
from coordination.store.tables import metadata
from tests.support.fleet import Fleet
from tests.support.piles import pile_up
from tests.support.processes import until

CLEARS_UP = {"COORD_RETENTION_EVERY": "1s", "COORD_RETENTION_RUNS": "90"}
OF_RUNS = ("tasks", "attempts", "events", "dependencies")


def old_rows(fleet: Fleet) -> int:
    """Return the number of rows of old runs."""
    with fleet.co.runtime.store.read() as tx:
        return sum(tx.execute(select(func.count()).select_from(metadata.tables[name])).scalar_one() for name in OF_RUNS)


def with_pile(fleet: Fleet, tasks: int, *, per_run: int) -> Run:
    """Provide one run that really ran, and old copies of it."""
    fleet.worker("-c", "4")
    seed = fleet.submit(Task("seed", {"shell": "echo done"}))
    assert seed.wait(timeout=60) is RunState.COMPLETED
    with fleet.co.runtime.store.write() as tx:
        pile_up(tx, seed.id, seed.task("seed").id, tasks=tasks, per_run=per_run, ended=timedelta(days=100))
    return seed


def story(run: Run) -> list[tuple[Any, ...]]:
    """Return everything that is printed about a run."""
    return [(event.cursor, event.type, event.key, event.attempt) for event in run.events(follow=False)]


@pytest.mark.full
@pytest.mark.timeout(240)
def test_a_plan_runs_to_its_end_while_twenty_thousand_old_rows_go(fleet: Fleet) -> None:
    fleet.file("napping.py").write_text("import time\n\n\ndef nap():\n    time.sleep(0.005)\n")
    seed = with_pile(fleet, 4_000, per_run=400)
    before = old_rows(fleet)
    assert before > 20_000
    seed_story = story(seed)
    workers = [fleet.worker("-c", "4", **CLEARS_UP) for _ in range(2)]
    tasks = [
        Task(f"c{chain}-{link}", {"python": "napping:nap"}, needs=[f"c{chain}-{link - 1}"] if link else [])
        for chain in range(20)
        for link in range(60)
    ]

    run = fleet.submit(*tasks)

    deleted_meanwhile = until(
        lambda: before - old_rows(fleet) > 1_000 and run.record.counts.get(TaskState.COMPLETED, 0),
        within=timedelta(seconds=60),
        what="both go on",
    )
    assert deleted_meanwhile
    assert run.wait(timeout=120) is RunState.COMPLETED
    assert run.record.counts == {TaskState.COMPLETED: 1_200}
    assert all(len(task.attempts()) == 1 for task in run.tasks()[:50])
    until(lambda: len(fleet.co.runs(limit=100)) == 2, within=timedelta(seconds=90), what="the old runs are gone")
    left = {run.id, seed.id}
    with fleet.co.runtime.store.read() as tx:
        for name in ("tasks", "attempts", "events"):
            table = metadata.tables[name]
            assert set(tx.execute(select(table.c.run_id).distinct()).scalars()) == left
    assert story(seed) == seed_story
    until(lambda: any("deleted old rows" in worker.output for worker in workers), what="a worker says so")
    output = "".join(worker.output for worker in workers)
    assert "deadlock" not in output
    assert "cleanup failed" not in output


def test_workers_write_the_archive_before_they_delete(fleet: Fleet) -> None:
    folder = fleet.folder / "archive"
    seed = with_pile(fleet, 60, per_run=20)

    fleet.worker(**CLEARS_UP, COORD_RETENTION_ARCHIVE=str(folder))

    until(lambda: len(fleet.co.runs()) == 1, what="the old runs are gone")
    files = sorted(folder.iterdir())
    assert len(files) == 3
    for path in files:
        result = list(archives.read(path))
        assert sum(row["record"] == "tasks" for row in result) == 20
        assert sum(row["record"] == "dependencies" for row in result) == 19
        assert {row["run_id"] for row in result if "run_id" in row} == {path.name.removesuffix(".jsonl.gz")}
    assert [run.id for run in fleet.co.runs()] == [seed.id]
