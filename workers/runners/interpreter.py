"""The worker's side of a reusable Python interpreter: sends batches of jobs, receives answers and output.

They communicate over one socket in frames of four bytes of length and a JSON object. A request is a batch:
{batch, path, limit, jobs: [{target, args, input, needs, env, cwd}, …]}; each job gets its own answer, in order:
{state: completed | failed | deferred | stale, output | error, traceback, exit_code, retryable, retire, took, spent}.
``stale``: a module that this process imported from the job's directories has changed; use a fresh process.
``retire``: the job left something that cannot be undone (threads, processes, handlers), so this process runs no further
job. ``took``: seconds. ``spent``: there is a usage file to read.

Before each job, the interpreter reads a byte, the number of its batch, from the pipe of permits. The worker can take
permits back, so that it knows which jobs of a batch have not begun and never will: no byte is read twice. After each
job, the interpreter prints a boundary, by which the reader of the output separates jobs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import sys
import termios
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordination.domain.jobs.resource_limits import Limits
from workers.runners import environment, orphan_reaper, untrusted_files
from workers.runners.output import Capture, clean_json
from workers.runners.process import Launcher, Process
from workers.runners.program import OutputReader

CHILD_MARKER = "COORD_CHILD_ID"

_read_json = json.JSONDecoder().raw_decode  # faster than json.loads, which detects encodings and skips blanks

_CHUNK = 1 << 16
_HEAD = 4
_PROGRAM = str(Path(__file__).with_name("interpreter_main.py"))
_SOURCE_ROOT = str(Path(__file__).resolve().parents[2])
_SEND_PATIENCE = 30.0
_GOODBYE_PATIENCE = 1.0  # seconds for a process to end in order, with its exit handlers
_SLACK = 1 << 20  # bytes of an answer besides the function's value


@dataclass(frozen=True, slots=True)
class InterpreterKey:
    """The fixed properties of a process."""

    folder: str | None
    path: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    files: int | None = None  # how many it may open
    workspace: str = ""  # workspaces must not share imported modules and their state


class InterpreterAnswers:
    """Collects the answers of an interpreter, in order, each with its ``size`` in bytes.

    ``malformed``: something arrived that is not an answer.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit + _SLACK
        self._buffer = bytearray()
        self.queue: deque[dict[str, Any]] = deque()
        self.malformed = False

    def read(self, fd: int) -> OutputReader:
        """Read from *fd*. Return DONE when an answer is complete. For use in a ProcessWatch."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return OutputReader.MORE
        except ConnectionResetError:
            data = b""
        if not data:
            return OutputReader.CLOSED
        self._buffer += data
        while len(self._buffer) >= _HEAD and not self.malformed:
            size = int.from_bytes(self._buffer[:_HEAD], "big")
            if size <= self._limit and len(self._buffer) < _HEAD + size:
                break
            self._take(bytes(self._buffer[_HEAD : _HEAD + size]) if size <= self._limit else b"")
            del self._buffer[: _HEAD + size]
        return OutputReader.DONE if self.queue or self.malformed else OutputReader.MORE

    def _take(self, frame: bytes) -> None:
        try:
            text = frame.decode("utf-8", "surrogatepass")
            value, end = _read_json(text)
            if b"\\u0000" in frame or b"\\ud" in frame.lower():
                value = clean_json(value)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and isinstance(value.get("state"), str) and end == len(text):
            value["size"] = len(frame)
            self.queue.append(value)
        else:
            self.malformed = True


class PrintedOutput:
    """The output of the jobs of a batch, split into one text per job at the boundaries."""

    def __init__(self, boundary: bytes, limit: int) -> None:
        self._boundary = boundary
        self._limit = limit
        self._open: Capture | None = None
        self._partial = b""  # may be the beginning of a boundary
        self._show: Callable[[bytes], None] | None = None
        self._closed: deque[str] = deque()

    def feed(self, data: bytes) -> None:
        """Add output."""
        *ended, rest = (self._partial + data).split(self._boundary)
        for text in ended:
            self._keep(text)
            self._close()
        keep = len(self._boundary) - 1
        # Only a possible beginning of a boundary waits for more data.
        at = rest.rfind(self._boundary[:1], max(len(rest) - keep, 0))
        end = len(rest) if at < 0 or not self._boundary.startswith(rest[at:]) else at
        self._partial = rest[end:]
        self._keep(rest[:end])

    def show(self, show: Callable[[bytes], None]) -> None:
        """Pass the output of the running job, so far and from now on, to *show* too."""
        if not self._closed:
            if self._open is not None:
                show(self._open.kept())
            self._show = show

    def take(self) -> str:
        """Return the whole output of the next job. Call it after the job's boundary, or when none will follow."""
        if not self._closed:
            self._keep(self._partial)
            self._partial = b""
            self._close()
        return self._closed.popleft()

    def _keep(self, data: bytes) -> None:
        if data:
            if self._open is None:
                self._open = Capture(self._limit)
            self._open.feed(data)
            if self._show is not None:
                self._show(data)

    def _close(self) -> None:
        self._closed.append("" if self._open is None else self._open.text())
        self._open = self._show = None


