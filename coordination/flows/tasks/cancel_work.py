"""Cancel a task or a whole run: the state first, then (by the caller, after the commit) a message to its worker."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from coordination.base.errors import NotFound
from coordination.domain.tasks.tasks import OPEN
from coordination.services.attempts.end import cancel_tasks
from coordination.store.queries.tasks import runs, tasks


@dataclass(frozen=True, slots=True)
class CancelResult:
    """The (task id, attempt) pairs that were open and are canceled now, what was freed by it, and the project."""

    project_id: str
    tasks: list[tuple[str, int]]
    freed: list[str]


def cancel_run(tx: Connection, workspace_id: str, run_id: str, *, actor: str, why: str) -> CancelResult:
    """Cancel every open task of a run; canceling an ended run changes nothing."""
    run = runs.get(tx, workspace_id, run_id)
    if run is None:
        raise NotFound(f"There is no run {run_id}", hint="See: coord runs list")
    canceled, ended = cancel_tasks(
        tx, workspace_id, run.project_id, tasks.open_ids(tx, workspace_id, run_id), actor=actor, why=why
    )
    return CancelResult(run.project_id, canceled, ended.freed)


def cancel_task(tx: Connection, workspace_id: str, task_id: str, *, actor: str, why: str) -> CancelResult:
    """Cancel one task, and its dependants as they ask to be treated; canceling an ended task changes nothing."""
    task = tasks.get(tx, workspace_id, task_id)
    if task is None:
        raise NotFound(f"There is no task {task_id}", hint="See: coord tasks list")
    whole = [task_id, *(part.id for part in tasks.parts(tx, workspace_id, task_id) if part.state in OPEN)]
    canceled, ended = cancel_tasks(tx, workspace_id, task.project_id, whole, actor=actor, why=why)
    return CancelResult(task.project_id, canceled, ended.freed)
