"""Totals of a project: runs, tasks, sessions, agents and cost, all derived from their rows."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, cast, func, select, union

from coordination.domain.money.cost_totals import MONTH
from coordination.store.queries.money import rollups
from coordination.store.reports.money import spending
from coordination.store.tables.money.costs import costs
from coordination.store.tables.money.rollups import rollups as summed
from coordination.store.tables.tasks.runs import runs, sessions
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import Id


@dataclass(frozen=True, slots=True)
class ProjectTotals:
    """Totals of one project. ``cost_usd`` is of calls with a known price; ``unpriced_calls`` counts the others."""

    cost_usd: Decimal = Decimal(0)
    calls: int = 0
    unpriced_calls: int = 0
    agents: int = 0
    sessions: int = 0
    runs: int = 0
    open_runs: int = 0
    tasks: int = 0


def totals(tx: Connection, workspace_id: str, *, project_id: str | None = None) -> dict[str, ProjectTotals]:
    """Return the totals of one project, or of all, by project id. One statement per figure."""
    values_by_project: dict[str, dict[str, Any]] = {}

    def put(name: str, rows: dict[str, Any]) -> None:
        for project, value in rows.items():
            values_by_project.setdefault(project, {})[name] = value

    def scoped(statement: Select[Any], table: Table) -> Select[Any]:
        statement = statement.where(table.c.workspace_id == workspace_id, table.c.project_id.is_not(None))
        return statement if project_id is None else statement.where(table.c.project_id == project_id)

    def count_rows(table: Table, *only: ColumnElement[bool]) -> dict[str, Any]:
        statement = scoped(select(table.c.project_id, func.count()), table).where(*only).group_by(table.c.project_id)
        return {row[0]: row[1] for row in tx.execute(statement)}

    put("tasks", count_rows(tasks))
    put("runs", count_rows(runs))
    put("open_runs", count_rows(runs, runs.c.finished_at.is_(None)))
    put("sessions", count_rows(sessions))
    # From the rollups where they are complete, so that no cost record is read.
    has_rollups = rollups.is_complete(tx, workspace_id)
    assigned, billed = (
        scoped(select(table.c.project_id, table.c.agent_id).where(table.c.agent_id.is_not(None)), table)
        for table in (tasks, costs)
    )
    agents = union(assigned, _summed_agents(workspace_id, project_id) if has_rollups else billed).subquery()
    rows = tx.execute(select(agents.c[0], func.count()).group_by(agents.c[0]))
    put("agents", {row[0]: row[1] for row in rows})
    for group in spending.spending(tx, workspace_id, by="project", project_id=project_id):
        if group.key is not None:
            put("cost_usd", {group.key: group.cost_usd})
            put("calls", {group.key: group.calls})
            put("unpriced_calls", {group.key: group.unpriced_calls})
    return {project: ProjectTotals(**values) for project, values in values_by_project.items()}


def _summed_agents(workspace_id: str, project_id: str | None) -> Select[str, str]:
    """Return a query for (project, agent id) of all agents in the rollups."""
    s = summed.c
    where = [s.workspace_id == workspace_id, s.dimension == "agent", s.grain == MONTH, s.key != "", s.project_id != ""]
    if project_id is not None:
        where.append(s.project_id == project_id)
    return select(cast(s.project_id, Id), cast(s.key, Id)).where(*where).distinct()
