"""OpenCode: ``opencode run --format json``. Tested with 1.18.33.

It reports usage and price of each step, from the configuration of its provider. It may continue after an error (it
shortens a conversation that is too long); its exit status is 1 nevertheless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from workers.runners.agents.base import Adapter, StartCommand, Transcript, sum_counts, usage_record, value_at
from workers.runners.login_help import Login

_DEFAULT = "opencode-default"
_TRANSIENT = ProviderErrorClass.TRANSIENT
_KEYS = (
    *("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"),
    *("OPENROUTER_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY", "XAI_API_KEY", "DEEPSEEK_API_KEY"),
    "OPENCODE_API_KEY",
)


class OpenCode(Adapter):
    """Starts and reads OpenCode."""

    name = "opencode"
    login = Login(command="opencode auth login", folder="XDG_DATA_HOME", others=_KEYS)
    passes_on = (*_KEYS, "OPENCODE_CONFIG", "OPENCODE_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME")

    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """Pass the prompt on stdin: as an argument it would be quoted again."""
        model = ["--model", call.model] if call.model else []
        resume = ["-s", session] if session else []
        options = ["run", "--format", "json", *resume, *model, *call.args]
        return StartCommand([*(call.command or [self.name]), *options], call.prompt)

    def read(self, line: Mapping[str, Any], transcript: Transcript, call: AgentCall) -> None:
        """Read a line of the type step_start, text, tool_use, step_finish or error."""
        if isinstance(session := line.get("sessionID"), str):
            transcript.session = session
        part = line.get("part")
        match line.get("type"):
            case "step_start":
                transcript.go_on()
            case "text":
                text = str(value_at(part, "text"))
                transcript.result = text if transcript.result is None else f"{transcript.result}\n{text}"
                transcript.add_text(text)
            case "tool_use":
                transcript.result = None  # text before a tool call is not the answer
                state, id_ = value_at(part, "state"), value_at(part, "callID")
                transcript.add_tool_call(value_at(part, "tool"), value_at(state, "input"), id_=id_)
                output = value_at(state, "output") or value_at(state, "error")
                failed = value_at(state, "status") == "error"
                transcript.add_tool_result(output, id_=id_, failed=failed)
                if failed and _NOT_ALLOWED.search(str(output)):
                    transcript.add_refusal(id_)
            case "step_finish":
                transcript.set_usage(f"step {value_at(part, 'id')}", _usage(part, transcript, call))
                tokens = value_at(part, "tokens")
                has_usage = isinstance(tokens, Mapping) and sum_counts(*tokens.values()) > 0
                _finish_step(value_at(part, "reason"), transcript, has_usage=has_usage)
            case "error":
                self._failed(line.get("error"), transcript)

    def _failed(self, error: object, transcript: Transcript) -> None:
        data, name = value_at(error, "data"), value_at(error, "name")
        message = value_at(data, "message") or name
        if name == "UnknownError" and _OWN_LOG.search(str(message)):
            transcript.fail(f"{message} {_ADVICE}", words="")
            return
        wait = value_at(data, "responseHeaders", "retry-after")
        parts = [message, value_at(data, "responseBody"), f"retry-after: {wait}" if isinstance(wait, str) else None]
        transcript.fail(
            message,
            words="\n".join(str(each) for each in parts if each),
            status=value_at(data, "statusCode"),
            type_=name,
            otherwise=_TRANSIENT if value_at(data, "isRetryable") is True else ProviderErrorClass.FAILED,
        )


def _finish_step(reason: object, transcript: Transcript, *, has_usage: bool) -> None:
    """Handle the end of a step: the last one, if it called no tool. *has_usage*: its provider reported usage."""
    match reason:
        case "tool-calls":
            transcript.go_on()
        case "error":
            transcript.fail("its provider reports that the answer failed (error)", words="", otherwise=_TRANSIENT)
        case "length":
            sentence = "the answer was cut off because it became too long"
            transcript.fail(sentence, words="", otherwise=ProviderErrorClass.REFUSED)
        case "content-filter":
            transcript.fail("the provider's content filter stopped the answer", words="")
        case _ if reason == "stop" or has_usage:  # some providers give no reason
            transcript.finish()
        case _:
            transcript.go_on()
            transcript.note_error("the answer broke off", words="", otherwise=_TRANSIENT)


_OWN_LOG = re.compile(r"check (?:the )?server logs", re.IGNORECASE)  # of its own server, not of its provider
_ADVICE = "The model may be unknown, or its provider not logged in: opencode models, opencode auth list"
_NOT_ALLOWED = re.compile(r"rejected permission|permission denied|prevents? you from using|denied by", re.IGNORECASE)


def _usage(part: object, transcript: Transcript, call: AgentCall) -> Any:
    used = value_at(part, "tokens")
    return usage_record(
        call.model or _DEFAULT,
        input_tokens=sum_counts(
            value_at(used, "input"), value_at(used, "cache", "read"), value_at(used, "cache", "write")
        ),
        output_tokens=sum_counts(value_at(used, "output"), value_at(used, "reasoning")),
        cached_tokens=value_at(used, "cache", "read"),
        cost=value_at(part, "cost") or None,  # zero means that its configuration has no price
        session=transcript.session,
        reasoning_output_tokens=value_at(used, "reasoning"),
        cache_write_input_tokens=value_at(used, "cache", "write"),
    )
