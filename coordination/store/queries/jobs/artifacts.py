"""Statements on artifacts, which are stored with the end of their attempt and listed for the latest attempt."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Text, cast, exists, insert, select

from coordination.domain.jobs.artifacts import Artifact
from coordination.store.tables.jobs.artifacts import artifacts
from coordination.store.tables.tasks.tasks import tasks

f = artifacts.c


def add(tx: Connection, workspace_id: str, task_id: str, number: int, files: Sequence[Artifact]) -> None:
    """Store the artifacts of an attempt. The caller has checked the fence."""
    rows = [
        {
            "workspace_id": workspace_id,
            "task_id": task_id,
            "attempt": number,
            "path": file.path,
            "size": file.size,
            "sha256": file.sha256,
            "url": file.url,
        }
        for file in files
    ]
    tx.execute(insert(artifacts), rows)


def of_task(tx: Connection, workspace_id: str, task_id: str) -> list[Artifact]:
    """Return the artifacts of the task's latest attempt, by path."""
    rows = tx.execute(
        select(f.path, f.size, f.sha256, f.url)
        .join(tasks, (tasks.c.id == f.task_id) & (tasks.c.attempt == f.attempt))
        .where(f.workspace_id == workspace_id, f.task_id == task_id)
        .order_by(f.path)
    )
    return [Artifact(row.path, row.size, row.sha256, row.url) for row in rows]


def run_has_outputs(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Return whether tasks of a run have outputs, so that files may be stored even without rows."""
    own = (tasks.c.workspace_id == workspace_id) & (tasks.c.run_id == run_id)
    has_outputs = own & cast(tasks.c.options, Text).like('%"outputs"%')
    return bool(tx.execute(select(exists(select(tasks.c.id).where(has_outputs)))).scalar_one())
