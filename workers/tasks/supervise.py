"""The Celery tasks of the queue for supervision: beat sends ``sweep`` and ``retain``, and a sweep sends ``tick``."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from coordination.base.ids import is_id
from coordination.store.queries.fleet import supervisors
from workers.broker import queues
from workers.process import lifecycle


@shared_task(name="coordination.sweep", ignore_result=True)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Tick due projects: idle ones at once, the others by one message each.

    The supervisor loop of every worker ticks projects that this misses.
    """
    process = lifecycle.process()
    every = process.context.settings.tick
    process.supervisor_loop.tick_quiet()
    with process.context.store.read() as tx:
        due = supervisors.list_due(tx, every=every, workspaces=process.context.workspaces)
    for workspace_id, project_id in due:
        tick.apply_async([workspace_id, project_id], queue=queues.SUPERVISE, expires=every.total_seconds() * 2)


@shared_task(name="coordination.tick", ignore_result=True)  # type: ignore[untyped-decorator]
def tick(workspace_id: Any, project_id: Any) -> None:
    """Tick the project, unless another worker does or did since the sweep."""
    if isinstance(workspace_id, str) and isinstance(project_id, str) and is_id(workspace_id) and is_id(project_id):
        process = lifecycle.process()
        process.supervisor_loop.tick(workspace_id, project_id, every=process.context.settings.tick)


@shared_task(name="coordination.retain", ignore_result=True)  # type: ignore[untyped-decorator]
def retain() -> None:
    """Run a round of retention, unless another worker does or one was done recently."""
    lifecycle.process().supervisor_loop.cleanup.clear()
