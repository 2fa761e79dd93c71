"""The sockets on which jobs report: who is at the other end, and a limited number of connections for each job.

Each attempt has a socket of its own; one thread listens on those of a whole worker. A connection is counted for the job
that the process at its other end carries the tag of, so that what one job opens and leaves idle keeps no other job from
reporting.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from coordination.base.clock import monotonic
from coordination.domain.tasks.attempts import Claim
from workers.runners import environment, orphan_reaper
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
_BACKLOG = 64
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_PAUSE = 0.05
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class ReportPeer:
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
        return orphan_reaper.is_marked(self.pid, [os.fsencode(mark)]) is True


def peer_of(connection: socket.socket) -> ReportPeer:
    """Who is at the other end, by number as this process knows them, also where that is in namespaces of its own."""
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(said)
    try:
        job = resource.prlimit(pid, resource.RLIMIT_RTTIME)[0] if pid > 0 else 0
    except (OSError, AttributeError):
        job = 0
    return ReportPeer(pid, job if job > 0 else _session(pid))


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


Answer = Callable[[bytes, ReportPeer], dict[str, Any]]
"""Gets a line and who sent it, and returns what is answered."""


class ReportListener:
    """The socket of one attempt."""

    def __init__(self, path: str, answer: Answer) -> None:
        self.answer = answer
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self.socket.bind(path)
            os.chmod(path, 0o600)  # noqa: PTH101
            self.socket.listen(_BACKLOG)
        except BaseException:
            self.socket.close()
            raise


class ReportServer:
    """Answers one line with one line of JSON, on the sockets of all attempts of a process.

    Its thread begins with the first socket. It only accepts: each connection has a short thread of its own.
    """

    def __init__(self) -> None:
        self._places = _Places()
        self._lock = threading.Lock()
        self._listeners: dict[int, ReportListener] = {}
        self._waiter: select.epoll | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None

    def listen(self, path: str, answer: Answer) -> ReportListener:
        """Listen on a new socket at *path*. Raises OSError."""
        listener = ReportListener(path, answer)
        with self._lock:
            if self._waiter is None:
                self._waiter = select.epoll()
                self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                self._waiter.register(self._wake, select.EPOLLIN)
                self._thread = threading.Thread(
                    target=self._serve, args=(self._waiter, self._wake), name="reporting", daemon=True
                )
                self._thread.start()
            fd = listener.socket.fileno()
            self._listeners[fd] = listener
            self._waiter.register(fd, select.EPOLLIN)
        return listener

    def stop(self, listener: ReportListener) -> None:
        """Listen no more on this one; may be repeated. What was accepted is still answered."""
        with self._lock:
            if self._listeners.pop(listener.socket.fileno(), None) is not None and self._waiter is not None:
                self._waiter.unregister(listener.socket.fileno())
            listener.socket.close()

    def close(self) -> None:
        """Listen no more at all."""
        with self._lock:
            thread, waiter, wake = self._thread, self._waiter, self._wake
            self._thread = self._waiter = None
            left = list(self._listeners.values())
            self._listeners.clear()
        if thread is None or waiter is None:
            return
        os.eventfd_write(wake, 1)
        thread.join()
        waiter.close()
        os.close(wake)
        for listener in left:
            listener.socket.close()

    def _serve(self, waiter: select.epoll, wake: int) -> None:
        while True:
            ready = [fd for fd, _ in waiter.poll()]
            if wake in ready:
                return
            for fd in ready:
                self._accept(fd)

    def _accept(self, fd: int) -> None:
        with self._lock:  # so that the number is not another socket's by now
            listener, full = self._listeners.get(fd), False
            if listener is None:
                return
            connection: socket.socket | None
            try:
                connection, _ = listener.socket.accept()
            except OSError as error:
                connection, full = None, error.errno in _FULL
        if connection is None:
            if full:
                time.sleep(_PAUSE)  # the socket stays ready: without a pause this thread would spin
            return
        try:
            threading.Thread(target=self._handle, args=(connection, listener.answer), daemon=True).start()
        except RuntimeError:  # no more threads
            connection.close()

    def _handle(self, connection: socket.socket, answer: Answer) -> None:
        """One request, one answer. A bulkhead: what goes wrong with one job's report is nobody else's matter."""
        try:
            with connection, contextlib.suppress(OSError):
                peer = peer_of(connection)
                with self._places.of(peer.job) as place:
                    if not place or not (line := _line_from(connection)):
                        return
                    connection.settimeout(_WHOLE_LINE)
                    connection.sendall(json.dumps(answer(line, peer)).encode() + b"\n")
        except Exception:
            log.exception("a report could not be answered")


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
