"""Rewrites commands in printed text so that they can be pasted into the terminal where they are read.

The command of a hint, such as ``coord resume RUN``, fails where ``coord`` is not on the PATH, or where this command was
started with a home that the terminal does not have (``COORD_HOME=… coord run``, ``make demo``). So printed commands get
what the terminal lacks: the home, the workspace, the folder of the project, and the path of the program. What a command
names already is kept, such as the home of a worker. A command between backticks stays as it is: it is for another
version of the program, or has another home.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from coordination.base.errors import CoordinationError, SettingsError
from coordination.settings import load_settings

# These run in the environment that a worker prepares for its job, or that an MCP client has, not in a shell.
_NOT_FOR_A_SHELL = frozenset({"task", "mcp"})
# Commands that look for a run or a task in the project of the current folder, if neither an id nor a project is given.
_BY_FOLDER = frozenset({"budgets", "explain", "questions", "ready", "resume", "runs", "tasks"})
_WITH_PLACE = re.compile(r"(?:(?!coord )[^;,\n])*(?:\b[0-9a-f]{8}-[0-9a-f]{4}-|--project )")

_WORD = r"""(?:[^\s'"\\;&|`]|\\.|'[^']*'|"[^"]*")+"""
_GIVEN = rf"(?:COORD_[A-Z_]+={_WORD} )*"

_FOR_HELP = re.compile(r"\nTry 'coord (.+)' for help\.")


class Exact(str):
    """Text that is printed unchanged, commands in it included: a result, a log, JSON."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


class _Shell:
    """The pattern of commands to rewrite (None: rewrite nothing), and the project of the output."""

    def __init__(self) -> None:
        self.commands: re.Pattern[str] | None = None
        self.project: tuple[str, str] | None = None


_shell = _Shell()


def enable(commands: Iterable[str]) -> None:
    """Rewrite commands from now on. *commands*: the first words after ``coord``."""
    words = "|".join(sorted(map(re.escape, set(commands) - _NOT_FOR_A_SHELL)))
    command = rf"(?P<folder>cd {_WORD} && )?(?P<given>{_GIVEN})coord (?=(?P<word>{words})\b(?!-))"
    _shell.commands = re.compile(rf"`{_GIVEN}coord [^`]*`|(?<![\w./:$@=-])(?<!Usage: ){command}")


def set_project(folder: str, identity: str) -> None:
    """Set the project to which later output refers."""
    _shell.project = folder, identity


def rewrite(text: str, escape: Callable[[str], str] = str) -> str:
    """Return *text* with every ``coord`` command rewritten for the terminal; ``Exact`` and help stay unchanged.

    Idempotent, because stored errors have complete commands and an output may pass here twice.
    *escape*: applied to each inserted command, for a text with markup.
    """
    if _shell.commands is None or "coord " not in text or isinstance(text, Exact):
        return text
    if text.startswith("Usage:"):
        return _FOR_HELP.sub(lambda match: f"\nHelp: {_program()} {match[1]}", text)
    return _shell.commands.sub(lambda match: _for_the_terminal(match, escape), text)


def _for_the_terminal(match: re.Match[str], escape: Callable[[str], str]) -> str:
    if match["word"] is None:  # between backticks
        return match[0]
    given = match["given"]
    try:
        missing = [text for name, text in _assignments().items() if f"{name}=" not in given]
        start = " ".join([*missing, _program()])
    except OSError:  # the current folder does not exist any more
        return match[0]
    folder = match["folder"] or escape(_change_of_folder(match))
    return f"{folder}{given}{escape(start)} "


def _change_of_folder(match: re.Match[str]) -> str:
    if _shell.project is None or match["word"] not in _BY_FOLDER or _WITH_PLACE.match(match.string, match.end()):
        return ""
    folder, identity = _shell.project
    return "" if _is_here(identity) else f"cd {shlex.quote(folder)} && "


@cache
def _is_here(identity: str) -> bool:
    from coordination.adapters import git_checkout

    try:
        return git_checkout.checkout_of().identity == identity
    except (CoordinationError, OSError):
        return False


@cache
def _assignments() -> dict[str, str]:
    """Return the assignments of this home and workspace that the terminal lacks, by the variable's name."""
    try:
        ours = load_settings()
    except SettingsError:
        return {}  # the hint is about that error
    try:
        theirs = load_settings(_environment_of_the_terminal())
    except SettingsError:
        theirs = None
    missing = {}
    for name in ("home", "workspace"):
        value = getattr(ours, name)
        if theirs is None or value != getattr(theirs, name):
            variable = f"COORD_{name.upper()}"
            missing[variable] = f"{variable}={shlex.quote(str(value))}"
    return missing


def _environment_of_the_terminal() -> dict[str, str]:
    """Return the environment of this terminal's first process, without later exports of its shell."""
    try:
        entries = Path(f"/proc/{os.getsid(0)}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}  # the process has ended, or is another user's
    return dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)


@cache
def _program() -> str:
    """Return the words that start this program in the terminal."""
    script = Path(sys.argv[0]).absolute()
    if script.name != "coord":  # python -m coordination.cli
        script = Path(sys.executable).parent / "coord"
    on_path = shutil.which("coord")
    if on_path is not None and script.exists() and Path(on_path).samefile(script):
        return "coord"
    if script.exists():
        return shlex.quote(str(script))
    return f"{shlex.quote(sys.executable)} -m coordination.cli"
