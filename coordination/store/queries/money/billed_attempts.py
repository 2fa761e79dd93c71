"""Statements on attempts as the records of their costs name them, of all workspaces that a worker serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from coordination.store.queries.access.principals import name_of
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks

a, t, r = attempts.c, tasks.c, runs.c


@dataclass(frozen=True, slots=True)
class BilledAttempt:
    """An attempt, as the records of its costs name it, and its task's job."""

    task_id: str
    attempt: int
    workspace_id: str
    project_id: str
    run_id: str
    session_id: str | None
    key: str
    agent: str | None
    work: dict[str, Any]
    agent_id: str | None


def billed_attempts(tx: Connection, fences: Sequence[tuple[str, int]]) -> list[BilledAttempt]:
    """Those of these attempts that there are."""
    rows = tx.execute(
        select(
            a.task_id,
            a.number,
            t.workspace_id,
            t.project_id,
            t.run_id,
            r.session_id,
            t.key,
            name_of(t.agent_id),
            t.work,
            t.agent_id,
        )
        .join(tasks, t.id == a.task_id)
        .join(runs, r.id == t.run_id)
        .where(a.task_id.in_(sorted({task_id for task_id, _ in fences})))
    )
    return [found for row in rows if ((found := BilledAttempt(*tuple(row))).task_id, found.attempt) in set(fences)]
