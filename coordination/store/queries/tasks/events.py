"""Statements on the append-only event log.

A tail must not miss late commits: sequence numbers are assigned before commits, so that event 10 may become visible
after event 11. Each row stores its transaction id; a reader takes only rows of transactions below the oldest open
one, ordered by (transaction, sequence), and that pair is its cursor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, insert, literal, select, tuple_

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.tasks.events import Event, EventType, NewEvent, SubjectKind
from coordination.domain.tasks.tasks import TaskState
from coordination.store.driver import insert_rows
from coordination.store.queries.access.principals import id_or_none, text_of
from coordination.store.tables.tasks.events import event_log
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import commit_order, db_after, db_now, visible_below

e = event_log.c

START = "0.0"
_NUMBER = re.compile("[0-9]{1,18}")  # fits into both databases' integers

_APPEND = insert(event_log).values(created_at=db_now())
_APPEND_AGED = insert(event_log).values(created_at=db_after(-bindparam("age")))


def append(tx: Connection, workspace_id: str, new: Sequence[NewEvent]) -> None:
    """Write events that happen now."""
    if new:
        tx.execute(_APPEND, [_row(tx, workspace_id, event) for event in new])


def append_bulk(tx: Connection, workspace_id: str, new: Iterable[NewEvent], *, now: datetime, txid: int) -> None:
    """Write many events at once, with the caller's time and commit order."""
    insert_rows(tx, event_log, [_row(tx, workspace_id, event) | {"txid": txid, "created_at": now} for event in new])


_CREATED = insert(event_log).from_select(
    ["txid", "workspace_id", "project_id", "run_id", "task_id", "type", "actor_id", "created_at"],
    select(
        *(commit_order(), tasks.c.workspace_id, tasks.c.project_id, tasks.c.run_id, tasks.c.id),
        *(literal(EventType.CREATED.value), tasks.c.created_by, tasks.c.created_at),
    )
    .where(tasks.c.workspace_id == bindparam("workspace"), tasks.c.run_id == bindparam("run"))
    .order_by(tasks.c.id),
    include_defaults=False,
)


def append_created(tx: Connection, workspace_id: str, run_id: str) -> None:
    """Write a created event for each task of a run, within the database."""
    tx.execute(_CREATED, {"workspace": workspace_id, "run": run_id})


def append_unblocked(
    tx: Connection, workspace_id: str, project_id: str, lifted: Iterable[RowMapping], *, actor: str
) -> int:
    """Write an unblocked event for each queued task of *lifted* (id, run_id, state). Return their number."""
    queued = [row for row in lifted if row["state"] == TaskState.QUEUED]
    unblocked = EventType.UNBLOCKED
    append(tx, workspace_id, [NewEvent(unblocked, project_id, row["run_id"], row["id"], actor=actor) for row in queued])
    return len(queued)


def append_aged(tx: Connection, workspace_id: str, new: Sequence[NewEvent]) -> None:
    """Write events with their ``age`` subtracted from the database's clock."""
    if new:
        rows = [_row(tx, workspace_id, event) | {"age": max(event.age, timedelta(0)).total_seconds()} for event in new]
        tx.execute(_APPEND_AGED, rows)


def _row(tx: Connection, workspace_id: str, event: NewEvent) -> dict[str, Any]:
    kind, subject_id = event.subject or (SubjectKind.RUN if event.task_id is None else SubjectKind.TASK, None)
    return {
        "workspace_id": workspace_id,
        "subject_kind": kind,
        "subject_id": subject_id,
        "project_id": event.project_id,
        "run_id": event.run_id,
        "task_id": event.task_id,
        "attempt": event.attempt,
        "type": event.type,
        "actor_id": id_or_none(tx, workspace_id, event.actor),
        "payload": event.payload,
    }


def tail(
    tx: Connection,
    workspace_id: str,
    *,
    run_id: str | None = None,
    task_id: str | None = None,
    subject: tuple[SubjectKind, str] | None = None,
    after: str = START,
    limit: int = 500,
) -> list[Event]:
    """Return events of a run, a task or another *subject* after the cursor, in their order of visibility."""
    is_visible = e.txid < visible_below()
    where: list[Any] = [e.workspace_id == workspace_id, is_visible, tuple_(e.txid, e.seq) > parse_cursor(after)]
    if run_id is not None:
        where.append(e.run_id == run_id)
    if task_id is not None:
        where.append(e.task_id == task_id)
    if subject is not None:
        where += [e.subject_kind == subject[0], e.subject_id == subject[1]]
    rows = tx.execute(
        select(event_log, tasks.c.key, text_of(e.actor_id).label("actor"))
        .outerjoin(tasks, tasks.c.id == e.task_id)
        .where(*where)
        .order_by(e.txid, e.seq)
        .limit(limit)
    )
    return [
        Event(
            cursor=f"{row['txid']}.{row['seq']}",
            type=EventType(row["type"]),
            at=row["created_at"],
            **{name: row[name] for name in ("run_id", "task_id", "key", "attempt", "actor")},
            payload=row["payload"] or {},
            subject_kind=SubjectKind(row["subject_kind"]),
            subject_id=row["subject_id"] or row["task_id"] or row["run_id"],
        )
        for row in rows.mappings()
    ]


def parse_cursor(cursor: str) -> Any:
    """Parse a cursor. Raises Refused."""
    first, dot, second = cursor.partition(".")
    if not (dot and _NUMBER.fullmatch(first) and _NUMBER.fullmatch(second)):
        raise Refused(
            f"{excerpt(cursor)} is not an event cursor", hint="Pass the cursor of the last event you have, or none"
        )
    return tuple_(int(first), int(second))
