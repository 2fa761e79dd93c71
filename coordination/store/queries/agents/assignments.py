"""Statements that say whose a task is."""

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


def give(
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
    """Let a locked task be an agent's, with this job and what it may do."""
    agent_id = None if agent is None else principals.agent_ids(tx, workspace_id, [agent])[agent]
    changed = {
        "agent_id": agent_id,
        "work": dict(work),
        "kind": kind,
        "options": dict(options),
        "carried": dict(carried),
        "authority": authority,
    }
    tx.execute(_of(workspace_id, task_id).values(**changed, updated_at=db_now()))


def wait_for_person(
    tx: Connection, workspace_id: str, task_id: str, *, person: str, reasons: BlockReason, options: Mapping[str, Any]
) -> None:
    """Let a locked task wait for what a person says, and for all other *reasons*."""
    changed = {
        "state": TaskState.BLOCKED,
        "reasons": reasons | BlockReason.QUESTION,
        "enqueued_at": None,
        "agent_id": principals.id_of(tx, workspace_id, f"user:{person}"),
    }
    tx.execute(_of(workspace_id, task_id).values(**changed, options=dict(options), updated_at=db_now()))


def _of(workspace_id: str, task_id: str) -> Any:
    return update(tasks).where(t.workspace_id == workspace_id, t.id == task_id, t.state.in_(_WAITS))
