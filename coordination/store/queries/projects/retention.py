"""Statements of retention: find old runs, mark them, and delete their rows in bounded batches.

A run is marked, under the lock of its row, before its rows are deleted; a retry takes the same lock and sees the mark.
So no half-deleted run is reopened, and an archived run cannot change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, func, literal, null, or_, select, tuple_

from coordination.domain.money.costs import CostRecord
from coordination.domain.money.sessions import SessionTarget
from coordination.domain.tasks.tasks import OPEN
from coordination.store.driver import insert_into
from coordination.store.queries.money.costs import record_of
from coordination.store.tables.access.principals import principals
from coordination.store.tables.issues.issues import issues
from coordination.store.tables.jobs.artifacts import artifacts
from coordination.store.tables.jobs.merges import merges
from coordination.store.tables.jobs.output import output_chunks
from coordination.store.tables.money.costs import costs
from coordination.store.tables.projects.retention import chores, removals
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.events import event_log
from coordination.store.tables.tasks.runs import runs, sessions
from coordination.store.tables.tasks.task_holds import task_holds
from coordination.store.tables.tasks.tasks import dependencies, tasks
from coordination.store.types import db_after, db_now

r, c, h = runs.c, costs.c, chores.c

_SETTLED = timedelta(hours=1)
_OF_TASK = (attempts, artifacts, merges, task_holds, output_chunks)  # in the order of an archive


@dataclass(frozen=True, slots=True)
class OldRun:
    """A run to delete; ``finished_at`` and ``id`` are the position for reading on."""

    id: str
    name: str
    finished_at: datetime


# --- the chore: one process at a time, at intervals


def begin(
    tx: Connection, workspace_id: str, name: str, *, owner: str, lease: timedelta, every: timedelta = timedelta(0)
) -> bool:
    """Take the chore's lease. Return False when another process has it, or it was done less than *every* ago."""
    tx.execute(insert_into(tx, chores).values(workspace_id=workspace_id, name=name).on_conflict_do_nothing())
    statement = (
        chores.update()
        .where(h.workspace_id == workspace_id, h.name == name, _is_free(every))
        .values(owner=owner, lease_until=db_after(lease.total_seconds()))
    )
    return tx.execute(statement).rowcount > 0


def is_due(tx: Connection, workspace_id: str, name: str, *, every: timedelta) -> bool:
    """Return whether nobody has the chore, and it was not done within *every*."""
    mine = and_(h.workspace_id == workspace_id, h.name == name)
    return tx.execute(select(func.count()).where(mine, ~_is_free(every))).scalar_one() == 0


def _is_free(every: timedelta) -> ColumnElement[bool]:
    return and_(
        or_(h.lease_until.is_(None), h.lease_until < db_now()),
        or_(h.done_at.is_(None), h.done_at <= db_after(-every.total_seconds())),
    )


def renew(tx: Connection, workspace_id: str, name: str, *, owner: str, lease: timedelta) -> bool:
    """Renew the chore's lease in the transaction of a batch. Return False when it is lost: then roll the batch back."""
    owned = chores.update().where(h.workspace_id == workspace_id, h.name == name, h.owner == owner)
    return tx.execute(owned.values(lease_until=db_after(lease.total_seconds()))).rowcount > 0


def end(tx: Connection, workspace_id: str, name: str, *, owner: str, done: bool) -> None:
    """Release the chore; *done*: nothing is left until it is due again."""
    values: dict[str, Any] = {"owner": None, "lease_until": None} | ({"done_at": db_now()} if done else {})
    owned = chores.update().where(h.workspace_id == workspace_id, h.name == name, h.owner == owner)
    tx.execute(owned.values(values))


# --- runs


def list_marked(tx: Connection, workspace_id: str) -> list[str]:
    """Return the marked runs in the order of their marks: those of an earlier, interrupted round."""
    marked = select(removals.c.run_id).where(removals.c.workspace_id == workspace_id)
    return list(tx.execute(marked.order_by(removals.c.begun_at, removals.c.run_id)).scalars())


