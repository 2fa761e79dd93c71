"""Statements that assign tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, update

from coordination.domain.tasks.tasks import BlockReason, TaskState
from coordination.store.queries.access import principals
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now

t = tasks.c
_WAITS = (TaskState.BLOCKED, TaskState.QUEUED)


def assign_agent(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    *,
    agent: str | None,
    work: Mapping[str, Any],
    kind: str,
    options: Mapping[str, Any],
    carried: Mapping[str, Any],
    authority: Mapping[str, Any] | None,
) -> None:
    """Assign a locked task to an agent, with its job, options and authority."""
    agent_id = None if agent is None else principals.agent_ids(tx, workspace_id, [agent])[agent]
    values: dict[str, Any] = {"agent_id": agent_id, "work": dict(work), "kind": kind, "options": dict(options)}
    values |= {"carried": dict(carried), "authority": authority, "updated_at": db_now()}
    tx.execute(_update_waiting(workspace_id, task_id).values(**values))


def assign_person(
    tx: Connection, workspace_id: str, task_id: str, *, person: str, reasons: BlockReason, options: Mapping[str, Any]
) -> None:
    """Assign a locked task to a person, for whose answer it waits besides all other *reasons*."""
    values = {
        "state": TaskState.BLOCKED,
        "reasons": reasons | BlockReason.QUESTION,
        "enqueued_at": None,
        "agent_id": principals.id_of(tx, workspace_id, f"user:{person}"),
    }
    tx.execute(_update_waiting(workspace_id, task_id).values(**values, options=dict(options), updated_at=db_now()))


def _update_waiting(workspace_id: str, task_id: str) -> Any:
    return update(tasks).where(t.workspace_id == workspace_id, t.id == task_id, t.state.in_(_WAITS))
