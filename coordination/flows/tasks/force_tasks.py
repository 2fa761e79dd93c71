"""An operator sets a task's state by force: whatever still runs is fenced off, and the rest of the plan follows.

Completed and failed are written as the end of an attempt that the operator holds: its number is above every worker's,
so nothing that a worker still writes can count, and what a completion or a failure brings about is what it always is.
An attempt that runs keeps its lease and its slots until its worker has ended the job (or the lease has run out):
nothing starts beside it.
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
from coordination.domain.tasks.tasks import TaskRecord, TaskState, forced
from coordination.services.attempts.end import cancel_tasks, close_ended_runs, end_attempts
from coordination.services.tasks import reopen
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.tasks import attempts, events, runs, tasks
from coordination.store.queries.tasks import force_state as rows

_ENDED_BADLY = (TaskState.FAILED, TaskState.CANCELED)
_LEASE = timedelta(seconds=1)  # of an attempt that ends in the transaction that opens it
_LONGEST_REASON = 2000


@dataclass(frozen=True, slots=True)
class ForceResult:
    """What happened. ``fenced``: (task id, attempt) pairs that may still run and must be told to stop."""

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

    Completed releases what waits for it (*output* is what they get to see), also what was canceled only because the
    task had ended without success. Failed and canceled are passed on as the plan asks. Queued runs it again, whatever
    it waited for. What an ended task had released waits for it again; what has begun by then is outdated. Raises
    NotFound, Refused (no reason, no such target), IllegalMove (it is that already).
    """
    reason = " ".join(reason.split())[:_LONGEST_REASON]
    if not reason:
        raise Refused(
            "A forced state needs a reason: it is kept in the task's story",
            hint="Say it with --reason TEXT",
            field="reason",
        )
    if output is not None and target is not TaskState.COMPLETED:
        raise Refused(f"Only a completed task has an output; {target} has none", field="output")
    # What it had released may wait for it again, and is canceled with it then.
    tasks.lock(tx, workspace_id, reopen.with_released(tx, workspace_id, [task_id]))
    if target is TaskState.QUEUED:
        rows.waive_needs(tx, workspace_id, task_id)
    task = tasks.get(tx, workspace_id, task_id)
    if task is None:
        raise NotFound(f"There is no task {task_id}", hint="See: coord tasks list")
    forced(task.state, target)
    running = [(task_id, number) for number in rows.open_attempts(tx, workspace_id, task_id)]
    _tell(tx, task, target, actor=actor, reason=reason, running=[number for _, number in running])
    _released_before(tx, task, target)
    reopened: list[str] = []
    if task.state in _ENDED_BADLY and target not in _ENDED_BADLY:
        reopened = reopen.reopen_dependants(tx, workspace_id, task_id)
    if target is TaskState.QUEUED:
        _sure(rows.queue(tx, workspace_id, task))
    elif target is TaskState.CANCELED:
        if task.finished_at is not None:
            _sure(rows.queue(tx, workspace_id, task))
        cancel_tasks(tx, workspace_id, task.project_id, [task_id], actor=actor, why=reason, late=True)
    else:
        _end(tx, task, target, actor=actor, reason=reason, output=output)
    _keep_going(tx, task, actor, reopened, lifetime)
    return ForceResult(task.project_id, task.state, target, running, reopened)


def _released_before(tx: Connection, task: TaskRecord, target: TaskState) -> None:
    """What the task had released when it ended: it waits again, or was given what does not count any more."""
    if task.state is TaskState.COMPLETED or (task.state in _ENDED_BADLY and target is TaskState.QUEUED):
        reopen.take_releases_back(tx, task.workspace_id, task.id)
    elif task.state in _ENDED_BADLY and target is TaskState.COMPLETED:
        rows.note_outdated(tx, task.workspace_id, task.id)


def _end(tx: Connection, task: TaskRecord, target: TaskState, *, actor: str, reason: str, output: Any) -> None:
    """Claim the task for the operator, and end that attempt."""
    number = rows.seize(tx, task.workspace_id, task)
    _sure(number is not None)
    assert number is not None  # noqa: S101 - just made sure
    attempts.insert_many(
        tx,
        [
            {
                "task_id": task.id,
                "number": number,
                "workspace_id": task.workspace_id,
                "project_id": task.project_id,
                "run_id": task.run_id,
                "worker_id": new_id(),  # nobody's: no worker has it
                "slots": None,
            }
        ],
        lease=_LEASE,
    )
    completes = target is TaskState.COMPLETED
    end = AttemptEnd(Outcome.COMPLETED, output) if completes else AttemptEnd(Outcome.FAILED, error=f"forced: {reason}")
    decision = Complete() if completes else GiveUp(reason)
    ended = EndedAttempt(task.id, number, task.run_id, task.key, end, decision, more={"forced": True})
    effects = end_attempts(tx, task.workspace_id, task.project_id, [ended], actor=actor, late=True)
    close_ended_runs(tx, task.workspace_id, effects)


def _keep_going(tx: Connection, task: TaskRecord, actor: str, reopened: list[str], lifetime: timedelta) -> None:
    """A run with an open task is open, and its project has a supervisor. After all tasks are locked: runs come last."""
    events.append(
        tx,
        task.workspace_id,
        [
            NewEvent(EventType.RETRIED, task.project_id, task.run_id, id_, actor=actor, payload={"by": "force"})
            for id_ in reopened
        ],
    )
    if not tasks.open_states(tx, task.workspace_id, task.run_id, limit=1):
        return
    if runs.reopen(tx, task.workspace_id, task.run_id):
        reopening = NewEvent(EventType.RUN_REOPENED, task.project_id, task.run_id, actor=actor)
        events.append(tx, task.workspace_id, [reopening])
    supervisors.ensure(
        tx,
        task.workspace_id,
        task.project_id,
        session_key=f"supervisor:force:{task.run_id}",
        lifetime=lifetime,
    )


def _tell(tx: Connection, task: TaskRecord, target: TaskState, *, actor: str, reason: str, running: list[int]) -> None:
    payload: dict[str, Any] = {"from": task.state.value, "to": target.value, "reason": reason}
    if running:
        payload["fenced"] = running
    number = task.attempt or None
    event = NewEvent(EventType.FORCED, task.project_id, task.run_id, task.id, number, actor, payload)
    events.append(tx, task.workspace_id, [event])


def _sure(moved: bool) -> None:  # noqa: FBT001 - an assertion that survives -O
    if not moved:
        raise Conflict("The task changed while it was being forced", hint="Look at it, and try again")
