"""The jobs' own evidence: lines in one file, in the order of their actions. Written by jobs/, read here.

Kinds of lines: B began, T had an effect, G a process had one that the job had started and left, E is about to succeed,
F is about to fail, c is about to report a cost (its name, microdollars), C has reported it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SAY = (
    "say() { read up idle </proc/uptime; "
    'echo "$1 $COORD_TASK_ID $COORD_ATTEMPT ${COORD_ATTEMPT_ID##*.} $$ $PPID $up" >>"$EVIDENCE"; }; '
)
"""A function for shell jobs; dash and bash append the line in one write."""


@dataclass(frozen=True, slots=True)
class Line:
    """One action. ``place`` is its number in the file, ``up`` seconds since the machine was started."""

    place: int
    kind: str
    task: str
    attempt: int
    execution: str
    pid: int
    parent: int
    up: float
    more: tuple[str, ...] = ()


@dataclass(slots=True)
class Execution:
    """One execution of a job: the process that began it, and its actions until the last one."""

    name: str
    task: str
    attempt: int
    pid: int
    parent: int
    first: int
    first_up: float
    last: int
    last_up: float
    end: str | None = None  # E or F
    intended: dict[str, int] = field(default_factory=dict)  # costs by name, microdollars
    reported: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Account:
    """All executions, by task in the order in which they began."""

    executions: dict[str, Execution] = field(default_factory=dict)
    by_task: dict[str, list[Execution]] = field(default_factory=dict)

    def add(self, line: Line) -> Execution:
        """Add one more line, and return its execution."""
        previous = self.executions.get(line.execution)
        if previous is None:
            previous = Execution(
                *(line.execution, line.task, line.attempt, line.pid, line.parent),
                *(line.place, line.up, line.place, line.up),
            )
            self.executions[line.execution] = previous
            self.by_task.setdefault(line.task, []).append(previous)
        previous.last, previous.last_up = line.place, line.up
        if line.kind in "EF":
            previous.end = line.kind
        elif line.kind == "c":
            previous.intended[line.more[0]] = int(line.more[1])
        elif line.kind == "C":
            previous.reported[line.more[0]] = int(line.more[1])
        return previous


def lines(path: Path, *, start: int = 0) -> Iterator[Line]:
    """Yield every complete line of the file; a missing file has none."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for place, raw in enumerate(file, start=start):
            if raw.endswith(b"\n"):
                yield parsed(place, raw)


def parsed(place: int, raw: bytes) -> Line:
    """Parse one line of the file."""
    kind, task, attempt, execution, pid, parent, up, *more = raw.decode().split()
    return Line(place, kind, task, int(attempt), execution, int(pid), int(parent), float(up), tuple(more))


def account_of(path: Path) -> Account:
    """Read the whole file."""
    account = Account()
    for line in lines(path):
        account.add(line)
    return account


class Tail:
    """Follows the file while jobs write it: which executions run now, and how many have ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self.open: dict[str, Line] = {}
        self.ended = 0

    def read(self) -> None:
        """Read what was appended since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        self._offset += len(data)
        *complete, self._rest = (self._rest + data).split(b"\n")
        for raw in complete:
            if raw[:1] == b"B":
                line = parsed(0, raw)
                self.open[line.execution] = line
            elif raw[:1] in b"EF":
                self.open.pop(parsed(0, raw).execution, None)
                self.ended += 1
