"""Concurrency limits of a project: in total, per agent, per key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.store.queries.tasks import slots


def set_limits(
    tx: Connection, workspace_id: str, project_id: str, caps: Mapping[str, int | None]
) -> list[dict[str, Any]]:
    """Set these limits (``project``, ``agent:NAME``, ``key:NAME``; None removes one), and return all limits.

    Running tasks continue, even above a lowered limit.
    """
    for name, cap in caps.items():
        if cap is not None and cap < 0:
            raise Refused(f"The limit {name} cannot be {cap}", hint="0 stops it, 1 lets one task run at a time")
    for name in sorted(name for name, cap in caps.items() if cap is None):
        slots.drop(tx, workspace_id, project_id, name)
    slots.set_caps(tx, workspace_id, project_id, {name: cap for name, cap in caps.items() if cap is not None})
    return slots.list_slots(tx, workspace_id, project_id)
