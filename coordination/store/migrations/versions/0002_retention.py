"""Retention: runs on their way out, chores that one process at a time does, indexes for what is old.

PostgreSQL no longer checks the references of tasks, dependencies and attempts (see ``store/tables/__init__.py``).

Revision: 0002. Only adds, and loosens what no program relies on, so programs of 0001 go on working beside those of 0002.
"""

import sqlalchemy as sa
from alembic import op

from coordination.store import types

revision = "0002"
down_revision = "0001"
works_with = "0001"
branch_labels = None
depends_on = None


_UNCHECKED = (
    ("tasks", "workspace_id"),
    ("tasks", "run_id"),
    ("dependencies", "parent_id"),
    ("dependencies", "child_id"),
    ("attempts", "task_id"),
)


def upgrade() -> None:
    op.create_table(
        "removals",
        sa.Column("run_id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("begun_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_removals_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_removals")),
    )
    op.create_table(
        "chores",
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("holder", types.Str(), nullable=True),
        sa.Column("held_until", types.UtcTime(), nullable=True),
        sa.Column("done_at", types.UtcTime(), nullable=True),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_chores_workspace_id")),
        sa.PrimaryKeyConstraint("workspace_id", "name", name=op.f("pk_chores")),
    )
    op.create_index("ix_runs_session_id", "runs", ["session_id"])
    op.create_index("ix_costs_occurred", "costs", ["workspace_id", "occurred_at"])
    _partial("ix_runs_finished", "runs", ["workspace_id", "finished_at"], "finished_at IS NOT NULL")
    _partial("ix_issues_task_id", "issues", ["task_id"], "task_id IS NOT NULL")
    _partial("ix_costs_task_id", "costs", ["task_id"], "task_id IS NOT NULL")

    if op.get_bind().dialect.name == "postgresql":
        for table, column in _UNCHECKED:
            op.drop_constraint(f"fk_{table}_{column}", table)


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))