def old_runs(
    tx: Connection, workspace_id: str, *, age: timedelta, after: OldRun | None = None, limit: int = 100
) -> list[OldRun]:
    """Return unmarked runs that ended longer than *age* ago, oldest first, starting *after* a run."""
    where = [r.workspace_id == workspace_id, r.finished_at.is_not(None), r.finished_at < db_after(-age.total_seconds())]
    if after is not None:
        position = tuple_(literal(after.finished_at, r.finished_at.type), literal(after.id, r.id.type))
        where.append(tuple_(r.finished_at, r.id) > position)
    rows = tx.execute(
        select(r.id, r.name, r.finished_at)
        .where(*where, ~exists(select(removals.c.run_id).where(removals.c.run_id == r.id)))
        .order_by(r.finished_at, r.id)
        .limit(limit)
    )
    return [OldRun(row.id, row.name, row.finished_at) for row in rows]


def is_needed(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Return whether open work refers to the run: a task of another run, or an attempt that has not ended."""
    other, own = tasks.alias("other"), tasks.alias("own")
    of_run = and_(own.c.workspace_id == workspace_id, own.c.run_id == run_id)
    elsewhere = and_(other.c.run_id != run_id, other.c.state.in_(OPEN))
    open_children = (
        select(other.c.id)
        .select_from(own)
        .join(dependencies, dependencies.c.parent_id == own.c.id)
        .join(other, other.c.id == dependencies.c.child_id)
        .where(of_run, elsewhere)
        .limit(1)
    )
    open_attempts = (
        select(attempts.c.task_id)
        .join(runs, r.project_id == attempts.c.project_id)
        .where(r.workspace_id == workspace_id, r.id == run_id)
        .where(attempts.c.run_id == run_id, attempts.c.finished_at.is_(None))
    )
    return any(tx.execute(statement.limit(1)).first() is not None for statement in (open_attempts, open_children))


def issues_of(tx: Connection, workspace_id: str, run_id: str) -> list[str]:
    """Return the issues, in their tracker's JSON, for which the run has tasks."""
    rows = tx.execute(
        select(issues.c.raw)
        .join(tasks, tasks.c.id == issues.c.task_id)
        .where(issues.c.workspace_id == workspace_id, tasks.c.run_id == run_id)
    )
    return list(rows.scalars())


def mark(tx: Connection, workspace_id: str, run_id: str, *, age: timedelta) -> bool:
    """Mark a run for deletion if it is still ended and old. Return whether this call marked it."""
    old = and_(r.workspace_id == workspace_id, r.id == run_id, r.finished_at < db_after(-age.total_seconds()))
    if tx.execute(select(r.id).where(old).with_for_update(key_share=True)).first() is None:
        return False
    statement = insert_into(tx, removals).values(run_id=run_id, workspace_id=workspace_id).on_conflict_do_nothing()
    return tx.execute(statement.returning(removals.c.run_id)).first() is not None


def unmark(tx: Connection, workspace_id: str, run_id: str) -> None:
    """Remove the mark from a run of which nothing has been deleted."""
    tx.execute(delete(removals).where(removals.c.workspace_id == workspace_id, removals.c.run_id == run_id))


def is_marked(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Return whether the run is marked for deletion."""
    statement = select(removals.c.run_id).where(removals.c.workspace_id == workspace_id, removals.c.run_id == run_id)
    return tx.execute(statement).first() is not None


def delete_batch(tx: Connection, workspace_id: str, run_id: str, *, limit: int) -> dict[str, int]:
    """Delete at most *limit* rows of a marked run, referring rows first. Return counts by table; empty at the end.

    Cost records stay.
    """
    if not is_marked(tx, workspace_id, run_id):
        return {}
    deleted: dict[str, int] = {}

    def room() -> int:
        return limit - sum(deleted.values())

    of_run = and_(event_log.c.workspace_id == workspace_id, event_log.c.run_id == run_id)
    oldest = select(event_log.c.seq).where(of_run).order_by(event_log.c.txid, event_log.c.seq).limit(limit)
    deleted["events"] = _delete(tx, event_log, event_log.c.seq.in_(list(tx.execute(oldest).scalars())))
    if room():
        # In the order of the index, so that only its first rows are read, up to the limit.
        some = select(tasks.c.id).where(tasks.c.workspace_id == workspace_id, tasks.c.run_id == run_id)
        ids = list(tx.execute(some.order_by(tasks.c.run_id, tasks.c.state).limit(room())).scalars())
        # Lock in the order that all transactions use: output, then tasks, then attempts.
        deleted["output_chunks"] = _delete_of(tx, output_chunks, output_chunks.c.task_id, ids, room())
        tx.execute(select(tasks.c.id).where(tasks.c.id.in_(ids)).order_by(tasks.c.id).with_for_update())
        for column in (dependencies.c.parent_id, dependencies.c.child_id):
            deleted["dependencies"] = deleted.get("dependencies", 0) + _delete_of(tx, dependencies, column, ids, room())
        for table in (artifacts, merges, task_holds, attempts):
            deleted[table.name] = _delete_of(tx, table, table.c.task_id, ids, room())
        # With room left, all rows that refer to these are deleted.
        deleted["tasks"] = _delete(tx, tasks, tasks.c.id.in_(ids[: room()])) if room() else 0
    if not any(deleted.values()):
        own_session = (
            select(sessions.c.id)
            .join(runs, r.session_id == sessions.c.id)
            .where(r.workspace_id == workspace_id, r.id == run_id, sessions.c.target == SessionTarget.ISOLATED)
        )
        session_id = tx.execute(own_session).scalar()
        deleted["runs"] = _delete(tx, runs, r.workspace_id == workspace_id, r.id == run_id)
        if session_id is not None:
            deleted["sessions"] = _delete(tx, sessions, _is_left_over(workspace_id, session_id))
    return {name: number for name, number in deleted.items() if number}


def _is_left_over(workspace_id: str, session_id: str) -> ColumnElement[bool]:
    """Return whether no run uses the session, and none has for a while."""
    return and_(
        sessions.c.workspace_id == workspace_id,
        sessions.c.id == session_id,
        sessions.c.last_activity_at < db_after(-_SETTLED.total_seconds()),
        ~exists(select(r.id).where(r.session_id == session_id)),
    )


def _delete(tx: Connection, table: Table, *where: ColumnElement[bool]) -> int:
    return tx.execute(delete(table).where(*where)).rowcount


def _delete_of(tx: Connection, table: Table, column: ColumnElement[Any], ids: Sequence[str], limit: int) -> int:
    """Delete at most *limit* rows of a table with a composite key, locked in key order."""
    if not ids or limit <= 0:
        return 0
    key = tuple(table.primary_key.columns)
    order = key if column is key[0] else (column, key[0])
    keys = tx.execute(select(*key).where(column.in_(ids)).order_by(*order).limit(limit).with_for_update()).all()
    if not keys:
        return 0
    # SQLite uses no index for composite keys, but one for this column.
    return _delete(tx, table, column.in_(ids), tuple_(*key).in_([tuple(row) for row in keys]))


def count_rows(tx: Connection, workspace_id: str, run_id: str) -> dict[str, int]:
    """Count the rows of the run to delete, by table."""
    own = select(tasks.c.id).where(tasks.c.workspace_id == workspace_id, tasks.c.run_id == run_id)

    def count(table: Table, *where: ColumnElement[bool]) -> int:
        return tx.execute(select(func.count()).select_from(table).where(*where)).scalar_one()

    session_id = select(r.session_id).where(r.workspace_id == workspace_id, r.id == run_id).scalar_subquery()
    others = exists(select(r.id).where(r.session_id == sessions.c.id, r.id != run_id))
    return {
        "runs": 1,
        "sessions": count(sessions, sessions.c.id == session_id, sessions.c.target == SessionTarget.ISOLATED, ~others),
        "tasks": count(tasks, tasks.c.workspace_id == workspace_id, tasks.c.run_id == run_id),
        **{table.name: count(table, table.c.task_id.in_(own)) for table in _OF_TASK},
        "dependencies": count(dependencies, dependencies.c.child_id.in_(own)),
        "events": count(event_log, event_log.c.workspace_id == workspace_id, event_log.c.run_id == run_id),
    }


def stream_rows(tx: Connection, workspace_id: str, run_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (table, columns) of every row of the run, streamed, in the order in which they can be restored."""
    own = select(tasks.c.id).where(tasks.c.workspace_id == workspace_id, tasks.c.run_id == run_id)
    session = select(r.session_id).where(r.workspace_id == workspace_id, r.id == run_id)
    parts: tuple[tuple[Table, ColumnElement[bool], tuple[Any, ...]], ...] = (
        (principals, principals.c.id.in_(_principals_of(run_id)), (principals.c.id,)),
        (sessions, sessions.c.id.in_(session), ()),
        (runs, r.id == run_id, ()),
        (tasks, tasks.c.run_id == run_id, (tasks.c.id,)),
        (dependencies, dependencies.c.child_id.in_(own), tuple(dependencies.primary_key.columns)),
        *((table, table.c.task_id.in_(own), tuple(table.primary_key.columns)) for table in _OF_TASK),
        (event_log, event_log.c.run_id == run_id, (event_log.c.txid, event_log.c.seq)),
        (costs, c.run_id == run_id, (c.occurred_at, c.id)),
    )
    for table, where, order in parts:
        statement = select(table).where(table.c.workspace_id == workspace_id, where).order_by(*order)
        with tx.execute(statement, execution_options={"yield_per": 1000}) as rows:
            for row in rows.mappings():
                yield table.name, dict(row)


def _principals_of(run_id: str) -> Any:
    """Return the statement for the ids of all principals that rows of the run name."""
    t, e = tasks.c, event_log.c
    return (
        select(r.created_by)
        .where(r.id == run_id)
        .union(
            select(sessions.c.agent_id).join(runs, r.session_id == sessions.c.id).where(r.id == run_id),
            select(t.created_by).where(t.run_id == run_id),
            select(t.agent_id).where(t.run_id == run_id),
            select(attempts.c.agent_id).join(tasks, t.id == attempts.c.task_id).where(t.run_id == run_id),
            select(e.actor_id).where(e.run_id == run_id),
            select(c.agent_id).where(c.run_id == run_id),
        )
    )


# --- costs, which are kept longer than their run


def _old_costs(workspace_id: str, age: timedelta) -> ColumnElement[bool]:
    unfinished = exists(select(r.id).where(r.id == c.run_id, r.finished_at.is_(None)))
    return and_(c.workspace_id == workspace_id, c.occurred_at < db_after(-age.total_seconds()), ~unfinished)


def count_costs(tx: Connection, workspace_id: str, *, age: timedelta) -> int:
    """Count the cost records older than *age* of no open run."""
    return tx.execute(select(func.count()).where(_old_costs(workspace_id, age))).scalar_one()


def old_costs(tx: Connection, workspace_id: str, *, age: timedelta, limit: int) -> list[dict[str, Any]]:
    """Return cost records older than *age* of no open run as dicts, oldest first.

    A correction precedes the record of the same moment that it corrects, so that none is left without it.
    """
    order = (c.occurred_at, c.corrects.is_(None), c.id)
    rows = tx.execute(select(costs).where(_old_costs(workspace_id, age)).order_by(*order).limit(limit))
    return [dict(row) for row in rows.mappings()]


def delete_costs(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[CostRecord]:
    """Delete these cost records, and return those that existed."""
    statement = (
        delete(costs).where(c.workspace_id == workspace_id, c.id.in_(ids)).returning(costs, null().label("agent"))
    )
    return [record_of(row) for row in tx.execute(statement).mappings()]
