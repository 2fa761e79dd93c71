"""Rescue tasks whose worker is gone: the attempt is closed as lost, the task queued again, blocked or failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from coordination.domain.attempts import Outcome
from coordination.domain.plans import Backoff
from coordination.domain.retry import StayCanceled, decide
from coordination.domain.tasks import TaskState
from coordination.services.endings.end import end_attempts
from coordination.services.endings.records import Ended, Ending
from coordination.store.queries import attempts


def rescue_expired(tx: Connection, workspace_id: str, project_id: str) -> Ended:
    """End attempts of the project whose lease has run out by the database's clock, a bounded batch at a time.

    The caller gives back what they had reserved (``closing``) and closes the runs that this ended.
    """
    found = attempts.lock_expired(tx, workspace_id, project_id)
    return _lost(tx, workspace_id, project_id, found, why="its lease ran out")


def rescue_worker(tx: Connection, workspace_id: str, worker_id: str) -> dict[str, Ended]:
    """End all attempts of a worker that is known to be dead, without waiting for its leases; by project.

    The caller does the same as after ``rescue_expired``.
    """
    found = attempts.lock_of_worker(tx, workspace_id, worker_id)
    by_project: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        by_project.setdefault(row["project_id"], []).append(row)
    return {
        project_id: _lost(tx, workspace_id, project_id, rows, why="its worker process died")
        for project_id, rows in by_project.items()
    }


def _lost(tx: Connection, workspace_id: str, project_id: str, found: Sequence[dict[str, Any]], *, why: str) -> Ended:
    if not found:
        return Ended()
    return end_attempts(tx, workspace_id, project_id, [_ending(row, why) for row in found], close_runs=False)


def _ending(row: dict[str, Any], why: str) -> Ending:
    holds = row["state"] == TaskState.RUNNING and row["attempt"] == row["number"]
    outcome = Outcome.LOST if holds else Outcome.CANCELED
    return Ending(
        task_id=row["task_id"],
        attempt=row["number"],
        run_id=row["run_id"],
        key=row["key"],
        outcome=outcome,
        decision=decide(
            Outcome.LOST,
            failures=row["failures"],
            losses=row["losses"] + 1,
            deferrals=row["deferrals"],
            max_attempts=row["max_attempts"],
            repeatable=row["repeatable"],
            backoff=Backoff(),
        )
        if holds
        else StayCanceled(),
        actor="supervisor",
        error=f"attempt {row['number']} was lost: {why}",
        slots=tuple(row["slots"] or ()),
        budgeted=row["reserved"] is not None,
        payload={"worker": row["worker_id"]},
    )
