"""Which living workers run jobs of a workspace: each says so in its row, behind the program's version.

"1.2.0"                   all workspaces, or a program that does not say
"1.2.0 for alice,bob"     these
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, RowMapping, select

from coordination.store.queries import fleet
from coordination.store.tables.projects import workspaces

_FOR = " for "


def version_for(program: str, names: Sequence[str] | None) -> str:
    """Return what a worker's row says of *program* when it runs jobs of the workspaces *names*; None: of all."""
    return program if names is None else f"{program}{_FOR}{','.join(names)}"


def live_for(tx: Connection, workspace_id: str, *, within: timedelta) -> list[RowMapping]:
    """The living workers, not draining, that run jobs of this workspace."""
    name = name_of(tx, workspace_id)
    return [
        row for row in fleet.live(tx, within=within) if row["draining_at"] is None and _serves(row["version"], name)
    ]


def name_of(tx: Connection, workspace_id: str) -> str:
    """The name of a workspace."""
    return str(tx.execute(select(workspaces.c.name).where(workspaces.c.id == workspace_id)).scalar())


def _serves(version: str, name: str) -> bool:
    _, said, names = version.partition(_FOR)
    return not said or name in names.split(",")
