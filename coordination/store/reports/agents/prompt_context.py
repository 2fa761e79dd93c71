"""Reports for a project's own prompts: the agents of the workspace and the tasks of the run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from coordination.domain.tasks.tasks import DependencyKind
from coordination.store.queries.agents import agents
from coordination.store.queries.tasks import dependencies
from coordination.store.tables.tasks.tasks import tasks


def specializations(tx: Connection, workspace_id: str) -> list[dict[str, Any]]:
    """Return each active agent's name, role, objective, labels and model, by name."""
    profiles = [agent.profile for agent in agents.list_all(tx, workspace_id)]
    return [
        {
            "name": profile.name,
            "role": profile.identity.get("role"),
            "objective": profile.objective,
            "labels": list(profile.labels),
            "model": profile.model,
        }
        for profile in profiles
        if profile.active
    ]


def dependency_graph(tx: Connection, workspace_id: str, run_id: str) -> list[dict[str, Any]]:
    """Return key, title, state and needed keys of each task of a run, in the order of the plan."""
    blocking = {kind.value for kind in DependencyKind if kind.holds_back}
    needs: dict[str, list[str]] = {}
    for parent, child, kind in dependencies.edges_of_run(tx, workspace_id, run_id):
        if kind in blocking:
            needs.setdefault(child, []).append(parent)
    t = tasks.c
    rows = tx.execute(
        select(t.key, t.title, t.state).where(t.workspace_id == workspace_id, t.run_id == run_id).order_by(t.id)
    )
    return [{"key": row.key, "title": row.title, "state": row.state, "needs": needs.get(row.key, [])} for row in rows]
