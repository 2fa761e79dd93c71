"""Statements on the reasons that block tasks: subject and start."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, delete

from coordination.domain.tasks.tasks import BlockReason
from coordination.store.bulk import insert_into
from coordination.store.tables.tasks.task_holds import task_holds
from coordination.store.types import db_now

h = task_holds.c


def record_holds(
    tx: Connection, workspace_id: str, ids: Collection[str], reason: BlockReason, subjects: Mapping[str, str]
) -> None:
    """Record that *reason* blocks these tasks from now on. *subjects*: by task id, the id of its cause."""
    rows = [
        {"workspace_id": workspace_id, "task_id": task_id, "reason": name, "subject": subjects.get(task_id)}
        for task_id in sorted(ids)
        for name in reason.names()
    ]
    if rows:
        statement = insert_into(tx, task_holds)
        values = {"subject": statement.excluded.subject, "since": db_now()}
        tx.execute(
            statement.on_conflict_do_update(index_elements=["workspace_id", "task_id", "reason"], set_=values), rows
        )


def remove_holds(tx: Connection, workspace_id: str, ids: Collection[str], reason: BlockReason) -> None:
    """Record that *reason* no longer blocks these tasks."""
    where = h.workspace_id == workspace_id, h.task_id.in_(ids), h.reason.in_(reason.names())
    tx.execute(delete(task_holds).where(*where))
