"""Statements on budgets: which apply, how much of them is used and reserved, and which tasks wait for money."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import (
    Connection,
    RowMapping,
    Text,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)

from coordination.base.ids import is_id
from coordination.domain.jobs import PAID_KINDS
from coordination.domain.money.budgets import (
    Amount,
    Budget,
    BudgetPeriod,
    BudgetScope,
    BudgetUse,
    ExceededAction,
    Reservation,
    read_reservation,
)
from coordination.domain.money.cost_totals import DAY
from coordination.domain.tasks.tasks import BlockReason, TaskState
from coordination.store.driver import insert_into
from coordination.store.queries.access.principals import find_agent_ids, id_or_none, text_of
from coordination.store.tables.access.principals import principals
from coordination.store.tables.money.budgets import budget_uses, budgets
from coordination.store.tables.money.costs import UNPRICED, costs
from coordination.store.tables.money.rollups import ARCHIVED, rollups
from coordination.store.tables.projects.projects import projects, workspaces
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now, iso, sum_money

b, u, a, t = budgets.c, budget_uses.c, attempts.c, tasks.c
c, r = costs.c, rollups.c

PAID = or_(*(t.kind.startswith(f"{kind}:") for kind in PAID_KINDS))
"""Matches tasks whose job asks a model."""


@dataclass(frozen=True, slots=True)
class ApplicableBudgets:
    """Budgets that apply, with the database's time and the workspace's time zone."""

    budgets: list[Budget]
    now: datetime | None = None
    zone: tzinfo = UTC


_MANY = 500
_AGENT_NAME = select(principals.c.name).where(cast(principals.c.id, Text) == b.subject).scalar_subquery()
SETTER = (text_of(b.set_by).label("setter"), case((b.scope == BudgetScope.AGENT, _AGENT_NAME)).label("agent"))
_ALL = (
    select(budgets, *SETTER, db_now().label("now"), workspaces.c.timezone)
    .join(workspaces, workspaces.c.id == b.workspace_id)
    .where(b.workspace_id == bindparam("ws"))
)
_APPLYING = _ALL.where(b.subject.in_(bindparam("subjects", expanding=True)))


def find_applicable(tx: Connection, workspace_id: str, subjects: Collection[str]) -> ApplicableBudgets:
    """Return the budgets of subjects: ids of a workspace, project, agent, session, run or task."""
    if not subjects:
        return ApplicableBudgets([])
    if len(subjects) > _MANY:  # as in imports: budgets are fewer, and the number of values in a statement is limited
        every = tx.execute(_ALL, {"ws": workspace_id}).mappings()
        rows: Sequence[RowMapping] = [row for row in every if row["subject"] in subjects]
    else:
        rows = tx.execute(_APPLYING, {"ws": workspace_id, "subjects": sorted(subjects)}).mappings().all()
    if not rows:
        return ApplicableBudgets([])
    return ApplicableBudgets([_budget(row) for row in rows], rows[0]["now"], ZoneInfo(rows[0]["timezone"] or "UTC"))


def read_zone(tx: Connection, workspace_id: str) -> str | None:
    """Return the name of the workspace's time zone, if one is set."""
    return tx.execute(select(workspaces.c.timezone).where(workspaces.c.id == workspace_id)).scalar_one_or_none()


def list_budgets(
    tx: Connection,
    workspace_id: str,
    *,
    project_id: str | None = None,
    run_id: str | None = None,
    unfinished: bool = False,
    most: int = 1_000_000,
) -> list[Budget]:
    """Return the budgets of the workspace, or of a project or run and its parts, in the order of their last change.

    *unfinished*: without those of ended runs and their tasks.
    """
    where = [b.workspace_id == workspace_id]
    if project_id is not None:
        where.append(b.project_id == project_id)
    if run_id is not None:
        where.append(b.run_id == run_id)
    if unfinished:
        ended = select(runs.c.id).where(runs.c.id == b.run_id, runs.c.finished_at.is_not(None))
        where.append(~ended.exists())
    rows = tx.execute(select(budgets, *SETTER).where(*where).order_by(b.set_at, b.id).limit(most))
    return [_budget(row) for row in rows.mappings()]


