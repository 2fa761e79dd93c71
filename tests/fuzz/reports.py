"""Lines that a job sends to its worker's socket: each is answered, or its connection closed, without other effects."""

from __future__ import annotations

import base64
import itertools
import json
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from hypothesis import strategies as st
from sqlalchemy import text as sql

from coordination.api.runs import Run
from coordination.base.json_values import json_problem
from coordination.domain.plans.plans import Task
from coordination.store.tables import metadata
from tests.fuzz.driver import drive
from tests.fuzz.names import check_shown
from tests.fuzz.values import SECRET, spoiled_lines, texts, values
from tests.support.fleet import Fleet
from tests.support.processes import until

_AT_ONCE = 150
"""Inputs of one attempt; then it ends, and what was stored is looked at."""

_MOST_MEMORY = 300 << 20
_OWN, _OTHER, _ENDED = "own token", "a neighbour's token", "the token of an attempt that has ended"

_FOUND = {
    "key": "found",
    "title": "It",
    "run": {"shell": "true"},
    "needs": [],
    "input": {"a": 1},
    "metadata": {"b": [2]},
}
_SAID: list[dict[str, Any]] = [
    {"do": "progress", "token": _OWN, "text": "halfway", "percent": 50},
    {"do": "ask", "token": _OWN, "question": "Which colour?"},
    {"do": "discovered", "token": _OWN, "tasks": [_FOUND], "first": False},
    {
        "do": "discovered",
        "token": _OWN,
        "tasks": [_FOUND, {**_FOUND, "key": "other", "needs": ["found"]}],
        "first": True,
    },
    {"do": "escalate", "token": _OWN, "why": "May I?"},
    {"do": "delegate", "token": _OWN, "key": "given", "to": "claude", "prompt": "Look", "needs": [], "first": True},
    {"do": "done", "token": _OWN, "output": {"made": ["x", 1.5]}},
    {"do": "fail", "token": _OWN, "why": "no luck", "final": True},
    {"do": "context", "token": _OWN},
    {"do": "progress", "token": _OTHER, "text": "I am somebody else"},
    {"do": "done", "token": _ENDED, "output": "too late"},
]


@dataclass(frozen=True, slots=True)
class Said:
    """What a job sends in one connection: a *line*, split in parts, and whether it closes its side afterwards."""

    line: bytes
    cuts: tuple[int, ...] = ()
    half: bool = True

    @property
    def parts(self) -> list[bytes]:
        """Return the line as it is sent."""
        places = sorted({0, *(cut % (len(self.line) + 1) for cut in self.cuts), len(self.line)})
        return [self.line[start:end] for start, end in itertools.pairwise(places)]


_right = st.sampled_from(_SAID)
_odd = st.builds(
    lambda said, name, odd: {**said, name: odd}, _right, st.one_of(st.sampled_from([*_FOUND, "text"]), texts), values
)
_lines = st.one_of(
    st.one_of(_right, _odd).flatmap(spoiled_lines).map(lambda line: line + b"\n"),
    _right.flatmap(spoiled_lines),
    st.binary(max_size=80),
)
said = st.builds(Said, _lines, st.lists(st.integers(0, 2_000), max_size=3).map(tuple), st.just(True))


@dataclass(slots=True)
class Mouthpiece:
    """A running job that sends given bytes."""

    run: Run
    token: str
    lines: Any
    connection: socket.socket
    sent: int = 0

    def send(self, one: Said) -> bytes:
        """Return the worker's response."""
        parts = [base64.b64encode(part).decode() for part in one.parts]
        self._tell({"parts": parts, "half": one.half})
        self.sent += 1
        answer = self.lines.readline()
        assert answer, "the job has ended"
        return base64.b64decode(answer)

    def end(self, status: int = 0) -> None:
        """Let the job end."""
        self._tell({"end": status})
        self.lines.close()
        self.connection.close()

    def _tell(self, what: Any) -> None:
        self.lines.write(json.dumps(what).encode() + b"\n")
        self.lines.flush()


