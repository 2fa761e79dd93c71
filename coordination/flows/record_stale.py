"""Record what attempts spent that never counted: their money is gone all the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from coordination.domain.costs import CostRecord
from coordination.services import ledger


def record_stale(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> None:
    """Write these records, marked as stale."""
    ledger.record(tx, workspace_id, [replace(record, stale=True) for record in records])
