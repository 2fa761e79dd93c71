"""Tables of tasks and their attempts."""

import sqlalchemy as sa
from alembic import op

from coordination.store import types
from tests.support.first_schema.operations import checked_on_sqlite, partial_index


def create() -> None:
    """Create the tables."""
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("txid", sa.BigInteger(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("subject_kind", types.Str(), server_default=sa.text("'task'"), nullable=False),
        sa.Column("subject_id", types.Str()),
        sa.Column("project_id", types.Id),
        sa.Column("run_id", types.Id),
        sa.Column("task_id", types.Id),
        sa.Column("attempt", sa.Integer()),
        sa.Column("type", types.Str(), nullable=False),
        sa.Column("actor_id", types.Id),
        sa.Column("payload", types.Json()),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.CheckConstraint(
            "subject_id IS NOT NULL OR subject_kind IN ('task', 'run')", name=op.f("ck_events_has_subject")
        ),
        sa.CheckConstraint(
            "subject_kind IN ('task', 'run', 'project', 'budget', 'agent', 'stop', 'account', 'workspace')",
            name=op.f("ck_events_subject_kind"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_run", "events", ["run_id", "txid", "seq"])
    partial_index(
        "ix_events_subject", "events", ["workspace_id", "subject_kind", "subject_id", "seq"], "subject_id IS NOT NULL"
    )
    op.create_index("ix_events_task", "events", ["task_id", "seq"])
    op.create_table(
        "issues",
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("id", types.Str(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("task_id", types.Id),
        sa.Column("imported_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_issues_project_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("project_id", "id", name=op.f("pk_issues")),
    )
    partial_index("ix_issues_task_id", "issues", ["task_id"], "task_id IS NOT NULL")
    op.create_table(
        "job_history",
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("kind", types.Str(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("samples", types.Json(), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_job_history_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", "kind", name=op.f("pk_job_history")),
    )
    op.create_table(
        "slots",
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("cap", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.CheckConstraint("cap >= 0", name=op.f("ck_slots_cap")),
        sa.CheckConstraint("used >= 0", name=op.f("ck_slots_used")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_slots_project_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("project_id", "name", name=op.f("pk_slots")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("run_id", types.Id, nullable=False),
        sa.Column("key", types.Str(), nullable=False),
        sa.Column("title", types.Str(), nullable=False),
        sa.Column("state", types.Str(), nullable=False),
        sa.Column("reasons", types.Reasons(), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("enqueued_at", types.UtcTime()),
        sa.Column("not_before", types.UtcTime()),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("deferrals", sa.Integer(), nullable=False),
        sa.Column("deferred_since", types.UtcTime()),
        sa.Column("starts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("consecutive_losses", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_starts", sa.Integer(), server_default=sa.text("20"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("timeout", types.Seconds()),
        sa.Column("stall_timeout", types.Seconds()),
        sa.Column("repeatable", sa.Boolean(), nullable=False),
        sa.Column("on_dependency_failure", types.Str(), nullable=False),
        sa.Column("concurrency_key", types.Str()),
        sa.Column("agent_id", types.Id),
        sa.Column("created_by", types.Id, nullable=False),
        sa.Column("authority", types.Json()),
        sa.Column("parent_id", types.Id),
        sa.Column("kind", types.Str(), nullable=False),
        sa.Column("work", types.Json(), nullable=False),
        sa.Column("input", types.Json(), nullable=False),
        sa.Column("workdir", types.Str()),
        sa.Column("options", types.Json(), nullable=False),
        sa.Column("carried", types.Json()),
        sa.Column("error", types.Str()),
        sa.Column("cancel_cause", types.Str()),
        sa.Column("due_at", types.UtcTime()),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("updated_at", types.UtcTime(), nullable=False),
        sa.Column("finished_at", types.UtcTime()),
        *checked_on_sqlite("run_id", "runs.id", "fk_tasks_run_id", "CASCADE"),
        *checked_on_sqlite("workspace_id", "workspaces.id", "fk_tasks_workspace_id"),
        sa.CheckConstraint("(state = 'blocked') = (reasons <> 0)", name=op.f("ck_tasks_blocked_iff_reasons")),
        sa.CheckConstraint(
            "(state IN ('completed', 'failed', 'canceled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_tasks_finished_iff_terminal"),
        ),
        sa.CheckConstraint("cancel_cause IN ('person', 'dependency')", name=op.f("ck_tasks_cancel_cause")),
        sa.CheckConstraint(
            "on_dependency_failure IN ('cancel', 'block', 'run')", name=op.f("ck_tasks_on_dependency_failure")
        ),
        sa.CheckConstraint("state <> 'running' OR attempt > 0", name=op.f("ck_tasks_running_has_attempt")),
        sa.CheckConstraint(
            "state IN ('blocked', 'queued', 'running', 'completed', 'failed', 'canceled')", name=op.f("ck_tasks_state")
        ),
        sa.CheckConstraint("pending >= 0", name=op.f("ck_tasks_pending")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("run_id", "key", name=op.f("uq_tasks_run_id_key")),
        postgresql_with={"fillfactor": "80"},
    )
    partial_index("ix_tasks_agent", "tasks", ["workspace_id", "agent_id"], "agent_id IS NOT NULL")
    partial_index(
        "ix_tasks_budget",
        "tasks",
        ["project_id", "run_id", sa.literal_column("priority DESC"), "id"],
        "state = 'blocked' AND (reasons & 4) <> 0",
    )
    partial_index(
        "ix_tasks_enqueued", "tasks", ["project_id", "enqueued_at"], "state = 'queued' AND enqueued_at IS NOT NULL"
    )
    partial_index("ix_tasks_parent_id", "tasks", ["parent_id"], "parent_id IS NOT NULL")
    partial_index(
        "ix_tasks_ready", "tasks", ["project_id", sa.literal_column("priority DESC"), "id"], "state = 'queued'"
    )
    op.create_index("ix_tasks_run_state", "tasks", ["run_id", "state"])
    partial_index(
        "ix_tasks_time", "tasks", ["project_id", "not_before"], "state = 'blocked' AND not_before IS NOT NULL"
    )
    op.create_table(
        "artifacts",
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("path", types.Str(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", types.Str(), nullable=False),
        sa.Column("url", types.Str(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        *checked_on_sqlite("task_id", "tasks.id", "fk_artifacts_task_id", "CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "attempt", "path", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "attempts",
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("run_id", types.Id, nullable=False),
        sa.Column("worker_id", types.Id, nullable=False),
        sa.Column("agent_id", types.Id),
        sa.Column("started_at", types.UtcTime(), nullable=False),
        sa.Column("lease_until", types.UtcTime(), nullable=False),
        sa.Column("heartbeat_at", types.UtcTime(), nullable=False),
        sa.Column("progress_at", types.UtcTime()),
        sa.Column("slots", types.Json()),
        sa.Column("reserved", types.Json()),
        sa.Column("pgid", sa.Integer()),
        sa.Column("pg_start", sa.Float()),
        sa.Column("finished_at", types.UtcTime()),
        sa.Column("outcome", types.Str()),
        sa.Column("began", sa.Boolean()),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("error", types.Str()),
        sa.Column("output", types.Json()),
        sa.Column("log", types.Str()),
        sa.Column("account", types.Str()),
        sa.Column("conversation_id", types.Str()),
        sa.Column("turn", sa.Integer()),
        sa.Column("details", types.Json()),
        *checked_on_sqlite("task_id", "tasks.id", "fk_attempts_task_id", "CASCADE"),
        sa.CheckConstraint(
            "outcome IN ('completed', 'failed', 'timed_out', 'canceled', 'lost', 'handed_back', 'deferred')",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.CheckConstraint("(finished_at IS NULL) = (outcome IS NULL)", name=op.f("ck_attempts_outcome_iff_finished")),
        sa.PrimaryKeyConstraint("task_id", "number", name=op.f("pk_attempts")),
        postgresql_with={"fillfactor": "70"},
    )
    partial_index("ix_attempts_unfinished", "attempts", ["project_id"], "finished_at IS NULL")
    partial_index("ix_attempts_worker", "attempts", ["worker_id"], "finished_at IS NULL")
    op.create_table(
        "dependencies",
        sa.Column("parent_id", types.Id, nullable=False),
        sa.Column("child_id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("kind", types.Str(), nullable=False),
        sa.Column("satisfied_at", types.UtcTime()),
        sa.Column("outdated_attempt", sa.Integer()),
        *checked_on_sqlite("child_id", "tasks.id", "fk_dependencies_child_id", "CASCADE"),
        *checked_on_sqlite("parent_id", "tasks.id", "fk_dependencies_parent_id", "CASCADE"),
        sa.CheckConstraint(
            "kind IN ('blocks', 'parent-child', 'discovered-from', 'related')", name=op.f("ck_dependencies_kind")
        ),
        sa.CheckConstraint("parent_id <> child_id", name=op.f("ck_dependencies_not_itself")),
        sa.PrimaryKeyConstraint("parent_id", "child_id", name=op.f("pk_dependencies")),
        postgresql_with={"fillfactor": "80"},
        sqlite_with_rowid=False,
    )
    op.create_index("ix_dependencies_child_id", "dependencies", ["child_id"])
    partial_index("ix_dependencies_outdated", "dependencies", ["workspace_id"], "outdated_attempt IS NOT NULL")
    op.create_table(
        "merges",
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("branch", types.Str(), nullable=False),
        sa.Column("old_commit", types.Str(), nullable=False),
        sa.Column("new_commit", types.Str(), nullable=False),
        sa.Column("result", types.Json(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        *checked_on_sqlite("task_id", "tasks.id", "fk_merges_task_id", "CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "attempt", name=op.f("pk_merges")),
    )
    op.create_table(
        "output_chunks",
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("pieces", types.Json(), nullable=False),
        sa.Column("written_at", types.UtcTime(), nullable=False),
        *checked_on_sqlite("task_id", "tasks.id", "fk_output_chunks_task_id", "CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "attempt", "slot", name=op.f("pk_output_chunks")),
    )
    op.create_table(
        "questions",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("run_id", types.Id, nullable=False),
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("question", types.Str(), nullable=False),
        sa.Column("asked_at", types.UtcTime(), nullable=False),
        sa.Column("answer", types.Str()),
        sa.Column("answered_by", types.Id),
        sa.Column("answered_at", types.UtcTime()),
        sa.Column("escalated", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_questions_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_questions")),
    )
    partial_index("ix_questions_open", "questions", ["workspace_id", "asked_at"], "answered_at IS NULL")
    op.create_index("ix_questions_task_id", "questions", ["task_id"])
    op.create_table(
        "task_holds",
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("reason", types.Str(), nullable=False),
        sa.Column("subject", types.Str()),
        sa.Column("since", types.UtcTime(), nullable=False),
        *checked_on_sqlite("task_id", "tasks.id", "fk_task_holds_task_id", "CASCADE"),
        sa.PrimaryKeyConstraint("workspace_id", "task_id", "reason", name=op.f("pk_task_holds")),
    )
    op.create_index("ix_task_holds_subject", "task_holds", ["workspace_id", "reason", "subject"])
    op.create_index("ix_task_holds_task_id", "task_holds", ["task_id"])
