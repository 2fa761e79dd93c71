"""Force a task into a state on behalf of an operator.

Completed and failed are written as the end of an attempt of the operator. Its number is above every worker's, so that
later writes of workers are fenced off, and the end has the usual effects. A running attempt keeps its lease and slots
until its worker has ended the job or the lease expires, so that no other attempt starts meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import Conflict, NotFound, Refused
from coordination.base.ids import new_id
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.retry import Complete, GiveUp
from coordination.domain.tasks.tasks import TaskRecord, TaskState, check_forced
from coordination.services.attempts.end import cancel_tasks, close_ended_runs, end_attempts, reopen_run
from coordination.services.tasks import reopen
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.tasks import attempts, events, tasks
from coordination.store.queries.tasks import force_state as rows

_ENDED_BADLY = (TaskState.FAILED, TaskState.CANCELED)
_LEASE = timedelta(seconds=1)  # of an attempt that ends in the transaction that opens it
_LONGEST_REASON = 2000


@dataclass(frozen=True, slots=True)
class ForceResult:
    """The effects. ``fenced``: (task id, attempt) pairs that may still run; the caller signals them to stop."""

    project_id: str
    before: TaskState
    state: TaskState
    fenced: list[tuple[str, int]]
    reopened: list[str]


def force_task(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    target: TaskState,
    *,
    actor: str,
    reason: str,
    output: Any = None,
    lifetime: timedelta = DEFAULT_LIFETIME,
) -> ForceResult:
    """Set the task's state to *target*: queued, completed, failed or canceled.

    Completed releases the dependants with *output*, and reopens those that were canceled because the task had ended
    without success. Failed and canceled apply the failure policies of the dependants. Queued runs the task again and
    waives its dependencies. Tasks that an ended task had released wait for it again; those that have started become
    outdated. Raises NotFound, Refused (no reason, invalid target), IllegalMove (it is in that state already).
    """
    reason = " ".join(reason.split())[:_LONGEST_REASON]
    if not reason:
        raise Refused(
            "A forced state needs a reason, which is stored in the event log", hint="Pass --reason TEXT", field="reason"
        )
    if output is not None and target is not TaskState.COMPLETED:
        raise Refused(f"Only a completed task has an output; {target} has none", field="output")
    # Tasks that it had released may wait for it again, and are canceled with it then.
    tasks.lock(tx, workspace_id, reopen.with_released_tasks(tx, workspace_id, [task_id]))
    if target is TaskState.QUEUED:
        rows.waive_dependencies(tx, workspace_id, task_id)
    task = tasks.get(tx, workspace_id, task_id)
    if task is None:
        raise NotFound(f"There is no task {task_id}", hint="See: coord tasks list")
    check_forced(task.state, target)
    running = [(task_id, number) for number in rows.open_attempts(tx, workspace_id, task_id)]
    _write_event(tx, task, target, actor=actor, reason=reason, running=[number for _, number in running])
    _revoke_releases(tx, task, target)
    reopened: list[str] = []
    if task.state in _ENDED_BADLY and target not in _ENDED_BADLY:
        canceled = reopen.canceled_because_of(tx, workspace_id, [task_id])
        reopened = reopen.reopen_with_dependants(tx, workspace_id, canceled)
    if target is TaskState.QUEUED:
        _ensure(rows.queue(tx, workspace_id, task))
    elif target is TaskState.CANCELED:
        if task.finished_at is not None:
            _ensure(rows.queue(tx, workspace_id, task))
        cancel_tasks(tx, workspace_id, task.project_id, [task_id], actor=actor, why=reason, nowait=True)
    else:
        _end(tx, task, target, actor=actor, reason=reason, output=output)
    _keep_going(tx, task, actor, reopened, lifetime)
    return ForceResult(task.project_id, task.state, target, running, reopened)


def _revoke_releases(tx: Connection, task: TaskRecord, target: TaskState) -> None:
    """Make the tasks that this one had released wait again, or mark them as outdated."""
    if task.state is TaskState.COMPLETED or (task.state in _ENDED_BADLY and target is TaskState.QUEUED):
        reopen.revoke_releases(tx, task.workspace_id, task.id)
    elif task.state in _ENDED_BADLY and target is TaskState.COMPLETED:
        rows.mark_outdated(tx, task.workspace_id, task.id)


def _end(tx: Connection, task: TaskRecord, target: TaskState, *, actor: str, reason: str, output: Any) -> None:
    """Claim the task for the operator, and end that attempt."""
    number = rows.seize(tx, task.workspace_id, task)
    _ensure(number is not None)
    assert number is not None  # noqa: S101 - ensured
    row = {"task_id": task.id, "number": number, "worker_id": new_id(), "slots": None}  # no worker has this id
    row |= {name: getattr(task, name) for name in ("workspace_id", "project_id", "run_id")}
    attempts.insert_many(tx, [row], lease=_LEASE)
    completes = target is TaskState.COMPLETED
    end = AttemptEnd(Outcome.COMPLETED, output) if completes else AttemptEnd(Outcome.FAILED, error=f"forced: {reason}")
    decision = Complete() if completes else GiveUp(reason)
    ended = EndedAttempt(task.id, number, task.run_id, task.key, end, decision, event_fields={"forced": True})
    effects = end_attempts(tx, task.workspace_id, task.project_id, [ended], actor=actor, nowait=True)
    close_ended_runs(tx, task.workspace_id, effects)


def _keep_going(tx: Connection, task: TaskRecord, actor: str, reopened: list[str], lifetime: timedelta) -> None:
    """Reopen the run if it has an open task, and ensure a supervisor. Runs are locked last."""
    reopen.write_retried(tx, task, reopened, actor=actor, by="force")
    if not tasks.open_states(tx, task.workspace_id, task.run_id, limit=1):
        return
    reopen_run(tx, task.workspace_id, task.project_id, task.run_id, actor=actor)
    supervisors.ensure(
        tx, task.workspace_id, task.project_id, session_key=f"supervisor:force:{task.run_id}", lifetime=lifetime
    )


def _write_event(
    tx: Connection, task: TaskRecord, target: TaskState, *, actor: str, reason: str, running: list[int]
) -> None:
    payload: dict[str, Any] = {"from": task.state.value, "to": target.value, "reason": reason}
    if running:
        payload["fenced"] = running
    number = task.attempt or None
    event = NewEvent(EventType.FORCED, task.project_id, task.run_id, task.id, number, actor, payload)
    events.append(tx, task.workspace_id, [event])


def _ensure(moved: bool) -> None:  # noqa: FBT001 - an assertion that survives -O
    if not moved:
        raise Conflict("The task changed while it was being forced", hint="Check its state, and try again")
