"""Statements on budgets: which apply, what is spent and reserved of them, and what each attempt has reserved.

Their rows are locked last, after tasks, attempts and slots, and in one order, so that nobody waits in a ring.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, assert_never

from sqlalchemy import (
    Boolean,
    Connection,
    RowMapping,
    bindparam,
    case,
    delete,
    func,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from coordination.domain.budgets import Action, Amount, Budget, Period, Reserved, Scope, Use, reserved_of
from coordination.domain.tasks import BlockReason
from coordination.store.tables.attempts import attempts
from coordination.store.tables.budgets import budget_uses, budgets
from coordination.store.tables.costs import UNPRICED, costs
from coordination.store.tables.projects import workspaces
from coordination.store.tables.runs import runs
from coordination.store.tables.tasks import tasks
from coordination.store.types import db_now, sum_money

b = budgets.c
u = budget_uses.c
a = attempts.c
t = tasks.c
c = costs.c

_SKEW = timedelta(days=1)  # what the clock of whoever made a call may be off
BUDGETED = """EXISTS (
        SELECT 1 FROM budgets b WHERE b.workspace_id = t.workspace_id AND b.subject IN (
            CAST(t.workspace_id AS TEXT), CAST(t.project_id AS TEXT), CAST(t.run_id AS TEXT), CAST(t.id AS TEXT),
            CAST(r.session_id AS TEXT), t.agent))"""
"""Whether any budget applies to a task (t) of a run (r): for statements written by hand."""

_COUNTS = (
    *("spent_usd", "reserved_usd", "spent_tokens", "reserved_tokens"),
    *("spent_unpriced", "reserved_unpriced"),
)


def applying(tx: Connection, workspace_id: str, subjects: Collection[str]) -> list[Budget]:
    """The budgets of these subjects: ids of a workspace, project, session, run or task, names of agents."""
    if not subjects:
        return []
    rows = tx.execute(select(budgets).where(b.workspace_id == workspace_id, b.subject.in_(sorted(subjects))))
    return [_budget(row) for row in rows.mappings()]


def zone(tx: Connection, workspace_id: str) -> str | None:
    """The name of the workspace's time zone, if it has one of its own."""
    return tx.execute(select(workspaces.c.timezone).where(workspaces.c.id == workspace_id)).scalar_one_or_none()


def clock(tx: Connection) -> datetime:
    """The database's clock, in this transaction."""
    moment: datetime = tx.execute(select(db_now())).scalar_one()
    return moment


def listed(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, run_id: str | None = None
) -> list[Budget]:
    """The budgets of the workspace, or what a project or a run has."""
    where = [b.workspace_id == workspace_id]
    if project_id is not None:
        where.append(b.project_id == project_id)
    if run_id is not None:
        where.append(b.run_id == run_id)
    rows = tx.execute(select(budgets).where(*where).order_by(b.set_at, b.id))
    return [_budget(row) for row in rows.mappings()]


