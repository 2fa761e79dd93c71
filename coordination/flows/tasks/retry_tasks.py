"""Retry what ended without success, by a person: the task, and what was canceled only because it had failed."""

from __future__ import annotations

import shlex
from datetime import timedelta

from sqlalchemy import Connection

from coordination.base.errors import IllegalMove, NotFound
from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.domain.plans.plan_expansion import ANSWER
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.tasks import FOR_A_PERSON, TERMINAL, BlockReason, TaskMove, TaskRecord, TaskState
from coordination.services.tasks.reopen import reopen_with_dependants, take_releases_back, with_released
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.tasks import dependencies, events, ready, runs, tasks


def retry_task(
    tx: Connection, workspace_id: str, task_id: str, *, actor: str, lifetime: timedelta = DEFAULT_LIFETIME
) -> list[str]:
    """Reopen a failed or canceled task with fresh attempts, and its dependants that were canceled because of it.

    A task that is blocked because its outcome is unknown is queued again, and one that has reached a limit too, with
    fresh counts. What was begun without it although it had failed waits for it again, or is outdated. Returns the ids
    that were reopened.
    """
    _lock(tx, workspace_id, [task_id, *(part.id for part in tasks.parts(tx, workspace_id, task_id))])
    return _retry(tx, workspace_id, task_id, actor, lifetime)


def _lock(tx: Connection, workspace_id: str, ids: list[str]) -> None:
    tasks.lock(tx, workspace_id, with_released(tx, workspace_id, ids))


def _retry(tx: Connection, workspace_id: str, task_id: str, actor: str, lifetime: timedelta) -> list[str]:
    """Retry a task that is locked with all that its end concerned."""
    task = tasks.get(tx, workspace_id, task_id)
    if task is None:
        raise NotFound(f"There is no task {task_id}", hint="See: coord tasks list")
    if task.state is TaskState.BLOCKED and task.reasons & FOR_A_PERSON:
        if BlockReason.LIMIT in task.reasons:
            tasks.count_anew(tx, workspace_id, task_id)
        ready.lift_from(tx, workspace_id, [task_id], FOR_A_PERSON)
        reopened = [task_id]
    elif task.state not in TERMINAL or task.state is TaskState.COMPLETED:
        completed = task.state is TaskState.COMPLETED
        key = shlex.quote(task.key)
        hint = (
            f"Run it again: coord tasks force {key} queued --reason 'once more'"
            if completed
            else f"See: coord explain {key}"
        )
        raise IllegalMove(TaskMove.REOPEN, task.state, hint=hint)
    else:
        reopened = [*_reopen_parts(tx, workspace_id, task), *reopen_with_dependants(tx, workspace_id, task_id)]
        for again in reopened:
            take_releases_back(tx, workspace_id, again)
    if runs.reopen(tx, workspace_id, task.run_id):
        reopening = NewEvent(EventType.RUN_REOPENED, task.project_id, task.run_id, actor=actor)
        events.append(tx, workspace_id, [reopening])
    supervisors.ensure(
        tx, workspace_id, task.project_id, session_key=f"supervisor:retry:{task.run_id}", lifetime=lifetime
    )
    events.append(
        tx,
        workspace_id,
        [
            NewEvent(EventType.RETRIED, task.project_id, task.run_id, id_, actor=actor, payload={"by": "person"})
            for id_ in reopened
        ],
    )
    return reopened


def _reopen_parts(tx: Connection, workspace_id: str, task: TaskRecord) -> list[str]:
    """What the system made of the task begins anew, as far as it ended badly; the task waits for it again."""
    bad = [
        part for part in tasks.parts(tx, workspace_id, task.id) if part.state in (TaskState.FAILED, TaskState.CANCELED)
    ]
    reopened = [one for part in bad for one in reopen_with_dependants(tx, workspace_id, part.id)]
    # It does not wait for what was to answer a question of its last life.
    awaited = [part.id for part in bad if ANSWER not in part.options["role"]]
    if awaited:
        dependencies.hold(tx, workspace_id, task.id, awaited)
        tasks.carry(tx, workspace_id, task.id, {})
    return reopened


def retry_run(
    tx: Connection, workspace_id: str, run_id: str, *, actor: str, lifetime: timedelta = DEFAULT_LIFETIME
) -> list[str]:
    """Retry every failed task of a run, and every one that was canceled; the ids that were reopened."""
    if runs.get(tx, workspace_id, run_id) is None:
        raise NotFound(f"There is no run {run_id}", hint="See: coord runs list")
    reopened: list[str] = []
    bad = TaskState.FAILED, TaskState.CANCELED
    _lock(tx, workspace_id, [task.id for task in tasks.of_run(tx, workspace_id, run_id) if task.state in bad])
    for task in tasks.of_run(tx, workspace_id, run_id):
        if task.state in bad and task.id not in reopened:
            reopened += _retry(tx, workspace_id, task.id, actor, lifetime)
    return reopened
