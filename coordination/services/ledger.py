"""The ledger's one way in and out: what is written counts, in the same transaction, wherever its money is counted."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.domain.costs import CostRecord
from coordination.domain.sums import added_up
from coordination.store.queries import costs, retention, rollups
from coordination.store.tables.rollups import ARCHIVED


def record(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """Append records; those that were new, in their order. One whose id is already there is left alone."""
    if not records:
        return []
    shard = rollups.begin(tx, workspace_id)
    new = costs.append(tx, workspace_id, records)
    if new:
        days = rollups.days(tx, workspace_id, (one.occurred_at for one in new))
        rollups.add(tx, workspace_id, added_up(new, days), shard=shard)
    return new


def forget(tx: Connection, workspace_id: str, ids: Sequence[str]) -> int:
    """Delete these records; how many were there. What they came to stays in the sums, as no longer in the ledger."""
    shard = rollups.begin(tx, workspace_id)
    gone = retention.delete_costs(tx, workspace_id, ids)
    if gone:
        sums = added_up(gone, rollups.days(tx, workspace_id, (one.occurred_at for one in gone)))
        rollups.add(tx, workspace_id, {cell: one.taken_back() for cell, one in sums.items()}, shard=shard)
        rollups.add(tx, workspace_id, sums, shard=ARCHIVED)
    return len(gone)
