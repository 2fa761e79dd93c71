"""Makes HTTP requests: the output is the body of the response, the log has the redirects.

A request can reach the public internet and the hosts in its job's ``network`` or the worker's COORD_SANDBOX_NETWORK.
This is checked on the address of each connection, also after redirects; no proxy is used.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from coordination.base import json_values
from coordination.base.errors import NotFound, Refused
from coordination.base.json_values import is_too_deep
from coordination.domain.jobs.kinds.http_call import HttpCall, is_credential, with_secrets
from coordination.domain.jobs.network import (
    Address,
    Network,
    NetworkMode,
    Place,
    is_link_local,
    is_public,
    normalize_host,
    write_place,
)
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.events import EventType
from coordination.settings import load_settings
from workers.runners import program
from workers.runners.base import Control
from workers.runners.output import Capture, clean_json, decode, one_line
from workers.runners.program import Interruption, check_limits
from workers.runners.provider_environment import ProviderVariables
from workers.runners.shared import RunnerResources

LARGEST = 64 * 1024 * 1024
"""The most bytes of a response; a longer one fails the attempt."""

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEP_METHOD = frozenset({307, 308})
_CHUNK = 64 * 1024
_LONGEST_ERROR = 300
_SAFE = "%/:=&?~#+!$,;'@()*[]"


class _Failed(Exception):
    """The request failed. *retryable*: whether a later request may succeed."""

    def __init__(self, sentence: str, *, retryable: bool = True) -> None:
        super().__init__(sentence)
        self.retryable = retryable


class HttpRunner:
    """Executes HTTP requests."""

    def __init__(self, resources: RunnerResources) -> None:
        self._provider_environment = resources.provider_environment
        self._network: Network | None = None  # what this worker's jobs may reach

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Make the request and wait for the whole response."""
        if (stopped := program.end_if_stopped(control)) is not None:
            return stopped
        try:
            call = cast("HttpCall", claim.job)
            variables = self._provider_environment.variables_for(call, program="http", passes_on=(), named=call.secrets)
        except (Refused, NotFound) as refusal:
            return program.refusal_end(refusal.sentence())
        control.secrets = variables
        control.event(EventType.STARTED, {"request": call.instruction(claim.work)})
        network = self._network = self._network or load_settings().network()
        exchange = _Exchange(call, variables, network, control, control.limits_for(claim).output or LARGEST)
        try:
            interruption = exchange.wait(claim, control)
        finally:
            exchange.close()
        if interruption is not None:
            return AttemptEnd(interruption.outcome, error=interruption.error)
        return variables.hide_in(exchange.result(call, control.output_limit))


