"""Statements that say whose a task is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, update

from coordination.domain.tasks import BlockReason, Task, TaskState
from coordination.store.tables.tasks import tasks
from coordination.store.types import db_now

t = tasks.c


def give(
    tx: Connection,
    task: Task,
    *,
    agent: str | None,
    work: Mapping[str, Any],
    kind: str,
    options: Mapping[str, Any],
    carried: Mapping[str, Any],
) -> None:
    """Let the locked *task* be an agent's, with this job."""
    changed = {"agent": agent, "work": dict(work), "kind": kind, "options": dict(options), "carried": dict(carried)}
    tx.execute(_of(task).values(**changed, updated_at=db_now()))


def wait_for_person(tx: Connection, task: Task, *, person: str, options: Mapping[str, Any]) -> None:
    """Let the locked *task* wait for what a person says."""
    reasons = task.reasons | BlockReason.QUESTION
    changed = {"state": TaskState.BLOCKED, "reasons": reasons, "rung_at": None, "agent": person}
    tx.execute(_of(task).values(**changed, options=dict(options), updated_at=db_now()))


def _of(task: Task) -> Any:
    return update(tasks).where(t.workspace_id == task.workspace_id, t.id == task.id)
