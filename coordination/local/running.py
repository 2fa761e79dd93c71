"""A stack that another process owns: found, started apart from this terminal, stopped. Holds nothing itself."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from coordination.errors import Conflict, Unavailable
from coordination.local.home import Home, RunningStack
from coordination.local.processes import READY_VARIABLE
from coordination.local.stack import end_what_was_left
from coordination.settings import Settings, masked

_LOOK_AGAIN = 0.02
_TAIL_BYTES = 4_000
_ENDS_WITHIN = 15.0


def find(settings: Settings, *, patience: timedelta = timedelta(seconds=30)) -> RunningStack | None:
    """The stack that runs in the settings' home, waiting while it comes up; None when there is none.

    Conflict when it works on another database or another Redis than the settings name: what is submitted to the one
    would never be done by the other.
    """
    home = Home(settings.home)
    deadline = time.monotonic() + patience.total_seconds()
    while home.is_owned():
        found = home.read()
        if found is not None and found.ready:
            _check_same(settings, found)
            return found
        if time.monotonic() > deadline:
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


def start_in_background(
    settings: Settings, argv: Sequence[str], *, patience: timedelta = timedelta(seconds=90)
) -> RunningStack:
    """Run *argv*, a command that starts a stack and holds it (``Stack.hold``), apart from this terminal.

    Returns once it is up. When it ends instead, Unavailable says what it said last; it should say one sentence.
    """
    home = Home(settings.home).prepared()
    if home.is_owned():
        raise home.taken()
    home.rotate_logs("stack")
    with home.explained():
        log = os.open(home.log("stack"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    hears, told = os.pipe()
    try:
        with os.fdopen(log, "ab") as output:
            begin = output.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                list(argv),
                env=settings.child_environment(**{READY_VARIABLE: str(told)}),
                pass_fds=(told,),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        os.close(told)
        told = -1
        heard, _, _ = select.select([hears], [], [], patience.total_seconds())
        ready = bool(heard) and os.read(hears, 64) != b""
    finally:
        for fd in (hears, told):
            if fd >= 0:
                os.close(fd)
    found = find(settings) if ready else None
    if found is None:
        _give_up(process)
        said = _tail(home.log("stack"), begin)
        raise Unavailable(said or "The stack ended before it was up", hint=f"Its logs are in {home.logs}")
    # It outlives this command on purpose; without this, Python complains at exit that nobody waited for it.
    process.returncode = 0
    return found


def down(
    folder: Path,
    *,
    patience: timedelta = timedelta(seconds=60),
    on_worker_death: Callable[[int], bool | None] | None = None,
) -> bool:
    """Stop the stack in *folder* and wait until it is gone; False when there is none.

    What a killed owner left behind is ended too, and *on_worker_death* hears the pid of its worker. Raises Unavailable
    when it still runs after *patience*.
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
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has just ended by itself
    except PermissionError as error:
        raise Conflict(
            f"The stack in {folder} belongs to another user (process {pid})", hint="Stop it as that user"
        ) from error
    deadline = time.monotonic() + patience.total_seconds()
    while home.is_owned():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The stack in {folder} was asked to stop, but process {pid} still runs",
                hint=f"Its worker may still be finishing jobs; kill -9 {pid} ends it, and coord down then tidies up",
            )
        time.sleep(_LOOK_AGAIN)
    _clear(home, on_worker_death)
    return True


def _clear(home: Home, on_worker_death: Callable[[int], bool | None] | None) -> None:
    """End what an owner that could not do so itself has left; harmless when there is nothing."""
    if home.read() is None:
        return
    lock = home.acquire()
    try:
        end_what_was_left(home, on_worker_death)
    finally:
        os.close(lock)


def _give_up(process: subprocess.Popen[bytes]) -> None:
    """End a command whose stack is of no use: ask it, hurry it, kill it; killed, its own children follow it."""
    for end in (process.terminate, process.terminate, process.kill):
        end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_ENDS_WITHIN)
            return


def _tail(log: Path, begin: int) -> str:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
