"""Tables of workspaces: their members, projects and runs, and the fleet."""

import sqlalchemy as sa
from alembic import op

from coordination.store import types
from tests.support.first_schema.operations import partial_index


def create() -> None:
    """Create the tables."""
    op.create_table(
        "broker_keys",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("secret", types.Str(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_broker_keys_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_broker_keys")),
    )
    op.create_table(
        "host_leases",
        sa.Column("host", types.Str(), nullable=False),
        sa.Column("kind", types.Str(), nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("task_id", types.Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("origin", types.Str()),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("host", "kind", "name", name=op.f("pk_host_leases")),
    )
    op.create_index("ix_host_leases_attempt", "host_leases", ["task_id", "attempt"])
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
        sa.Column("draining_at", types.UtcTime()),
        sa.Column("stopped_at", types.UtcTime()),
        sa.Column("clock_at", types.UtcTime()),
        sa.Column("serves", types.Json()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("timezone", types.Str()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspaces")),
        sa.UniqueConstraint("name", name=op.f("uq_workspaces_name")),
    )
    op.create_table(
        "chores",
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("owner", types.Str()),
        sa.Column("lease_until", types.UtcTime()),
        sa.Column("done_at", types.UtcTime()),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_chores_workspace_id")),
        sa.PrimaryKeyConstraint("workspace_id", "name", name=op.f("pk_chores")),
    )
    op.create_table(
        "principals",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("kind", types.Str(), nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.CheckConstraint("kind IN ('person', 'agent', 'token', 'task', 'system')", name=op.f("ck_principals_kind")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_principals_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_principals")),
        sa.UniqueConstraint("workspace_id", "kind", "name", name=op.f("uq_principals_workspace_id_kind_name")),
    )
    op.create_table(
        "projects",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("identity", types.Str(), nullable=False),
        sa.Column("path", types.Str()),
        sa.Column("description", types.Str()),
        sa.Column("status", types.Str(), nullable=False),
        sa.Column("settings", types.Json(), nullable=False),
        sa.Column("budgets", types.Json(), nullable=False),
        sa.Column("model_restrictions", types.Json(), nullable=False),
        sa.Column("metadata", types.Json(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("started_at", types.UtcTime()),
        sa.Column("completed_at", types.UtcTime()),
        sa.Column("stopped", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "status IN ('planning', 'active', 'on_hold', 'completed', 'archived')", name=op.f("ck_projects_status")
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_projects_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("workspace_id", "identity", name=op.f("uq_projects_workspace_id_identity")),
    )
    op.create_table(
        "agents",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("description", types.Str()),
        sa.Column("type", types.Str()),
        sa.Column("objective", types.Str()),
        sa.Column("labels", types.Json(), nullable=False),
        sa.Column("runner", types.Json(), nullable=False),
        sa.Column("model", types.Str()),
        sa.Column("identity", types.Json(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("updated_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["principals.id"], name=op.f("fk_agents_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_agents_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
    )
    partial_index("uq_agents_default", "agents", ["workspace_id"], "is_default", unique=True)
    op.create_table(
        "keys",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("hash", types.Str(), nullable=False),
        sa.Column("created_by", types.Id, nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("last_used_at", types.UtcTime()),
        sa.Column("revoked_at", types.UtcTime()),
        sa.ForeignKeyConstraint(["created_by"], ["principals.id"], name=op.f("fk_keys_created_by")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_keys_project_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_keys_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_keys_hash")),
        sa.UniqueConstraint("workspace_id", "name", name=op.f("uq_keys_workspace_id_name")),
    )
    op.create_table(
        "members",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id),
        sa.Column("principal_id", types.Id, nullable=False),
        sa.Column("role", types.Str(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.CheckConstraint("role IN ('owner', 'operator', 'viewer')", name=op.f("ck_members_role")),
        sa.ForeignKeyConstraint(["principal_id"], ["principals.id"], name=op.f("fk_members_principal_id")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_members_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_members_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_members")),
    )
    partial_index(
        "uq_members_project", "members", ["project_id", "principal_id"], "project_id IS NOT NULL", unique=True
    )
    partial_index(
        "uq_members_workspace", "members", ["workspace_id", "principal_id"], "project_id IS NULL", unique=True
    )
    op.create_table(
        "people",
        sa.Column("principal_id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("email", types.Str()),
        sa.Column("timezone", types.Str()),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["principal_id"], ["principals.id"], name=op.f("fk_people_principal_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_people_workspace_id")),
        sa.PrimaryKeyConstraint("principal_id", name=op.f("pk_people")),
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
    op.create_index("ix_project_aliases_project_id", "project_aliases", ["project_id"])
    op.create_table(
        "sessions",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("agent_id", types.Id),
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
    op.create_index("ix_sessions_project_id", "sessions", ["project_id"])
    op.create_table(
        "stops",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id),
        sa.Column("since", types.UtcTime(), nullable=False),
        sa.Column("created_by", types.Id, nullable=False),
        sa.Column("reason", types.Str()),
        sa.Column("at_once", sa.Boolean(), nullable=False),
        sa.Column("in_flight", types.Json()),
        sa.Column("ended_at", types.UtcTime()),
        sa.Column("ended_by", types.Id),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_stops_project_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_stops_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stops")),
    )
    partial_index("ix_stops_active", "stops", ["workspace_id"], "ended_at IS NULL")
    op.create_table(
        "supervisors",
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("session_key", types.Str(), nullable=False),
        sa.Column("started_at", types.UtcTime(), nullable=False),
        sa.Column("heartbeat_at", types.UtcTime(), nullable=False),
        sa.Column("expires_at", types.UtcTime(), nullable=False),
        sa.Column("ended_at", types.UtcTime()),
        sa.Column("state", types.Json(), nullable=False),
        sa.Column("error", types.Str()),
        sa.Column("submissions", sa.Integer(), nullable=False),
        sa.Column("tick_owner", types.Str()),
        sa.Column("tick_until", types.UtcTime()),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_supervisors_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_supervisors")),
    )
    partial_index("ix_supervisors_heartbeat", "supervisors", ["heartbeat_at"], "ended_at IS NULL")
    op.create_table(
        "tokens",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("owner_id", types.Id, nullable=False),
        sa.Column("hash", types.Str(), nullable=False),
        sa.Column("scopes", types.Json(), nullable=False),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("expires_at", types.UtcTime()),
        sa.Column("last_used_at", types.UtcTime()),
        sa.Column("revoked_at", types.UtcTime()),
        sa.ForeignKeyConstraint(["owner_id"], ["principals.id"], name=op.f("fk_tokens_owner_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_tokens_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_tokens_hash")),
    )
    op.create_index("ix_tokens_owner_id", "tokens", ["owner_id"])
    op.create_table(
        "runs",
        sa.Column("id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("project_id", types.Id, nullable=False),
        sa.Column("session_id", types.Id, nullable=False),
        sa.Column("name", types.Str(), nullable=False),
        sa.Column("created_by", types.Id, nullable=False),
        sa.Column("authority", types.Json()),
        sa.Column("python_path", types.Json(), nullable=False),
        sa.Column("budget_usd", types.Money()),
        sa.Column("budget_on_exceed", types.Str()),
        sa.Column("metadata", types.Json(), nullable=False),
        sa.Column("predicted", types.Json()),
        sa.Column("created_at", types.UtcTime(), nullable=False),
        sa.Column("finished_at", types.UtcTime()),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_runs_project_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name=op.f("fk_runs_session_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_runs_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    partial_index("ix_runs_finished", "runs", ["workspace_id", "finished_at"], "finished_at IS NOT NULL")
    op.create_index("ix_runs_project_id_id", "runs", ["project_id", "id"])
    op.create_index("ix_runs_session_id", "runs", ["session_id"])
    partial_index("ix_runs_unfinished", "runs", ["project_id"], "finished_at IS NULL")
    op.create_table(
        "removals",
        sa.Column("run_id", types.Id, nullable=False),
        sa.Column("workspace_id", types.Id, nullable=False),
        sa.Column("begun_at", types.UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_removals_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_removals")),
    )
