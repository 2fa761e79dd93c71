"""The Celery task that beat sends every few seconds to tick projects that are due."""

from __future__ import annotations

from celery import shared_task

from coordination.store.queries.fleet import supervisors
from workers.broker import queues
from workers.process import lifecycle
from workers.tasks.tick import tick


@shared_task(name="coordination.sweep", ignore_result=True)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Tick due projects: idle ones at once, the others by one message each.

    The supervisor loop of every worker ticks projects that this misses.
    """
    process = lifecycle.process()
    every = process.context.settings.tick
    process.housekeeper.tick_quiet()
    with process.context.store.read() as tx:
        due = supervisors.list_due(tx, every=every, workspaces=process.context.workspaces)
    for workspace_id, project_id in due:
        tick.apply_async([workspace_id, project_id], queue=queues.SUPERVISE, expires=every.total_seconds() * 2)
