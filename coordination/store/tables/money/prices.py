"""Prices of models that people set, for the workspace or one project, in dollars per million tokens."""

from sqlalchemy import Column, ForeignKey, Table

from coordination.store.tables import metadata, partial_index
from coordination.store.types import Id, Money, Str, UtcTime, db_now

OF_ALL = "project_id IS NULL"
OF_ONE = "project_id IS NOT NULL"

prices = Table(
    "prices",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE")),  # NULL: the whole workspace
    Column("model", Str, nullable=False),  # in lower case, for comparison
    Column("input", Money, nullable=False),
    Column("output", Money, nullable=False),
    Column("cached_input", Money),  # NULL, as in the next two columns: the rate of what it is part of
    Column("cache_write", Money),
    Column("reasoning", Money),
    Column("set_by", Id),
    Column("set_at", UtcTime, nullable=False, default=db_now()),
    partial_index("uq_prices_workspace", "workspace_id", "model", where=OF_ALL, unique=True),
    partial_index("uq_prices_project", "workspace_id", "project_id", "model", where=OF_ONE, unique=True),
)
