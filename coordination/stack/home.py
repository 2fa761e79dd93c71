"""The home directory: created, checked, locked by the stack that owns it, with a record for other commands.

Only the lock decides who owns the directory, and the kernel releases it with the owner's process. The record lists what
the owner has started; a record without a lock is of a killed owner.
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
from datetime import datetime
from pathlib import Path
from typing import Any

from coordination.base.errors import CoordinationError, SettingsError, StackRunning, StackStoppedError, Unavailable
from coordination.stack.processes import ServiceRecord

_FORMAT = 1
_FULL = {errno.ENOSPC, errno.EDQUOT}
# A check holds the lock for microseconds; if it stays locked this long, a stack owns it.
_CHECKS = 0.3
_POLL_EVERY = 0.01
_LOG_LIMIT = 10_000_000


@dataclass(frozen=True, slots=True)
class RunningStack:
    """The record of a stack: its owner, settings and services. ``ready``: its worker accepts tasks."""

    owner: ServiceRecord
    started_at: datetime
    version: str
    redis_url: str
    database_url: str
    services: dict[str, ServiceRecord] = field(default_factory=dict)
    ready: bool = False
    serves: str = "*"  # the workspaces of its worker, separated by commas, or * for all
    grace: float = 0.0  # seconds that running jobs have when it is stopped
    counts_users: bool = False  # it ends with its last user; otherwise with its owner's command
    stopping: bool = False


class Home:
    """One home directory and its paths. Only ``prepare`` creates it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "stack.lock"
        self.record = folder / "stack.json"
        self.last_end = folder / "stack-ended.json"
        self.logs = folder / "logs"
        self.redis = folder / "redis"
        self.beat_schedule = folder / "beat-schedule"

    def prepare(self) -> Home:
        """Create the directories, private to this user, check that files can be written, and return self."""
        self.close_to_others()
        with self.clear_errors():
            for folder in (self.logs, self.redis):
                folder.mkdir(mode=0o700, exist_ok=True)
                _close(folder)
            # Only writing detects missing permissions, a read-only mount and a full disk.
            with tempfile.TemporaryFile(dir=self.folder) as probe:
                probe.write(b"\0" * 4096)
                probe.flush()
        return self

    def close_to_others(self) -> None:
        """Create the directory if it is missing, and remove other users' access to an existing one.

        Raises SettingsError for a shared directory, and for one that others can write and that cannot be changed.
        """
        with self.clear_errors():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            places = ("/", "/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir())  # noqa: S108 - they are refused
            shared = any(self.folder.samefile(place) for place in places if os.path.isdir(place))  # noqa: PTH112
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
        """Return the path of a service's log."""
        return self.logs / f"{name}.log"

    def rotate_logs(self, *names: str) -> None:
        """Rename large logs, keeping one old one of each."""
        with self.clear_errors():
            for name in names:
                path = self.log(name)
                if path.exists() and path.stat().st_size > _LOG_LIMIT:
                    path.replace(path.with_suffix(".log.1"))

    # --- ownership

    def acquire(self) -> int:
        """Lock the directory until the returned descriptor is closed. Raises StackRunning when it is locked."""
        with self.clear_errors():
            lock = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        locked = False
        try:
            with self.clear_errors():
                locked = wait_for_lock(lock, _CHECKS)
        finally:
            if not locked:
                os.close(lock)
        if not locked:
            raise self.running_error()
        return lock

    def is_owned(self) -> bool:
        """Return whether a stack runs here."""
        try:
            lock = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                return False
            raise self._explanation(error) from error
        try:
            with self.clear_errors():
                return not try_lock(lock, fcntl.LOCK_SH)
        finally:
            os.close(lock)

    def running_error(self) -> StackRunning:
        """Return the error for a second stack."""
        record = self.read()
        who = "another process"
        if record is not None:
            who = f"process {record.owner.pid} since {record.started_at.astimezone():%Y-%m-%d %H:%M:%S %Z}"
        return StackRunning(
            f"A stack already runs in {self.folder}, started by {who}",
            hint="Use it, stop it with coord down, or choose another folder with COORD_HOME",
        )

    # --- records

    def write(self, record: RunningStack) -> None:
        """Replace the record atomically. Only this user can read it."""
        content = {"format": _FORMAT, **asdict(record), "started_at": record.started_at.isoformat()}
        self._replace(self.record, content)

    def _replace(self, path: Path, content: dict[str, Any]) -> None:
        with self.clear_errors():
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".stack-")  # mkstemp: readable by its owner alone
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(content, file, indent=1)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def read(self) -> RunningStack | None:
        """Return the record, or None when it is missing or unreadable."""
        try:
            return _record(json.loads(self.record.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # A damaged or foreign file must not prevent a start: only the lock decides.
            return None

    def forget(self) -> None:
        """Remove the record."""
        with self.clear_errors():
            self.record.unlink(missing_ok=True)

    def write_end(self, owner: ServiceRecord, failure: CoordinationError | None) -> None:
        """Record for its users that the stack of *owner* was stopped, or why it could not continue."""
        why = None if failure is None else {"message": failure.message, "hint": failure.hint}
        self._replace(self.last_end, {"owner": asdict(owner), "failure": why})

    def read_end(self, owner: ServiceRecord) -> CoordinationError | None:
        """Return why the stack of *owner* has ended, or None when that is not recorded, as after a kill."""
        try:
            content = json.loads(self.last_end.read_bytes())
            if ServiceRecord.from_json(content["owner"]) != owner:
                return None
            if (why := content["failure"]) is None:
                return StackStoppedError(f"The stack in {self.folder} was stopped")
            return Unavailable(str(why["message"]), hint=why["hint"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    # --- errors

    @contextlib.contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Convert an OSError about a file in the directory to an error with a clear sentence."""
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


def _close(folder: Path) -> bool:
    """Remove other users' access. Return False for another user's directory, which stays as it is."""
    mode = folder.stat().st_mode
    if mode & 0o077:
        try:
            folder.chmod(stat.S_IMODE(mode) & ~0o077)
        except PermissionError:
            return False
    return True


def try_lock(lock: int, kind: int) -> bool:
    """Try to lock an open file without waiting. Return whether that succeeded. *kind*: fcntl.LOCK_EX or LOCK_SH."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(lock: int, patience: float) -> bool:
    """Lock an open file exclusively. Return whether that succeeded within *patience* seconds."""
    deadline = time.monotonic() + patience
    while not try_lock(lock, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_EVERY)
    return True


def _record(content: dict[str, Any]) -> RunningStack | None:
    if content["format"] != _FORMAT:
        return None
    return RunningStack(
        owner=ServiceRecord.from_json(content["owner"]),
        started_at=datetime.fromisoformat(content["started_at"]),
        version=str(content["version"]),
        redis_url=str(content["redis_url"]),
        database_url=str(content["database_url"]),
        services={str(name): ServiceRecord.from_json(record) for name, record in content["services"].items()},
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
