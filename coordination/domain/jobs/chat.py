"""A conversation with a model as a job: which model, what it is told, which tools it has, what form its answer has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordination.base.errors import Refused, inside
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs.accounts import check_account
from coordination.domain.jobs.job_environment import check_environment

SETTINGS = ("temperature", "max_tokens", "max_steps")
TOOL_KEYS = ("command", "url", "env", "secrets")

OURS = "coord"
"""Among the tools: our own server, with which a job reports on its task."""

MAX_STEPS = 20
"""How often the model is called in one attempt, if the job says nothing else."""

MOST_STEPS = 1_000
MOST_TOKENS = 10_000_000
HOTTEST = 2
MOST_SERVERS = 20

_OPTIONAL = ("system", "url", "schema", "tools", "settings", "secrets", "account")
_MODEL = re.compile(r"[a-z][a-z0-9-]*:\S{1,190}")
_URL = re.compile(r"https?://[^\s/?#@]+([/?#]\S*)?")
_LONGEST_URL = 2_000


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A model's answer to a prompt, after as many calls of tools as it takes. Its output is that answer.

    *chat*: ``provider:model``. *system*: what the model is told beforehand. *url*: the base address of any server that
    speaks OpenAI's protocol. *schema*: a JSON Schema that the answer has to fit; the output is then the JSON value.
    *tools*: MCP servers, ``{"command": [...], "env": {...}, "secrets": [...]}``, ``{"url": ..., "secrets": [...]}``, or
    OURS.
    *settings*: the keys of SETTINGS. *secrets*: variables of the worker's own environment by name, the first of which
    is the key for the model; their values are stored nowhere.
    *account*: which account of the worker's machine has the keys; None: what the worker's environment has.
    """

    chat: str
    prompt: str
    system: str | None = None
    url: str | None = None
    schema: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any] | str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    account: str | None = None

    kind = "chat"

    @property
    def provider(self) -> str:
        """What stands before the colon."""
        return self.chat.partition(":")[0]

    @property
    def model(self) -> str:
        """The model as its provider calls it."""
        return self.chat.partition(":")[2]

    @property
    def max_steps(self) -> int:
        """How often the model may be called."""
        return int(self.settings.get("max_steps", MAX_STEPS))

    def to_json(self) -> dict[str, Any]:
        """As stored in the task's row."""
        more = {
            "system": self.system,
            "url": self.url,
            "schema": dict(self.schema),
            "tools": [server if isinstance(server, str) else dict(server) for server in self.tools],
            "settings": dict(self.settings),
            "env": dict(self.env),
            "secrets": list(self.secrets),
            "account": self.account,
        }
        return {"chat": self.chat, "prompt": self.prompt} | {name: value for name, value in more.items() if value}


def chat_call(value: Mapping[Any, Any], env: dict[str, str]) -> ChatCall:
    """The call that a mapping describes. What is of the wrong type in it is refused by ``check_chat``."""
    given = {name: value[name] for name in _OPTIONAL if value.get(name)}
    for name in ("tools", "secrets"):
        if isinstance(given.get(name), list):
            given[name] = tuple(given[name])
    return ChatCall(value["chat"], value.get("prompt", ""), env=env, **given)


def check_chat(call: ChatCall) -> None:
    """Refuse a call with one sentence for what is wrong in it."""
    _check_model(call.chat)
    if not isinstance(call.prompt, str) or not call.prompt.strip():
        raise Refused("A chat needs a prompt, written as one text", field="prompt")
    if call.system is not None and not isinstance(call.system, str):
        raise Refused("system must be a text", field="system")
    if call.url is not None:
        _check_url(call.url)
    if not isinstance(call.schema, Mapping):
        raise Refused("schema must be a JSON Schema, written as a mapping", field="schema")
    _check_settings(call.settings)
    _check_texts("secrets", call.secrets)
    check_environment(call.env, call.secrets)
    if call.account is not None:
        check_account(call.account)
    if not isinstance(call.tools, list | tuple) or len(call.tools) > MOST_SERVERS:
        raise Refused(f"tools must be a list of at most {MOST_SERVERS} MCP servers", field="tools")
    for number, server in enumerate(call.tools, start=1):
        try:
            if server != OURS:
                _check_server(server)
        except Refused as refused:
            raise Refused(
                f"tools, number {number}: {refused.message}",
                hint=refused.hint,
                field=inside(f"tools[{number - 1}]", refused.field),
            ) from None


