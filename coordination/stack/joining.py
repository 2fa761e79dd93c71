"""A command joins the stack of its home folder: the one that runs, or one that it starts in a process of its own.

No command owns a stack. Its process is in a session of its own, away from every terminal, counts the commands that use
it (``users``), and stops when none is left. So the first command may end, or be killed, without the others' jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from coordination.base.errors import (
    Conflict,
    CoordinationError,
    DatabaseUnavailable,
    RedisUnavailable,
    Refused,
    SchemaMismatch,
    SettingsError,
    StackGoneError,
    StackRunning,
    StackStoppedError,
    Unavailable,
)
from coordination.base.host import keep_private
from coordination.settings import Settings
from coordination.stack import running
from coordination.stack.home import Home, RunningStack
from coordination.stack.interrupts import undisturbed
from coordination.stack.processes import READY_VARIABLE
from coordination.stack.stack import absolute_imports
from coordination.stack.users import Membership, StackUsers

_LOOK_AGAIN = 0.01
_COUNT_AGAIN = 0.5
_MARGIN = 30.0
_UP_WITHIN = 90.0
_ENDS_WITHIN = 15.0
_SAYS_SO_WITHIN = 3.0
_MOST_BYTES = 65_536
_TOLD = {
    error.code: error
    for error in (
        *(Refused, SettingsError, Conflict, StackRunning),
        *(Unavailable, RedisUnavailable, DatabaseUnavailable, SchemaMismatch),
    )
}


class StackStarter:
    """The process of a stack on its way up. It does nothing but import until ``go``."""

    def __init__(self, settings: Settings, argv: Sequence[str]) -> None:
        self._home = Home(settings.home)
        self._home.rotate_logs("stack")
        with self._home.explained():
            log = os.open(self._home.log("stack"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._hears, told = os.pipe()
        self._gone = False
        try:
            with os.fdopen(log, "ab") as output:
                self._begin = output.seek(0, os.SEEK_END)
                self._process = subprocess.Popen(
                    list(argv),
                    env=absolute_imports(settings.child_environment(**{READY_VARIABLE: str(told)})),
                    cwd=self._home.folder,  # or the folder where it was started could not be unmounted
                    pass_fds=(told,),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._hears)
            raise
        finally:
            os.close(told)

    def go(self) -> None:
        """Let it start its services."""
        self._gone = True
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(b"go\n")

    def wait(self) -> None:
        """Return once it is up, or another process has the home folder. Raises what it says is in its way."""
        heard = b""
        deadline = time.monotonic() + _UP_WITHIN
        while b"\n" not in heard and len(heard) < _MOST_BYTES:
            readable, _, _ = select.select([self._hears], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._hears, _MOST_BYTES) if readable else b""
            if not chunk:
                break
            heard += chunk
        if heard == b"ready\n":
            # It outlives this command on purpose; without this, Python complains at exit that nobody waited for it.
            self._process.returncode = 0
            self._close()
            return
        error = restored(heard)
        self.give_up()
        if isinstance(error, StackRunning):
            return
        said = running.tail(self._home.log("stack"), self._begin)
        raise error or Unavailable(
            said or "The stack ended before it was up", hint=f"Its logs are in {self._home.logs}"
        )

    def give_up(self) -> None:
        """End it: ask it, hurry it, kill it; killed, its own children follow it."""
        ends = (self._process.terminate, self._process.terminate, self._process.kill)
        for end in ends if self._gone else ends[-1:]:
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDS_WITHIN)
                break
        self._close()

    def _close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._hears >= 0:
            os.close(self._hears)
            self._hears = -1


def told(error: CoordinationError) -> bytes:
    """*error* as the process of a stack tells it to the command that waits for it."""
    return json.dumps([error.code, error.message, error.hint, error.field]).encode() + b"\n"


def restored(heard: bytes) -> CoordinationError | None:
    """The error that was told so; None when it was nothing of that kind."""
    try:
        code, message, hint, field = json.loads(heard)
    except (ValueError, TypeError):
        return None
    return _TOLD.get(code, Unavailable)(str(message), hint=hint, field=field)


class JoinedStack:
    """The stack that this command uses, until ``leave``."""

    def __init__(self, home: Home, found: RunningStack, membership: Membership, *, started: bool) -> None:
        self.found = found
        self.membership = membership
        self.started = started
        self.hurried = False  # its jobs were ended at once, not handed back
        self._home = home
        self._users = StackUsers(home)

    def problem(self) -> CoordinationError | None:
        """Why the stack is of no use any more; None while it lives."""
        if self._lives():
            return None
        end = self._home.read_end(self.found.owner)
        if end is None:
            return StackGoneError(f"The process of the stack in {self._home.folder} was killed")
        return end.failure or StackStoppedError(f"The stack in {self._home.folder} was stopped")

    def keep(self) -> None:
        """Keep the stack up without any user."""
        self._users.keep(self.found.owner)

    def is_kept(self) -> bool:
        """Whether it stays up without any user."""
        return self._users.is_kept(self.found.owner)

    def is_last(self) -> bool:
        """Whether the stack will stop when this command leaves."""
        return self.found.counts_users and not self.is_kept() and not self.membership.others()

    def taken(self) -> StackRunning:
        """The refusal of a second stack."""
        return self._home.taken()

    def leave(self) -> list[str]:
        """Use the stack no longer; what keeps it up, in words. When nothing does, it has stopped on return.

        When the wait for that is interrupted, its jobs are ended at once.
        """
        self.membership.leave()
        if not self.found.counts_users:
            return [f"another command (process {self.found.owner.pid})"]
        if stays := self._what_keeps_it():
            return stays
        try:
            return self._await_end()
        except KeyboardInterrupt:
            self.hurried = True
            with undisturbed():
                self._hurry()
            return []

    def _what_keeps_it(self) -> list[str]:
        found = [user.sentence() for user in self._users.present()]
        return [*found, "coord up --detach"] if self._users.is_kept(self.found.owner) else found

    def _await_end(self) -> list[str]:
        self._signal(signal.SIGUSR1)
        deadline = time.monotonic() + self.found.grace + _MARGIN
        counted = time.monotonic()
        while self._lives():
            if time.monotonic() - counted > _COUNT_AGAIN:
                if stays := self._what_keeps_it():
                    return stays  # somebody has come meanwhile
                counted = time.monotonic()
            if time.monotonic() > deadline:
                return [f"process {self.found.owner.pid}, which does not stop"]
            time.sleep(_LOOK_AGAIN)
        return []

    def _hurry(self) -> None:
        """End the stack, which nobody else uses, at once."""
        deadline = time.monotonic() + _SAYS_SO_WITHIN
        # Before it has begun to stop this would be the first signal, which lets jobs have their grace.
        while self._lives(ready=True) and time.monotonic() < deadline:
            if self._what_keeps_it():
                return
            time.sleep(_LOOK_AGAIN)
        self._signal(signal.SIGINT)
        deadline = time.monotonic() + _MARGIN
        while self._lives() and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)

    def _signal(self, number: signal.Signals) -> None:
        if self._lives() and self.found.owner.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.found.owner.pid, number)

    def _lives(self, *, ready: bool = False) -> bool:
        record = self._home.read() if self._home.is_owned() else None
        return record is not None and record.owner == self.found.owner and (record.ready or not ready)


def join(settings: Settings, argv: Sequence[str], command: str, *, prepare: Callable[[], None]) -> JoinedStack:
    """Become a user of the stack in the settings' home folder; *argv* is what starts one where there is none.

    *command* names this command to others. *prepare* makes what a stack needs, while its process starts. Raises what
    is in the way; nothing of ours is left then.
    """
    keep_private()
    home = Home(settings.home).prepared()
    # First of all: a stack that is about to stop must not find itself without users in between.
    membership = StackUsers(home).join(command)
    starter: StackStarter | None = None
    try:
        if not home.is_owned():
            starter = StackStarter(settings, argv)
        prepare()
        while True:
            if starter is not None:
                starter.go()
                starter.wait()
            found = running.find(settings)
            if found is not None:
                return JoinedStack(home, found, membership, started=starter is not None)
            starter = StackStarter(settings, argv)
    except BaseException:
        membership.leave()
        if starter is not None and not membership.others():
            starter.give_up()
        raise
