"""A coding agent with a prompt as a job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coordination.base.errors import Refused
from coordination.base.fields import Field, nullable
from coordination.base.value_types import TEXT, TEXTS, TEXTS_BY_NAME
from coordination.base.wording import excerpt
from coordination.domain.jobs.accounts import check_account, program_of
from coordination.domain.jobs.agent_programs import AGENTS, CONFIGURE_SERVERS, CUSTOM
from coordination.domain.jobs.base import ACCOUNT, ENV, PROMPT, SECRETS, Job
from coordination.domain.jobs.job_environment import check_environment

OURS = "coord"
"""Among the tools of an agent or a chat: our own MCP server, with which a job reports on its task."""

COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens")
READS = ("format", "result", "error", "session", "model", "cost_usd", *COUNTS)
"""What may be said of a custom agent's output: its format, and where in its JSON each thing stands."""

FORMATS = ("text", "json", "jsonl")

_KNOWN = tuple(name for name in AGENTS if name != CUSTOM)
_CALLED = re.compile(r"((role|label):\S.{0,199}|[A-Za-z0-9][A-Za-z0-9._/-]{0,199})")
_RESTRICTS = re.compile(r"(?i)--?[a-z-]*(tool|permission|sandbox|approv|allow|deny|mode|read-?only|plan)")
_LIFTS = re.compile(r"(?i)--(dangerously|allow-all|yolo)")

_TOOLS = replace(TEXTS, schema={"type": "array", "items": {"const": OURS}})
_READS = replace(
    TEXTS_BY_NAME,
    schema={
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {"enum": [*FORMATS, None]} if name == "format" else nullable(TEXT.schema) for name in READS
        },
    },
)


