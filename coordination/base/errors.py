"""Every refusal the system can give, as one tree; each carries a code, a sentence and, where it helps, a hint.

CoordinationError
├── Refused               the caller's input is wrong; nothing was changed
│   ├── PlanError         a plan file or a Plan object (knows file and line)
│   ├── FormatError       a foreign file (knows file and line)
│   ├── Ambiguous         a name that several things have
│   └── SettingsError     an environment variable or option
├── NotFound              no such run, task, project, issue
├── Conflict              somebody else was first
│   ├── IllegalMove       the task machine has no such move from that state
│   ├── LeaseLost         a later attempt holds the task
│   └── StackRunning      another stack owns this home folder
└── Unavailable           the world is not there (now)
    ├── DatabaseUnavailable
    ├── RedisUnavailable
    └── SchemaMismatch    the store's schema and this program do not fit
"""

from __future__ import annotations

from collections.abc import Sequence


class CoordinationError(Exception):
    """Base of all refusals. ``code`` and ``field`` are stable and machine-readable; ``hint`` says what to do about it.

    ``field`` names the value that is wrong, if it is one: a place in a plan (``tasks.fix.timeout``), a field of a
    record, a parameter, or the variable of a setting. ``commands`` are those of the command line that may have been
    meant or that go on, as they can be typed.
    """

    code = "error"

    def __init__(
        self, message: str, *, hint: str | None = None, field: str | None = None, commands: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field
        self.commands = tuple(commands)

    def sentence(self) -> str:
        """The message, its hint and its commands as a person reads them, on one line."""
        first, *commands = self.lines()
        return f"{first} {', or: '.join(commands)}" if commands else first

    def lines(self) -> list[str]:
        """The message and its hint on one line, and each command on one of its own."""
        text = self.message if self.message.endswith((".", "!", "?")) else self.message + "."
        if self.hint:
            hint = self.hint if self.hint.endswith((".", "!", "?", ":")) else self.hint + "."
            text = f"{text} {hint}"
        return [" ".join(text.split()), *self.commands]


def inside(outer: str, inner: str | None) -> str:
    """Return the place of *inner*, a field of *outer* or None: ``run`` and ``prompt`` give ``run.prompt``."""
    return f"{outer}.{inner}" if outer and inner else outer or inner or ""


class Refused(CoordinationError):
    """The input is wrong; nothing was stored."""

    code = "refused"


class PlanError(Refused):
    """A plan that cannot be accepted. ``source`` is the file's name (or None), ``line`` is 1-based (or None)."""

    code = "plan_error"

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

    ``choices``: what may be typed instead, the likeliest first: the word that is replaced (empty: none), and the words
    that stand in its place, of which those from an option on come last.
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


class NotFound(CoordinationError):
    """Nothing there by that name or id."""

    code = "not_found"


class Conflict(CoordinationError):
    """Somebody else was first."""

    code = "conflict"


class IllegalMove(Conflict):
    """The move does not exist from this state."""

    code = "illegal_move"

    def __init__(self, move: str, state: str, *, what: str = "task", hint: str | None = None) -> None:
        super().__init__(f"A {what} that is {state} cannot {move}", hint=hint)
        self.move = move
        self.state = state


class LeaseLost(Conflict):
    """The attempt that speaks is not the one that holds the task."""

    code = "lease_lost"


class StackRunning(Conflict):
    """Another stack owns this home folder."""

    code = "stack_running"


class Unavailable(CoordinationError):
    """Something outside this program is not there now."""

    code = "unavailable"


class DatabaseUnavailable(Unavailable):
    """The SQL database cannot be reached or written."""

    code = "database_unavailable"


class RedisUnavailable(Unavailable):
    """Redis cannot be reached, or refuses us."""

    code = "redis_unavailable"


class SchemaMismatch(Unavailable):
    """The schema in the store does not fit this program."""

    code = "schema_mismatch"
