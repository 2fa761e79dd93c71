"""Test the network of a job in the strict sandbox: none, or a proxy to listed hosts. Real namespaces and servers."""

from __future__ import annotations

import contextlib
import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from coordination.domain.jobs.network import parse_network
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.jobs import Bench
from tests.support.strict import strict_sandbox
from workers.attempt.connect_proxy import ConnectProxy
from workers.runners.base import StopReason
from workers.runners.registry import Runners


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Send a fixed answer."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextlib.contextmanager
def bench(folder: Path, network: str) -> Iterator[Bench]:
    (folder / "place").mkdir()
    with contextlib.ExitStack() as stack:
        proxy = None
        if network not in ("on", "off"):
            (folder / "worker").mkdir()
            connect_proxy = ConnectProxy(folder / "worker", parse_network(network))
            stack.callback(connect_proxy.close)
            proxy = connect_proxy.path
        runners = Runners(sandbox=strict_sandbox(folder / "scratch", network=network != "off", proxy=proxy))
        stack.callback(runners.close)
        yield Bench(runners, folder / "scratch")


def python(bench: Bench, program: str, folder: Path) -> AttemptEnd:
    return bench.run(
        {"shell": f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"}, workdir=str(folder / "place")
    )


DIRECT = "import socket; print(socket.create_connection(('127.0.0.1', {port}), timeout=20).getpeername()[1])"
THROUGH = """
import os, urllib.parse, http.client
proxy = urllib.parse.urlparse(os.environ["HTTPS_PROXY"])
connection = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=60)
connection.set_tunnel("127.0.0.1", {port})
connection.request("GET", "/")
print(connection.getresponse().read().decode())
"""


def test_on_it_reaches_what_the_worker_reaches(tmp_path: Path, port: int) -> None:
    with bench(tmp_path, "on") as running:
        assert python(running, DIRECT.format(port=port), tmp_path).output == str(port)


@pytest.mark.parametrize("network", ["off", "listed.test:443"])
def test_off_or_listed_it_reaches_nothing_by_itself(tmp_path: Path, port: int, network: str) -> None:
    with bench(tmp_path, network) as running:
        refused = python(running, DIRECT.format(port=port), tmp_path)
        listed = python(running, "import socket; print([name for _, name in socket.if_nameindex()])", tmp_path)

    assert (refused.outcome, "ConnectionRefusedError" in (refused.error or "")) == (Outcome.FAILED, True)
    assert listed.output is not None
    assert "'lo'" in listed.output
    assert "eth0" not in listed.output


def test_off_its_own_servers_are_reached(tmp_path: Path) -> None:
    program = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    with bench(tmp_path, "off") as running:
        assert python(running, program, tmp_path).outcome is Outcome.COMPLETED


def test_off_abstract_sockets_of_others_are_not_reached(tmp_path: Path) -> None:
    name = f"\0coordination-{tmp_path}"
    program = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
    with socket.socket(socket.AF_UNIX) as listener, bench(tmp_path, "off") as running:
        listener.bind(name)
        listener.listen()

        assert python(running, program, tmp_path).outcome is Outcome.FAILED


def test_listed_it_reaches_what_is_listed(tmp_path: Path, port: int) -> None:
    with bench(tmp_path, f"127.0.0.1:{port}") as running:
        result = python(running, THROUGH.format(port=port), tmp_path)

    assert (result.outcome, result.output) == (Outcome.COMPLETED, "hello"), result.error


def test_listed_it_is_told_what_is_not(tmp_path: Path, port: int) -> None:
    with bench(tmp_path, "listed.test:443") as running:
        result = python(running, THROUGH.format(port=port), tmp_path)

    assert (result.outcome, "403 Forbidden" in (result.error or "")) == (Outcome.FAILED, True), result.error


def test_functions_use_it_too_and_their_interpreter_stays_warm(tmp_path: Path, port: int) -> None:
    with bench(tmp_path, f"127.0.0.1:{port}") as running:
        (tmp_path / "place" / "job.py").write_text(
            "import os, urllib.parse, http.client\n"
            "def fetch(port):\n"
            "    proxy = urllib.parse.urlparse(os.environ['HTTPS_PROXY'])\n"
            "    connection = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=60)\n"
            "    connection.set_tunnel('127.0.0.1', port)\n"
            "    connection.request('GET', '/')\n"
            "    return [connection.getresponse().read().decode(), os.getpid()]\n"
        )
        job = {"workdir": str(tmp_path / "place"), "python_path": (str(tmp_path / "place"),)}
        first, second = (running.run({"python": "job:fetch", "args": {"port": port}}, **job) for _ in range(2))

    assert first.outcome is Outcome.COMPLETED, first.error
    assert first.output == second.output


def test_a_job_that_ends_when_it_is_told_to_is_not_waited_for(tmp_path: Path) -> None:
    with bench(tmp_path, "listed.test:443") as running:
        job = running.start(
            {"shell": "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"},
            workdir=str(tmp_path / "place"),
            control={"cancel_grace": timedelta(hours=1)},
        )
        job.stop(StopReason.CANCELED)

        assert job.end().outcome is Outcome.CANCELED
        assert running.left_behind() == []
