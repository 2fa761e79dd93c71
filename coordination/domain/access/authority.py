"""Limits on the tasks that a task creates: they may use at most what the task itself may use.

``check_within`` is the rule. Discovered tasks are checked when they are added and again when they are claimed;
delegations compare the same records.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from itertools import product
from typing import Any

from coordination.base.durations import show_duration
from coordination.base.errors import Refused
from coordination.base.json_values import to_json_types
from coordination.base.wording import excerpt
from coordination.domain.jobs import MAX_STEPS, OURS, AgentCall, ChatCall, Job, job_class
from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits, limits_of

DELEGATED_BY = "delegated_by"
"""The key in a task's options for its delegators: ``task`` and ``agent`` of each, the oldest first."""

DELEGATES = "delegates"
"""The key in a project's settings for the agents that its jobs may delegate to without limits."""

_PLACE = ("kind", "base")
_NARROW = "Report it with progress or ask, so that a person adds it to a plan"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a task may use: as the rights of its creator, or as the rights that it requests.

    *work*: the stored job; None for a creator whose job is not compared, because a plan or the system chose it.
    *folders*: absolute paths that must all contain the task's folder; empty: a temporary folder. *checkout*: the
    stored checkout, empty for a folder. *agent*: the agent that the task counts for. *priority*, *max_attempts*,
    *max_starts*: not compared if None.
    """

    work: Mapping[str, Any] | None
    folders: Sequence[str] = ()
    checkout: Mapping[str, Any] = field(default_factory=dict)
    timeout: timedelta | None = None
    stall_timeout: timedelta | None = None
    limits: Limits = NO_LIMITS
    agent: str | None = None
    max_starts: int | None = None
    max_attempts: int | None = None
    priority: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that is stored with the task, without prompts and commands."""
        body = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        body["work"] = None if self.work is None else _kept(self.work)
        body |= {"folders": list(self.folders), "checkout": dict(self.checkout), "limits": self.limits.to_json()}
        return {name: to_json_types(value) for name, value in body.items() if value not in (None, [], {})}


def rights_of(authority: Mapping[str, Any] | None) -> Rights | None:
    """Return the rights of a task from its stored authority; None for a task of a plan."""
    if authority is None:
        return None
    body: dict[str, Any] = {spec.name: authority[spec.name] for spec in fields(Rights) if spec.name in authority}
    body |= {"folders": tuple(authority.get("folders", ())), "limits": limits_of(authority)}
    body |= {name: timedelta(seconds=body[name]) for name in ("timeout", "stall_timeout") if name in body}
    return Rights(**{"work": None, **body})


def check_within(granted: Rights, requested: Rights, *, models: bool = True) -> None:
    """Raise Refused, with the ``field``, when *requested* exceeds *granted*. Paths are compared as written.

    *models*: whether models are compared; a budget may have chosen a cheaper one since.
    """
    _check_folders(granted.folders, requested.folders)
    _check_amounts(granted, requested)
    if granted.work is None:
        return
    _check_checkout(granted.checkout, requested.checkout)
    if requested.agent != granted.agent:
        whose = "no agent's" if granted.agent is None else f"for the agent {granted.agent}"
        message = f"It is for the agent {excerpt(requested.agent)}, and the job that reports it is {whose}"
        raise Refused(message, hint=_NARROW, field="agent")
    if requested.work is not None:
        _check_work(granted.work, requested.work, models=models)


def check_delegation(granted: Rights, requested: Rights, *, project: str, trusted: Sequence[str]) -> None:
    """Raise Refused when a job of *project* may not delegate this task to another agent.

    *trusted*: the agents that a person allows it to delegate to. Any other agent may have at most the program,
    arguments, secrets, variables and tools of the job; its name and its model may differ.
    """
    _check_folders(granted.folders, requested.folders)
    _check_amounts(granted, requested)
    _check_checkout(granted.checkout, requested.checkout)
    if granted.work is None or requested.work is None:
        return
    agent = str(requested.agent or requested.work[job_class(requested.work).kind])
    if agent in trusted:
        return
    try:
        _check_work(granted.work, requested.work, models=False)
    except Refused as refused:
        allowed = shlex.quote(f"{DELEGATES}={json.dumps([*trusted, agent], ensure_ascii=False)}")
        message = f"The agent {agent} may use more than the job that delegates to it: {refused.message}"
        hint = f"A person can allow it: coord projects change {shlex.quote(project)} --set {allowed}"
        raise Refused(message, hint=hint, field=refused.field) from None


def check_delegates(value: object) -> None:
    """Raise Refused unless *value* is a list of agents' names."""
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        message = f"{DELEGATES} must be a list of names of agents, not {excerpt(value)}"
        raise Refused(message, hint=f'Write {DELEGATES}=["dave/vc"]', field=DELEGATES)


def delegators(options: Mapping[str, Any]) -> list[str]:
    """Return who delegated a task, as ``task (agent)``, the nearest first; empty without a delegation."""
    chain = options.get(DELEGATED_BY) or ()
    return [f"{by['task']} ({by['agent']})" if by.get("agent") else str(by["task"]) for by in reversed(chain)]


def _check_folders(granted: Sequence[str], requested: Sequence[str]) -> None:
    for place, top in product(requested, granted):
        if not _is_within(place, top):
            message = f"Its folder {excerpt(place)} is outside of {excerpt(top)}, the folder of the job that reports it"
            raise Refused(message, hint="Leave workdir out, or name a folder below", field="workdir")
    if requested and not granted:
        message = "It names a folder, and the job that reports it has a temporary one only"
        raise Refused(message, hint="Leave workdir out", field="workdir")


