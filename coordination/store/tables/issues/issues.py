"""Imported issues, unchanged, with the fields that queries need in columns."""

from sqlalchemy import Column, ForeignKey, Integer, Table, Text

from coordination.store.tables import metadata, partial_index
from coordination.store.types import Id, Str, UtcTime, db_now

issues = Table(
    "issues",
    metadata,
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("id", Str, primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("position", Integer, nullable=False),  # in the file
    Column("raw", Text, nullable=False),  # the unchanged record, so that unknown fields are kept
    Column("task_id", Id),  # the task created for it, if any
    Column("imported_at", UtcTime, nullable=False, default=db_now()),
    partial_index("ix_issues_task_id", "task_id", where="task_id IS NOT NULL"),
)
