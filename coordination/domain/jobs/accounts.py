"""Accounts: named sets of variables with which jobs ask providers. Their names, and what one may hold. Pure.

An account belongs to a machine. Plans name it; its values never leave the machine.
"""

from __future__ import annotations

import posixpath
import re
from enum import StrEnum

from coordination.base.errors import Refused
from coordination.base.json_values import text_problem
from coordination.base.wording import excerpt
from coordination.domain.jobs.job_environment import is_variable

DEFAULT_ACCOUNT = "default_account"
"""What the metadata of a run say whose plan has one, for agents that are put to work while it runs."""

MOST_VARIABLES = 50
"""In one account."""

LONGEST_VALUE = 64 * 1024
"""Bytes. The system takes at most 128 KB in one variable."""

SHORTEST_SECRET = 8
"""Characters. A shorter value cannot be hidden in what a job prints: it stands in too many other words."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAME = re.compile(rf"{_PART}(@{_PART})?")
_PASSWORD = re.compile(r"\w+://[^\s/@]*:[^\s/@]+@")
_SECRETIVE = re.compile(r"(?i)(key|token|secret|passw|credential)")
_OURS = re.compile(r"COORD_|LD_|(PATH|IFS|BASH_ENV|ENV|PYTHONPATH|PYTHONHOME|PYTHONSTARTUP)$")
_FOLDER = re.compile(r"_(DIR|HOME)$|^HOME$")


class SecretPlace(StrEnum):
    """Where a variable of an account is kept."""

    FILE = "file"  # in a file of the home folder that only its owner can read
    KEYRING = "keyring"  # in the keyring of the operating system
    SETTING = "setting"  # no secret: in the file, and shown


def is_account(name: str) -> bool:
    """Whether *name* can be the name of an account."""
    return _NAME.fullmatch(name) is not None


def check_account(name: object) -> str:
    """Return *name* if it names an account, ``NAME`` or ``agent@label``; else Refused."""
    if not isinstance(name, str) or not is_account(name):
        raise Refused(
            f"{excerpt(name)} cannot be the name of an account",
            hint="Write it like claude@work, or one word: letters, digits, . _ -",
            field="account",
        )
    return name


def program_of(account: str) -> str | None:
    """What stands before the @: the agent, or the provider of chats, that the account is for; None: any."""
    program, at, _ = account.partition("@")
    return program if at else None


def fits(account: str, provider: str | None) -> bool:
    """Return whether a job that asks *provider*, an agent or a provider of models, may have *account*; None: no job."""
    return provider is not None and program_of(account) in (None, provider)


def check_variable(name: object) -> str:
    """Return *name* if an account may hold a variable of that name; else Refused."""
    if not isinstance(name, str) or not is_variable(name):
        raise Refused(f"{excerpt(name)} names no variable", hint="Write it like ANTHROPIC_API_KEY", field="variable")
    if _OURS.match(name):
        raise Refused(f"An account cannot hold {name}: it decides how jobs run, not whom they ask", field="variable")
    return name


def check_secret(name: str, value: str) -> str:
    """Return *value* if it can be kept as the secret *name*; else Refused, in words that do not show it."""
    _check_value(name, value)
    if len(value) < SHORTEST_SECRET:
        raise Refused(
            f"The value for {name} has fewer than {SHORTEST_SECRET} characters, "
            "too few to be hidden in what a job prints",
            hint=f"For what is no secret, write {name}=VALUE",
            field="value",
        )
    return value


def check_setting(name: str, value: str) -> str:
    """Return *value* if it can be kept as a setting, which everybody may see; else Refused, without showing it."""
    _check_value(name, value)
    path = posixpath.isabs(value) and "CREDENTIALS" in name.upper()  # the name of a file that holds them
    if (_SECRETIVE.search(name) and not path) or _PASSWORD.search(value):
        raise Refused(
            f"The value for {name} looks like a secret, and a command line is seen by others",
            hint=f"Write {name} alone: its value is asked for, or read from stdin",
            field="value",
        )
    if _FOLDER.search(name) and not posixpath.isabs(value):
        raise Refused(f"{name} must be the absolute path of a folder", field="value")
    return value


def _check_value(name: str, value: str) -> None:
    if not value.strip():
        raise Refused(f"The value for {name} is empty", field="value")
    if "\0" in value:
        raise Refused(f"The value for {name} holds a NUL character, which no variable can", field="value")
    if problem := text_problem(value):
        raise Refused(f"The value for {name} {problem}", field="value")
    if len(value.encode()) > LONGEST_VALUE:
        raise Refused(f"The value for {name} is longer than {LONGEST_VALUE:,} bytes", field="value")
