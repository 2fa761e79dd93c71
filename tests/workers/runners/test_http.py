"""Test HTTP requests as jobs: what is sent and kept, refused addresses, where secrets are sent. Real servers only."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from coordination.base.errors import Refused
from coordination.domain.access.authority import Rights, check_within
from coordination.domain.jobs import kind_label, parse_job, templates
from coordination.domain.jobs.kinds.http_call import HttpCall
from coordination.domain.jobs.network import Network, NetworkMode, parse_network
from coordination.domain.tasks.attempts import Outcome
from coordination.formats.plan import read_plan, write_plan
from tests.support.jobs import Bench
from tests.support.refusals import refuses
from tests.support.speed import patience
from workers.runners.base import StopReason

TOKEN = "t0p-secret-token-value"


@dataclass
class Seen:
    """One request as the server received it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A server on loopback that answers with the result of *answer*: status, headers, body."""

    port: int
    answer: Callable[[Seen], tuple[int, dict[str, str], bytes]]
    seen: list[Seen] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def work(self, path: str = "/", *, secrets: list[str] | None = None, **request: Any) -> dict[str, Any]:
        body = {"http": {"url": f"{self.url}{path}", **request}, "network": [self.place]}
        return body | ({"secrets": secrets} if secrets else {})


@contextmanager
def serving(answer: Callable[[Seen], tuple[int, dict[str, str], bytes]]) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            length = int(self.headers.get("Content-Length") or 0)
            seen = Seen(self.command, self.path, dict(self.headers), self.rfile.read(length))
            server.seen.append(seen)
            status, headers, body = server.answer(seen)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server = Server(listening.server_port, answer)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def says(body: object, status: int = 200, **headers: str) -> Callable[[Seen], tuple[int, dict[str, str], bytes]]:
    if isinstance(body, bytes):
        return lambda _: (status, headers, body)
    return lambda _: (status, {"Content-Type": "application/json", **headers}, json.dumps(body).encode())


class TestRequests:
    def test_a_json_body_is_sent_and_a_json_answer_is_the_output(self, bench: Bench) -> None:
        with serving(says({"made": 7})) as server:
            work = server.work("/things?x=1", method="POST", body={"name": "a"}, headers={"X-Trace": "5"})

            result = bench.run(work)

        (seen,) = server.seen
        assert (result.outcome, result.output) == (Outcome.COMPLETED, {"made": 7})
        assert (seen.method, seen.path, json.loads(seen.body)) == ("POST", "/things?x=1", {"name": "a"})
        assert seen.headers["Content-Type"] == "application/json"
        assert (seen.headers["X-Trace"], seen.headers["Host"]) == ("5", server.place)

    @pytest.mark.parametrize("body", [b"plain \xff", b"{not json", b'{"n": NaN}'])
    def test_what_is_no_json_is_a_text(self, bench: Bench, body: bytes) -> None:
        with serving(lambda _: (200, {"Content-Type": "application/json"}, body)) as server:
            result = bench.run(server.work())

        assert (result.outcome, result.output) == (Outcome.COMPLETED, body.decode(errors="replace"))

    def test_another_status_fails_with_what_the_server_said_unless_it_is_expected(self, bench: Bench) -> None:
        with serving(says(b"no such thing", 404)) as server:
            failed, expected = bench.run(server.work()), bench.run(server.work(expect=[404, "200..299"]))

        assert (failed.outcome, failed.error) == (Outcome.FAILED, "status 404: no such thing")
        assert failed.output == "no such thing"
        assert (expected.outcome, expected.output) == (Outcome.COMPLETED, "no such thing")

    def test_the_environment_names_no_proxy_for_it(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        with serving(says(1)) as server:
            assert bench.run(server.work()).output == 1


class TestSecrets:
    def test_a_header_holds_a_secret_that_nobody_else_is_shown(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHOP_TOKEN", TOKEN)
        with serving(lambda seen: (200, {}, f"you sent {seen.headers['Authorization']}".encode())) as server:
            work = server.work(headers={"Authorization": "Bearer ${SHOP_TOKEN}"}, secrets=["SHOP_TOKEN"])

            result = bench.run(work)

        assert server.seen[0].headers["Authorization"] == f"Bearer {TOKEN}"
        assert result.output == "you sent Bearer ***"

    def test_a_redirect_to_another_host_takes_no_credentials_along(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHOP_TOKEN", TOKEN)
        headers = {"X-Own": "${SHOP_TOKEN}", "Cookie": "a=1", "X-Trace": "5"}
        with serving(says(b"there")) as other, serving(says(b"", 302, Location=other.url)) as server:
            work = server.work(headers=headers, secrets=["SHOP_TOKEN"])

            result = bench.run({**work, "network": [server.place, other.place]})

        assert result.output == "there"
        assert server.seen[0].headers.items() >= {"X-Own": TOKEN, "Cookie": "a=1"}.items()
        assert other.seen[0].headers["X-Trace"] == "5"
        assert not {"X-Own", "Cookie"} & other.seen[0].headers.keys()

    def test_a_redirect_on_the_same_host_keeps_them_and_a_post_becomes_a_get(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHOP_TOKEN", TOKEN)
        moved = {"Location": "/new"}
        with serving(lambda seen: (303, moved, b"") if seen.path == "/" else (200, {}, b"ok")) as server:
            work = server.work(method="POST", body="x", headers={"X-Own": "${SHOP_TOKEN}"}, secrets=["SHOP_TOKEN"])

            assert bench.run(work).output == "ok"

        assert [(seen.method, seen.path, seen.body) for seen in server.seen] == [
            ("POST", "/", b"x"),
            ("GET", "/new", b""),
        ]
        assert server.seen[1].headers["X-Own"] == TOKEN

    def test_a_secret_that_the_worker_has_not_is_named(self, bench: Bench) -> None:
        with serving(says(1)) as server:
            result = bench.run(server.work(headers={"X-Own": "${NOBODY_SET}"}, secrets=["NOBODY_SET"]))

        assert result.outcome is Outcome.FAILED
        assert (result.error or "").startswith("The worker's environment has no NOBODY_SET. Set it where the worker is")
        assert "account" not in (result.error or "")  # a request has none
        assert server.seen == []


class TestPlaces:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"])  # noqa: S104
    def test_the_own_machine_is_out_of_reach_unless_the_job_names_it(self, bench: Bench, host: str) -> None:
        with serving(says(1)) as server:
            result = bench.run({"http": {"url": f"http://{host}:{server.port}/", "timeout": "5s"}})

        assert (result.outcome, result.retryable, server.seen) == (Outcome.FAILED, False, [])
        assert "is not public" in (result.error or "")

    @pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "192.168.1.1", "[fd00:ec2::254]", "100.64.0.1"])
    def test_private_and_metadata_addresses_are_out_of_reach(self, bench: Bench, host: str) -> None:
        result = bench.run({"http": {"url": f"http://{host}/", "timeout": "5s"}})

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert "is not public" in (result.error or "")

    @pytest.mark.parametrize(
        ("host", "error"),
        [
            ("127.0.0.1", "127.0.0.1 is not public: name 127.0.0.1:{port} in the job's network"),
            ("localhost", "localhost resolves to 127.0.0.1, which is not public: name localhost:{port} in the job's"),
            ("[::ffff:127.0.0.1]", "{mapped} is not public: name [{mapped}]:{port} in the job's network"),
        ],
    )
    def test_what_the_error_says_to_name_is_accepted_in_the_network(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, host: str, error: str
    ) -> None:
        if host == "localhost":  # which may also be an IPv6 address
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))])
        with serving(says(1)) as server:
            http = {"url": f"http://{host}:{server.port}/", "timeout": "5s"}
            refused = bench.run({"http": http}).error or ""
            monkeypatch.undo()
            place = refused.partition(": name ")[2].partition(" in ")[0]

            allowed = bench.run({"http": http, "network": [place]})

        assert refused.startswith(error.format(port=server.port, mapped=ipaddress.ip_address("::ffff:127.0.0.1")))
        assert allowed.outcome is Outcome.COMPLETED

    @pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"])
    def test_nobody_is_invited_to_name_a_link_local_address(self, bench: Bench, host: str) -> None:
        error = bench.run({"http": {"url": f"http://{host}/", "timeout": "5s"}}).error or ""

        assert error.endswith(" is not public but link-local, like the metadata services of clouds")

    def test_with_a_list_of_the_worker_its_setting_must_have_the_address(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bench.runners.by_kind[HttpCall], "_network", parse_network("inside.test:80"))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 80))])

        error = bench.run({"http": {"url": "http://inside.test/", "timeout": "5s"}}).error

        assert error == (
            "inside.test resolves to 10.0.0.1, which is not public: list 10.0.0.1:80 in COORD_SANDBOX_NETWORK"
        )

    def test_a_redirect_leads_to_no_place_that_the_job_does_not_name(self, bench: Bench) -> None:
        with serving(says(b"inside")) as inner, serving(says(b"", 302, Location=inner.url)) as server:
            result = bench.run(server.work())

        assert (result.outcome, result.retryable, inner.seen) == (Outcome.FAILED, False, [])

    def test_a_name_that_changes_between_look_up_and_connection_reaches_nothing(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, calls = socket.getaddrinfo, list[str]()
        with serving(says(b"inside")) as server:

            def changing(host: str, port: int, *args: Any, **more: Any) -> Any:
                calls.append(host)
                first = len(calls) == 1
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34" if first else "127.0.0.1", port))]

            monkeypatch.setattr(socket, "getaddrinfo", changing)
            result = bench.run({"http": {"url": f"http://rebind.test:{server.port}/", "timeout": "5s"}})
            monkeypatch.setattr(socket, "getaddrinfo", real)

        assert calls[0] == "rebind.test"
        assert len(calls) == 2  # the second one is of the connection itself
        assert (result.outcome, result.retryable, server.seen) == (Outcome.FAILED, False, [])

    @pytest.mark.parametrize(
        ("network", "reached"),
        [(Network(NetworkMode.OFF), False), (parse_network("example.com:80"), False), (None, True)],
    )
    def test_the_workers_own_list_comes_first(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, network: Network | None, *, reached: bool
    ) -> None:
        with serving(says(1)) as server:
            listed = parse_network(server.place) if network is None else network
            monkeypatch.setattr(bench.runners.by_kind[HttpCall], "_network", listed)

            result = bench.run(server.work())

        assert (result.outcome is Outcome.COMPLETED, bool(server.seen)) == (reached, reached)


class TestLimits:
    def test_a_server_that_does_not_answer_is_given_up(self, bench: Bench) -> None:
        release = threading.Event()
        with serving(lambda _: (release.wait(patience(30)), (200, {}, b""))[1]) as server:
            result = bench.run(server.work(timeout=0.3))
            release.set()

        assert (result.outcome, result.retryable) == (Outcome.FAILED, True)
        assert result.error == "no complete answer within 0.3 s"

    def test_a_request_ends_when_its_task_is_canceled(self, bench: Bench) -> None:
        release, commands = threading.Event(), threading.Event()

        def slow(_: Seen) -> tuple[int, dict[str, str], bytes]:
            commands.set()
            release.wait(patience(30))
            return 200, {}, b""

        with serving(slow) as server:
            job = bench.start(server.work())
            assert commands.wait(patience(10))
            began = time.monotonic()
            job.control.stop(StopReason.CANCELED)
            result = job.end()
            took = time.monotonic() - began
            release.set()

        assert result.outcome is Outcome.CANCELED
        assert took < patience(10)

    def test_the_timeout_of_the_task_ends_it_too(self, bench: Bench) -> None:
        release = threading.Event()
        with serving(lambda _: (release.wait(patience(30)), (200, {}, b""))[1]) as server:
            result = bench.run(server.work(), timeout=timedelta(seconds=0.2))
            release.set()

        assert result.outcome is Outcome.TIMED_OUT

    def test_a_long_text_is_shortened_and_a_long_value_fails(self, bench: Bench) -> None:
        control = {"output_limit": 1_000}
        with serving(says(b"x" * 5_000)) as server:
            text = bench.start(server.work(), control=control).end()
        with serving(says(["x" * 5_000])) as server:
            value = bench.start(server.work(), control=control).end()

        assert text.outcome is Outcome.COMPLETED
        assert "bytes left out" in text.output
        assert (value.outcome, value.output) == (Outcome.FAILED, None)

    def test_a_job_reads_no_more_than_its_limits_allow(self, bench: Bench) -> None:
        with serving(says(b"x" * 5_000)) as server:
            result = bench.run(server.work(), options={"limits": {"output": 1_000}})

        assert (result.outcome, result.error) == (Outcome.FAILED, "the answer is longer than 1,000 bytes")

    def test_an_answer_that_breaks_off_fails(self, bench: Bench) -> None:
        with serving(lambda _: (200, {"Content-Length": "100", "Connection": "close"}, b"half")) as server:
            result = bench.run(server.work(timeout=5))

        assert result.outcome is Outcome.FAILED

    def test_redirects_come_to_an_end(self, bench: Bench) -> None:
        with serving(says(b"", 302, Location="/again")) as server:
            result = bench.run(server.work())

        assert (result.outcome, result.error) == (Outcome.FAILED, "there were more than 5 redirects")


PLAN = """version: 1
tasks:
  - key: tell
    run:
      http:
        {url: "https://api.example.com/{{ input.x }}", method: POST, body: {n: 1}, expect: [200..204, 404], timeout: 5s}
      secrets: [SHOP_TOKEN]
      network: ["10.0.0.5:8080"]
