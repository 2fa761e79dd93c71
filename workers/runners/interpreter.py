"""One warm interpreter as the worker sees it: batches of jobs go in, answers and what was printed come out.

They speak over one socket: frames of four bytes of length and a JSON object. A request is a
batch: {batch, path, limit, jobs: [{target, args, input, needs, env, cwd}, …]}; each job gets an answer of its own, in
order: {state: completed | failed | deferred | stale, output | error, traceback, exit_code, retryable, retire, took,
spent}.
``stale``: a module that this process has imported from the job's folders was changed since; ask a fresh process.
``retire``: the job left something behind that cannot be taken back (threads, processes, handlers), so this process is
not fit for another job, and takes none. ``took``: seconds. ``spent``: there is a file of costs to read.

Before each job a byte, the number of its batch, is taken from the pipe of permits. Whoever asked
can take permits back, and so knows for certain which jobs of a batch have not begun and never will: no byte is read
twice. After each job a boundary goes to the stream that takes what jobs print, so that its reader
can tell them apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import select
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
from workers.runners import environment, untrusted_files
from workers.runners.output import Capture, clean_json
from workers.runners.process import Launcher, Process
from workers.runners.process_watch import OutputReader

CHILD_MARKER = "COORD_CHILD_ID"

_read_json = json.JSONDecoder().raw_decode  # json.loads looks for an encoding and for blanks first, a job at a time

_CHUNK = 1 << 16
_HEAD = 4
_PROGRAM = str(Path(__file__).with_name("interpreter_main.py"))
_SOURCE_ROOT = str(Path(__file__).resolve().parents[2])
_SEND_PATIENCE = 30.0
_GOODBYE_PATIENCE = 1000  # milliseconds for a process to end in order, with its exit handlers
_SLACK = 1 << 20  # what an answer may hold besides the function's value


@dataclass(frozen=True, slots=True)
class InterpreterKey:
    """What is fixed for a process's whole life."""

    folder: str | None
    path: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    files: int | None = None  # how many it may open
    workspace: str = ""  # what the code of one has imported and changed is nothing for another


class InterpreterAnswers:
    """Collects the answers of an interpreter, in order, each with its ``size`` in bytes.

    ``nonsense``: something came that nobody can read.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit + _SLACK
        self._buffer = bytearray()
        self.found: deque[dict[str, Any]] = deque()
        self.nonsense = False

    def read(self, fd: int) -> OutputReader:
        """Take what arrived on *fd*; DONE when an answer is complete. To be given to a Watch."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return OutputReader.MORE
        except ConnectionResetError:
            data = b""
        if not data:
            return OutputReader.CLOSED
        self._buffer += data
        while len(self._buffer) >= _HEAD and not self.nonsense:
            size = int.from_bytes(self._buffer[:_HEAD], "big")
            if size <= self._limit and len(self._buffer) < _HEAD + size:
                break
            self._take(bytes(self._buffer[_HEAD : _HEAD + size]) if size <= self._limit else b"")
            del self._buffer[: _HEAD + size]
        return OutputReader.DONE if self.found or self.nonsense else OutputReader.MORE

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
            self.found.append(value)
        else:
            self.nonsense = True


