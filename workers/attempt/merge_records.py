"""Records merges in SQL, where jobs cannot write."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.domain.jobs.merges import Merge
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.tasks import TaskState
from coordination.store.engine import Store
from coordination.store.queries.jobs import merges
from coordination.store.queries.tasks import tasks


class SqlMergeRecords:
    """The merge records of one store, for all threads of a worker process."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, claim: Claim, merge: Merge) -> bool:
        """Record the merge before it is made; return False when the attempt does not own its task any more."""

        def record(tx: Connection) -> bool:
            tasks.lock(tx, claim.workspace_id, [claim.task_id])
            states = tasks.get_states(tx, claim.workspace_id, [claim.task_id])
            if states.get(claim.task_id) != (TaskState.RUNNING, merge.attempt):
                return False
            merges.put(tx, claim.workspace_id, claim.task_id, merge)
            return True

        return self._store.transact(record)

    def unfinished(self, claim: Claim) -> Sequence[Merge]:
        """Return the merges of earlier attempts whose end was not stored, the latest first."""
        with self._store.read() as tx:
            return merges.unfinished(tx, claim.workspace_id, claim.task_id, before=claim.attempt)

    def forget(self, claim: Claim) -> None:
        """Delete the task's records after its end was stored."""
        self._store.transact(lambda tx: merges.delete_for_task(tx, claim.workspace_id, claim.task_id))
