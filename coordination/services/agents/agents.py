"""Agents: made, changed, cloned, put away, and chosen for work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from sqlalchemy import Connection

from coordination.base.errors import NotFound, Refused
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.agents.agents import DEFAULT, Agent, AgentChoice, Profile, Record, checked, choice_of
from coordination.domain.tasks.events import EventType, NewEvent, SubjectKind
from coordination.store.queries.access import principals
from coordination.store.queries.agents import agents as rows
from coordination.store.queries.tasks import events


def create(tx: Connection, workspace_id: str, profile: Profile) -> Agent:
    """Make one that was not there before; Refused when its name is taken."""
    checked(profile)
    _check_free(tx, workspace_id, profile.name)
    if profile.default:
        rows.no_default(tx, workspace_id)
    rows.make(tx, workspace_id, profile)
    return find(tx, workspace_id, profile.name)


def change(
    tx: Connection, workspace_id: str, name: str, become: Callable[[Profile], Profile], *, actor: str | None = None
) -> Agent:
    """Let the agent *become* another profile; NotFound, or Refused when the new one does not hold."""
    found = find(tx, workspace_id, name)
    profile = checked(become(found.profile))
    if profile.name != name:
        _rename(tx, workspace_id, found, profile.name, actor)
    if profile.default and not found.profile.default:
        rows.no_default(tx, workspace_id)
    rows.change(tx, workspace_id, found.id, profile)
    return find(tx, workspace_id, profile.name)


def rename(tx: Connection, workspace_id: str, name: str, new_name: str, *, actor: str) -> Agent:
    """Give an agent another name, which its tasks, costs and budgets show from now on; Refused when it is taken."""
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
    if rows.named(tx, workspace_id, name) is not None:
        raise Refused(f"There is an agent {name} already", hint=f"See: coord agents show {name}")


def put(tx: Connection, workspace_id: str, profile: Profile) -> Agent:
    """Make it, or let the one of that name become this."""
    if rows.named(tx, workspace_id, profile.name) is None:
        return create(tx, workspace_id, profile)
    return change(tx, workspace_id, profile.name, lambda _: profile)


def clone(tx: Connection, workspace_id: str, name: str, new_name: str) -> Agent:
    """Make another one like it; it is not the default."""
    return create(tx, workspace_id, replace(find(tx, workspace_id, name).profile, name=new_name, default=False))


def delete(tx: Connection, workspace_id: str, name: str) -> None:
    """Forget it; Refused while it has open tasks."""
    found = find(tx, workspace_id, name)
    open_tasks = rows.records(tx, workspace_id, [name]).get(name, Record()).open
    if open_tasks:
        raise Refused(
            f"{name} has {open_tasks} open tasks",
            hint=f"Cancel them, or let it take no more: coord agents change {name} --inactive",
        )
    rows.remove(tx, workspace_id, found.id)


def find(tx: Connection, workspace_id: str, name: str) -> Agent:
    """The agent of that name; NotFound with the likeliest one meant."""
    found = rows.named(tx, workspace_id, name)
    if found is None:
        known = [agent.profile.name for agent in rows.listed(tx, workspace_id)]
        raise NotFound(f"There is no agent {excerpt(name)}", hint=did_you_mean(name, known) or "See: coord agents list")
    return found


class AgentLookup:
    """Gives out work: knows the workspace's agents, and how much each has, from its first question on."""

    def __init__(self, tx: Connection, workspace_id: str) -> None:
        self._tx = tx
        self._workspace_id = workspace_id

    @cached_property
    def _profiles(self) -> dict[str, Profile]:
        return {agent.profile.name: agent.profile for agent in rows.listed(self._tx, self._workspace_id)}

    @cached_property
    def _open(self) -> Counter[str]:
        found = rows.records(self._tx, self._workspace_id, self.names)
        return Counter({name: record.open for name, record in found.items()})

    @property
    def names(self) -> list[str]:
        """All of them."""
        return list(self._profiles)

    def known(self, name: str) -> Profile | None:
        """The one of that name, active or not."""
        return self._profiles.get(name)

    def choose(self, wanted: str) -> Profile | None:
        """Who is to do it; None when *wanted* is a name that no agent has, Refused when nobody fits.

        Of several with that role or label, the one with the fewest open tasks; of these the first by name.
        """
        choice = choice_of(wanted)
        if choice.by == "name":
            found = self._profiles.get(wanted)
            if found is not None and not found.active:
                raise Refused(f"The agent {wanted} is inactive", hint=f"Run: coord agents change {wanted} --active")
            return found
        fitting = [profile for profile in self._profiles.values() if profile.active and _fits(profile, choice)]
        if not fitting:
            raise Refused(_NOBODY[choice.by].format(choice.value), hint="See: coord agents list")
        chosen = min(fitting, key=lambda profile: (self._open[profile.name], profile.name))
        self._open[chosen.name] += 1
        return chosen


_NOBODY = {
    DEFAULT: "There is no default agent",
    "role": "No active agent has the role {}",
    "label": "No active agent has the label {}",
}


def _fits(profile: Profile, choice: AgentChoice) -> bool:
    if choice.by == DEFAULT:
        return profile.default
    return profile.identity.get("role") == choice.value if choice.by == "role" else choice.value in profile.labels
