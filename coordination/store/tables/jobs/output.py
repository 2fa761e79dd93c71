"""What jobs print while they run: a bounded number of chunks an attempt, none for those that are over soon."""

from sqlalchemy import BigInteger, Column, Integer, Table

from coordination.store.tables import checked_on_sqlite, metadata
from coordination.store.types import Id, Json, UtcTime, db_now

output_chunks = Table(
    "output_chunks",
    metadata,
    Column("task_id", Id, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("slot", Integer, primary_key=True),  # those of the end are used again and again
    Column("workspace_id", Id, nullable=False),
    Column("position", BigInteger, nullable=False),  # bytes printed before it
    Column("size", Integer, nullable=False),
    Column("pieces", Json, nullable=False),  # [[stream, text], …] as they came
    Column("written_at", UtcTime, nullable=False, default=db_now()),
    checked_on_sqlite("task_id", "tasks.id", ondelete="CASCADE"),
)
