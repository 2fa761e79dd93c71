"""Retry tasks that ended without success, with the tasks that were canceled because of them."""

from __future__ import annotations

import shlex
from datetime import timedelta

from sqlalchemy import Connection

from coordination.base.errors import IllegalMove, NotFound
from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME
from coordination.domain.plans.plan_expansion import ANSWER
from coordination.domain.tasks.tasks import LIFTED_BY_RETRY, TERMINAL, BlockReason, TaskMove, TaskRecord, TaskState
from coordination.services.attempts.end import reopen_run
from coordination.services.tasks import reopen
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.tasks import dependencies, ready, runs, tasks


def retry_task(
    tx: Connection, workspace_id: str, task_id: str, *, actor: str, lifetime: timedelta = DEFAULT_LIFETIME
) -> list[str]:
    """Reopen a failed or canceled task, and its dependants that were canceled because of it. Return the reopened ids.

    A task with an unknown outcome is queued again, and so is one that has reached a limit, with its counters reset.
    Dependants that went ahead without it wait for it again, or become outdated.
    """
    _lock(tx, workspace_id, [task_id, *(part.id for part in tasks.parts(tx, workspace_id, task_id))])
    return _retry(tx, workspace_id, task_id, actor, lifetime)


def _lock(tx: Connection, workspace_id: str, ids: list[str]) -> None:
    tasks.lock(tx, workspace_id, reopen.with_released_tasks(tx, workspace_id, ids))


def _retry(tx: Connection, workspace_id: str, task_id: str, actor: str, lifetime: timedelta) -> list[str]:
    """Retry a task that is locked with all affected tasks."""
    task = tasks.get(tx, workspace_id, task_id)
    if task is None:
        raise NotFound(f"There is no task {task_id}", hint="See: coord tasks list")
    if task.state is TaskState.BLOCKED and task.reasons & LIFTED_BY_RETRY:
        if BlockReason.LIMIT in task.reasons:
            tasks.reset_counters(tx, workspace_id, task_id)
        ready.lift_from(tx, workspace_id, [task_id], LIFTED_BY_RETRY)
        reopened = [task_id]
    elif task.state not in TERMINAL or task.state is TaskState.COMPLETED:
        key = shlex.quote(task.key)
        again = f"Run it again: coord tasks force {key} queued --reason 'once more'"
        hint = again if task.state is TaskState.COMPLETED else f"See: coord explain {key}"
        raise IllegalMove(TaskMove.REOPEN, task.state, hint=hint)
    else:
        reopened = [*_reopen_parts(tx, workspace_id, task), *reopen.reopen_with_dependants(tx, workspace_id, [task_id])]
        for id_ in reopened:
            reopen.revoke_releases(tx, workspace_id, id_)
    reopen_run(tx, workspace_id, task.project_id, task.run_id, actor=actor)
    supervisors.ensure(
        tx, workspace_id, task.project_id, session_key=f"supervisor:retry:{task.run_id}", lifetime=lifetime
    )
    reopen.write_retried(tx, task, reopened, actor=actor, by="person")
    return reopened


def _reopen_parts(tx: Connection, workspace_id: str, task: TaskRecord) -> list[str]:
    """Reopen the task's parts (variants, reviews) that ended without success; the task waits for them again."""
    ended_badly = [
        part for part in tasks.parts(tx, workspace_id, task.id) if part.state in (TaskState.FAILED, TaskState.CANCELED)
    ]
    reopened = [id_ for part in ended_badly for id_ in reopen.reopen_with_dependants(tx, workspace_id, [part.id])]
    # It does not wait for tasks that were to answer its earlier questions.
    awaited = [part.id for part in ended_badly if ANSWER not in part.options["role"]]
    if awaited:
        dependencies.add_waits(tx, workspace_id, task.id, awaited)
        tasks.set_carried(tx, workspace_id, task.id, {})
    return reopened


def retry_run(
    tx: Connection, workspace_id: str, run_id: str, *, actor: str, lifetime: timedelta = DEFAULT_LIFETIME
) -> list[str]:
    """Retry every failed or canceled task of a run, and return the reopened ids."""
    if runs.get(tx, workspace_id, run_id) is None:
        raise NotFound(f"There is no run {run_id}", hint="See: coord runs list")
    reopened: list[str] = []
    bad = TaskState.FAILED, TaskState.CANCELED
    _lock(tx, workspace_id, [task.id for task in tasks.of_run(tx, workspace_id, run_id) if task.state in bad])
    for task in tasks.of_run(tx, workspace_id, run_id):
        if task.state in bad and task.id not in reopened:
            reopened += _retry(tx, workspace_id, task.id, actor, lifetime)
    return reopened
