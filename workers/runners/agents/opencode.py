"""OpenCode: ``opencode run --format json``. Seen with 1.18.33.

It tells usage and price of every step; its own price is used, from the configuration of its provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordination.domain.work import AgentCall
from workers.runners.agents.base import Start, Transcript, at, tokens, total

_DEFAULT = "opencode-default"


class OpenCode:
    """Starts and reads OpenCode."""

    name = "opencode"
    resumes = True
    counts_anew = True
    takes_servers = ()
    passes_on = (
        *("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"),
        *("OPENROUTER_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY", "XAI_API_KEY", "DEEPSEEK_API_KEY"),
        *("OPENCODE_API_KEY", "OPENCODE_CONFIG", "OPENCODE_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    )

    def start(self, call: AgentCall, session: str | None = None) -> Start:
        """The prompt comes on stdin: as an argument it would be quoted anew."""
        model = ["--model", call.model] if call.model else []
        resume = ["-s", session] if session else []
        options = ["run", "--format", "json", *resume, *model, *call.args]
        return Start([*(call.command or [self.name]), *options], call.prompt)

    def read(self, line: Mapping[str, Any], told: Transcript, call: AgentCall) -> None:
        """step_start, text, tool_use, step_finish, error."""
        if isinstance(session := line.get("sessionID"), str):
            told.session = session
        part = line.get("part")
        match line.get("type"):
            case "text":
                said = str(at(part, "text"))
                told.result = said if told.result is None else f"{told.result}\n{said}"
                told.say(said)
            case "tool_use":
                told.result = None  # what came before a tool was used is not its answer
                state, id_ = at(part, "state"), at(part, "callID")
                told.call(at(part, "tool"), at(state, "input"), id_=id_)
                output = at(state, "output") or at(state, "error")
                told.returned(output, id_=id_, failed=at(state, "status") == "error")
            case "step_finish":
                told.ended = at(part, "reason") != "tool-calls"
                told.spent(f"step {at(part, 'id')}", _usage(part, told, call))
            case "error":
                told.ended = True
                data = at(line, "error", "data")
                told.fail(at(data, "message") or at(line, "error", "name"), status=at(data, "statusCode"))


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