class _Exchange:
    """One request with its redirects, in its own thread. Close it."""

    def __init__(
        self, call: HttpCall, variables: ProviderVariables, network: Network, control: Control, most: int
    ) -> None:
        self._call = call
        self._secrets = variables.values
        self._network = network
        self._control = control
        self._most = min(most, LARGEST)
        self._ended = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._closed = False
        self._began = self._last_data = time.monotonic()
        self._log: list[str] = []
        self._answer: tuple[int, str, bytes] | None = None
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="http", daemon=True).start()

    def wait(self, claim: Claim, control: Control) -> Interruption | None:
        """Sleep until the request has ended; return what interrupted it, if anything did."""
        waiter = select.poll()
        waiter.register(self._ended, select.POLLIN)
        waiter.register(control.fileno(), select.POLLIN)
        while True:
            now = time.monotonic()
            interruption, due = check_limits(claim, control, now, began=self._began, moved_at=self._last_data)
            if interruption is not None:
                return interruption
            answer_by = self._began + self._call.request.timeout.total_seconds()
            if now >= answer_by:
                self._error = TimeoutError()
                return None
            ready = waiter.poll(1000 * (min(due, answer_by) - now) + 1)
            if any(fd == self._ended for fd, _ in ready):
                return None

    def close(self) -> None:
        """Abort the request if it is still running."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            os.close(self._ended)

    def result(self, call: HttpCall, limit: int) -> AttemptEnd:
        """Return how the attempt ended."""
        log = "\n".join(self._log) or None
        if self._error is not None or self._answer is None:
            retryable = getattr(self._error, "retryable", True)
            late = f"no complete answer within {call.request.timeout.total_seconds():g} s"
            error = late if isinstance(self._error, TimeoutError) else _sentence(self._error)
            return AttemptEnd(Outcome.FAILED, error=error, log=log, retryable=retryable)
        status, kind, body = self._answer
        output = _value_of(kind, body, limit)
        if call.request.expects(status):
            if not isinstance(output, str) and len(body) > limit:
                error = f"the answer has {len(body):,} bytes of JSON, more than the {limit:,} that are kept"
                return AttemptEnd(Outcome.FAILED, error=error, log=log)
            return AttemptEnd(Outcome.COMPLETED, output=output, log=log)
        text = one_line(decode(body[:_LONGEST_ERROR]), _LONGEST_ERROR)
        error = f"status {status}: {text}" if text else f"status {status}"
        return AttemptEnd(Outcome.FAILED, output=_text_of(body, limit), error=error, log=log)

    def _run(self) -> None:
        try:
            self._answer = self._follow()
        except Exception as error:  # noqa: BLE001 - any error ends the attempt with a sentence
            self._error = self._error or error
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._ended, 1)

    def _follow(self) -> tuple[int, str, bytes]:
        """Make the request and follow redirects; return status, content type and body."""
        request = self._call.request
        url, method = request.url, request.method
        headers, body = _headers(request.headers, request.body)
        for _ in range(_MOST_REDIRECTS + 1):
            parts = urlsplit(url)
            status, answer_headers, data = self._send(parts, method, headers, body)
            location = answer_headers.get("Location")
            if status not in _REDIRECTS or location is None or request.expects(status):
                return status, answer_headers.get("Content-Type", ""), data
            target = urlsplit(url := urljoin(url, location))
            if target.scheme not in ("http", "https") or not target.hostname or target.username is not None:
                raise _Failed("a redirect leads to an address that is not HTTP", retryable=False)
            self._log.append(f"[http] status {status} leads to {target.scheme}://{target.netloc}")
            if _origin(target) != _origin(parts):
                headers = {name: value for name, value in headers.items() if not is_credential(name, value)}
            if status not in _KEEP_METHOD and method not in ("GET", "HEAD"):
                method, body = "GET", None
                headers = {name: value for name, value in headers.items() if not name.lower().startswith("content-")}
        raise _Failed(f"there were more than {_MOST_REDIRECTS} redirects", retryable=False)

    def _send(
        self, parts: SplitResult, method: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        host, port = place = _place(parts)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self._connect(place, tls=parts.scheme == "https")
        with contextlib.closing(connection):
            filled = {name: _bytes(name, with_secrets(value, self._secrets)) for name, value in headers.items()}
            target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=_SAFE)
            shown = f"[{host}]" if ":" in host else host
            standard = {"http": 80, "https": 443}[parts.scheme]
            address = shown if port == standard else f"{shown}:{port}"
            own: dict[str, Any] = {"Host": address, "Accept-Encoding": "identity", "Connection": "close"}
            connection.request(method, target, body, own | filled)
            with contextlib.closing(connection.getresponse()) as response:
                return response.status, response.headers, self._read(response)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        body = bytearray()
        while data := response.read1(_CHUNK):
            self._progress()
            body += data
            if len(body) > self._most:
                raise _Failed(f"the answer is longer than {self._most:,} bytes", retryable=False)
        if response.length:
            raise _Failed("the connection was lost before the end of the answer")
        return bytes(body)

    def _connect(self, place: Place, *, tls: bool) -> socket.socket:
        """Connect to an address of *place* that may be reached."""
        host, port = place
        if self._network.mode is not NetworkMode.ON and not self._network.allows(host, port):
            sentence = f"this worker's jobs may not reach {write_place(place)} (COORD_SANDBOX_NETWORK)"
            raise _Failed(sentence, retryable=False)
        addresses = [item[4][0] for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        allowed = [each for each in dict.fromkeys(map(str, addresses)) if self._may_reach(place, each)]
        if not allowed:
            raise _Failed(self._unreachable(place, ipaddress.ip_address(str(addresses[0]))), retryable=False)
        error: OSError | None = None
        for address in allowed:
            try:
                return self._open(place, address, tls=tls)
            except ssl.SSLError:
                raise
            except OSError as failure:
                error = failure
        raise error or OSError("no address")

    def _unreachable(self, place: Place, address: Address) -> str:
        """Return why *place*, which has that address, may not be reached. Nobody is invited to a link-local address."""
        host, port = place
        sentence = (
            f"{host} is not public" if _is_address(host) else f"{host} resolves to {address}, which is not public"
        )
        if is_link_local(address):
            return f"{sentence} but link-local, like the metadata services of clouds"
        if self._network.mode is not NetworkMode.ON:
            return f"{sentence}: list {write_place((str(address), port))} in COORD_SANDBOX_NETWORK"
        return f"{sentence}: name {write_place(place)} in the job's network"

    def _may_reach(self, place: Place, text: str) -> bool:
        address: Address = ipaddress.ip_address(text)
        if self._network.mode is not NetworkMode.ON:
            return self._network.may_connect(address, place[1])
        listed = self._call.places
        return is_public(address) or place in listed or (str(address), place[1]) in listed

    def _open(self, place: Place, address: str, *, tls: bool) -> socket.socket:
        remaining = self._began + self._call.request.timeout.total_seconds() - time.monotonic()
        connection = socket.create_connection((address, place[1]), timeout=max(remaining, 0.01))
        try:
            self._set_socket(connection)
            if not self._may_reach(place, str(connection.getpeername()[0])):
                sentence = f"the connection to {place[0]} has another address than the one that was resolved"
                raise _Failed(sentence, retryable=False)  # noqa: TRY301 - the connection is closed below
            if tls:
                trust = ssl.create_default_context()
                connection = trust.wrap_socket(connection, server_hostname=place[0], do_handshake_on_connect=False)
                self._set_socket(connection)
                connection.do_handshake()
        except BaseException:
            connection.close()
            raise
        self._progress()
        return connection

    def _set_socket(self, connection: socket.socket) -> None:
        """Set the socket that ``close`` shuts down."""
        with self._lock:
            self._socket = connection
            if self._closed:
                raise OSError("the request was aborted")

    def _progress(self) -> None:
        self._last_data = time.monotonic()
        self._control.progress()


def _place(parts: SplitResult) -> Place:
    """Return the host and the port of a URL in the form of ``domain.jobs.network``."""
    name, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        if ":" in name:
            return str(ipaddress.IPv6Address(name)), port
        return normalize_host(name if name.isascii() else name.encode("idna").decode("ascii")), port
    except ValueError:
        raise _Failed("a redirect leads to an invalid host name", retryable=False) from None


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def _origin(parts: SplitResult) -> tuple[str, Place]:
    return parts.scheme, _place(parts)


def _headers(headers: Mapping[str, str], body: Any) -> tuple[dict[str, str], bytes | None]:
    """Return the headers with the content type, and the body as bytes."""
    if body is None:
        return dict(headers), None
    kind = "text/plain; charset=utf-8" if isinstance(body, str) else "application/json"
    has_type = any(name.lower() == "content-type" for name in headers)
    data = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return dict(headers) | ({} if has_type else {"Content-Type": kind}), data.encode(errors="replace")


def _bytes(name: str, value: str) -> bytes:
    """Return a header's value. Refuse here what http.client would show in its error."""
    if not value.isprintable():
        raise _Failed(f"the secret for the header {name} has a line break or another unprintable character")
    return value.encode()


def _value_of(kind: str, body: bytes, limit: int) -> Any:
    """Return the body as a JSON value or as text."""
    media = kind.partition(";")[0].strip().lower()
    if media == "application/json" or media.endswith("+json"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json_values.parse_json(body.decode(json.detect_encoding(body), "surrogatepass"))
            if not is_too_deep(value):
                return clean_json(value)
    return _text_of(body, limit)


def _text_of(body: bytes, limit: int) -> str:
    capture = Capture(limit)
    capture.feed(body)
    return capture.text()


def _sentence(error: Exception | None) -> str:
    if isinstance(error, _Failed):
        return str(error)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the request failed: {one_line(str(reason), _LONGEST_ERROR)}"
