"""The job kind ``agent``: a coding agent with a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coordination.base.errors import Refused
from coordination.base.fields import TEXT, TEXTS, TEXTS_BY_NAME, Field, nullable
from coordination.base.wording import excerpt
from coordination.domain.jobs.accounts import check_account, program_of
from coordination.domain.jobs.agent_programs import AGENTS, CONFIGURE_SERVERS, CUSTOM
from coordination.domain.jobs.base import ACCOUNT, ENV, PROMPT, SECRETS, Job
from coordination.domain.jobs.job_environment import check_environment

OURS = "coord"
"""The tool that gives an agent or a chat our own MCP server, with which a job reports on its task."""

COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens")
READS = ("format", "result", "error", "session", "model", "cost_usd", *COUNTS)
"""How a custom agent's output is read: its format, and the path of each value in its JSON."""

FORMATS = ("text", "json", "jsonl")

_KNOWN = tuple(name for name in AGENTS if name != CUSTOM)
_AGENT_NAME = re.compile(r"((role|label):\S.{0,199}|[A-Za-z0-9][A-Za-z0-9._/-]{0,199})")
_RESTRICTS = re.compile(r"(?i)--?[a-z-]*(tool|permission|sandbox|approv|allow|deny|mode|read-?only|plan)")
_UNRESTRICTS = re.compile(r"(?i)--(dangerously|allow-all|yolo)")

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
    """A call of a coding agent's command line with a prompt. Its output is the agent's last answer.

    *agent*: one of AGENTS, or in a plan an agent of the workspace: its name, ``role:R``, ``label:L`` or ``default``,
    which is replaced by that agent's runner when the plan is stored.
    *secrets*: names of variables that are passed on from the worker's environment; their values are not stored.
    *command*: for ``custom``, the program and its arguments, in which ``{prompt}`` and ``{model}`` are replaced
    (without ``{prompt}``, the prompt is passed on stdin); for the others, the program to start instead.
    *reads*: for ``custom``, the paths of values in its output: ``{"format": "json", "result": "answer.text", …}``.
    *resume*: for ``custom``, the command that continues the conversation ``{session}``.
    *tools*: ``("coord",)`` gives it our MCP server, with which it reports.
    *account*: the account of the worker's machine that it uses; None: the variables of the worker's environment.
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
        Field("model", TEXT, "the model to use"),
        Field("args", TEXTS, "additional arguments for its program"),
        ENV,
        SECRETS,
        Field("command", TEXTS, "the program and its arguments; for a known agent, the program to start instead"),
        Field("reads", _READS, "the format of a custom agent's output, and the paths of values in it"),
        Field("tools", _TOOLS, f"`[{OURS}]` gives it the MCP server with which it reports"),
        Field("resume", TEXTS, "the command that continues the conversation `{session}` of a custom agent"),
        ACCOUNT,
    )
    asks_a_model = True
    templates = ("prompt", "model", "command", "args")
    output_name = "answer"
    fixed_fields = ("agent", "command", "resume", "args", "reads", "account")
    authority_fields = (*fixed_fields, "model", "secrets", "tools")

    @property
    def provider(self) -> str:
        """Return the agent."""
        return self.agent

    @classmethod
    def cost_key(cls, body: Mapping[str, Any]) -> str:
        """Return the model, and for a custom agent also its program."""
        command = body.get("command") or ()
        program = f":{command[0]}" if body["agent"] == CUSTOM and command else ""
        return program + (f":{body['model']}" if body.get("model") else "")

    @classmethod
    def model_in(cls, body: Mapping[str, Any]) -> str | None:
        """Return the AI model that the job names for the agent's program; None: the program's default."""
        return body.get("model")

    @classmethod
    def runs_commands(cls, body: Mapping[str, Any]) -> bool:
        """Return whether no argument restricts what it may do; what restrictions allow depends on the program."""
        arguments = [str(part) for part in (*(body.get("command") or ()), *(body.get("args") or ()))]
        return any(_UNRESTRICTS.match(part) for part in arguments) or not any(
            _RESTRICTS.match(part) for part in arguments
        )

    def check(self) -> None:
        """Raise Refused for an invalid agent, environment or tools, and for fields that only custom agents have."""
        if not isinstance(self.agent, str) or not _AGENT_NAME.fullmatch(self.agent):
            message = f"{excerpt(self.agent)} is not an agent"
            raise Refused(message, hint=f"It may be {', '.join(AGENTS)}, or one of: coord agents list", field="agent")
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
            raise Refused(f"{self.agent} cannot have resume, which is for agent: {CUSTOM}", field="resume")
        elif self.reads:
            raise Refused(f"{self.agent} cannot have reads, which is for agent: {CUSTOM}", field="reads")
        elif self.command and self.agent not in AGENTS:
            raise Refused(f"{self.agent} cannot have command, which is for {', '.join(AGENTS)}", field="command")

    def _check_tools(self) -> None:
        if unknown := [name for name in self.tools if name != OURS]:
            raise Refused(
                f"An agent cannot have the tools {excerpt(unknown[0])}", hint=f"tools may be: [{OURS}]", field="tools"
            )
        if self.tools and self.agent in CONFIGURE_SERVERS:
            message = f"{self.agent} reads MCP servers from its own configuration"
            raise Refused(message, hint="Add the program there: coord mcp", field="tools")

    def _check_custom(self) -> None:
        if not self.command or not self.command[0].strip():
            message = "A custom agent needs its command"
            raise Refused(message, hint='Write command: [mytool, --prompt, "{prompt}"]', field="command")
        unknown = [name for name in self.reads if name not in READS]
        if unknown:
            raise Refused(f"reads has no {excerpt(unknown[0])}", hint=f"It may have: {', '.join(READS)}", field="reads")
        shape = self.reads.get("format", "text")
        if shape not in FORMATS:
            raise Refused(
                f"reads.format is {excerpt(shape)}", hint=f"It may be: {', '.join(FORMATS)}", field="reads.format"
            )
        if shape == "text" and len(self.reads) > ("format" in self.reads):
            message = "Values can be read from JSON output only"
            raise Refused(message, hint="Write reads: {format: json} or jsonl", field="reads.format")
        if shape != "text" and "result" not in self.reads:
            message = "reads has no path of the result"
            raise Refused(message, hint="Write reads: {format: json, result: answer}", field="reads.result")
        if self.resume and not (any("{session}" in part for part in self.resume) and "session" in self.reads):
            message = "resume must contain {session}, and reads needs session, its path in the output"
            hint = 'Write resume: [mytool, --resume, "{session}"] and reads: {format: json, session: id, …}'
            raise Refused(message, hint=hint, field="resume")


def check_account_for(account: object, agent: str) -> None:
    """Raise Refused for an invalid account name, and for an account of another program than *agent*."""
    program = program_of(check_account(account))
    if agent in _KNOWN and program in _KNOWN and program != agent:
        hint = f"Use an account like {agent}@work, or one without an @ that contains variables for both"
        raise Refused(f"{account} is an account of {program}, and this job is for {agent}", hint=hint, field="account")
