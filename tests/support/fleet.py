"""Real workers on a real store and broker, with short terms, and a client beside them."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path

from coordination.api.connection import Coordination
from coordination.api.runs import Run
from coordination.base.ids import new_id
from coordination.domain.plans.plans import Plan, ProjectRef, Task
from coordination.domain.tasks.events import Event, EventType
from coordination.runtime import open_runtime
from coordination.settings import load_settings
from coordination.store.engine import sqlite_path
from tests.support.command import Coord
from tests.support.processes import Process, Processes, until
from tests.support.redis import running_redis
from tests.support.speed import patience

UNHURRIED = {"COORD_LEASE_TTL": "60s"}
"""For tests in which no job may be lost: a machine that stands still for a while takes none away."""

EXPIRING = {"COORD_LEASE_TTL": f"{patience(5000):.0f}ms"}
"""For tests that wait until a lease has run out; longer where the machine is slower."""

SHORT_LEASES = {
    **EXPIRING,
    "COORD_LEASE_HEARTBEAT": "500ms",
    "COORD_SWEEP": "500ms",
    "COORD_TICK": "500ms",
    "COORD_SHUTDOWN_GRACE": "500ms",
    "COORD_CANCEL_GRACE": "1s",
}


class Fleet:
    """Workers that share one database and one Redis, and nothing else."""

    def __init__(self, processes: Processes, environment: Mapping[str, str], folder: Path) -> None:
        self.processes = processes
        self.folder = folder
        self.env = dict(environment)
        (folder / "project").mkdir(exist_ok=True)
        self.co = Coordination(open_runtime(load_settings(self.env)))

    @staticmethod
    def environment(database_url: str, redis_url: str, folder: Path) -> dict[str, str]:
        """Return the environment of every process of such a fleet."""
        (folder / "home").mkdir(exist_ok=True)
        return {
            **SHORT_LEASES,
            **UNHURRIED,
            "COORD_DATABASE_URL": database_url,
            "COORD_REDIS_URL": redis_url,
            "COORD_HOME": str(folder / "home"),
        }

    def worker(self, *arguments: str, **env: str) -> Process:
        """Start a worker and wait until it can receive jobs."""
        return self.processes.start_worker({**self.env, **env}, *arguments)

    def suspend(self, worker: Process) -> None:
        """Suspend a worker between two writes: within a write it would keep SQLite's only lock."""
        file = sqlite_path(self.co.runtime.store.url)
        while True:
            worker.signal(signal.SIGSTOP)
            if file is None:
                return
            try:
                with closing(sqlite3.connect(file, timeout=0.2, isolation_level=None)) as look:
                    look.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                worker.signal(signal.SIGCONT)
                time.sleep(0.05)
            else:
                return

    def submit(self, *tasks: Task, **options: object) -> Run:
        """Submit these tasks as a plan of the test's own project."""
        reference = ProjectRef(name="fleet", path=str(self.folder / "project"))
        return self.co.submit(Plan(tasks, project=reference, **options))  # type: ignore[arg-type]

    @property
    def coord(self) -> Coord:
        """Run the command line on this fleet, in the project's folder."""
        return Coord(self.folder / "home", self.folder / "project", self.env)

    def file(self, name: str) -> Path:
        """Return the path of a file in the project's folder, where jobs run."""
        return self.folder / "project" / name

    def await_event(self, run: Run, type_: EventType, *, key: str | None = None, within: float = 30) -> Event:
        """Return the first event of that type (and task), polled at a fixed interval."""

        def look() -> Event | None:
            return next(
                (event for event in run._events_after("0.0") if event.type is type_ and key in (None, event.key)), None
            )

        result = until(look, within=timedelta(seconds=within), what=f"{type_} of {key}")
        assert result is not None
        return result

    def await_file(self, name: str, *, within: float = 30) -> str:
        """Return the content of a file once a job has written it."""
        path = self.file(name)
        until(lambda: path.exists() and path.read_text(), within=timedelta(seconds=within), what=name)
        return path.read_text()

    def await_file_made(self, name: str, *, within: float = 30) -> None:
        """Wait until a job has created a file."""
        until(self.file(name).exists, within=timedelta(seconds=within), what=name)


@contextmanager
def fleet_on(
    processes: Processes, database_url: str, redis_url: str, folder: Path, *, expiring: bool = False
) -> Iterator[Fleet]:
    """Provide a fleet without workers; *expiring*: with leases that expire during the test."""
    leases = EXPIRING if expiring else {}
    fleet = Fleet(processes, {**Fleet.environment(database_url, redis_url, folder), **leases}, folder)
    try:
        yield fleet
    finally:
        fleet.co.close()


class SharedFleet(Fleet):
    """A fleet whose only worker serves other tests too; the test has a workspace and a project of its own."""

    def __init__(self, stack: SharedStack, folder: Path) -> None:
        self._stack = stack
        super().__init__(stack.processes, {**stack.env, "COORD_WORKSPACE": f"test-{new_id()}"}, folder)

    def worker(self, *arguments: str, **env: str) -> Process:
        """Return the shared worker; it has more slots than any test needs."""
        assert not env, f"a worker with {env} is no shared one: mark the test own_worker"
        assert arguments in {(), *(("-c", str(slots)) for slots in range(2, SharedStack.SLOTS + 1))}, arguments
        return self._stack.worker()


class SharedStack:
    """A database, a Redis and one worker for the tests of a module, which neither kill nor configure them."""

    SLOTS = 8

    def __init__(self, database_url: str, redis_url: str, folder: Path) -> None:
        self.processes = Processes()
        self.env = {**Fleet.environment(database_url, redis_url, folder), "COORD_WORKSPACES": "*"}
        self._worker: Process | None = None

    def worker(self) -> Process:
        """Start the worker, or return it when it runs."""
        if self._worker is None:
            self._worker = self.processes.start_worker(self.env, "-c", str(self.SLOTS))
        assert self._worker.exit_code is None, f"the shared worker has ended\n{self._worker.output}"
        return self._worker


class SharedStacks:
    """The shared stacks of one module: one for each kind of database, created at its first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stacks: dict[str, SharedStack] = {}
        self._open = ExitStack()

    def stack(self, kind: str, database: Callable[[Path], AbstractContextManager[str]]) -> SharedStack:
        """Return the stack on the database of that kind; *database* creates one below a folder."""
        if kind not in self._stacks:
            folder = self._folder / kind
            folder.mkdir()
            redis = self._open.enter_context(running_redis())
            stack = SharedStack(self._open.enter_context(database(folder)), redis.url, folder)
            self._open.callback(stack.processes.close)
            self._stacks[kind] = stack
        return self._stacks[kind]

    def close(self) -> None:
        """End the workers, then their servers."""
        self._open.close()


def alive(pid: int) -> bool:
    """Return whether a process runs (and is not only waiting to be reaped)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def seconds_until(look: Callable[[], object], *, within: float, what: str) -> float:
    """Return the seconds until *look* was true."""
    began = time.monotonic()
    until(look, within=timedelta(seconds=within), what=what)
    return time.monotonic() - began
