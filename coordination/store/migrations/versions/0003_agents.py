"""Agents by name; an index for what is due, which every process asks for all the time; each worker's own clock.

Revision: 0003. Only adds, so programs of 0001 and 0002 go on working beside those of 0003.
"""

import sqlalchemy as sa
from alembic import op

from coordination.store import types

revision = "0003"
down_revision = "0002"
works_with = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("description", types.Str(), nullable=True),
        sa.Column("type", types.Str(), nullable=True),
        sa.Column("objective", types.Str(), nullable=True),
        sa.Column("labels", types.Json(), nullable=False),
        sa.Column("runner", types.Json(), nullable=False),
        sa.Column("model", types.Str(), nullable=True),
        sa.Column("identity", types.Json(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("updated_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_agents_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
        sa.UniqueConstraint("workspace_id", "name", name=op.f("uq_agents_workspace_id_name")),
    )
    the_default = sa.text("is_default")
    op.create_index(
        "uq_agents_default",
        "agents",
        ["workspace_id"],
        unique=True,
        postgresql_where=the_default,
        sqlite_where=the_default,
    )
    with_agent = sa.text("agent IS NOT NULL")
    op.create_index(
        "ix_tasks_agent", "tasks", ["workspace_id", "agent"], postgresql_where=with_agent, sqlite_where=with_agent
    )
    alive = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_supervisors_heartbeat", "supervisors", ["heartbeat_at"], postgresql_where=alive, sqlite_where=alive
    )
    op.add_column("workers", sa.Column("clock_at", types.UtcTime(), nullable=True))