def lock_budget(
    tx: Connection, workspace_id: str, scope: BudgetScope, subject: str, period: BudgetPeriod
) -> Budget | None:
    """Lock and return the budget of that scope, subject and period."""
    subject = _stored_subject(tx, workspace_id, scope, subject)
    where = b.workspace_id == workspace_id, b.subject == subject, b.scope == scope, b.period == period
    statement = select(budgets, *SETTER).where(*where).with_for_update(key_share=True, of=budgets)
    row = tx.execute(statement).mappings().one_or_none()
    return None if row is None else _budget(row)


def _stored_subject(tx: Connection, workspace_id: str, scope: BudgetScope, subject: str) -> str:
    """Return the id of an agent that is named; every other subject is an id already."""
    if scope is not BudgetScope.AGENT or is_id(subject):
        return subject
    return find_agent_ids(tx, workspace_id, [subject]).get(subject, subject)


def of_subject(tx: Connection, workspace_id: str, scope: BudgetScope, subject: str) -> list[Budget]:
    """Return the budgets of one subject: at most one for each period."""
    subject = _stored_subject(tx, workspace_id, scope, subject)
    statement = select(budgets, *SETTER).where(b.workspace_id == workspace_id, b.subject == subject, b.scope == scope)
    return [_budget(row) for row in tx.execute(statement.order_by(b.period.desc())).mappings()]


_NAMES: dict[BudgetScope, tuple[Any, Any]] = {
    BudgetScope.WORKSPACE: (workspaces.c.id, workspaces.c.name),
    BudgetScope.PROJECT: (projects.c.id, projects.c.name),
    BudgetScope.RUN: (runs.c.id, runs.c.name),
    BudgetScope.TASK: (tasks.c.id, tasks.c.key),
    BudgetScope.AGENT: (principals.c.id, principals.c.name),
}


def read_names(tx: Connection, workspace_id: str, records: Sequence[Budget]) -> dict[str, str]:
    """Return the names of the subjects of budgets, by budget id. Omits those without a name."""
    subjects: dict[BudgetScope, dict[str, list[str]]] = {}
    for budget in records:
        if budget.scope in _NAMES:
            subjects.setdefault(budget.scope, {}).setdefault(budget.subject, []).append(budget.id)
    names: dict[str, str] = {}
    for scope, mine in subjects.items():
        id_, name = _NAMES[scope]
        owner = id_ if scope is BudgetScope.WORKSPACE else id_.table.c.workspace_id
        ids = sorted(mine)
        for start in range(0, len(ids), _MANY):
            rows = tx.execute(select(id_, name).where(owner == workspace_id, id_.in_(ids[start : start + _MANY])))
            names |= {budget_id: row[1] for row in rows for budget_id in mine[row[0]]}
    return names


def get(tx: Connection, workspace_id: str, scope: BudgetScope, subject: str, period: BudgetPeriod) -> Budget | None:
    """Return the budget of that scope, subject and period, without a lock."""
    records = of_subject(tx, workspace_id, scope, subject)
    return next((one for one in records if one.period is period), None)


_KEY = ("id", "scope", "subject", "period", "project_id", "run_id")
_SETTINGS = ("usd", "tokens", "unpriced_calls", "max_starts", "action", "warn_percent", "downgrade_to")


def put(tx: Connection, workspace_id: str, budget: Budget) -> str:
    """Insert a budget or update the one of its scope, subject and period, and return its id."""
    settings = {name: getattr(budget, name) for name in _SETTINGS}
    settings["set_by"] = id_or_none(tx, workspace_id, budget.set_by)
    key = {name: getattr(budget, name) for name in _KEY}
    statement = (
        insert_into(tx, budgets)
        .values(workspace_id=workspace_id, **key, **settings)
        .on_conflict_do_update(
            index_elements=["workspace_id", "subject", "scope", "period"], set_={**settings, "set_at": db_now()}
        )
        .returning(b.id)
    )
    budget_id: str = tx.execute(statement).scalar_one()
    return budget_id


def insert_new(tx: Connection, workspace_id: str, new: Sequence[Budget]) -> None:
    """Insert budgets of subjects that are new too, so that nothing is spent yet."""
    if new:
        rows = [
            {
                "workspace_id": workspace_id,
                "set_by": id_or_none(tx, workspace_id, budget.set_by),
                **{name: getattr(budget, name) for name in (*_KEY, *_SETTINGS)},
            }
            for budget in new
        ]
        tx.execute(budgets.insert(), rows)


