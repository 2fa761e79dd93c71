"""Claude Code: ``claude -p --output-format stream-json``. Seen with 2.1.197.

Its result counts: ``is_error``, not ``subtype``, tells whether it failed, and after a cap was reached only
``modelUsage`` and ``total_cost_usd`` are right. A refused tool is no error to it; here it is a remark. What its program
says in the model's place (a limit, an error of the API) comes as a message of the model ``<synthetic>``, at times in a
result that is no error: that is no answer. A job in the background that ends may add a second, empty result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coordination.domain.jobs import OURS, AgentCall
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from coordination.domain.jobs.provider_errors import ProviderLimit, window_of
from coordination.domain.jobs.reset_times import from_epoch
from workers.runners.agents.base import Adapter, StartCommand, Transcript, at, texts, tokens, total
from workers.runners.login_help import LogIn

_SYNTHETIC = "<synthetic>"  # the model of messages that the program itself made


class Claude(Adapter):
    """Starts and reads Claude Code."""

    name = "claude"
    resumes = True
    counts_anew = True
    log_in = LogIn(
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
        """The prompt comes on stdin: an argument holds at most 128 KB."""
        model = ["--model", call.model] if call.model else []
        resume = ["--resume", session] if session else []
        options = ["-p", "--output-format", "stream-json", "--verbose", *resume, *model, *call.args]
        return StartCommand(
            [*(call.command or [self.name]), *options],
            call.prompt,
            # By itself it waits for a busy provider for more than a minute, in silence; we wait between attempts.
            {"CLAUDE_CODE_MAX_RETRIES": "2", "DISABLE_AUTOUPDATER": "1"},
        )

    def read(self, line: Mapping[str, Any], told: Transcript, call: AgentCall) -> None:  # noqa: ARG002 - as all adapters
        """system, assistant, user (what tools gave back), rate_limit_event, result."""
        if isinstance(session := line.get("session_id"), str):
            told.session = session
        match line.get("type"):
            case "system" if line.get("subtype") == "api_retry":
                error, status = line.get("error"), line.get("error_status")
                told.note_error(f"API Error: {status or 'no answer'} ({error})", status=status, type_=_text(error))
            case "assistant":
                self._assistant(line, told)
            case "user":
                for part in _parts(line.get("message")):
                    if part.get("type") == "tool_result":
                        output = texts(part.get("content"))
                        failed = part.get("is_error") is True
                        told.returned(output, id_=part.get("tool_use_id"), failed=failed)
                        if failed and _NOT_ALLOWED.search(output):
                            told.refuse(part.get("tool_use_id"))
            case "rate_limit_event":
                told.limit = _limit(line.get("rate_limit_info"))
            case "result":
                self._result(line, told)

    def _assistant(self, line: Mapping[str, Any], told: Transcript) -> None:
        message = line.get("message")
        model = at(message, "model")
        if model == _SYNTHETIC or line.get("isApiErrorMessage") is True:
            told.synthesized(texts(at(message, "content")), type_=line.get("error"))
            return
        told.recover()
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
        for denied in line.get("permission_denials") or ():
            told.refuse(at(denied, "tool_use_id"))
            told.remarks.append(f"a tool was not allowed: {at(denied, 'tool_name')} (see --allowedTools in args)")
        answer = line.get("result")
        text = answer if isinstance(answer, str) else ""
        if line.get("is_error") is True:
            self._failed(line, text, told)
        elif told.synthetic is not None and text.strip() in ("", told.synthetic.strip()):
            told.fail(told.synthetic, type_=told.synthetic_type)
        elif text or told.result is None or not told.is_done:
            told.result = text if isinstance(answer, str) else told.result
            told.finish()

    def _failed(self, line: Mapping[str, Any], text: str, told: Transcript) -> None:
        errors = [str(one) for one in line.get("errors") or ()] if isinstance(line.get("errors"), list) else []
        subtype = str(line.get("subtype") or "").replace("_", " ")
        # Without a status, an error of the API is one of the connection.
        of_api = line.get("terminal_reason") == "api_error" and line.get("api_error_status") is None
        told.fail(
            text or "; ".join(errors) or subtype,
            words=text or "\n".join(errors) or subtype,
            status=line.get("api_error_status"),
            type_=told.synthetic_type,
            otherwise=ProviderErrorClass.TRANSIENT if of_api else ProviderErrorClass.FAILED,
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _limit(info: object) -> ProviderLimit | None:
    """The limit that an event tells of, if it keeps requests from being answered."""
    if at(info, "status") != "rejected" or at(info, "isUsingOverage") is True:
        return None
    which = at(info, "rateLimitType")
    return ProviderLimit(None, window_of(str(which or "").replace("_", " ")), from_epoch(at(info, "resetsAt")))


_NOT_ALLOWED = re.compile(
    r"haven't granted|permission to use|requires? approval|has been denied|denied by", re.IGNORECASE
)
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
