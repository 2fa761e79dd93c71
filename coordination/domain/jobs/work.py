"""What a job is: a shell command, an importable Python function, a coding agent with a prompt, or a chat with a model.

Pure descriptions; workers/runners execute them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.jobs.accounts import check_account, program_of
from coordination.domain.jobs.chat import OURS, ChatCall, chat_call, check_chat
from coordination.domain.jobs.job_environment import check_environment

_TARGET = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")

KINDS = ("shell", "python", "agent", "chat")

PAID_KINDS = ("agent", "chat")
"""Those of which every start costs money."""

CUSTOM = "custom"
AGENTS = ("claude", "codex", "gemini", "opencode", CUSTOM)
"""Coding agents whose command lines are known, and any other one, whose command line and output the job describes."""

_KNOWN = tuple(name for name in AGENTS if name != CUSTOM)

GIVEN_TOOLS = ("claude",)
"""Those that we tell of our MCP server; to the others their own configuration tells it."""

COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens")
READS = ("format", "result", "error", "session", "model", "cost_usd", *COUNTS)
"""What may be said of a custom agent's output: its format, and where in its JSON each thing stands."""

FORMATS = ("text", "json", "jsonl")

IN_WORKTREE = " in a worktree"
"""What a job's kind ends with where it has one: it takes longer."""

_LONGEST_TARGET = 200
_LONGEST_KIND = 200
_CALLED = re.compile(r"((role|label):\S.{0,199}|[A-Za-z0-9][A-Za-z0-9._/-]{0,199})")


@dataclass(frozen=True, slots=True)
class Shell:
    """A command for ``/bin/sh -c``. Its output is what it prints on stdout, without the last line break."""

    command: str
    env: Mapping[str, str] = field(default_factory=dict)

    kind = "shell"

    def to_json(self) -> dict[str, Any]:
        """As stored in the task's row."""
        body: dict[str, Any] = {"shell": self.command}
        if self.env:
            body["env"] = dict(self.env)
        return body


@dataclass(frozen=True, slots=True)
class PythonCall:
    """An importable function ``package.module:function`` with JSON-able keyword arguments.

    Its output is what it returns.
    """

    target: str
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    kind = "python"

    def to_json(self) -> dict[str, Any]:
        """As stored in the task's row."""
        body: dict[str, Any] = {"python": self.target}
        if self.args:
            body["args"] = dict(self.args)
        if self.env:
            body["env"] = dict(self.env)
        return body


@dataclass(frozen=True, slots=True)
class AgentCall:
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

    def to_json(self) -> dict[str, Any]:
        """As stored in the task's row."""
        body: dict[str, Any] = {"agent": self.agent, "prompt": self.prompt}
        lists = {"args": list(self.args), "secrets": list(self.secrets), "command": list(self.command)}
        lists |= {"tools": list(self.tools), "resume": list(self.resume)}
        more = {"model": self.model, "account": self.account, **lists, "env": dict(self.env), "reads": dict(self.reads)}
        return body | {name: value for name, value in more.items() if value}


Work = Shell | PythonCall | AgentCall | ChatCall

KEYS: Mapping[str, tuple[str, ...]] = {
    "shell": ("shell", "env"),
    "python": ("python", "args", "env"),
    "agent": ("agent", "prompt", "model", "args", "env", "secrets", "command", "reads", "tools", "resume", "account"),
    "chat": ("chat", "prompt", "system", "url", "schema", "tools", "settings", "env", "secrets", "account"),
}
"""The keys that a job of each kind may have."""


def parse_work(value: object) -> Work:
    """A job from what a person or a stored row says: a Work, a function, or a mapping with one of the KINDS as a key.

    Raises Refused with one sentence that names what is wrong.
    """
    if isinstance(value, Shell | PythonCall | AgentCall | ChatCall):
        return _checked(value)
    if isinstance(value, Mapping):
        return _from_mapping(value)
    if callable(value):
        return PythonCall(target_of(value))
    raise Refused(f"A job is {{shell: …}}, {{python: …}}, {{agent: …}} or {{chat: …}}, not {type(value).__name__}")


def kind_of(body: Mapping[str, Any]) -> str:
    """What a stored job runs, without its arguments: tasks of one kind take about as long as each other."""
    kind = next(kind for kind in KINDS if kind in body)
    what = str(body[kind])
    if kind == "shell":
        what = what.split(maxsplit=1)[0]
    return f"{kind}:{what}"[:_LONGEST_KIND]


