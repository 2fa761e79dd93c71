"""Gemini CLI: ``gemini --output-format stream-json``. Tested with 0.61.0.

Its answer comes in parts, without a price. After an error of its provider, its exit status is the HTTP status cut to
eight bits; the last line has it in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordination.domain.jobs import AgentCall
from workers.runners.agents.base import Adapter, StartCommand, Transcript, sum_counts, usage_record, value_at
from workers.runners.login_help import Login

_NOT_ALLOWED = ("policy_violation", "tool_not_registered", "execution_denied")


class Gemini(Adapter):
    """Starts and reads Gemini CLI."""

    name = "gemini"
    login = Login(
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "gemini",
        others=("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_GENAI_USE_VERTEXAI", "HOME"),
    )
    passes_on = (
        *("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_CLOUD_PROJECT"),
        *("GOOGLE_CLOUD_LOCATION", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_GENAI_USE_VERTEXAI"),
    )

    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """Pass the prompt on stdin, which it reads without a terminal."""
        model = ["--model", call.model] if call.model else []
        options = ["--output-format", "stream-json", "--skip-trust", *(["--resume", session] if session else [])]
        return StartCommand([*(call.command or [self.name]), *options, *model, *call.args], call.prompt)

    def read(self, line: Mapping[str, Any], transcript: Transcript, call: AgentCall) -> None:  # noqa: ARG002 - the protocol has it
        """Read a line of the type init, message, tool_use, tool_result, error or result."""
        match line.get("type"):
            case "init":
                transcript.session, transcript.model = str(line.get("session_id")), str(line.get("model"))
            case "message" if line.get("role") == "assistant":
                piece = str(line.get("content"))
                transcript.result = piece if transcript.result is None else transcript.result + piece
            case "tool_use":
                self._add_text(transcript)
                transcript.result = None  # text before a tool call is not the answer
                transcript.add_tool_call(line.get("tool_name"), line.get("parameters"), id_=line.get("tool_id"))
            case "tool_result":
                output = line.get("output") or value_at(line, "error", "message")
                failed = line.get("status") == "error"
                transcript.add_tool_result(output, id_=line.get("tool_id"), failed=failed)
                if failed and (value_at(line, "error", "type") in _NOT_ALLOWED or "denied by policy" in str(output)):
                    transcript.add_refusal(line.get("tool_id"))
            case "error":
                transcript.remarks.append(f"a warning: {line.get('message')}")
                if line.get("severity") == "error":
                    transcript.note_error(line.get("message"))
            case "result":
                self._add_text(transcript)
                self._set_usage(line.get("stats"), transcript)
                if line.get("status") != "success":
                    message, type_, status = (value_at(line, "error", name) for name in ("message", "type", "code"))
                    transcript.fail(message, type_=type_, status=status)
                else:
                    transcript.finish()

    def _add_text(self, transcript: Transcript) -> None:
        if transcript.result is not None:
            transcript.add_text(transcript.result)

    def _set_usage(self, stats: object, transcript: Transcript) -> None:
        by_model = value_at(stats, "models")
        if not isinstance(by_model, Mapping) or not by_model:
            by_model = {transcript.model: stats}
        for model, used in by_model.items():
            names = ("input_tokens", "output_tokens", "total_tokens")
            input_tokens, output_tokens, total = (sum_counts(value_at(used, name)) for name in names)
            # Thoughts are billed as output, but counted only in the total.
            thoughts = max(0, total - input_tokens - output_tokens)
            transcript.set_usage(
                str(model),
                usage_record(
                    model,
                    input_tokens=input_tokens,
                    output_tokens=output_tokens + thoughts,
                    cached_tokens=value_at(used, "cached"),
                    session=transcript.session,
                    summed=1,
                    reasoning_output_tokens=thoughts,
                ),
            )
