"""Codex: ``codex exec --json``. Seen with 0.169.0.

An item of the type ``error`` is only a warning, and after a line of that type it may go on (``Reconnecting... 1/5``);
``turn.completed`` and ``turn.failed`` decide. It tells no price, and not its model either when none was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordination.domain.jobs import AgentCall
from workers.runners.agents.base import Adapter, StartCommand, Transcript, at, tokens
from workers.runners.login_help import LogIn

_DEFAULT = "codex-default"
_TOOLS = frozenset({"command_execution", "file_change", "mcp_tool_call", "web_search"})
_NOT_INPUT = frozenset({"id", "type", "status", "aggregated_output", "exit_code", "result", "error"})


class Codex(Adapter):
    """Starts and reads Codex."""

    name = "codex"
    resumes = True
    counts_anew = False
    log_in = LogIn(("CODEX_API_KEY", "OPENAI_API_KEY"), "codex login", "CODEX_HOME")
    takes_servers = ()
    passes_on = ("OPENAI_API_KEY", "CODEX_API_KEY", "CODEX_HOME", "OPENAI_BASE_URL")

    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """``-`` makes it read the prompt from stdin."""
        model = ["--model", call.model] if call.model else []
        program = call.command or [self.name]
        resume = ["resume", session] if session else []
        options = ["--json", "--skip-git-repo-check", *model, *call.args]
        return StartCommand([*program, "exec", *options, *resume, "-"], call.prompt)

    def read(self, line: Mapping[str, Any], told: Transcript, call: AgentCall) -> None:
        """thread.started, item.started, item.completed, turn.completed, turn.failed, error."""
        match line.get("type"):
            case "thread.started":
                told.session = str(line.get("thread_id"))
            case "item.started" | "item.completed" as when:
                self._item(line.get("item"), told, completed=when == "item.completed")
            case "turn.started":
                told.go_on()
            case "error":
                told.note_error(line.get("message"))
            case "turn.completed":
                told.finish()
                used = line.get("usage")
                told.spent(
                    "turn",
                    tokens(
                        call.model or _DEFAULT,
                        read=at(used, "input_tokens"),
                        written=at(used, "output_tokens"),
                        cached=at(used, "cached_input_tokens"),
                        session=told.session,
                        summed=1,  # over all calls of the turn
                        reasoning_output_tokens=at(used, "reasoning_output_tokens"),
                        cache_write_input_tokens=at(used, "cache_write_input_tokens"),
                    ),
                )
            case "turn.failed":
                message = str(at(line, "error", "message"))
                told.fail(message, lost_connection="stream disconnected" in message)

    def _item(self, item: object, told: Transcript, *, completed: bool) -> None:
        kind = at(item, "type")
        if kind in _TOOLS and isinstance(item, Mapping):
            if completed:
                failed = item.get("status") == "failed" or item.get("exit_code") not in (None, 0)
                output = item.get("aggregated_output") or item.get("result") or item.get("error")
                declined = item.get("status") == "declined"
                told.returned(output, id_=item.get("id"), failed=failed or declined)
                if declined:
                    told.refuse(item.get("id"))
            else:
                given = {name: value for name, value in item.items() if name not in _NOT_INPUT}
                told.call(kind, given, id_=item.get("id"))
        elif not completed:
            return
        elif kind == "agent_message":
            told.result = str(at(item, "text"))
            told.say(told.result)
        elif kind == "error":
            told.remarks.append(f"a warning: {at(item, 'message')}")