def remove(tx: Connection, workspace_id: str, budget_id: str) -> bool:
    """Delete a budget, and return whether it existed."""
    return tx.execute(delete(budgets).where(b.workspace_id == workspace_id, b.id == budget_id)).rowcount > 0


def _budget(row: RowMapping) -> Budget:
    return Budget(
        **{name: row[name] for name in (*_KEY, *_SETTINGS, "set_at", "agent")}
        | {
            "scope": BudgetScope(row["scope"]),
            "period": BudgetPeriod(row["period"]),
            "action": ExceededAction(row["action"]),
            "set_by": row["setter"],
        }
    )


# --- use of budgets by period

_SKEW = timedelta(days=1)  # the largest expected error of the clock that dates a call
_COUNTS = (
    *("spent_usd", "reserved_usd", "spent_tokens", "reserved_tokens"),
    *("spent_unpriced", "reserved_unpriced", "spent_starts"),
)


def read_uses(tx: Connection, workspace_id: str, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], BudgetUse]:
    """Return the use of periods by (budget id, first day), without locks. Omits periods that have no row."""
    ordered = sorted(set(keys))
    if not ordered:
        return {}
    rows = tx.execute(
        select(budget_uses).where(u.workspace_id == workspace_id, tuple_(u.budget_id, u.starts).in_(ordered))
    )
    return {(row["budget_id"], row["starts"]): _use(row) for row in rows.mappings()}


_NEW_USE = select(b.id, bindparam("b_starts"), b.workspace_id, *(literal(0) for _ in _COUNTS)).where(
    b.workspace_id == bindparam("ws"), b.id == bindparam("b_id")
)


def lock_uses(
    tx: Connection, workspace_id: str, keys: Iterable[tuple[str, str]], *, create: Collection[tuple[str, str]] = ()
) -> dict[tuple[str, str], BudgetUse]:
    """Return the use of periods, locked in one order. Creates rows for those of *create* whose budget exists."""
    ordered = sorted(set(keys))
    if not ordered:
        return {}
    locked = _lock(tx, workspace_id, ordered)
    missing = sorted(set(create) - set(locked))
    if missing:
        tx.execute(
            insert_into(tx, budget_uses)
            .from_select(["budget_id", "starts", "workspace_id", *_COUNTS], _NEW_USE)
            .on_conflict_do_nothing(),
            [{"ws": workspace_id, "b_id": budget_id, "b_starts": day} for budget_id, day in missing],
        )
        # A transaction that creates one of these too waits for this one, and may hold locks on others: do not wait.
        locked = _lock(tx, workspace_id, ordered, nowait=True)
    return locked


def lock_available_uses(
    tx: Connection, workspace_id: str, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], BudgetUse]:
    """Return the use of periods, locked, without those that another transaction has locked."""
    return _lock(tx, workspace_id, sorted(set(keys)), skip_locked=True)


def _lock(
    tx: Connection, workspace_id: str, keys: Sequence[tuple[str, str]], **options: Any
) -> dict[tuple[str, str], BudgetUse]:
    rows = tx.execute(
        select(budget_uses)
        .where(u.workspace_id == workspace_id, tuple_(u.budget_id, u.starts).in_(keys))
        .order_by(u.budget_id, u.starts)
        .with_for_update(**options)
    )
    return {(row["budget_id"], row["starts"]): _use(row) for row in rows.mappings()}


def _use(row: RowMapping) -> BudgetUse:
    return BudgetUse(
        row["budget_id"],
        row["starts"],
        Amount(row["spent_usd"], row["spent_tokens"], row["spent_unpriced"], row["spent_starts"]),
        Amount(row["reserved_usd"], row["reserved_tokens"], row["reserved_unpriced"]),
        warned=row["warned_at"] is not None,
        reached=row["reached_at"] is not None,
    )