def target_of(function: Callable[..., Any]) -> str:
    """``module:qualname`` of an importable function; Refused for lambdas, locals and methods of objects."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", "")
    if not module or module == "__main__" or "<" in name or not name:
        shown = excerpt(f"{module}:{name}" if module and name else function, _LONGEST_TARGET)
        raise Refused(
            f"{shown} cannot be run by a worker, because a worker could not import it",
            hint="Use a function at the top level of a module, not of the script itself",
        )
    return f"{module}:{name}"


def _from_mapping(value: Mapping[Any, Any]) -> Work:
    kinds = [kind for kind in KINDS if kind in value]
    if len(kinds) != 1:
        named = ", ".join(sorted(str(key) for key in value)) or "nothing"
        raise Refused(f"A job has one of the keys {', '.join(KINDS)}; this one has {named}")
    for key in value:
        if key not in KEYS[kinds[0]]:
            raise Refused(
                f"A {kinds[0]} job has no key {excerpt(key)}",
                hint=f"It may have: {', '.join(KEYS[kinds[0]])}",
                field=str(key),
            )
    env = value.get("env", {})
    if not isinstance(env, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in env.items()):
        raise Refused("env must map names to texts", field="env")
    if kinds[0] == "shell":
        return _checked(Shell(value["shell"], env=dict(env)))
    if kinds[0] == "agent":
        return _agent_call(value, dict(env))
    if kinds[0] == "chat":
        return _checked(chat_call(value, dict(env)))
    args = value.get("args", {})
    if not isinstance(args, Mapping) or not all(isinstance(key, str) for key in args):
        raise Refused("args must map parameter names to values", field="args")
    return _checked(PythonCall(value["python"], args=dict(args), env=dict(env)))


def _agent_call(value: Mapping[Any, Any], env: dict[str, str]) -> Work:
    lists: dict[str, tuple[str, ...]] = {}
    for name in ("args", "secrets", "command", "tools", "resume"):
        items = value.get(name) or ()
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise Refused(f"{name} must be a list of texts", field=name)
        lists[name] = tuple(items)
    reads = value.get("reads") or {}
    if not isinstance(reads, Mapping) or not all(isinstance(text, str) for text in reads.values()):
        raise Refused("reads must map names to places in the agent's output", field="reads")
    return _checked(
        AgentCall(
            value["agent"],
            value.get("prompt", ""),
            model=value.get("model"),
            env=env,
            reads=dict(reads),
            account=value.get("account"),
            **lists,
        )
    )


def _checked(work: Work) -> Work:
    if isinstance(work, AgentCall):
        _check_agent(work)
    elif isinstance(work, ChatCall):
        check_chat(work)
    elif isinstance(work, Shell):
        if not isinstance(work.command, str) or not work.command.strip():
            raise Refused("A shell job needs a command, written as one text", field="shell")
    elif not isinstance(work.target, str) or not _TARGET.match(work.target):
        raise Refused(
            f"{excerpt(work.target)} does not name a function",
            hint="Write it like package.module:function",
            field="python",
        )
    return work


def _check_agent(work: AgentCall) -> None:
    if not isinstance(work.agent, str) or not _CALLED.fullmatch(work.agent):
        raise Refused(
            f"{excerpt(work.agent)} names no agent",
            hint=f"It may be {', '.join(AGENTS)}, or one of: coord agents list",
            field="agent",
        )
    if not isinstance(work.prompt, str) or not work.prompt.strip():
        raise Refused("An agent needs a prompt, written as one text", field="prompt")
    if work.model is not None and (not isinstance(work.model, str) or not work.model.strip()):
        raise Refused("model must be the name of a model", field="model")
    check_environment(work.env, work.secrets)
    if work.account is not None:
        check_account_for(work.account, work.agent)
    _check_tools(work)
    if work.agent == CUSTOM:
        _check_custom(work)
    elif work.resume:
        raise Refused(
            f"How {work.agent} goes on with a conversation is known; resume is for agent: {CUSTOM}", field="resume"
        )
    elif work.reads:
        raise Refused(f"What {work.agent} prints is known; reads is for agent: {CUSTOM}", field="reads")
    elif work.command and work.agent not in AGENTS:
        raise Refused(
            f"How {work.agent} is started, the workspace knows; command is for {', '.join(AGENTS)}", field="command"
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


def _check_tools(work: AgentCall) -> None:
    if unknown := [name for name in work.tools if name != OURS]:
        raise Refused(
            f"An agent is given no tools {excerpt(unknown[0])}", hint=f"tools may be: [{OURS}]", field="tools"
        )
    if work.tools and work.agent in AGENTS and work.agent not in GIVEN_TOOLS:
        raise Refused(
            f"{work.agent} is told of MCP servers by its own configuration",
            hint="Name there the program: coord mcp",
            field="tools",
        )


def _check_custom(work: AgentCall) -> None:
    if not work.command or not work.command[0].strip():
        raise Refused(
            "A custom agent needs its command", hint='Write command: [mytool, --prompt, "{prompt}"]', field="command"
        )
    unknown = [name for name in work.reads if name not in READS]
    if unknown:
        raise Refused(f"reads has no {excerpt(unknown[0])}", hint=f"It may have: {', '.join(READS)}", field="reads")
    shape = work.reads.get("format", "text")
    if shape not in FORMATS:
        raise Refused(
            f"reads.format is {excerpt(shape)}", hint=f"It may be: {', '.join(FORMATS)}", field="reads.format"
        )
    if shape == "text" and len(work.reads) > ("format" in work.reads):
        raise Refused(
            "Places in its output are read from JSON only",
            hint="Say reads: {format: json} or jsonl",
            field="reads.format",
        )
    if shape != "text" and "result" not in work.reads:
        raise Refused(
            "reads does not say where the result stands",
            hint="Write reads: {format: json, result: answer}",
            field="reads.result",
        )
    if work.resume and not (any("{session}" in part for part in work.resume) and "session" in work.reads):
        raise Refused(
            "resume needs a place for {session}, and reads.session says where that stands",
            hint='Write resume: [mytool, --resume, "{session}"] and reads: {format: json, session: id, …}',
            field="resume",
        )
