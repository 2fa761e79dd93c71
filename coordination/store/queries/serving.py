"""Which living workers run jobs of a workspace: each says so in its row."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, RowMapping, select

from coordination.store.queries import fleet
from coordination.store.tables.projects import workspaces


def live_for(tx: Connection, workspace_id: str, *, within: timedelta) -> list[RowMapping]:
    """The living workers, not draining, that run jobs of this workspace."""
    name = name_of(tx, workspace_id)
    return [
        row
        for row in fleet.live(tx, within=within)
        if row["draining_at"] is None and (row["serves"] is None or name in row["serves"])
    ]


def name_of(tx: Connection, workspace_id: str) -> str:
    """The name of a workspace."""
    return str(tx.execute(select(workspaces.c.name).where(workspaces.c.id == workspace_id)).scalar())
