"""Durations of the jobs in a project's latest runs, including short ones, which the job history omits."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import Connection, func, select

from coordination.base.durations import MAX_DURATION
from coordination.base.money import ZERO
from coordination.domain.jobs import IN_WORKTREE
from coordination.domain.money.estimates import MAX_SAMPLES, JobSample
from coordination.domain.tasks.attempts import Outcome
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks

_RUNS = 5
_ENDS = (Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT)


def recent_durations(
    tx: Connection, workspace_id: str, project_id: str, kinds: Collection[str]
) -> dict[str, list[JobSample]]:
    """Return the latest jobs of these kinds, by kind, as samples without a cost."""
    if not kinds:
        return {}
    r, t, a = runs.c, tasks.c, attempts.c
    of_project = select(r.id).where(r.workspace_id == workspace_id, r.project_id == project_id)
    latest = list(tx.execute(of_project.order_by(r.id.desc()).limit(_RUNS)).scalars())
    if not latest:
        return {}
    number = func.row_number().over(partition_by=t.kind, order_by=t.id.desc()).label("number")
    numbered = (
        select(t.kind, a.started_at, a.finished_at, a.outcome, number)
        .join(attempts, (a.task_id == t.id) & (a.number == t.attempt))
        .where(t.workspace_id == workspace_id, t.run_id.in_(latest), a.outcome.in_(_ENDS))
        .subquery()
    )
    samples: dict[str, list[JobSample]] = {}
    n = numbered.c
    for row in tx.execute(select(n.kind, n.started_at, n.finished_at, n.outcome).where(n.number <= MAX_SAMPLES)):
        kind = row.kind.removesuffix(IN_WORKTREE)
        if kind in kinds:
            took = min(max(timedelta(0), row.finished_at - row.started_at), MAX_DURATION)
            completed = row.outcome == Outcome.COMPLETED
            samples.setdefault(kind, []).append(JobSample(ZERO, 0, 0, took, completed))
    return samples
