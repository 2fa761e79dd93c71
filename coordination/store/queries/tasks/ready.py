"""Statements on ready tasks: block them for holds, lift holds, mark them as enqueued."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal,
    null,
    or_,
    select,
    update,
)

from coordination.domain.tasks.tasks import MOVES, BlockReason, TaskMove, TaskState
from coordination.store.driver import insert_into
from coordination.store.queries.tasks.tasks import BATCH
from coordination.store.tables.tasks.task_holds import task_holds
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_after, db_now, iso

t, h = tasks.c, task_holds.c


@dataclass(frozen=True, slots=True)
class ReadyTask:
    """A ready task, with the fields that its message contains."""

    id: str
    attempt: int  # the number of its next attempt
    key: str
    title: str
    kind: str


_MAY_BE_HELD, HELD_BACK = MOVES[TaskMove.HOLD_BACK]
_due = or_(t.not_before.is_(None), t.not_before <= db_now())


def hold_back(
    tx: Connection,
    workspace_id: str,
    ids: Sequence[str],
    reason: BlockReason,
    subjects: Mapping[str, str],
    *,
    until: datetime | None = None,
) -> None:
    """Block queued tasks for *reason*. *subjects*: by task id, the id of the object that causes it.

    *until*: when the reason is lifted.
    """
    blocked = tx.execute(
        update(tasks)
        .where(t.workspace_id == workspace_id, t.id.in_(ids), t.state.in_(_MAY_BE_HELD))
        .values(state=HELD_BACK, reasons=reason, enqueued_at=None, not_before=until, updated_at=db_now())
        .returning(t.id)
    )
    rows = [
        {"workspace_id": workspace_id, "task_id": task_id, "reason": name, "subject": subjects.get(task_id)}
        for task_id in sorted(blocked.scalars())
        for name in reason.names()
    ]
    if rows:
        statement, key = insert_into(tx, task_holds), ["workspace_id", "task_id", "reason"]
        values = {"subject": statement.excluded.subject, "since": db_now()}
        tx.execute(statement.on_conflict_do_update(index_elements=key, set_=values), rows)


def _blocked_for(reason: BlockReason) -> tuple[Any, Any]:
    return t.state == TaskState.BLOCKED, t.reasons.op("&")(literal(int(reason))) != 0


def _lift(
    tx: Connection, workspace_id: str, reason: BlockReason, ids: Sequence[str], *, at_once: bool = False
) -> list[RowMapping]:
    """Remove these reasons from these locked tasks."""
    remaining = t.reasons.op("&")(literal(~int(reason) & 0xFFFF))
    result: list[RowMapping] = []
    for start in range(0, len(ids), BATCH):
        statement = (
            update(tasks)
            .where(t.id.in_(ids[start : start + BATCH]))
            .values(
                reasons=remaining,
                not_before=null() if at_once else t.not_before,
                state=case((remaining == 0, TaskState.QUEUED.value), else_=TaskState.BLOCKED.value),
                updated_at=db_now(),
            )
            .returning(t.id, t.state, t.run_id)
        )
        result += tx.execute(statement).mappings()
        of_batch = h.task_id.in_(ids[start : start + BATCH]), h.reason.in_(reason.names())
        tx.execute(delete(task_holds).where(h.workspace_id == workspace_id, *of_batch))
    return result


def lift(
    tx: Connection, workspace_id: str, project_id: str, reason: BlockReason, *, at_once: bool = False
) -> list[RowMapping]:
    """Remove these reasons from all blocked tasks of the project. Return the changed tasks with their new states.

    *at_once*: also clear the time until which they were blocked.
    """
    where = t.workspace_id == workspace_id, t.project_id == project_id
    # The cast keeps the planner from reading the whole index of the key for its order.
    waiting = select(t.id).where(*_blocked_for(reason), *where).order_by(cast(t.id, Text)).with_for_update()
    return _lift(tx, workspace_id, reason, list(tx.execute(waiting).scalars()), at_once=at_once)


def lift_from(tx: Connection, workspace_id: str, ids: Sequence[str], reason: BlockReason) -> list[RowMapping]:
    """Remove *reason* from these tasks, except from locked ones. Return the changed tasks with their new states."""
    locked = _lock_free(tx, *_blocked_for(reason), t.workspace_id == workspace_id, t.id.in_(ids))
    return _lift(tx, workspace_id, reason, locked)


def list_blocked(
    tx: Connection, workspace_id: str, run_id: str, reason: BlockReason, *, most: int
) -> dict[str, dict[str, Any]]:
    """Return the jobs of a run's tasks that are blocked for one of these reasons, by key."""
    where = t.workspace_id == workspace_id, t.run_id == run_id, *_blocked_for(reason)
    rows = tx.execute(select(t.key, t.work).where(*where).order_by(t.id).limit(most))
    return {row.key: row.work for row in rows}


def lift_due(tx: Connection, workspace_id: str, project_id: str, reasons: BlockReason) -> list[RowMapping]:
    """Remove these reasons from tasks whose start time has come. Return the changed tasks with their new states."""
    where = t.workspace_id == workspace_id, t.project_id == project_id, t.not_before <= db_now()
    return _lift(tx, workspace_id, reasons, _lock_free(tx, *_blocked_for(reasons), *where))


def _lock_free(tx: Connection, *where: Any) -> list[str]:
    """Lock tasks and return their ids. Skips locked rows, so that it suits work that is repeated."""
    return list(tx.execute(select(t.id).where(*where).with_for_update(skip_locked=True)).scalars())


