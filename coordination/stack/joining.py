"""Use the stack of a home directory from a command: the running one, or one that it starts in a separate process.

No command owns a stack. Its process has its own session without a terminal, counts the commands that use it
(``users``), and stops after the last one. So the first command may end or be killed without ending others' jobs.
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
    Unavailable,
)
from coordination.base.host import keep_private
from coordination.settings import Settings
from coordination.stack import running
from coordination.stack.home import Home, RunningStack
from coordination.stack.interrupts import ignore_signals
from coordination.stack.processes import READY_VARIABLE, read_tail
from coordination.stack.stack import absolute_imports
from coordination.stack.users import Membership, StackUsers

_POLL_EVERY = 0.01
_COUNT_EVERY = 0.5
_MARGIN = 30.0
_UP_WITHIN = 90.0
_ENDS_WITHIN = 15.0
_STOPS_WITHIN = 3.0
_MOST_BYTES = 65_536
_ERRORS = {
    error.code: error
    for error in (
        *(Refused, SettingsError, Conflict, StackRunning),
        *(Unavailable, RedisUnavailable, DatabaseUnavailable, SchemaMismatch),
    )
}


class StackStarter:
    """The process of a stack that is starting. It only imports modules until ``go``."""

    def __init__(self, settings: Settings, argv: Sequence[str]) -> None:
        self._home = Home(settings.home)
        self._home.rotate_logs("stack")
        with self._home.clear_errors():
            log = os.open(self._home.log("stack"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._answer, answer_end = os.pipe()
        self._started = False
        try:
            with os.fdopen(log, "ab") as output:
                self._begin = output.seek(0, os.SEEK_END)
                self._process = subprocess.Popen(
                    list(argv),
                    env=absolute_imports(settings.child_environment(**{READY_VARIABLE: str(answer_end)})),
                    cwd=self._home.folder,  # so that the user's directory can be unmounted
                    pass_fds=(answer_end,),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._answer)
            raise
        finally:
            os.close(answer_end)

    def go(self) -> None:
        """Let it start its services."""
        self._started = True
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(b"go\n")

    def wait(self) -> None:
        """Return once it is ready or another process owns the home directory. Raises the error that it reports."""
        answer = b""
        deadline = time.monotonic() + _UP_WITHIN
        while b"\n" not in answer and len(answer) < _MOST_BYTES:
            readable, _, _ = select.select([self._answer], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._answer, _MOST_BYTES) if readable else b""
            if not chunk:
                break
            answer += chunk
        if answer == b"ready\n":
            # It outlives this command on purpose; this prevents Python's warning about an unawaited child.
            self._process.returncode = 0
            self._close()
            return
        error = restore_error(answer)
        self.give_up()
        if isinstance(error, StackRunning):
            return
        tail = read_tail(self._home.log("stack"), self._begin) or "The stack ended before it was up"
        raise error or Unavailable(tail.splitlines()[-1], hint=f"Its logs are in {self._home.logs}")

    def give_up(self) -> None:
        """End it: stop, hurry, then kill it. The kernel ends the children of a killed stack."""
        ends = (self._process.terminate, self._process.terminate, self._process.kill)
        for end in ends if self._started else ends[-1:]:
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDS_WITHIN)
                break
        self._close()

    def _close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._answer >= 0:
            os.close(self._answer)
            self._answer = -1


def encode_error(error: CoordinationError) -> bytes:
    """Encode an error for the command that waits for a stack."""
    return json.dumps([error.code, error.message, error.hint, error.field]).encode() + b"\n"


def restore_error(answer: bytes) -> CoordinationError | None:
    """Decode an error, or return None."""
    try:
        code, message, hint, field = json.loads(answer)
    except (ValueError, TypeError):
        return None
    return _ERRORS.get(code, Unavailable)(str(message), hint=hint, field=field)


class JoinedStack:
    """The stack that this command uses, until ``leave``."""

    def __init__(self, home: Home, record: RunningStack, membership: Membership, *, started: bool) -> None:
        self.record = record
        self.membership = membership
        self.started = started
        self.hurried = False  # its jobs were ended at once, not handed back
        self._home = home
        self._users = StackUsers(home)

    def problem(self) -> CoordinationError | None:
        """Return why the stack has ended, or None while it runs."""
        if self._lives():
            return None
        killed = StackGoneError(f"The process of the stack in {self._home.folder} was killed")
        return self._home.read_end(self.record.owner) or killed

    def keep(self) -> None:
        """Keep the stack running without users."""
        self._users.keep(self.record.owner)

    def is_kept(self) -> bool:
        """Return whether it runs without users."""
        return self._users.is_kept(self.record.owner)

    def is_last(self) -> bool:
        """Return whether the stack will stop when this command leaves."""
        return self.record.counts_users and not self.is_kept() and not self.membership.others()

    def running_error(self) -> StackRunning:
        """Return the error for a second stack."""
        return self._home.running_error()

    def leave(self) -> list[str]:
        """Stop using the stack. Return what keeps it running, as texts; if nothing does, it has stopped on return.

        If the wait for that is interrupted, its jobs are ended at once.
        """
        self.membership.leave()
        if not self.record.counts_users:
            return [f"another command (process {self.record.owner.pid})"]
        if stays := self._what_keeps_it():
            return stays
        try:
            return self._await_end()
        except KeyboardInterrupt:
            self.hurried = True
            with ignore_signals():
                self._hurry()
            return []

    def _what_keeps_it(self) -> list[str]:
        users = [user.sentence() for user in self._users.present()]
        return [*users, "coord up --detach"] if self.is_kept() else users

    def _await_end(self) -> list[str]:
        self._signal(signal.SIGUSR1)
        deadline = time.monotonic() + self.record.grace + _MARGIN
        counted = time.monotonic()
        while self._lives():
            if time.monotonic() - counted > _COUNT_EVERY:
                if stays := self._what_keeps_it():
                    return stays  # another command has joined meanwhile
                counted = time.monotonic()
            if time.monotonic() > deadline:
                return [f"process {self.record.owner.pid}, which does not stop"]
            time.sleep(_POLL_EVERY)
        return []

    def _hurry(self) -> None:
        """End the stack, which has no other user, at once."""
        deadline = time.monotonic() + _STOPS_WITHIN
        # Before it begins to stop, this would be the first signal, after which jobs have a grace period.
        while self._lives(ready=True) and time.monotonic() < deadline:
            if self._what_keeps_it():
                return
            time.sleep(_POLL_EVERY)
        self._signal(signal.SIGINT)
        deadline = time.monotonic() + _MARGIN
        while self._lives() and time.monotonic() < deadline:
            time.sleep(_POLL_EVERY)

    def _signal(self, number: signal.Signals) -> None:
        if self._lives() and self.record.owner.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.record.owner.pid, number)

    def _lives(self, *, ready: bool = False) -> bool:
        record = self._home.read() if self._home.is_owned() else None
        return record is not None and record.owner == self.record.owner and (record.ready or not ready)


def join(settings: Settings, argv: Sequence[str], command: str, *, prepare: Callable[[], None]) -> JoinedStack:
    """Use the stack in the settings' home directory. *argv*: the command that starts one if none runs.

    *command*: the name of this command for others. *prepare* is called while the process starts. Leaves nothing behind
    when it raises.
    """
    keep_private()
    home = Home(settings.home).prepare()
    # First, so that a running stack does not stop meanwhile for lack of users.
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
            record = running.find(settings)
            if record is not None:
                return JoinedStack(home, record, membership, started=starter is not None)
            starter = StackStarter(settings, argv)
    except BaseException:
        membership.leave()
        if starter is not None and not membership.others():
            starter.give_up()
        raise
