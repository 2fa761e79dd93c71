"""Statements on budgets: store, list and find those that apply. Their use is in ``budget_usage``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, RowMapping, Text, bindparam, case, cast, delete, select

from coordination.base.ids import is_id
from coordination.domain.money.budgets import Budget, BudgetPeriod, BudgetScope, ExceededAction
from coordination.store.bulk import insert_into
from coordination.store.queries.access.principals import find_agent_ids, id_or_none, text_of
from coordination.store.tables.access.principals import principals
from coordination.store.tables.money.budgets import budgets
from coordination.store.tables.projects.projects import projects, workspaces
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now

b = budgets.c


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
