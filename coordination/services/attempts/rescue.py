"""Rescue tasks whose worker is gone: the attempt is closed as lost, the task queued again, blocked or failed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from coordination.base.started_jobs import Started
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.retry import Backoff, Decision, GiveUp, StayCanceled, decide, losses_after
from coordination.domain.tasks.tasks import TaskState
from coordination.services.attempts.end import end_attempts, lock_ends
from coordination.services.attempts.end_effects import EndEffects
from coordination.store.queries.tasks import attempts

_ACTOR = "supervisor"


def rescue_expired(tx: Connection, workspace_id: str, project_id: str) -> EndEffects:
    """End attempts of the project whose lease has run out by the database's clock, a bounded batch at a time.

    The caller gives back what they had reserved (``closing``) and closes the runs that this ended.
    """
    found = attempts.lock_expired(tx, workspace_id, project_id)
    ends = [_lost_attempt(row, "its lease ran out", None, alone=False) for row in found]
    return end_attempts(tx, workspace_id, project_id, ends, actor=_ACTOR, late=True) if ends else EndEffects()


def rescue_worker(
    tx: Connection, workspace_id: str, worker_id: str, *, started: Started | None = None, alone: bool = False
) -> dict[str, EndEffects]:
    """End all attempts of a worker that is known to be dead, without waiting for its leases; by project.

    Called once in a transaction: whoever holds slots waits for no more tasks. *started*: those whose jobs it was at;
    None: nobody knows. *alone*: it ran nothing else, and nothing else died. The caller does the same as after
    ``rescue_expired``.
    """
    by_project: dict[str, list[EndedAttempt]] = {}
    for row in attempts.lock_of_worker(tx, workspace_id, worker_id):
        ended = _lost_attempt(row, "its worker process died", started, alone=alone)
        by_project.setdefault(row["project_id"], []).append(ended)
    everything = [ended for ends in by_project.values() for ended in ends]
    lock_ends(tx, workspace_id, everything, late=True)  # of all projects, before any slot
    return {
        project_id: end_attempts(tx, workspace_id, project_id, ends, actor=_ACTOR, late=True)
        for project_id, ends in sorted(by_project.items())
    }


def _lost_attempt(row: dict[str, Any], why: str, started: Started | None, *, alone: bool) -> EndedAttempt:
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
    return EndedAttempt(
        row["task_id"],
        row["number"],
        row["run_id"],
        row["key"],
        AttemptEnd(
            Outcome.LOST if holds else Outcome.CANCELED,
            error=f"{error}; {decision.why}" if isinstance(decision, GiveUp) else error,
            began=started is None or suspect or alone,
        ),
        decision,
        losses=losses,
        slots=tuple(row["slots"] or ()),
        reserved=row["reserved"] is not None,
        more={"worker": row["worker_id"]},
    )
