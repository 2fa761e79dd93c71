"""Records merges in SQL, where no job can write."""

from __future__ import annotations

from collections.abc import Sequence

from coordination.domain.jobs.merges import Merge
from coordination.domain.tasks.attempts import Claim
from coordination.flows.jobs.record_merge import record_merge
from coordination.store.engine import Store
from coordination.store.queries.jobs import merges


class MergesInStore:
    """The records of one store; for all threads of a worker process."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, claim: Claim, merge: Merge) -> bool:
        """Record what the attempt is about to merge; False when it does not hold its task any more."""
        return self._store.transact(lambda tx: record_merge(tx, claim.workspace_id, claim.task_id, merge))

    def unfinished(self, claim: Claim) -> Sequence[Merge]:
        """What earlier attempts recorded whose own end was not stored, the latest first."""
        with self._store.read() as tx:
            return merges.unfinished(tx, claim.workspace_id, claim.task_id, before=claim.attempt)

    def forget(self, claim: Claim) -> None:
        """The task's end is stored: its records are needed no more."""
        self._store.transact(lambda tx: merges.delete_for_task(tx, claim.workspace_id, claim.task_id))
