"""What beat starts every few seconds: a tick for each project that is due."""

from __future__ import annotations

from coordination.store.queries import supervisors
from workers import lifecycle, queues
from workers.app import app
from workers.tasks.tick import tick


@app.task(name="coordination.sweep", ignore_result=True)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Send a tick to every project whose supervisor is due; workers' own housekeeping catches what this misses."""
    process = lifecycle.process()
    every = process.context.settings.tick
    with process.context.store.read() as tx:
        due = supervisors.due(tx, every=every)
    for workspace_id, project_id in due:
        tick.apply_async([workspace_id, project_id], queue=queues.SUPERVISE, expires=every.total_seconds() * 2)
