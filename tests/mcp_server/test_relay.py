"""Test ``coord mcp`` inside a job: small, compatible with the protocol's own library, and robust against any input."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from coordination import __version__
from coordination.mcp_server import relay, reporting
from tests.support.sources import ROOT
from tests.support.speed import patience

COMMAND = [sys.executable, "-P", "-m", "coordination.cli", "mcp"]
LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
PREFIX = "io.modelcontextprotocol/"
ENVELOPE = {
    f"{PREFIX}protocolVersion": "2026-07-28",
    f"{PREFIX}clientCapabilities": {},
    f"{PREFIX}clientInfo": {"name": "test", "version": "1"},
}
AT_MOST = 0.1
"""Seconds of CPU of the program until its tools are listed."""


def request(id_: int | str, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def initialize(version: str = "2025-06-18") -> dict[str, Any]:
    return request(1, "initialize", protocolVersion=version, capabilities={}, clientInfo={"name": "t", "version": "1"})


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "COORD_TOKEN": "t", "COORD_URL": f"unix:{folder}/gone"}


def answers_of(messages: list[Any], env: dict[str, str], command: list[str] = COMMAND) -> dict[Any, Any]:
    """Return the program's answers to these lines, by id. Its input ends when all requests are answered."""
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in messages]
    due = sum(isinstance(one, dict) and "id" in one and "method" in one for one in messages)
    answers = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"\n".join(lines) + b"\n")
        program.stdin.flush()
        while sum(answer["id"] is not None for answer in answers) < due and (line := program.stdout.readline()):
            answers.append(json.loads(line))
        program.stdin.close()
        answers += map(json.loads, program.stdout)
    assert program.returncode == 0
    return {answer["id"]: answer.get("result", answer.get("error")) for answer in answers}


LIBRARY = """
from coordination.mcp_server import reporting
from coordination.mcp_server.server import serve
serve(reporting.TOOLS, ())
"""


@pytest.mark.parametrize("version", [*LEGACY, "1999-01-01"])
def test_it_answers_as_the_protocols_own_library(version: str, tmp_path: Path) -> None:
    messages = [
        initialize(version),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        request(2, "ping"),
        request("three", "tools/list"),
        request(4, "tools/call", name="ask", arguments={"question": "x"}),
        request(5, "tools/call", name="ask", arguments={}),
        request(6, "tools/call", name="nothing"),
        {"jsonrpc": "2.0", "id": 99, "result": {}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 4}},
    ]
    ours = answers_of(messages, environment(tmp_path))
    theirs = answers_of(messages[:-1], environment(tmp_path), [sys.executable, "-c", LIBRARY])

    assert ours == theirs
    assert ours[1]["protocolVersion"] == (version if version in LEGACY else LEGACY[-1])
    assert ours[1]["serverInfo"] == {"name": "coord", "version": __version__}
    assert ours[1]["capabilities"] == {"tools": {"listChanged": False}}
    assert ours[4]["isError"]


def test_it_answers_as_the_library_where_there_is_no_handshake(tmp_path: Path) -> None:
    other = {**ENVELOPE, f"{PREFIX}protocolVersion": "2027-01-01"}
    messages = [
        request(1, "server/discover", _meta=ENVELOPE),
        request(2, "tools/list", _meta=ENVELOPE),
        request(3, "tools/call", name="ask", arguments={"question": "x"}, _meta=ENVELOPE),
        request(4, "ping", _meta=ENVELOPE),
        request(5, "tools/list"),
        request(6, "tools/list", _meta=other),
        {**initialize(), "id": 7},
    ]
    ours = answers_of(messages, environment(tmp_path))
    theirs = answers_of(messages, environment(tmp_path), [sys.executable, "-c", LIBRARY])

    assert {i: ours[i] for i in (1, 2, 3)} == {i: theirs[i] for i in (1, 2, 3)}
    assert [ours[i]["code"] for i in (4, 5, 6, 7)] == [theirs[i]["code"] for i in (4, 5, 6, 7)]
    assert [ours[i].get("data") for i in (4, 6, 7)] == [theirs[i].get("data") for i in (4, 6, 7)]


@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
def test_the_official_client_speaks_with_it(mode: str, tmp_path: Path) -> None:
    server = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=environment(tmp_path))

    async def talk() -> tuple[list[str], Any]:
        async with Client(stdio_client(server), mode=mode) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            return names, await client.call_tool("context", {})

    names, result = asyncio.run(talk())

    assert names == [tool.name for tool in reporting.TOOLS]
    assert result.is_error
    assert "this attempt or its worker has ended" in result.content[0].text


def test_it_goes_on_after_garbage(tmp_path: Path) -> None:
    answers = answers_of(
        [
            *(b"garbage", b"\xff\xfe", b"", b"null", b"[" * 100_000, b"3", b'{"jsonrpc": "1.0", "id": 1}'),
            [request(1, "ping")],
            request(2, "tools/call", name="ask", arguments=[1]),
            json.dumps(
                request(3, "tools/call", name="ask", arguments={"question": "x" * relay.LONGEST_MESSAGE})
            ).encode(),
            request(4, "ping"),
        ],
        environment(tmp_path),
    )

    assert answers[2]["code"] == -32602
    assert 3 not in answers  # the request of this answer is unknown
    assert "longer than" in answers[None]["message"]
    assert answers[4] == {}


def test_what_waits_for_the_worker_keeps_nothing_else_waiting(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{tmp_path}/deaf")
        deaf.listen(1)
        env = {**environment(tmp_path), "COORD_URL": f"unix:{tmp_path}/deaf"}
        with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            calls = [request(n, "tools/call", name="context") for n in range(relay.MOST_WAITING + 2)]
            for message in [*calls, request("last", "ping")]:
                program.stdin.write(json.dumps(message).encode() + b"\n")
            program.stdin.flush()

            refused, answer = (json.loads(program.stdout.readline()) for _ in range(2))
            program.kill()

    # The first may or may not have left the queue; requests above the limit are refused, and the ping is answered.
    assert {refused["id"], answer["id"]} <= {relay.MOST_WAITING, relay.MOST_WAITING + 1, "last"}


def test_it_imports_the_standard_library_only(tmp_path: Path) -> None:
    program = (
        "import sys; before = set(sys.modules); sys.argv[1:] = ['mcp'];"
        "from coordination.cli.start import main; code = main();"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        input=json.dumps(request(1, "tools/list")),
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert set(done.stderr.split()) <= {*sys.stdlib_module_names, "coordination"}
    assert len(json.loads(done.stdout)["result"]["tools"]) == len(reporting.TOOLS)


def test_it_lists_its_tools_for_a_tenth_of_a_second_of_cpu(tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, [initialize(), request(2, "tools/list")]))

    def seconds() -> float:
        with subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment(tmp_path)
        ) as program:
            assert program.stdin is not None
            program.stdin.write(lines.encode())
            program.stdin.close()
            _, status, used = os.wait4(program.pid, 0)
            program.returncode = status
        return used.ru_utime + used.ru_stime

    assert min(seconds() for _ in range(5)) <= patience(AT_MOST)


def test_the_version_is_that_of_the_package() -> None:
    assert __version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
