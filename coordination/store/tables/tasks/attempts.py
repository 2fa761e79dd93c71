"""Attempts: one row per execution, holding the lease while it runs and the evidence afterwards."""

from sqlalchemy import Boolean, CheckConstraint, Column, Float, ForeignKey, Index, Integer, Table, text

from coordination.domain.tasks.attempts import Outcome
from coordination.store.tables import checked_on_sqlite, metadata
from coordination.store.types import Id, Json, Str, UtcTime, db_now

UNFINISHED = text("finished_at IS NULL")

attempts = Table(
    "attempts",
    metadata,
    Column("task_id", Id, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("project_id", Id, nullable=False),
    Column("run_id", Id, nullable=False),
    Column("worker_id", Id, nullable=False),
    Column("agent_id", Id),  # whose task it was when it was claimed
    Column("started_at", UtcTime, nullable=False, default=db_now()),
    Column("lease_until", UtcTime, nullable=False),
    Column("heartbeat_at", UtcTime, nullable=False, default=db_now()),
    Column("progress_at", UtcTime),
    Column("slots", Json),  # the concurrency slots it holds, given back when it ends
    Column("reserved", Json),  # what it may still spend of which budgets, given back when it ends
    # The process group that runs it, so that whoever rescues the task on that host can end it first.
    Column("pgid", Integer),
    Column("pg_start", Float),
    Column("finished_at", UtcTime),
    Column("outcome", Str),
    Column("began", Boolean),  # False: it ended before its job was started; else NULL
    Column("exit_code", Integer),
    Column("error", Str),
    Column("output", Json),
    Column("log", Str),
    Column("account", Str),  # with which account of its worker's machine its job asks a provider
    Column("conversation_id", Str),  # of the agent's or the chat's conversation that it began or went on with
    Column("turn", Integer),  # the number of the attempt in that conversation, from 1
    Column("details", Json),  # what is known of its end besides: a limit that it met, what an agent changed
    checked_on_sqlite("task_id", "tasks.id", ondelete="CASCADE"),
    CheckConstraint("outcome IN ({})".format(", ".join(f"'{outcome}'" for outcome in Outcome)), name="outcome"),
    CheckConstraint("(finished_at IS NULL) = (outcome IS NULL)", name="outcome_iff_finished"),
    Index("ix_attempts_unfinished", "project_id", postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
    Index("ix_attempts_worker", "worker_id", postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
    postgresql_with={"fillfactor": "70"},
)

# How many may run at once. A row exists only where there is a limit, so that work without limits pays nothing.
slots = Table(
    "slots",
    metadata,
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Str, primary_key=True),  # project | agent:ID | key:NAME
    Column("workspace_id", Id, nullable=False),
    Column("cap", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    CheckConstraint("used >= 0", name="used"),
    CheckConstraint("cap >= 0", name="cap"),
)
