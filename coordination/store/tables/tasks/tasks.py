"""Tasks and their dependencies."""

from sqlalchemy import Boolean, CheckConstraint, Column, Index, Integer, Table, UniqueConstraint, text

from coordination.domain.tasks.tasks import (
    DEFAULT_MAX_STARTS,
    BlockReason,
    CancelCause,
    DependencyKind,
    OnDependencyFailure,
    TaskState,
)
from coordination.store.tables import check_one_of, checked_on_sqlite, metadata, partial_index
from coordination.store.types import Id, Json, Reasons, Seconds, Str, UtcTime, db_now

_WAITS_FOR_MONEY = f"state = 'blocked' AND (reasons & {int(BlockReason.BUDGET)}) <> 0"

tasks = Table(
    "tasks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("project_id", Id, nullable=False),
    Column("run_id", Id, nullable=False),
    Column("key", Str, nullable=False),
    Column("title", Str, nullable=False),
    Column("state", Str, nullable=False),
    Column("reasons", Reasons, nullable=False),
    Column("pending", Integer, nullable=False),  # the number of open dependencies
    Column("attempt", Integer, nullable=False),  # the fence
    Column("priority", Integer, nullable=False),
    Column("enqueued_at", UtcTime),  # when its message was last published; NULL: not enqueued
    Column("not_before", UtcTime),
    Column("failures", Integer, nullable=False),  # attempts that failed or timed out
    Column("losses", Integer, nullable=False),  # see domain.tasks.retry.count_losses
    Column("deferrals", Integer, nullable=False),  # deferred attempts
    Column("deferred_since", UtcTime),  # the first of the counted deferrals
    Column("starts", Integer, nullable=False, server_default=text("0")),  # attempts that cost money
    Column("consecutive_losses", Integer, nullable=False, server_default=text("0")),
    Column("max_starts", Integer, nullable=False, server_default=text(str(DEFAULT_MAX_STARTS))),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout", Seconds),
    Column("stall_timeout", Seconds),
    Column("repeatable", Boolean, nullable=False),
    Column("on_dependency_failure", Str, nullable=False),
    Column("concurrency_key", Str),
    Column("agent_id", Id),  # the assigned principal: an agent or a person
    Column("created_by", Id, nullable=False),
    Column("authority", Json),  # what it may do; NULL: no limits, from a plan
    Column("parent_id", Id),
    Column("kind", Str, nullable=False),  # the kind of job, by which estimates are learned
    Column("work", Json, nullable=False),
    Column("input", Json, nullable=False),
    Column("workdir", Str),
    Column("options", Json, nullable=False),  # back-off, metadata
    Column("carried", Json),  # values for the next attempt: conversation, feedback of a gate, answers
    Column("error", Str),
    Column("cancel_cause", Str),
    Column("due_at", UtcTime),
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Column("updated_at", UtcTime, nullable=False, default=db_now()),
    Column("finished_at", UtcTime),
    UniqueConstraint("run_id", "key"),
    checked_on_sqlite("workspace_id", "workspaces.id"),
    checked_on_sqlite("run_id", "runs.id", ondelete="CASCADE"),
    check_one_of("state", TaskState),
    check_one_of("on_dependency_failure", OnDependencyFailure),
    check_one_of("cancel_cause", CancelCause),
    CheckConstraint("(state = 'blocked') = (reasons <> 0)", name="blocked_iff_reasons"),
    CheckConstraint(
        "(state IN ('completed', 'failed', 'canceled')) = (finished_at IS NOT NULL)", name="finished_iff_terminal"
    ),
    CheckConstraint("pending >= 0", name="pending"),
    CheckConstraint("state <> 'running' OR attempt > 0", name="running_has_attempt"),
    # Ready tasks of a project, best first. A partial index, as small as the backlog.
    partial_index("ix_tasks_ready", "project_id", text("priority DESC"), "id", where="state = 'queued'"),
    partial_index(
        "ix_tasks_enqueued", "project_id", "enqueued_at", where="state = 'queued' AND enqueued_at IS NOT NULL"
    ),
    Index("ix_tasks_run_state", "run_id", "state"),
    partial_index("ix_tasks_time", "project_id", "not_before", where="state = 'blocked' AND not_before IS NOT NULL"),
    partial_index("ix_tasks_budget", "project_id", "run_id", text("priority DESC"), "id", where=_WAITS_FOR_MONEY),
    partial_index("ix_tasks_parent_id", "parent_id", where="parent_id IS NOT NULL"),
    partial_index("ix_tasks_agent", "workspace_id", "agent_id", where="agent_id IS NOT NULL"),
    # Leaves room on the page for new row versions (HOT updates).
    postgresql_with={"fillfactor": "80"},
)

dependencies = Table(
    "dependencies",
    metadata,
    # From parent (upstream) to child (downstream).
    Column("parent_id", Id, primary_key=True),
    Column("child_id", Id, primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("kind", Str, nullable=False),
    Column("satisfied_at", UtcTime),
    # The child's attempt that used a result of the parent that has been reopened since.
    Column("outdated_attempt", Integer),
    checked_on_sqlite("parent_id", "tasks.id", ondelete="CASCADE"),
    checked_on_sqlite("child_id", "tasks.id", ondelete="CASCADE"),
    check_one_of("kind", DependencyKind),
    CheckConstraint("parent_id <> child_id", name="not_itself"),
    Index("ix_dependencies_child_id", "child_id"),
    partial_index("ix_dependencies_outdated", "workspace_id", where="outdated_attempt IS NOT NULL"),
    postgresql_with={"fillfactor": "80"},
    sqlite_with_rowid=False,
)