_SET = ", ".join(f"{name} = x.{name}" for name in _COUNTS)
_NUMBERS = ", ".join(f"{name} {'numeric' if name.endswith('usd') else 'bigint'}" for name in _COUNTS)
_WRITE_POSTGRESQL = f"""
UPDATE budget_uses AS u SET {_SET}, warned_at = CASE WHEN x.warned THEN coalesce(u.warned_at, now()) END,
    reached_at = CASE WHEN x.reached THEN coalesce(u.reached_at, now()) END
FROM json_to_recordset(%(rows)s::json) AS x (budget_id uuid, starts text, {_NUMBERS}, warned boolean, reached boolean)
WHERE u.workspace_id = %(workspace)s::uuid AND u.budget_id = ANY(ARRAY[x.budget_id]) AND u.starts = ANY(ARRAY[x.starts])
"""  # noqa: S608 - names of our own columns
_READ = ", ".join(f"value ->> '$.{name}' AS {name}" for name in ("budget_id", "starts", *_COUNTS, "warned", "reached"))
_WRITE_SQLITE = f"""
UPDATE budget_uses AS u SET {_SET}, warned_at = CASE WHEN x.warned THEN coalesce(u.warned_at, :now) END,
    reached_at = CASE WHEN x.reached THEN coalesce(u.reached_at, :now) END
FROM (SELECT {_READ} FROM json_each(:rows)) AS x
WHERE u.workspace_id = :workspace AND u.budget_id = x.budget_id AND u.starts = x.starts
"""  # noqa: S608 - names of our own columns


def write_uses(tx: Connection, workspace_id: str, changed: Iterable[BudgetUse]) -> None:
    """Store the use of locked periods."""
    rows = [
        {
            "budget_id": use.budget_id,
            "starts": use.starts,
            "spent_usd": f"{use.spent.usd:f}",
            "reserved_usd": f"{use.reserved.usd:f}",
            "spent_tokens": use.spent.tokens,
            "reserved_tokens": use.reserved.tokens,
            "spent_unpriced": use.spent.unpriced,
            "reserved_unpriced": use.reserved.unpriced,
            "spent_starts": use.spent.starts,
            "warned": use.warned,
            "reached": use.reached,
        }
        for use in changed
    ]
    if not rows:
        return
    parameters = {"workspace": workspace_id, "rows": json.dumps(rows)}
    if tx.dialect.name == "postgresql":
        tx.exec_driver_sql(_WRITE_POSTGRESQL, parameters)
    else:
        tx.exec_driver_sql(_WRITE_SQLITE, {**parameters, "now": iso(datetime.now(UTC))})


def sum_spent(tx: Connection, workspace_id: str, scope: BudgetScope, subject: str, *, since: datetime | None) -> Amount:
    """Return the costs of a subject in the ledger *since* a moment. Those of an attempt are dated by its claim."""
    tokens = func.coalesce(func.sum(c.total_tokens), 0).label("tokens")
    statement = select(sum_money(c.cost_usd).label("usd"), tokens, UNPRICED.label("unpriced"))
    statement = statement.where(c.workspace_id == workspace_id, c[f"{scope}_id"] == subject)
    if since is not None:
        statement = statement.outerjoin(attempts, (a.task_id == c.task_id) & (a.number == c.attempt)).where(
            c.occurred_at >= since - _SKEW, func.coalesce(a.started_at, c.occurred_at) >= since
        )
    row = tx.execute(statement).one()
    stored = Amount(row.usd or Decimal(0), int(row.tokens), row.unpriced)
    return stored + _archived(tx, workspace_id, scope, subject, since)


def _archived(tx: Connection, workspace_id: str, scope: BudgetScope, subject: str, since: datetime | None) -> Amount:
    """Return the costs that retention has deleted from the ledger; those of tasks are unknown."""
    if scope is BudgetScope.TASK:
        return Amount()
    dimension = "project" if scope is BudgetScope.WORKSPACE else scope.value
    where = [r.workspace_id == workspace_id, r.shard == ARCHIVED, r.dimension == dimension, r.grain == DAY]
    if scope is not BudgetScope.WORKSPACE:
        where.append(r.key == subject)
    if since is not None:
        where.append(r.starts >= since.date().isoformat())
    row = tx.execute(
        select(
            sum_money(r.cost_usd).label("usd"),
            func.coalesce(func.sum(r.total_tokens), 0).label("tokens"),
            func.coalesce(func.sum(r.unpriced), 0).label("unpriced"),
        ).where(*where)
    ).one()
    return Amount(row.usd or Decimal(0), int(row.tokens), int(row.unpriced))


# --- reservations of attempts


@dataclass(frozen=True, slots=True)
class AttemptReservation:
    """An attempt and its reservation; None: never reserved, or released.

    ``finished``: it has ended. ``began``: its job was started. ``paid``: its job asks a model; set only by
    ``lock_running_attempts``.
    """

    task_id: str
    number: int
    project_id: str
    run_id: str
    started_at: datetime
    finished: bool
    reserved: Reservation | None
    began: bool = True
    paid: bool = False


