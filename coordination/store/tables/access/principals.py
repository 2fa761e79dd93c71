"""Principals (actors and agents), the people among them, their memberships and their tokens."""

from sqlalchemy import Column, ForeignKey, Index, Table, UniqueConstraint

from coordination.domain.access.principals import PrincipalKind
from coordination.store.tables import check_one_of, metadata, partial_index
from coordination.store.types import Id, Json, Str, UtcTime, db_now

# Other rows refer to these by id; reports show the names.
principals = Table(
    "principals",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("kind", Str, nullable=False),
    Column("name", Str, nullable=False),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    UniqueConstraint("workspace_id", "kind", "name"),
    check_one_of("kind", PrincipalKind),
)

people = Table(
    "people",
    metadata,
    Column("principal_id", Id, ForeignKey("principals.id"), primary_key=True),
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("email", Str),
    Column("timezone", Str),  # NULL: the workspace's
    Column("created_at", UtcTime, nullable=False, default=db_now()),
)

members = Table(
    "members",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE")),  # NULL: of the whole workspace
    Column("principal_id", Id, ForeignKey("principals.id"), nullable=False),
    Column("role", Str, nullable=False),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    check_one_of("role", ("owner", "operator", "viewer")),
    partial_index("uq_members_workspace", "workspace_id", "principal_id", where="project_id IS NULL", unique=True),
    partial_index("uq_members_project", "project_id", "principal_id", where="project_id IS NOT NULL", unique=True),
)

# Tokens with which a principal acts; only hashes are stored.
tokens = Table(
    "tokens",
    metadata,
    Column("id", Id, primary_key=True),  # the acting principal
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("owner_id", Id, ForeignKey("principals.id"), nullable=False),
    Column("hash", Str, nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Column("expires_at", UtcTime),
    Column("last_used_at", UtcTime),
    Column("revoked_at", UtcTime),
    Index("ix_tokens_owner_id", "owner_id"),
)

# Keys with which programs report costs of a workspace or project; only hashes are stored.
keys = Table(
    "keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE")),
    Column("name", Str, nullable=False),
    Column("hash", Str, nullable=False, unique=True),
    Column("created_by", Id, ForeignKey("principals.id"), nullable=False),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Column("last_used_at", UtcTime),
    Column("revoked_at", UtcTime),
    UniqueConstraint("workspace_id", "name"),
)
