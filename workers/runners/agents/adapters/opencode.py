"""OpenCode: ``opencode run --format json``. Seen with 1.18.33.

It tells usage and price of every step; its own price is used, from the configuration of its provider. After an error
it may go on (a conversation that became too long is shortened), and then its exit status is 1 all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from workers.runners.agents.base import Adapter, StartCommand, Transcript, at, tokens, total
from workers.runners.login_help import LogIn

_DEFAULT = "opencode-default"
_KEYS = (
    *("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"),
    *("OPENROUTER_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY", "XAI_API_KEY", "DEEPSEEK_API_KEY"),
    "OPENCODE_API_KEY",
)


class OpenCode(Adapter):
    """Starts and reads OpenCode."""

    name = "opencode"
    resumes = True
    counts_anew = True
    log_in = LogIn(command="opencode auth login", folder="XDG_DATA_HOME", others=_KEYS)
    takes_servers = ()
    passes_on = (*_KEYS, "OPENCODE_CONFIG", "OPENCODE_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME")

    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """The prompt comes on stdin: as an argument it would be quoted anew."""
        model = ["--model", call.model] if call.model else []
        resume = ["-s", session] if session else []
        options = ["run", "--format", "json", *resume, *model, *call.args]
        return StartCommand([*(call.command or [self.name]), *options], call.prompt)

    def read(self, line: Mapping[str, Any], told: Transcript, call: AgentCall) -> None:
        """step_start, text, tool_use, step_finish, error."""
        if isinstance(session := line.get("sessionID"), str):
            told.session = session
        part = line.get("part")
        match line.get("type"):
            case "step_start":
                told.go_on()
            case "text":
                said = str(at(part, "text"))
                told.result = said if told.result is None else f"{told.result}\n{said}"
                told.say(said)
            case "tool_use":
                told.result = None  # what came before a tool was used is not its answer
                state, id_ = at(part, "state"), at(part, "callID")
                told.call(at(part, "tool"), at(state, "input"), id_=id_)
                output = at(state, "output") or at(state, "error")
                failed = at(state, "status") == "error"
                told.returned(output, id_=id_, failed=failed)
                if failed and _NOT_ALLOWED.search(str(output)):
                    told.refuse(id_)
            case "step_finish":
                told.spent(f"step {at(part, 'id')}", _usage(part, told, call))
                _finished(at(part, "reason"), told, counted=total(*_values(at(part, "tokens"))) > 0)
            case "error":
                self._failed(line.get("error"), told)

    def _failed(self, error: object, told: Transcript) -> None:
        data, name = at(error, "data"), at(error, "name")
        said = at(data, "message") or name
        if name == "UnknownError" and _OWN_LOG.search(str(said)):
            told.fail(f"{said} {_LOOK}", words="")
            return
        more = [said, at(data, "responseBody"), _header(at(data, "responseHeaders"))]
        told.fail(
            said,
            words="\n".join(str(each) for each in more if each),
            status=at(data, "statusCode"),
            type_=name if isinstance(name, str) else None,
            otherwise=ProviderErrorClass.TRANSIENT if at(data, "isRetryable") is True else ProviderErrorClass.FAILED,
        )


def _finished(reason: object, told: Transcript, *, counted: bool) -> None:
    """A step is over: the last one, if no tool was asked for. *counted*: its provider told what it used."""
    match reason:
        case "tool-calls":
            told.go_on()
        case "error":
            told.fail(
                "its provider says that the answer failed (error)", words="", otherwise=ProviderErrorClass.TRANSIENT
            )
        case "length":
            told.fail(
                "the answer was cut off because it became too long", words="", otherwise=ProviderErrorClass.REFUSED
            )
        case "content-filter":
            told.fail("the provider's content filter stopped the answer", words="", otherwise=ProviderErrorClass.FAILED)
        case "stop":
            told.finish()
        case _ if counted:  # some providers give no reason
            told.finish()
        case _:
            told.go_on()
            told.note_error("the answer broke off", words="", otherwise=ProviderErrorClass.TRANSIENT)


def _values(used: object) -> list[object]:
    return list(used.values()) if isinstance(used, Mapping) else []


def _header(headers: object) -> str | None:
    value = at(headers, "retry-after")
    return f"retry-after: {value}" if isinstance(value, str) else None


_OWN_LOG = re.compile(r"check (?:the )?server logs", re.IGNORECASE)  # its own server's, not its provider's
_LOOK = "It may know no such model, or have no log-in for its provider: opencode models, opencode auth list"
_NOT_ALLOWED = re.compile(r"rejected permission|permission denied|prevents? you from using|denied by", re.IGNORECASE)


def _usage(part: object, told: Transcript, call: AgentCall) -> Any:
    used = at(part, "tokens")
    return tokens(
        call.model or _DEFAULT,
        read=total(at(used, "input"), at(used, "cache", "read"), at(used, "cache", "write")),
        written=total(at(used, "output"), at(used, "reasoning")),
        cached=at(used, "cache", "read"),
        cost=at(part, "cost") or None,  # zero stands for a price that its configuration does not know
        session=told.session,
        reasoning_output_tokens=at(used, "reasoning"),
        cache_write_input_tokens=at(used, "cache", "write"),
    )
