"""Agents in the Python API: list, create, change and delete them; export and import.

co.agents.create(Profile("dave/vc", runner={"agent": "claude"}, identity={"role": "reviewer"}))
co.agents.change("dave/vc", model="claude-haiku-4-5", default=True)
for agent in co.agents.list():
    print(agent.profile.name, co.agents.record(agent.profile.name).completed)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.agents.agents import Agent, AgentTotals, Profile, parse_profile
from coordination.domain.tasks.events import Event, SubjectKind
from coordination.runtime import Runtime
from coordination.services.agents import agents as service
from coordination.store.queries.agents import agents as rows
from coordination.store.queries.tasks import events

VERSION = 1
"""The version of exported documents."""


class Agents:
    """The agents of a workspace: ``co.agents``. Raises NotFound for a name that no agent has."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self) -> Sequence[Agent]:
        """Return all agents, by name."""
        return self._runtime.read(rows.list_all)

    def list_with_records(self) -> Sequence[tuple[Agent, AgentTotals]]:
        """Return all agents by name, each with its work so far."""
        runtime = self._runtime
        with runtime.store.read() as tx:
            agents = rows.list_all(tx, runtime.workspace_id)
            records = rows.totals(tx, runtime.workspace_id, [agent.profile.name for agent in agents])
        return [(agent, records.get(agent.profile.name, AgentTotals())) for agent in agents]

    def get(self, name: str) -> Agent:
        """Return the agent of that name."""
        return self._runtime.read(service.find, name)

    def record(self, name: str) -> AgentTotals:
        """Return the agent's work so far, counted from its tasks."""
        runtime = self._runtime
        with runtime.store.read() as tx:
            service.find(tx, runtime.workspace_id, name)
            return rows.totals(tx, runtime.workspace_id, [name]).get(name, AgentTotals())

    def create(self, profile: Profile) -> Agent:
        """Create an agent. Raises Refused when its name is taken or the profile is invalid."""
        return self._runtime.transact(service.create, profile)

    def change(self, name: str, /, **changes: Any) -> Agent:
        """Change fields of the agent's Profile, also its ``name``; None removes one.

        Tasks that were assigned before keep its earlier fields. Raises Refused, with nothing changed, when invalid.
        """
        return self.edit(name, lambda profile: parse_profile(asdict(profile) | changes))

    def edit(self, name: str, edit: Callable[[Profile], Profile]) -> Agent:
        """Replace the agent's profile by the result of *edit*, in one transaction."""
        return self._runtime.transact(service.change, name, edit, actor=self._runtime.actor)

    def rename(self, name: str, new_name: str) -> Agent:
        """Rename the agent; its tasks, costs and budgets show the new name. Raises Refused when the name is taken.

        Names of agents in plans, project settings and the answerers of open runs do not change.
        """
        return self._runtime.transact(service.rename, name, new_name, actor=self._runtime.actor)

    def events(self, name: str) -> Sequence[Event]:
        """Return the agent's events, oldest first."""
        runtime = self._runtime
        with runtime.store.read() as tx:
            agent = service.find(tx, runtime.workspace_id, name)
            return events.tail(tx, runtime.workspace_id, subject=(SubjectKind.AGENT, agent.id))

    def clone(self, name: str, new_name: str) -> Agent:
        """Copy the agent under a new name; the copy is not the default."""
        return self._runtime.transact(service.clone, name, new_name)

    def delete(self, name: str) -> None:
        """Delete the agent; its ended tasks keep its name. Raises Refused while it has open tasks."""
        self._runtime.transact(service.delete, name)

    def export(self, *names: str) -> dict[str, Any]:
        """Return these agents, or all, as a JSON document. It has no secrets, only names of variables."""
        runtime = self._runtime
        with runtime.store.read() as tx:
            named = [service.find(tx, runtime.workspace_id, name) for name in names]
            agents = named or rows.list_all(tx, runtime.workspace_id)
        return {"version": VERSION, "agents": [agent.profile.to_json() for agent in agents]}

    def import_(self, document: Any, *, source: str = "The document") -> Sequence[Agent]:
        """Create or replace the agents of an export: all of them, or none (Refused)."""
        profiles = _profiles(document, source)
        return self._runtime.transact(
            lambda tx, workspace_id: [service.put(tx, workspace_id, profile) for profile in profiles]
        )


def _profiles(document: Any, source: str) -> Sequence[Profile]:
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise Refused(f"{source} is not an export of agents of version {VERSION}")
    bodies = document.get("agents")
    if not isinstance(bodies, list) or not all(isinstance(body, dict) for body in bodies):
        raise Refused(f"{source} has no list of agents")
    profiles = [parse_profile(body) for body in bodies]
    repeated = [name for name, count in Counter(profile.name for profile in profiles).items() if count > 1]
    if repeated:
        raise Refused(f"{source} names {excerpt(repeated[0])[1:-1]} twice")
    return profiles
