"""A stand-in for a model's provider, because real ones cost money: Anthropic's Messages API on loopback, by script.

It answers each conversation turn with the next of its *answers*: a text, a ToolUse, or an HTTP status to refuse with.
What it counted as used adds up in ``used``, to be compared with what was billed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INPUT_TOKENS, OUTPUT_TOKENS = 1000, 20


@dataclass(frozen=True)
class ToolUse:
    """The model asks for a tool."""

    name: str
    input: Mapping[str, Any]


Answer = str | int | ToolUse


@dataclass
class ModelServer:
    """A running one. ``requests``: the bodies of the turns that it answered."""

    url: str
    answers: list[Answer]
    requests: list[dict[str, Any]] = field(default_factory=list)
    served: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, body: dict[str, Any]) -> Answer:
        """The answer to this turn; a request without tools is none, but the program's own (a title, a summary)."""
        with self.lock:
            if not body.get("tools"):
                return "ok"
            self.requests.append(body)
            return self.answers.pop(0) if self.answers else "nothing more to say"


@contextmanager
def running_model_server(answers: Sequence[Answer]) -> Iterator[ModelServer]:
    """A server that ends with the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    state = ModelServer(f"http://127.0.0.1:{server.server_address[1]}", list(answers))
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._send(200, b"")

    def do_GET(self) -> None:
        self._send(200, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if "count_tokens" in self.path:
            self._send(200, json.dumps({"input_tokens": INPUT_TOKENS}).encode())
            return
        state: ModelServer = self.server.state  # type: ignore[attr-defined]
        answer = state.next(body)
        if isinstance(answer, int):
            error = {"type": "error", "error": {"type": "api_error", "message": f"refused with {answer}"}}
            self._send(answer, json.dumps(error).encode())
            return
        with state.lock:
            state.served += 1
            message = _message(answer, body.get("model", "m"), state.served)
        if body.get("stream"):
            events = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in _stream(message))
            self._send(200, events.encode(), "text/event-stream")
        else:
            self._send(200, json.dumps(message).encode())

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base has it
        """Say nothing."""


def _message(answer: str | ToolUse, model: str, number: int) -> dict[str, Any]:
    if isinstance(answer, ToolUse):
        block: dict[str, Any] = {
            "type": "tool_use",
            "id": f"toolu_{number}",
            "name": answer.name,
            "input": answer.input,
        }
    else:
        block = {"type": "text", "text": answer}
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [block],
        "stop_reason": "tool_use" if isinstance(answer, ToolUse) else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
    }


def _stream(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The message as the events in which it is streamed."""
    (block,) = message["content"]
    is_tool = block["type"] == "tool_use"
    empty = {**block, "input": {}} if is_tool else {**block, "text": ""}
    part = (
        {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        if is_tool
        else {"type": "text_delta", "text": block["text"]}
    )
    begun = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    yield {"type": "message_start", "message": begun}
    yield {"type": "content_block_start", "index": 0, "content_block": empty}
    yield {"type": "content_block_delta", "index": 0, "delta": part}
    yield {"type": "content_block_stop", "index": 0}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
        "usage": {"output_tokens": OUTPUT_TOKENS},
    }
    yield {"type": "message_stop"}
