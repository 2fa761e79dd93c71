"""The ledger's one way in: what is written to it counts, in the same transaction, wherever its money is counted."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.domain.costs import CostRecord
from coordination.store.queries import costs


def record(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """Append records; those that were new, in their order. One whose id is already there is left alone."""
    return costs.append(tx, workspace_id, records)
