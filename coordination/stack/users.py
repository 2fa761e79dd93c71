"""The users of the stack of a home directory: one file per command, which that command keeps locked.

The kernel releases the lock with the process, however it ends: a file that can be locked is of a dead command. A
suspended command keeps its lock and stays a user. ``users.lock`` serializes joining, leaving and the check for users.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from coordination.base.clock import utc_now
from coordination.base.errors import CoordinationError, Unavailable
from coordination.stack.home import Home, try_lock, wait_for_lock
from coordination.stack.processes import ServiceRecord

_PATIENCE = 10.0  # with a command that was suspended while it joined
_MOST_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class StackUser:
    """A command that uses the stack. *run*: the run that it waits for."""

    pid: int
    command: str
    since: datetime
    run: str | None = None

    def sentence(self) -> str:
        """Return the command and its process as a text for people."""
        return f"{self.command} (process {self.pid}, since {self.since.astimezone():%H:%M:%S})"


class Membership:
    """This process's entry among the users, until ``leave`` or until the process ends."""

    def __init__(self, users: StackUsers, path: Path, lock: int, user: StackUser) -> None:
        self._users = users
        self._path = path
        self._lock: int | None = lock
        self._user = user
        self._write(lock)

    def note_run(self, run: str) -> None:
        """Record the run that this command waits for."""
        if self._lock is not None and self._user.run != run:
            self._user = StackUser(self._user.pid, self._user.command, self._user.since, run)
            with contextlib.suppress(CoordinationError):  # a full disk: the lock counts, the content is only shown
                self._write(self._lock)

    def leave(self) -> None:
        """Stop using the stack. Safe to call twice."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self._path.unlink(missing_ok=True)
            os.close(lock)

    def others(self) -> list[StackUser]:
        """Return the other users."""
        return self._users.present(besides=self._path.name)

    def _write(self, lock: int) -> None:
        user = self._user
        content = {"pid": user.pid, "command": user.command, "since": user.since.isoformat(), "run": user.run}
        with self._users.home.clear_errors():
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
        """Become a user. The home directory must exist."""
        with self.home.clear_errors(), self._locked():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            lock, name = tempfile.mkstemp(dir=self._folder, prefix=f"{os.getpid()}-")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                return Membership(self, Path(name), lock, StackUser(os.getpid(), command, utc_now()))
            except BaseException:
                os.close(lock)
                raise

    def present(self, *, besides: str = "") -> list[StackUser]:
        """Return the current users, oldest first. *besides*: the name of a file to leave out."""
        if not self._folder.is_dir():
            return []
        with self.home.clear_errors(), self._locked():
            return self._present(besides)

    def is_unused(self, then: Callable[[], None]) -> bool:
        """Return whether the stack of this process has no users and is not kept. Calls *then* before any can join.

        Returns False when that cannot be determined (too many open files, an unavailable network disk).
        """
        try:
            with self.home.clear_errors():
                if not self.home.folder.is_dir():
                    return True  # it was deleted
                with self._locked():
                    if self.is_kept(ServiceRecord.of(os.getpid())) or self._present():
                        return False
                    then()
                    return True
        except CoordinationError:
            return False

    def keep(self, owner: ServiceRecord) -> None:
        """Keep the stack of that process running without users."""
        with self.home.clear_errors(), self._locked():
            self._kept.write_text(json.dumps({"pid": owner.pid, "started": owner.started}), encoding="utf-8")

    def is_kept(self, owner: ServiceRecord) -> bool:
        """Return whether the stack of that process runs without users."""
        try:
            return ServiceRecord.from_json(json.loads(self._kept.read_bytes())) == owner
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _present(self, besides: str = "") -> list[StackUser]:
        paths = [path for path in self._folder.iterdir() if path.name != besides] if self._folder.is_dir() else []
        users = [user for path in paths if (user := _user(path)) is not None]
        return sorted(users, key=lambda user: (user.since, user.pid))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        gate = os.open(self._gate, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not wait_for_lock(gate, _PATIENCE):
                raise Unavailable(
                    f"Another command keeps {self._gate} locked",
                    hint="One that is suspended, perhaps: see ps, and let it go on with fg",
                )
            yield
        finally:
            os.close(gate)


def _user(path: Path) -> StackUser | None:
    """Return the user that keeps the file locked. Deletes the file and returns None when it is not locked."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # the command has just left
    try:
        if not try_lock(file, fcntl.LOCK_SH):
            return _parse_user(os.pread(file, _MOST_BYTES, 0), path)
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(file)


def _parse_user(text: bytes, path: Path) -> StackUser:
    """Parse a user's file. Malformed content counts as a user too, because only the lock decides."""
    try:
        content = json.loads(text)
        run = content["run"]
        since = datetime.fromisoformat(content["since"])
        return StackUser(int(content["pid"]), str(content["command"]), since, None if run is None else str(run))
    except (ValueError, KeyError, TypeError):
        number = path.name.partition("-")[0]
        return StackUser(int(number) if number.isdecimal() else 0, "another command", utc_now())
