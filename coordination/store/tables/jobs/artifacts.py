"""Artifacts, written with the end of their attempt."""

from sqlalchemy import BigInteger, Column, Integer, Table

from coordination.store.tables import checked_on_sqlite, metadata
from coordination.store.types import Id, Str, UtcTime, db_now

artifacts = Table(
    "artifacts",
    metadata,
    Column("task_id", Id, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("path", Str, primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Str, nullable=False),
    Column("url", Str, nullable=False),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    checked_on_sqlite("task_id", "tasks.id", ondelete="CASCADE"),
)
