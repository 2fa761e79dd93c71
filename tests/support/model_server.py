"""A stand-in for a model's provider, because real ones cost money: scripted, on loopback.

It speaks Anthropic's Messages API, and OpenAI's Chat Completions and Responses at their usual paths. It answers each
conversation turn with the next of its *answers*: a text, a ToolUse or several, an HTTP status to refuse with, or
something Broken. Its usage adds up in ``served``, to be compared with what was billed.
"""

from __future__ import annotations

import itertools
import json
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INPUT_TOKENS, OUTPUT_TOKENS = 1000, 20


@dataclass(frozen=True)
class ToolUse:
    """The model calls a tool."""

    name: str
    input: Mapping[str, Any]


@dataclass(frozen=True)
class Broken:
    """A stream that begins with *text* and then continues as *how* defines.

    ``hang``: nothing more comes. ``drop``: the connection is lost. ``stop``: the body ends before the answer does.
    ``garbage``: the rest is no JSON. ``error``: the provider reports its failure, with the message *text*.
    ``length``, ``content_filter``: a whole answer that ended for that reason. ``uncounted``: a whole answer without
    usage. ``cut``: the provider reports that it ended for an error. ``body``: the JSON in *text*, with a status of
    success. ``slow``: a whole answer, a word every third of a second. ``flood``: text without end.
    """

    text: str = ""
    how: str = "hang"


Answer = str | int | ToolUse | Sequence[ToolUse] | Broken | Callable[[dict[str, Any]], Any]
"""A function gets the turn's body and returns one of the others: for conversations that take turns as they like."""


@dataclass
class ModelServer:
    """A running server. ``requests``: the bodies of the turns that it answered; ``headers``: their headers;
    ``fetched``: the paths of GET requests.

    ``every_turn``: also those of Anthropic's turns count that offer no tools. ``begun`` is set when a stream that hangs
    has begun, ``left`` when the client of one that hangs has closed its connection.
    """

    url: str
    answers: list[Answer]
    requests: list[dict[str, Any]] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    served: int = 0
    every_turn: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    def next(self, body: dict[str, Any], headers: Mapping[str, str], *, any_turn: bool) -> Answer:
        """Return the answer to this turn; of a coding agent, one without tools is the program's own (a title)."""
        with self.lock:
            if not (any_turn or self.every_turn or body.get("tools")):
                return "ok"
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            if len(self.answers) == 1 and isinstance(self.answers[0], Broken) and self.answers[0].how == "hang":
                return self.answers[0]  # for any client
            answer = self.answers.pop(0) if self.answers else "nothing more to say"
            return answer(body) if callable(answer) else answer


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


