"""What tasks are expected to cost, as far as that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from coordination.domain.estimates import Estimate


def expected(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """By the task's id. Rows: id, project_id, kind, work, options."""
    from coordination.money import usd

    found = {}
    for row in rows:
        stated = row["options"].get("estimate")
        if stated:
            found[row["id"]] = Estimate(usd(stated.get("usd", 0)), stated.get("tokens", 0), 0, "plan")
        else:
            known = "agent" not in row["work"] and "chat" not in row["work"]
            found[row["id"]] = Estimate(source="none" if known else "unknown")
    return found