def find(tx: Connection, workspace_id: str, scope: Scope, subject: str, period: Period) -> Budget | None:
    """The budget of that scope, subject and period, locked."""
    row = (
        tx.execute(
            select(budgets)
            .where(b.workspace_id == workspace_id, b.subject == subject, b.scope == scope, b.period == period)
            .with_for_update()
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else _budget(row)


def put(tx: Connection, workspace_id: str, budget: Budget) -> str:
    """Store a budget, or change the one of its scope, subject and period; the id that it has."""
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    said = {
        name: getattr(budget, name)
        for name in ("usd", "tokens", "unpriced_calls", "action", "warn_percent", "downgrade_to", "set_by")
    }
    whose = {name: getattr(budget, name) for name in ("id", "scope", "subject", "period", "project_id", "run_id")}
    statement = (
        make(budgets)
        .values(workspace_id=workspace_id, **whose, **said)
        .on_conflict_do_update(
            index_elements=["workspace_id", "subject", "scope", "period"], set_={**said, "set_at": db_now()}
        )
        .returning(b.id)
    )
    found: str = tx.execute(statement).scalar_one()
    return found


def put_new(tx: Connection, workspace_id: str, new: Sequence[Budget]) -> None:
    """Store budgets of what has just been made itself: nothing is spent of them."""
    if new:
        names = (
            *("id", "scope", "subject", "period", "project_id", "run_id"),
            *("usd", "tokens", "unpriced_calls", "action", "warn_percent", "downgrade_to", "set_by"),
        )
        rows = [{"workspace_id": workspace_id, **{name: getattr(one, name) for name in names}} for one in new]
        tx.execute(budgets.insert(), rows)


def remove(tx: Connection, workspace_id: str, budget_id: str) -> bool:
    """Take a budget away; whether it was there."""
    return tx.execute(delete(budgets).where(b.workspace_id == workspace_id, b.id == budget_id)).rowcount > 0


# --- what is spent and reserved of them


def uses(tx: Connection, workspace_id: str, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Use]:
    """What those periods came to, by (budget id, first day), as it looks now; those without a row are left out."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    rows = tx.execute(
        select(budget_uses).where(u.workspace_id == workspace_id, tuple_(u.budget_id, u.starts).in_(wanted))
    )
    return {(row["budget_id"], row["starts"]): _use(row) for row in rows.mappings()}


_MAKE = select(b.id, bindparam("b_starts"), b.workspace_id, *(literal(0) for _ in _COUNTS)).where(
    b.workspace_id == bindparam("ws"), b.id == bindparam("b_id")
)


def lock_uses(
    tx: Connection, workspace_id: str, keys: Iterable[tuple[str, str]], *, make: Collection[tuple[str, str]] = ()
) -> dict[tuple[str, str], Use]:
    """The same, locked, in one order; those to *make* get a row if they have none and their budget still exists."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    found = _locked(tx, workspace_id, wanted)
    missing = sorted(set(make) - set(found))
    if missing:
        insert = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
        tx.execute(
            insert(budget_uses)
            .from_select(["budget_id", "starts", "workspace_id", *_COUNTS], _MAKE)
            .on_conflict_do_nothing(),
            [{"ws": workspace_id, "b_id": one, "b_starts": day} for one, day in missing],
        )
        found = _locked(tx, workspace_id, wanted)
    return found


def _locked(tx: Connection, workspace_id: str, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Use]:
    rows = tx.execute(
        select(budget_uses)
        .where(u.workspace_id == workspace_id, tuple_(u.budget_id, u.starts).in_(wanted))
        .order_by(u.budget_id, u.starts)
        .with_for_update()
    )
    return {(row["budget_id"], row["starts"]): _use(row) for row in rows.mappings()}


_WRITE = (
    update(budget_uses)
    .where(u.workspace_id == bindparam("ws"), u.budget_id == bindparam("b_id"), u.starts == bindparam("b_starts"))
    .values(
        **{name: bindparam(f"b_{name}") for name in _COUNTS},
        warned_at=case((bindparam("b_warned", type_=Boolean), func.coalesce(u.warned_at, db_now())), else_=None),
        reached_at=case((bindparam("b_reached", type_=Boolean), func.coalesce(u.reached_at, db_now())), else_=None),
    )
)


def write_uses(tx: Connection, workspace_id: str, changed: Iterable[Use]) -> None:
    """Write what locked periods came to."""
    rows = [
        {
            "ws": workspace_id,
            "b_id": one.budget_id,
            "b_starts": one.starts,
            "b_spent_usd": one.spent.usd,
            "b_reserved_usd": one.reserved.usd,
            "b_spent_tokens": one.spent.tokens,
            "b_reserved_tokens": one.reserved.tokens,
            "b_spent_unpriced": one.spent.unpriced,
            "b_reserved_unpriced": one.reserved.unpriced,
            "b_warned": one.warned,
            "b_reached": one.reached,
        }
        for one in sorted(changed, key=lambda one: (one.budget_id, one.starts))
    ]
    if rows:
        tx.execute(_WRITE, rows)


def spent(tx: Connection, workspace_id: str, scope: Scope, subject: str, *, since: datetime | None) -> Amount:
    """What the ledger says was spent of what a budget of that scope and subject is for, *since* a moment.

    What an attempt spent counts from when that was claimed.
    """
    columns: dict[Scope, Any] = {
        Scope.WORKSPACE: c.workspace_id,
        Scope.PROJECT: c.project_id,
        Scope.AGENT: c.agent,
        Scope.SESSION: c.session_id,
        Scope.RUN: c.run_id,
        Scope.TASK: c.task_id,
    }
    found = select(
        sum_money(c.cost_usd).label("usd"),
        func.coalesce(func.sum(c.total_tokens), 0).label("tokens"),
        UNPRICED.label("unpriced"),
    ).where(c.workspace_id == workspace_id, columns[scope] == subject)
    if since is not None:
        found = found.outerjoin(attempts, (a.task_id == c.task_id) & (a.number == c.attempt)).where(
            c.occurred_at >= since - _SKEW, func.coalesce(a.started_at, c.occurred_at) >= since
        )
    row = tx.execute(found).one()
    return Amount(row.usd or Decimal(0), int(row.tokens), row.unpriced)


# --- what attempts have reserved


@dataclass(frozen=True, slots=True)
class Holding:
    """An attempt and what it has reserved; ``reserved`` None: nothing was ever reserved for it, or it was given back.

    ``finished``: it has ended.
    """

    task_id: str
    number: int
    project_id: str
    run_id: str
    started_at: datetime
    finished: bool
    reserved: Reserved | None


_HOLDING = (a.task_id, a.number, a.project_id, a.run_id, a.started_at, a.finished_at, a.reserved)


def lock_holdings(
    tx: Connection, workspace_id: str, fences: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], Holding]:
    """These attempts, locked in the order in which heartbeats lock them."""
    wanted = sorted(set(fences))
    if not wanted:
        return {}
    rows = tx.execute(
        select(*_HOLDING)
        .where(a.workspace_id == workspace_id, tuple_(a.task_id, a.number).in_(wanted))
        .order_by(a.task_id, a.number)
        .with_for_update()
    )
    return {(row["task_id"], row["number"]): _holding(row) for row in rows.mappings()}


def lock_running(tx: Connection, workspace_id: str, scope: Scope, subject: str) -> list[Holding]:
    """The attempts that run now of what a budget of that scope and subject is for, locked."""
    match scope:
        case Scope.WORKSPACE:
            where = a.workspace_id == subject
        case Scope.PROJECT:
            where = a.project_id == subject
        case Scope.RUN:
            where = a.run_id == subject
        case Scope.TASK:
            where = a.task_id == subject
        case Scope.SESSION:
            where = a.run_id.in_(select(runs.c.id).where(runs.c.session_id == subject))
        case Scope.AGENT:
            where = a.task_id.in_(select(t.id).where(t.workspace_id == workspace_id, t.agent == subject))
        case _ as never:
            assert_never(never)
    rows = tx.execute(
        select(*_HOLDING)
        .where(a.workspace_id == workspace_id, a.finished_at.is_(None), where)
        .order_by(a.task_id, a.number)
        .with_for_update()
    )
    return [_holding(row) for row in rows.mappings()]


_NOTE = (
    update(attempts)
    .where(a.workspace_id == bindparam("ws"), a.task_id == bindparam("b_task"), a.number == bindparam("b_number"))
    .values(reserved=bindparam("b_reserved", type_=a.reserved.type))
)


def note_reserved(tx: Connection, workspace_id: str, reserved: Mapping[tuple[str, int], Reserved | None]) -> None:
    """Write what attempts have reserved; None: nothing any more."""
    rows = [
        {
            "ws": workspace_id,
            "b_task": task_id,
            "b_number": number,
            "b_reserved": None if one is None else one.to_json(),
        }
        for (task_id, number), one in sorted(reserved.items())
    ]
    if rows:
        tx.execute(_NOTE, rows)


# --- who waits for money


# Written out, so that the planner sees the index on these tasks however the statement is prepared.
_WAITING = text(f"tasks.state = 'blocked' AND (tasks.reasons & {int(BlockReason.BUDGET)}) <> 0")


def runs_waiting(tx: Connection, workspace_id: str, project_id: str, *, most: int) -> list[str]:
    """Runs of the project with tasks that wait for money, the oldest first."""
    return list(
        tx.execute(
            select(t.run_id)
            .where(t.workspace_id == workspace_id, t.project_id == project_id, _WAITING)
            .distinct()
            .order_by(t.run_id)
            .limit(most)
        ).scalars()
    )


def waiting(tx: Connection, workspace_id: str, project_id: str, run_id: str, *, most: int) -> list[dict[str, Any]]:
    """Tasks of a run that wait for money, best first: what is needed to say what they would reserve."""
    rows = tx.execute(
        select(t.id, t.project_id, t.run_id, t.agent, t.kind, t.work, t.options, t.carried, runs.c.session_id)
        .join(runs, runs.c.id == t.run_id)
        .where(t.workspace_id == workspace_id, t.project_id == project_id, t.run_id == run_id, _WAITING)
        .order_by(t.priority.desc(), t.id)
        .limit(most)
    ).mappings()
    return [dict(row) for row in rows]


def _budget(row: RowMapping) -> Budget:
    return Budget(
        id=row["id"],
        scope=Scope(row["scope"]),
        subject=row["subject"],
        period=Period(row["period"]),
        usd=row["usd"],
        tokens=row["tokens"],
        unpriced_calls=row["unpriced_calls"],
        action=Action(row["action"]),
        warn_percent=row["warn_percent"],
        downgrade_to=row["downgrade_to"],
        project_id=row["project_id"],
        run_id=row["run_id"],
        set_by=row["set_by"],
        set_at=row["set_at"],
    )


def _use(row: RowMapping) -> Use:
    return Use(
        row["budget_id"],
        row["starts"],
        Amount(row["spent_usd"], row["spent_tokens"], row["spent_unpriced"]),
        Amount(row["reserved_usd"], row["reserved_tokens"], row["reserved_unpriced"]),
        warned=row["warned_at"] is not None,
        reached=row["reached_at"] is not None,
    )


def _holding(row: RowMapping) -> Holding:
    return Holding(
        row["task_id"],
        row["number"],
        row["project_id"],
        row["run_id"],
        row["started_at"],
        finished=row["finished_at"] is not None,
        reserved=None if row["reserved"] is None else reserved_of(row["reserved"]),
    )
