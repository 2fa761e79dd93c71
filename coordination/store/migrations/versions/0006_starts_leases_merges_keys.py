"""Limits of starts and losses, what workers serve, machines lend and merge, stops, accounts, and the broker's key.

Revision: 0006. Only adds, so programs of 0001 to 0005 go on working beside those of 0006. What these claim or end is
not counted against limits of starts and losses until `coord budgets check --repair` has counted again. They lend no
ports or databases and refuse a task whose plan asks for them, or whose job names an account. Each side finds its own
records of merges only, so a change whose end was lost by one is made again by the other. When they let a task be done
again, what has begun with its former output is not shown as outdated. They sign no message: workers of 0006 refuse
theirs and take the tasks from SQL some seconds later. They start nothing of a stopped project, which is on hold to
them; of what they run, a stop ends what may be repeated, as if it were canceled, and waits for the rest.
"""

import sqlalchemy as sa
from alembic import op

from coordination.store import types

revision = "0006"
down_revision = "0005"
works_with = "0001"
branch_labels = None
depends_on = None


def of_a_task() -> list[sa.ForeignKeyConstraint]:
    """PostgreSQL does not check tables that get rows for many attempts, see tables.checked_on_sqlite."""
    if op.get_bind().dialect.name == "postgresql":
        return []
    return [sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], ondelete="CASCADE", name=op.f("fk_merges_task_id"))]


def upgrade() -> None:
    op.add_column("tasks", sa.Column("deferred_since", types.UtcTime(), nullable=True))
    for name, default in (("starts", "0"), ("consecutive_losses", "0"), ("max_starts", "20")):
        op.add_column("tasks", sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text(default)))
    op.add_column("budgets", sa.Column("max_starts", sa.BigInteger(), nullable=True))
    op.add_column(
        "budget_uses", sa.Column("spent_starts", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    )
    op.add_column("attempts", sa.Column("began", sa.Boolean(), nullable=True))
    op.add_column("attempts", sa.Column("details", types.Json(), nullable=True))
    op.add_column("workers", sa.Column("serves", types.Json(), nullable=True))
    op.add_column("projects", sa.Column("status_before_stop", types.Str(), nullable=True))
    op.add_column("workers", sa.Column("hears_stops", sa.Boolean(), nullable=True))
    op.create_table(
        "stops",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=True),
        sa.Column("since", types.UtcTime(), nullable=False),
        sa.Column("actor", types.Str(), nullable=False),
        sa.Column("reason", types.Str(), nullable=True),
        sa.Column("at_once", sa.Boolean(), nullable=False),
        sa.Column("in_flight", types.Json(), nullable=True),
        sa.Column("ended_at", types.UtcTime(), nullable=True),
        sa.Column("ended_by", types.Str(), nullable=True),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_stops_workspace_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE", name=op.f("fk_stops_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stops")),
    )
    active = sa.text("ended_at IS NULL")
    op.create_index("ix_stops_active", "stops", ["workspace_id"], postgresql_where=active, sqlite_where=active)
    # What was given to a task by an attempt of another that was done again since.
    op.add_column("dependencies", sa.Column("outdated_attempt", sa.Integer(), nullable=True))
    outdated = sa.text("outdated_attempt IS NOT NULL")
    op.create_index(
        "ix_dependencies_outdated",
        "dependencies",
        ["workspace_id"],
        postgresql_where=outdated,
        sqlite_where=outdated,
    )
    op.add_column("questions", sa.Column("escalated", sa.Boolean(), nullable=True))
    op.add_column("attempts", sa.Column("account", types.Str(), nullable=True))
    op.add_column("costs", sa.Column("account", types.Str(), nullable=True))
    op.create_table(
        "host_leases",
        sa.Column("host", types.Str(), nullable=False),
        sa.Column("kind", types.Str(), nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("origin", types.Str(), nullable=True),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("host", "kind", "name", name=op.f("pk_host_leases")),
    )
    op.create_index("ix_host_leases_attempt", "host_leases", ["task_id", "attempt"])
    op.create_table(
        "merges",
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("branch", types.Str(), nullable=False),
        sa.Column("old_commit", types.Str(), nullable=False),
        sa.Column("new_commit", types.Str(), nullable=False),
        sa.Column("result", types.Json(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        *of_a_task(),
        sa.PrimaryKeyConstraint("task_id", "attempt", name=op.f("pk_merges")),
    )
    op.create_table(
        "broker_keys",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("secret", types.Str(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_broker_keys_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_broker_keys")),
    )