@dataclass(slots=True)
class Reports:
    """A worker, a second job whose reports must be accepted, and one attempt after the other that sends odd lines."""

    fleet: Fleet
    listener: socket.socket
    address: str
    worker: Any = None
    neighbour: Any = None
    speaker: Any = None
    ended: str = "none yet"
    heard: int = 0
    before: int = 0

    def begin(self) -> None:
        """Start the worker and both jobs."""
        self.worker = self.fleet.worker("-c", "3", FUZZ_SECRET=SECRET)
        self.neighbour = self._job("neighbour")
        self.fleet.co.projects.set_limits("fleet", {"project": 2})  # discovered tasks never run
        self.speaker = self._job("speaker")
        self.before = self._memory()

    def check(self, one: Said) -> None:
        """Send one line, and check its response."""
        if self.speaker.sent >= _AT_ONCE:
            self.renew()
        line = one.line
        for name, token in ((_OWN, self.speaker.token), (_OTHER, self.neighbour.token), (_ENDED, self.ended)):
            line = line.replace(name.encode(), token.encode())
        answer = self.speaker.send(Said(line, one.cuts, one.half))
        assert self.worker.exit_code is None, self.worker.output[-3000:]
        if answer:
            assert answer.endswith(b"\n"), answer[:300]
            assert answer.count(b"\n") == 1, answer[:300]
            assert len(answer) < 100_000, len(answer)
            result = json.loads(answer)
            assert isinstance(result["ok"], bool), answer[:300]
            assert not result["ok"] or self.speaker.token.encode() in line, (line[:300], answer[:300])
            assert "its log says why" not in str(result), (line[:600], self.worker.output[-3000:])
        else:
            assert not line.partition(b"\n")[0], f"no answer to {line[:300]!r}"
        self.heard += 1
        if self.heard % 10 == 0:
            hello = {"do": "progress", "token": self.neighbour.token, "text": f"still here, {self.heard}"}
            document = json.loads(self.neighbour.send(Said(json.dumps(hello).encode() + b"\n")))
            assert document["ok"] is True, document
            self.neighbour.sent = 0

    def renew(self) -> None:
        """End the attempt that sent it, check its rows, and start another one."""
        self.end_speaker()
        self.speaker = self._job("speaker")
        if self.heard % 1_000 < _AT_ONCE:
            self._renew_neighbour()

    def end_speaker(self) -> None:
        """End the attempt that sent lines, and check its rows."""
        self.ended, run = self.speaker.token, self.speaker.run
        self.fleet.co.projects.pause("fleet")
        task = run.task("speaker")
        self.speaker.end()
        until(lambda: task.refresh().state != "running", what="the attempt has ended")
        self._look_at(run)
        run.cancel()
        self.fleet.co.projects.resume("fleet")

    def close(self) -> None:
        """End both jobs; the second job's reports have all counted."""
        self.end_speaker()
        self.neighbour.end()
        assert self._memory() - self.before < _MOST_MEMORY, f"the worker has grown to {self._memory() >> 20} MB"
        assert "Traceback" not in self.worker.output, self.worker.output[-5000:]
        assert SECRET not in self.worker.output

    def _renew_neighbour(self) -> None:
        self.neighbour.end()
        assert str(self.neighbour.run.wait(timeout=60)) == "completed"
        self.neighbour = self._job("neighbour")

    def _job(self, name: str) -> Mouthpiece:
        script = Path(__file__).with_name("mouthpiece.py")
        command = [sys.executable, str(script), self.address, name]
        run = self.fleet.submit(
            Task(
                name,
                {"agent": "custom", "prompt": "Speak", "command": command, "secrets": ["FUZZ_SECRET"]},
                max_attempts=1,
            )
        )
        connection, _ = self.listener.accept()
        lines = connection.makefile("rwb")
        hello = json.loads(lines.readline())
        assert hello["name"] == name, hello
        return Mouthpiece(run, hello["token"], lines, connection)

    def _memory(self) -> int:
        process = psutil.Process(self.worker.pid)
        return sum(one.memory_info().rss for one in (process, *process.children()))

    def _look_at(self, run: Run) -> None:
        """Check that rows are valid in the domain, contain no secret, and are shown without control characters."""
        for task in run.tasks():
            for attempt in task.attempts():
                assert json_problem({"": attempt.output}) is None, attempt
            for argv in (["tasks", "show", task.id], ["tasks", "events", task.id], ["explain", task.id]):
                check_shown(self.fleet.coord(*argv, code=None), argv)
        for event in run._events_after("0.0"):
            assert json_problem(dict(event.payload)) is None, event
        for argv in (
            ["tasks", "list", run.id],
            ["questions"],
            ["runs", "events", run.id],
            ["runs", "show", run.id],
            ["status"],
        ):
            check_shown(self.fleet.coord(*argv), argv)
            if argv[0] != "status":
                check_shown(self.fleet.coord(*argv, "--json"), [*argv, "--json"])
        with self.fleet.co.runtime.store.read() as tx:
            for table in metadata.sorted_tables:
                for row in tx.execute(sql(f"SELECT * FROM {table.name}")):  # noqa: S608 - a table of ours
                    assert SECRET not in str(tuple(row)), f"the secret is in {table.name}: {str(tuple(row))[:1000]}"


@contextmanager
def reports_of(fleet: Fleet) -> Iterator[Reports]:
    """Provide the parts, started; closed without a check when the block fails."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder, closing(socket.socket(socket.AF_UNIX)) as listener:
        address = str(Path(folder) / "s")
        listener.bind(address)
        listener.listen()
        listener.settimeout(60)
        created = Reports(fleet, listener, address)
        created.begin()
        yield created
        created.close()


def fuzz(fleet: Fleet, *, seed: int, inputs: int) -> int:
    """Send so many lines from a job to its worker."""
    with reports_of(fleet) as created:
        return drive(said, created.check, seed=seed, inputs=inputs)
