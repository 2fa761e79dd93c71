"""Mixed work without end: four projects, short and long jobs in Python and shell, costs, failures, retries, cancels.

And a probe beside it: a job that does nothing, submitted every two seconds; its time from submission to completion is
what a person would wait.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import text

from coordination.api.runs import Run
from coordination.base.errors import CoordinationError
from coordination.domain.plans.plans import Plan, ProjectRef, Task
from coordination.domain.tasks.retry import Backoff
from tests.soak.servers import Servers

_QUICK = Backoff(initial=timedelta(milliseconds=200))
_PROJECTS = ("shop", "press", "attic", "harbour")
_PROBE = "probe"
_MOST_OPEN = 150
_EVERY = 1.0
_PROBE_EVERY = 2.0

_SPEND = 'echo "{\\"model\\": \\"m\\", \\"input_tokens\\": 10, \\"cost_usd\\": 0.001}" >> "$COORD_COSTS"'


def fan() -> Sequence[Task]:
    """Return one task, ten short ones in Python, one that reads a result."""
    middle = [Task(f"part{number}", {"python": "os:getpid"}, needs=["begin"]) for number in range(10)]
    end = Task("end", {"shell": "echo {{ needs.part0.output }}"}, needs=[task.key for task in middle])
    return [Task("begin", {"python": "os:getpid"}), *middle, end]


def chain() -> Sequence[Task]:
    """Return six shell jobs in a row, each of which costs something."""
    tasks = [Task("s0", {"shell": _SPEND})]
    return [*tasks, *[Task(f"s{n}", {"shell": f"sleep 0.1; {_SPEND}"}, needs=[f"s{n - 1}"]) for n in range(1, 6)]]


def slow() -> Sequence[Task]:
    """Return jobs of some seconds, in Python and in the shell, with output meanwhile."""
    return [
        Task("python", {"python": "subprocess:check_call", "args": {"args": ["sleep", "3"]}}),
        Task("shell", {"shell": "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done"}),
    ]


def flaky() -> Sequence[Task]:
    """Return tasks that fail and retry, are deferred, fail for good, and cancel their dependants."""
    return [
        Task("second", {"shell": "test $COORD_ATTEMPT -ge 2"}, max_attempts=3, backoff=_QUICK),
        Task("later", {"shell": "test $COORD_ATTEMPT -ge 2 || exit 75"}, backoff=_QUICK),
        Task("never", {"shell": "exit 3"}),
        Task("crash", {"python": "os:_exit", "args": {"status": 4}}),
        Task("in_vain", {"shell": "true"}, needs=["never"]),
    ]


def endless() -> Sequence[Task]:
    """Return jobs that are canceled while they run, one of them with a child process."""
    return [Task("sleep", {"shell": "setsid sleep 60 & sleep 60"}), Task("more", {"shell": "sleep 60"})]


_KINDS: tuple[Callable[[], Sequence[Task]], ...] = (fan, fan, chain, slow, flaky, endless)


class Load:
    """Two threads that submit until they are stopped."""

    def __init__(self, servers: Servers, *, seed: int) -> None:
        self._servers = servers
        self._random = random.Random(seed)  # noqa: S311 - a mixture, no secret
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=body, name=f"load-{body.__name__}", daemon=True)
            for body in (self._mixed, self._probe)
        ]
        self._to_cancel: list[tuple[float, Run]] = []
        self.submitted = 0
        self.refused = 0

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Submit no more, and cancel now what is to be canceled."""
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=60)
        self._cancel(everything=True)

    def still_open(self, *, within: float) -> int:
        """Return how many runs are open after all had *within* seconds to end."""
        deadline = time.monotonic() + within
        while (
            left := self._count("SELECT count(*) FROM runs WHERE finished_at IS NULL")
        ) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left

    def counted(self) -> dict[str, int]:
        """Return the number of tasks by state."""
        with self._servers.co.runtime.store.read() as tx:
            rows = tx.execute(text("SELECT state, count(*) FROM tasks GROUP BY state")).all()
        return {row[0]: row[1] for row in rows}

    def latencies(self) -> list[tuple[float, float]]:
        """Return (time of submission, seconds to completion) of every probe, by the database's clock, in order."""
        with self._servers.co.runtime.store.read() as tx:
            rows = tx.execute(
                text(
                    "SELECT t.created_at, t.finished_at FROM tasks t JOIN projects p ON p.id = t.project_id "
                    "WHERE p.name = :probe AND t.state = 'completed' ORDER BY 1"
                ),
                {"probe": _PROBE},
            ).all()
        moments = [(_moment(row[0]), _moment(row[1])) for row in rows]
        return [(begun.timestamp(), (ended - begun).total_seconds()) for begun, ended in moments]

    def _mixed(self) -> None:
        while not self._over.wait(_EVERY):
            try:
                if (
                    self._count("SELECT count(*) FROM tasks WHERE state IN ('queued', 'running', 'blocked')")
                    > _MOST_OPEN
                ):
                    continue
            except CoordinationError:
                continue
            kind = self._random.choice(_KINDS)
            run = self._submit(self._random.choice(_PROJECTS), kind())
            if run is not None and kind is endless:
                self._to_cancel.append((time.monotonic() + 4, run))
            self._cancel()

    def _probe(self) -> None:
        while not self._over.wait(_PROBE_EVERY):
            self._submit(_PROBE, [Task("nothing", {"python": "os:getpid"})])

    def _submit(self, project: str, tasks: Sequence[Task]) -> Run | None:
        folder = self._servers.project / project
        folder.mkdir(exist_ok=True)
        try:
            run = self._servers.co.submit(Plan(tasks, project=ProjectRef(name=project, path=str(folder))))
        except CoordinationError:
            self.refused += 1  # a fault is active; nothing was stored
            return None
        self.submitted += 1
        return run

    def _cancel(self, *, everything: bool = False) -> None:
        due = [item for item in self._to_cancel if everything or item[0] <= time.monotonic()]
        for item in due:
            with suppress(CoordinationError):
                item[1].cancel()
                self._to_cancel.remove(item)

    def _count(self, sql: str) -> int:
        with self._servers.co.runtime.store.read() as tx:
            return int(tx.execute(text(sql)).scalar_one())


def _moment(value: datetime | str) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
