"""Agents of a workspace: their profiles with runner and identity, and the checks of these."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from coordination.base.errors import Refused, inside
from coordination.base.fields import plain
from coordination.base.json_values import json_problem
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs import AGENTS, AgentCall, ChatCall, check_account_for, parse_job
from coordination.domain.jobs.templates import is_template

PERSON = "person"
"""The key of the assigned person in a task's options."""

DEFAULT = "default"
"""Written instead of a name: the default agent of the workspace."""

RUNNER_KEYS = ("agent", "command", "args", "env", "secrets", "reads", "tools", "resume", "account")
CHAT_KEYS = ("chat", "system", "url", "tools", "settings", "env", "secrets", "account")
"""The keys of a runner that is a chat."""

IDENTITY_KEYS = ("personality", "role", "behaviour")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_LONGEST_NAME = 200
_LONGEST_TEXT = 20_000
_KEYS = (*("name", "description", "type", "objective", "labels", "runner", "model", "identity", "active"), DEFAULT)


@dataclass(frozen=True, slots=True)
class Profile:
    """The definition of an agent. ``name``: like ``dave/vc``, or one word.

    *runner*: the keys of RUNNER_KEYS or CHAT_KEYS as in a plan's ``run``; empty if the agent is only a name for work.
    *model*: as its program calls it; for a chat, without the provider. *identity*: the keys of IDENTITY_KEYS, which are
    put before its prompts.
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
        """Return the form that is exported, without empty fields."""
        body = {key: plain(value) for key in _KEYS if (value := getattr(self, key))}
        return body | {"active": self.active}

    def introduction(self) -> str:
        """Return the text that tells the model its identity, or an empty text."""
        identity = {
            "Your role": self.identity.get("role"),
            "Your objective": self.objective,
            "Your personality": self.identity.get("personality"),
            "How you behave": self.identity.get("behaviour"),
        }
        lines = [f"{what}: {text}" for what, text in identity.items() if text]
        return "\n".join([f"You are {self.name}.", *lines]) if lines else ""

    def without_introduction(self, prompt: str) -> str:
        """Return *prompt* without the introduction of this agent."""
        introduction = self.introduction()
        return prompt.removeprefix(f"{introduction}\n\n") if introduction else prompt

    def build_job(self, work: AgentCall) -> AgentCall | ChatCall:
        """Return the job of this agent for *work*, whose own fields take precedence over those of the runner."""
        if not self.runner:
            message = f"The agent {self.name} has no runner"
            raise Refused(message, hint=f"coord agents change {self.name} --runner claude", field="runner")
        runner = _runner_call(self.runner)
        introduction = self.introduction()
        model = work.model or self.model
        common: dict[str, Any] = {
            "env": {**runner.env, **work.env},
            "secrets": tuple(dict.fromkeys((*runner.secrets, *work.secrets))),
            "account": work.account or runner.account,
        }
        if isinstance(runner, ChatCall):
            if work.args:
                raise Refused(f"The agent {self.name} is a chat, which cannot have args", field="args")
            chat = f"{runner.provider}:{model}" if model else runner.chat
            system = "\n\n".join(filter(None, [introduction, runner.system])) or None
            tools = (*runner.tools, *(name for name in work.tools if name not in runner.tools))
            return replace(runner, chat=chat, prompt=work.prompt, system=system, tools=tools, **common)
        if work.account is not None:
            check_account_for(work.account, runner.agent)
        prompt = f"{introduction}\n\n{work.prompt}" if introduction else work.prompt
        common["tools"] = tuple(dict.fromkeys((*runner.tools, *work.tools)))
        return replace(runner, prompt=prompt, model=model, args=(*runner.args, *work.args), **common)


@dataclass(frozen=True, slots=True)
class Agent:
    """A stored agent."""

    id: str
    workspace_id: str
    profile: Profile
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AgentTotals:
    """Counts of an agent's tasks. *interactions*: the number of attempts."""

    open: int = 0
    completed: int = 0
    interactions: int = 0
    last_activity_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AgentChoice:
    """The agent that a plan requests: by ``name``, ``role`` or ``label``, or the ``default``."""

    by: str
    value: str


def parse_choice(text: str) -> AgentChoice:
    """Parse ``dave/vc``, ``role:reviewer``, ``label:python`` or ``default``."""
    if text == DEFAULT:
        return AgentChoice(DEFAULT, "")
    by, colon, value = text.partition(":")
    return AgentChoice(by, value) if colon and by in {"role", "label"} else AgentChoice("name", text)


def parse_profile(body: Mapping[Any, Any]) -> Profile:
    """Parse an exported profile. Raises Refused with one sentence for what is wrong with it."""
    for key in body:
        if key not in _KEYS:
            raise Refused(f"An agent has no {excerpt(key)}", hint=did_you_mean(str(key), _KEYS), field=str(key))
    if "name" not in body:
        raise Refused("An agent needs a name", hint="Write it like dave/vc", field="name")
    return check_profile(Profile(**{key: value for key, value in body.items() if value is not None}))


def check_profile(profile: Profile) -> Profile:
    """Return *profile* if it is valid. Raises Refused otherwise."""
    _check_name(profile.name)
    for what in ("description", "type", "objective", "model"):
        _check_text(what, getattr(profile, what))
    labels = profile.labels
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) and label for label in labels):
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
        raise Refused("An agent cannot contain templates", hint="Write them in the prompts of its tasks")
    return profile


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        message = f"{excerpt(name)} cannot be an agent's name"
        raise Refused(message, hint="Write it like dave/vc: letters, digits, . _ -", field="name")
    if name in {DEFAULT, *AGENTS}:
        raise Refused(f"{name} is a reserved name", hint="Choose another name", field="name")


def _check_identity(identity: object) -> None:
    if not isinstance(identity, Mapping):
        raise Refused(f"identity must be a mapping with the keys {', '.join(IDENTITY_KEYS)}", field="identity")
    for key, text in identity.items():
        if key not in IDENTITY_KEYS:
            message = f"identity has no {excerpt(key)}"
            raise Refused(message, hint=f"It may have: {', '.join(IDENTITY_KEYS)}", field=f"identity.{key}")
        _check_text(f"identity.{key}", text)


def _runner_call(runner: Mapping[str, Any]) -> AgentCall | ChatCall:
    keys = CHAT_KEYS if "chat" in runner else RUNNER_KEYS
    for key in runner:
        if key not in keys:
            raise Refused(
                f"runner has no {excerpt(key)}", hint=f"It may have: {', '.join(keys)}", field=f"runner.{key}"
            )
    if "chat" not in runner and runner.get("agent") not in AGENTS:
        hint = f"It may be: {', '.join(AGENTS)}; or write a runner.chat, such as openai:gpt-5-mini"
        raise Refused(f"runner.agent is {excerpt(runner.get('agent'))}", hint=hint, field="runner.agent")
    try:
        call = parse_job({**runner, "prompt": "-"})
    except Refused as refused:
        raise Refused(refused.message, hint=refused.hint, field=inside("runner", refused.field)) from None
    assert isinstance(call, AgentCall | ChatCall)  # noqa: S101 - it has one of the two keys
    return call


def _check_text(what: str, text: object) -> None:
    if text is not None and (not isinstance(text, str) or len(text) > _LONGEST_TEXT):
        raise Refused(f"{what} must be a text of at most {_LONGEST_TEXT:,} characters", field=what)
