"""The home folder: made and checked, locked by the stack that owns it, with a record by which other commands find it.

Who owns the folder is decided by the lock alone, which the kernel frees with its holder; the record only tells what
the owner has started. A record without a lock is what a killed owner left behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from coordination.base.errors import CoordinationError, SettingsError, StackRunning, Unavailable
from coordination.stack.processes import ServiceRecord

_FORMAT = 1
_FULL = {errno.ENOSPC, errno.EDQUOT}
# A command that only looks takes the lock for microseconds; its holder is a real one when it stays this long.
_LOOKERS = timedelta(milliseconds=300)
_LOG_LIMIT = 10_000_000


@dataclass(frozen=True, slots=True)
class RunningStack:
    """What the owner of a stack wrote down: itself, what it works on, what it started. ``ready`` once it takes work."""

    owner: ServiceRecord
    started_at: datetime
    version: str
    redis_url: str
    database_url: str
    services: dict[str, ServiceRecord] = field(default_factory=dict)
    ready: bool = False
    serves: str = "*"  # whose jobs its worker runs: names of workspaces with commas between them, or * for all
    grace: float = 0.0  # seconds that its running jobs have when it is stopped
    counts_users: bool = False  # it ends with its last user; else with its owner's command
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class StackEnd:
    """How a stack ended that left word: somebody stopped it, or *failure* says why it could not go on."""

    failure: CoordinationError | None


class Home:
    """One home folder and the places in it. ``prepared`` makes it usable; nothing else here creates it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "stack.lock"
        self.record = folder / "stack.json"
        self.last_end = folder / "stack-ended.json"
        self.logs = folder / "logs"
        self.redis = folder / "redis"
        self.beat_schedule = folder / "beat-schedule"

    def prepared(self) -> Home:
        """Itself, with its folders there, readable by nobody else, and proven to take a file; else one sentence."""
        self.close_to_others()
        with self.explained():
            for folder in (self.logs, self.redis):
                folder.mkdir(mode=0o700, exist_ok=True)
                _close(folder)
            # Permissions, a read-only mount and a full disk all show when something is written, and only then.
            with tempfile.TemporaryFile(dir=self.folder) as probe:
                probe.write(b"\0" * 4096)
                probe.flush()
        return self

    def close_to_others(self) -> None:
        """Make the folder if it is missing, and take other users' access away if it was there before.

        Raises SettingsError for a folder that everybody may write to and that has to stay so, or cannot be changed.
        """
        with self.explained():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            shared = any(self.folder.samefile(place) for place in _of_all() if os.path.isdir(place))  # noqa: PTH112
            if not shared and _close(self.folder):
                return
            writable = self.folder.stat().st_mode & stat.S_IWOTH
        if shared or writable:
            raise SettingsError(
                f"The home folder {self.folder} is open to all users of this machine",
                hint="Set COORD_HOME to a folder that only you may write to, such as one inside it",
                field="COORD_HOME",
            )

    def log(self, name: str) -> Path:
        """The log of one service."""
        return self.logs / f"{name}.log"

    def rotate_logs(self, *names: str) -> None:
        """Put logs that have grown large aside, keeping one old one of each."""
        with self.explained():
            for name in names:
                path = self.log(name)
                if path.exists() and path.stat().st_size > _LOG_LIMIT:
                    path.replace(path.with_suffix(".log.1"))

    # --- who owns it

    def acquire(self) -> int:
        """The lock, as an open file: held until it is closed or the process ends. StackRunning when it is taken."""
        with self.explained():
            lock = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self.explained():
                self._hold(lock)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _hold(self, lock: int) -> None:
        deadline = time.monotonic() + _LOOKERS.total_seconds()
        while not locked(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise self.taken()
            time.sleep(0.01)

    def is_owned(self) -> bool:
        """Whether a stack lives here now."""
        try:
            lock = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                return False
            raise self._explanation(error) from error
        try:
            with self.explained():
                return not locked(lock, fcntl.LOCK_SH)
        finally:
            os.close(lock)

    def taken(self) -> StackRunning:
        """The refusal of a second stack."""
        record = self.read()
        who = "another process"
        if record is not None:
            who = f"process {record.owner.pid} since {record.started_at.astimezone():%Y-%m-%d %H:%M:%S %Z}"
        return StackRunning(
            f"A stack already runs in {self.folder}, started by {who}",
            hint="Use it, stop it with coord down, or choose another folder with COORD_HOME",
        )

    # --- what it wrote down

    def write(self, record: RunningStack) -> None:
        """Replace the record; a reader sees the old one or the new one, and nobody else sees either."""
        content = {"format": _FORMAT, **asdict(record), "started_at": record.started_at.isoformat()}
        self._replace(self.record, content)

    def _replace(self, path: Path, content: dict[str, Any]) -> None:
        with self.explained():
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".stack-")  # mkstemp: readable by its owner alone
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(content, file, indent=1)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def read(self) -> RunningStack | None:
        """The record; None when there is none, or none that can be read."""
        try:
            return _record(json.loads(self.record.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # A torn or foreign file must not keep a stack from starting: the lock decides, not this.
            return None

    def forget(self) -> None:
        """Remove the record."""
        with self.explained():
            self.record.unlink(missing_ok=True)

    def write_end(self, owner: ServiceRecord, failure: CoordinationError | None) -> None:
        """Leave word that the stack of *owner* was stopped, or why it could not go on, for those that used it."""
        why = None if failure is None else {"message": failure.message, "hint": failure.hint}
        self._replace(self.last_end, {"owner": asdict(owner), "failure": why})

    def read_end(self, owner: ServiceRecord) -> StackEnd | None:
        """How the stack of *owner* ended; None when it left no word, as when it was killed."""
        try:
            content = json.loads(self.last_end.read_bytes())
            if ServiceRecord.restored(content["owner"]) != owner:
                return None
            why = content["failure"]
            return StackEnd(None if why is None else Unavailable(str(why["message"]), hint=why["hint"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    # --- what can go wrong with a folder

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the system says about a file in here into one sentence."""
        try:
            yield
        except OSError as error:
            raise self._explanation(error) from error

    def _explanation(self, error: OSError) -> CoordinationError:
        if error.errno in _FULL:
            return Unavailable(
                f"The disk is full: nothing can be written to {self.folder}",
                hint="Free some space, or choose another folder with COORD_HOME",
            )
        if error.errno in {errno.EEXIST, errno.ENOTDIR}:
            problem = f"{_first_file(Path(error.filename or self.folder))} is a file where a folder is needed"
        elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            problem = f"The home folder {self.folder} cannot be written to ({_reason(error)})"
        else:
            problem = f"The home folder {self.folder} cannot be used ({_reason(error)})"
        return SettingsError(problem, hint="Set COORD_HOME to a folder that you may write to", field="COORD_HOME")


def _of_all() -> tuple[str, ...]:
    """Folders that all users share."""
    return ("/", "/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir())  # noqa: S108 - they are refused


def _close(folder: Path) -> bool:
    """Whether no other user can enter it now. One that belongs to somebody else stays as it is."""
    mode = folder.stat().st_mode
    if mode & 0o077:
        try:
            folder.chmod(stat.S_IMODE(mode) & ~0o077)
        except PermissionError:
            return False
    return True


def locked(lock: int, kind: int) -> bool:
    """Whether the open file could be locked, without waiting; *kind* is fcntl.LOCK_EX or LOCK_SH."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _record(content: dict[str, Any]) -> RunningStack | None:
    if content["format"] != _FORMAT:
        return None
    return RunningStack(
        owner=ServiceRecord.restored(content["owner"]),
        started_at=datetime.fromisoformat(content["started_at"]),
        version=str(content["version"]),
        redis_url=str(content["redis_url"]),
        database_url=str(content["database_url"]),
        services={str(name): ServiceRecord.restored(one) for name, one in content["services"].items()},
        ready=content["ready"] is True,
        serves=str(content.get("serves", "*")),
        grace=float(content.get("grace", 0.0)),
        counts_users=content.get("counts_users") is True,
        stopping=content.get("stopping") is True,
    )


def _first_file(path: Path) -> Path:
    for part in (*reversed(path.parents), path):
        if os.path.lexists(part) and not os.path.isdir(part):  # noqa: PTH112 - Path's would raise here
            return part
    return path


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