class PrintedOutput:
    """What the jobs of a batch print, one text a job, told apart by the boundary that follows each."""

    def __init__(self, boundary: bytes, limit: int) -> None:
        self._boundary = boundary
        self._limit = limit
        self._open: Capture | None = None
        self._held = b""  # may be the beginning of a boundary
        self._show: Callable[[bytes], None] | None = None
        self._closed: deque[str] = deque()

    def feed(self, data: bytes) -> None:
        """Take what arrived next."""
        *ended, rest = (self._held + data).split(self._boundary)
        for text in ended:
            self._keep(text)
            self._close()
        keep = len(self._boundary) - 1
        # Only what may be a boundary's beginning waits for more; mostly that is nothing.
        at = rest.rfind(self._boundary[:1], max(len(rest) - keep, 0))
        held = len(rest) if at < 0 or not self._boundary.startswith(rest[at:]) else at
        self._held = rest[held:]
        self._keep(rest[:held])

    def show(self, show: Callable[[bytes], None]) -> None:
        """What the job that runs now has printed, and what it prints from here on, goes to *show* too."""
        if not self._closed:
            if self._open is not None:
                show(self._open.kept())
            self._show = show

    def take(self) -> str:
        """What the next job printed, all of it: call it when the job's boundary has been read, or will never come."""
        if not self._closed:
            self._keep(self._held)
            self._held = b""
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
    """One warm interpreter, seen from the worker. ``place``: where its jobs report costs in a sandbox."""

    def __init__(self, key: InterpreterKey, launcher: Launcher) -> None:
        self.key = key
        self.jobs = 0
        self._batch = 0
        self.place = launcher.make_place()
        self.born, self.idle_since = time.monotonic(), 0.0
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            undo.callback(untrusted_files.clear, self.place)
            undo.callback(theirs.close)
            self.output, output_end = _pipe(undo)
            # Both ends of the permits stay here too: those that were not used are taken back.
            self._permits, self._permits_in = _pipe(undo)
            os.set_blocking(self._permits, False)
            boundary = f"\x1e{secrets.token_hex(12)}\n"
            self.boundary = boundary.encode()
            self.process: Process = launcher.start(
                # -P: nothing beside the program is importable; -B: no files are written into the job's folders, and
                # no bytecode of a version that was overwritten within the same second is ever read back.
                [
                    *(sys.executable, "-u", "-P", "-B", _PROGRAM),
                    *(str(theirs.fileno()), str(self._permits), boundary, _SOURCE_ROOT),
                ],
                markers=[CHILD_MARKER],
                environment=environment.inherited() | dict(key.env) | {CHILD_MARKER: uuid.uuid4().hex},
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
        self._socket = ours

    @property
    def channel(self) -> int:
        """The descriptor on which answers arrive."""
        return self._socket.fileno()

    def send(self, path: Sequence[str], limit: int, jobs: Sequence[str]) -> None:
        """Hand it a batch of jobs, each a JSON object as a text. OSError: it is not there to take it."""
        self.jobs += len(jobs)
        self._batch = (self._batch + 1) % 256
        os.write(self._permits_in, bytes([self._batch]) * len(jobs))
        shared = json.dumps({"batch": self._batch, "path": path, "limit": limit})
        data = f'{shared[:-1]},"jobs":[{",".join(jobs)}]}}'.encode()
        self._socket.sendall(len(data).to_bytes(_HEAD, "big") + data)

    def withdraw(self) -> int:
        """Take back the jobs that have not begun, certainly and for ever; how many."""
        try:
            return len(os.read(self._permits, _CHUNK))
        except BlockingIOError:
            return 0

    def waiting(self) -> int:
        """How many of the jobs that were sent have not begun."""
        return int.from_bytes(fcntl.ioctl(self._permits, termios.FIONREAD, bytes(4)), sys.byteorder)

    def is_alive(self) -> bool:
        """Whether the process has not exited."""
        waiter = select.poll()
        waiter.register(self.process.exit_fd, select.POLLIN)
        return not waiter.poll(0)

    def read_output(self, printed: PrintedOutput) -> None:
        """Take all that was printed so far."""
        while True:
            try:
                data = os.read(self.output, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                return
            printed.feed(data)

    def say_goodbye(self) -> None:
        """Let an idle process end in order."""
        self._socket.close()
        waiter = select.poll()
        waiter.register(self.process.exit_fd, select.POLLIN)
        waiter.poll(_GOODBYE_PATIENCE)

    def close(self) -> int | None:
        """End it now, with everything it started. Returns its exit code."""
        exit_code = self.process.end()
        untrusted_files.clear(self.place)
        self._socket.close()
        for fd in (self.output, self._permits, self._permits_in):
            if fd >= 0:
                os.close(fd)
        self.output = self._permits = self._permits_in = -1
        return exit_code


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    undo.callback(os.close, reading)
    undo.callback(os.close, writing)
    return reading, writing
