"""Create, change, clone, delete and choose agents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from sqlalchemy import Connection

from coordination.base.errors import NotFound, Refused
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.agents.agents import (
    DEFAULT,
    Agent,
    AgentChoice,
    AgentTotals,
    Profile,
    check_profile,
    parse_choice,
)
from coordination.domain.tasks.events import EventType, NewEvent, SubjectKind
from coordination.store.queries.access import principals
from coordination.store.queries.agents import agents as rows
from coordination.store.queries.tasks import events


def create(tx: Connection, workspace_id: str, profile: Profile) -> Agent:
    """Create an agent. Raises Refused when its name exists."""
    check_profile(profile)
    _check_free(tx, workspace_id, profile.name)
    if profile.default:
        rows.clear_default(tx, workspace_id)
    rows.add(tx, workspace_id, profile)
    return find(tx, workspace_id, profile.name)


def change(
    tx: Connection, workspace_id: str, name: str, update: Callable[[Profile], Profile], *, actor: str | None = None
) -> Agent:
    """Replace the agent's profile by ``update(profile)``. Raises NotFound, or Refused for an invalid profile."""
    agent = find(tx, workspace_id, name)
    profile = check_profile(update(agent.profile))
    if profile.name != name:
        _rename(tx, workspace_id, agent, profile.name, actor)
    if profile.default and not agent.profile.default:
        rows.clear_default(tx, workspace_id)
    rows.change(tx, workspace_id, agent.id, profile)
    return find(tx, workspace_id, profile.name)


def rename(tx: Connection, workspace_id: str, name: str, new_name: str, *, actor: str) -> Agent:
    """Rename an agent, also in its tasks, costs and budgets. Raises Refused when the name exists."""
    return change(tx, workspace_id, name, lambda profile: replace(profile, name=new_name), actor=actor)


def _rename(tx: Connection, workspace_id: str, agent: Agent, name: str, actor: str | None) -> None:
    _check_free(tx, workspace_id, name)
    if principals.find_agent_ids(tx, workspace_id, [name]):
        raise Refused(f"Tasks or costs name an agent {name} already", hint="Choose another name")
    principals.rename_agent(tx, workspace_id, agent.id, name)
    rows.rename_authorities(tx, workspace_id, agent.id, name)
    payload = {"from": agent.profile.name, "to": name}
    subject = (SubjectKind.AGENT, agent.id)
    events.append(tx, workspace_id, [NewEvent(EventType.RENAMED, actor=actor, payload=payload, subject=subject)])


def _check_free(tx: Connection, workspace_id: str, name: str) -> None:
    if rows.find(tx, workspace_id, name) is not None:
        raise Refused(f"There is an agent {name} already", hint=f"See: coord agents show {name}")


def put(tx: Connection, workspace_id: str, profile: Profile) -> Agent:
    """Create an agent, or replace the profile of the one with that name."""
    if rows.find(tx, workspace_id, profile.name) is None:
        return create(tx, workspace_id, profile)
    return change(tx, workspace_id, profile.name, lambda _: profile)


def clone(tx: Connection, workspace_id: str, name: str, new_name: str) -> Agent:
    """Create a copy of an agent, which is not the default."""
    return create(tx, workspace_id, replace(find(tx, workspace_id, name).profile, name=new_name, default=False))


def delete(tx: Connection, workspace_id: str, name: str) -> None:
    """Delete an agent. Raises Refused while it has open tasks."""
    agent = find(tx, workspace_id, name)
    open_tasks = rows.totals(tx, workspace_id, [name]).get(name, AgentTotals()).open
    if open_tasks:
        raise Refused(
            f"{name} has {open_tasks} open tasks",
            hint=f"Cancel them, or stop giving it work: coord agents change {name} --inactive",
        )
    rows.remove(tx, workspace_id, agent.id)


def find(tx: Connection, workspace_id: str, name: str) -> Agent:
    """Return the agent with that name. Raises NotFound with the most similar name."""
    agent = rows.find(tx, workspace_id, name)
    if agent is None:
        names = [other.profile.name for other in rows.list_all(tx, workspace_id)]
        raise NotFound(f"There is no agent {excerpt(name)}", hint=did_you_mean(name, names) or "See: coord agents list")
    return agent


@dataclass
class AgentLookup:
    """Chooses agents of a workspace. It reads them and the numbers of their open tasks once, on first use."""

    tx: Connection
    workspace_id: str

    @cached_property
    def _profiles(self) -> dict[str, Profile]:
        return {agent.profile.name: agent.profile for agent in rows.list_all(self.tx, self.workspace_id)}

    @cached_property
    def _open(self) -> Counter[str]:
        totals = rows.totals(self.tx, self.workspace_id, self.names)
        return Counter({name: counts.open for name, counts in totals.items()})

    @property
    def names(self) -> list[str]:
        """Return the names of all agents."""
        return list(self._profiles)

    def find(self, name: str) -> Profile | None:
        """Return the agent with that name, active or not."""
        return self._profiles.get(name)

    def choose(self, text: str) -> Profile | None:
        """Return the agent for *text* (see ``parse_choice``); None for an unknown name. Raises Refused if none fits.

        Of several with that role or label, choose the one with the fewest open tasks, then the first by name.
        """
        choice = parse_choice(text)
        if choice.by == "name":
            profile = self._profiles.get(text)
            if profile is not None and not profile.active:
                raise Refused(f"The agent {text} is inactive", hint=f"Run: coord agents change {text} --active")
            return profile
        fitting = [profile for profile in self._profiles.values() if profile.active and _fits(profile, choice)]
        if not fitting:
            raise Refused(_NONE_FITS[choice.by].format(choice.value), hint="See: coord agents list")
        profile = min(fitting, key=lambda profile: (self._open[profile.name], profile.name))
        self._open[profile.name] += 1
        return profile


_NONE_FITS = {
    DEFAULT: "There is no default agent",
    "role": "No active agent has the role {}",
    "label": "No active agent has the label {}",
}


def _fits(profile: Profile, choice: AgentChoice) -> bool:
    if choice.by == DEFAULT:
        return profile.default
    return profile.identity.get("role") == choice.value if choice.by == "role" else choice.value in profile.labels
