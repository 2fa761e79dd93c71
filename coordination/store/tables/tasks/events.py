"""The append-only event log. Rows are never updated; retention deletes the oldest."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, Table, text

from coordination.domain.tasks.events import SubjectKind
from coordination.store.tables import check_one_of, metadata, partial_index
from coordination.store.types import Id, Json, Str, UtcTime, commit_order, db_now

_Counter = BigInteger().with_variant(Integer, "sqlite")

event_log = Table(
    "events",
    metadata,
    Column("seq", _Counter, primary_key=True, autoincrement=True),
    # Sequence numbers are assigned before commits, so that they alone cannot order a tail: see queries/tasks/events.
    Column("txid", BigInteger, nullable=False, default=commit_order()),
    Column("workspace_id", Id, nullable=False),
    # The object of the event: task_id or run_id of the row, or subject_id.
    Column("subject_kind", Str, nullable=False, server_default=text(f"'{SubjectKind.TASK}'")),
    Column("subject_id", Str),
    Column("project_id", Id),
    Column("run_id", Id),
    Column("task_id", Id),
    Column("attempt", Integer),
    Column("type", Str, nullable=False),
    Column("actor_id", Id),  # a principal, or a worker
    Column("payload", Json),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Index("ix_events_run", "run_id", "txid", "seq"),
    Index("ix_events_task", "task_id", "seq"),
    partial_index(
        "ix_events_subject", "workspace_id", "subject_kind", "subject_id", "seq", where="subject_id IS NOT NULL"
    ),
    check_one_of("subject_kind", SubjectKind),
    CheckConstraint("subject_id IS NOT NULL OR subject_kind IN ('task', 'run')", name="has_subject"),
    sqlite_autoincrement=True,
)
