"""Statements on agents."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, case, delete, func, insert, select, update

from coordination.domain.agents.agents import Agent, Profile, Record
from coordination.domain.tasks.tasks import OPEN, TaskState
from coordination.store.tables.agents.agents import agents
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now

a, t = agents.c, tasks.c


def make(tx: Connection, workspace_id: str, agent_id: str, profile: Profile) -> None:
    """Store a new one."""
    tx.execute(insert(agents).values(id=agent_id, workspace_id=workspace_id, **_row(profile)))


def change(tx: Connection, workspace_id: str, agent_id: str, profile: Profile) -> None:
    """Store it as it is now."""
    mine = update(agents).where(a.workspace_id == workspace_id, a.id == agent_id)
    tx.execute(mine.values(**_row(profile), updated_at=db_now()))


def remove(tx: Connection, workspace_id: str, agent_id: str) -> None:
    """Forget it; its tasks keep its name."""
    tx.execute(delete(agents).where(a.workspace_id == workspace_id, a.id == agent_id))


def no_default(tx: Connection, workspace_id: str) -> None:
    """No agent is the default any more."""
    tx.execute(update(agents).where(a.workspace_id == workspace_id, a.is_default).values(is_default=False))


def listed(tx: Connection, workspace_id: str) -> list[Agent]:
    """All of the workspace, by name."""
    rows = tx.execute(select(agents).where(a.workspace_id == workspace_id).order_by(a.name)).mappings()
    return [_agent(row) for row in rows]


def named(tx: Connection, workspace_id: str, name: str) -> Agent | None:
    """The one of that name, or None."""
    row = tx.execute(select(agents).where(a.workspace_id == workspace_id, a.name == name)).mappings().first()
    return None if row is None else _agent(row)


def records(tx: Connection, workspace_id: str, names: list[str]) -> dict[str, Record]:
    """What these came to, by name; those without any task are missing."""
    rows = tx.execute(
        select(
            t.agent,
            func.sum(case((t.state.in_(OPEN), 1), else_=0)).label("open"),
            func.sum(case((t.state == TaskState.COMPLETED, 1), else_=0)).label("completed"),
            func.sum(t.attempt).label("interactions"),
            func.max(case((t.attempt > 0, t.updated_at))).label("last_activity_at"),
        )
        .where(t.workspace_id == workspace_id, t.agent.in_(names))
        .group_by(t.agent)
    )
    return {row.agent: Record(row.open, row.completed, row.interactions, row.last_activity_at) for row in rows}


def _row(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "description": profile.description,
        "type": profile.type,
        "objective": profile.objective,
        "labels": list(profile.labels),
        "runner": dict(profile.runner),
        "model": profile.model,
        "identity": dict(profile.identity),
        "active": profile.active,
        "is_default": profile.default,
    }


def _agent(row: RowMapping) -> Agent:
    said = ("name", "description", "type", "objective", "runner", "model", "identity", "active")
    profile = Profile(**{name: row[name] for name in said}, labels=tuple(row["labels"]), default=row["is_default"])
    return Agent(row["id"], row["workspace_id"], profile, row["created_at"], row["updated_at"])
