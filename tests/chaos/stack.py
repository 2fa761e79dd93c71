"""A whole stack on this machine: servers, workers behind proxies, beat; killed processes are started again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil

from tests.chaos.evidence import Tail
from tests.chaos.servers import Postgres, SmallDisk, Valkey
from tests.support.postgres import deadlocks_in
from tests.support.processes import until

ROOT = Path(__file__).resolve().parents[2]

LEASE, HEARTBEAT, SWEEP = 4.0, 1.0, 1.0
SLOTS = 4
SETTINGS = {
    "COORD_LEASE_TTL": f"{LEASE:g}s",
    "COORD_LEASE_HEARTBEAT": f"{HEARTBEAT:g}s",
    "COORD_SWEEP": f"{SWEEP:g}s",
    "COORD_TICK": "1s",
    "COORD_SHUTDOWN_GRACE": "1s",
    "COORD_CANCEL_GRACE": "1s",
    "COORD_SLOTS": str(SLOTS),
    "COORD_LOG_LEVEL": "info",
}
_LONGEST_PAUSE = 1.5
_BEGINS_WITHIN = 3.0
_IN_A_NAMESPACE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"')
_PATIENCE = timedelta(seconds=60)


class Part:
    """A process that is started again, after a pause, whenever it is gone. ``paused``: stopped by SIGSTOP."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack, self.name = stack, name
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = True
        self.paused = False
        self.restart_at = 0.0
        self.born = 0.0
        self.lives = 0

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Return the command, and its environment on top of the stack's."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the process again."""
        argv, more = self.command()
        with (self.stack.logs / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                env={**self.stack.environment, **more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.stack.folder,
                start_new_session=True,
            )
        self.lives += 1
        self.born = time.monotonic()
        self.paused = False

    @property
    def pid(self) -> int | None:
        """Return its process id while it lives."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal, and return whether the process existed."""
        if self.pid is None:
            return False
        assert self.process is not None
        self.process.send_signal(number)
        return True

    def look(self, now: float) -> None:
        """Start it again when its pause is over."""
        if self.process is not None and self.process.poll() is not None:
            self.process = None
            self.restart_at = now + self.stack.choice.uniform(0.05, _LONGEST_PAUSE)
        if self.process is None and self.wanted and now >= self.restart_at:
            self.start()


class Worker(Part):
    """A worker process's place; its network, and the error of its clock in seconds, belong to the place."""

    def __init__(self, stack: Stack, number: int) -> None:
        super().__init__(stack, f"worker-{number}")
        self.offset = 0
        self.modes: dict[str, str] = {}
        self._lock = threading.Lock()
        lines = {"redis": stack.valkey.socket} | ({"sql": stack.postgres.socket} if stack.postgres else {})
        self._proxy = subprocess.Popen(
            [
                # The proxy holds the namespace: its far side are Unix sockets, which are files and so reached from it.
                *(_IN_A_NAMESPACE if stack.namespaces else ()),
                sys.executable,
                str(Path(__file__).with_name("proxy.py")),
                *(f"{name}={path}" for name, path in lines.items()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=stack.folder,
            start_new_session=True,
        )
        assert self._proxy.stdout is not None
        self.ports = {}
        for _ in lines:
            name, port = self._proxy.stdout.readline().decode().split()
            self.ports[name] = int(port)
            self.modes[name] = "pass"

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Return ``python -m workers`` on its own network."""
        more = {"COORD_REDIS_URL": f"redis://127.0.0.1:{self.ports['redis']}/0"}
        if self.stack.postgres:
            more["COORD_DATABASE_URL"] = self.stack.postgres.url(port=self.ports["sql"])
        if self.offset and self.stack.wrong_clock is not None:
            more |= {"LD_PRELOAD": str(self.stack.wrong_clock), "CHAOS_CLOCK_OFFSET": str(self.offset)}
        return [*self._here, sys.executable, "-m", "workers"], more

    def is_able(self) -> bool:
        """Return whether it lives, had the time to start, and reaches the store, so that it must progress."""
        begun = self.pid is not None and time.monotonic() - self.born >= _BEGINS_WITHIN
        return begun and not self.paused and self.modes.get("sql", "pass") == "pass"

    @property
    def _here(self) -> tuple[str, ...]:
        """Return the prefix that runs a command on this worker's own network; the command keeps the process id."""
        return ("nsenter", f"--net=/proc/{self._proxy.pid}/ns/net") if self.stack.namespaces else ()

    def network(self, line: str, mode: str) -> None:
        """Set how bytes of one of its lines are forwarded: see proxy. ``drop``: the kernel drops their packets."""
        with self._lock:
            if "drop" in {mode, self.modes[line]}:
                self.modes[line] = mode
                self._filter()
                return
            assert self._proxy.stdin is not None
            assert self._proxy.stdout is not None
            self._proxy.stdin.write(f"{line} {mode}\n".encode())
            self._proxy.stdin.flush()
            self._proxy.stdout.readline()
            self.modes[line] = "pass" if mode == "reset" else mode

    def _filter(self) -> None:
        ports = [str(self.ports[line]) for line, mode in self.modes.items() if mode == "drop"]
        rules = [f"tcp {side} {port} drop" for port in ports for side in ("dport", "sport")]
        chain = "\n".join(["type filter hook input priority 0; policy accept;", *rules])
        subprocess.run(
            [*self._here, "nft", "-f", "-"],
            input=f"flush ruleset\ntable inet chaos {{\nchain input {{\n{chain}\n}}\n}}\n".encode(),
            check=True,
            capture_output=True,
        )

    def close(self) -> None:
        """End the proxy."""
        assert self._proxy.stdin is not None
        self._proxy.stdin.close()
        self._proxy.wait(timeout=10)
        assert self._proxy.stdout is not None
        self._proxy.stdout.close()


class Beat(Part):
    """Celery beat; each has a schedule file of its own, as on two machines."""

    def __init__(self, stack: Stack, name: str = "beat") -> None:
        super().__init__(stack, name)

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Return ``celery beat`` with a schedule file of its own."""
        schedule = self.stack.folder / f"{self.name}-schedule"
        pid_file = self.stack.folder / f"{self.name}.pid"
        pid_file.unlink(missing_ok=True)  # file of a beat that was killed
        arguments = ["beat", "-s", str(schedule), f"--pidfile={pid_file}", "-l", "WARNING"]
        return [sys.executable, "-m", "celery", "-A", "workers.app", *arguments], {}


@dataclass(frozen=True, slots=True)
class Settings:
    """The kind of stack: the store, how many workers, and whether Redis keeps a file."""

    store: str
    workers: int
    append_only: bool


class Stack:
    """All processes of the run. ``choice`` draws the pauses before restarts."""

    def __init__(self, folder: Path, settings: Settings, choice: random.Random) -> None:
        self.folder, self.settings, self.choice = folder, settings, choice
        folder.chmod(0o711)  # PostgreSQL's user passes through
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.evidence = folder / "evidence"
        self.tail = Tail(self.evidence)
        self.home = folder / "home"
        self.home.mkdir()
        self.redis_disk = SmallDisk(folder / "redis-data")
        self.store_disk = SmallDisk(folder / "store")
        self.redis_disk.mount()
        self.valkey = Valkey(folder, append_only=settings.append_only)
        self.postgres: Postgres | None = None
        if settings.store == "postgresql":
            self.postgres = Postgres(folder)
        else:
            self.store_disk.mount()
        self.wrong_clock = _wrong_clock(folder) if self.postgres else None
        self.namespaces = _namespaces()
        self.workers: list[Worker] = []
        self.beat = Beat(self)
        self.second_beat = Beat(self, "second-beat")
        self.second_beat.wanted = False
        self.without_workers: list[tuple[float, float]] = []
        """From, to, in seconds since the machine was started: when no worker was able to do anything."""
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self.environment: dict[str, str] = {}

    @property
    def database_url(self) -> str:
        """Return the URL of the store, reached without a proxy."""
        return self.postgres.url() if self.postgres else f"sqlite:///{self.store_disk.place / 'chaos.db'}"

    def up(self) -> None:
        """Start the servers; the first command creates the schema."""
        self.valkey.up()
        if self.postgres:
            self.postgres.up()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COORD_")}
        self.environment = {
            **kept,
            **SETTINGS,
            "COORD_HOME": str(self.home),
            "COORD_DATABASE_URL": self.database_url,
            "COORD_REDIS_URL": f"unix://{self.valkey.socket}?db=0",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def work(self) -> None:
        """Start workers and beat, and keep them running."""
        self.workers = [Worker(self, number) for number in range(self.settings.workers)]
        self._keeper.start()

    def parts(self) -> list[Part]:
        """Return all processes that are kept running."""
        return [*self.workers, self.beat, self.second_beat]

    def heal_networks(self) -> None:
        """Let every line pass."""
        for worker in self.workers:
            for line, mode in worker.modes.items():
                if mode != "pass":
                    worker.network(line, "pass")

    def deadlocks(self) -> list[str]:
        """Return what PostgreSQL's log reports of each deadlock."""
        if self.postgres is None:
            return []
        return deadlocks_in((self.folder / f"{self.postgres.name}.log").read_text(errors="replace"))

    def rest(self) -> None:
        """Start nothing any more, and end the running processes in order."""
        self._ended.set()
        self._keeper.join()
        for part in self.parts():
            part.wanted = False
            part.signal(signal.SIGCONT)
            part.signal(signal.SIGTERM)
        for part in self.parts():
            if part.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    part.process.wait(timeout=40)

    def down(self) -> None:
        """End all processes, whatever their state."""
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join()
        for part in self.parts():
            part.signal(signal.SIGKILL)
            if part.process is not None:
                part.process.wait()
        for worker in self.workers:
            worker.close()
        with suppress(OSError, subprocess.SubprocessError):
            self.store_disk.free() if self.store_disk.mounted else None
        for server, number in ((self.valkey, signal.SIGKILL), (self.postgres, signal.SIGQUIT)):
            if server is not None:
                server.down(number)
        for process in marked(self.folder):
            with suppress(psutil.Error):
                process.kill()

    def unmount(self) -> None:
        """Unmount the small disks, and lose their files."""
        self.redis_disk.unmount()
        self.store_disk.unmount()

    def _keep(self) -> None:
        alone_since: float | None = None
        while not self._ended.wait(0.05):
            for part in self.parts():
                part.look(time.monotonic())
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            if any(worker.is_able() for worker in self.workers):
                if alone_since is not None:
                    self.without_workers.append((alone_since, now))
                alone_since = None
            elif alone_since is None:
                alone_since = now

    def await_workers(self) -> None:
        """Wait until the workers have completed jobs."""

        def some() -> bool:
            self.tail.read()
            return self.tail.ended > 0

        until(some, within=_PATIENCE, what="the first job done")


def marked(folder: Path) -> Iterator[psutil.Process]:
    """Return processes of jobs, their interpreters and wardens that belong to the stack in *folder*."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            variables = process.environ()
            ours = variables.get("COORD_COSTS", "").startswith(str(folder))
            if ours or process.cwd().startswith(str(folder)):
                yield process


def _wrong_clock(folder: Path) -> Path | None:
    """Return a library that shifts the wall clock of a process that preloads it; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=False, capture_output=True
    )
    return library if done.returncode == 0 else None


def _namespaces() -> bool:
    """Return whether processes may have networks of their own, with a packet filter: that takes root, ip and nft."""
    try:
        done = subprocess.run([*_IN_A_NAMESPACE, "nft", "list", "ruleset"], check=False, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0
