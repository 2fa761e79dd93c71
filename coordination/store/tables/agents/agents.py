"""Agents of a workspace."""

from sqlalchemy import Boolean, Column, ForeignKey, Index, Table, text

from coordination.store.tables import metadata
from coordination.store.types import Id, Json, Str, UtcTime, db_now

THE_DEFAULT = text("is_default")

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
    Index("uq_agents_default", "workspace_id", unique=True, postgresql_where=THE_DEFAULT, sqlite_where=THE_DEFAULT),
)
