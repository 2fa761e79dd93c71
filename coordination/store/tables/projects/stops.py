"""Stops: orders by a person that no task of a workspace or project starts or runs until it is started again."""

from sqlalchemy import Boolean, Column, ForeignKey, Table

from coordination.store.tables import metadata, partial_index
from coordination.store.types import Id, Json, Str, UtcTime, db_now

stops = Table(
    "stops",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE")),  # NULL: the whole workspace
    Column("since", UtcTime, nullable=False, default=db_now()),
    Column("created_by", Id, nullable=False),
    Column("reason", Str),
    Column("at_once", Boolean, nullable=False),  # running jobs are killed without a grace period
    Column("in_flight", Json),  # [task, attempt] pairs that ran when it began; NULL: not recorded yet
    Column("ended_at", UtcTime),
    Column("ended_by", Id),
    partial_index("ix_stops_active", "workspace_id", where="ended_at IS NULL"),
)
