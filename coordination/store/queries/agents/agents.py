"""Statements on agents."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, case, delete, func, insert, select, update

from coordination.domain.agents.agents import Agent, AgentTotals, Profile
from coordination.domain.tasks.tasks import OPEN, TaskState
from coordination.store.queries.access.principals import agent_ids, find_agent_ids
from coordination.store.tables.access.principals import principals
from coordination.store.tables.agents.agents import agents
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now

a, p, t = agents.c, principals.c, tasks.c

_AGENTS = select(agents, p.name).join(principals, p.id == a.id)


def add(tx: Connection, workspace_id: str, profile: Profile) -> str:
    """Store an agent and return its id, which is that of the principal with its name, if tasks or costs have one."""
    agent_id = agent_ids(tx, workspace_id, [profile.name])[profile.name]
    tx.execute(insert(agents).values(id=agent_id, workspace_id=workspace_id, **_row(profile)))
    return agent_id


def change(tx: Connection, workspace_id: str, agent_id: str, profile: Profile) -> None:
    """Replace an agent's profile, except for its name."""
    mine = update(agents).where(a.workspace_id == workspace_id, a.id == agent_id)
    tx.execute(mine.values(**_row(profile), updated_at=db_now()))


def remove(tx: Connection, workspace_id: str, agent_id: str) -> None:
    """Delete an agent; its tasks and costs keep its name."""
    tx.execute(delete(agents).where(a.workspace_id == workspace_id, a.id == agent_id))


def clear_default(tx: Connection, workspace_id: str) -> None:
    """Unset the default agent of the workspace."""
    tx.execute(update(agents).where(a.workspace_id == workspace_id, a.is_default).values(is_default=False))


def list_all(tx: Connection, workspace_id: str) -> list[Agent]:
    """Return all agents of the workspace, by name."""
    rows = tx.execute(_AGENTS.where(a.workspace_id == workspace_id).order_by(p.name)).mappings()
    return [_agent(row) for row in rows]


def find(tx: Connection, workspace_id: str, name: str) -> Agent | None:
    """Return the agent with that name, or None."""
    row = tx.execute(_AGENTS.where(a.workspace_id == workspace_id, p.name == name)).mappings().first()
    return None if row is None else _agent(row)


def totals(tx: Connection, workspace_id: str, names: list[str]) -> dict[str, AgentTotals]:
    """Return the numbers of tasks and the last activity of agents, by name. Omits those without tasks."""
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
    by_id = {row.agent_id: AgentTotals(row.open, row.completed, row.interactions, row.last_activity_at) for row in rows}
    return {name: by_id[agent_id] for name, agent_id in ids.items() if agent_id in by_id}


def rename_authorities(tx: Connection, workspace_id: str, agent_id: str, name: str) -> None:
    """Update the name of a renamed agent in the authorities of its open tasks."""
    mine = (t.workspace_id == workspace_id, t.agent_id == agent_id, t.authority.is_not(None), t.state.in_(OPEN))
    rows = tx.execute(select(t.id, t.authority).where(*mine).order_by(t.id).with_for_update()).all()
    for row in rows:
        if "agent" in row.authority:
            authority = {**row.authority, "agent": name}
            tx.execute(update(tasks).where(t.workspace_id == workspace_id, t.id == row.id).values(authority=authority))


def _row(profile: Profile) -> dict[str, Any]:
    columns = {name: getattr(profile, name) for name in ("description", "type", "objective", "model", "active")}
    copies = {"labels": list(profile.labels), "runner": dict(profile.runner), "identity": dict(profile.identity)}
    return {**columns, **copies, "is_default": profile.default}


def _agent(row: RowMapping) -> Agent:
    columns = ("name", "description", "type", "objective", "runner", "model", "identity", "active")
    profile = Profile(**{name: row[name] for name in columns}, labels=tuple(row["labels"]), default=row["is_default"])
    return Agent(row["id"], row["workspace_id"], profile, row["created_at"], row["updated_at"])
