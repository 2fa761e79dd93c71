"""Why a ready task is not claimed: missing or busy workers, or a full dispatch window."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import Connection, select

from coordination.base.wording import plural
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import Situation, steps
from coordination.domain.tasks.tasks import TaskRecord
from coordination.store.queries.fleet import workers
from coordination.store.queries.tasks import ready
from coordination.store.reports.tasks.task_steps import TaskSteps
from coordination.store.tables.tasks.tasks import tasks

t = tasks.c


def find_queue_blockers(about: TaskSteps, live_within: timedelta, window: int | None) -> Iterator[TaskBlocker]:
    """Yield what keeps a ready task from being claimed."""
    tx, workspace_id, task = about.tx, about.workspace_id, about.task
    ours = workers.list_live_for(tx, workspace_id, within=live_within)
    slots, running = sum(row["slots"] for row in ours), workers.count_open_attempts(tx)
    if slots == 0 and (others := workers.count_live_slots(tx, within=live_within)):
        name = workers.workspace_name(tx, workspace_id)
        yield TaskBlocker(
            "no_worker",
            f"no living worker runs jobs of the workspace {name}: {plural(others, 'place serves', 'places serve')}"
            " other workspaces",
            steps=steps(Situation.NO_WORKER_OF_WORKSPACE, workspace=name),
        )
    elif slots == 0:
        yield TaskBlocker("no_worker", "no worker is alive", steps=steps(Situation.NO_WORKER))
    elif (busy := sum(running.get(row["id"], 0) for row in ours)) >= slots:
        yield TaskBlocker(
            "busy", f"all {slots} places of the living workers are busy ({plural(busy, 'job runs', 'jobs run')})"
        )
    if window is not None and not _is_enqueued(tx, task) and (enqueued := _enqueued(tx, workspace_id, task)) >= window:
        yield TaskBlocker(
            "window",
            f"{plural(enqueued, 'task is', 'tasks are')} in the queue already, which is the limit of its project",
        )


def _is_enqueued(tx: Connection, task: TaskRecord) -> bool:
    return tx.execute(select(t.enqueued_at).where(t.id == task.id)).scalar() is not None


def _enqueued(tx: Connection, workspace_id: str, task: TaskRecord) -> int:
    return sum(ready.count_enqueued(tx, workspace_id, task.project_id).values())
