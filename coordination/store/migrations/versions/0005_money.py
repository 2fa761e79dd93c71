"""Budgets with what is spent and reserved of them; sums of the ledger; what jobs of a kind cost before; predictions.

Revision: 0005. Only adds, so programs of 0001 to 0004 go on working beside those of 0005: what these reserve and sum up
is then not known, until `coord budgets check --repair` and `coord costs check --repair` have counted again.
"""

import sqlalchemy as sa
from alembic import op

from coordination.store import types

revision = "0005"
down_revision = "0004"
works_with = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workspaces", sa.Column("timezone", types.Str(), nullable=True))
    op.add_column("attempts", sa.Column("reserved", types.Json(), nullable=True))
    op.add_column("runs", sa.Column("predicted", types.Json(), nullable=True))
    _budgets()
    op.create_table(
        "rollups",
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("dimension", types.Str(), nullable=False),
        sa.Column("grain", types.Str(), nullable=False),
        sa.Column("starts", types.Str(), nullable=False),
        sa.Column("key", types.Str(), nullable=False),
        sa.Column("project_id", types.Str(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("unpriced", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", types.Money(), nullable=False),
        sa.PrimaryKeyConstraint(
            *("workspace_id", "dimension", "grain", "starts", "key", "project_id", "shard"), name=op.f("pk_rollups")
        ),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "job_history",
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("kind", types.Str(), nullable=False),
        sa.Column("samples", types.Json(), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_job_history_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", "kind", name=op.f("pk_job_history")),
    )


def _budgets() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=True),
        sa.Column("run_id", types.Id, nullable=True),
        sa.Column("scope", types.Str(), nullable=False),
        sa.Column("subject", types.Str(), nullable=False),
        sa.Column("period", types.Str(), nullable=False),
        sa.Column("usd", types.Money(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("unpriced_calls", sa.BigInteger(), nullable=True),
        sa.Column("action", types.Str(), nullable=False),
        sa.Column("warn_percent", sa.Integer(), nullable=True),
        sa.Column("downgrade_to", types.Str(), nullable=True),
        sa.Column("set_by", types.Str(), nullable=True),
        sa.Column("set_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_budgets_workspace_id")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_budgets_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_budgets_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
        sa.UniqueConstraint(
            "workspace_id", "subject", "scope", "period", name=op.f("uq_budgets_workspace_id_subject_scope_period")
        ),
    )
    op.create_index("ix_budgets_run_id", "budgets", ["run_id"])
    waiting = sa.text("state = 'blocked' AND (reasons & 4) <> 0")
    op.create_index(
        "ix_tasks_budget",
        "tasks",
        ["project_id", "run_id", sa.text("priority DESC"), "id"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
    op.create_table(
        "budget_uses",
        sa.Column("budget_id", types.Id, nullable=False),
        sa.Column("starts", types.Str(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("spent_usd", types.Money(), nullable=False),
        sa.Column("reserved_usd", types.Money(), nullable=False),
        sa.Column("spent_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reserved_tokens", sa.BigInteger(), nullable=False),
        sa.Column("spent_unpriced", sa.BigInteger(), nullable=False),
        sa.Column("reserved_unpriced", sa.BigInteger(), nullable=False),
        sa.Column("warned_at", types.UtcTime(), nullable=True),
        sa.Column("reached_at", types.UtcTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["budget_id"], ["budgets.id"], name=op.f("fk_budget_uses_budget_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("budget_id", "starts", name=op.f("pk_budget_uses")),
        postgresql_with={"fillfactor": "50"},
    )
