"""Statements on artifacts, which are stored with the end of their attempt and listed for the latest attempt."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Text, cast, exists, insert, select

from coordination.domain.jobs.artifacts import Artifact
from coordination.store.tables.jobs.artifacts import artifacts
from coordination.store.tables.tasks.tasks import tasks

f = artifacts.c
_FIELDS = Artifact.__slots__


def add(tx: Connection, workspace_id: str, task_id: str, number: int, files: Sequence[Artifact]) -> None:
    """Store the artifacts of an attempt. The caller has checked the fence."""
    common = {"workspace_id": workspace_id, "task_id": task_id, "attempt": number}
    tx.execute(insert(artifacts), [common | {name: getattr(file, name) for name in _FIELDS} for file in files])


def of_task(tx: Connection, workspace_id: str, task_id: str) -> list[Artifact]:
    """Return the artifacts of the task's latest attempt, by path."""
    rows = tx.execute(
        select(f.path, f.size, f.sha256, f.url)
        .join(tasks, (tasks.c.id == f.task_id) & (tasks.c.attempt == f.attempt))
        .where(f.workspace_id == workspace_id, f.task_id == task_id)
        .order_by(f.path)
    )
    return [Artifact(*row) for row in rows]


def run_has_outputs(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Return whether tasks of a run have outputs, so that files may be stored even without rows."""
    own = (tasks.c.workspace_id == workspace_id) & (tasks.c.run_id == run_id)
    has_outputs = own & cast(tasks.c.options, Text).like('%"outputs"%')
    return bool(tx.execute(select(exists(select(tasks.c.id).where(has_outputs)))).scalar_one())
