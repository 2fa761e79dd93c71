"""The only way to the network for jobs in the strict sandbox that may reach listed hosts: a proxy of the worker's.

It listens on a socket that is mounted into the jobs' namespaces and knows one method, CONNECT, so what passes it is
TLS, mostly, which it does not look into. A name is resolved once, here, and the connection goes to an address that was
checked: to one that is not public only if the address itself is listed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import structlog

from coordination.base.clock import monotonic
from coordination.domain.jobs.network import Address, Network, Place, parse_place
from workers.attempt.report_socket import ReportPeer, peer_of
from workers.runners import scratch_dirs
from workers.runners.forward import relay
from workers.runners.scratch_dirs import ScratchDir

log = structlog.get_logger()

PLACES = 32
"""Connections of one job at once; more are refused."""

_HEAD = 16 * 1024  # bytes of a request's head
_HEAD_PATIENCE = 10.0
_CONNECT_PATIENCE = 15.0
_IDLE = 15 * 60.0  # seconds; models think for minutes
_CHUNK = 1 << 12
_SOCKET = "proxy.sock"
_LONGEST_PATH = 100  # the system takes 107 bytes for a socket's
_LOOK = 60.0
_CALL_AGAIN = 0.02


class ProxyRefusal(Exception):
    """What the job is answered: a status line, and one sentence."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class ConnectProxy:
    """One for each worker process, until it is closed. *idle*: seconds without a byte that end a connection."""

    def __init__(self, folder: Path, network: Network, *, idle: float = _IDLE) -> None:
        self._short: ScratchDir | None = None
        path = str(folder / _SOCKET)
        if len(os.fsencode(path)) > _LONGEST_PATH:
            self._short = scratch_dirs.create(scratch_dirs.TEMPORARY, scratch_dirs.IN_TEMPORARY)
            path = str(self._short.path / _SOCKET)
        self.path = os.path.realpath(path)
        self._server = _Server(self.path, network, idle)
        serve = partial(self._server.serve_forever, poll_interval=_LOOK)
        threading.Thread(target=serve, name="connect-proxy", daemon=True).start()

    def close(self) -> None:
        """Listen no more; connections end with their jobs."""
        ending = threading.Thread(target=self._server.shutdown, daemon=True)
        ending.start()
        while ending.is_alive():  # it looks whether it is to end when somebody comes
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(_CALL_AGAIN)
                caller.connect(self.path)
            ending.join(timeout=_CALL_AGAIN)
        self._server.server_close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108
        if self._short is not None:
            self._short.close()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, network: Network, idle: float) -> None:
        self.network = network
        self.idle = idle
        self._lock = threading.Lock()
        self._taken: dict[int, int] = {}
        super().__init__(path, _Handler)
        os.chmod(path, 0o600)  # noqa: PTH101

    @contextlib.contextmanager
    def place_of(self, peer: ReportPeer) -> Iterator[bool]:
        """A connection of that job's; False where it has as many as it may."""
        with self._lock:
            taken = self._taken.get(peer.job, 0)
            free = taken < PLACES
            if free:
                self._taken[peer.job] = taken + 1
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._taken[peer.job] -= 1
                    if not self._taken[peer.job]:
                        del self._taken[peer.job]

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - as socketserver calls it
        """A bulkhead: what goes wrong with one connection is nobody else's matter."""
        log.error("a connection of a job broke", exc_info=True)  # noqa: LOG014 - in its except block


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        """One request, one connection."""
        job: socket.socket = self.request
        with contextlib.suppress(OSError), self.server.place_of(peer_of(job)) as free:
            if not free:
                job.sendall(_answer("429 Too Many Requests", f"A job has at most {PLACES} connections at once\n"))
                return
            try:
                head, rest = _head(job)
                target = _connect(_asked(head), self.server.network)
            except ProxyRefusal as refusal:
                job.sendall(_answer(refusal.status, f"{refusal}\n"))
                return
            with target:
                job.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                target.sendall(rest)
                relay(job, target, idle=self.server.idle)


def _head(job: socket.socket) -> tuple[bytes, bytes]:
    """The head of a request, and what came after it. OSError where it does not come in time."""
    deadline = monotonic() + _HEAD_PATIENCE
    data = b""
    while b"\r\n\r\n" not in data and len(data) <= _HEAD:
        job.settimeout(max(deadline - monotonic(), 0.001))
        more = job.recv(_CHUNK)
        if not more:
            raise ProxyRefusal("400 Bad Request", "The request is not complete")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    if len(head) > _HEAD:
        raise ProxyRefusal("431 Request Header Fields Too Large", "The head of the request is too long")
    return head, rest


def _asked(head: bytes) -> Place:
    """Where a request wants to go."""
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - method, target, version
        raise ProxyRefusal("400 Bad Request", "That is no request of HTTP/1")
    if words[0] != b"CONNECT":
        raise ProxyRefusal("405 Method Not Allowed", "This proxy only knows CONNECT, as for https")
    try:
        return parse_place(words[1].decode("ascii"))
    except ValueError:
        raise ProxyRefusal("400 Bad Request", "CONNECT needs a host and a port") from None


def _connect(place: Place, network: Network) -> socket.socket:
    """A connection to *place*, if it is listed."""
    host, port = place
    if not network.allows(host, port):
        log.info("a job was kept from a host that is not listed", host=host, port=port)
        raise ProxyRefusal("403 Forbidden", f"{host}:{port} is not in COORD_SANDBOX_NETWORK")
    found = _addresses(host, port)
    allowed = [address for address in found if network.may_connect(address, port)]
    if found and not allowed:
        log.warning("a listed host leads to an address that is not public", host=host, address=str(found[0]))
        raise ProxyRefusal(
            "403 Forbidden", f"{host} leads to {found[0]}, which is not public and not in COORD_SANDBOX_NETWORK"
        )
    for address in allowed:
        with contextlib.suppress(OSError):
            return socket.create_connection((str(address), port), timeout=_CONNECT_PATIENCE)
    raise ProxyRefusal("502 Bad Gateway", f"{host}:{port} cannot be reached")


def _addresses(host: str, port: int) -> list[Address]:
    """What a host is called in numbers, in the system's order."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(ipaddress.ip_address(str(one[4][0])) for one in found))


def _answer(status: str, body: str) -> bytes:
    text = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    return head.encode() + text
