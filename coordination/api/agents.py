"""Agents in the Python API: list, create, change and delete them; export and import.

co.agents.create(Profile("dave/vc", runner={"agent": "claude"}, identity={"role": "mender"}))
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
from coordination.domain.agents.agents import Agent, Profile, Record, profile_of
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
        runtime = self._runtime
        with runtime.store.read() as tx:
            return rows.listed(tx, runtime.workspace_id)

    def list_with_records(self) -> Sequence[tuple[Agent, Record]]:
        """Return all agents by name, each with its work so far."""
        runtime = self._runtime
        with runtime.store.read() as tx:
            agents = rows.listed(tx, runtime.workspace_id)
            records = rows.records(tx, runtime.workspace_id, [agent.profile.name for agent in agents])
        return [(agent, records.get(agent.profile.name, Record())) for agent in agents]

    def get(self, name: str) -> Agent:
        """Return the agent of that name."""
        runtime = self._runtime
        with runtime.store.read() as tx:
            return service.find(tx, runtime.workspace_id, name)

    def record(self, name: str) -> Record:
        """Return its work so far, counted from its tasks."""
        runtime = self._runtime
        with runtime.store.read() as tx:
            service.find(tx, runtime.workspace_id, name)
            return rows.records(tx, runtime.workspace_id, [name]).get(name, Record())

    def create(self, profile: Profile) -> Agent:
        """Create an agent. Raises Refused when its name is taken or the profile is invalid."""
        runtime = self._runtime
        return runtime.store.transact(lambda tx: service.create(tx, runtime.workspace_id, profile))

    def change(self, name: str, /, **changes: Any) -> Agent:
        """Change fields of its Profile, also its ``name``; None removes one.

        Tasks that were assigned before keep its earlier fields. Raises Refused, with nothing changed, when invalid.
        """
        return self.edit(name, lambda profile: profile_of(asdict(profile) | changes))

    def edit(self, name: str, edit: Callable[[Profile], Profile]) -> Agent:
        """Replace its profile by what *edit* makes of it, in one transaction."""
        runtime = self._runtime
        return runtime.store.transact(
            lambda tx: service.change(tx, runtime.workspace_id, name, edit, actor=runtime.actor)
        )

    def rename(self, name: str, new_name: str) -> Agent:
        """Give one another name, which its tasks, costs and budgets show from now on. Refused when it is taken.

        What names agents itself does not change: plans, project settings, open runs' answerers.
        """
        runtime = self._runtime
        return runtime.store.transact(
            lambda tx: service.rename(tx, runtime.workspace_id, name, new_name, actor=runtime.actor)
        )

    def events(self, name: str) -> Sequence[Event]:
        """What happened to it, the oldest first."""
        runtime = self._runtime
        with runtime.store.read() as tx:
            agent = service.find(tx, runtime.workspace_id, name)
            return events.tail(tx, runtime.workspace_id, subject=(SubjectKind.AGENT, agent.id))

    def clone(self, name: str, new_name: str) -> Agent:
        """Copy it under a new name; the copy is not the default."""
        runtime = self._runtime
        return runtime.store.transact(lambda tx: service.clone(tx, runtime.workspace_id, name, new_name))

    def delete(self, name: str) -> None:
        """Delete it; its ended tasks keep its name. Raises Refused while it has open tasks."""
        runtime = self._runtime
        runtime.store.transact(lambda tx: service.delete(tx, runtime.workspace_id, name))

    def export(self, *names: str) -> dict[str, Any]:
        """Return these agents, or all, as a JSON document. It has no secrets, only names of variables."""
        runtime = self._runtime
        with runtime.store.read() as tx:
            wanted = [service.find(tx, runtime.workspace_id, name) for name in names]
            agents = wanted or rows.listed(tx, runtime.workspace_id)
        return {"version": VERSION, "agents": [agent.profile.to_json() for agent in agents]}

    def import_(self, document: Any, *, source: str = "The document") -> Sequence[Agent]:
        """Create or replace the agents of an export: all of them, or none (Refused)."""
        runtime, profiles = self._runtime, _profiles(document, source)
        return runtime.store.transact(
            lambda tx: [service.put(tx, runtime.workspace_id, profile) for profile in profiles]
        )


def _profiles(document: Any, source: str) -> Sequence[Profile]:
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise Refused(f"{source} is no export of agents of version {VERSION}")
    bodies = document.get("agents")
    if not isinstance(bodies, list) or not all(isinstance(body, dict) for body in bodies):
        raise Refused(f"{source} holds no list of agents")
    profiles = [profile_of(body) for body in bodies]
    twice = [name for name, count in Counter(profile.name for profile in profiles).items() if count > 1]
    if twice:
        raise Refused(f"{source} names {excerpt(twice[0])[1:-1]} twice")
    return profiles
