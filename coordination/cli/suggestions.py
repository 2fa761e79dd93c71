"""Suggests commands for an unknown one, with the typed arguments.

``GUESSES`` has names that users of docker, kubectl, celery or make may try. For the name of a command in another group
(``coord forecast``) that one is suggested, for a typing error similar names.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from typer.core import TyperGroup

from coordination.base.errors import Refused

_ANY = ""
_MOST = 4
_MOST_LETTERS = 40

_CANCEL = ("runs cancel …", "tasks cancel …")
_SHOW = ("runs show …", "tasks show …")
_LIST = ("status", "runs list …", "tasks list …", "projects list")
_LOGS = ("tasks logs …",)
_RETRY = ("runs retry …", "tasks retry …")
_STATUS = ("status",)

GUESSES: Mapping[str, Mapping[str, Sequence[str]]] = {
    _ANY: {
        **dict.fromkeys(("ps", "top", "watch", "stat", "stats", "active", "inspect"), _STATUS),
        **dict.fromkeys(("log", "logs", "tail", "follow"), _LOGS),
        **dict.fromkeys(("kill", "cancel", "abort", "rm", "revoke", "terminate", "delete", "remove"), _CANCEL),
        "stop": ("runs cancel …", "tasks cancel …", "projects pause …", "down"),
        **dict.fromkeys(("pause", "hold", "suspend"), ("projects pause …",)),
        **dict.fromkeys(("unpause", "activate", "continue"), ("projects resume …", "resume …")),
        **dict.fromkeys(("list", "ls", "get"), _LIST),
        **dict.fromkeys(("restart", "retry", "rerun", "redo"), (*_RETRY, "resume …")),
        **dict.fromkeys(("exec", "sh", "bash", "shell", "attach", "ssh"), ("tasks shell …",)),
        **dict.fromkeys(("show", "describe", "info"), _SHOW),
        **dict.fromkeys(("apply", "exec-plan", "enqueue", "queue"), ("run …", "submit …")),
        **dict.fromkeys(("start", "serve", "daemon", "init"), ("up",)),
        **dict.fromkeys(("shutdown", "quit", "exit"), ("down",)),
        **dict.fromkeys(("why", "blocked"), ("explain …",)),
        **dict.fromkeys(("lint", "validate"), ("check …",)),
        **dict.fromkeys(("purge", "prune", "clean", "gc"), ("retain",)),
        **dict.fromkeys(("wait", "follow-run"), ("resume …", "runs events …")),
        "events": ("runs events …", "tasks events …"),
        **dict.fromkeys(("cost", "spend", "usage"), ("costs summary …",)),
        **dict.fromkeys(("health", "ping", "diagnose"), ("doctor", "status")),
        "version": ("--version",),
        "help": ("--help",),
    },
    "runs": {
        **dict.fromkeys(("ls", "ps"), ("runs list …",)),
        **dict.fromkeys(("kill", "stop", "abort", "rm", "delete"), ("runs cancel …",)),
        **dict.fromkeys(("restart", "rerun"), ("runs retry …",)),
        **dict.fromkeys(("get", "describe", "inspect", "status"), ("runs show …",)),
        **dict.fromkeys(("create", "start", "submit"), ("run …", "submit …")),
        **dict.fromkeys(("resume", "watch", "wait"), ("resume …",)),
        **dict.fromkeys(("log", "logs"), ("runs events …", "tasks list …", "tasks logs TASK")),
    },
    "tasks": {
        **dict.fromkeys(("ls", "ps"), ("tasks list …",)),
        **dict.fromkeys(("log", "tail"), _LOGS),
        **dict.fromkeys(("kill", "stop", "abort", "rm", "delete", "revoke"), ("tasks cancel …",)),
        **dict.fromkeys(("restart", "rerun"), ("tasks retry …",)),
        **dict.fromkeys(("get", "describe", "inspect", "status"), ("tasks show …",)),
        **dict.fromkeys(("exec", "attach"), ("tasks shell …",)),
        **dict.fromkeys(("explain", "why"), ("explain …",)),
        "result": ("tasks output …",),
    },
    "projects": {
        "ls": ("projects list …",),
        **dict.fromkeys(("hold", "stop", "suspend"), ("projects pause …",)),
        **dict.fromkeys(("activate", "unpause", "start", "release"), ("projects resume …",)),
        **dict.fromkeys(("rm", "delete", "remove"), ("projects archive …",)),
        **dict.fromkeys(("update", "edit", "set"), ("projects change …",)),
        **dict.fromkeys(("get", "describe", "inspect", "status"), ("projects show …",)),
    },
    "agents": {
        "ls": ("agents list …",),
        **dict.fromkeys(("rm", "remove"), ("agents delete …",)),
        **dict.fromkeys(("update", "edit", "set"), ("agents change …",)),
        **dict.fromkeys(("get", "describe", "inspect"), ("agents show …",)),
    },
    "budgets": {
        "ls": ("budgets list …",),
        **dict.fromkeys(("increase", "extend"), ("budgets raise …",)),
        **dict.fromkeys(("rm", "delete"), ("budgets remove …",)),
        **dict.fromkeys(("add", "create", "lower", "change"), ("budgets set …",)),
        **dict.fromkeys(("get", "describe", "status"), ("budgets show …",)),
    },
    "accounts": {
        "ls": ("accounts list",),
        **dict.fromkeys(("rm", "remove", "delete"), ("accounts unset …",)),
        **dict.fromkeys(("add", "create", "change", "login"), ("accounts set …",)),
        **dict.fromkeys(("get", "describe"), ("accounts show …",)),
    },
    "costs": {"ls": ("costs list …",), **dict.fromkeys(("show", "total", "today", "sum", "by"), ("costs summary …",))},
    "sessions": {"ls": ("sessions list …",), "get": ("sessions show …",)},
    "prices": {"ls": ("prices list …",), **dict.fromkeys(("rm", "remove"), ("prices delete …",))},
}
"""Commands by group (``""``: none) and typed name; … stands for the typed arguments."""


class OutputClosedError(Exception):
    """The output is closed. Not an OSError, for which typer has an exit code of its own."""


class Commands(TyperGroup):
    """A group of commands that suggests others for an unknown one."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse the arguments. Raises OutputClosedError when the output is closed while help is printed."""
        try:
            return super().make_context(*args, **options)
        except BrokenPipeError as error:
            raise OutputClosedError from error

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises OutputClosedError when its output is closed."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputClosedError from error

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command. Raises Refused with suggestions when no command has that name."""
        name = args[0]
        if self.get_command(ctx, name) is not None or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        root, called = ctx.find_root(), ctx.command_path
        group = called.removeprefix(root.command_path).strip()
        likely = suggestions(root.command, group, name, args[1:])
        short = name if len(name) <= _MOST_LETTERS else f"{name[:_MOST_LETTERS]}…"
        raise Refused(
            f"There is no command '{' '.join([*group.split(), short])}'",
            hint="Did you mean:" if likely else f"See: {called} --help",
            commands=likely,
        )


def suggestions(root: Any, group: str, name: str, rest: Sequence[str] = ()) -> list[str]:
    """Return existing commands that an unknown *name* in *group* (``""``: none) may mean, with the arguments *rest*.

    A few at most, the likely ones first.
    """
    existing = dict(_all(root))
    guesses = (
        GUESSES.get(group, {}).get(name.lower())
        or _same_elsewhere(existing, group, name)
        or _similar(root, group, name)
    )
    typed = shlex.join(rest)
    commands = [guess.replace("…", typed).strip() for guess in guesses if _exists(guess, existing)]
    return [f"coord {command}" for command in dict.fromkeys(commands)][:_MOST]


def commands_for_choices(typed: Sequence[str], choices: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the *typed* command for each of the *choices* of an ambiguous name."""
    commands = []
    for name, (*words,) in choices:
        places = [at for at, word in enumerate(typed) if name and word == name]
        places += [at for at, word in enumerate(typed) if name and word.endswith(f"={name}")]
        if places:
            at = places[0]
            command = [*typed[:at], f"{typed[at].removesuffix(name)}{words[0]}", *typed[at + 1 :], *words[1:]]
        else:
            command = [*typed, *(words[1:] if name else words)]
        commands.append(f"coord {shlex.join(command)}")
    return commands


