"""Codex: ``codex exec --json``. Tested with 0.169.0.

An item of the type ``error`` is only a warning, and the program may continue after a line of that type
(``Reconnecting... 1/5``); ``turn.completed`` and ``turn.failed`` decide. It reports no price, and no default model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordination.domain.jobs import AgentCall
from workers.runners.agents.base import Adapter, StartCommand, Transcript, usage_record, value_at
from workers.runners.login_help import Login

_DEFAULT = "codex-default"
_TOOLS = frozenset({"command_execution", "file_change", "mcp_tool_call", "web_search"})
_NOT_INPUT = frozenset({"id", "type", "status", "aggregated_output", "exit_code", "result", "error"})


class Codex(Adapter):
    """Starts and reads Codex."""

    name = "codex"
    counts_anew = False
    login = Login(("CODEX_API_KEY", "OPENAI_API_KEY"), "codex login", "CODEX_HOME")
    passes_on = ("OPENAI_API_KEY", "CODEX_API_KEY", "CODEX_HOME", "OPENAI_BASE_URL")

    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """Pass the prompt on stdin, which ``-`` selects."""
        model = ["--model", call.model] if call.model else []
        program = call.command or [self.name]
        resume = ["resume", session] if session else []
        options = ["--json", "--skip-git-repo-check", *model, *call.args]
        return StartCommand([*program, "exec", *options, *resume, "-"], call.prompt)

    def read(self, line: Mapping[str, Any], transcript: Transcript, call: AgentCall) -> None:
        """Read a line of the type thread.started, item.started/completed, turn.completed/failed or error."""
        match line.get("type"):
            case "thread.started":
                transcript.session = str(line.get("thread_id"))
            case "item.started" | "item.completed" as type_:
                self._item(line.get("item"), transcript, completed=type_ == "item.completed")
            case "turn.started":
                transcript.go_on()
            case "error":
                transcript.note_error(line.get("message"))
            case "turn.completed":
                transcript.finish()
                used = line.get("usage")
                transcript.set_usage(
                    "turn",
                    usage_record(
                        call.model or _DEFAULT,
                        input_tokens=value_at(used, "input_tokens"),
                        output_tokens=value_at(used, "output_tokens"),
                        cached_tokens=value_at(used, "cached_input_tokens"),
                        session=transcript.session,
                        summed=1,  # the usage of all calls of the turn
                        reasoning_output_tokens=value_at(used, "reasoning_output_tokens"),
                        cache_write_input_tokens=value_at(used, "cache_write_input_tokens"),
                    ),
                )
            case "turn.failed":
                message = str(value_at(line, "error", "message"))
                transcript.fail(message, lost_connection="stream disconnected" in message)

    def _item(self, item: object, transcript: Transcript, *, completed: bool) -> None:
        kind = value_at(item, "type")
        if kind in _TOOLS and isinstance(item, Mapping):
            if completed:
                failed = item.get("status") == "failed" or item.get("exit_code") not in (None, 0)
                output = item.get("aggregated_output") or item.get("result") or item.get("error")
                declined = item.get("status") == "declined"
                transcript.add_tool_result(output, id_=item.get("id"), failed=failed or declined)
                if declined:
                    transcript.add_refusal(item.get("id"))
            else:
                arguments = {name: value for name, value in item.items() if name not in _NOT_INPUT}
                transcript.add_tool_call(kind, arguments, id_=item.get("id"))
        elif not completed:
            return
        elif kind == "agent_message":
            transcript.result = str(value_at(item, "text"))
            transcript.add_text(transcript.result)
        elif kind == "error":
            transcript.remarks.append(f"a warning: {value_at(item, 'message')}")