@dataclass(frozen=True, slots=True)
class AgentCall(Job):
    """A coding agent's own command line with a prompt. Its output is what the agent answered last.

    *agent*: one of AGENTS, or in a plan an agent that the workspace knows: its name, ``role:R``, ``label:L`` or
    ``default``. Whoever stores the plan puts in what that one is.
    *secrets*: variables of the worker's own environment that it gets, by name; their values are stored nowhere.
    *command*: for ``custom``, the program and its arguments, in which ``{prompt}`` and ``{model}`` are filled in
    (without ``{prompt}`` the prompt comes on stdin); for the others, what to start instead of their name.
    *reads*: for ``custom``, where in its output things stand: ``{"format": "json", "result": "answer.text", …}``.
    *resume*: for ``custom``, what to start instead of *command* to go on with the conversation ``{session}``.
    *tools*: ``("coord",)`` gives it our MCP server, with which it reports.
    *account*: which account of the worker's machine it asks its provider with; None: what the worker's environment has.
    """

    agent: str
    prompt: str
    model: str | None = None
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    command: Sequence[str] = ()
    reads: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[str] = ()
    resume: Sequence[str] = ()
    account: str | None = None

    kind = "agent"
    table = (
        Field("agent", TEXT, f"{', '.join(AGENTS)}; or a name, `role:…`, `label:…`, `default`", required=True),
        PROMPT,
        Field("model", TEXT, "the model that it is to use"),
        Field("args", TEXTS, "more arguments for its program"),
        ENV,
        SECRETS,
        Field("command", TEXTS, "the program and its arguments; of a known agent, what to start instead of its name"),
        Field("reads", _READS, "where things stand in the output of a custom agent"),
        Field("tools", _TOOLS, f"`[{OURS}]` gives it the MCP server with which it reports"),
        Field("resume", TEXTS, "what to start to go on with the conversation `{session}` of a custom agent"),
        ACCOUNT,
    )
    asks_a_model = True
    templates = ("prompt", "model", "command", "args")
    output_name = "answer"
    lent_unchanged = ("agent", "command", "resume", "args", "reads", "account")
    lent = (*lent_unchanged, "model", "secrets", "tools")

    @property
    def provider(self) -> str:
        """Return the agent: accounts are for agents."""
        return self.agent

    @classmethod
    def cost_key(cls, body: Mapping[str, Any]) -> str:
        """Return the model, and of a custom agent its program."""
        command = body.get("command") or ()
        program = f":{command[0]}" if body["agent"] == CUSTOM and command else ""
        return program + (f":{body['model']}" if body.get("model") else "")

    @classmethod
    def model_in(cls, body: Mapping[str, Any]) -> str | None:
        """Return the model of the command line."""
        return body.get("model")

    @classmethod
    def runs_commands(cls, body: Mapping[str, Any]) -> bool:
        """Return whether its arguments leave it any command: what they leave it otherwise only its program knows."""
        arguments = [str(part) for part in (*(body.get("command") or ()), *(body.get("args") or ()))]
        return any(_LIFTS.match(part) for part in arguments) or not any(_RESTRICTS.match(part) for part in arguments)

    def check(self) -> None:
        """Refuse what is wrong with the agent, its environment, its tools and what is for custom agents alone."""
        if not isinstance(self.agent, str) or not _CALLED.fullmatch(self.agent):
            raise Refused(
                f"{excerpt(self.agent)} names no agent",
                hint=f"It may be {', '.join(AGENTS)}, or one of: coord agents list",
                field="agent",
            )
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise Refused("An agent needs a prompt, written as one text", field="prompt")
        if self.model is not None and (not isinstance(self.model, str) or not self.model.strip()):
            raise Refused("model must be the name of a model", field="model")
        check_environment(self.env, self.secrets)
        if self.account is not None:
            check_account_for(self.account, self.agent)
        self._check_tools()
        if self.agent == CUSTOM:
            self._check_custom()
        elif self.resume:
            raise Refused(
                f"How {self.agent} goes on with a conversation is known; resume is for agent: {CUSTOM}", field="resume"
            )
        elif self.reads:
            raise Refused(f"What {self.agent} prints is known; reads is for agent: {CUSTOM}", field="reads")
        elif self.command and self.agent not in AGENTS:
            raise Refused(
                f"How {self.agent} is started, the workspace knows; command is for {', '.join(AGENTS)}", field="command"
            )

    def _check_tools(self) -> None:
        if unknown := [name for name in self.tools if name != OURS]:
            raise Refused(
                f"An agent is given no tools {excerpt(unknown[0])}", hint=f"tools may be: [{OURS}]", field="tools"
            )
        if self.tools and self.agent in CONFIGURE_SERVERS:
            raise Refused(
                f"{self.agent} is told of MCP servers by its own configuration",
                hint="Name there the program: coord mcp",
                field="tools",
            )

    def _check_custom(self) -> None:
        if not self.command or not self.command[0].strip():
            raise Refused(
                "A custom agent needs its command",
                hint='Write command: [mytool, --prompt, "{prompt}"]',
                field="command",
            )
        unknown = [name for name in self.reads if name not in READS]
        if unknown:
            raise Refused(f"reads has no {excerpt(unknown[0])}", hint=f"It may have: {', '.join(READS)}", field="reads")
        shape = self.reads.get("format", "text")
        if shape not in FORMATS:
            raise Refused(
                f"reads.format is {excerpt(shape)}", hint=f"It may be: {', '.join(FORMATS)}", field="reads.format"
            )
        if shape == "text" and len(self.reads) > ("format" in self.reads):
            raise Refused(
                "Places in its output are read from JSON only",
                hint="Say reads: {format: json} or jsonl",
                field="reads.format",
            )
        if shape != "text" and "result" not in self.reads:
            raise Refused(
                "reads does not say where the result stands",
                hint="Write reads: {format: json, result: answer}",
                field="reads.result",
            )
        if self.resume and not (any("{session}" in part for part in self.resume) and "session" in self.reads):
            raise Refused(
                "resume needs a place for {session}, and reads.session says where that stands",
                hint='Write resume: [mytool, --resume, "{session}"] and reads: {format: json, session: id, …}',
                field="resume",
            )


def check_account_for(account: object, agent: str) -> None:
    """Refuse what names no account, and the account of another program than *agent*."""
    program = program_of(check_account(account))
    if agent in _KNOWN and program in _KNOWN and program != agent:
        raise Refused(
            f"{account} is an account of {program}, and this job is for {agent}",
            hint=f"Name an account like {agent}@work, or one without an @ that holds variables for both",
            field="account",
        )
