"""Statements of retention: which runs are old, marking them, deleting their rows a bounded batch at a time.

Whoever deletes a run has marked it first, under the lock of its row: a person's retry takes the same lock and finds
the mark. So nothing is opened again while half of it is gone, and what an archive holds cannot change any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    delete,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from coordination.domain.money.costs import CostRecord
from coordination.domain.money.sessions import SessionTarget
from coordination.domain.tasks.tasks import OPEN
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


@dataclass(frozen=True, slots=True)
class OldRun:
    """A run that is old enough to go; ``finished_at`` and ``id`` together are the place to read on from."""

    id: str
    name: str
    finished_at: datetime


# --- the chore: one process at a time, every so often


def begin(
    tx: Connection, workspace_id: str, name: str, *, holder: str, lease: timedelta, every: timedelta = timedelta(0)
) -> bool:
    """Take the chore; False when somebody has it now, or it was done less than *every* ago."""
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    tx.execute(make(chores).values(workspace_id=workspace_id, name=name).on_conflict_do_nothing())
    statement = (
        update(chores)
        .where(h.workspace_id == workspace_id, h.name == name, _is_free(every))
        .values(owner=holder, lease_until=db_after(lease.total_seconds()))
    )
    return tx.execute(statement).rowcount > 0


def is_due(tx: Connection, workspace_id: str, name: str, *, every: timedelta) -> bool:
    """Whether nobody has the chore, and it was not done within *every*."""
    mine = and_(h.workspace_id == workspace_id, h.name == name)
    return tx.execute(select(func.count()).where(mine, ~_is_free(every))).scalar_one() == 0


def _is_free(every: timedelta) -> ColumnElement[bool]:
    return and_(
        or_(h.lease_until.is_(None), h.lease_until < db_now()),
        or_(h.done_at.is_(None), h.done_at <= db_after(-every.total_seconds())),
    )


def go_on(tx: Connection, workspace_id: str, name: str, *, holder: str, lease: timedelta) -> bool:
    """Renew the chore's lease in the transaction of a batch; False: somebody else has it, and the batch must not be."""
    statement = (
        update(chores)
        .where(h.workspace_id == workspace_id, h.name == name, h.owner == holder)
        .values(lease_until=db_after(lease.total_seconds()))
    )
    return tx.execute(statement).rowcount > 0


def end(tx: Connection, workspace_id: str, name: str, *, holder: str, done: bool) -> None:
    """Give the chore back; *done*: nothing is left to do until it comes round again."""
    values: dict[str, Any] = {"owner": None, "lease_until": None}
    tx.execute(
        update(chores)
        .where(h.workspace_id == workspace_id, h.name == name, h.owner == holder)
        .values(values | ({"done_at": db_now()} if done else {}))
    )


# --- runs


def marked(tx: Connection, workspace_id: str) -> list[str]:
    """Runs on their way out, the first marked first: what an earlier round did not finish."""
    rows = tx.execute(
        select(removals.c.run_id)
        .where(removals.c.workspace_id == workspace_id)
        .order_by(removals.c.begun_at, removals.c.run_id)
    )
    return list(rows.scalars())


def old_runs(
    tx: Connection, workspace_id: str, *, age: timedelta, after: OldRun | None = None, limit: int = 100
) -> list[OldRun]:
    """Runs that ended longer than *age* ago and are not marked, the oldest first, read on *after* one of them."""
    where = [r.workspace_id == workspace_id, r.finished_at.is_not(None), r.finished_at < db_after(-age.total_seconds())]
    if after is not None:
        where.append(
            tuple_(r.finished_at, r.id)
            > tuple_(literal(after.finished_at, r.finished_at.type), literal(after.id, r.id.type))
        )
    rows = tx.execute(
        select(r.id, r.name, r.finished_at)
        .where(*where, ~exists(select(removals.c.run_id).where(removals.c.run_id == r.id)))
        .order_by(r.finished_at, r.id)
        .limit(limit)
    )
    return [OldRun(row.id, row.name, row.finished_at) for row in rows]


