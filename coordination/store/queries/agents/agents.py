"""Statements on agents."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, case, delete, func, insert, select, update

from coordination.domain.agents.agents import Agent, Profile, Record
from coordination.domain.tasks.tasks import OPEN, TaskState
from coordination.store.queries.access.principals import agent_ids, find_agent_ids
from coordination.store.tables.access.principals import principals
from coordination.store.tables.agents.agents import agents
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now

a, p, t = agents.c, principals.c, tasks.c


_AGENTS = select(agents, p.name).join(principals, p.id == a.id)


def make(tx: Connection, workspace_id: str, profile: Profile) -> str:
    """Store a new one; return its id, which is that of whoever had its name in tasks and costs before."""
    agent_id = agent_ids(tx, workspace_id, [profile.name])[profile.name]
    tx.execute(insert(agents).values(id=agent_id, workspace_id=workspace_id, **_row(profile)))
    return agent_id


def change(tx: Connection, workspace_id: str, agent_id: str, profile: Profile) -> None:
    """Store it as it is now, but for its name."""
    mine = update(agents).where(a.workspace_id == workspace_id, a.id == agent_id)
    tx.execute(mine.values(**_row(profile), updated_at=db_now()))


def remove(tx: Connection, workspace_id: str, agent_id: str) -> None:
    """Forget it; its tasks and costs keep its name."""
    tx.execute(delete(agents).where(a.workspace_id == workspace_id, a.id == agent_id))


def no_default(tx: Connection, workspace_id: str) -> None:
    """No agent is the default any more."""
    tx.execute(update(agents).where(a.workspace_id == workspace_id, a.is_default).values(is_default=False))


def listed(tx: Connection, workspace_id: str) -> list[Agent]:
    """All of the workspace, by name."""
    rows = tx.execute(_AGENTS.where(a.workspace_id == workspace_id).order_by(p.name)).mappings()
    return [_agent(row) for row in rows]


def named(tx: Connection, workspace_id: str, name: str) -> Agent | None:
    """The one of that name, or None."""
    row = tx.execute(_AGENTS.where(a.workspace_id == workspace_id, p.name == name)).mappings().first()
    return None if row is None else _agent(row)


def records(tx: Connection, workspace_id: str, names: list[str]) -> dict[str, Record]:
    """What these came to, by name; those without any task are missing."""
    ids = find_agent_ids(tx, workspace_id, names)
    rows = tx.execute(
        select(
            t.agent_id,
            func.sum(case((t.state.in_(OPEN), 1), else_=0)).label("open"),
            func.sum(case((t.state == TaskState.COMPLETED, 1), else_=0)).label("completed"),
            func.sum(t.attempt).label("interactions"),
            func.max(case((t.attempt > 0, t.updated_at))).label("last_activity_at"),
        )
        .where(t.workspace_id == workspace_id, t.agent_id.in_(ids.values()))
        .group_by(t.agent_id)
    )
    found = {row.agent_id: Record(row.open, row.completed, row.interactions, row.last_activity_at) for row in rows}
    return {name: found[agent_id] for name, agent_id in ids.items() if agent_id in found}


def rename_authorities(tx: Connection, workspace_id: str, agent_id: str, name: str) -> None:
    """Let what open tasks of an agent were lent name it as it is called now."""
    mine = (t.workspace_id == workspace_id, t.agent_id == agent_id, t.authority.is_not(None), t.state.in_(OPEN))
    rows = tx.execute(select(t.id, t.authority).where(*mine).order_by(t.id).with_for_update()).all()
    for row in rows:
        if "agent" in row.authority:
            authority = {**row.authority, "agent": name}
            tx.execute(update(tasks).where(t.workspace_id == workspace_id, t.id == row.id).values(authority=authority))


def _row(profile: Profile) -> dict[str, Any]:
    return {
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
