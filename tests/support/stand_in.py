"""A stand-in for an agent's program: a script that prints what the real one printed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

SESSION = {"type": "system", "subtype": "init", "session_id": "b658"}
SAID = {
    "type": "assistant",
    "message": {
        "id": "m1",
        "model": "c-4",
        "content": [{"type": "text", "text": "I look"}],
        "usage": {"input_tokens": 7},
    },
}
DONE = {
    "type": "result",
    "is_error": False,
    "result": "All done",
    "modelUsage": {"c-4": {"inputTokens": 9, "outputTokens": 2, "costUSD": 0.5}},
}


class StandIn:
    """A program that executes a shell script."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "agent"

    def __call__(self, *lines: object, then: str = "", first: str = "") -> list[str]:
        """Return the command of a program that prints these lines, as JSON where they are no text."""
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        printing = "".join(f"printf '%s\\n' {shlex.quote(text)}\n" for text in texts)
        self.path.write_text(f"#!/bin/sh\n{first}\n{printing}{then}\n")
        self.path.chmod(0o755)
        return [str(self.path)]


def claude(command: list[str], **more: Any) -> dict[str, Any]:
    return {"agent": "claude", "prompt": "Mend it", "command": command, **more}