def _check_model(chat: object) -> None:
    if isinstance(chat, str) and "{{" in chat:
        return  # known when the job starts, and looked at then
    if not isinstance(chat, str) or not _MODEL.fullmatch(chat):
        raise Refused(
            f"{excerpt(chat)} names no model", hint="Write it like openai:gpt-5-mini, provider and model", field="chat"
        )


def _check_url(url: object) -> None:
    _check_literal(url)
    if not isinstance(url, str) or len(url) > _LONGEST_URL or not _URL.fullmatch(url):
        raise Refused(
            f"{excerpt(url)} is no address",
            hint="Write it like http://localhost:11434/v1, no password in it",
            field="url",
        )


def _check_settings(settings: object) -> None:
    if not isinstance(settings, Mapping):
        raise Refused(f"settings must be a mapping with the keys {', '.join(SETTINGS)}", field="settings")
    for name in settings:
        if name not in SETTINGS:
            hint = did_you_mean(str(name), SETTINGS) or f"It may have: {', '.join(SETTINGS)}"
            raise Refused(f"settings has no {excerpt(name)}", hint=hint, field=f"settings.{name}")
    heat = settings.get("temperature")
    if heat is not None and (isinstance(heat, bool) or not isinstance(heat, int | float) or not 0 <= heat <= HOTTEST):
        raise Refused(
            f"settings.temperature must be a number from 0 to {HOTTEST}, not {excerpt(heat)}",
            field="settings.temperature",
        )
    for name, most in (("max_tokens", MOST_TOKENS), ("max_steps", MOST_STEPS)):
        count = settings.get(name)
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most):
            raise Refused(
                f"settings.{name} must be a whole number from 1 to {most:,}, not {excerpt(count)}",
                field=f"settings.{name}",
            )


def _check_server(server: object) -> None:
    if not isinstance(server, Mapping):
        raise Refused(
            f"an MCP server is a mapping, or {OURS}", hint="Write {command: [npx, some-server]} or {url: https://…}"
        )
    for name in server:
        if name not in TOOL_KEYS:
            hint = did_you_mean(str(name), TOOL_KEYS) or f"It may have: {', '.join(TOOL_KEYS)}"
            raise Refused(f"an MCP server has no {excerpt(name)}", hint=hint, field=str(name))
    if ("command" in server) == ("url" in server):
        raise Refused("an MCP server has either a command or a url")
    secrets, env = server.get("secrets", ()), server.get("env", {})
    _check_texts("secrets", secrets)
    if not isinstance(env, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in env.items()):
        raise Refused("env must map names to texts", field="env")
    check_environment(env, secrets)
    if "url" in server:
        _check_url(server["url"])
        if env:
            raise Refused("a server that is reached by its url has no env of ours", field="env")
        return
    command = server["command"]
    _check_texts("command", command)
    for text in (*command, *env.values()):
        _check_literal(text)
    if not command or not command[0].strip():
        raise Refused(
            "command is empty", hint="Write the program and its arguments: [npx, some-server]", field="command"
        )


def _check_literal(text: object) -> None:
    if isinstance(text, str) and "{{" in text:
        raise Refused(
            "addresses and tools hold no templates", hint="No earlier output decides what is started, or where keys go"
        )


def _check_texts(name: str, items: object) -> None:
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise Refused(f"{name} must be a list of texts", field=name)
