"""``coord mcp`` inside a job: answers its agent itself, and passes calls on to the worker. Standard library only.

An agent sends its first request to its model when its servers have answered, or without their tools: so what the server
is and which tools it has is said at once, from this small program. A call of a tool is one line to the socket of the
attempt, where the worker checks the token and the process as it does for ``coord task``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, BinaryIO

from coordination.mcp_server.session import INVALID_REQUEST, PARSE_ERROR, McpSession, failed
from coordination.mcp_server.tools import Tool

LONGEST_MESSAGE = 8 * 1024 * 1024
"""Bytes; the worker takes reports of a megabyte."""

MOST_WAITING = 100
"""Calls that wait for those before them; more are refused."""


def serve(
    reporting: Sequence[Tool],
    reading: Sequence[Tool] = (),
    *,
    lines: BinaryIO | None = None,
    out: BinaryIO | None = None,
) -> None:
    """Answer until *lines*, or stdin, ends. Calls of tools run one after the other, beside everything else."""
    source, session = lines or sys.stdin.buffer, McpSession(reporting, reading)
    say, calls = _writer(out or sys.stdout.buffer), SimpleQueue[Any]()
    waiting = threading.Semaphore(MOST_WAITING)

    def run_calls() -> None:
        while (run := calls.get()) is not None:
            say(run())
            waiting.release()

    caller = threading.Thread(target=run_calls, name="calls", daemon=True)
    caller.start()
    while line := source.readline(LONGEST_MESSAGE + 1):
        message = _message(line, source, say)
        if message is None:
            continue
        answer = session.answer(message)
        if not callable(answer):
            say(answer)
        elif waiting.acquire(blocking=False):
            calls.put(answer)
        else:
            say(failed(message["id"], INVALID_REQUEST, f"{MOST_WAITING} calls wait already. Wait for an answer."))
    calls.put(None)
    caller.join()


def _message(line: bytes, source: BinaryIO, say: Callable[[dict[str, Any]], None]) -> Any:
    """What the line says, or None after a complaint about it."""
    if len(line) > LONGEST_MESSAGE:
        while line and not line.endswith(b"\n"):
            line = source.readline(LONGEST_MESSAGE)
        say(failed(None, INVALID_REQUEST, f"The message is longer than {LONGEST_MESSAGE:,} bytes"))
        return None
    if not line.strip():
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        say(failed(None, PARSE_ERROR, "That is not a line of JSON"))
        return None
    return [] if message is None else message


def _writer(out: BinaryIO) -> Callable[[dict[str, Any] | None], None]:
    """Return what writes answers, one line each, from any thread; a client that reads no more is none to tell."""
    lock = threading.Lock()

    def say(answer: dict[str, Any] | None) -> None:
        if answer is not None:
            line = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
            with lock, contextlib.suppress(BrokenPipeError):
                out.write(line)
                out.flush()

    return say
