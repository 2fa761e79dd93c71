"""Budgets (caps on money, tokens, calls without a price, starts) and their use in each period."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, UniqueConstraint, text

from coordination.store.tables import metadata
from coordination.store.types import Id, Money, Str, UtcTime, db_now

budgets = Table(
    "budgets",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, ForeignKey("workspaces.id"), nullable=False),
    Column(
        "project_id", Id, ForeignKey("projects.id", ondelete="CASCADE")
    ),  # of budgets of a project, its runs and tasks
    Column("run_id", Id, ForeignKey("runs.id", ondelete="CASCADE")),  # of budgets of a run and its tasks
    Column("scope", Str, nullable=False),
    Column("subject", Str, nullable=False),  # an id; of an agent, its principal's
    Column("period", Str, nullable=False),
    Column("usd", Money),  # NULL, as in the next three columns: no cap
    Column("tokens", BigInteger),
    Column("unpriced_calls", BigInteger),
    Column("max_starts", BigInteger),
    Column("action", Str, nullable=False),
    Column("warn_percent", Integer),
    Column("downgrade_to", Str),
    Column("set_by", Id),
    Column("set_at", UtcTime, nullable=False, default=db_now()),
    UniqueConstraint("workspace_id", "subject", "scope", "period"),
    Index("ix_budgets_run_id", "run_id"),
)

# Counters, which change only under a lock on their row, in the transaction that claims, records or ends.
budget_uses = Table(
    "budget_uses",
    metadata,
    Column("budget_id", Id, ForeignKey("budgets.id", ondelete="CASCADE"), primary_key=True),
    Column("starts", Str, primary_key=True),  # the first day of the period; '' for a total
    Column("workspace_id", Id, nullable=False),
    Column("spent_usd", Money, nullable=False),
    Column("reserved_usd", Money, nullable=False),
    Column("spent_tokens", BigInteger, nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("spent_unpriced", BigInteger, nullable=False),
    Column("reserved_unpriced", BigInteger, nullable=False),
    Column("spent_starts", BigInteger, nullable=False, server_default=text("0")),  # counted from the claim on
    Column("warned_at", UtcTime),
    Column("reached_at", UtcTime),
    postgresql_with={"fillfactor": "50"},  # for frequent updates in place
)
