"""The sockets on which jobs report: identification of the peer, and a limit of connections for each job.

Each attempt has its own socket; one thread listens on all sockets of a worker. A connection counts for the job whose
tag the peer process has, so that idle connections of one job do not keep other jobs from reporting.
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

MOST_AT_ONCE = 4
"""Reports of one job that are answered at the same time. Up to MOST_WAITING wait; more are closed."""

MOST_WAITING = 60
FIRST_LINE = 2.0
"""Seconds in which the first data of a connection must arrive."""

_WHOLE_LINE = 10.0
_PATIENCE = 30.0
_CHUNK = 1 << 16
_BACKLOG = 64
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_PAUSE = 0.05
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class ReportPeer:
    """The peer process of a connection, as reported by the kernel at its start. ``pid`` 0: unknown."""

    pid: int
    job: int

    def belongs_to(self, claim: Claim, control: Control, others: Sequence[Control]) -> bool:
        """Return whether the process is in the attempt's session, or has its marker and is in no session of others."""
        if self.pid <= 0:
            return False
        session = _session(self.pid)
        leader = control.process
        if leader is not None and leader.pid in (self.pid, session):
            return True
        if any(other.process is not None and other.process.pid in (self.pid, session) for other in others):
            return False
        marker = f"{environment.MARKER}={environment.attempt_prefix(claim.task_id, claim.attempt)}"
        return orphan_reaper.is_marked(self.pid, [os.fsencode(marker)]) is True


def read_peer(connection: socket.socket) -> ReportPeer:
    """Return the peer process. Its pid is translated to this process's namespace."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
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


class _ConnectionCounts:
    """Limits the connections of each job."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Counter[int] = Counter()
        self._active: Counter[int] = Counter()

    @contextlib.contextmanager
    def of(self, job: int) -> Iterator[bool]:
        """Wait for a free connection of the job; yield False when none becomes free in time or too many wait."""
        with self._changed:
            if self._waiting[job] >= MOST_WAITING:
                is_accepted = False
            else:
                self._waiting[job] += 1
                try:
                    is_accepted = self._changed.wait_for(lambda: self._active[job] < MOST_AT_ONCE, timeout=_PATIENCE)
                finally:
                    self._decrement(self._waiting, job)
                self._active[job] += is_accepted
        try:
            yield is_accepted
        finally:
            if is_accepted:
                with self._changed:
                    self._decrement(self._active, job)
                    self._changed.notify_all()

    @staticmethod
    def _decrement(counts: Counter[int], job: int) -> None:
        counts[job] -= 1
        if counts[job] <= 0:
            del counts[job]


Answer = Callable[[bytes, ReportPeer], dict[str, Any]]
"""Takes a line and its sender, and returns the answer."""


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
    """Answers each line with one line of JSON, on the sockets of all attempts of a process.

    Its thread starts with the first socket and only accepts connections: each has a short-lived thread of its own.
    """

    def __init__(self) -> None:
        self._connections = _ConnectionCounts()
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
        """Stop listening on this socket; may be repeated. Accepted requests are still answered."""
        with self._lock:
            if self._listeners.pop(listener.socket.fileno(), None) is not None and self._waiter is not None:
                self._waiter.unregister(listener.socket.fileno())
            listener.socket.close()

    def close(self) -> None:
        """Stop listening on all sockets."""
        with self._lock:
            thread, waiter, wake = self._thread, self._waiter, self._wake
            self._thread = self._waiter = None
            listeners = list(self._listeners.values())
            self._listeners.clear()
        if thread is None or waiter is None:
            return
        os.eventfd_write(wake, 1)
        thread.join()
        waiter.close()
        os.close(wake)
        for listener in listeners:
            listener.socket.close()

    def _serve(self, waiter: select.epoll, wake: int) -> None:
        while True:
            ready = [fd for fd, _ in waiter.poll()]
            if wake in ready:
                return
            for fd in ready:
                self._accept(fd)

    def _accept(self, fd: int) -> None:
        with self._lock:  # so that the descriptor is not reused by another socket
            listener, is_full = self._listeners.get(fd), False
            if listener is None:
                return
            connection: socket.socket | None = None
            try:
                connection, _ = listener.socket.accept()
            except OSError as error:
                is_full = error.errno in _FULL
        if connection is None:
            if is_full:
                time.sleep(_PAUSE)  # the socket stays readable: without a pause this thread would spin
            return
        try:
            threading.Thread(target=self._handle, args=(connection, listener.answer), daemon=True).start()
        except RuntimeError:  # no more threads
            connection.close()

    def _handle(self, connection: socket.socket, answer: Answer) -> None:
        """Answer one request. An error in it must not affect other jobs."""
        try:
            with connection, contextlib.suppress(OSError):
                peer = read_peer(connection)
                with self._connections.of(peer.job) as is_accepted:
                    if not is_accepted or not (line := _read_line(connection)):
                        return
                    connection.settimeout(_WHOLE_LINE)
                    connection.sendall(json.dumps(answer(line, peer)).encode() + b"\n")
        except Exception:
            log.exception("a report could not be answered")


def _read_line(connection: socket.socket) -> bytes:
    """Return the first line, at most one byte over the limit. Raises OSError when it does not arrive in time."""
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
