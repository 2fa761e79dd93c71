"""Close and reopen runs. Runs are locked after everything else."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from coordination.domain.tasks.events import EventType, NewEvent
from coordination.store.queries.tasks import events, runs


def close_runs(tx: Connection, workspace_id: str, run_ids: Iterable[str], *, actor: str | None = None) -> list[str]:
    """Close the runs that have no open task, and return their ids. Exactly one caller closes each run."""
    closed = runs.close_if_done(tx, workspace_id, sorted(run_ids))
    finished = [NewEvent(EventType.RUN_FINISHED, run["project_id"], run["id"], actor=actor) for run in closed]
    events.append(tx, workspace_id, finished)
    return [run["id"] for run in closed]


def reopen_run(tx: Connection, workspace_id: str, project_id: str, run_id: str, *, actor: str) -> bool:
    """Reopen a run, and return whether it was closed."""
    was_closed = runs.reopen(tx, workspace_id, run_id)
    if was_closed:
        events.append(tx, workspace_id, [NewEvent(EventType.RUN_REOPENED, project_id, run_id, actor=actor)])
    return was_closed
