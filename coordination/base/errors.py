"""All errors that callers see, as one tree. Each has a code, an exit code, an HTTP status, a sentence and maybe a hint.

CoordinationError
├── Refused               the caller's input is wrong; nothing was changed
│   ├── PlanError         a plan file or a Plan object (knows file and line)
│   ├── FormatError       a foreign file (knows file and line)
│   ├── Ambiguous         a name that several things have
│   ├── SettingsError     an environment variable or option
│   └── TokenRefused      a token of an attempt that is not accepted
├── NotFound              no such run, task, project, issue
├── Conflict              another caller was first
│   ├── IllegalMove       the task machine has no such move from that state
│   └── StackRunning      another stack owns this home folder
├── StackGoneError        the process of the embedded stack was killed
├── StackStoppedError     the embedded stack was stopped
└── Unavailable           something outside cannot be reached now
    ├── DatabaseUnavailable
    ├── RedisUnavailable
    └── SchemaMismatch    the store's schema and this program do not fit
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

# Exit codes of the command line. Errors of this tree have their own; the others are for ends without one.
OK = 0
NOT_COMPLETED = 1
REFUSED = 2
WAITS_FOR_PERSON = 3
"""The run cannot continue until a person acts, and no terminal is attached."""
INTERNAL = 70
INTERRUPTED = 130
OUTPUT_CLOSED = 141
"""The reader of the output, such as ``head``, has closed it: the code that a shell shows for SIGPIPE."""


class CoordinationError(Exception):
    """Base of all errors. ``code`` and ``field`` are stable and machine-readable; ``hint`` says what to do about it.

    ``exit_code`` is that of a command which ends with the error, ``http_status`` that of a response.
    ``field`` names the value that is wrong, if there is one: a place in a plan (``tasks.fix.timeout``), a field of a
    record, a parameter, or the variable of a setting. ``commands`` are command lines that may have been meant, or that
    continue from here, as they can be typed.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = NOT_COMPLETED
    http_status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, hint: str | None = None, field: str | None = None, commands: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field
        self.commands = tuple(commands)

    def sentence(self) -> str:
        """Return the message, its hint and its commands on one line."""
        first, *commands = self.lines()
        return f"{first} {', or: '.join(commands)}" if commands else first

    def lines(self) -> list[str]:
        """Return the message with its hint as one line, and each command as a further line."""
        text = self.message if self.message.endswith((".", "!", "?")) else self.message + "."
        if self.hint:
            hint = self.hint if self.hint.endswith((".", "!", "?", ":")) else self.hint + "."
            text = f"{text} {hint}"
        return [" ".join(text.split()), *self.commands]


def inside(outer: str, inner: str | None) -> str:
    """Return the path of the field *inner* of *outer*: ``run`` and ``prompt`` give ``run.prompt``."""
    return f"{outer}.{inner}" if outer and inner else outer or inner or ""


class Refused(CoordinationError):
    """The input is wrong; nothing was stored."""

    code = "refused"
    exit_code = REFUSED
    http_status = 400


class PlanError(Refused):
    """A plan that cannot be accepted. ``source`` is the file's name (or None), ``line`` is 1-based (or None)."""

    code = "plan_error"
    http_status = 422

    def __init__(
        self,
        message: str,
        *,
        source: str | None = None,
        line: int | None = None,
        hint: str | None = None,
        field: str | None = None,
    ) -> None:
        place = source or ""
        if line is not None:
            place = f"{place}:{line}" if place else f"line {line}"
        super().__init__(f"{place}: {message}" if place else message, hint=hint, field=field)
        self.source = source
        self.line = line


class FormatError(PlanError):
    """A foreign file (Beads, costs.jsonl) with a line that cannot be read."""

    code = "format_error"


class Ambiguous(Refused):
    """A name that several runs, tasks or budgets have.

    ``choices``: what to type instead, the likeliest first: the word to replace (empty: none), and the words in its
    place, in which options come last.
    """

    code = "ambiguous"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        field: str | None = None,
        choices: Sequence[tuple[str, Sequence[str]]] = (),
        commands: Sequence[str] = (),
    ) -> None:
        super().__init__(message, hint=hint, field=field, commands=commands)
        self.choices = tuple(choices)


class SettingsError(Refused):
    """A setting that cannot be used."""

    code = "settings_error"
    http_status = 500


class TokenRefused(Refused):
    """A token that is not accepted; the message has the reason, but nothing of the token."""

    code = "token_refused"
    http_status = 401


class NotFound(CoordinationError):
    """There is nothing with that name or id."""

    code = "not_found"
    exit_code = REFUSED
    http_status = 404


class Conflict(CoordinationError):
    """Another caller was first."""

    code = "conflict"
    exit_code = REFUSED
    http_status = 409


class IllegalMove(Conflict):
    """The task machine has no such move from this state."""

    code = "illegal_move"

    def __init__(self, move: str, state: str, *, what: str = "task", hint: str | None = None) -> None:
        super().__init__(f"A {what} that is {state} cannot {move}", hint=hint)
        self.move = move
        self.state = state


class StackRunning(Conflict):
    """Another stack owns this home folder."""

    code = "stack_running"


class StackGoneError(CoordinationError):
    """The process of the embedded stack that a command used was killed."""

    code = "stack_gone"
    http_status = 503


class StackStoppedError(CoordinationError):
    """The embedded stack that a command used was stopped."""

    code = "stack_stopped"
    exit_code = INTERRUPTED
    http_status = 503


class Unavailable(CoordinationError):
    """Something outside this program cannot be reached now."""

    code = "unavailable"
    exit_code = REFUSED
    http_status = 503


class DatabaseUnavailable(Unavailable):
    """The SQL database cannot be reached or written."""

    code = "database_unavailable"


class RedisUnavailable(Unavailable):
    """Redis cannot be reached, or refuses the connection."""

    code = "redis_unavailable"


class SchemaMismatch(Unavailable):
    """The schema in the store does not fit this program."""

    code = "schema_mismatch"
