"""Any other agent: its command line and where in its output things stand are described by the job itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from coordination.domain.jobs import COUNTS, CUSTOM, AgentCall
from workers.runners.agents.base import Adapter, StartCommand, Transcript, at, tokens
from workers.runners.login_help import LogIn

_PROMPT = "{prompt}"
_PLACE = re.compile(r"\{(?:prompt|model|session)\}")


class Custom(Adapter):
    """Starts what the job says, and reads what it says it prints."""

    name = CUSTOM
    resumes = False
    counts_anew = True
    log_in = LogIn()
    takes_servers = ()
    passes_on = ()

    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """``{prompt}``, ``{model}`` and ``{session}`` are filled in; without ``{prompt}`` the prompt comes on stdin."""
        command = call.command if session is None else call.resume
        on_stdin = not any(_PROMPT in part for part in command)
        given = {"{model}": call.model or "", "{session}": session or "", _PROMPT: call.prompt}
        # All in one pass: what they hold is never filled in.
        filled = [_PLACE.sub(lambda found: given[found[0]], part) for part in command]
        return StartCommand([*filled, *call.args], call.prompt if on_stdin else "")

    def read(self, line: Mapping[str, Any], told: Transcript, call: AgentCall) -> None:
        """Each line that has a thing counts: the last result, the last error, the sum of what was used."""
        places = {name: place.split(".") for name, place in call.reads.items() if name != "format"}
        found = {name: value for name, place in places.items() if (value := at(line, *place)) is not None}
        if "session" in found:
            told.session = str(found["session"])
        if "model" in found:
            told.model = str(found["model"])
        if found.keys() & {*COUNTS, "cost_usd"}:
            told.spent(
                f"line {len(told.usage)}",
                tokens(
                    told.model or call.model,
                    read=found.get("input_tokens"),
                    written=found.get("output_tokens"),
                    cached=found.get("cached_input_tokens"),
                    cost=found.get("cost_usd"),
                    session=told.session,
                ),
            )
        if "result" in found:
            told.result, told.ended = _text(found["result"]), True
            told.say(told.result)
        if found.get("error"):
            told.fail(_text(found["error"]))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
