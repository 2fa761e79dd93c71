"""Statements that store new tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection

from coordination.store.bulk import insert_rows
from coordination.store.queries.access import principals
from coordination.store.tables.tasks.tasks import tasks


def insert(
    tx: Connection, workspace_id: str, rows: Iterable[dict[str, Any]], *, creator: str, agents: Collection[str]
) -> None:
    """Store new tasks of *creator*. The ``agent`` of each row is a name in *agents*, or None."""
    created_by = principals.id_of(tx, workspace_id, creator)
    ids: dict[str | None, str | None] = {None: None}
    if agents:
        ids.update(principals.agent_ids(tx, workspace_id, agents))
    insert_rows(tx, tasks, (_complete_row(row, workspace_id, created_by, ids) for row in rows))


def _complete_row(
    row: dict[str, Any], workspace_id: str, created_by: str, agents: Mapping[str | None, str | None]
) -> dict[str, Any]:
    row["workspace_id"] = workspace_id
    row["created_by"] = created_by
    row["agent_id"] = agents[row.pop("agent")]
    return row
