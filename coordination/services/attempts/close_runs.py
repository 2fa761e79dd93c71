"""Close runs that have no open task. Runs are locked last of all."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from coordination.domain.tasks.events import EventType, NewEvent
from coordination.store.queries.tasks import events, runs


def close_runs(tx: Connection, workspace_id: str, run_ids: Iterable[str], *, actor: str | None = None) -> list[str]:
    """Write the end of those runs that have no open task; exactly one caller closes each. Return which were closed."""
    closed = runs.close_if_done(tx, workspace_id, sorted(run_ids))
    finished = [NewEvent(EventType.RUN_FINISHED, run["project_id"], run["id"], actor=actor) for run in closed]
    events.append(tx, workspace_id, finished)
    return [run["id"] for run in closed]
