"""Chats for tests: a stand-in for the provider, jobs that call it, and a real tool server."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

from coordination.domain.tasks.attempts import AttemptEnd
from coordination.domain.tasks.events import EventType
from tests.support.jobs import Bench
from tests.support.model_server import (
    ModelServer,
)

TOOLS = Path(__file__).parent / "tool_server.py"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
SERVER = {"command": [sys.executable, str(TOOLS)]}
SAID, CALL, RETURNED, STARTED = EventType.PROGRESS, EventType.TOOL_CALL, EventType.TOOL_RESULT, EventType.STARTED


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Provider:
    """The stand-in for the provider, and jobs that call it."""

    def __init__(self, bench: Bench, server: ModelServer) -> None:
        self.bench = bench
        self.server = server
        self.events: list[tuple[EventType, dict[str, Any]]] = []

    def job(self, **more: Any) -> dict[str, Any]:
        return {"chat": "openai:m-1", "prompt": "How is it?", "url": f"{self.server.url}/v1", **more}

    def run(
        self, *, control: dict[str, Any] | None = None, claim: dict[str, Any] | None = None, **more: Any
    ) -> AttemptEnd:
        return self.start(control=control, claim=claim, **more).end()

    def start(self, *, control: dict[str, Any] | None = None, claim: dict[str, Any] | None = None, **more: Any) -> Any:
        heard = {"on_event": lambda type_, payload: self.events.append((type_, payload))}
        return self.bench.start(self.job(**more), control=heard | (control or {}), **(claim or {}))

    def told(self, type_: EventType) -> list[dict[str, Any]]:
        return [payload for result, payload in self.events if result is type_]
