"""Keeps interpreters warm for Python jobs: each serves one job at a time, idle ones are reused, old ones retired.

Idle processes are kept apart by what is fixed when a process starts: module path, folder, environment of the job.
What crashed, was stopped or left something behind is never given out again.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from workers.runners import environment
from workers.runners.output import Capture, clean_json
from workers.runners.process import Launcher, Process
from workers.runners.watch import Reading

CHILD_MARKER = "COORD_CHILD_ID"

_CHUNK = 1 << 16
_PROGRAM = str(Path(__file__).with_name("child.py"))
_SOURCE_ROOT = str(Path(__file__).resolve().parents[2])
_SEND_PATIENCE = 30.0
_GOODBYE_PATIENCE = 1000  # milliseconds for a process to end in order, with its exit handlers
_SLACK = 1 << 20  # what an answer may hold besides the function's value


@dataclass(frozen=True, slots=True)
class Key:
    """What is fixed for a process's whole life."""

    folder: str | None
    path: tuple[str, ...]
    env: tuple[tuple[str, str], ...]


class Answer:
    """Collects one answer of a child; ``value`` is it, once it is complete, and None when it makes no sense."""

    def __init__(self, limit: int) -> None:
        self._limit = limit + _SLACK
        self._buffer = bytearray()
        self.value: dict[str, Any] | None = None
        self.nonsense = False

    def read(self, fd: int) -> Reading:
        """Take what arrived on *fd*; to be given to a Watch."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return Reading.MORE
        except ConnectionResetError:
            data = b""
        if not data:
            return Reading.CLOSED
        self._buffer += data
        size = int.from_bytes(self._buffer[:4], "big")
        if len(self._buffer) < 4 or (size <= self._limit and len(self._buffer) < 4 + size):  # noqa: PLR2004 - the length
            return Reading.MORE
        self._finish(bytes(self._buffer[4 : 4 + size]) if size <= self._limit else b"")
        return Reading.DONE

    def _finish(self, frame: bytes) -> None:
        try:
            value = json.loads(frame)
            if b"\\u0000" in frame or b"\\ud" in frame.lower():
                value = clean_json(value)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and isinstance(value.get("state"), str):
            self.value = value
        else:
            self.nonsense = True


class Child:
    """One warm interpreter, seen from the worker."""

    def __init__(self, key: Key, launcher: Launcher) -> None:
        self.key = key
        self.jobs = 0
        self.idle_since = 0.0
        ours, theirs = socket.socketpair()
        output, output_end = os.pipe2(os.O_CLOEXEC)
        try:
            self.process: Process = launcher.start(
                # -P: nothing beside the program is importable; -B: no files are written into the job's folders, and
                # no bytecode of a version that was overwritten within the same second is ever read back.
                [sys.executable, "-u", "-P", "-B", _PROGRAM, str(theirs.fileno()), _SOURCE_ROOT],
                markers=[CHILD_MARKER],
                environment=environment.inherited() | dict(key.env) | {CHILD_MARKER: uuid.uuid4().hex},
                folder=key.folder or "/",
                stdout=output_end,
                stderr=output_end,
                pass_on=[theirs.fileno()],
            )
        except BaseException:
            ours.close()
            os.close(output)
            raise
        finally:
            theirs.close()
            os.close(output_end)
        ours.settimeout(_SEND_PATIENCE)
        os.set_blocking(output, False)
        self._socket = ours
        self.output = output

    @property
    def channel(self) -> int:
        """The descriptor on which answers arrive."""
        return self._socket.fileno()

    def send(self, request: Mapping[str, Any]) -> None:
        """Hand it a job. OSError: it is not there to take it."""
        self.jobs += 1
        data = json.dumps({"id": self.jobs, **request}).encode()
        self._socket.sendall(len(data).to_bytes(4, "big") + data)

    def is_alive(self) -> bool:
        """Whether the process has not exited."""
        waiter = select.poll()
        waiter.register(self.process.exit_fd, select.POLLIN)
        return not waiter.poll(0)

    def read_output(self, capture: Capture) -> None:
        """Take all that was printed so far."""
        while True:
            try:
                data = os.read(self.output, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                return
            capture.feed(data)

    def say_goodbye(self) -> None:
        """Let an idle process end in order."""
        self._socket.close()
        waiter = select.poll()
        waiter.register(self.process.exit_fd, select.POLLIN)
        waiter.poll(_GOODBYE_PATIENCE)

    def close(self) -> int | None:
        """End it now, with everything it started. Returns its exit code."""
        exit_code = self.process.end()
        self._socket.close()
        if self.output >= 0:
            os.close(self.output)
            self.output = -1
        return exit_code


class Pool:
    """The warm interpreters of one worker process; thread-safe."""

    def __init__(
        self,
        launcher: Launcher,
        *,
        max_idle: int = 16,
        max_idle_age: timedelta = timedelta(seconds=60),
        max_jobs: int = 1000,
    ) -> None:
        self._launcher = launcher
        self._max_idle = max_idle
        self._max_age = max_idle_age.total_seconds()
        self._max_jobs = max_jobs
        self._changed = threading.Condition()
        self._idle: deque[Child] = deque()  # the longest idle first
        self._retired: list[Child] = []
        self._janitor: threading.Thread | None = None
        self._closed = False

    def take(self, key: Key) -> Child:
        """A process for *key*: the one that was idle last, or a new one. Raises OSError when none can be started."""
        while True:
            with self._changed:
                child = next((child for child in reversed(self._idle) if child.key == key), None)
                if child is None:
                    break
                self._idle.remove(child)
            if child.is_alive():
                return child
            child.close()
        return Child(key, self._launcher)

    def give_back(self, child: Child) -> None:
        """The process is fit for another job."""
        child.idle_since = time.monotonic()
        with self._changed:
            if self._closed or child.jobs >= self._max_jobs:
                self._retired.append(child)
            else:
                self._idle.append(child)
                if len(self._idle) > self._max_idle:
                    self._retired.append(self._idle.popleft())
            closed = self._closed
            if self._janitor is None and not closed:
                self._janitor = threading.Thread(target=self._tidy, name="interpreter-janitor", daemon=True)
                self._janitor.start()
            elif self._retired:
                self._changed.notify_all()
        if closed:
            self._end_retired()

    def idle_count(self) -> int:
        """How many processes wait for a job."""
        with self._changed:
            return len(self._idle)

    def close(self) -> None:
        """End all idle processes; those at work end with their job."""
        with self._changed:
            self._closed = True
            self._retired += self._idle
            self._idle.clear()
            self._changed.notify_all()
        if self._janitor is not None:
            self._janitor.join()
        self._end_retired()

    def _tidy(self) -> None:
        """The janitor's loop: sleeps until a process is too old, or was retired."""
        while True:
            with self._changed:
                while not self._retired and not self._closed and not self._take_old_ones():
                    oldest = self._idle[0].idle_since + self._max_age - time.monotonic() if self._idle else None
                    self._changed.wait(oldest)
                if self._closed:
                    return
            self._end_retired()

    def _take_old_ones(self) -> bool:
        limit = time.monotonic() - self._max_age
        while self._idle and self._idle[0].idle_since <= limit:
            self._retired.append(self._idle.popleft())
        return bool(self._retired)

    def _end_retired(self) -> None:
        with self._changed:
            leaving, self._retired = self._retired, []
        for child in leaving:
            child.say_goodbye()
            child.close()
