"""Questions that agents stop to ask, with their answers."""

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, Table

from coordination.store.tables import metadata, partial_index
from coordination.store.types import Id, Str, UtcTime, db_now

questions = Table(
    "questions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("project_id", Id, nullable=False),
    Column("run_id", Id, nullable=False),
    Column("task_id", Id, ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("question", Str, nullable=False),
    Column("asked_at", UtcTime, nullable=False, default=db_now()),
    Column("answer", Str),
    Column("answered_by", Id),
    Column("answered_at", UtcTime),
    Column("escalated", Boolean, nullable=False, default=False),
    Index("ix_questions_task_id", "task_id"),
    partial_index("ix_questions_open", "workspace_id", "asked_at", where="answered_at IS NULL"),
)
