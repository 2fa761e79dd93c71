"""The append-only story: task events. No UPDATE of it exists; retention deletes from its old end."""

from sqlalchemy import BigInteger, Column, Index, Integer, Table

from coordination.store.tables import metadata
from coordination.store.types import Id, Json, Str, UtcTime, commit_order, db_now

_Counter = BigInteger().with_variant(Integer, "sqlite")

task_events = Table(
    "task_events",
    metadata,
    Column("seq", _Counter, primary_key=True, autoincrement=True),
    # Sequence numbers are taken before commits happen, so they alone cannot order a tail: see queries/events.
    Column("txid", BigInteger, nullable=False, default=commit_order()),
    Column("workspace_id", Id, nullable=False),
    Column("project_id", Id, nullable=False),
    Column("run_id", Id),
    Column("task_id", Id),
    Column("attempt", Integer),
    Column("type", Str, nullable=False),
    Column("actor", Str),
    Column("payload", Json),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Index("ix_task_events_run", "run_id", "txid", "seq"),
    Index("ix_task_events_task", "task_id", "seq"),
    sqlite_autoincrement=True,
)
