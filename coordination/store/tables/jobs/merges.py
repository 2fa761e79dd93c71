"""Merges to a run's branch: written before the branch moves, so that nothing is merged twice."""

from sqlalchemy import Column, Integer, Table

from coordination.store.tables import checked_on_sqlite, metadata
from coordination.store.types import Id, Json, Str, UtcTime, db_now

merges = Table(
    "merges",
    metadata,
    Column("task_id", Id, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("branch", Str, nullable=False),
    Column("old_commit", Str, nullable=False),
    Column("new_commit", Str, nullable=False),
    Column("result", Json, nullable=False),  # output, exit_code, log and artifacts of the attempt
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    checked_on_sqlite("task_id", "tasks.id", ondelete="CASCADE"),
)
