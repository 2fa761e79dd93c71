"""Attempts: one row per execution, with its lease while it runs and its result afterwards."""

from sqlalchemy import Boolean, CheckConstraint, Column, Float, ForeignKey, Integer, Table

from coordination.domain.tasks.attempts import Outcome
from coordination.store.tables import check_one_of, checked_on_sqlite, metadata, partial_index
from coordination.store.types import Id, Json, Str, UtcTime, db_now

attempts = Table(
    "attempts",
    metadata,
    Column("task_id", Id, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("project_id", Id, nullable=False),
    Column("run_id", Id, nullable=False),
    Column("worker_id", Id, nullable=False),
    Column("agent_id", Id),  # the agent of the task at the claim
    Column("started_at", UtcTime, nullable=False, default=db_now()),
    Column("lease_until", UtcTime, nullable=False),
    Column("heartbeat_at", UtcTime, nullable=False, default=db_now()),
    Column("progress_at", UtcTime),
    Column("slots", Json),  # the concurrency slots that it uses until it ends
    Column("reserved", Json),  # the money reserved in each budget, returned when it ends
    # The process group of its job, so that a rescue on that host can end it first.
    Column("pgid", Integer),
    Column("pg_start", Float),
    Column("finished_at", UtcTime),
    Column("outcome", Str),
    Column("began", Boolean),  # False: its job was never started; else NULL
    Column("exit_code", Integer),
    Column("error", Str),
    Column("output", Json),
    Column("log", Str),
    Column("account", Str),  # the provider account of its job
    Column("conversation_id", Str),  # the conversation of its agent or chat
    Column("turn", Integer),  # the number of the attempt in that conversation, from 1
    Column("details", Json),  # provider limit, changes by an agent
    checked_on_sqlite("task_id", "tasks.id", ondelete="CASCADE"),
    check_one_of("outcome", Outcome),
    CheckConstraint("(finished_at IS NULL) = (outcome IS NULL)", name="outcome_iff_finished"),
    partial_index("ix_attempts_unfinished", "project_id", where="finished_at IS NULL"),
    partial_index("ix_attempts_worker", "worker_id", where="finished_at IS NULL"),
    postgresql_with={"fillfactor": "70"},
)

# Concurrency limits. A row exists only for a limit, so that projects without limits cost nothing.
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
