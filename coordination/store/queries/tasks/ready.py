"""Statements on what is ready: claiming it, ringing for it, and taking away what holds it back."""

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
    func,
    literal,
    null,
    or_,
    select,
    update,
)

from coordination.domain.tasks.tasks import MOVES, BlockReason, TaskMove, TaskState
from coordination.store.queries.tasks import task_holds
from coordination.store.queries.tasks.tasks import BATCH
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_after, db_now, iso

t = tasks.c


@dataclass(frozen=True, slots=True)
class ReadyTask:
    """A task for which a doorbell may be rung: what the message needs to be readable."""

    id: str
    attempt: int  # the attempt that a claim of it would be
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
    """Block queued tasks for *reason*, which a claim met; *subjects*: by task, the id of what the reason is about.

    *until*: when the reason goes away by itself.
    """
    blocked = tx.execute(
        update(tasks)
        .where(t.workspace_id == workspace_id, t.id.in_(ids), t.state.in_(_MAY_BE_HELD))
        .values(state=HELD_BACK, reasons=reason, enqueued_at=None, not_before=until, updated_at=db_now())
        .returning(t.id)
    )
    task_holds.put(tx, workspace_id, list(blocked.scalars()), reason, subjects)


def _blocked_for(reason: BlockReason) -> tuple[Any, Any]:
    return t.state == TaskState.BLOCKED, t.reasons.op("&")(literal(int(reason))) != 0


def _lift(
    tx: Connection, workspace_id: str, reason: BlockReason, ids: Sequence[str], *, at_once: bool = False
) -> list[RowMapping]:
    """Take these reasons away from these locked tasks."""
    left = t.reasons.op("&")(literal(~int(reason) & 0xFFFF))
    found: list[RowMapping] = []
    for start in range(0, len(ids), BATCH):
        statement = (
            update(tasks)
            .where(t.id.in_(ids[start : start + BATCH]))
            .values(
                reasons=left,
                not_before=null() if at_once else t.not_before,
                state=case((left == 0, TaskState.QUEUED.value), else_=TaskState.BLOCKED.value),
                updated_at=db_now(),
            )
            .returning(t.id, t.state, t.run_id)
        )
        found += tx.execute(statement).mappings()
        task_holds.remove(tx, workspace_id, ids[start : start + BATCH], reason)
    return found


def lift(
    tx: Connection, workspace_id: str, project_id: str, reason: BlockReason, *, at_once: bool = False
) -> list[RowMapping]:
    """Take these reasons away from all blocked tasks of the project; what was touched, with the state it has now.

    *at_once*: they do not wait for the time until which they were held either.
    """
    where = t.workspace_id == workspace_id, t.project_id == project_id
    # Not in the order of the key, of which a planner may read all of the index.
    waiting = select(t.id).where(*_blocked_for(reason), *where).order_by(cast(t.id, Text)).with_for_update()
    return _lift(tx, workspace_id, reason, list(tx.execute(waiting).scalars()), at_once=at_once)


def lift_from(tx: Connection, workspace_id: str, ids: Sequence[str], reason: BlockReason) -> list[RowMapping]:
    """Take *reason* away from these tasks; what was touched, with the state it has now.

    Those that another transaction has locked are left out.
    """
    return _lift(
        tx, workspace_id, reason, _free(tx, *_blocked_for(reason), t.workspace_id == workspace_id, t.id.in_(ids))
    )


def keys_held(tx: Connection, workspace_id: str, run_id: str, reason: BlockReason, *, most: int) -> list[str]:
    """The keys of a run's tasks that one of these reasons holds."""
    return list(
        tx.execute(
            select(t.key)
            .where(
                t.workspace_id == workspace_id,
                t.run_id == run_id,
                t.state == TaskState.BLOCKED,
                t.reasons.op("&")(literal(int(reason))) != 0,
            )
            .order_by(t.id)
            .limit(most)
        ).scalars()
    )


