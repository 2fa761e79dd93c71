"""Accounts of this machine, in the home folder or in the operating system's keyring, never in a database.

    accounts = Accounts(load_settings().home)
    accounts.set("claude@work", "ANTHROPIC_API_KEY", "sk-ant-…")

One file per account, mode 0600 in a folder with mode 0700, replaced as a whole, so that readers see the old or the new
one. Files that are links, belong to another user or can be read by others are refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordination.adapters import keyrings
from coordination.base.errors import CoordinationError, NotFound, Refused, Unavailable
from coordination.base.host import host
from coordination.base.wording import excerpt
from coordination.domain.jobs.accounts import (
    MOST_VARIABLES,
    SecretPlace,
    check_account,
    check_secret,
    check_setting,
    check_variable,
    is_account,
)

FOLDER = "accounts"
"""The folder of accounts in the home folder."""

_FORMAT = 1
_END = ".json"
_DRAFT = ".draft-"
_LOCK = ".lock"
_MAX_BYTES = 8 << 20  # of a file: more than all variables of an account
_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of an account, without its secret. ``value``: None, unless it is a setting."""

    name: str
    kept: SecretPlace
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """An account's variables by name, without their secrets."""

    name: str
    variables: tuple[Variable, ...]


@dataclass(frozen=True, slots=True)
class HeldVariable:
    """The values that a job gets from an account. ``secret``: the names of the variables to mask."""

    name: str
    values: Mapping[str, str] = field(repr=False)
    secret: frozenset[str] = frozenset()


