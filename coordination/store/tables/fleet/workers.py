"""Worker processes (of all workspaces) and one supervisor row per project."""

from sqlalchemy import Column, ForeignKey, Integer, Table

from coordination.store.tables import metadata, partial_index
from coordination.store.types import Id, Json, Str, UtcTime, db_now

workers = Table(
    "workers",
    metadata,
    Column("id", Id, primary_key=True),  # new at each start of a process
    Column("name", Str, nullable=False),
    Column("host", Str, nullable=False),
    Column("boot_id", Str, nullable=False),  # of the machine: process ids are reused after a reboot
    Column("pid", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("version", Str, nullable=False),
    Column("started_at", UtcTime, nullable=False, default=db_now()),
    Column("heartbeat_at", UtcTime, nullable=False, default=db_now()),
    Column("draining_at", UtcTime),
    Column("stopped_at", UtcTime),
    # The machine's clock at the last heartbeat; heartbeat_at is the database's.
    Column("clock_at", UtcTime),
    Column("serves", Json),  # the names of the workspaces whose jobs it runs; null: all, or unknown
)

supervisors = Table(
    "supervisors",
    metadata,
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("session_key", Str, nullable=False),
    Column("started_at", UtcTime, nullable=False, default=db_now()),
    Column("heartbeat_at", UtcTime, nullable=False, default=db_now()),
    Column("expires_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    Column("state", Json, nullable=False),
    Column("error", Str),
    # Counts submissions, so that a tick without work cannot end a supervisor that got some meanwhile.
    Column("submissions", Integer, nullable=False),
    # The tick's lease: ticks of one project never run concurrently.
    Column("tick_owner", Str),
    Column("tick_until", UtcTime),
    partial_index("ix_supervisors_heartbeat", "heartbeat_at", where="ended_at IS NULL"),
)
