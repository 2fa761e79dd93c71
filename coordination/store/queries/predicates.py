"""SQL conditions that several statements share: *t* is a task, *p* its project, *r* its run."""

from __future__ import annotations

from coordination.domain.jobs.checkouts import MERGE_KEY
from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.tasks import MOVES, TaskMove

(QUEUED,), CLAIMED = MOVES[TaskMove.CLAIM]

# "|| ''" keeps the planner from the indexes on states: with outdated statistics it would read all rows in a state
# instead of the named ones. For the same reason the outcome is tested (NULL: not finished), not the indexed
# finished_at. A cached plan may be older than most rows: a scalar subquery is executed by key for each task, whereas
# EXISTS may become a join over a whole index.
CLAIMABLE = f"""t.state || '' = '{QUEUED}'
    AND (SELECT 1 FROM attempts a WHERE a.task_id = t.id AND a.outcome IS NULL LIMIT 1) IS NULL"""
"""The task is queued, and no attempt of it may still run."""

PAUSED_STATUSES = (ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED)
PAUSED = "(p.status IN ({}) OR p.stopped)".format(", ".join(f"'{status}'" for status in PAUSED_STATUSES))
"""The project is paused, archived or stopped."""

LIMITED = f"""(COALESCE(substr(t.concurrency_key, 1, {len(MERGE_KEY)}), '') = '{MERGE_KEY}'
        OR EXISTS (SELECT 1 FROM slots s WHERE s.project_id = t.project_id))"""
"""The project has limits, or the task is a conflict task, of which one runs at a time even without a stored limit."""

BUDGETED = """EXISTS (
        SELECT 1 FROM budgets b WHERE b.workspace_id = t.workspace_id AND b.subject IN (
            CAST(t.workspace_id AS TEXT), CAST(t.project_id AS TEXT), CAST(t.run_id AS TEXT), CAST(t.id AS TEXT),
            CAST(r.session_id AS TEXT), CAST(t.agent_id AS TEXT)))"""
"""A budget applies to the task."""

ASKS_A_MODEL = "substr(t.kind, 1, 5) IN ('agent', 'chat:')"
"""The task's job is an agent or a chat. The JSON of other jobs is not parsed for fields that only these have."""

RESTRICTS_MODELS = f"(CAST(p.model_restrictions AS TEXT) <> '{{}}' AND {ASKS_A_MODEL})"
"""The project restricts models, and the job asks one."""


def has_setting(name: str) -> str:
    """Return the condition that the project has the setting. The JSON of empty settings is not parsed."""
    return f"(CAST(p.settings AS TEXT) <> '{{}}' AND p.settings ->> '{name}' IS NOT NULL)"
