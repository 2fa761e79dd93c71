"""Gemini CLI: ``gemini --output-format stream-json``. Seen with 0.61.0.

Its answer comes in pieces, and its price not at all. Where its provider refused, its exit status is the HTTP status,
cut to eight bits; the last line says it whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordination.domain.jobs import AgentCall
from workers.runners.agents.base import Adapter, StartCommand, Transcript, at, tokens, total
from workers.runners.login_help import LogIn

_NOT_ALLOWED = ("policy_violation", "tool_not_registered", "execution_denied")


class Gemini(Adapter):
    """Starts and reads Gemini CLI."""

    name = "gemini"
    resumes = True
    counts_anew = True
    log_in = LogIn(
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "gemini",
        others=("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_GENAI_USE_VERTEXAI", "HOME"),
    )
    takes_servers = ()
    passes_on = (
        *("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_CLOUD_PROJECT"),
        *("GOOGLE_CLOUD_LOCATION", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_GENAI_USE_VERTEXAI"),
    )

    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """Where no terminal is, it reads the prompt from stdin."""
        model = ["--model", call.model] if call.model else []
        options = ["--output-format", "stream-json", "--skip-trust", *(["--resume", session] if session else [])]
        return StartCommand([*(call.command or [self.name]), *options, *model, *call.args], call.prompt)

    def read(self, line: Mapping[str, Any], told: Transcript, call: AgentCall) -> None:  # noqa: ARG002 - as all adapters
        """init, message, tool_use, tool_result, error, result."""
        match line.get("type"):
            case "init":
                told.session, told.model = str(line.get("session_id")), str(line.get("model"))
            case "message" if line.get("role") == "assistant":
                piece = str(line.get("content"))
                told.result = piece if told.result is None else told.result + piece
            case "tool_use":
                self._said(told)
                told.result = None  # what came before a tool was used is not its answer
                told.call(line.get("tool_name"), line.get("parameters"), id_=line.get("tool_id"))
            case "tool_result":
                output = line.get("output") or at(line, "error", "message")
                failed = line.get("status") == "error"
                told.returned(output, id_=line.get("tool_id"), failed=failed)
                if failed and (at(line, "error", "type") in _NOT_ALLOWED or "denied by policy" in str(output)):
                    told.refuse(line.get("tool_id"))
            case "error":
                told.remarks.append(f"a warning: {line.get('message')}")
                if line.get("severity") == "error":
                    told.note_error(line.get("message"))
            case "result":
                self._said(told)
                self._spent(line.get("stats"), told)
                if line.get("status") != "success":
                    error = line.get("error")
                    told.fail(at(error, "message"), type_=_text(at(error, "type")), status=at(error, "code"))
                else:
                    told.finish()

    def _said(self, told: Transcript) -> None:
        if told.result is not None:
            told.say(told.result)

    def _spent(self, stats: object, told: Transcript) -> None:
        by_model = at(stats, "models")
        if not isinstance(by_model, Mapping) or not by_model:
            by_model = {told.model: stats}
        for model, used in by_model.items():
            read, written = total(at(used, "input_tokens")), total(at(used, "output_tokens"))
            # Its output is without its thoughts, which are billed as output; they are only in its total.
            thoughts = max(0, total(at(used, "total_tokens")) - read - written)
            told.spent(
                str(model),
                tokens(
                    model,
                    read=read,
                    written=written + thoughts,
                    cached=at(used, "cached"),
                    session=told.session,
                    summed=1,
                    reasoning_output_tokens=thoughts,
                ),
            )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
