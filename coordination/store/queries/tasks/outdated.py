"""Statements on tasks that used outdated results, which are marked on their edges."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, select

from coordination.domain.tasks.outdated import OutdatedTask
from coordination.domain.tasks.tasks import OPEN, TaskState
from coordination.store.queries.tasks.force_state import revoke_release
from coordination.store.queries.tasks.tasks import BATCH, get, lock
from coordination.store.tables.tasks.tasks import dependencies, tasks

d = dependencies.c
t = tasks.c
_need = tasks.alias("need")
_SELECT = (
    select(
        *(t.id.label("task_id"), t.key, t.run_id, t.project_id, t.state, t.attempt),
        *(_need.c.key.label("need"), _need.c.state.label("need_state")),
    )
    .select_from(dependencies)
    .join(tasks, t.id == d.child_id)
    .join(_need, _need.c.id == d.parent_id)
    .where(d.outdated_attempt.is_not(None), d.outdated_attempt == t.attempt)
    .where(t.state.in_((TaskState.RUNNING, TaskState.COMPLETED)))
    .order_by(t.id, _need.c.id)
)

_MARKED = select(d.parent_id, d.child_id, d.outdated_attempt).where(
    d.outdated_attempt.is_not(None), d.satisfied_at.is_not(None)
)


def of_tasks(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[OutdatedTask]:
    """Return the outdated inputs of these tasks."""
    result: list[OutdatedTask] = []
    for start in range(0, len(ids), BATCH):
        result += _read(tx, d.workspace_id == workspace_id, d.child_id.in_(ids[start : start + BATCH]))
    return result


def of_run(tx: Connection, workspace_id: str, run_id: str) -> list[OutdatedTask]:
    """Return the outdated inputs of a run's tasks."""
    return _read(tx, d.workspace_id == workspace_id, t.run_id == run_id)


def of_workspace(tx: Connection, workspace_id: str, *, most: int) -> list[OutdatedTask]:
    """Return the *most* newest outdated inputs in all projects."""
    statement = _SELECT.where(d.workspace_id == workspace_id).order_by(None).order_by(t.id.desc()).limit(most)
    return [_outdated(row) for row in tx.execute(statement).mappings()]


def wait_again(tx: Connection, workspace_id: str, fences: Collection[tuple[str, int]]) -> None:
    """Make tasks whose attempt has ended wait for upstream tasks that run again since it started.

    *fences*: (task id, attempt) of locked tasks that no longer run. Raises if another transaction has locked their
    upstream tasks.
    """
    attempts = dict(fences)
    needs: dict[str, list[str]] = {}
    ids = list(attempts)
    for start in range(0, len(ids), BATCH):
        rows = tx.execute(_MARKED.where(d.workspace_id == workspace_id, d.child_id.in_(ids[start : start + BATCH])))
        for row in rows:
            if row.outdated_attempt == attempts[row.child_id]:
                needs.setdefault(row.parent_id, []).append(row.child_id)
    if not needs:
        return  # the common case
    lock(tx, workspace_id, list(needs), nowait=True)
    for need, children in needs.items():
        task = get(tx, workspace_id, need)
        if task is not None and task.state in OPEN:
            revoke_release(tx, workspace_id, need, children)


def _read(tx: Connection, *where: Any) -> list[OutdatedTask]:
    return [_outdated(row) for row in tx.execute(_SELECT.where(*where)).mappings()]


def _outdated(row: Any) -> OutdatedTask:
    return OutdatedTask(**{**row, "state": TaskState(row["state"]), "need_state": TaskState(row["need_state"])})
