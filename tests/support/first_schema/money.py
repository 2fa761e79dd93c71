"""Tables of costs, budgets and prices."""

import sqlalchemy as sa
from alembic import op

from coordination.store import types
from tests.support.first_schema.operations import partial_index

SQLITE_APPEND_ONLY = """
CREATE TRIGGER costs_append_only BEFORE UPDATE ON costs
BEGIN SELECT RAISE(ABORT, 'the cost ledger is append-only'); END
"""
POSTGRES_REFUSE = """
CREATE FUNCTION refuse_cost_update() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the cost ledger is append-only'; END $$
"""
POSTGRES_APPEND_ONLY = """
CREATE TRIGGER costs_append_only BEFORE UPDATE ON costs FOR EACH STATEMENT EXECUTE FUNCTION refuse_cost_update()
"""


def create() -> None:
    """Create the tables."""
    op.create_table(
        "costs",
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("id", types.Str(), nullable=False),
        sa.Column("project_id", types.Id),
        sa.Column("session_id", types.Str()),
        sa.Column("run_id", types.Id),
        sa.Column("task_id", types.Id),
        sa.Column("attempt", sa.Integer()),
        sa.Column("agent_id", types.Id),
        sa.Column("model", types.Str(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", types.Money()),
        sa.Column("stale", sa.Boolean(), nullable=False),
        sa.Column("occurred_at", types.UtcTime(), nullable=False),
        sa.Column("recorded_at", types.UtcTime(), nullable=False),
        sa.Column("extra", types.Json(), nullable=False),
        sa.Column("corrects", types.Str()),
        sa.Column("account", types.Str()),
        sa.Column("settles", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "id", name=op.f("pk_costs")),
    )
    partial_index("ix_costs_corrects", "costs", ["workspace_id", "corrects"], "corrects IS NOT NULL")
    op.create_index("ix_costs_occurred", "costs", ["workspace_id", "occurred_at"])
    op.create_index("ix_costs_project_id", "costs", ["project_id", "occurred_at"])
    op.create_index("ix_costs_run_id", "costs", ["run_id"])
    op.create_index("ix_costs_session_id", "costs", ["session_id"])
    partial_index("ix_costs_task_id", "costs", ["task_id"], "task_id IS NOT NULL")
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
            "workspace_id", "dimension", "grain", "starts", "key", "project_id", "shard", name=op.f("pk_rollups")
        ),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "prices",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id),
        sa.Column("model", types.Str(), nullable=False),
        sa.Column("input", types.Money(), nullable=False),
        sa.Column("output", types.Money(), nullable=False),
        sa.Column("cached_input", types.Money()),
        sa.Column("cache_write", types.Money()),
        sa.Column("reasoning", types.Money()),
        sa.Column("set_by", types.Id),
        sa.Column("set_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_prices_project_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_prices_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    partial_index(
        "uq_prices_project", "prices", ["workspace_id", "project_id", "model"], "project_id IS NOT NULL", unique=True
    )
    partial_index("uq_prices_workspace", "prices", ["workspace_id", "model"], "project_id IS NULL", unique=True)
    op.create_table(
        "budgets",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id),
        sa.Column("run_id", types.Id),
        sa.Column("scope", types.Str(), nullable=False),
        sa.Column("subject", types.Str(), nullable=False),
        sa.Column("period", types.Str(), nullable=False),
        sa.Column("usd", types.Money()),
        sa.Column("tokens", sa.BigInteger()),
        sa.Column("unpriced_calls", sa.BigInteger()),
        sa.Column("max_starts", sa.BigInteger()),
        sa.Column("action", types.Str(), nullable=False),
        sa.Column("warn_percent", sa.Integer()),
        sa.Column("downgrade_to", types.Str()),
        sa.Column("set_by", types.Id),
        sa.Column("set_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_budgets_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_budgets_run_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_budgets_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
        sa.UniqueConstraint(
            "workspace_id", "subject", "scope", "period", name=op.f("uq_budgets_workspace_id_subject_scope_period")
        ),
    )
    op.create_index("ix_budgets_run_id", "budgets", ["run_id"])
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
        sa.Column("spent_starts", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("warned_at", types.UtcTime()),
        sa.Column("reached_at", types.UtcTime()),
        sa.ForeignKeyConstraint(
            ["budget_id"], ["budgets.id"], name=op.f("fk_budget_uses_budget_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("budget_id", "starts", name=op.f("pk_budget_uses")),
        postgresql_with={"fillfactor": "50"},
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(SQLITE_APPEND_ONLY)
    else:
        op.execute(POSTGRES_REFUSE)
        op.execute(POSTGRES_APPEND_ONLY)
