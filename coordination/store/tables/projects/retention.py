"""What retention remembers: which runs are on their way out, and who is clearing up now."""

from sqlalchemy import Column, ForeignKey, Table

from coordination.store.tables import metadata
from coordination.store.types import Id, Str, UtcTime, db_now

# A run that has a row here is being deleted, a batch at a time. Nothing can open it again; the row goes with it.
removals = Table(
    "removals",
    metadata,
    Column("run_id", Id, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("begun_at", UtcTime, nullable=False, default=db_now()),
)

SUMS = "sums"
"""The chore of counting the ledger's sums anew; until it has been done once, they are not all there."""

# Work that comes round every so often and that one process at a time does: a lease, and when it was last done.
chores = Table(
    "chores",
    metadata,
    Column("workspace_id", Id, ForeignKey("workspaces.id"), primary_key=True),
    Column("name", Str, primary_key=True),
    Column("owner", Str),
    Column("lease_until", UtcTime),
    Column("done_at", UtcTime),
)
