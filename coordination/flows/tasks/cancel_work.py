"""Cancel a task or a run. After the commit, the caller signals the workers of running attempts."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from coordination.base.errors import NotFound
from coordination.domain.tasks.tasks import OPEN
from coordination.services.attempts.end import cancel_tasks
from coordination.store.queries.tasks import runs, tasks


@dataclass(frozen=True, slots=True)
class CancelResult:
    """The (task id, attempt) pairs that were canceled, and the ids of tasks that became ready (``freed``)."""

    project_id: str
    tasks: list[tuple[str, int]]
    freed: list[str]


def cancel_run(tx: Connection, workspace_id: str, run_id: str, *, actor: str, why: str) -> CancelResult:
    """Cancel every open task of a run. An ended run stays as it is."""
    run = runs.get(tx, workspace_id, run_id)
    if run is None:
        raise NotFound(f"There is no run {run_id}", hint="See: coord runs list")
    canceled, effects = cancel_tasks(
        tx, workspace_id, run.project_id, tasks.open_ids(tx, workspace_id, run_id), actor=actor, why=why
    )
    return CancelResult(run.project_id, canceled, effects.freed)


def cancel_task(tx: Connection, workspace_id: str, task_id: str, *, actor: str, why: str) -> CancelResult:
    """Cancel a task, and apply the failure policies of its dependants. An ended task stays as it is."""
    task = tasks.get(tx, workspace_id, task_id)
    if task is None:
        raise NotFound(f"There is no task {task_id}", hint="See: coord tasks list")
    ids = [task_id, *(part.id for part in tasks.parts(tx, workspace_id, task_id) if part.state in OPEN)]
    canceled, effects = cancel_tasks(tx, workspace_id, task.project_id, ids, actor=actor, why=why)
    return CancelResult(task.project_id, canceled, effects.freed)
