"""What work may do that other work causes: whoever causes work lends it at most their own rights. Pure.

``lend`` is the one rule. Tasks that a job reports go through it when they are added and again when they are claimed;
whatever else starts work on somebody's behalf (schedules, hooks, messages, hand-offs) compares the same two records.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from coordination.base.durations import show_duration
from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.jobs import MAX_STEPS, OURS, AgentCall, ChatCall, Job, kind_in
from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits, limits_of

DELEGATED_BY = "delegated_by"
"""Under which name a task's options hold who gave it to its agent: ``task`` and ``agent`` of each, the oldest first."""

DELEGATES = "delegates"
"""Under which name a project's settings hold the agents that its jobs may give work to, whatever these may use."""

_PLACE = ("kind", "base")
_NARROW = "Report it with progress or ask, so that a person adds it to a plan"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a task may use. As what somebody holds, it bounds what they cause; as what is asked for, it is compared.

    *work*: the stored job; None as what is held: the job is not compared, because a plan or the system chose it.
    *folders*: absolute paths that the task's folder has to be in, all of them; empty: a temporary folder.
    *workspace*: as stored, empty for a folder. *agent*: the agent that the task counts for. *priority*, *max_attempts*,
    *max_starts*: None is not compared.
    """

    work: Mapping[str, Any] | None
    folders: Sequence[str] = ()
    workspace: Mapping[str, Any] = field(default_factory=dict)
    timeout: timedelta | None = None
    stall_timeout: timedelta | None = None
    limits: Limits = NO_LIMITS
    agent: str | None = None
    max_starts: int | None = None
    max_attempts: int | None = None
    priority: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As stored with the task that they are lent to. Prompts and commands are left out."""
        said = {
            "work": None if self.work is None else _kept(self.work),
            "folders": list(self.folders),
            "workspace": dict(self.workspace),
            "timeout": _seconds(self.timeout),
            "stall_timeout": _seconds(self.stall_timeout),
            "limits": self.limits.to_json(),
            "agent": self.agent,
            "max_starts": self.max_starts,
            "max_attempts": self.max_attempts,
            "priority": self.priority,
        }
        return {name: value for name, value in said.items() if value not in (None, [], {})}


def rights_of(found: Mapping[str, Any] | None) -> Rights | None:
    """Return the rights that were lent to a task, by its stored authority; None for a task of a plan."""
    if found is None:
        return None
    return Rights(
        found.get("work"),
        tuple(found.get("folders", ())),
        found.get("workspace", {}),
        _duration(found.get("timeout")),
        _duration(found.get("stall_timeout")),
        limits_of(found),
        found.get("agent"),
        found.get("max_starts"),
        found.get("max_attempts"),
        found.get("priority"),
    )


def lend(held: Rights, asked: Rights, *, models: bool = True) -> None:
    """Refuse what goes beyond *held* with one sentence; ``field`` names it. Paths are compared as they are written.

    *models*: whether the model is compared; a budget may have chosen a cheaper one since.
    """
    _check_folders(held.folders, asked.folders)
    _check_amounts(held, asked)
    if held.work is None:
        return
    _check_workspace(held.workspace, asked.workspace)
    if asked.agent != held.agent:
        whose = "no agent's" if held.agent is None else f"for the agent {held.agent}"
        raise Refused(
            f"It is for the agent {excerpt(asked.agent)}, and the job that reports it is {whose}",
            hint=_NARROW,
            field="agent",
        )
    if asked.work is not None:
        _check_work(held.work, asked.work, models=models)


def delegate(held: Rights, asked: Rights, *, project: str, trusted: Sequence[str]) -> None:
    """Refuse what a job of *project* may not give to another agent. *trusted*: those that a person lets it give work.

    An agent that is not among them has the program, arguments, secrets, variables and tools of the job, or fewer; its
    name and its model are its own.
    """
    _check_folders(held.folders, asked.folders)
    _check_amounts(held, asked)
    _check_workspace(held.workspace, asked.workspace)
    if held.work is None or asked.work is None:
        return
    who = str(asked.agent or asked.work[kind_in(asked.work).kind])
    if who in trusted:
        return
    try:
        _check_work(held.work, asked.work, models=False)
    except Refused as refused:
        allowed = shlex.quote(f"{DELEGATES}={json.dumps([*trusted, who], ensure_ascii=False)}")
        raise Refused(
            f"The agent {who} may use more than the job that delegates to it: {refused.message}",
            hint=f"A person lets it: coord projects change {shlex.quote(project)} --set {allowed}",
            field=refused.field,
        ) from None


def check_delegates(value: object) -> None:
    """Refuse what is no list of names of agents."""
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise Refused(
            f"{DELEGATES} must be a list of names of agents, not {excerpt(value)}",
            hint=f'Write {DELEGATES}=["dave/vc"]',
            field=DELEGATES,
        )


def delegators(options: Mapping[str, Any]) -> list[str]:
    """Who gave a task to its agent, in words, the nearest first; empty for one that nobody delegated."""
    chain = options.get(DELEGATED_BY) or ()
    return [f"{one['task']} ({one['agent']})" if one.get("agent") else str(one["task"]) for one in reversed(chain)]


def runs_commands(work: Mapping[str, Any]) -> bool:
    """Whether the job may run any command: a command or a function may; a chat may not.

    A coding agent may, unless its arguments restrict what it may do: what they leave it is known to its program only.
    """
    return kind_in(work).runs_commands(work)


