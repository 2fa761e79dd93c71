"""The worker's proxy, the only network access of jobs in the strict sandbox that may reach listed hosts.

It listens on a socket that is mounted into the jobs' namespaces and supports only CONNECT, so it mostly passes on TLS
unread. It resolves each name once and connects only to checked addresses. An address that is not public must be listed
itself.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import structlog

from coordination.base.clock import monotonic
from coordination.domain.jobs.network import Address, Network, Place, parse_place
from workers.attempt.report_socket import ReportPeer, read_peer
from workers.runners import scratch_dirs
from workers.runners.forward import relay
from workers.runners.scratch_dirs import ScratchDir

log = structlog.get_logger()

MOST_CONNECTIONS = 32
"""Concurrent connections of one job; more are refused."""

_HEAD = 16 * 1024  # bytes of a request's head
_HEAD_PATIENCE = 10.0
_CONNECT_PATIENCE = 15.0
_IDLE = 15 * 60.0  # seconds; models think for minutes
_CHUNK = 1 << 12
_SOCKET = "proxy.sock"
_LONGEST_PATH = 100  # the kernel accepts 107 bytes for a socket
_POLL_INTERVAL = 60.0
_CONNECT_AGAIN = 0.02


class ProxyRefusal(Exception):
    """An HTTP error for the job: a status line and one sentence."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class ConnectProxy:
    """The proxy of a worker process. *idle*: seconds without data after which a connection is closed."""

    def __init__(self, folder: Path, network: Network, *, idle: float = _IDLE) -> None:
        self._short: ScratchDir | None = None
        path = str(folder / _SOCKET)
        if len(os.fsencode(path)) > _LONGEST_PATH:
            self._short = scratch_dirs.create(scratch_dirs.TEMPORARY, scratch_dirs.IN_TEMPORARY)
            path = str(self._short.path / _SOCKET)
        self.path = os.path.realpath(path)
        self._server = _Server(self.path, network, idle)
        serve = partial(self._server.serve_forever, poll_interval=_POLL_INTERVAL)
        threading.Thread(target=serve, name="connect-proxy", daemon=True).start()

    def close(self) -> None:
        """Stop listening; open connections end with their jobs."""
        ending = threading.Thread(target=self._server.shutdown, daemon=True)
        ending.start()
        while ending.is_alive():  # the server checks for the end at each connection
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.settimeout(_CONNECT_AGAIN)
                client.connect(self.path)
            ending.join(timeout=_CONNECT_AGAIN)
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
        self._connections: Counter[int] = Counter()
        super().__init__(path, _Handler)
        os.chmod(path, 0o600)  # noqa: PTH101

    @contextlib.contextmanager
    def connection_of(self, peer: ReportPeer) -> Iterator[bool]:
        """Count a connection of the peer's job; yield False when the job has too many."""
        with self._lock:
            accepted = self._connections[peer.job] < MOST_CONNECTIONS
            self._connections[peer.job] += accepted
        try:
            yield accepted
        finally:
            with self._lock:
                self._connections[peer.job] -= accepted
                if not self._connections[peer.job]:
                    del self._connections[peer.job]

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - as socketserver calls it
        """Log the error: it must not affect other connections."""
        log.error("a connection of a job broke", exc_info=True)  # noqa: LOG014 - in its except block


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        job: socket.socket = self.request
        with contextlib.suppress(OSError), self.server.connection_of(read_peer(job)) as accepted:
            if not accepted:
                body = f"A job may have at most {MOST_CONNECTIONS} connections at once\n"
                job.sendall(_answer("429 Too Many Requests", body))
                return
            try:
                head, rest = _read_head(job)
                target = _connect(_parse_target(head), self.server.network)
            except ProxyRefusal as refusal:
                job.sendall(_answer(refusal.status, f"{refusal}\n"))
                return
            with target:
                job.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                target.sendall(rest)
                relay(job, target, idle=self.server.idle)


def _read_head(job: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of a request and the bytes after it. Raises OSError when it does not arrive in time."""
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


def _parse_target(head: bytes) -> Place:
    """Return the host and port of a CONNECT request."""
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - method, target, version
        raise ProxyRefusal("400 Bad Request", "This is not an HTTP/1 request")
    if words[0] != b"CONNECT":
        raise ProxyRefusal("405 Method Not Allowed", "This proxy supports only CONNECT, which https uses")
    try:
        return parse_place(words[1].decode("ascii"))
    except ValueError:
        raise ProxyRefusal("400 Bad Request", "CONNECT needs a host and a port") from None


def _connect(place: Place, network: Network) -> socket.socket:
    """Connect to *place* if it is listed."""
    host, port = place
    if not network.allows(host, port):
        log.info("refused a job's connection to a host that is not listed", host=host, port=port)
        raise ProxyRefusal("403 Forbidden", f"{host}:{port} is not in COORD_SANDBOX_NETWORK")
    addresses = _resolve(host, port)
    allowed = [address for address in addresses if network.may_connect(address, port)]
    if addresses and not allowed:
        log.warning("a listed host has an address that is not public", host=host, address=str(addresses[0]))
        raise ProxyRefusal(
            "403 Forbidden", f"{host} resolves to {addresses[0]}, which is not public and not in COORD_SANDBOX_NETWORK"
        )
    for address in allowed:
        with contextlib.suppress(OSError):
            return socket.create_connection((str(address), port), timeout=_CONNECT_PATIENCE)
    raise ProxyRefusal("502 Bad Gateway", f"{host}:{port} cannot be reached")


def _resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a host in the system's order."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0])) for entry in entries))


def _answer(status: str, body: str) -> bytes:
    text = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    return head.encode() + text
