"""Test what the proxy lets through that is the only way out of a job's network namespace. Real sockets."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordination.domain.jobs.network import parse_network
from tests.support.processes import until
from workers.attempt import connect_proxy
from workers.attempt.connect_proxy import ConnectProxy


@pytest.fixture
def echo() -> Iterator[int]:
    """Start a server that sends back its input in capitals when the client has sent all of it; provide its port."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data.upper())
            connection.sendall(b"END")

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(folder: Path, listed: str, *, idle: float = 60.0) -> Iterator[ConnectProxy]:
    running_proxy = ConnectProxy(folder, parse_network(listed), idle=idle)
    yield running_proxy
    running_proxy.close()


def connect(proxy: ConnectProxy) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(proxy.path)
    return connection


def ask(proxy: ConnectProxy, head: bytes) -> bytes:
    with connect(proxy) as connection:
        connection.sendall(head)
        connection.shutdown(socket.SHUT_WR)
        return everything(connection)


def is_served(proxy: ConnectProxy, head: bytes) -> bool:
    """Return whether the proxy connects; it may close the connection before it has read the whole request."""
    try:
        return ask(proxy, head).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def everything(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(4096):
        data += more
    return data


def test_it_carries_bytes_both_ways_until_both_have_said_all(tmp_path: Path, echo: int) -> None:
    with proxy(tmp_path, f"127.0.0.1:{echo}") as running_proxy:
        output = ask(running_proxy, f"CONNECT 127.0.0.1:{echo} HTTP/1.1\r\nHost: x\r\n\r\nhello".encode())

    assert output == b"HTTP/1.1 200 Connection established\r\n\r\nHELLOEND"


@pytest.mark.parametrize(
    ("request_line", "status", "sentence"),
    [
        ("CONNECT 127.0.0.1:1 HTTP/1.1", 403, "127.0.0.1:1 is not in COORD_SANDBOX_NETWORK"),
        ("CONNECT other.test:443 HTTP/1.1", 403, "other.test:443 is not in COORD_SANDBOX_NETWORK"),
        ("CONNECT 127.1:{echo} HTTP/1.1", 400, "CONNECT needs a host and a port"),
        ("CONNECT [::ffff:127.0.0.1]:{echo} HTTP/1.1", 403, "is not in COORD_SANDBOX_NETWORK"),
        ("CONNECT 127.0.0.1 HTTP/1.1", 400, "CONNECT needs a host and a port"),
        ("GET http://127.0.0.1:{echo}/ HTTP/1.1", 405, "This proxy supports only CONNECT"),
        ("nonsense", 400, "This is not an HTTP/1"),
        ("CONNECT 127.0.0.1:{echo} HTTP/1.1\r\nX: " + "x" * 20_000, 431, "The head of the request is too long"),
    ],
)
def test_it_refuses_all_else_with_a_sentence(
    tmp_path: Path, echo: int, request_line: str, status: int, sentence: str
) -> None:
    with proxy(tmp_path, f"127.0.0.1:{echo},listed.test:443") as running_proxy:
        output = ask(running_proxy, f"{request_line.replace('{echo}', str(echo))}\r\n\r\n".encode())

    assert output.startswith(f"HTTP/1.1 {status} ".encode()), output
    assert sentence.encode() in output


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
def test_a_listed_name_leads_to_no_private_address(
    tmp_path: Path, echo: int, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_proxy, "_resolve", lambda *_: [ipaddress.ip_address(address)])
    with proxy(tmp_path, f"listed.test:{echo}") as running_proxy:
        output = ask(running_proxy, f"CONNECT listed.test:{echo} HTTP/1.1\r\n\r\n".encode())

    assert output.startswith(b"HTTP/1.1 403 ")
    assert b"which is not public" in output


def test_it_goes_to_the_address_that_it_has_checked_and_asks_once(
    tmp_path: Path, echo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def rebinding(host: str, _: int) -> list[object]:
        requests.append(host)
        return [ipaddress.ip_address("127.0.0.1" if len(requests) == 1 else "169.254.169.254")]

    monkeypatch.setattr(connect_proxy, "_resolve", rebinding)
    with proxy(tmp_path, f"listed.test:{echo},127.0.0.1:{echo}") as running_proxy:
        output = ask(running_proxy, f"CONNECT Listed.TEST.:{echo} HTTP/1.1\r\n\r\nx".encode())

    assert output.endswith(b"XEND")
    assert requests == ["listed.test"]


def test_one_job_has_so_many_connections_and_no_more(tmp_path: Path, echo: int) -> None:
    head = f"CONNECT 127.0.0.1:{echo} HTTP/1.1\r\n\r\n".encode()
    with proxy(tmp_path, f"127.0.0.1:{echo}") as running_proxy, contextlib.ExitStack() as stack:
        for _ in range(connect_proxy.MOST_CONNECTIONS):
            connection = stack.enter_context(connect(running_proxy))
            connection.sendall(head)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")

        assert not is_served(running_proxy, head)
        connection.close()
        until(lambda: is_served(running_proxy, head))


def test_a_connection_in_which_nothing_moves_ends(tmp_path: Path, echo: int) -> None:
    with proxy(tmp_path, f"127.0.0.1:{echo}", idle=0.05) as running_proxy, connect(running_proxy) as connection:
        connection.sendall(f"CONNECT 127.0.0.1:{echo} HTTP/1.1\r\n\r\n".encode())

        assert everything(connection).startswith(b"HTTP/1.1 200 ")


def test_it_does_not_listen_when_it_is_closed(tmp_path: Path) -> None:
    with proxy(tmp_path, "listed.test:443") as running_proxy:
        pass

    assert not Path(running_proxy.path).exists()


def test_its_socket_is_where_the_system_can_reach_it(tmp_path: Path, echo: int) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    deep.mkdir(parents=True)
    with proxy(deep, f"127.0.0.1:{echo}") as running_proxy:
        assert ask(running_proxy, f"CONNECT 127.0.0.1:{echo} HTTP/1.1\r\n\r\n".encode()).endswith(b"END")
