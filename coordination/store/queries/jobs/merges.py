"""Statements on merges: recorded before a branch moves, read by the task's next attempt, deleted with its end."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, or_, select

from coordination.domain.jobs.merges import Merge
from coordination.domain.tasks.attempts import Outcome
from coordination.store.tables.jobs.merges import merges
from coordination.store.tables.tasks.attempts import attempts

m, a = merges.c, attempts.c


def put(tx: Connection, workspace_id: str, task_id: str, merge: Merge) -> None:
    """Record what an attempt is about to merge, and replace its earlier record. The caller has checked the fence."""
    own = (m.workspace_id == workspace_id) & (m.task_id == task_id) & (m.attempt == merge.attempt)
    tx.execute(delete(merges).where(own))
    columns = {name: getattr(merge, name) for name in ("attempt", "branch", "old_commit", "new_commit")}
    row = {"task_id": task_id, "workspace_id": workspace_id, **columns, "result": dict(merge.result)}
    tx.execute(insert(merges), [row])


def unfinished(tx: Connection, workspace_id: str, task_id: str, *, before: int) -> list[Merge]:
    """Return the merges of lost attempts with a lower number than *before*, the latest first.

    Records of attempts whose end was stored are ignored, because that end says whether they merged.
    """
    regular_ends = Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT
    lost = or_(a.outcome.is_(None), a.outcome.not_in(regular_ends))
    rows = tx.execute(
        select(m.attempt, m.branch, m.old_commit, m.new_commit, m.result)
        .join(attempts, (a.task_id == m.task_id) & (a.number == m.attempt))
        .where(m.workspace_id == workspace_id, m.task_id == task_id, m.attempt < before, lost)
        .order_by(m.attempt.desc())
    )
    return [Merge(*row) for row in rows]


def delete_for_task(tx: Connection, workspace_id: str, task_id: str) -> None:
    """Delete the task's records, after its end is stored."""
    tx.execute(delete(merges).where(m.workspace_id == workspace_id, m.task_id == task_id))