def _check_folders(held: Sequence[str], asked: Sequence[str]) -> None:
    for place in asked:
        for top in held:
            if not _is_within(place, top):
                raise Refused(
                    f"Its folder {excerpt(place)} is outside of {excerpt(top)}, the folder of the job that reports it",
                    hint="Leave workdir out, or name a folder below",
                    field="workdir",
                )
    if asked and not held:
        raise Refused(
            "It names a folder, and the job that reports it has a temporary one only",
            hint="Leave workdir out",
            field="workdir",
        )


def _is_within(place: str, top: str) -> bool:
    place, top = posixpath.normpath(place), posixpath.normpath(top)
    return posixpath.isabs(place) and (place == top or place.startswith(top.rstrip("/") + "/"))


def _check_amounts(held: Rights, asked: Rights) -> None:
    for name in ("timeout", "stall_timeout"):
        most, wanted = getattr(held, name), getattr(asked, name)
        if most is not None and (wanted is None or wanted > most):
            said = "none" if wanted is None else show_duration(wanted)
            raise Refused(
                f"Its {name} is {said}, and that of the job that reports it is {show_duration(most)}",
                hint=f"Leave {name} out to have the same",
                field=name,
            )
    for name in ("max_starts", "max_attempts", "priority"):
        most, wanted = getattr(held, name), getattr(asked, name)
        if most is not None and wanted is not None and wanted > most:
            raise Refused(
                f"Its {name} is {wanted:,}, and that of the job that reports it is {most:,}",
                hint=f"Set at most {most:,}" if name == "priority" else f"Leave {name} out to have the same",
                field=name,
            )
    if asked.limits != asked.limits.within(held.limits):
        raise Refused(
            "Its limits are wider than those of the job that reports it",
            hint="Leave limits out to have the same",
            field="limits",
        )


def _check_workspace(held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if "merge" in asked:
        raise Refused("Only the merge queue makes tasks with checkout.merge", hint=_NARROW, field="checkout.merge")
    if not held and not asked.get("base"):
        return  # a worktree keeps it from more than a folder does
    if any(held.get(name) != asked.get(name) for name in _PLACE):
        raise Refused(
            "It works in another checkout than the job that reports it", hint="Leave checkout out", field="checkout"
        )


def _check_work(held: Mapping[str, Any], asked: Mapping[str, Any], *, models: bool) -> None:
    job, owner = kind_in(asked), kind_in(held)
    if job.lent is None:
        if not owner.runs_commands(held):
            who = "a chat" if owner is ChatCall else "an agent whose arguments restrict what it may do"
            raise Refused(f"It runs a command, and {who} reports it, which lends none", hint=_NARROW, field="run")
    elif job is not owner:
        raise Refused(
            f"It starts {'an agent' if job is AgentCall else 'a chat'}, and the job that reports it is none",
            hint=_NARROW,
            field="run",
        )
    _check_fields(held, asked, job)
    if job is AgentCall and models and asked.get("model") != held.get("model"):
        raise _differs("model")
    if job is ChatCall:
        _check_chat(held, asked, models=models)
    _check_environment(held, asked)


def _check_fields(held: Mapping[str, Any], asked: Mapping[str, Any], job: type[Job]) -> None:
    for name in job.only_in_plans:
        if asked.get(name):
            raise _differs(name)
    for name in job.lent or ():
        if "{{" in str(asked.get(name)):  # what fills it in is the task's own: it could be anything
            raise _differs(name)
    for name in job.lent_unchanged:
        if (asked.get(name) or None) != (held.get(name) or None):
            raise _differs(name)


def _check_chat(held: Mapping[str, Any], asked: Mapping[str, Any], *, models: bool) -> None:
    mine, theirs = str(held["chat"]), str(asked["chat"])
    if mine != theirs if models else mine.partition(":")[0] != theirs.partition(":")[0]:
        raise _differs("chat")
    for server in asked.get("tools") or ():
        if server != OURS and server not in (held.get("tools") or ()):
            raise _differs("tools")
    if next(iter(asked.get("secrets") or ()), None) != next(iter(held.get("secrets") or ()), None):
        raise _differs("secrets")  # the first one is the key for the model
    most, wanted = held.get("settings") or {}, asked.get("settings") or {}
    if wanted.get("max_steps", MAX_STEPS) > most.get("max_steps", MAX_STEPS):
        raise _differs("settings")
    if "max_tokens" in most and wanted.get("max_tokens", most["max_tokens"] + 1) > most["max_tokens"]:
        raise _differs("settings")


def _check_environment(held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if more := [name for name in asked.get("secrets") or () if name not in (held.get("secrets") or ())]:
        raise Refused(
            f"It asks for the secret {excerpt(more[0])}, which the job that reports it was not given",
            hint=_NARROW,
            field="run.secrets",
        )
    mine, theirs = held.get("env") or {}, asked.get("env") or {}
    if other := [name for name, value in theirs.items() if mine.get(name) != value]:
        raise Refused(
            f"Its env sets {excerpt(other[0])}, which the job that reports it does not have, or not so",
            hint="A command sets variables itself",
            field="run.env",
        )
    if kind_in(asked) is AgentCall and (more := [name for name in asked.get("tools") or () if name != OURS]):
        raise _differs("tools")


def _differs(name: str) -> Refused:
    return Refused(
        f"Its run.{name} differs from that of the job that reports it, or goes beyond it",
        hint="Write run: {prompt: …} for a job like the one that reports it",
        field=f"run.{name}",
    )


def _kept(work: Mapping[str, Any]) -> dict[str, Any]:
    job = kind_in(work)
    kept = {name: work[name] for name in (*(job.lent or ()), "env") if work.get(name)}
    return kept if job.kind in kept else {job.kind: "", **kept}


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
