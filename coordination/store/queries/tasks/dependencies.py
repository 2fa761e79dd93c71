"""Statements on dependency edges. The transaction that ends the parent marks each edge as satisfied, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from coordination.domain.tasks.tasks import DependencyKind, OnDependencyFailure, TaskState
from coordination.store.queries.tasks.tasks import BATCH
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.tasks import dependencies, tasks
from coordination.store.types import db_now

d = dependencies.c
HOLDING = tuple(kind for kind in DependencyKind if kind.holds_back)

_SATISFY = (
    update(dependencies)
    .where(
        d.workspace_id == bindparam("ws"),
        d.parent_id.in_(bindparam("parents", expanding=True)),
        d.kind.in_(HOLDING),
        d.satisfied_at.is_(None),
    )
    .values(satisfied_at=db_now())
    .returning(d.child_id)
)


def satisfy_edges(tx: Connection, workspace_id: str, parents: Sequence[str], children: Sequence[str]) -> Counter[str]:
    """Mark the open edges from *parents* to *children* as satisfied; return their number by child."""
    marked: Counter[str] = Counter()
    for start in range(0, len(children), BATCH):
        statement = _SATISFY.where(d.child_id.in_(children[start : start + BATCH]))
        marked.update(tx.execute(statement, {"ws": workspace_id, "parents": list(parents)}).scalars())
    return marked


def waiting_children(tx: Connection, workspace_id: str, parents: Sequence[str]) -> dict[str, list[str]]:
    """Return the children that wait for *parents*: child -> the parents that it waits for."""
    by_child: dict[str, list[str]] = {}
    for start in range(0, len(parents), BATCH):
        rows = tx.execute(
            select(d.child_id, d.parent_id)
            .where(
                d.workspace_id == workspace_id,
                d.parent_id.in_(parents[start : start + BATCH]),
                d.kind.in_(HOLDING),
                d.satisfied_at.is_(None),
            )
            .order_by(d.child_id)
        )
        for row in rows:
            by_child.setdefault(row.child_id, []).append(row.parent_id)
    return by_child


_WITH_DEPENDANTS = f"""
WITH RECURSIVE reached (id, passes) AS (
    SELECT id, true FROM unnest(%(ids)s::uuid[]) AS start (id)
    UNION
    SELECT d.child_id, (SELECT on_dependency_failure = '{OnDependencyFailure.CANCEL}' FROM tasks WHERE id = d.child_id)
    FROM reached JOIN dependencies d ON d.parent_id = ANY(ARRAY[reached.id])
    WHERE reached.passes AND d.satisfied_at IS NULL AND d.workspace_id = %(workspace)s::uuid
        AND d.kind IN ({", ".join(f"'{kind}'" for kind in HOLDING)})
)
SELECT DISTINCT id::text FROM reached
"""  # noqa: S608 - names of our own kinds


def with_dependants(tx: Connection, workspace_id: str, ids: Collection[str]) -> list[str]:
    """Return *ids* and all tasks that their end without success may change: the rows to lock before writing it.

    On SQLite, which has no row locks, only *ids*.
    """
    if tx.dialect.name == "sqlite" or not ids:
        return list(ids)
    values = {"workspace": workspace_id, "ids": list(ids)}
    return list(tx.exec_driver_sql(_WITH_DEPENDANTS, values).scalars())


def count_open(tx: Connection, workspace_id: str, child_id: str) -> int:
    """Return the number of this child's edges that are not satisfied."""
    where = d.workspace_id == workspace_id, d.child_id == child_id, d.kind.in_(HOLDING), d.satisfied_at.is_(None)
    return tx.execute(select(func.count()).where(*where)).scalar_one()


def insert_many(tx: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert dependencies between tasks."""
    tx.execute(insert(dependencies), rows)


def add_waits(
    tx: Connection, workspace_id: str, child_id: str, parents: Sequence[str], completed: Sequence[str] = ()
) -> int:
    """Make a task wait for *parents*. Return how many of them it did not wait for yet.

    It also gets satisfied edges to the *completed* tasks, so that it receives their outputs.
    """
    where = d.workspace_id == workspace_id, d.child_id == child_id
    edges = select(d.parent_id, d.satisfied_at).where(*where, d.parent_id.in_([*parents, *completed]))
    existing = {row.parent_id: row.satisfied_at for row in tx.execute(edges)}
    again = [parent for parent in parents if existing.get(parent) is not None]
    if again:
        reopened = update(dependencies).where(*where, d.parent_id.in_(again))
        tx.execute(reopened.values(satisfied_at=None, kind=DependencyKind.BLOCKS))
    new = [parent for parent in parents if parent not in existing]
    common = {"child_id": child_id, "workspace_id": workspace_id, "kind": DependencyKind.BLOCKS}
    if new:
        insert_many(tx, [{**common, "parent_id": parent, "satisfied_at": None} for parent in new])
    for parent in completed:
        if parent not in existing:
            tx.execute(insert(dependencies).values(**common, parent_id=parent, satisfied_at=db_now()))
    return len(again) + len(new)


_OUTPUTS = (
    select(d.child_id, tasks.c.key, tasks.c.state, attempts.c.output)
    .join(tasks, tasks.c.id == d.parent_id)
    .outerjoin(attempts, (attempts.c.task_id == tasks.c.id) & (attempts.c.number == tasks.c.attempt))
    .where(
        d.workspace_id == bindparam("ws"), d.child_id.in_(bindparam("children", expanding=True)), d.kind.in_(HOLDING)
    )
)


def outputs_for(tx: Connection, workspace_id: str, children: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the outputs of the dependencies of *children*: child -> key -> {"state", "output"}."""
    outputs: dict[str, dict[str, dict[str, Any]]] = {child: {} for child in children}
    for row in tx.execute(_OUTPUTS, {"ws": workspace_id, "children": list(children)}):
        is_completed = row.state == TaskState.COMPLETED
        outputs[row.child_id][row.key] = {"state": row.state, "output": row.output if is_completed else None}
    return outputs


def edges_of_run(tx: Connection, workspace_id: str, run_id: str) -> list[tuple[str, str, str]]:
    """Return (parent key, child key, kind) of every edge in a run."""
    parent, child = tasks.alias("parent"), tasks.alias("child")
    rows = tx.execute(
        select(parent.c.key.label("parent"), child.c.key.label("child"), d.kind)
        .join(parent, parent.c.id == d.parent_id)
        .join(child, child.c.id == d.child_id)
        .where(d.workspace_id == workspace_id, child.c.run_id == run_id)
        .order_by(child.c.id, parent.c.id)
    )
    return [(row.parent, row.child, row.kind) for row in rows]


def row_of(workspace_id: str, parent_id: str, child_id: str, kind: DependencyKind) -> dict[str, Any]:
    """Return the row of a dependency that is not satisfied."""
    return {
        "parent_id": parent_id,
        "child_id": child_id,
        "workspace_id": workspace_id,
        "kind": kind,
        "satisfied_at": None,
    }