_satisfied: BindParameter[int] = bindparam("satisfied")
_LESS_PENDING = (
    update(tasks)
    .where(
        t.workspace_id == bindparam("ws"),
        t.id.in_(bindparam("ids", expanding=True)),
        # Includes ended children: a concurrent reopening is waited for, and the child is counted when blocked again.
        t.pending > 0,
    )
    .values(
        pending=case((t.pending > _satisfied, t.pending - _satisfied), else_=0),
        reasons=case(
            (t.pending > _satisfied, t.reasons),
            else_=t.reasons.op("&")(literal(~int(BlockReason.DEPENDENCIES) & 0xFFFF)),
        ),
        state=case(
            (and_(t.pending <= _satisfied, t.reasons == int(BlockReason.DEPENDENCIES)), TaskState.QUEUED.value),
            else_=t.state,
        ),
        updated_at=db_now(),
    )
    .returning(t.id, t.state, t.run_id)
)


def lower_pending(tx: Connection, workspace_id: str, satisfied: Mapping[str, int]) -> list[tuple[str, str]]:
    """Lower the pending counters of children by the satisfied edges. Return (id, run id) of those that became queued.

    Children in a terminal state keep it.
    """
    by_count: dict[int, list[str]] = {}
    for child, count in satisfied.items():
        by_count.setdefault(count, []).append(child)
    freed: list[tuple[str, str]] = []
    for count, ids in by_count.items():
        for start in range(0, len(ids), BATCH):
            rows = tx.execute(
                _LESS_PENDING, {"ws": workspace_id, "ids": ids[start : start + BATCH], "satisfied": count}
            )
            freed += [(row.id, row.run_id) for row in rows if row.state == TaskState.QUEUED]
    return freed


_COUNT_ENQUEUED = (
    select(t.kind, func.count())
    .where(
        t.project_id == bindparam("project"),
        t.workspace_id == bindparam("ws"),
        t.state == TaskState.QUEUED,
        t.enqueued_at.is_not(None),
    )
    .group_by(t.kind)
)


def count_enqueued(tx: Connection, workspace_id: str, project_id: str) -> dict[str, int]:
    """Return the number of the project's enqueued tasks by kind, which fill its window."""
    rows = tx.execute(_COUNT_ENQUEUED, {"ws": workspace_id, "project": project_id})
    return {row[0]: row[1] for row in rows}


_NEXT = (
    select(t.id, (t.attempt + 1).label("attempt"), t.key, t.title, t.kind, t.agent_id, t.concurrency_key)
    .where(
        t.project_id == bindparam("project"),
        t.workspace_id == bindparam("ws"),
        t.state == TaskState.QUEUED,
        t.enqueued_at.is_(None),
        _due,
    )
    .order_by(t.priority.desc(), t.id)
    .limit(bindparam("room"))
)


def next_to_enqueue(
    tx: Connection, workspace_id: str, project_id: str, *, room: int, where: Sequence[ColumnElement[bool]] = ()
) -> list[RowMapping]:
    """Lock and return the best ready tasks that are not enqueued and meet *where*, by priority, then age."""
    statement: Select[Any] = _NEXT
    if where:
        statement = statement.where(*where)
    if tx.dialect.name != "sqlite":
        statement = statement.with_for_update(skip_locked=True)
    return list(tx.execute(statement, {"ws": workspace_id, "project": project_id, "room": room}).mappings())


_MARK = {  # states are not user input
    "postgresql": "UPDATE tasks SET enqueued_at = now() "  # noqa: S608
    f"WHERE workspace_id = %(workspace)s::uuid AND id = ANY(%(ids)s::uuid[]) AND state = '{TaskState.QUEUED}'",
    "sqlite": "UPDATE tasks SET enqueued_at = :now "  # noqa: S608
    f"WHERE workspace_id = :workspace AND id IN (SELECT value FROM json_each(:ids)) AND state = '{TaskState.QUEUED}'",
}


def mark_enqueued(tx: Connection, workspace_id: str, ids: Sequence[str]) -> None:
    """Mark these tasks as enqueued; the caller publishes their messages after the commit."""
    if tx.dialect.name == "postgresql":
        tx.exec_driver_sql(_MARK["postgresql"], {"workspace": workspace_id, "ids": list(ids)})
        return
    values = {"workspace": workspace_id, "ids": json.dumps(list(ids)), "now": iso(datetime.now(UTC))}
    tx.exec_driver_sql(_MARK["sqlite"], values)


def unmark_enqueued(tx: Connection, workspace_id: str, ids: Sequence[str]) -> None:
    """Mark these tasks as not enqueued, e.g. because of a full slot. Skips locked ones."""
    _unmark(tx, _lock_free(tx, t.workspace_id == workspace_id, t.id.in_(ids), t.state == TaskState.QUEUED))


def unmark_stale(tx: Connection, workspace_id: str, project_id: str, *, age: timedelta) -> int:
    """Mark tasks that were enqueued longer than *age* ago as not enqueued. Return their number."""
    where = t.project_id == project_id, t.workspace_id == workspace_id, t.state == TaskState.QUEUED
    ids = _lock_free(tx, *where, t.enqueued_at.is_not(None), t.enqueued_at < db_after(-age.total_seconds()))
    _unmark(tx, ids)
    return len(ids)


def _unmark(tx: Connection, ids: Sequence[str]) -> None:
    for start in range(0, len(ids), BATCH):
        tx.execute(update(tasks).where(t.id.in_(ids[start : start + BATCH])).values(enqueued_at=None))