class Accounts:
    """The accounts in one home folder: ``co.accounts``. Errors are Refused or NotFound, and show no secret.

    *refusal*: why this process may not change accounts.
    """

    def __init__(self, home: Path, *, refusal: CoordinationError | None = None) -> None:
        self.home = home
        self._refusal = refusal
        self.folder = home / FOLDER

    def set(self, account: str, variable: str, value: str, *, kept: SecretPlace | None = None) -> Variable:
        """Store *value* as *variable* of the account, which is created if it is new.

        *kept*: None: in the operating system's keyring if one works, else in a file. SecretPlace.SETTING: not a secret,
        a value that everybody may see, such as the folder of a log-in.
        """
        check_account(account)
        check_variable(variable)
        (check_setting if kept is SecretPlace.SETTING else check_secret)(variable, value)
        with self._changing(account) as stored:
            if variable not in stored and len(stored) >= MOST_VARIABLES:
                raise Refused(f"The account {account} has {MOST_VARIABLES} variables, and may have no more")
            in_keyring = False
            if kept in (None, SecretPlace.KEYRING):
                in_keyring = keyrings.put(self._service(), _user(account, variable), value)
            if kept is SecretPlace.KEYRING and not in_keyring:
                hint = "Run: pip install 'coordination[keyring]', in a session that has one; or store it in a file"
                raise Refused(f"There is no working keyring on {host()}", hint=hint)
            if not in_keyring and _is_in_keyring(stored.get(variable)):
                keyrings.remove(self._service(), _user(account, variable))
            if in_keyring:
                stored[variable] = {"kept": SecretPlace.KEYRING.value}
            else:
                where = SecretPlace.SETTING if kept is SecretPlace.SETTING else SecretPlace.FILE
                stored[variable] = {"kept": where.value, "value": value}
        return _variable(variable, stored[variable])

    def unset(self, account: str, variable: str | None = None) -> list[str]:
        """Delete a variable of the account, or (None) the account. Return the names of the deleted variables."""
        check_account(account)
        with self._changing(account) as stored:
            if not stored:
                raise self._unknown(account)
            if variable is not None and variable not in stored:
                raise NotFound(
                    f"The account {account} has no {excerpt(variable)}", hint=f"It has: {', '.join(sorted(stored))}"
                )
            deleted = sorted(stored) if variable is None else [variable]
            for name in deleted:
                if _is_in_keyring(stored[name]):
                    keyrings.remove(self._service(), _user(account, name))
                del stored[name]
        return deleted

    def names(self) -> list[str]:
        """Return the sorted names of all accounts."""
        try:
            files = os.listdir(self.folder)  # noqa: PTH208 - names alone
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unreadable(error) from error
        return sorted(name for file in files if (name := file.removesuffix(_END)) != file and is_account(name))

    def get(self, account: str) -> Account:
        """Return an account without its secrets. Raises NotFound."""
        stored = self._read(check_account(account))
        if not stored:
            raise self._unknown(account)
        return Account(account, tuple(_variable(name, stored[name]) for name in sorted(stored)))

    def held(self, account: str, *, example: str = "VARIABLE") -> HeldVariable:
        """Return all values of an account, for a job. Raises NotFound, naming the variable *example*, or Refused."""
        stored = self._read(check_account(account))
        if not stored:
            raise self._unknown(account, example)
        values: dict[str, str] = {}
        for name, body in stored.items():
            if not _is_in_keyring(body):
                values[name] = body["value"]
            elif (value := keyrings.find(self._service(), _user(account, name))) is not None:
                values[name] = value
            else:
                hint = f"Unlock it for the worker, or store it in a file: {self.command(account, name)} --keep file"
                raise Refused(f"The keyring of {host()} does not return the {name} of the account {account}", hint=hint)
        secret = frozenset(name for name, body in stored.items() if body["kept"] != SecretPlace.SETTING)
        return HeldVariable(account, values, secret)

    def problems(self) -> list[str]:
        """Return the problems of the folder and its files, one sentence each."""
        sentences: list[str] = []
        try:
            names = self.names()
            with contextlib.suppress(FileNotFoundError), self._open_folder():
                pass
        except CoordinationError as error:
            return [error.sentence()]
        for name in names:
            try:
                self._read(name)
            except CoordinationError as error:
                sentences.append(error.sentence())
        return sentences

    def command(self, account: str, variable: str) -> str:
        """Return the command with which this user sets a variable on this machine."""
        default_home = Path.home() / ".coordination"
        home = "" if self.home == default_home else f"COORD_HOME={shlex.quote(str(self.home))} "
        return f"{home}coord accounts set {account} {variable}"

    def suggestion(self, program: str, variable: str) -> str:
        """Return the command for a new account of *program*, an agent or a chat's model, and the key for its job."""
        account = f"{program.partition(':')[0]}@work"
        return f"{self.command(account, variable)}, and write account: {account}"

    # --- one account's file

    def _read(self, account: str) -> dict[str, dict[str, str]]:
        """Return the variables as stored; empty without such an account."""
        try:
            with self._open_folder() as folder:
                return self._load(folder, account)
        except FileNotFoundError:
            return {}

    @contextlib.contextmanager
    def _changing(self, account: str) -> Iterator[dict[str, dict[str, str]]]:
        """Yield the variables to change in place; write them when the block succeeds. One process at a time."""
        if self._refusal is not None:
            raise self._refusal
        self._make_folder()
        with self._open_folder() as folder:
            lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | _OPEN, 0o600, dir_fd=folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for name in os.listdir(folder):  # noqa: PTH208 - drafts of killed processes, with secrets in them
                    if name.startswith(_DRAFT):
                        os.unlink(name, dir_fd=folder)
                stored = self._load(folder, account)
                yield stored
                self._write(folder, account, stored)
            finally:
                os.close(lock)

    def _load(self, folder: int, account: str) -> dict[str, dict[str, str]]:
        path = self.folder / f"{account}{_END}"
        try:
            handle = os.open(path.name, os.O_RDONLY | _OPEN, dir_fd=folder)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _not_used(path, "it is a link" if error.errno == errno.ELOOP else _reason(error)) from error
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise _not_used(path, "it is not a file")
            _check_owner(path, status)
            data = file.read(_MAX_BYTES + 1)
        try:
            return _parse(data)
        except (ValueError, KeyError, TypeError, AttributeError):  # whose message may contain a part of a secret
            raise _not_used(path, "its content cannot be read", f"Run: rm '{path}', and set it again") from None

    def _write(self, folder: int, account: str, stored: Mapping[str, Mapping[str, str]]) -> None:
        name = f"{account}{_END}"
        with self._write_errors():
            if not stored:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                return
            draft = f"{_DRAFT}{secrets.token_hex(8)}"
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=folder)
            try:
                with os.fdopen(handle, "w", encoding="ascii") as file:
                    json.dump({"format": _FORMAT, "variables": stored}, file)
                    file.flush()
                    os.fsync(handle)
                os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft, dir_fd=folder)
                raise

    # --- the folder

    def _make_folder(self) -> None:
        with self._write_errors():
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def _open_folder(self) -> Iterator[int]:
        """Yield the checked folder's descriptor. Raises FileNotFoundError when there is none."""
        try:
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                raise _not_used(self.folder, "it is a link or not a folder") from error
            raise self._unreadable(error) from error
        try:
            _check_owner(self.folder, os.fstat(handle))
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "Free some space, or set COORD_HOME to a folder that you may write to"
            raise Unavailable(f"The account cannot be written to {self.folder}: {_reason(error)}", hint=hint) from error

    def _unreadable(self, error: OSError) -> Refused:
        return Refused(
            f"The accounts in {self.folder} cannot be read: {_reason(error)}",
            hint="Run this as the user of the worker; jobs in a sandbox do not see them",
        )

    def _unknown(self, account: str, example: str = "VARIABLE") -> NotFound:
        return NotFound(
            f"There is no account {account} on {host()}", hint=f"Run there: {self.command(account, example)}"
        )

    # --- the keyring

    def _service(self) -> str:
        return f"coordination {self.home}"


def _user(account: str, variable: str) -> str:
    return f"{account} {variable}"


def _is_in_keyring(body: Mapping[str, str] | None) -> bool:
    return body is not None and body["kept"] == SecretPlace.KEYRING


def _variable(name: str, body: Mapping[str, str]) -> Variable:
    kept = SecretPlace(body["kept"])
    return Variable(name, kept, body["value"] if kept is SecretPlace.SETTING else None)


def _parse(data: bytes) -> dict[str, dict[str, str]]:
    if len(data) > _MAX_BYTES:
        raise ValueError
    content: Any = json.loads(data)
    if content["format"] != _FORMAT:
        raise ValueError
    variables: dict[str, dict[str, str]] = {}
    for name, body in content["variables"].items():
        kept = SecretPlace(body["kept"])
        if kept is not SecretPlace.KEYRING and not isinstance(body["value"], str):
            raise TypeError
        variables[name] = body
    return variables


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise _not_used(path, "it belongs to another user", "Set the account again as the user of the worker")
    if stat.S_IMODE(status.st_mode) & _OTHERS:
        mode = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise _not_used(
            path, "other users may open it", f"Run: chmod {mode} '{path}', and replace the secrets that they may know"
        )


def _not_used(path: Path, why: str, hint: str | None = None) -> Refused:
    return Refused(f"{path} is not used for accounts: {why}", hint=hint)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
