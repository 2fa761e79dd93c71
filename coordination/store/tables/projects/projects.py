"""Workspaces, projects and the aliases of projects."""

from sqlalchemy import Boolean, Column, ForeignKey, Index, Table, UniqueConstraint

from coordination.domain.projects.projects import ProjectStatus
from coordination.store.tables import check_one_of, metadata
from coordination.store.types import Id, Json, Str, UtcTime, db_now

workspaces = Table(
    "workspaces",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Str, nullable=False, unique=True),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Column("timezone", Str),  # where its days and months begin; NULL: UTC
)

projects = Table(
    "projects",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("name", Str, nullable=False),
    Column("identity", Str, nullable=False),  # host/path of its git remote, or a local identity
    Column("path", Str),  # where it was last submitted from
    Column("description", Str),
    Column("status", Str, nullable=False),
    Column("settings", Json, nullable=False),
    Column("budgets", Json, nullable=False),
    Column("model_restrictions", Json, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Column("started_at", UtcTime),
    Column("completed_at", UtcTime),
    Column("stopped", Boolean, nullable=False, default=False),  # a stop covers it: none of its tasks starts
    UniqueConstraint("workspace_id", "identity"),
    check_one_of("status", ProjectStatus),
)

# For renamed remotes: the old identity still names the project.
project_aliases = Table(
    "project_aliases",
    metadata,
    Column("workspace_id", Id, ForeignKey("workspaces.id"), primary_key=True),
    Column("identity", Str, primary_key=True),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Index("ix_project_aliases_project_id", "project_id"),
)
