"""Agents by the Python API: whom work can be given to.

co.agents.create(Profile("dave/vc", runner={"agent": "claude"}, identity={"role": "mender"}))
co.agents.change("dave/vc", model="claude-haiku-4-5", default=True)
for agent in co.agents.list():
    print(agent.profile.name, co.agents.record(agent.profile.name).completed)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from coordination.adapters.account_store import Accounts
from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.agents.agents import Agent, Profile, Record, profile_of
from coordination.domain.tasks.events import Event, SubjectKind
from coordination.runtime import Runtime
from coordination.services.agents import agents as service
from coordination.store.queries.agents import agents as rows
from coordination.store.queries.tasks import events

VERSION = 1
"""Of the document that is exported."""


class _Connected(Protocol):
    @property
    def runtime(self) -> Runtime: ...


class Staffed:
    """The part of a connection that knows whom work can be given to, and which accounts this machine has."""

    runtime: Runtime

    @property
    def accounts(self) -> Accounts:
        """The accounts of this machine, by the home folder of the settings; they stand in no store."""
        return Accounts(self.runtime.settings.home, refusal=self.runtime.store.refusal)

    @property
    def agents(self) -> Agents:
        """The agents of the workspace."""
        return Agents(self)


class Agents:
    """The agents of a connection's workspace. Raises NotFound for a name that none has."""

    def __init__(self, co: _Connected) -> None:
        self._co = co

    def list(self) -> Sequence[Agent]:
        """All of them, by name."""
        runtime = self._co.runtime
        with runtime.store.read() as tx:
            return rows.listed(tx, runtime.workspace_id)

    def get(self, name: str) -> Agent:
        """The one of that name."""
        runtime = self._co.runtime
        with runtime.store.read() as tx:
            return service.find(tx, runtime.workspace_id, name)

    def record(self, name: str) -> Record:
        """What came of its work so far, counted from its tasks."""
        runtime = self._co.runtime
        with runtime.store.read() as tx:
            service.find(tx, runtime.workspace_id, name)
            return rows.records(tx, runtime.workspace_id, [name]).get(name, Record())

    def create(self, profile: Profile) -> Agent:
        """Make one that was not there before. Raises Refused when its name is taken, or when it cannot be."""
        runtime = self._co.runtime
        return runtime.store.transact(lambda tx: service.create(tx, runtime.workspace_id, profile))

    def change(self, name: str, /, **changes: Any) -> Agent:
        """Let it become what *changes* say: fields of Profile, its ``name`` too; None takes one away.

        Tasks that it was given before keep what it was then. Raises Refused, with nothing changed, when it cannot be.
        """
        runtime = self._co.runtime
        return runtime.store.transact(
            lambda tx: service.change(
                tx,
                runtime.workspace_id,
                name,
                lambda profile: profile_of(asdict(profile) | changes),
                actor=runtime.actor,
            )
        )

    def rename(self, name: str, new_name: str) -> Agent:
        """Give one another name, which its tasks, costs and budgets show from now on. Refused when it is taken.

        What names agents itself does not change: plans, project settings, open runs' answerers.
        """
        runtime = self._co.runtime
        return runtime.store.transact(
            lambda tx: service.rename(tx, runtime.workspace_id, name, new_name, actor=runtime.actor)
        )

    def events(self, name: str) -> Sequence[Event]:
        """What happened to it, the oldest first."""
        runtime = self._co.runtime
        with runtime.store.read() as tx:
            agent = service.find(tx, runtime.workspace_id, name)
            return events.tail(tx, runtime.workspace_id, subject=(SubjectKind.AGENT, agent.id))

    def clone(self, name: str, new_name: str) -> Agent:
        """Make another one like it; it is not the default."""
        runtime = self._co.runtime
        return runtime.store.transact(lambda tx: service.clone(tx, runtime.workspace_id, name, new_name))

    def delete(self, name: str) -> None:
        """Forget it; what it has done keeps its name. Raises Refused while it has open tasks."""
        runtime = self._co.runtime
        runtime.store.transact(lambda tx: service.delete(tx, runtime.workspace_id, name))

    def export(self, *names: str) -> dict[str, Any]:
        """These, or all, as one JSON document. Nothing secret is in it: secrets are names of variables."""
        runtime = self._co.runtime
        with runtime.store.read() as tx:
            wanted = [service.find(tx, runtime.workspace_id, name) for name in names]
            found = wanted or rows.listed(tx, runtime.workspace_id)
        return {"version": VERSION, "agents": [agent.profile.to_json() for agent in found]}

    def import_(self, document: Any, *, source: str = "The document") -> Sequence[Agent]:
        """Make the agents of an export; those that there are become what it says. All of them, or none: Refused."""
        runtime, profiles = self._co.runtime, _profiles(document, source)
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