def is_needed(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Whether work that is open refers to the run: a task of another run, or an attempt that has not ended."""
    other, own = tasks.alias("other"), tasks.alias("own")
    of_run = and_(own.c.workspace_id == workspace_id, own.c.run_id == run_id)
    elsewhere = and_(other.c.run_id != run_id, other.c.state.in_(OPEN))
    needs = (
        select(other.c.id)
        .select_from(own)
        .join(dependencies, dependencies.c.parent_id == own.c.id)
        .join(other, other.c.id == dependencies.c.child_id)
        .where(of_run, elsewhere)
        .limit(1)
    )
    runs_still = (
        select(attempts.c.task_id)
        .join(runs, r.project_id == attempts.c.project_id)
        .where(
            r.workspace_id == workspace_id,
            r.id == run_id,
            attempts.c.run_id == run_id,
            attempts.c.finished_at.is_(None),
        )
    )
    return any(tx.execute(statement.limit(1)).first() is not None for statement in (runs_still, needs))


def issues_of(tx: Connection, workspace_id: str, run_id: str) -> list[str]:
    """The issues, as their tracker wrote them, that tasks of the run have worked off."""
    rows = tx.execute(
        select(issues.c.raw)
        .join(tasks, tasks.c.id == issues.c.task_id)
        .where(issues.c.workspace_id == workspace_id, tasks.c.run_id == run_id)
    )
    return list(rows.scalars())


def mark(tx: Connection, workspace_id: str, run_id: str, *, age: timedelta) -> bool:
    """Mark a run as on its way out, if it is still ended and old; whether this did it."""
    old = and_(r.workspace_id == workspace_id, r.id == run_id, r.finished_at < db_after(-age.total_seconds()))
    if tx.execute(select(r.id).where(old).with_for_update(key_share=True)).first() is None:
        return False
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    statement = make(removals).values(run_id=run_id, workspace_id=workspace_id).on_conflict_do_nothing()
    return tx.execute(statement.returning(removals.c.run_id)).first() is not None


def unmark(tx: Connection, workspace_id: str, run_id: str) -> None:
    """Take the mark back from a run of which nothing has been deleted."""
    tx.execute(delete(removals).where(removals.c.workspace_id == workspace_id, removals.c.run_id == run_id))


def is_marked(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Whether the run is on its way out."""
    found = select(removals.c.run_id).where(removals.c.workspace_id == workspace_id, removals.c.run_id == run_id)
    return tx.execute(found).first() is not None


def delete_some(tx: Connection, workspace_id: str, run_id: str, *, limit: int) -> dict[str, int]:
    """Delete at most *limit* rows of a marked run, what refers to others first; how many by table, none at the end.

    The ledger is left alone.
    """
    if not is_marked(tx, workspace_id, run_id):
        return {}
    done: dict[str, int] = {}

    def room() -> int:
        return limit - sum(done.values())

    of_run = and_(event_log.c.workspace_id == workspace_id, event_log.c.run_id == run_id)
    oldest = select(event_log.c.seq).where(of_run).order_by(event_log.c.txid, event_log.c.seq).limit(limit)
    done["events"] = _delete(tx, event_log, event_log.c.seq.in_(list(tx.execute(oldest).scalars())))
    if room():
        # In the order of the index, which so is read from its beginning and no further than the limit.
        some = select(tasks.c.id).where(tasks.c.workspace_id == workspace_id, tasks.c.run_id == run_id)
        ids = list(tx.execute(some.order_by(tasks.c.run_id, tasks.c.state).limit(room())).scalars())
        # Locked in the order of all: what was printed, then tasks, then attempts.
        done["output_chunks"] = _delete_of(tx, output_chunks, output_chunks.c.task_id, ids, room())
        tx.execute(select(tasks.c.id).where(tasks.c.id.in_(ids)).order_by(tasks.c.id).with_for_update())
        for column in (dependencies.c.parent_id, dependencies.c.child_id):
            done["dependencies"] = done.get("dependencies", 0) + _delete_of(tx, dependencies, column, ids, room())
        for table in (artifacts, merges, task_holds, attempts):
            done[table.name] = _delete_of(tx, table, table.c.task_id, ids, room())
        # Only with room left is it certain that nothing refers to these any more.
        done["tasks"] = _delete(tx, tasks, tasks.c.id.in_(ids[: room()])) if room() else 0
    if not any(done.values()):
        own_session = (
            select(sessions.c.id)
            .join(runs, r.session_id == sessions.c.id)
            .where(r.workspace_id == workspace_id, r.id == run_id, sessions.c.target == SessionTarget.ISOLATED)
        )
        session_id = tx.execute(own_session).scalar()
        done["runs"] = _delete(tx, runs, r.workspace_id == workspace_id, r.id == run_id)
        if session_id is not None:
            done["sessions"] = _delete(tx, sessions, _is_left_over(workspace_id, session_id))
    return {name: number for name, number in done.items() if number}


def _is_left_over(workspace_id: str, session_id: str) -> ColumnElement[bool]:
    """Whether no run has the session any more. One that is used at this moment is let be."""
    return and_(
        sessions.c.workspace_id == workspace_id,
        sessions.c.id == session_id,
        sessions.c.last_activity_at < db_after(-_SETTLED.total_seconds()),
        ~exists(select(r.id).where(r.session_id == session_id)),
    )


def _delete(tx: Connection, table: Table, *where: ColumnElement[bool]) -> int:
    return tx.execute(delete(table).where(*where)).rowcount


def _delete_of(tx: Connection, table: Table, column: ColumnElement[Any], ids: Sequence[str], limit: int) -> int:
    """Delete at most *limit* rows of a table with a key of several columns, locked in its order."""
    if not ids or limit <= 0:
        return 0
    key = tuple(table.primary_key.columns)
    order = key if column is key[0] else (column, key[0])
    found = tx.execute(select(*key).where(column.in_(ids)).order_by(*order).limit(limit).with_for_update()).all()
    if not found:
        return 0
    # SQLite finds no index for whole keys; for this column it does.
    return _delete(tx, table, column.in_(ids), tuple_(*key).in_([tuple(row) for row in found]))


def counts(tx: Connection, workspace_id: str, run_id: str) -> dict[str, int]:
    """How many rows of the run would go, by table."""
    own = select(tasks.c.id).where(tasks.c.workspace_id == workspace_id, tasks.c.run_id == run_id)

    def count(table: Table, *where: ColumnElement[bool]) -> int:
        return tx.execute(select(func.count()).select_from(table).where(*where)).scalar_one()

    mine = select(r.session_id).where(r.workspace_id == workspace_id, r.id == run_id).scalar_subquery()
    others = exists(select(r.id).where(r.session_id == sessions.c.id, r.id != run_id))
    return {
        "runs": 1,
        "sessions": count(sessions, sessions.c.id == mine, sessions.c.target == SessionTarget.ISOLATED, ~others),
        "tasks": count(tasks, tasks.c.workspace_id == workspace_id, tasks.c.run_id == run_id),
        "attempts": count(attempts, attempts.c.task_id.in_(own)),
        "artifacts": count(artifacts, artifacts.c.task_id.in_(own)),
        "merges": count(merges, merges.c.task_id.in_(own)),
        "task_holds": count(task_holds, task_holds.c.task_id.in_(own)),
        "output_chunks": count(output_chunks, output_chunks.c.task_id.in_(own)),
        "dependencies": count(dependencies, dependencies.c.child_id.in_(own)),
        "events": count(event_log, event_log.c.workspace_id == workspace_id, event_log.c.run_id == run_id),
    }


def rows_of(tx: Connection, workspace_id: str, run_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything that is stored about the run, as (table, columns): in the order to store it again, streamed."""
    own = select(tasks.c.id).where(tasks.c.workspace_id == workspace_id, tasks.c.run_id == run_id)
    session = select(r.session_id).where(r.workspace_id == workspace_id, r.id == run_id)
    parts: tuple[tuple[Table, ColumnElement[bool], tuple[Any, ...]], ...] = (
        (principals, principals.c.id.in_(_principals_of(run_id)), (principals.c.id,)),
        (sessions, sessions.c.id.in_(session), ()),
        (runs, r.id == run_id, ()),
        (tasks, tasks.c.run_id == run_id, (tasks.c.id,)),
        (dependencies, dependencies.c.child_id.in_(own), tuple(dependencies.primary_key.columns)),
        (attempts, attempts.c.task_id.in_(own), tuple(attempts.primary_key.columns)),
        (artifacts, artifacts.c.task_id.in_(own), tuple(artifacts.primary_key.columns)),
        (merges, merges.c.task_id.in_(own), tuple(merges.primary_key.columns)),
        (task_holds, task_holds.c.task_id.in_(own), tuple(task_holds.primary_key.columns)),
        (output_chunks, output_chunks.c.task_id.in_(own), tuple(output_chunks.primary_key.columns)),
        (event_log, event_log.c.run_id == run_id, (event_log.c.txid, event_log.c.seq)),
        (costs, c.run_id == run_id, (c.occurred_at, c.id)),
    )
    for table, where, order in parts:
        statement = select(table).where(table.c.workspace_id == workspace_id, where).order_by(*order)
        with tx.execute(statement, execution_options={"yield_per": 1000}) as rows:
            for row in rows.mappings():
                yield table.name, dict(row)


def _principals_of(run_id: str) -> Any:
    """Return the statement for the ids of everybody whom rows of the run name."""
    t, e = tasks.c, event_log.c
    return union(
        select(r.created_by).where(r.id == run_id),
        select(sessions.c.agent_id).join(runs, r.session_id == sessions.c.id).where(r.id == run_id),
        select(t.created_by).where(t.run_id == run_id),
        select(t.agent_id).where(t.run_id == run_id),
        select(attempts.c.agent_id).join(tasks, t.id == attempts.c.task_id).where(t.run_id == run_id),
        select(e.actor_id).where(e.run_id == run_id),
        select(c.agent_id).where(c.run_id == run_id),
    )


# --- costs, which outlive their run


def _old_costs(workspace_id: str, age: timedelta) -> ColumnElement[bool]:
    unfinished = exists(select(r.id).where(r.id == c.run_id, r.finished_at.is_(None)))
    return and_(c.workspace_id == workspace_id, c.occurred_at < db_after(-age.total_seconds()), ~unfinished)


def count_costs(tx: Connection, workspace_id: str, *, age: timedelta) -> int:
    """How many cost records are older than *age* and belong to no open run."""
    return tx.execute(select(func.count()).where(_old_costs(workspace_id, age))).scalar_one()


def old_costs(tx: Connection, workspace_id: str, *, age: timedelta, limit: int) -> list[dict[str, Any]]:
    """Cost records older than *age* that belong to no open run, the oldest first, column by column.

    A correction, of the same moment, comes before what it corrects: never is one left behind alone.
    """
    order = (c.occurred_at, c.corrects.is_(None), c.id)
    rows = tx.execute(select(costs).where(_old_costs(workspace_id, age)).order_by(*order).limit(limit))
    return [dict(row) for row in rows.mappings()]


def delete_costs(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[CostRecord]:
    """Delete these cost records; those that were there."""
    gone = delete(costs).where(c.workspace_id == workspace_id, c.id.in_(ids)).returning(costs, null().label("agent"))
    return [record_of(row) for row in tx.execute(gone).mappings()]
