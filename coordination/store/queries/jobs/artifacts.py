"""Statements on artifacts: added with the end of their attempt, listed for the attempt that counts."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Text, cast, exists, insert, select

from coordination.domain.jobs.artifacts import Artifact
from coordination.store.tables.jobs.artifacts import artifacts
from coordination.store.tables.tasks.tasks import tasks

f = artifacts.c


def add(tx: Connection, workspace_id: str, task_id: str, number: int, made: Sequence[Artifact]) -> None:
    """Add what an attempt made; the caller holds its fence."""
    rows = [
        {
            "workspace_id": workspace_id,
            "task_id": task_id,
            "attempt": number,
            "path": one.path,
            "size": one.size,
            "sha256": one.sha256,
            "url": one.url,
        }
        for one in made
    ]
    tx.execute(insert(artifacts), rows)


def of_task(tx: Connection, workspace_id: str, task_id: str) -> list[Artifact]:
    """What the task's latest attempt made, by path; of earlier ones nothing is shown."""
    rows = tx.execute(
        select(f.path, f.size, f.sha256, f.url)
        .join(tasks, (tasks.c.id == f.task_id) & (tasks.c.attempt == f.attempt))
        .where(f.workspace_id == workspace_id, f.task_id == task_id)
        .order_by(f.path)
    )
    return [Artifact(row.path, row.size, row.sha256, row.url) for row in rows]


def of_run(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Whether tasks of a run were to leave files: some may be kept that no row names."""
    own = (tasks.c.workspace_id == workspace_id) & (tasks.c.run_id == run_id)
    asked = own & cast(tasks.c.options, Text).like('%"outputs"%')
    return bool(tx.execute(select(exists(select(tasks.c.id).where(asked)))).scalar_one())
