"""Conditions that several statements written by hand share, as SQL: *t* is a task, *p* its project, *r* its run."""

from __future__ import annotations

from coordination.domain.jobs.checkouts import MERGE_KEY
from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.tasks import MOVES, TaskMove

(QUEUED,), CLAIMED = MOVES[TaskMove.CLAIM]

# "|| ''" keeps the planner from the indexes on states: with figures from a time when few tasks had a state, it reads
# all that have it now instead of the few rows that are named. So does asking for the outcome: an attempt that has not
# finished has none, and the index on unfinished ones is not for this. A plan may be older than most rows, as in
# completions: a query for one value is made by its key, a task at a time, where EXISTS may become a join with an index.
CLAIMABLE = f"""t.state || '' = '{QUEUED}'
    AND (SELECT 1 FROM attempts a WHERE a.task_id = t.id AND a.outcome IS NULL LIMIT 1) IS NULL"""
"""Whether the task is queued, and no attempt of it may still run."""

PAUSED_STATUSES = (ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED)
PAUSED = "(p.status IN ({}) OR p.stopped)".format(", ".join(f"'{status}'" for status in PAUSED_STATUSES))
"""Whether the project is on hold, archived or stopped."""

LIMITED = f"""(COALESCE(substr(t.concurrency_key, 1, {len(MERGE_KEY)}), '') = '{MERGE_KEY}'
        OR EXISTS (SELECT 1 FROM slots s WHERE s.project_id = t.project_id))"""
"""Whether the project has limits. Conflict tasks of a run work one at a time, whether that limit is stored or not."""

BUDGETED = """EXISTS (
        SELECT 1 FROM budgets b WHERE b.workspace_id = t.workspace_id AND b.subject IN (
            CAST(t.workspace_id AS TEXT), CAST(t.project_id AS TEXT), CAST(t.run_id AS TEXT), CAST(t.id AS TEXT),
            CAST(r.session_id AS TEXT), CAST(t.agent_id AS TEXT)))"""
"""Whether any budget applies to the task."""

ASKS_A_MODEL = "substr(t.kind, 1, 5) IN ('agent', 'chat:')"
"""Whether the task's job is an agent's or a chat. The others are not parsed for what only these have."""

RESTRICTS_MODELS = f"(CAST(p.model_restrictions AS TEXT) <> '{{}}' AND {ASKS_A_MODEL})"
"""Whether the project says which models may be used, and the job asks one."""


def has_setting(name: str) -> str:
    """Whether the project has a setting of that name. Projects without settings are not parsed for it."""
    return f"(CAST(p.settings AS TEXT) <> '{{}}' AND p.settings ->> '{name}' IS NOT NULL)"
