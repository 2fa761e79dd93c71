"""Close runs whose last tasks ended side by side: called after the commit that could not see the others' end."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from coordination.domain.tasks.events import EventType
from coordination.store.queries.tasks import events, runs


def close_runs(tx: Connection, workspace_id: str, run_ids: Iterable[str]) -> list[str]:
    """Write the end of those runs that have no open task; exactly one caller closes each."""
    closed = runs.close_if_done(tx, workspace_id, sorted(run_ids))
    events.append(
        tx,
        workspace_id,
        [{"project_id": row["project_id"], "run_id": row["id"], "type": EventType.RUN_FINISHED} for row in closed],
    )
    return [row["id"] for row in closed]