class Interpreter:
    """One interpreter process. ``channel``: the descriptor on which answers arrive.

    ``place``: the directory for its jobs' usage files in a sandbox.
    """

    def __init__(self, key: InterpreterKey, launcher: Launcher) -> None:
        self.key = key
        self.jobs = 0
        self._batch = 0
        self.place = launcher.make_place()
        self.born, self.idle_since = time.monotonic(), 0.0
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            undo.callback(untrusted_files.delete_quietly, self.place)
            undo.callback(theirs.close)
            self.output, output_end = _pipe(undo)
            # Both ends of the permits stay open here, to take unused ones back.
            self._permits, self._permits_in = _pipe(undo)
            os.set_blocking(self._permits, False)
            boundary = f"\x1e{secrets.token_hex(12)}\n"
            self.boundary = boundary.encode()
            self.process: Process = launcher.start(
                # -P: files beside the program are not importable. -B: no files are written into the job's directories,
                # and no stale bytecode of a source that was overwritten within the same second is read.
                [
                    *(sys.executable, "-u", "-P", "-B", _PROGRAM),
                    *(str(theirs.fileno()), str(self._permits), boundary, _SOURCE_ROOT),
                ],
                marker=CHILD_MARKER,
                environment=environment.base_variables() | dict(key.env) | {CHILD_MARKER: uuid.uuid4().hex},
                folder=key.folder or "/",
                stdout=output_end,
                stderr=output_end,
                pass_on=[theirs.fileno(), self._permits],
                limits=Limits(files=key.files),
                write=[key.folder or "/", *([] if self.place is None else [self.place])],
                read=key.path,
            )
            undo.pop_all()
        theirs.close()
        os.close(output_end)
        ours.settimeout(_SEND_PATIENCE)
        os.set_blocking(self.output, False)
        self._socket, self.channel = ours, ours.fileno()

    def send(self, path: Sequence[str], limit: int, jobs: Sequence[str]) -> None:
        """Send a batch of jobs, each as JSON text. Raises OSError when the process has ended."""
        self.jobs += len(jobs)
        self._batch = (self._batch + 1) % 256
        os.write(self._permits_in, bytes([self._batch]) * len(jobs))
        shared = json.dumps({"batch": self._batch, "path": path, "limit": limit})
        data = f'{shared[:-1]},"jobs":[{",".join(jobs)}]}}'.encode()
        self._socket.sendall(len(data).to_bytes(_HEAD, "big") + data)

    def withdraw(self) -> int:
        """Take back the jobs that have not begun. Return how many; these will never begin."""
        try:
            return len(os.read(self._permits, _CHUNK))
        except BlockingIOError:
            return 0

    def count_waiting(self) -> int:
        """Return how many of the sent jobs have not begun."""
        return int.from_bytes(fcntl.ioctl(self._permits, termios.FIONREAD, bytes(4)), sys.byteorder)

    def is_alive(self, patience: float = 0.0) -> bool:
        """Return whether the process has not exited, and does not exit within *patience* (seconds)."""
        return bool(orphan_reaper.wait_for_exits([self.process.exit_fd], time.monotonic() + patience))

    def read_output(self, printed: PrintedOutput) -> None:
        """Read the output so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.output, _CHUNK):
                printed.feed(data)

    def end_gently(self) -> None:
        """Let an idle process end, with its exit handlers."""
        self._socket.close()
        self.is_alive(_GOODBYE_PATIENCE)

    def close(self) -> int | None:
        """End it now with all its descendants. Return its exit code."""
        exit_code = self.process.end()
        untrusted_files.delete_quietly(self.place)
        self._socket.close()
        for fd in (self.output, self._permits, self._permits_in):
            if fd >= 0:
                os.close(fd)
        self.channel = self.output = self._permits = self._permits_in = -1
        return exit_code


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    undo.callback(os.close, reading)
    undo.callback(os.close, writing)
    return reading, writing
