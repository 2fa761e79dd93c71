"""The reasons that block tasks, one row per reason, in addition to the mask in ``tasks``."""

from sqlalchemy import Column, Index, Table

from coordination.store.tables import checked_on_sqlite, metadata
from coordination.store.types import Id, Str, UtcTime, db_now

# A row is valid while the task is blocked and its mask has the reason.
task_holds = Table(
    "task_holds",
    metadata,
    Column("workspace_id", Id, primary_key=True),
    Column("task_id", Id, primary_key=True),
    Column("reason", Str, primary_key=True),
    Column("subject", Str),  # the id of its cause: a budget, a project, …
    Column("since", UtcTime, nullable=False, default=db_now()),
    checked_on_sqlite("task_id", "tasks.id", ondelete="CASCADE"),
    Index("ix_task_holds_subject", "workspace_id", "reason", "subject"),
    Index("ix_task_holds_task_id", "task_id"),
)