# Written by hand, because it runs at every end of a job with a budget.
_LOCK_POSTGRESQL = """
SELECT a.task_id::text, a.number, a.project_id::text, a.run_id::text, a.started_at, a.finished_at IS NOT NULL,
    a.reserved::text, a.began
FROM unnest(%(ids)s::uuid[], %(numbers)s::int[]) AS wanted (id, number)
JOIN attempts a ON a.task_id = ANY(ARRAY[wanted.id]) AND a.number = ANY(ARRAY[wanted.number])
WHERE a.workspace_id = %(workspace)s::uuid
ORDER BY a.task_id, a.number FOR UPDATE OF a
"""
_LOCK_SQLITE = """
SELECT a.task_id, a.number, a.project_id, a.run_id, a.started_at, a.finished_at IS NOT NULL, a.reserved,
    a.began
FROM json_each(:wanted) AS wanted JOIN attempts a ON a.task_id = wanted.value ->> 0 AND a.number = wanted.value ->> 1
WHERE a.workspace_id = :workspace
"""


def lock_reservations(
    tx: Connection, workspace_id: str, fences: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], AttemptReservation]:
    """Lock these attempts, in the order in which heartbeats lock them, and return their reservations."""
    ordered = sorted(set(fences))
    if not ordered:
        return {}
    if tx.dialect.name == "postgresql":
        ids, numbers = zip(*ordered, strict=True)
        parameters = {"workspace": workspace_id, "ids": list(ids), "numbers": list(numbers)}
        rows = tx.exec_driver_sql(_LOCK_POSTGRESQL, parameters).all()
    else:
        rows = tx.exec_driver_sql(_LOCK_SQLITE, {"workspace": workspace_id, "wanted": json.dumps(ordered)}).all()
    parsed: dict[str | None, Reservation | None] = {None: None}  # most are equal
    reservations = {}
    for task_id, number, project_id, run_id, started_at, finished, json_, began_ in rows:
        if json_ not in parsed:
            parsed[json_] = read_reservation(json.loads(json_))
        moment = datetime.fromisoformat(started_at) if isinstance(started_at, str) else started_at
        began = began_ is None or bool(began_)
        reservations[task_id, number] = AttemptReservation(
            task_id, number, project_id, run_id, moment, bool(finished), parsed[json_], began=began
        )
    return reservations


def lock_running_attempts(
    tx: Connection, workspace_id: str, scope: BudgetScope, subject: str
) -> list[AttemptReservation]:
    """Lock and return the running attempts to which a budget of that scope and subject applies."""
    of_session = a.run_id.in_(select(runs.c.id).where(runs.c.session_id == subject))
    where = of_session if scope is BudgetScope.SESSION else a[f"{scope}_id"] == subject
    rows = tx.execute(
        select(
            *(a.task_id, a.number, a.project_id, a.run_id, a.started_at, a.finished_at, a.reserved),
            select(t.id).where(t.id == a.task_id, PAID).exists().label("paid"),
        )
        .where(a.workspace_id == workspace_id, a.finished_at.is_(None), where)
        .order_by(a.task_id, a.number)
        .with_for_update()
    )
    return [
        AttemptReservation(
            row.task_id,
            row.number,
            row.project_id,
            row.run_id,
            row.started_at,
            finished=row.finished_at is not None,
            reserved=None if row.reserved is None else read_reservation(row.reserved),
            paid=row.paid,
        )
        for row in rows
    ]


_WRITE_RESERVATION = (
    update(attempts)
    .where(a.workspace_id == bindparam("ws"), a.task_id == bindparam("b_task"), a.number == bindparam("b_number"))
    .values(reserved=bindparam("b_reserved", type_=a.reserved.type))
)


def write_reservations(tx: Connection, workspace_id: str, reserved: Mapping[tuple[str, int], Reservation]) -> None:
    """Store the reservations of running attempts."""
    rows = [
        {"ws": workspace_id, "b_task": task_id, "b_number": number, "b_reserved": reservation.to_json()}
        for (task_id, number), reservation in sorted(reserved.items())
    ]
    if rows:
        tx.execute(_WRITE_RESERVATION, rows)


# --- tasks that wait for money


