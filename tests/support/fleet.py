"""Real workers on a real store and broker, with short leases, and a client beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from coordination.client import Coordination, Run
from coordination.domain.events import Event, EventType
from coordination.domain.plans import Plan, ProjectRef, Task
from coordination.runtime import open_runtime
from coordination.settings import load_settings
from tests.support.command import Coord
from tests.support.processes import Process, Processes, until

SHORT_LEASES = {
    "COORD_LEASE_TTL": "3s",
    "COORD_LEASE_HEARTBEAT": "500ms",
    "COORD_SWEEP": "500ms",
    "COORD_TICK": "500ms",
    "COORD_SHUTDOWN_GRACE": "500ms",
    "COORD_CANCEL_GRACE": "1s",
}


class Fleet:
    """Workers that share one database and one Redis, and nothing else."""

    def __init__(self, processes: Processes, database_url: str, redis_url: str, folder: Path) -> None:
        self.processes = processes
        self.folder = folder
        self.env = self.environment(database_url, redis_url, folder)
        (folder / "project").mkdir(exist_ok=True)
        self.co = Coordination(open_runtime(load_settings(self.env)))

    @staticmethod
    def environment(database_url: str, redis_url: str, folder: Path) -> dict[str, str]:
        """What every process of such a fleet is told."""
        (folder / "home").mkdir(exist_ok=True)
        return {
            **SHORT_LEASES,
            "COORD_DATABASE_URL": database_url,
            "COORD_REDIS_URL": redis_url,
            "COORD_HOME": str(folder / "home"),
        }

    def worker(self, *arguments: str, **env: str) -> Process:
        """A worker that can take jobs."""
        return self.processes.start_worker({**self.env, **env}, *arguments)

    def submit(self, *tasks: Task, **options: object) -> Run:
        """Submit these tasks as a plan of the test's own project."""
        reference = ProjectRef(name="fleet", path=str(self.folder / "project"))
        return self.co.submit(Plan(tasks, project=reference, **options))  # type: ignore[arg-type]

    @property
    def coord(self) -> Coord:
        """The command line on this fleet, in the project's folder."""
        return Coord(self.folder / "home", self.folder / "project", self.env)

    def file(self, name: str) -> Path:
        """A file in the project's folder, where jobs run."""
        return self.folder / "project" / name

    def await_event(self, run: Run, type_: EventType, *, key: str | None = None, within: float = 30) -> Event:
        """The first event of that type (and task); events are signals, so nothing here sleeps longer than a look."""

        def look() -> Event | None:
            return next(
                (event for event in run._events_after("0.0") if event.type is type_ and key in (None, event.key)), None
            )

        found = until(look, within=timedelta(seconds=within), what=f"{type_} of {key}")
        assert found is not None
        return found

    def await_file(self, name: str, *, within: float = 30) -> str:
        """The content of a file once a job has written it."""
        path = self.file(name)
        until(lambda: path.exists() and path.read_text(), within=timedelta(seconds=within), what=name)
        return path.read_text()

    def await_file_made(self, name: str, *, within: float = 30) -> None:
        """Wait until a job has made a file."""
        until(self.file(name).exists, within=timedelta(seconds=within), what=name)


@contextmanager
def fleet_on(processes: Processes, database_url: str, redis_url: str, folder: Path) -> Iterator[Fleet]:
    """A fleet without workers yet."""
    fleet = Fleet(processes, database_url, redis_url, folder)
    try:
        yield fleet
    finally:
        fleet.co.close()


def alive(pid: int) -> bool:
    """Whether a process runs (and is not only waiting to be reaped)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def seconds_until(look: Callable[[], object], *, within: float, what: str) -> float:
    """How long it took until *look* was true."""
    began = time.monotonic()
    until(look, within=timedelta(seconds=within), what=what)
    return time.monotonic() - began