def _exists(guess: str, existing: Mapping[str, Any]) -> bool:
    """Return whether the command of a guess exists; options of the program do."""
    words = [word for word in guess.split() if word != "…" and not word.isupper()]
    return words[0].startswith("-") or " ".join(words) in existing


def _same_elsewhere(existing: Mapping[str, Any], group: str, name: str) -> list[str]:
    """Return commands of that name in other groups, or in none."""
    return [f"{path} …" for path in existing if path.rpartition(" ")[2] == name.lower() and path != f"{group} {name}"]


def _similar(root: Any, group: str, name: str) -> list[str]:
    """Return commands of the group, or guesses there, with a similar name."""
    from difflib import get_close_matches

    here = root.commands[group] if group else root
    before = f"{group} " if group else ""
    siblings = {name: f"{before}{name} …" for name, command in here.commands.items() if not command.hidden}
    if similar := get_close_matches(name.lower(), siblings, n=_MOST):
        return [siblings[command] for command in similar]
    guesses = get_close_matches(name.lower(), GUESSES.get(group, {}), n=1)
    return list(GUESSES[group][guesses[0]]) if guesses else []


def _all(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command and group with the words typed after ``coord``."""
    for name, command in group.commands.items():
        path = f"{before} {name}".strip()
        if not command.hidden:
            yield path, command
        if hasattr(command, "commands"):
            yield from _all(command, path)
