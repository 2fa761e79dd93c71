"""Who uses the stack of a home folder: one file for each command, which that command keeps locked.

The kernel frees such a lock with the process that holds it, however that ends, so a file that can be locked is one that
a dead command has left. A suspended command keeps its lock, and stays a user. Joining, leaving and the decision that
nobody is left are made one at a time, under the lock of ``users.lock``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from coordination.base.clock import utc_now
from coordination.base.errors import CoordinationError, Unavailable
from coordination.stack.home import Home
from coordination.stack.processes import ServiceRecord

_LOOK_AGAIN = 0.005
_PATIENCE = 10.0  # with a command that was suspended in the moment in which it joined
_MOST_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class StackUser:
    """A command that uses the stack, as it wrote itself down; *run*: the run that it waits for."""

    pid: int
    command: str
    since: datetime
    run: str | None = None

    def sentence(self) -> str:
        """For people: the command and its process."""
        return f"{self.command} (process {self.pid}, since {self.since.astimezone():%H:%M:%S})"


class Membership:
    """This process's entry among the users; it counts until ``leave``, or until the process ends."""

    def __init__(self, users: StackUsers, path: Path, lock: int, user: StackUser) -> None:
        self._users = users
        self._path = path
        self._lock: int | None = lock
        self._user = user
        self._write(lock)

    def note_run(self, run: str) -> None:
        """Write down which run this command waits for."""
        if self._lock is not None and self._user.run != run:
            self._user = StackUser(self._user.pid, self._user.command, self._user.since, run)
            with contextlib.suppress(CoordinationError):  # a full disk: the lock counts, this only tells
                self._write(self._lock)

    def leave(self) -> None:
        """Use the stack no longer. Safe to call twice."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self._path.unlink(missing_ok=True)
            os.close(lock)

    def others(self) -> list[StackUser]:
        """The other users."""
        return self._users.present(besides=self._path.name)

    def _write(self, lock: int) -> None:
        user = self._user
        content = {"pid": user.pid, "command": user.command, "since": user.since.isoformat(), "run": user.run}
        with self._users.home.explained():
            text = json.dumps(content).encode()
            os.pwrite(lock, text, 0)
            os.ftruncate(lock, len(text))


class StackUsers:
    """The users of the stack of one home folder."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._folder = home.folder / "users"
        self._gate = home.folder / "users.lock"
        self._kept = home.folder / "kept.json"

    def join(self, command: str) -> Membership:
        """Become a user; the home folder is there."""
        with self.home.explained(), self._alone():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            lock, name = tempfile.mkstemp(dir=self._folder, prefix=f"{os.getpid()}-")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                return Membership(self, Path(name), lock, StackUser(os.getpid(), command, utc_now()))
            except BaseException:
                os.close(lock)
                raise

    def present(self, *, besides: str = "") -> list[StackUser]:
        """Who uses the stack now, the first comer first; *besides* is the name of a file that does not count."""
        if not self._folder.is_dir():
            return []
        with self.home.explained(), self._alone():
            return self._present(besides)

    def none_left(self, then: Callable[[], None]) -> bool:
        """Whether nobody uses the stack of this process, or has it kept; *then* is called before anybody can join.

        When that cannot be found out now (too many files are open, a network's disk is away) somebody may use it.
        """
        try:
            with self.home.explained():
                if not self.home.folder.is_dir():
                    return True  # somebody has deleted it
                with self._alone():
                    if self.is_kept(ServiceRecord.of(os.getpid())) or self._present():
                        return False
                    then()
                    return True
        except CoordinationError:
            return False

    def keep(self, owner: ServiceRecord) -> None:
        """Keep the stack of that process up without any user."""
        with self.home.explained(), self._alone():
            self._kept.write_text(json.dumps({"pid": owner.pid, "started": owner.started}), encoding="utf-8")

    def is_kept(self, owner: ServiceRecord) -> bool:
        """Whether the stack of that process stays up without any user."""
        try:
            return ServiceRecord.restored(json.loads(self._kept.read_bytes())) == owner
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _present(self, besides: str = "") -> list[StackUser]:
        paths = [path for path in self._folder.iterdir() if path.name != besides] if self._folder.is_dir() else []
        found = [user for path in paths if (user := _user(path)) is not None]
        return sorted(found, key=lambda user: (user.since, user.pid))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        gate = os.open(self._gate, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + _PATIENCE
            while True:
                try:
                    fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Unavailable(
                            f"Another command keeps {self._gate} locked",
                            hint="One that is suspended, perhaps: see ps, and let it go on with fg",
                        ) from None
                time.sleep(_LOOK_AGAIN)
            yield
        finally:
            os.close(gate)


def _user(path: Path) -> StackUser | None:
    """Who keeps the file locked; None, and the file is removed, when nobody does."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # that command has just left
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _restored(os.pread(file, _MOST_BYTES, 0), path)
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(file)


def _restored(text: bytes, path: Path) -> StackUser:
    """The user who wrote *text*; it counts, whatever it wrote: the lock decides."""
    try:
        content = json.loads(text)
        run = content["run"]
        since = datetime.fromisoformat(content["since"])
        return StackUser(int(content["pid"]), str(content["command"]), since, None if run is None else str(run))
    except (ValueError, KeyError, TypeError):
        number = path.name.partition("-")[0]
        return StackUser(int(number) if number.isdecimal() else 0, "another command", utc_now())
