"""A stack that another process owns: found, and stopped. Holds nothing itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from coordination.base.errors import Conflict, Unavailable
from coordination.settings import Settings, masked
from coordination.stack.home import Home, RunningStack, locked
from coordination.stack.stack import end_what_was_left

_LOOK_AGAIN = 0.02
_TELL_AFTER = 0.5
_NOTED_WITHIN = 3.0  # seconds in which an owner that was asked to stop writes that down; those of before do not
_TAIL_BYTES = 4_000


def find(settings: Settings, *, patience: timedelta = timedelta(seconds=30)) -> RunningStack | None:
    """The stack that runs in the settings' home, waiting while it comes up; None when there is none.

    Conflict when it works on another database or another Redis than the settings name: what is submitted to the one
    would never be done by the other.
    """
    home = Home(settings.home)
    began = time.monotonic()
    while home.is_owned():
        found = home.read()
        if found is not None and found.ready:
            _check_same(settings, found)
            return found
        grace = 0.0 if found is None else found.grace  # one that stops gives its jobs as much
        if time.monotonic() - began > patience.total_seconds() + grace:
            raise Unavailable(
                f"The stack in {home.folder} is starting or stopping, and was not ready in time",
                hint=f"Look at the logs in {home.logs}, or stop it with coord down",
            )
        time.sleep(_LOOK_AGAIN)
    return None


def _check_same(settings: Settings, found: RunningStack) -> None:
    if settings.database_url != found.database_url:
        what, mine, its = "database", settings.database_url, found.database_url
    elif settings.redis_url is not None and settings.redis_url != found.redis_url:
        what, mine, its = "Redis", settings.redis_url, found.redis_url
    else:
        return
    raise Conflict(
        f"The stack in {settings.home} works on the {what} {masked(its)}, but the settings name {masked(mine)}",
        hint="Stop it with coord down, or choose another folder with COORD_HOME",
    )


def down(
    folder: Path,
    *,
    now: bool = False,
    patience: timedelta = timedelta(seconds=60),
    on_worker_death: Callable[[int], bool | None] | None = None,
    on_wait: Callable[[RunningStack], None] | None = None,
) -> bool:
    """Stop the stack in *folder* and wait until it is gone; False when there is none.

    *now*: its jobs get no grace. What a killed owner left behind is ended too, and *on_worker_death* hears the pid of
    its worker. *on_wait* gets the stack's record now and then while it stops. Raises Unavailable when it still runs
    after its grace and *patience*.
    """
    home = Home(folder)
    if not home.is_owned():
        _clear(home, on_worker_death)
        return False
    record = home.read()
    if record is None or not record.owner.alive():
        raise Conflict(
            f"A stack runs in {folder}, but its owner cannot be found from here",
            hint="Stop it on the machine (or in the container) where it was started",
        )
    pid = record.owner.pid
    try:
        _ask_to_stop(home, record, now=now)
    except PermissionError as error:
        raise Conflict(
            f"The stack in {folder} belongs to another user (process {pid})", hint="Stop it as that user"
        ) from error
    deadline = time.monotonic() + record.grace + patience.total_seconds()
    told = time.monotonic()
    while home.is_owned():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The stack in {folder} was asked to stop, but process {pid} still runs",
                hint=f"Its worker may still be finishing jobs; kill -9 {pid} ends it, and coord down then tidies up",
            )
        if on_wait is not None and time.monotonic() - told > _TELL_AFTER:
            on_wait(record)
            told = time.monotonic()
        time.sleep(_LOOK_AGAIN)
    _clear(home, on_worker_death)
    return True


def _ask_to_stop(home: Home, record: RunningStack, *, now: bool) -> None:
    """Signal the owner: SIGTERM once, as a second one would end its jobs the hard way; SIGQUIT takes the grace away.

    Of commands that ask at the same time the next one waits until the record says what the first has asked for.
    """
    deadline = time.monotonic() + _NOTED_WITHIN
    with _alone(home, deadline):
        found = home.read()
        if found is not None and found.stopping and not now:
            return
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(record.owner.pid, signal.SIGQUIT if now else signal.SIGTERM)
        while home.is_owned() and time.monotonic() < deadline:
            found = home.read()
            if found is not None and found.stopping:
                return
            time.sleep(_LOOK_AGAIN)


@contextlib.contextmanager
def _alone(home: Home, deadline: float) -> Iterator[None]:
    """One command at a time, as well as can be: a stack has to stop also where the folder cannot be locked."""
    with contextlib.ExitStack() as kept:
        with contextlib.suppress(OSError):
            gate = os.open(home.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # no file: the disk may be full
            kept.callback(os.close, gate)
            while not locked(gate, fcntl.LOCK_EX) and time.monotonic() < deadline:
                time.sleep(_LOOK_AGAIN)
        yield


def _clear(home: Home, on_worker_death: Callable[[int], bool | None] | None) -> None:
    """End what an owner that could not do so itself has left; harmless when there is nothing."""
    if home.read() is None:
        return
    lock = home.acquire()
    try:
        end_what_was_left(home, on_worker_death)
    finally:
        os.close(lock)


def tail(log: Path, begin: int) -> str:
    """Return the last line that was written to *log* after its first *begin* bytes."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
