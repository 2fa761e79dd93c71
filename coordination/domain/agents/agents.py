"""Agents that a workspace knows by name: how each is run, and who it is meant to be. Pure records and their rules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from coordination.base.errors import Refused, inside
from coordination.base.json_values import json_problem
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs import AGENTS, AgentCall, ChatCall, check_account_for, parse_job
from coordination.domain.jobs.templates import is_template

DEFAULT = "default"
"""Written instead of a name: the workspace's default agent."""

RUNNER_KEYS = ("agent", "command", "args", "env", "secrets", "reads", "tools", "resume", "account")
CHAT_KEYS = ("chat", "system", "url", "tools", "settings", "env", "secrets", "account")
"""What a runner may have instead, when the agent is a model that is chatted with."""

IDENTITY_KEYS = ("personality", "role", "behaviour")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_LONGEST_NAME = 200
_LONGEST_TEXT = 20_000
_KEYS = (
    *("name", "description", "type", "objective", "labels", "runner", "model", "identity", "active"),
    DEFAULT,
)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a person says of an agent. ``name``: ``dave/vc``, a person's workspace and its project, or one word.

    *runner*: how it is started, the keys of RUNNER_KEYS or CHAT_KEYS as in a plan's ``run``; empty: it is only a name
    for work. *model*: as its program calls it; of a chat, what stands after the provider. *identity*: the keys of
    IDENTITY_KEYS, put before its prompts.
    """

    name: str
    description: str | None = None
    type: str | None = None
    objective: str | None = None
    labels: Sequence[str] = ()
    runner: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    active: bool = True
    default: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it is exported: what says nothing is left out."""
        body = {
            "name": self.name,
            "description": self.description,
            "type": self.type,
            "objective": self.objective,
            "labels": list(self.labels),
            "runner": dict(self.runner),
            "model": self.model,
            "identity": dict(self.identity),
        }
        written = {key: value for key, value in body.items() if value}
        return written | {"active": self.active} | ({DEFAULT: True} if self.default else {})

    def introduction(self) -> str:
        """Who it is, for its model; empty when nothing is said of that."""
        said = {
            "Your role": self.identity.get("role"),
            "Your objective": self.objective,
            "Your personality": self.identity.get("personality"),
            "How you behave": self.identity.get("behaviour"),
        }
        lines = [f"{what}: {text}" for what, text in said.items() if text]
        return "\n".join([f"You are {self.name}.", *lines]) if lines else ""

    def call(self, work: AgentCall) -> AgentCall | ChatCall:
        """*work* as this agent does it: what the job says goes before what the agent's runner says."""
        if not self.runner:
            raise Refused(
                f"The agent {self.name} has no runner",
                hint=f"coord agents change {self.name} --runner claude",
                field="runner",
            )
        runner = _runner_call(self.runner)
        introduction = self.introduction()
        if isinstance(runner, ChatCall):
            return self._chat(runner, work, introduction)
        if work.account is not None:
            check_account_for(work.account, runner.agent)
        return replace(
            runner,
            prompt=f"{introduction}\n\n{work.prompt}" if introduction else work.prompt,
            model=work.model or self.model,
            args=(*runner.args, *work.args),
            env={**runner.env, **work.env},
            secrets=tuple(dict.fromkeys((*runner.secrets, *work.secrets))),
            account=work.account or runner.account,
            tools=tuple(dict.fromkeys((*runner.tools, *work.tools))),
        )

    def _chat(self, runner: ChatCall, work: AgentCall, introduction: str) -> ChatCall:
        if work.args:
            raise Refused(f"The agent {self.name} is chatted with, and a chat takes no args", field="args")
        model = work.model or self.model
        return replace(
            runner,
            chat=f"{runner.provider}:{model}" if model else runner.chat,
            prompt=work.prompt,
            system="\n\n".join(filter(None, [introduction, runner.system])) or None,
            env={**runner.env, **work.env},
            secrets=tuple(dict.fromkeys((*runner.secrets, *work.secrets))),
            account=work.account or runner.account,
            tools=(*runner.tools, *(name for name in work.tools if name not in runner.tools)),
        )


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent as stored."""

    id: str
    workspace_id: str
    profile: Profile
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """What an agent came to, counted from its tasks. *interactions*: how often it was put to work."""

    open: int = 0
    completed: int = 0
    interactions: int = 0
    last_activity_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AgentChoice:
    """Whom a plan asks for: by ``name``, by ``role``, by ``label``, or the ``default``."""

    by: str
    value: str


def choice_of(text: str) -> AgentChoice:
    """``dave/vc``, ``role:reviewer``, ``label:python``, ``default``."""
    if text == DEFAULT:
        return AgentChoice(DEFAULT, "")
    by, colon, value = text.partition(":")
    return AgentChoice(by, value) if colon and by in {"role", "label"} else AgentChoice("name", text)


def profile_of(body: Mapping[Any, Any]) -> Profile:
    """A profile as it is imported; Refused with one sentence for what is wrong in it."""
    for key in body:
        if key not in _KEYS:
            raise Refused(f"An agent has no {excerpt(key)}", hint=did_you_mean(str(key), _KEYS), field=str(key))
    if "name" not in body:
        raise Refused("An agent needs a name", hint="Write it like dave/vc", field="name")
    given = {key: value for key, value in body.items() if value is not None}
    return checked(Profile(**given))


def checked(profile: Profile) -> Profile:
    """*profile*, if all of it holds; else Refused."""
    _check_name(profile.name)
    for what in ("description", "type", "objective", "model"):
        _check_text(what, getattr(profile, what))
    if not isinstance(profile.labels, list | tuple) or not all(isinstance(one, str) and one for one in profile.labels):
        raise Refused("labels must be a list of texts", field="labels")
    _check_identity(profile.identity)
    for what in ("active", "default"):
        if not isinstance(getattr(profile, what), bool):
            raise Refused(f"{what} must be true or false", field=what)
    if profile.default and not profile.active:
        raise Refused("The default agent must be active", field="default")
    if not isinstance(profile.runner, Mapping):
        raise Refused(f"runner must be a mapping with the keys {', '.join(RUNNER_KEYS)}", field="runner")
    if profile.runner:
        _runner_call(profile.runner)
    body = profile.to_json()
    if problem := json_problem(body):
        raise Refused(f"The agent {problem}")
    if is_template(json.dumps(body)):
        raise Refused("An agent holds no templates", hint="They belong into the prompts of its tasks")
    return profile


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise Refused(
            f"{excerpt(name)} cannot be an agent's name",
            hint="Write it like dave/vc: letters, digits, . _ -",
            field="name",
        )
    if name in {DEFAULT, *AGENTS}:
        raise Refused(f"{name} means something else already", hint="Choose another name", field="name")


def _check_identity(identity: object) -> None:
    if not isinstance(identity, Mapping):
        raise Refused(f"identity must be a mapping with the keys {', '.join(IDENTITY_KEYS)}", field="identity")
    for key, text in identity.items():
        if key not in IDENTITY_KEYS:
            raise Refused(
                f"identity has no {excerpt(key)}",
                hint=f"It may have: {', '.join(IDENTITY_KEYS)}",
                field=f"identity.{key}",
            )
        _check_text(f"identity.{key}", text)


def _runner_call(runner: Mapping[str, Any]) -> AgentCall | ChatCall:
    known = CHAT_KEYS if "chat" in runner else RUNNER_KEYS
    for key in runner:
        if key not in known:
            raise Refused(
                f"runner has no {excerpt(key)}", hint=f"It may have: {', '.join(known)}", field=f"runner.{key}"
            )
    if "chat" not in runner and runner.get("agent") not in AGENTS:
        raise Refused(
            f"runner.agent is {excerpt(runner.get('agent'))}",
            hint=f"It says what is started: {', '.join(AGENTS)}; or write a runner.chat, such as openai:gpt-5-mini",
            field="runner.agent",
        )
    try:
        call = parse_job({**runner, "prompt": "-"})
    except Refused as refused:
        raise Refused(refused.message, hint=refused.hint, field=inside("runner", refused.field)) from None
    assert isinstance(call, AgentCall | ChatCall)  # noqa: S101 - it has one of the two keys
    return call


def _check_text(what: str, text: object) -> None:
    if text is not None and (not isinstance(text, str) or len(text) > _LONGEST_TEXT):
        raise Refused(f"{what} must be a text of at most {_LONGEST_TEXT:,} characters", field=what)
