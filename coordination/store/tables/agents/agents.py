"""Agents of a workspace."""

from sqlalchemy import Boolean, Column, ForeignKey, Table

from coordination.store.tables import metadata, partial_index
from coordination.store.types import Id, Json, Str, UtcTime, db_now

agents = Table(
    "agents",
    metadata,
    Column("id", Id, ForeignKey("principals.id"), primary_key=True),  # of its principal, which has its name
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("description", Str),
    Column("type", Str),
    Column("objective", Str),
    Column("labels", Json, nullable=False),
    Column("runner", Json, nullable=False),
    Column("model", Str),
    Column("identity", Json, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Column("updated_at", UtcTime, nullable=False, default=db_now()),
    partial_index("uq_agents_default", "workspace_id", where="is_default", unique=True),
)
