"""``coord mcp`` inside a job: answers its agent, and forwards tool calls to the worker. Standard library only.

An agent may send its first request to its model without the tools of a slow server, so this program must list its tools
at once. A tool call is one line to the socket of the attempt, where the worker checks the token and the process as for
``coord task``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, BinaryIO

from coordination.mcp_server.session import INVALID_REQUEST, PARSE_ERROR, McpSession, error_response
from coordination.mcp_server.tools import Tool

LONGEST_MESSAGE = 8 * 1024 * 1024
"""Bytes; the worker accepts reports of a megabyte."""

MOST_WAITING = 100
"""The maximum number of calls that wait for earlier ones; more are refused."""


def serve(
    reporting: Sequence[Tool],
    reading: Sequence[Tool] = (),
    *,
    lines: BinaryIO | None = None,
    out: BinaryIO | None = None,
) -> None:
    """Serve until *lines*, or stdin, ends. Tool calls run one at a time in a separate thread."""
    source, session = lines or sys.stdin.buffer, McpSession(reporting, reading)
    write, calls = _writer(out or sys.stdout.buffer), SimpleQueue[Any]()
    waiting = threading.Semaphore(MOST_WAITING)

    def run_calls() -> None:
        while (run := calls.get()) is not None:
            write(run())
            waiting.release()

    caller = threading.Thread(target=run_calls, name="calls", daemon=True)
    caller.start()
    while line := source.readline(LONGEST_MESSAGE + 1):
        message = _read_message(line, source, write)
        if message is None:
            continue
        answer = session.answer(message)
        if not callable(answer):
            write(answer)
        elif waiting.acquire(blocking=False):
            calls.put(answer)
        else:
            write(
                error_response(message["id"], INVALID_REQUEST, f"{MOST_WAITING} calls wait already. Wait for a result.")
            )
    calls.put(None)
    caller.join()


def _read_message(line: bytes, source: BinaryIO, write: Callable[[dict[str, Any]], None]) -> Any:
    """Return the parsed line, or None after answering with an error."""
    if len(line) > LONGEST_MESSAGE:
        while line and not line.endswith(b"\n"):
            line = source.readline(LONGEST_MESSAGE)
        write(error_response(None, INVALID_REQUEST, f"The message is longer than {LONGEST_MESSAGE:,} bytes"))
        return None
    if not line.strip():
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        write(error_response(None, PARSE_ERROR, "The line is not JSON"))
        return None
    return [] if message is None else message


def _writer(out: BinaryIO) -> Callable[[dict[str, Any] | None], None]:
    """Return a function that writes answers, one line each, from any thread; a closed pipe is ignored."""
    lock = threading.Lock()

    def write(answer: dict[str, Any] | None) -> None:
        if answer is not None:
            line = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
            with lock, contextlib.suppress(BrokenPipeError):
                out.write(line)
                out.flush()

    return write
