"""Claude Code: ``claude -p --output-format stream-json``. Tested with 2.1.197.

In the result, ``is_error`` and not ``subtype`` shows a failure, and after a cap was reached only ``modelUsage`` and
``total_cost_usd`` are correct. A refused tool is not an error; it becomes a remark. Messages of the program (a limit,
an error of the API) have the model ``<synthetic>``; they are not answers, even in a result without ``is_error``. The
end of a background job may add a second, empty result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coordination.domain.jobs import OURS, AgentCall
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from coordination.domain.jobs.provider_errors import ProviderLimit, window_of
from coordination.domain.jobs.reset_times import from_epoch
from workers.runners.agents.base import (
    Adapter,
    StartCommand,
    Transcript,
    join_texts,
    sum_counts,
    usage_record,
    value_at,
)
from workers.runners.login_help import Login

_SYNTHETIC = "<synthetic>"  # the model name of messages of the program itself


class Claude(Adapter):
    """Starts and reads Claude Code."""

    name = "claude"
    login = Login(
        ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"),
        "claude auth login",
        "CLAUDE_CONFIG_DIR",
        ("ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX"),
    )
    takes_servers = ("--mcp-config", "{file}", "--allowedTools", f"mcp__{OURS}")
    passes_on = (
        *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL"),
        *("CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX"),
    )

    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """Pass the prompt on stdin, because an argument is limited to 128 KB."""
        model = ["--model", call.model] if call.model else []
        resume = ["--resume", session] if session else []
        options = ["-p", "--output-format", "stream-json", "--verbose", *resume, *model, *call.args]
        return StartCommand(
            [*(call.command or [self.name]), *options],
            call.prompt,
            # By default it silently waits for a busy provider for more than a minute; we wait between attempts instead.
            {"CLAUDE_CODE_MAX_RETRIES": "2", "DISABLE_AUTOUPDATER": "1"},
        )

    def read(self, line: Mapping[str, Any], transcript: Transcript, call: AgentCall) -> None:  # noqa: ARG002 - the protocol has it
        """Read a line of the type system, assistant, user (tool results), rate_limit_event or result."""
        if isinstance(session := line.get("session_id"), str):
            transcript.session = session
        match line.get("type"):
            case "system" if line.get("subtype") == "api_retry":
                error, status = line.get("error"), line.get("error_status")
                transcript.note_error(f"API Error: {status or 'no answer'} ({error})", status=status, type_=error)
            case "assistant":
                self._assistant(line, transcript)
            case "user":
                for part in _parts(line.get("message")):
                    if part.get("type") == "tool_result":
                        output = join_texts(part.get("content"))
                        failed = part.get("is_error") is True
                        transcript.add_tool_result(output, id_=part.get("tool_use_id"), failed=failed)
                        if failed and _NOT_ALLOWED.search(output):
                            transcript.add_refusal(part.get("tool_use_id"))
            case "rate_limit_event":
                transcript.limit = _limit(line.get("rate_limit_info"))
            case "result":
                self._result(line, transcript)

    def _assistant(self, line: Mapping[str, Any], transcript: Transcript) -> None:
        message = line.get("message")
        model = value_at(message, "model")
        if model == _SYNTHETIC or line.get("isApiErrorMessage") is True:
            transcript.synthetic = join_texts(value_at(message, "content"))
            transcript.synthetic_type = line.get("error")
            return
        transcript.recover()
        transcript.model = str(model)
        for part in _parts(message):
            if part.get("type") == "text":
                transcript.add_text(str(part.get("text")))
            elif part.get("type") == "tool_use":
                transcript.add_tool_call(part.get("name"), part.get("input"), id_=part.get("id"))
        # Each part of a message has its own line with the usage of the whole message. It counts only without a result,
        # which alone has prices.
        transcript.set_usage(
            f"message {value_at(message, 'id')}", _usage(model, value_at(message, "usage"), transcript.session)
        )

    def _result(self, line: Mapping[str, Any], transcript: Transcript) -> None:
        by_model = line.get("modelUsage")
        if isinstance(by_model, Mapping) and by_model:
            transcript.usage.clear()
            for model, used in by_model.items():
                transcript.set_usage(
                    model,
                    usage_record(
                        model,
                        input_tokens=sum_counts(
                            *(value_at(used, n) for n in ("inputTokens", "cacheReadInputTokens", _WRITTEN_TO_CACHE))
                        ),
                        output_tokens=value_at(used, "outputTokens"),
                        cached_tokens=value_at(used, "cacheReadInputTokens"),
                        cost=value_at(used, "costUSD"),
                        session=transcript.session,
                        summed=1,
                        cache_write_input_tokens=value_at(used, _WRITTEN_TO_CACHE),
                    ),
                )
        for denied in line.get("permission_denials") or ():
            transcript.add_refusal(value_at(denied, "tool_use_id"))
            transcript.remarks.append(
                f"a tool was not allowed: {value_at(denied, 'tool_name')} (see --allowedTools in args)"
            )
        answer = line.get("result")
        text = answer if isinstance(answer, str) else ""
        if line.get("is_error") is True:
            self._failed(line, text, transcript)
        elif transcript.synthetic is not None and text.strip() in ("", transcript.synthetic.strip()):
            transcript.fail(transcript.synthetic, type_=transcript.synthetic_type)
        elif text or transcript.result is None or not transcript.is_done:
            transcript.result = text if isinstance(answer, str) else transcript.result
            transcript.finish()

    def _failed(self, line: Mapping[str, Any], text: str, transcript: Transcript) -> None:
        errors = line["errors"] if isinstance(line.get("errors"), list) else []
        subtype = str(line.get("subtype") or "").replace("_", " ")
        # An API error without a status is one of the connection.
        is_connection_error = line.get("terminal_reason") == "api_error" and line.get("api_error_status") is None
        transcript.fail(
            text or "; ".join(map(str, errors)) or subtype,
            words=text or "\n".join(map(str, errors)) or subtype,
            status=line.get("api_error_status"),
            type_=transcript.synthetic_type,
            otherwise=ProviderErrorClass.TRANSIENT if is_connection_error else ProviderErrorClass.FAILED,
        )


def _limit(info: object) -> ProviderLimit | None:
    """Return the limit of an event if requests are rejected."""
    if value_at(info, "status") != "rejected" or value_at(info, "isUsingOverage") is True:
        return None
    limit_type = value_at(info, "rateLimitType")
    return ProviderLimit(
        None, window_of(str(limit_type or "").replace("_", " ")), from_epoch(value_at(info, "resetsAt"))
    )


_NOT_ALLOWED = re.compile(
    r"haven't granted|permission to use|requires? approval|has been denied|denied by", re.IGNORECASE
)
_WRITTEN_TO_CACHE = "cacheCreationInputTokens"


def _parts(message: object) -> list[Mapping[str, Any]]:
    content = value_at(message, "content")
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _usage(model: object, used: object, session: str | None) -> Any:
    return usage_record(
        model,
        input_tokens=sum_counts(
            *(value_at(used, n) for n in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"))
        ),
        output_tokens=value_at(used, "output_tokens"),
        cached_tokens=value_at(used, "cache_read_input_tokens"),
        session=session,
        cache_write_input_tokens=value_at(used, "cache_creation_input_tokens"),
        cache_write_1h_input_tokens=value_at(used, "cache_creation", "ephemeral_1h_input_tokens"),
    )
