"""Rescue tasks whose worker is gone: close the attempt as lost; queue, block or fail the task."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from coordination.base.started_jobs import Started
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.retry import Backoff, Decision, GiveUp, StayCanceled, count_losses, decide
from coordination.domain.tasks.tasks import TaskState
from coordination.services.attempts.end import EndEffects, end_attempts, lock_ends
from coordination.store.queries.tasks import attempts

_ACTOR = "supervisor"


def rescue_expired(tx: Connection, workspace_id: str, project_id: str) -> EndEffects:
    """End attempts of the project whose lease has expired by the database's clock, a bounded batch at a time.

    The caller settles their reservations (``to_settle``) and closes the runs in ``runs_to_check``.
    """
    rows = attempts.lock_expired(tx, workspace_id, project_id)
    ends = [_lost_attempt(row, "its lease ran out", None, alone=False) for row in rows]
    return end_attempts(tx, workspace_id, project_id, ends, actor=_ACTOR, nowait=True) if ends else EndEffects()


def rescue_worker(
    tx: Connection, workspace_id: str, worker_id: str, *, started: Started | None = None, alone: bool = False
) -> dict[str, EndEffects]:
    """End all attempts of a dead worker without waiting for their leases, and return the effects by project.

    Call it once per transaction: a transaction that has locked slots must not wait for tasks. *started*: the attempts
    whose jobs had started; None: unknown. *alone*: the dead process ran only this attempt. The caller then does the
    same as after ``rescue_expired``.
    """
    by_project: dict[str, list[EndedAttempt]] = {}
    for row in attempts.lock_of_worker(tx, workspace_id, worker_id):
        ended = _lost_attempt(row, "its worker process died", started, alone=alone)
        by_project.setdefault(row["project_id"], []).append(ended)
    everything = [ended for ends in by_project.values() for ended in ends]
    lock_ends(tx, workspace_id, everything, nowait=True)  # of all projects, before any slot
    return {
        project_id: end_attempts(tx, workspace_id, project_id, ends, actor=_ACTOR, nowait=True)
        for project_id, ends in sorted(by_project.items())
    }


def _lost_attempt(row: dict[str, Any], why: str, started: Started | None, *, alone: bool) -> EndedAttempt:
    # If unknown: a process group is recorded for jobs that have run for a second.
    suspect = row["pgid"] is not None if started is None else (row["task_id"], row["number"]) in started
    losses = count_losses(row["losses"], suspect=suspect, alone=alone)
    is_current = row["state"] == TaskState.RUNNING and row["attempt"] == row["number"]
    decision: Decision = StayCanceled()
    if is_current:
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
            Outcome.LOST if is_current else Outcome.CANCELED,
            error=f"{error}; {decision.why}" if isinstance(decision, GiveUp) else error,
            job_started=started is None or suspect or alone,
        ),
        decision,
        losses=losses,
        slots=tuple(row["slots"] or ()),
        has_reservation=row["reserved"] is not None,
        event_fields={"worker": row["worker_id"]},
    )
