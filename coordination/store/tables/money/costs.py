"""The cost ledger: append-only; the database refuses updates.

A correction is a row with the amount to add. It has the project, run, session and day of the corrected row, so that
every total includes both. It is not a call, and it may price an unpriced one.
"""

from typing import Any

from sqlalchemy import DDL, BigInteger, Boolean, Column, Index, Integer, Table, case, event, exists, func, select

from coordination.store.tables import metadata, partial_index
from coordination.store.types import Id, Json, Money, Str, UtcTime, db_now

costs = Table(
    "costs",
    metadata,
    Column("workspace_id", Id, primary_key=True),
    Column("id", Str, primary_key=True),  # of the record: importing or completing twice adds nothing
    Column("project_id", Id),
    Column("session_id", Str),
    Column("run_id", Id),
    Column("task_id", Id),
    Column("attempt", Integer),
    Column("agent_id", Id),
    Column("model", Str, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("cost_usd", Money),  # NULL: price unknown, which is not zero
    Column("stale", Boolean, nullable=False),  # spent by an attempt that had lost its lease
    Column("occurred_at", UtcTime, nullable=False),
    Column("recorded_at", UtcTime, nullable=False, default=db_now()),
    Column("extra", Json, nullable=False),
    Column("corrects", Str),  # the id of the row that this one corrects
    Column("account", Str),  # the account on the worker's machine that made the call
    Column("settles", Boolean, nullable=False),  # the corrected row had no price before
    Index("ix_costs_run_id", "run_id"),
    Index("ix_costs_project_id", "project_id", "occurred_at"),
    Index("ix_costs_session_id", "session_id"),
    Index("ix_costs_occurred", "workspace_id", "occurred_at"),
    partial_index("ix_costs_task_id", "task_id", where="task_id IS NOT NULL"),
    partial_index("ix_costs_corrects", "workspace_id", "corrects", where="corrects IS NOT NULL"),
)

CALLS = func.count() - func.count(costs.c.corrects)
"""Counts the model calls among rows."""

UNPRICED = func.count() - func.count(costs.c.cost_usd) - func.count(case((costs.c.settles, 1)))
"""Counts the calls without a price. Negative if a correction is selected without its row."""

_correction = costs.alias("correction")
CORRECTED = exists(
    select(_correction.c.id).where(
        _correction.c.workspace_id == costs.c.workspace_id, _correction.c.corrects == costs.c.id
    )
)
"""Matches rows that have a correction."""

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

_ddl: Any = DDL  # not typed by SQLAlchemy
event.listen(costs, "after_create", _ddl(SQLITE_APPEND_ONLY).execute_if(dialect="sqlite"))
event.listen(costs, "after_create", _ddl(POSTGRES_REFUSE).execute_if(dialect="postgresql"))
event.listen(costs, "after_create", _ddl(POSTGRES_APPEND_ONLY).execute_if(dialect="postgresql"))
