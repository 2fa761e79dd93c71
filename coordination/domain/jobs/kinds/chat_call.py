"""The job kind ``chat``: a conversation with a model, with a prompt, tools and the form of the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordination.base.errors import Refused
from coordination.base.fields import (
    MAPPING,
    TEXT,
    TEXTS,
    TEXTS_BY_NAME,
    Field,
    ValueType,
    at,
    load_fields,
    number,
    plain,
    record,
    schema_of,
    type_refusal,
    whole,
)
from coordination.base.wording import excerpt, without_user
from coordination.domain.jobs.accounts import check_account
from coordination.domain.jobs.base import ACCOUNT, ENV, PROMPT, SECRETS, Job
from coordination.domain.jobs.job_environment import check_environment
from coordination.domain.jobs.kinds.agent_call import OURS

MAX_STEPS = 20
"""The default maximum of model calls in one attempt."""

MOST_STEPS = 1_000
MOST_TOKENS = 10_000_000
HOTTEST = 2
MOST_SERVERS = 20

_MODEL = re.compile(r"[a-z][a-z0-9-]*:\S{1,190}")
_URL = re.compile(r"https?://[^\s/?#@]+([/?#]\S*)?")
_LONGEST_URL = 2_000

SETTINGS = (
    Field("temperature", number(0, HOTTEST, checked=True)),
    Field("max_tokens", whole(1, MOST_TOKENS, checked=True), "tokens of one answer"),
    Field("max_steps", whole(1, MOST_STEPS, checked=True), f"calls of the model in one attempt; default {MAX_STEPS}"),
)
SERVER = (
    Field("command", TEXTS, "the program of an MCP server, and its arguments"),
    Field("url", TEXT, "the address of an MCP server"),
    Field("env", TEXTS_BY_NAME),
    Field("secrets", TEXTS, SECRETS.meaning),
)


def _load_servers(value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) > MOST_SERVERS:
        hint = "Write tools: [{command: [npx, some-server]}]"
        raise type_refusal(place, f"a list of at most {MOST_SERVERS} MCP servers", value, hint=hint)
    return tuple(_load_server(server, f"{place}[{index}]") for index, server in enumerate(value))


def _load_server(server: Any, place: str) -> Any:
    if server == OURS:
        return OURS
    if not isinstance(server, Mapping):
        hint = "Write {command: [npx, some-server]} or {url: https://…}"
        raise type_refusal(place, f"an MCP server or {OURS}", server, hint=hint)
    loaded: dict[str, Any] = load_fields(server, SERVER, dict, place=place)
    return plain(loaded)


_SERVERS = ValueType(
    _load_servers,
    {"type": "array", "maxItems": MOST_SERVERS, "items": {"anyOf": [{"const": OURS}, schema_of(SERVER)]}},
    plain,
)


@dataclass(frozen=True, slots=True)
class ChatCall(Job):
    """A prompt to a model, which may call tools before it answers. Its output is the answer.

    *chat*: ``provider:model``. *system*: the system prompt. *url*: the base address of a server with OpenAI's protocol.
    *schema*: a JSON Schema that the answer must match; the output is then the JSON value.
    *tools*: MCP servers, ``{"command": [...], "env": {...}, "secrets": [...]}``, ``{"url": ..., "secrets": [...]}``, or
    OURS.
    *settings*: the keys of SETTINGS. *secrets*: names of variables that are passed on from the worker's environment;
    the first is the model's key. Their values are not stored.
    *account*: the account of the worker's machine with the keys; None: the variables of the worker's environment.
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
    table = (
        Field("chat", TEXT, "the provider and its model: `openai:gpt-5-mini`", required=True),
        PROMPT,
        Field("system", TEXT, "the system prompt"),
        Field("url", TEXT, "the base address of a server with OpenAI's protocol"),
        Field("schema", MAPPING, "a JSON Schema that the answer must match"),
        Field("tools", _SERVERS, f"MCP servers, each with a `command` or a `url`, or `{OURS}`"),
        Field("settings", record(dict, SETTINGS), "`temperature`, `max_tokens`, `max_steps`"),
        ENV,
        SECRETS,
        ACCOUNT,
    )
    asks_a_model = True
    templates = ("chat", "prompt", "system")
    output_name = "answer"
    fixed_fields = ("url", "account")
    authority_fields = ("chat", *fixed_fields, "secrets", "tools", "settings")

    @property
    def provider(self) -> str:
        """Return the part before the colon."""
        return self.chat.partition(":")[0]

    @property
    def model(self) -> str:
        """Return the model as its provider calls it."""
        return self.chat.partition(":")[2]

    @property
    def max_steps(self) -> int:
        """Return the maximum of model calls in one attempt."""
        return int(self.settings.get("max_steps", MAX_STEPS))

    @classmethod
    def model_in(cls, body: Mapping[str, Any]) -> str | None:
        """Return the part after the colon."""
        return str(body["chat"]).partition(":")[2]

    @classmethod
    def qualified_model_in(cls, body: Mapping[str, Any]) -> str | None:
        """Return the provider and its model."""
        return str(body["chat"])

    @classmethod
    def with_model(cls, body: Mapping[str, Any], model: str) -> dict[str, Any]:
        """Return the stored chat with another *model*, of the same provider unless it includes one."""
        provider, _, _ = str(body["chat"]).partition(":")
        return {**body, "chat": model if ":" in model else f"{provider}:{model}"}

    def check(self) -> None:
        """Raise Refused with one sentence for an invalid value."""
        _check_model(self.chat)
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise Refused("A chat needs a prompt, written as one text", field="prompt")
        if self.url is not None:
            _check_url(self.url)
        check_environment(self.env, self.secrets)
        if self.account is not None:
            check_account(self.account)
        for index, server in enumerate(self.tools):
            loaded = _load_server(server, place := f"tools[{index}]")
            if loaded != OURS:
                at(place, _check_server, loaded)


def _check_model(chat: object) -> None:
    if isinstance(chat, str) and "{{" in chat:
        return  # checked when the job starts, because it is known only then
    if not isinstance(chat, str) or not _MODEL.fullmatch(chat):
        raise Refused(
            f"{excerpt(chat)} is not a model", hint="Write it like openai:gpt-5-mini, provider and model", field="chat"
        )


def _check_url(url: object) -> None:
    _check_literal(url)
    if not isinstance(url, str) or len(url) > _LONGEST_URL or not _URL.fullmatch(url):
        message = f"{excerpt(without_user(url) if isinstance(url, str) else url)} is not an address"
        raise Refused(message, hint="Write it like http://localhost:11434/v1, without a password", field="url")


def _check_server(server: Mapping[str, Any]) -> None:
    if ("command" in server) == ("url" in server):
        raise Refused("an MCP server has either a command or a url")
    env = server.get("env", {})
    check_environment(env, server.get("secrets", ()))
    if "url" in server:
        _check_url(server["url"])
        if env:
            raise Refused("an MCP server with a url cannot have env", field="env")
        return
    command = server["command"]
    for text in (*command, *env.values()):
        _check_literal(text)
    if not command or not command[0].strip():
        raise Refused(
            "command is empty", hint="Write the program and its arguments: [npx, some-server]", field="command"
        )


def _check_literal(text: object) -> None:
    if isinstance(text, str) and "{{" in text:
        message = "addresses and tools cannot contain templates"
        raise Refused(message, hint="Outputs of tasks must not decide which program starts, or where keys are sent")
