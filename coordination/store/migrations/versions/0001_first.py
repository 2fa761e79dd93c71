"""The first schema: projects, runs, tasks, attempts, events, costs, the fleet, foreign issues.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op

from coordination.store import types
from coordination.store.tables.money import costs

revision = "0001"
down_revision = None
works_with = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "costs",
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("id", types.Str(), nullable=False),
        sa.Column("project_id", types.Id, nullable=True),
        sa.Column("session_id", types.Str(), nullable=True),
        sa.Column("run_id", types.Id, nullable=True),
        sa.Column("task_id", types.Id, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("agent", types.Str(), nullable=True),
        sa.Column("model", types.Str(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", types.Money(), nullable=True),
        sa.Column("stale", sa.Boolean(), nullable=False),
        sa.Column("occurred_at", types.UtcTime(), nullable=False),
        sa.Column("recorded_at", types.UtcTime(), nullable=False),
        sa.Column("extra", types.Json(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "id", name=op.f("pk_costs")),
    )
    op.create_index("ix_costs_project_id", "costs", ["project_id", "occurred_at"], unique=False)
    op.create_index("ix_costs_run_id", "costs", ["run_id"], unique=False)
    op.create_index("ix_costs_session_id", "costs", ["session_id"], unique=False)
    op.create_table(
        "task_events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("txid", sa.BigInteger(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("run_id", types.Id, nullable=True),
        sa.Column("task_id", types.Id, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("type", types.Str(), nullable=False),
        sa.Column("actor", types.Str(), nullable=True),
        sa.Column("payload", types.Json(), nullable=True),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_task_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_task_events_run", "task_events", ["run_id", "txid", "seq"], unique=False)
    op.create_index("ix_task_events_task", "task_events", ["task_id", "seq"], unique=False)
    op.create_table(
        "workers",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("host", types.Str(), nullable=False),
        sa.Column("boot_id", types.Str(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("version", types.Str(), nullable=False),
        sa.Column("started_at", types.UtcTime(), nullable=False),
        sa.Column("heartbeat_at", types.UtcTime(), nullable=False),
        sa.Column("draining_at", types.UtcTime(), nullable=True),
        sa.Column("stopped_at", types.UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspaces")),
        sa.UniqueConstraint("name", name=op.f("uq_workspaces_name")),
    )
    op.create_table(
        "projects",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("identity", types.Str(), nullable=False),
        sa.Column("path", types.Str(), nullable=True),
        sa.Column("description", types.Str(), nullable=True),
        sa.Column("status", types.Str(), nullable=False),
        sa.Column("settings", types.Json(), nullable=False),
        sa.Column("budgets", types.Json(), nullable=False),
        sa.Column("model_restrictions", types.Json(), nullable=False),
        sa.Column("metadata", types.Json(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("started_at", types.UtcTime(), nullable=True),
        sa.Column("completed_at", types.UtcTime(), nullable=True),
        sa.CheckConstraint(
            "status IN ('planning', 'active', 'on_hold', 'completed', 'archived')", name=op.f("ck_projects_status")
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_projects_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("workspace_id", "identity", name=op.f("uq_projects_workspace_id_identity")),
    )
    op.create_table(
        "issues",
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("id", types.Str(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("task_id", types.Id, nullable=True),
        sa.Column("imported_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_issues_project_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("project_id", "id", name=op.f("pk_issues")),
    )
    op.create_table(
        "project_aliases",
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("identity", types.Str(), nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_project_aliases_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_project_aliases_workspace_id")),
        sa.PrimaryKeyConstraint("workspace_id", "identity", name=op.f("pk_project_aliases")),
    )
    op.create_index("ix_project_aliases_project_id", "project_aliases", ["project_id"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("agent", types.Str(), nullable=True),
        sa.Column("purpose", types.Str(), nullable=False),
        sa.Column("target", types.Str(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("last_activity_at", types.UtcTime(), nullable=False),
        sa.CheckConstraint("target IN ('main', 'isolated')", name=op.f("ck_sessions_target")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_sessions_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_sessions_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_index("ix_sessions_project_id", "sessions", ["project_id"], unique=False)
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
        "supervisors",
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("session_key", types.Str(), nullable=False),
        sa.Column("started_at", types.UtcTime(), nullable=False),
        sa.Column("heartbeat_at", types.UtcTime(), nullable=False),
        sa.Column("expires_at", types.UtcTime(), nullable=False),
        sa.Column("ended_at", types.UtcTime(), nullable=True),
        sa.Column("state", types.Json(), nullable=False),
        sa.Column("strategy", types.Json(), nullable=False),
        sa.Column("error", types.Str(), nullable=True),
        sa.Column("submissions", sa.Integer(), nullable=False),
        sa.Column("tick_holder", types.Str(), nullable=True),
        sa.Column("tick_until", types.UtcTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_supervisors_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_supervisors")),
    )
    op.create_table(
        "runs",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("session_id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("creator", types.Str(), nullable=False),
        sa.Column("python_path", types.Json(), nullable=False),
        sa.Column("budget_usd", types.Money(), nullable=True),
        sa.Column("budget_on_exceed", types.Str(), nullable=True),
        sa.Column("metadata", types.Json(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("finished_at", types.UtcTime(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_runs_project_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name=op.f("fk_runs_session_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_runs_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_project_id_id", "runs", ["project_id", "id"], unique=False)
    op.create_index(
        "ix_runs_unfinished",
        "runs",
        ["project_id"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
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
        sa.Column("enqueued_at", types.UtcTime(), nullable=True),
        sa.Column("not_before", types.UtcTime(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("deferrals", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("timeout", types.Seconds(), nullable=True),
        sa.Column("stall_timeout", types.Seconds(), nullable=True),
        sa.Column("repeatable", sa.Boolean(), nullable=False),
        sa.Column("on_dependency_failure", types.Str(), nullable=False),
        sa.Column("concurrency_key", types.Str(), nullable=True),
        sa.Column("agent", types.Str(), nullable=True),
        sa.Column("creator", types.Str(), nullable=False),
        sa.Column("parent_id", types.Id, nullable=True),
        sa.Column("kind", types.Str(), nullable=False),
        sa.Column("work", types.Json(), nullable=False),
        sa.Column("input", types.Json(), nullable=False),
        sa.Column("workdir", types.Str(), nullable=True),
        sa.Column("options", types.Json(), nullable=False),
        sa.Column("error", types.Str(), nullable=True),
        sa.Column("cancel_cause", types.Str(), nullable=True),
        sa.Column("due_at", types.UtcTime(), nullable=True),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("updated_at", types.UtcTime(), nullable=False),
        sa.Column("finished_at", types.UtcTime(), nullable=True),
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
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_tasks_run_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_tasks_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("run_id", "key", name=op.f("uq_tasks_run_id_key")),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index(
        "ix_tasks_parent_id",
        "tasks",
        ["parent_id"],
        unique=False,
        postgresql_where=sa.text("parent_id IS NOT NULL"),
        sqlite_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index("ix_tasks_run_state", "tasks", ["run_id", "state"], unique=False)
    op.create_index(
        "ix_tasks_rung",
        "tasks",
        ["project_id", "enqueued_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND enqueued_at IS NOT NULL"),
        sqlite_where=sa.text("state = 'queued' AND enqueued_at IS NOT NULL"),
    )
    op.create_index(
        "ix_tasks_time",
        "tasks",
        ["project_id", "not_before"],
        unique=False,
        postgresql_where=sa.text("state = 'blocked' AND not_before IS NOT NULL"),
        sqlite_where=sa.text("state = 'blocked' AND not_before IS NOT NULL"),
    )
    op.create_table(
        "attempts",
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("run_id", types.Id, nullable=False),
        sa.Column("worker_id", types.Id, nullable=False),
        sa.Column("started_at", types.UtcTime(), nullable=False),
        sa.Column("lease_until", types.UtcTime(), nullable=False),
        sa.Column("heartbeat_at", types.UtcTime(), nullable=False),
        sa.Column("progress_at", types.UtcTime(), nullable=True),
        sa.Column("slots", types.Json(), nullable=True),
        sa.Column("pgid", sa.Integer(), nullable=True),
        sa.Column("pg_start", sa.Float(), nullable=True),
        sa.Column("finished_at", types.UtcTime(), nullable=True),
        sa.Column("outcome", types.Str(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("error", types.Str(), nullable=True),
        sa.Column("output", types.Json(), nullable=True),
        sa.Column("log", types.Str(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('completed', 'failed', 'timed_out', 'canceled', 'lost', 'handed_back', 'deferred')",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.CheckConstraint("(finished_at IS NULL) = (outcome IS NULL)", name=op.f("ck_attempts_outcome_iff_finished")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_attempts_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "number", name=op.f("pk_attempts")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "ix_attempts_unfinished",
        "attempts",
        ["project_id"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.create_index(
        "ix_attempts_worker",
        "attempts",
        ["worker_id"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "dependencies",
        sa.Column("parent_id", types.Id, nullable=False),
        sa.Column("child_id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("kind", types.Str(), nullable=False),
        sa.Column("satisfied_at", types.UtcTime(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('blocks', 'parent-child', 'discovered-from', 'related')", name=op.f("ck_dependencies_kind")
        ),
        sa.CheckConstraint("parent_id <> child_id", name=op.f("ck_dependencies_not_itself")),
        sa.ForeignKeyConstraint(["child_id"], ["tasks.id"], name=op.f("fk_dependencies_child_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["tasks.id"], name=op.f("fk_dependencies_parent_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("parent_id", "child_id", name=op.f("pk_dependencies")),
        postgresql_with={"fillfactor": "80"},
        sqlite_with_rowid=False,
    )
    op.create_index("ix_dependencies_child_id", "dependencies", ["child_id"], unique=False)
    op.create_index(
        "ix_tasks_ready",
        "tasks",
        ["project_id", sa.text("priority DESC"), "id"],
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(costs.POSTGRES_REFUSE)
        op.execute(costs.POSTGRES_APPEND_ONLY)
    else:
        op.execute(costs.SQLITE_APPEND_ONLY)