def lift_due(tx: Connection, workspace_id: str, project_id: str, reasons: BlockReason) -> list[RowMapping]:
    """Take these reasons away from tasks whose start time has come; the same."""
    where = t.workspace_id == workspace_id, t.project_id == project_id, t.not_before <= db_now()
    due = _free(tx, *_blocked_for(reasons), *where)
    return _lift(tx, workspace_id, reasons, due)


def _free(tx: Connection, *where: Any) -> list[str]:
    """Ids of tasks, locked now; for what comes round again, and so may leave out what somebody else has locked."""
    return list(tx.execute(select(t.id).where(*where).with_for_update(skip_locked=True)).scalars())


_satisfied: BindParameter[int] = bindparam("satisfied")
_LESS_PENDING = (
    update(tasks)
    .where(
        t.workspace_id == bindparam("ws"),
        t.id.in_(bindparam("ids", expanding=True)),
        # Ended children too: one that is being reopened right now is waited for, and counted when it is blocked again.
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


def less_pending(tx: Connection, workspace_id: str, satisfied: Mapping[str, int]) -> list[tuple[str, str]]:
    """Lower the counters of children by the edges just satisfied; (id, run id) of those that became queued.

    Children in a terminal state (canceled meanwhile) are left as they are.
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
    """How many of the project's queued tasks have a doorbell out, by kind: what fills its window."""
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
    tx: Connection,
    workspace_id: str,
    project_id: str,
    *,
    room: int,
    where: Sequence[ColumnElement[bool]] = (),
) -> list[RowMapping]:
    """The best ready tasks that are not enqueued, and to which these conditions apply: priority, then age."""
    statement: Select[Any] = _NEXT
    if where:
        statement = statement.where(*where)
    if tx.dialect.name != "sqlite":
        statement = statement.with_for_update(skip_locked=True)
    return list(tx.execute(statement, {"ws": workspace_id, "project": project_id, "room": room}).mappings())


_MARK = {  # states are names of our own
    "postgresql": "UPDATE tasks SET enqueued_at = now() "  # noqa: S608
    f"WHERE workspace_id = %(workspace)s::uuid AND id = ANY(%(ids)s::uuid[]) AND state = '{TaskState.QUEUED}'",
    "sqlite": "UPDATE tasks SET enqueued_at = :now "  # noqa: S608
    f"WHERE workspace_id = :workspace AND id IN (SELECT value FROM json_each(:ids)) AND state = '{TaskState.QUEUED}'",
}


def mark_enqueued(tx: Connection, workspace_id: str, ids: Sequence[str]) -> None:
    """Note that a doorbell for these goes out with this transaction's end."""
    if tx.dialect.name == "postgresql":
        tx.exec_driver_sql(_MARK["postgresql"], {"workspace": workspace_id, "ids": list(ids)})
        return
    values = {"workspace": workspace_id, "ids": json.dumps(list(ids)), "now": iso(datetime.now(UTC))}
    tx.exec_driver_sql(_MARK["sqlite"], values)


def unmark_enqueued(tx: Connection, workspace_id: str, ids: Sequence[str]) -> None:
    """Take the note back: these wait in SQL again (a full slot, or a claim that was refused).

    Not of those that another transaction has locked, to claim or to end them.
    """
    _unmark(tx, _free(tx, t.workspace_id == workspace_id, t.id.in_(ids), t.state == TaskState.QUEUED))


def unmark_unanswered(tx: Connection, workspace_id: str, project_id: str, *, age: timedelta) -> int:
    """Take the note back from queued tasks whose doorbell went out longer than *age* ago: nobody came; how many."""
    ids = _free(
        tx,
        t.project_id == project_id,
        t.workspace_id == workspace_id,
        t.state == TaskState.QUEUED,
        t.enqueued_at.is_not(None),
        t.enqueued_at < db_after(-age.total_seconds()),
    )
    _unmark(tx, ids)
    return len(ids)


def _unmark(tx: Connection, ids: Sequence[str]) -> None:
    for start in range(0, len(ids), BATCH):
        tx.execute(update(tasks).where(t.id.in_(ids[start : start + BATCH])).values(enqueued_at=None))