@contextmanager
def running_model_server(answers: Sequence[Answer]) -> Iterator[ModelServer]:
    """Provide a server that ends with the block."""
    server = _Server(("127.0.0.1", 0), _Handler)
    state = ModelServer(f"http://127.0.0.1:{server.server_address[1]}", list(answers))
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._send(200, b"")

    def do_GET(self) -> None:
        self._state.fetched.append(self.path)
        self._send(200, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if "count_tokens" in self.path:
            self._send(200, json.dumps({"input_tokens": INPUT_TOKENS}).encode())
            return
        openai = self.path.endswith(("/chat/completions", "/responses"))
        google = "GenerateContent" in self.path or ":generateContent" in self.path
        answer = self._state.next(body, dict(self.headers.items()), any_turn=openai)
        if isinstance(answer, int):
            error: dict[str, Any] = {
                "type": "error",
                "error": {"type": "api_error", "message": f"refused with {answer}"},
            }
            if google:
                error = {"error": {"code": answer, "message": f"refused with {answer}", "status": "REFUSED"}}
            self._send(answer, json.dumps(error).encode())
            return
        with self._state.lock:
            self._state.served += 1
        if google:
            self._send(200, *_generated(answer, streamed="streamGenerateContent" in self.path))
            return
        if isinstance(answer, Broken) and answer.how == "body":
            self._send(200, answer.text.encode())
            return
        if openai:
            chunks = _chunks if self.path.endswith("/chat/completions") else _responses
            self._stream(chunks(answer, body.get("model", "m"), self._state.served), answer)
            return
        assert isinstance(answer, str | ToolUse)
        message = _message(answer, body.get("model", "m"), self._state.served)
        if body.get("stream"):
            events = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in _stream(message))
            self._send(200, events.encode(), "text/event-stream")
        else:
            self._send(200, json.dumps(message).encode())

    @property
    def _state(self) -> ModelServer:
        state: ModelServer = self.server.state  # type: ignore[attr-defined]
        return state

    def _stream(self, chunks: Iterator[dict[str, Any]], answer: Answer) -> None:
        """Send the chunks one by one; a Broken answer breaks off here."""
        how = answer.how if isinstance(answer, Broken) else ""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(ConnectionError):
            for chunk in chunks:
                named = f"event: {chunk['type']}\n" if "type" in chunk else ""
                self._chunk(f"{named}data: {json.dumps(chunk)}\n\n")
            if how == "hang":
                self._state.begun.set()
                while not self._state.closing.is_set():
                    if select.select([self.connection], [], [], 0.05)[0]:
                        self._state.left.set()
                        break
            if how == "error" and isinstance(answer, Broken):
                self._chunk(f"data: {json.dumps({'error': {'message': answer.text}})}\n\n")
            if how == "garbage":
                self._chunk("data: {no JSON\n\n")
            while how == "flood":
                self._chunk(f"data: {json.dumps(_chunk({'content': 'x' * 100_000}, 'm', 1))}\n\n")
            if how in {"hang", "drop"}:
                self.close_connection = True
                return
            if how != "stop":
                self._chunk("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base has it
        """Log nothing."""


# --- Google's generateContent -----------------------------------------------------------------------------------------


def _generated(answer: Answer, *, streamed: bool) -> tuple[bytes, str]:
    """Return the answer as one response, and the type of its body."""
    counts = {"promptTokenCount": INPUT_TOKENS, "candidatesTokenCount": OUTPUT_TOKENS}
    used = {**counts, "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS}
    candidate = {"content": {"role": "model", "parts": [{"text": str(answer)}]}, "finishReason": "STOP", "index": 0}
    body = json.dumps({"candidates": [candidate], "usageMetadata": used, "modelVersion": "m"})
    return (f"data: {body}\n\n".encode(), "text/event-stream") if streamed else (body.encode(), "application/json")


# --- OpenAI's Chat Completions ----------------------------------------------------------------------------------------


def _chunks(answer: Answer, model: str, number: int) -> Iterator[dict[str, Any]]:
    """Return the answer as the chunks in which it is streamed; a text comes in two halves."""
    how = answer.how if isinstance(answer, Broken) else ""
    text = (
        ""
        if how == "error"
        else answer.text
        if isinstance(answer, Broken)
        else answer
        if isinstance(answer, str)
        else ""
    )
    yield _chunk({"role": "assistant", "content": ""}, model, number)
    half = len(text) // 2
    for piece in text.split() if how == "slow" else filter(None, (text[:half], text[half:])):
        time.sleep(1 / 3 if how == "slow" else 0)
        yield _chunk({"content": piece}, model, number)
    uses = [answer] if isinstance(answer, ToolUse) else list(answer) if isinstance(answer, list | tuple) else []
    for index, use in enumerate(uses):
        request = {"name": use.name, "arguments": json.dumps(use.input)}
        call = {"index": index, "id": f"call_{number}_{index}", "type": "function", "function": request}
        yield _chunk({"tool_calls": [call]}, model, number)
    if how in {"hang", "drop", "stop", "garbage", "error", "flood"}:
        return
    why = "error" if how == "cut" else how if how in {"length", "content_filter"} else "tool_calls" if uses else "stop"
    yield _chunk({}, model, number, why=why)
    if how != "uncounted":
        used = {
            "prompt_tokens": INPUT_TOKENS,
            "completion_tokens": OUTPUT_TOKENS,
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        }
        yield _chunk(None, model, number) | {"usage": used}


def _chunk(delta: dict[str, Any] | None, model: str, number: int, *, why: str | None = None) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": why}]
    head = {"id": f"chatcmpl_{number}", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model}
    return head | {"choices": choices}


# --- OpenAI's Responses -----------------------------------------------------------------------------------------------


def _responses(answer: Answer, model: str, number: int) -> Iterator[dict[str, Any]]:
    """Return the answer as the events in which it is streamed; the only Broken answer here is ``hang``."""
    hangs = isinstance(answer, Broken)
    text = answer.text if isinstance(answer, Broken) else answer if isinstance(answer, str) else ""
    order = itertools.count()
    begun = {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": model,
        "output": [],
        "status": "in_progress",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }

    def event(kind: str, **more: Any) -> dict[str, Any]:
        return {"type": f"response.{kind}", "sequence_number": next(order), **more}

    yield event("created", response=begun)
    if isinstance(answer, ToolUse):
        item = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": answer.name}
        where = {"item_id": item["id"], "output_index": 0}
        encoded = json.dumps(answer.input)
        yield event("output_item.added", output_index=0, item={**item, "arguments": "", "status": "in_progress"})
        yield event("function_call_arguments.delta", **where, delta=encoded)
        yield event("function_call_arguments.done", **where, arguments=encoded)
        done = {**item, "arguments": encoded, "status": "completed"}
    else:
        item = {"type": "message", "id": f"msg_{number}", "role": "assistant"}
        where = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": []}
        yield event("output_item.added", output_index=0, item={**item, "content": [], "status": "in_progress"})
        yield event("content_part.added", **where, part=part)
        yield event("output_text.delta", **where, delta=text, logprobs=[])
        if hangs:
            return
        yield event("output_text.done", **where, text=text, logprobs=[])
        yield event("content_part.done", **where, part={**part, "text": text})
        done = {**item, "content": [{**part, "text": text}], "status": "completed"}
    yield event("output_item.done", output_index=0, item=done)
    used = {
        "input_tokens": INPUT_TOKENS,
        "output_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 5},
    }
    yield event("completed", response={**begun, "status": "completed", "output": [done], "usage": used})


# --- Anthropic's Messages ---------------------------------------------------------------------------------------------


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
    """Return the message as the events in which it is streamed."""
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
