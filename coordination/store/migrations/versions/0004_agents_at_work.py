"""What one attempt leaves to the next; questions; corrections of costs, prices; what jobs print and make.

Revision: 0004. Only adds, so programs of 0001 to 0003 go on working beside those of 0004.
"""

import sqlalchemy as sa
from alembic import op

from coordination.store import types

revision = "0004"
down_revision = "0003"
works_with = "0001"
branch_labels = None
depends_on = None


def of_a_task(table: str) -> list[sa.ForeignKeyConstraint]:
    """PostgreSQL does not check tables that get rows for many attempts, see tables.checked_on_sqlite."""
    if op.get_bind().dialect.name == "postgresql":
        return []
    return [sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], ondelete="CASCADE", name=op.f(f"fk_{table}_task_id"))]


def upgrade() -> None:
    op.add_column("tasks", sa.Column("carried", types.Json(), nullable=True))
    op.create_table(
        "questions",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("run_id", types.Id, nullable=False),
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("question", types.Str(), nullable=False),
        sa.Column("asked_at", types.UtcTime(), nullable=False),
        sa.Column("answer", types.Str(), nullable=True),
        sa.Column("answered_by", types.Str(), nullable=True),
        sa.Column("answered_at", types.UtcTime(), nullable=True),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_questions_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_questions")),
    )
    op.create_index("ix_questions_task_id", "questions", ["task_id"])
    unanswered = sa.text("answered_at IS NULL")
    op.create_index(
        "ix_questions_open",
        "questions",
        ["workspace_id", "asked_at"],
        postgresql_where=unanswered,
        sqlite_where=unanswered,
    )
    op.add_column("costs", sa.Column("corrects", types.Str(), nullable=True))
    op.add_column("costs", sa.Column("settles", sa.Boolean(), nullable=True))
    _partial("ix_costs_corrects", "costs", ["workspace_id", "corrects"], "corrects IS NOT NULL")
    op.create_table(
        "prices",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=True),
        sa.Column("model", types.Str(), nullable=False),
        sa.Column("input", types.Money(), nullable=False),
        sa.Column("output", types.Money(), nullable=False),
        sa.Column("cached_input", types.Money(), nullable=True),
        sa.Column("cache_write", types.Money(), nullable=True),
        sa.Column("reasoning", types.Money(), nullable=True),
        sa.Column("set_by", types.Str(), nullable=True),
        sa.Column("set_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_prices_workspace_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_prices_project_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    _partial("uq_prices_workspace", "prices", ["workspace_id", "model"], "project_id IS NULL", unique=True)
    _partial(
        "uq_prices_project", "prices", ["workspace_id", "project_id", "model"], "project_id IS NOT NULL", unique=True
    )
    op.create_table(
        "output_chunks",
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("pieces", types.Json(), nullable=False),
        sa.Column("written_at", types.UtcTime(), nullable=False),
        *of_a_task("output_chunks"),
        sa.PrimaryKeyConstraint("task_id", "attempt", "slot", name=op.f("pk_output_chunks")),
    )
    op.create_table(
        "artifacts",
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("path", types.Str(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", types.Str(), nullable=False),
        sa.Column("url", types.Str(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        *of_a_task("artifacts"),
        sa.PrimaryKeyConstraint("task_id", "attempt", "path", name=op.f("pk_artifacts")),
    )


def _partial(name: str, table: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, postgresql_where=where, sqlite_where=where)
