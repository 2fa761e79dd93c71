"""What beat starts every few seconds: a tick for each project that is due."""

from __future__ import annotations

from celery import shared_task

from coordination.store.queries.fleet import supervisors
from workers.broker import queues
from workers.process import lifecycle
from workers.tasks.tick import tick


@shared_task(name="coordination.sweep", ignore_result=True)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Tick what is due: at once where there is nothing to do, by a message where there is.

    Workers' own housekeeping catches what this misses.
    """
    process = lifecycle.process()
    every = process.context.settings.tick
    process.housekeeper.tick_quiet()
    with process.context.store.read() as tx:
        due = supervisors.due(tx, every=every, workspaces=process.context.workspaces)
    for workspace_id, project_id in due:
        tick.apply_async([workspace_id, project_id], queue=queues.SUPERVISE, expires=every.total_seconds() * 2)
