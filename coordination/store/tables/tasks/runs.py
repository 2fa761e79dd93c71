"""Sessions and runs."""

from sqlalchemy import Column, ForeignKey, Index, Table

from coordination.domain.money.sessions import SessionTarget
from coordination.store.tables import check_one_of, metadata, partial_index
from coordination.store.types import Id, Json, Money, Str, UtcTime, db_now

sessions = Table(
    "sessions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("agent_id", Id),
    Column("purpose", Str, nullable=False),
    Column("target", Str, nullable=False),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Column("last_activity_at", UtcTime, nullable=False, default=db_now()),
    check_one_of("target", SessionTarget),
    Index("ix_sessions_project_id", "project_id"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("session_id", Id, ForeignKey("sessions.id"), nullable=False),
    Column("name", Str, nullable=False),
    Column("created_by", Id, nullable=False),
    Column("authority", Json),  # what its tasks may do; NULL: no limits, a person submitted it
    Column("python_path", Json, nullable=False),
    Column("budget_usd", Money),
    Column("budget_on_exceed", Str),
    Column("metadata", Json, nullable=False),
    Column("predicted", Json),  # the estimated cost and duration
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    # Set when no task is open, cleared when one is reopened. The run's state itself is never stored.
    Column("finished_at", UtcTime),
    Index("ix_runs_project_id_id", "project_id", "id"),
    partial_index("ix_runs_unfinished", "project_id", where="finished_at IS NULL"),
    # For retention, which deletes the oldest runs, and sessions without runs.
    partial_index("ix_runs_finished", "workspace_id", "finished_at", where="finished_at IS NOT NULL"),
    Index("ix_runs_session_id", "session_id"),
)
