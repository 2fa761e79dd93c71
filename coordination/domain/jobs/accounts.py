"""Accounts, which are named sets of variables for providers: checks of their names, variables and values.

An account belongs to a machine. Plans refer to it by name; its values never leave the machine.
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
"""Key in a run's metadata of the plan's default account, for tasks that are added while it runs."""

MOST_VARIABLES = 50
"""The maximum in one account."""

LONGEST_VALUE = 64 * 1024
"""Bytes. Linux allows at most 128 KB in one variable."""

SHORTEST_SECRET = 8
"""Characters. A shorter value cannot be masked in a job's output, because it is part of too many other words."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAME = re.compile(rf"{_PART}(@{_PART})?")
_PASSWORD = re.compile(r"\w+://[^\s/@]*:[^\s/@]+@")
_SECRET_NAME = re.compile(r"(?i)(key|token|secret|passw|credential)")
_RESERVED = re.compile(r"COORD_|LD_|(PATH|IFS|BASH_ENV|ENV|PYTHONPATH|PYTHONHOME|PYTHONSTARTUP)$")
_FOLDER = re.compile(r"_(DIR|HOME)$|^HOME$")


class SecretPlace(StrEnum):
    """Where a variable of an account is kept."""

    FILE = "file"  # in a file of the home folder that only its owner can read
    KEYRING = "keyring"  # in the keyring of the operating system
    SETTING = "setting"  # not a secret: in the file, and shown


def is_account(name: str) -> bool:
    """Return whether *name* is a valid account name."""
    return _NAME.fullmatch(name) is not None


def check_account(name: object) -> str:
    """Return *name* if it is a valid account name, ``NAME`` or ``agent@label``. Raises Refused otherwise."""
    if not isinstance(name, str) or not is_account(name):
        message = f"{excerpt(name)} cannot be the name of an account"
        raise Refused(message, hint="Write it like claude@work, or one word: letters, digits, . _ -", field="account")
    return name


def program_of(account: str) -> str | None:
    """Return the agent or model provider that the account is for, which is the part before the @; None: any."""
    program, at, _ = account.partition("@")
    return program if at else None


def account_fits(account: str, provider: str | None) -> bool:
    """Return whether a job of *provider*, an agent or a model provider, may use *account*."""
    return provider is not None and program_of(account) in (None, provider)


def check_variable(name: object) -> str:
    """Return *name* if an account may contain a variable of that name. Raises Refused otherwise."""
    if not isinstance(name, str) or not is_variable(name):
        raise Refused(
            f"{excerpt(name)} is not a variable's name", hint="Write it like ANTHROPIC_API_KEY", field="variable"
        )
    if _RESERVED.match(name):
        raise Refused(f"An account cannot contain {name}, which changes how jobs run", field="variable")
    return name


def check_secret(name: str, value: str) -> str:
    """Return *value* if it can be stored as the secret *name*. Raises Refused, without showing it, otherwise."""
    _check_value(name, value)
    if len(value) < SHORTEST_SECRET:
        raise Refused(
            f"The value for {name} has fewer than {SHORTEST_SECRET} characters, too few to mask it in a job's output",
            hint=f"If it is not a secret, write {name}=VALUE",
            field="value",
        )
    return value


def check_setting(name: str, value: str) -> str:
    """Return *value* if it can be stored as a setting, which is shown. Raises Refused without showing it."""
    _check_value(name, value)
    is_credentials_file = posixpath.isabs(value) and "CREDENTIALS" in name.upper()
    if (_SECRET_NAME.search(name) and not is_credentials_file) or _PASSWORD.search(value):
        message = f"The value for {name} looks like a secret, and other users can see command lines"
        hint = f"Write only {name}: you are prompted for the value, or it is read from stdin"
        raise Refused(message, hint=hint, field="value")
    if _FOLDER.search(name) and not posixpath.isabs(value):
        raise Refused(f"{name} must be the absolute path of a folder", field="value")
    return value


def _check_value(name: str, value: str) -> None:
    if not value.strip():
        raise Refused(f"The value for {name} is empty", field="value")
    if "\0" in value:
        raise Refused(f"The value for {name} contains a NUL character, which variables cannot", field="value")
    if problem := text_problem(value):
        raise Refused(f"The value for {name} {problem}", field="value")
    if len(value.encode()) > LONGEST_VALUE:
        raise Refused(f"The value for {name} is longer than {LONGEST_VALUE:,} bytes", field="value")
