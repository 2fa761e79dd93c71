"""Claude Code: ``claude -p --output-format stream-json``. Seen with 2.1.197.

Its last line counts: ``is_error``, not ``subtype``, tells whether it failed, and after a cap was reached only
``modelUsage`` and ``total_cost_usd`` are right. A refused tool is no error to it; here it is a remark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordination.domain.chat import OURS
from coordination.domain.work import AgentCall
from workers.runners.agents.base import Start, Transcript, at, texts, tokens, total

_SYNTHETIC = "<synthetic>"  # the model of messages that the program itself made


class Claude:
    """Starts and reads Claude Code."""

    name = "claude"
    resumes = True
    counts_anew = True
    takes_servers = ("--mcp-config", "{file}", "--allowedTools", f"mcp__{OURS}")
    passes_on = (
        *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL"),
        *("CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX"),
    )

    def start(self, call: AgentCall, session: str | None = None) -> Start:
        """The prompt comes on stdin: an argument holds at most 128 KB."""
        model = ["--model", call.model] if call.model else []
        resume = ["--resume", session] if session else []
        options = ["-p", "--output-format", "stream-json", "--verbose", *resume, *model, *call.args]
        return Start(
            [*(call.command or [self.name]), *options],
            call.prompt,
            # By itself it waits for a busy provider for more than a minute, in silence; we wait between attempts.
            {"CLAUDE_CODE_MAX_RETRIES": "2", "DISABLE_AUTOUPDATER": "1"},
        )

    def read(self, line: Mapping[str, Any], told: Transcript, call: AgentCall) -> None:  # noqa: ARG002 - as all adapters
        """system, assistant, user (what tools gave back), result."""
        if isinstance(session := line.get("session_id"), str):
            told.session = session
        match line.get("type"):
            case "assistant":
                self._assistant(line.get("message"), told)
            case "user":
                for part in _parts(line.get("message")):
                    if part.get("type") == "tool_result":
                        output = texts(part.get("content"))
                        told.returned(output, id_=part.get("tool_use_id"), failed=part.get("is_error") is True)
            case "result":
                self._result(line, told)

    def _assistant(self, message: object, told: Transcript) -> None:
        model = at(message, "model")
        if model == _SYNTHETIC:
            return
        told.model = str(model)
        for part in _parts(message):
            if part.get("type") == "text":
                told.say(str(part.get("text")))
            elif part.get("type") == "tool_use":
                told.call(part.get("name"), part.get("input"), id_=part.get("id"))
        # Each part of a message comes on a line of its own with the usage of the whole. It counts only when no end
        # comes, and without its price, which only the end tells.
        told.spent(f"message {at(message, 'id')}", _usage(model, at(message, "usage"), told.session))

    def _result(self, line: Mapping[str, Any], told: Transcript) -> None:
        told.ended = True
        by_model = line.get("modelUsage")
        if isinstance(by_model, Mapping) and by_model:
            told.usage.clear()
            for model, used in by_model.items():
                told.spent(
                    model,
                    tokens(
                        model,
                        read=total(*(at(used, n) for n in ("inputTokens", "cacheReadInputTokens", _WRITTEN_TO_CACHE))),
                        written=at(used, "outputTokens"),
                        cached=at(used, "cacheReadInputTokens"),
                        cost=at(used, "costUSD"),
                        session=told.session,
                        summed=1,
                        cache_write_input_tokens=at(used, _WRITTEN_TO_CACHE),
                    ),
                )
        answer = line.get("result")
        if line.get("is_error") is True:
            subtype = str(line.get("subtype") or "")
            told.fail(
                answer or _sentence(line.get("errors")) or subtype.replace("_", " "),
                status=line.get("api_error_status"),
            )
        elif isinstance(answer, str):
            told.result = answer
        for denied in line.get("permission_denials") or ():
            told.remarks.append(f"a tool was not allowed: {at(denied, 'tool_name')} (see --allowedTools in args)")


_WRITTEN_TO_CACHE = "cacheCreationInputTokens"


def _parts(message: object) -> list[Mapping[str, Any]]:
    content = at(message, "content")
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _usage(model: object, used: object, session: str | None) -> Any:
    return tokens(
        model,
        read=total(*(at(used, n) for n in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"))),
        written=at(used, "output_tokens"),
        cached=at(used, "cache_read_input_tokens"),
        session=session,
        cache_write_input_tokens=at(used, "cache_creation_input_tokens"),
        cache_write_1h_input_tokens=at(used, "cache_creation", "ephemeral_1h_input_tokens"),
    )


def _sentence(errors: object) -> str:
    return "; ".join(map(str, errors)) if isinstance(errors, list) else ""
