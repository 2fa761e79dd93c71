"""Recording of a merge before the run's branch moves."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.domain.jobs.merges import Merge
from coordination.domain.tasks.tasks import TaskState
from coordination.store.queries.jobs import merges
from coordination.store.queries.tasks import tasks


def record_merge(tx: Connection, workspace_id: str, task_id: str, merge: Merge) -> bool:
    """Record what the attempt is about to merge. Return False when it has lost its task. Idempotent."""
    tasks.lock(tx, workspace_id, [task_id])
    if tasks.get_states(tx, workspace_id, [task_id]).get(task_id) != (TaskState.RUNNING, merge.attempt):
        return False
    merges.put(tx, workspace_id, task_id, merge)
    return True
