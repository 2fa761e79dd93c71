"""State of retention: runs that are being deleted, and chores with their leases."""

from sqlalchemy import Column, ForeignKey, Table

from coordination.store.tables import metadata
from coordination.store.types import Id, Str, UtcTime, db_now

# A run with a row here is being deleted in batches and cannot be reopened; the row is deleted with it.
removals = Table(
    "removals",
    metadata,
    Column("run_id", Id, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("begun_at", UtcTime, nullable=False, default=db_now()),
)

SUMS = "sums"
"""The chore that recomputes the rollups; before its first completion, they are incomplete."""

# Periodic work of one process at a time: its lease, and when it was last done.
chores = Table(
    "chores",
    metadata,
    Column("workspace_id", Id, ForeignKey("workspaces.id"), primary_key=True),
    Column("name", Str, primary_key=True),
    Column("owner", Str),
    Column("lease_until", UtcTime),
    Column("done_at", UtcTime),
)
