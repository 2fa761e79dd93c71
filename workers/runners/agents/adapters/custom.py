"""Any other agent: the job describes its command line and its output."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from coordination.domain.jobs import COUNTS, CUSTOM, AgentCall
from workers.runners.agents.base import Adapter, StartCommand, Transcript, usage_record, value_at

_PROMPT = "{prompt}"
_PLACEHOLDER = re.compile(r"\{(?:prompt|model|session)\}")


class Custom(Adapter):
    """Starts and reads an agent that the job describes."""

    name = CUSTOM
    resumes = False

    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """Fill in ``{prompt}``, ``{model}`` and ``{session}``; without ``{prompt}``, pass the prompt on stdin."""
        command = call.command if session is None else call.resume
        on_stdin = not any(_PROMPT in part for part in command)
        values = {"{model}": call.model or "", "{session}": session or "", _PROMPT: call.prompt}
        # In one pass, so that placeholders in values are not filled in.
        filled = [_PLACEHOLDER.sub(lambda match: values[match[0]], part) for part in command]
        return StartCommand([*filled, *call.args], call.prompt if on_stdin else "")

    def read(self, line: Mapping[str, Any], transcript: Transcript, call: AgentCall) -> None:
        """Read the fields of a line: the last result and error count, and the sum of all usage."""
        paths = {name: path.split(".") for name, path in call.reads.items() if name != "format"}
        fields = {name: value for name, path in paths.items() if (value := value_at(line, *path)) is not None}
        if "session" in fields:
            transcript.session = str(fields["session"])
        if "model" in fields:
            transcript.model = str(fields["model"])
        if fields.keys() & {*COUNTS, "cost_usd"}:
            transcript.set_usage(
                f"line {len(transcript.usage)}",
                usage_record(
                    transcript.model or call.model,
                    input_tokens=fields.get("input_tokens"),
                    output_tokens=fields.get("output_tokens"),
                    cached_tokens=fields.get("cached_input_tokens"),
                    cost=fields.get("cost_usd"),
                    session=transcript.session,
                ),
            )
        if "result" in fields:
            transcript.result, transcript.ended = _text(fields["result"]), True
            transcript.add_text(transcript.result)
        if fields.get("error"):
            transcript.fail(_text(fields["error"]))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
