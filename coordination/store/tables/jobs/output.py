"""Output of running jobs: a bounded number of chunks per attempt; short attempts have none."""

from sqlalchemy import BigInteger, Column, Integer, Table

from coordination.store.tables import checked_on_sqlite, metadata
from coordination.store.types import Id, Json, UtcTime, db_now

output_chunks = Table(
    "output_chunks",
    metadata,
    Column("task_id", Id, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("slot", Integer, primary_key=True),  # slots for the end of the output are reused
    Column("workspace_id", Id, nullable=False),
    Column("position", BigInteger, nullable=False),  # bytes printed before it
    Column("size", Integer, nullable=False),
    Column("pieces", Json, nullable=False),  # [[stream, text], …] in their order
    Column("written_at", UtcTime, nullable=False, default=db_now()),
    checked_on_sqlite("task_id", "tasks.id", ondelete="CASCADE"),
)
