"""Reads the fields of attempts that cost records need, in all workspaces that a worker serves."""

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
    """The fields of an attempt that its cost records need, and its job."""

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
    """Return those of these attempts that exist."""
    of_task = (t.workspace_id, t.project_id, t.run_id, r.session_id, t.key, name_of(t.agent_id), t.work, t.agent_id)
    rows = tx.execute(
        select(a.task_id, a.number, *of_task)
        .join(tasks, t.id == a.task_id)
        .join(runs, r.id == t.run_id)
        .where(a.task_id.in_(sorted({task_id for task_id, _ in fences})))
    )
    wanted = set(fences)
    return [BilledAttempt(*tuple(row)) for row in rows if (row.task_id, row.number) in wanted]