# With literals, so that the planner can use the partial index on these tasks.
_WAITING = text(f"tasks.state = '{TaskState.BLOCKED}' AND (tasks.reasons & {int(BlockReason.BUDGET)}) <> 0")


_TASK_ROWS = select(
    t.id, t.workspace_id, t.project_id, t.run_id, t.agent_id, t.kind, t.work, t.options, t.carried, runs.c.session_id
).join(runs, runs.c.id == t.run_id)


def list_waiting_runs(tx: Connection, workspace_id: str, project_id: str, *, most: int) -> list[str]:
    """Return the ids of a project's runs with tasks that wait for money, the oldest first."""
    return list(
        tx.execute(
            select(t.run_id)
            .where(t.workspace_id == workspace_id, t.project_id == project_id, _WAITING)
            .distinct()
            .order_by(t.run_id)
            .limit(most)
        ).scalars()
    )


def list_waiting_tasks(
    tx: Connection, workspace_id: str, project_id: str, run_id: str, *, most: int
) -> list[dict[str, Any]]:
    """Return the rows of a run's tasks that wait for money, best first, as ``services.money.budgets`` needs them."""
    rows = tx.execute(
        _TASK_ROWS.where(t.workspace_id == workspace_id, t.project_id == project_id, t.run_id == run_id, _WAITING)
        .order_by(t.priority.desc(), t.id)
        .limit(most)
    ).mappings()
    return [dict(row) for row in rows]


def find_waiting_tasks(tx: Connection, workspace_id: str, task_ids: Collection[str]) -> list[dict[str, Any]]:
    """Return the rows, as in ``list_waiting_tasks``, of those of these tasks that wait for money."""
    rows = tx.execute(_TASK_ROWS.where(t.workspace_id == workspace_id, t.id.in_(sorted(task_ids)), _WAITING)).mappings()
    return [dict(row) for row in rows]


def list_waiting_projects_and_runs(
    tx: Connection, workspace_id: str, *, run_id: str | None = None, most: int = 1000
) -> list[tuple[str, str]]:
    """Return (project id, run id) of the runs with tasks that wait for money: of all, or of one run."""
    some = select(t.id).where(t.project_id == runs.c.project_id, t.run_id == runs.c.id, _WAITING)
    statement = select(runs.c.project_id, runs.c.id).where(
        runs.c.workspace_id == workspace_id, runs.c.finished_at.is_(None), some.exists()
    )
    if run_id is not None:
        statement = statement.where(runs.c.id == run_id)
    return [(row[0], row[1]) for row in tx.execute(statement.order_by(runs.c.id).limit(most))]


def count_waiting_tasks(tx: Connection, workspace_id: str, run_id: str) -> int:
    """Count the tasks of a run that wait for money."""
    where = (t.workspace_id == workspace_id, t.run_id == run_id, _WAITING)
    return int(tx.execute(select(func.count()).select_from(tasks).where(*where)).scalar_one())


def list_waiting_projects(tx: Connection, workspace_id: str) -> list[str]:
    """Return the ids of projects with tasks that wait for money."""
    # One index lookup for each project: projects are few, and their tasks may be many.
    some = select(t.id).where(t.workspace_id == workspace_id, t.project_id == projects.c.id, _WAITING)
    statement = select(projects.c.id).where(projects.c.workspace_id == workspace_id, some.exists())
    return list(tx.execute(statement.order_by(projects.c.id)).scalars())


# --- starts of agents and chats


def count_starts(tx: Connection, workspace_id: str, scope: BudgetScope, subject: str, *, since: datetime | None) -> int:
    """Count the attempts with paid jobs, claimed *since* a moment, to which a budget of that scope and subject applies.

    Includes running ones, but not those that ended before their job was started, or that retention has deleted.
    """
    special = {BudgetScope.AGENT: a.agent_id, BudgetScope.SESSION: runs.c.session_id, BudgetScope.TASK: t.id}
    column = special[scope] if scope in special else t[f"{scope}_id"]
    statement = (
        select(func.count())
        .select_from(tasks)
        .join(attempts, a.task_id == t.id)
        .join(runs, runs.c.id == t.run_id)
        .where(t.workspace_id == workspace_id, column == subject, PAID, a.began.is_not(False))
    )
    if since is not None:
        statement = statement.where(a.started_at >= since)
    return int(tx.execute(statement).scalar_one())