def _is_within(place: str, top: str) -> bool:
    place, top = posixpath.normpath(place), posixpath.normpath(top)
    return posixpath.isabs(place) and (place == top or place.startswith(top.rstrip("/") + "/"))


def _check_amounts(granted: Rights, requested: Rights) -> None:
    for name in ("timeout", "stall_timeout"):
        limit, value = getattr(granted, name), getattr(requested, name)
        if limit is not None and (value is None or value > limit):
            shown = "none" if value is None else show_duration(value)
            message = f"Its {name} is {shown}, and that of the job that reports it is {show_duration(limit)}"
            raise Refused(message, hint=f"Leave {name} out to have the same", field=name)
    for name in ("max_starts", "max_attempts", "priority"):
        limit, value = getattr(granted, name), getattr(requested, name)
        if limit is not None and value is not None and value > limit:
            hint = f"Set at most {limit:,}" if name == "priority" else f"Leave {name} out to have the same"
            message = f"Its {name} is {value:,}, and that of the job that reports it is {limit:,}"
            raise Refused(message, hint=hint, field=name)
    if requested.limits != requested.limits.within(granted.limits):
        message = "Its limits are wider than those of the job that reports it"
        raise Refused(message, hint="Leave limits out to have the same", field="limits")


def _check_checkout(granted: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    if "merge" in requested:
        raise Refused("Only the merge queue makes tasks with checkout.merge", hint=_NARROW, field="checkout.merge")
    if not granted and not requested.get("base"):
        return  # a worktree is more restricted than a folder
    if any(granted.get(name) != requested.get(name) for name in _PLACE):
        raise Refused(
            "It works in another checkout than the job that reports it", hint="Leave checkout out", field="checkout"
        )


def _check_work(granted: Mapping[str, Any], requested: Mapping[str, Any], *, models: bool) -> None:
    job, owner = job_class(requested), job_class(granted)
    if job.authority_fields is None:
        if not owner.runs_commands(granted):
            who = "a chat" if owner is ChatCall else "an agent whose arguments restrict what it may do"
            raise Refused(f"It runs a command, and {who}, which reports it, may run none", hint=_NARROW, field="run")
    elif job is not owner:
        kind = "an agent" if job is AgentCall else "a chat"
        raise Refused(f"It starts {kind}, and the job that reports it is not one", hint=_NARROW, field="run")
    _check_fields(granted, requested, job)
    if job is AgentCall and models and requested.get("model") != granted.get("model"):
        raise _differs("model")
    if job is ChatCall:
        _check_chat(granted, requested, models=models)
    _check_environment(granted, requested)


def _check_fields(granted: Mapping[str, Any], requested: Mapping[str, Any], job: type[Job]) -> None:
    for name in job.plan_only_fields:
        if requested.get(name):
            raise _differs(name)
    for name in job.authority_fields or ():
        if "{{" in str(requested.get(name)):  # the task's own input fills the template: it could be anything
            raise _differs(name)
    for name in job.fixed_fields:
        if (requested.get(name) or None) != (granted.get(name) or None):
            raise _differs(name)


def _check_chat(granted: Mapping[str, Any], requested: Mapping[str, Any], *, models: bool) -> None:
    own_model, model = str(granted["chat"]), str(requested["chat"])
    if own_model != model if models else own_model.partition(":")[0] != model.partition(":")[0]:
        raise _differs("chat")
    for server in requested.get("tools") or ():
        if server != OURS and server not in (granted.get("tools") or ()):
            raise _differs("tools")
    if next(iter(requested.get("secrets") or ()), None) != next(iter(granted.get("secrets") or ()), None):
        raise _differs("secrets")  # the first one is the key for the model
    limits, settings = granted.get("settings") or {}, requested.get("settings") or {}
    if settings.get("max_steps", MAX_STEPS) > limits.get("max_steps", MAX_STEPS):
        raise _differs("settings")
    if "max_tokens" in limits and settings.get("max_tokens", limits["max_tokens"] + 1) > limits["max_tokens"]:
        raise _differs("settings")


def _check_environment(granted: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    if extra := [name for name in requested.get("secrets") or () if name not in (granted.get("secrets") or ())]:
        message = f"It asks for the secret {excerpt(extra[0])}, which the job that reports it does not have"
        raise Refused(message, hint=_NARROW, field="run.secrets")
    own_env, env = granted.get("env") or {}, requested.get("env") or {}
    if other := [name for name, value in env.items() if own_env.get(name) != value]:
        raise Refused(
            f"Its env sets {excerpt(other[0])}, which the job that reports it does not have, or has with another value",
            hint="Let the command set the variable itself",
            field="run.env",
        )
    if job_class(requested) is AgentCall and any(name != OURS for name in requested.get("tools") or ()):
        raise _differs("tools")


def _differs(name: str) -> Refused:
    return Refused(
        f"Its run.{name} differs from that of the job that reports it, or goes beyond it",
        hint="Write run: {prompt: …} for a job like the one that reports it",
        field=f"run.{name}",
    )


def _kept(work: Mapping[str, Any]) -> dict[str, Any]:
    job = job_class(work)
    kept = {name: work[name] for name in (*(job.authority_fields or ()), "env") if work.get(name)}
    return kept if job.kind in kept else {job.kind: "", **kept}
