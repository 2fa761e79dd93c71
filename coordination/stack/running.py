"""Find and stop a stack that another process owns."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from coordination.base.errors import Conflict, Unavailable
from coordination.settings import Settings, masked
from coordination.stack.home import Home, RunningStack, wait_for_lock
from coordination.stack.stack import end_orphans

_POLL_EVERY = 0.02
_REPORT_EVERY = 0.5
_UP_WITHIN = 30.0
_NOTED_WITHIN = 3.0  # seconds in which an owner records that it stops; older versions do not


def find(settings: Settings) -> RunningStack | None:
    """Return the stack that runs in the settings' home, or None. Waits while it starts.

    Raises Conflict when it uses another database or Redis than the settings, because it would not run their tasks.
    """
    home = Home(settings.home)
    began = time.monotonic()
    while home.is_owned():
        record = home.read()
        if record is not None and record.ready:
            _check_same(settings, record)
            return record
        grace = 0.0 if record is None else record.grace  # it may be stopping
        if time.monotonic() - began > _UP_WITHIN + grace:
            raise Unavailable(
                f"The stack in {home.folder} is starting or stopping, and was not ready in time",
                hint=f"Look at the logs in {home.logs}, or stop it with coord down",
            )
        time.sleep(_POLL_EVERY)
    return None


def _check_same(settings: Settings, record: RunningStack) -> None:
    if settings.database_url != record.database_url:
        what, mine, its = "database", settings.database_url, record.database_url
    elif settings.redis_url is not None and settings.redis_url != record.redis_url:
        what, mine, its = "Redis", settings.redis_url, record.redis_url
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
    """Stop the stack in *folder* and wait until it has ended. Return False when there is none.

    *now*: end jobs without a grace period. Processes of a killed owner are ended too, and *on_worker_death* gets the
    pid of its worker. *on_wait* gets the stack's record regularly while it stops. Raises Unavailable when it still runs
    after its grace period and *patience*.
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
        _request_stop(home, record, now=now)
    except PermissionError as error:
        raise Conflict(
            f"The stack in {folder} belongs to another user (process {pid})", hint="Stop it as that user"
        ) from error
    deadline = time.monotonic() + record.grace + patience.total_seconds()
    reported_at = time.monotonic()
    while home.is_owned():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The stack in {folder} was asked to stop, but process {pid} still runs",
                hint=f"Its worker may still be finishing jobs; kill -9 {pid} ends it, and coord down then tidies up",
            )
        if on_wait is not None and time.monotonic() - reported_at > _REPORT_EVERY:
            on_wait(record)
            reported_at = time.monotonic()
        time.sleep(_POLL_EVERY)
    _clear(home, on_worker_death)
    return True


def _request_stop(home: Home, record: RunningStack, *, now: bool) -> None:
    """Signal the owner: SIGTERM only once, because a second one would kill its jobs; SIGQUIT for no grace period.

    Concurrent commands wait until the record shows the request of the first one.
    """
    deadline = time.monotonic() + _NOTED_WITHIN
    with _one_at_a_time(home):
        current = home.read()
        if current is not None and current.stopping and not now:
            return
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(record.owner.pid, signal.SIGQUIT if now else signal.SIGTERM)
        while home.is_owned() and time.monotonic() < deadline:
            current = home.read()
            if current is not None and current.stopping:
                return
            time.sleep(_POLL_EVERY)


@contextlib.contextmanager
def _one_at_a_time(home: Home) -> Iterator[None]:
    """Admit one command at a time, if the directory can be locked; a stack must also stop where it cannot."""
    with contextlib.ExitStack() as open_files:
        with contextlib.suppress(OSError):
            # Not a file, because the disk may be full.
            gate = os.open(home.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            open_files.callback(os.close, gate)
            wait_for_lock(gate, _NOTED_WITHIN)
        yield


def _clear(home: Home, on_worker_death: Callable[[int], bool | None] | None) -> None:
    """End the processes that a killed owner left, if any."""
    if home.read() is None:
        return
    lock = home.acquire()
    try:
        end_orphans(home, on_worker_death)
    finally:
        os.close(lock)
