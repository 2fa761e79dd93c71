"""The socket on which jobs report: who is at the other end, and a limited number of connections for each job.

A connection is counted for the job that the process at its other end carries the tag of, so that what one job opens
and leaves idle keeps no other job from reporting.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from coordination.clock import monotonic
from coordination.domain.attempts import Claim
from workers.runners import environment, stragglers
from workers.runners.base import Control

log = structlog.get_logger()

LONGEST_REQUEST = 1024 * 1024
"""Bytes."""

PLACES = 4
"""How many reports of one job are answered at once; as many as MOST_WAITING wait, and more are closed."""

MOST_WAITING = 60
FIRST_LINE = 2.0
"""Seconds in which a connection has to say something."""

_WHOLE_LINE = 10.0
_PATIENCE = 30.0
_CHUNK = 1 << 16
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a connection, as the kernel names it when it connects. ``pid`` 0: unknown."""

    pid: int
    job: int

    def belongs_to(self, claim: Claim, control: Control, others: Sequence[Control]) -> bool:
        """Whether the process is one of that attempt: in its session, or with its mark and in no *others'* session."""
        if self.pid <= 0:
            return False
        session = _session(self.pid)
        leader = control.process
        if leader is not None and leader.pid in (self.pid, session):
            return True
        if any(other.process is not None and other.process.pid in (self.pid, session) for other in others):
            return False
        mark = f"{environment.MARKER}={environment.attempt_prefix(claim.task_id, claim.attempt)}"
        return stragglers.is_marked(self.pid, [os.fsencode(mark)]) is True


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end, by number as this process knows them, also where that is in namespaces of its own."""
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(said)
    try:
        job = resource.prlimit(pid, resource.RLIMIT_RTTIME)[0] if pid > 0 else 0
    except (OSError, AttributeError):
        job = 0
    return Peer(pid, job if job > 0 else _session(pid))


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


class _Places:
    """Counts the connections of each job."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Counter[int] = Counter()
        self._taken: Counter[int] = Counter()

    @contextlib.contextmanager
    def of(self, job: int) -> Iterator[bool]:
        """Wait for a place of that job's; False where there is none in time, or too many wait already."""
        with self._changed:
            if self._waiting[job] >= MOST_WAITING:
                yield_place = False
            else:
                self._waiting[job] += 1
                try:
                    yield_place = self._changed.wait_for(lambda: self._taken[job] < PLACES, timeout=_PATIENCE)
                finally:
                    self._leave(self._waiting, job)
                self._taken[job] += yield_place
        try:
            yield yield_place
        finally:
            if yield_place:
                with self._changed:
                    self._leave(self._taken, job)
                    self._changed.notify_all()

    @staticmethod
    def _leave(counts: Counter[int], job: int) -> None:
        counts[job] -= 1
        if counts[job] <= 0:
            del counts[job]


class Server(socketserver.ThreadingUnixStreamServer):
    """Answers one line with one line of JSON. *answer* gets the line and who sent it."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, answer: Callable[[bytes, Peer], dict[str, Any]]) -> None:
        self.answer = answer
        self.places = _Places()
        super().__init__(path, _Handler)
        os.chmod(path, 0o600)  # noqa: PTH101

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as socketserver calls it
        """A bulkhead: what goes wrong with one job's report is nobody else's matter."""
        log.error("a report could not be answered", exc_info=True)  # noqa: LOG014 - in its except block


class _Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        """One request, one answer."""
        connection: socket.socket = self.request
        with contextlib.suppress(OSError):
            peer = peer_of(connection)
            with self.server.places.of(peer.job) as place:
                if not place or not (line := _line_from(connection)):
                    return
                connection.settimeout(_WHOLE_LINE)
                connection.sendall(json.dumps(self.server.answer(line, peer)).encode() + b"\n")


def _line_from(connection: socket.socket) -> bytes:
    """The first line, at most one byte longer than a request may be. OSError when it does not come in time."""
    deadline = monotonic() + _WHOLE_LINE
    connection.settimeout(FIRST_LINE)
    data = bytearray()
    while b"\n" not in data[-_CHUNK:] and len(data) <= LONGEST_REQUEST:
        more = connection.recv(_CHUNK)
        if not more:
            break
        data += more
        connection.settimeout(max(deadline - monotonic(), 0.001))
    return bytes(data.partition(b"\n")[0][: LONGEST_REQUEST + 1]) + (b"\n" if b"\n" in data else b"")
