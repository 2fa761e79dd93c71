"""Rescue tasks whose worker is gone: the attempt is closed as lost, the task queued again, blocked or failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from coordination.base.started_jobs import Started
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.retry import Backoff, Decision, GiveUp, StayCanceled, decide, losses_after
from coordination.domain.tasks.tasks import TaskState
from coordination.services.attempts.end import end_attempts, lock_ends
from coordination.services.attempts.records import Ended, Ending
from coordination.store.queries.tasks import attempts


def rescue_expired(tx: Connection, workspace_id: str, project_id: str) -> Ended:
    """End attempts of the project whose lease has run out by the database's clock, a bounded batch at a time.

    The caller gives back what they had reserved (``closing``) and closes the runs that this ended.
    """
    found = attempts.lock_expired(tx, workspace_id, project_id)
    return _lost(tx, workspace_id, project_id, found, why="its lease ran out", started=None, alone=False)


def rescue_worker(
    tx: Connection, workspace_id: str, worker_id: str, *, started: Started | None = None, alone: bool = False
) -> dict[str, Ended]:
    """End all attempts of a worker that is known to be dead, without waiting for its leases; by project.

    Called once in a transaction: whoever holds slots waits for no more tasks. *started*: those whose jobs it was at;
    None: nobody knows. *alone*: it ran nothing else, and nothing else died. The caller does the same as after
    ``rescue_expired``.
    """
    found = attempts.lock_of_worker(tx, workspace_id, worker_id)
    by_project: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        by_project.setdefault(row["project_id"], []).append(row)
    why = "its worker process died"
    endings = [_ending(row, why, started, alone=alone) for row in found]
    lock_ends(tx, workspace_id, endings, late=True)  # of all projects, before any slot
    return {
        project_id: _lost(tx, workspace_id, project_id, rows, why=why, started=started, alone=alone)
        for project_id, rows in sorted(by_project.items())
    }


def _lost(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    found: Sequence[dict[str, Any]],
    *,
    why: str,
    started: Started | None,
    alone: bool,
) -> Ended:
    if not found:
        return Ended()
    endings = [_ending(row, why, started, alone=alone) for row in found]
    return end_attempts(tx, workspace_id, project_id, endings, close_runs=False, late=True)


def _ending(row: dict[str, Any], why: str, started: Started | None, *, alone: bool) -> Ending:
    # Where nobody knows, a process group was written down for what had run for a second.
    suspect = row["pgid"] is not None if started is None else (row["task_id"], row["number"]) in started
    losses = losses_after(row["losses"], suspect=suspect, alone=alone)
    holds = row["state"] == TaskState.RUNNING and row["attempt"] == row["number"]
    decision: Decision = StayCanceled()
    if holds:
        decision = decide(
            Outcome.LOST,
            failures=row["failures"],
            losses=losses,
            deferrals=row["deferrals"],
            max_attempts=row["max_attempts"],
            repeatable=row["repeatable"],
            backoff=Backoff(),
        )
    error = f"attempt {row['number']} was lost: {why}"
    return Ending(
        task_id=row["task_id"],
        attempt=row["number"],
        run_id=row["run_id"],
        key=row["key"],
        outcome=Outcome.LOST if holds else Outcome.CANCELED,
        decision=decision,
        actor="supervisor",
        error=f"{error}; {decision.why}" if isinstance(decision, GiveUp) else error,
        losses=losses,
        began=started is None or suspect or alone,
        slots=tuple(row["slots"] or ()),
        budgeted=row["reserved"] is not None,
        payload={"worker": row["worker_id"]},
    )