"""


class TestPlans:
    def test_a_plan_reads_and_writes_it(self) -> None:
        plan = read_plan(PLAN.encode(), source="plan.yaml")

        again = read_plan(write_plan(plan).encode(), source="plan.yaml")

        assert again.tasks == plan.tasks
        assert parse_job(json.loads(json.dumps(plan.tasks[0].run.to_json()))) == plan.tasks[0].run
        assert kind_label(plan.tasks[0].run.to_json()) == "http:POST api.example.com"

    def test_templates_fill_its_url_headers_and_body(self) -> None:
        work = {
            "http": {
                "url": "https://x.test/{{ input.n }}",
                "headers": {"X-N": "{{ input.n }}"},
                "body": {"all": "{{ needs.a.output }}", "text": "n is {{ input.n }}"},
            }
        }
        names = {"a": {"state": "completed", "output": [1, 2]}}

        rendered = templates.render(work, needs=names, context={"input": {"n": 5}, "task": {"key": "t"}})

        request = parse_job(rendered).request
        assert (request.url, request.headers) == ("https://x.test/5", {"X-N": "5"})
        assert request.body == {"all": [1, 2], "text": "n is 5"}

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"http": {}}, "http.url"),
            ({"http": {"url": "ftp://x"}}, "http.url"),
            ({"http": {"url": "http://me:pass@x.test"}}, "http.url"),
            ({"http": {"url": "http://0x7f000001/"}}, "http.url"),
            ({"http": {"url": "http://2130706433/"}}, "http.url"),
            ({"http": {"url": "http://x.test", "method": "BREW"}}, "http.method"),
            ({"http": {"url": "http://x.test", "headers": {"Host": "y"}}}, "http.headers.Host"),
            ({"http": {"url": "http://x.test", "headers": {"X": "a\r\nY: b"}}}, "http.headers.X"),
            ({"http": {"url": "http://x.test", "headers": {"X": "${NOT_LISTED}"}}}, "http.headers.X"),
            (
                {"http": {"url": "http://x.test", "headers": {"Authorization": "Bearer abc"}}},
                "http.headers.Authorization",
            ),
            ({"http": {"url": "http://x.test", "expect": []}}, "http.expect"),
            ({"http": {"url": "http://x.test", "expect": [700]}}, "http.expect[0]"),
            ({"http": {"url": "http://x.test", "timeout": "0s"}}, "http.timeout"),
            ({"http": {"url": "http://x.test", "color": "red"}}, "http.color"),
            ({"http": {"url": "http://x.test"}, "network": ["x"]}, "network"),
            ({"http": {"url": "http://x.test"}, "network": ["http://me:pass@x:80"]}, "network"),
            ({"http": {"url": "https://me:p/s@s@x.test/"}}, "http.url"),
            ({"http": {"url": "https://me:pass@x.test/{{ input.x }}"}}, "http.url"),
            ({"http": "https://me:pass@x.test/"}, "http"),
            ({"http": {"url": "http://x.test", "expect": 900}}, "http.expect"),
            ({"http": {"url": "http://x.test", "expect": [200, 900]}}, "http.expect[1]"),
            ({"http": {"url": "http://x.test", "expect": [None]}}, "http.expect[0]"),
            ({"http": {"url": "http://x.test", "expect": ["299..200"]}}, "http.expect[0]"),
            ({"http": {"url": "http://{{ input.host }}/"}, "secrets": ["KEY"]}, "http.url"),
            ({"http": {"url": "http://x.test{{ input.host }}/"}, "secrets": ["KEY"]}, "http.url"),
        ],
    )
    def test_a_request_that_cannot_be_made_is_refused(self, change: dict[str, Any], field: str) -> None:
        with refuses(Refused, field=field):
            parse_job(change)

    def test_a_job_opens_no_private_network_to_those_that_it_causes(self) -> None:
        rights = Rights({"shell": "true"})
        check_within(rights, Rights({"http": {"url": "https://x.test"}}))

        with refuses(Refused, field="run.network"):
            check_within(rights, Rights({"http": {"url": "https://x.test"}, "network": ["10.0.0.1:80"]}))
        with refuses(Refused, field="run.secrets"):
            check_within(rights, Rights({"http": {"url": "https://x.test"}, "secrets": ["KEY"]}))
