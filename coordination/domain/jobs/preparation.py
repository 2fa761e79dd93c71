"""Preparation of worktrees: a setup command, files to copy or share, ports, a database."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from coordination.base.errors import Refused
from coordination.base.fields import check_keys
from coordination.base.json_values import text_problem, to_json_types
from coordination.base.wording import excerpt

FIRST_PORT, LAST_PORT = 1024, 65_535  # ports below are reserved for the system
MOST_NAMES = 100
MOST_PORTS = 100
DATABASE_KEYS = ("clone", "variable")
DATABASE_VARIABLE = "DATABASE_URL"

LOCK_FILES = (
    *("uv.lock", "poetry.lock", "pdm.lock", "pylock.toml", "Pipfile.lock", "conda-lock.yml", "pixi.lock"),
    *("package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "bun.lockb", "deno.lock"),
    *("Cargo.lock", "go.sum", "Gemfile.lock", "composer.lock", "mix.lock", "pubspec.lock", "Package.resolved"),
    *("gradle.lockfile", "packages.lock.json", "flake.lock"),
)
"""Files that pin what a setup command installs; the default of ``lock``."""

MANIFESTS = (
    *("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "requirements-dev.txt", "Pipfile"),
    *("environment.yml", "package.json", "deno.json", "go.mod", "Cargo.toml", "Gemfile", "composer.json", "mix.exs"),
    *("pubspec.yaml", "pom.xml", "build.gradle", "build.gradle.kts", "Makefile"),
)
"""Files that list dependencies without pinning them; used where there is no lock file."""

_LONGEST_COMMAND = 100_000
_LONGEST_NAME = 500
_LONGEST_URL = 2_000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORKER_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_PORTS = re.compile(r"(\d{4,5})\s*-\s*(\d{4,5})", re.ASCII)
_SCHEMES = ("postgresql", "postgres", "sqlite")


@dataclass(frozen=True, slots=True)
class Database:
    """A database of which each attempt gets a copy.

    ``clone``: the URL of the original (``postgresql://…`` or ``sqlite:///file``), or ``$NAME`` for a variable of the
    worker's environment. ``variable``: the job's variable with the URL of the copy.
    """

    clone: str
    variable: str = DATABASE_VARIABLE

    @property
    def worker_variable(self) -> str | None:
        """Return the name of the worker's variable that contains the URL, or None when the plan contains it."""
        match = _WORKER_VARIABLE.fullmatch(self.clone)
        return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a worktree is prepared before the job starts. Paths are relative to the task's folder.

    ``setup``: a shell command, run once per content of the ``lock`` files. ``copy``: files and folders of the user's
    checkout. ``share``: paths created by the setup command that all worktrees link to. ``ports``: the number of ports.
    """

    setup: str | None = None
    lock: tuple[str, ...] = ()
    copy: tuple[str, ...] = ()
    share: tuple[str, ...] = ()
    ports: int = 0
    database: Database | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the keys that are set, in the form of plan files."""
        return {name: value for name, value in to_json_types(self).items() if value}


NO_PREPARATION = Preparation()
PREPARATION_KEYS = ("setup", "lock", "copy", "share", "ports", "database")


def parse_preparation(value: Mapping[str, Any]) -> Preparation:
    """Parse the preparation in a checkout's mapping, ignoring its other keys. Raises Refused for what is wrong."""
    setup = value.get("setup")
    if setup is not None:
        _check_command(setup)
    lock, copy, share = (_names(value.get(name), name) for name in ("lock", "copy", "share"))
    for name, needed in (("lock", lock), ("share", share)):
        if needed and setup is None:
            hint = "Write setup with a command, or use copy for files of your checkout"
            raise Refused(f"checkout.{name} needs checkout.setup", hint=hint, field=f"checkout.{name}")
    for name in share:
        if any(_inside(name, other) or _inside(other, name) for other in copy):
            message = f"{excerpt(name)} is in both checkout.copy and checkout.share"
            hint = "share is for files that setup creates, copy for files of your checkout"
            raise Refused(message, hint=hint, field="checkout.share")
    ports = value.get("ports")
    if ports is not None and not (isinstance(ports, int) and not isinstance(ports, bool) and 0 <= ports <= MOST_PORTS):
        raise Refused(
            f"checkout.ports must be a number up to {MOST_PORTS}, not {excerpt(ports)}", field="checkout.ports"
        )
    return Preparation(setup, lock, copy, share, ports or 0, _database(value.get("database")))


def _check_command(setup: object) -> None:
    if not isinstance(setup, str) or not setup.strip():
        raise Refused(f"checkout.setup must be a command, not {excerpt(setup)}", field="checkout.setup")
    if len(setup) > _LONGEST_COMMAND:
        message = f"checkout.setup has {len(setup):,} characters, at most {_LONGEST_COMMAND:,} are possible"
        raise Refused(message, field="checkout.setup")
    if problem := text_problem(setup):
        raise Refused(f"checkout.setup {problem}", field="checkout.setup")


def _names(value: object, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    field = f"checkout.{key}"
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        message = f"{field} must be a list of paths, not {excerpt(value)}"
        raise Refused(message, hint="Write it like [.env]", field=field)
    if len(value) > MOST_NAMES:
        raise Refused(f"{field} has {len(value):,} paths; at most {MOST_NAMES} are possible", field=field)
    return tuple(dict.fromkeys(_name(name, field) for name in value))


def _name(name: str, field: str) -> str:
    path = PurePosixPath(name)
    if not name.strip() or len(name) > _LONGEST_NAME or text_problem(name) or not path.parts:
        raise Refused(f"{field} must contain paths of files and folders, not {excerpt(name)}", field=field)
    if path.is_absolute() or ".." in path.parts:
        message = f"{field} contains {excerpt(name)}, which is outside the project's folder"
        raise Refused(message, hint="Write paths relative to the task's folder, without ..", field=field)
    if ".git" in path.parts:
        raise Refused(f"{field} contains {excerpt(name)}; a worktree has its own .git", field=field)
    return str(path)


def _inside(name: str, other: str) -> bool:
    """Return whether *name* is *other* or below it."""
    return PurePosixPath(name).is_relative_to(other)


def _database(value: object) -> Database | None:
    if value is None or isinstance(value, Database):
        return value
    if not isinstance(value, Mapping):
        message = f"checkout.database must be a mapping with the key clone, not {excerpt(value)}"
        raise Refused(message, hint="Write database: {clone: $DATABASE_URL}", field="checkout.database")
    check_keys(value, DATABASE_KEYS, "checkout.database", place="checkout.database")
    variable = value.get("variable")
    variable = DATABASE_VARIABLE if variable is None else variable
    if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
        message = f"checkout.database.variable must be the name of a variable, not {excerpt(variable)}"
        raise Refused(message, field="checkout.database.variable")
    return Database(check_url(value.get("clone")), variable)


def check_url(clone: object, *, what: str = "checkout.database.clone") -> str:
    """Return *clone* if it is ``$NAME`` or the URL of a database that can be copied. Messages omit the URL."""
    field = "checkout.database.clone"
    hint = "Write postgresql://user@host/name, sqlite:///file, or $NAME for a variable of the worker's environment"
    if not isinstance(clone, str) or not clone.strip() or len(clone) > _LONGEST_URL or text_problem(clone):
        raise Refused(f"{what} must be the URL of a database", hint=hint, field=field)
    if _WORKER_VARIABLE.fullmatch(clone):
        return clone
    scheme, separator, rest = clone.partition("://")
    if not separator or scheme.partition("+")[0] not in _SCHEMES:
        raise Refused(f"{what} is not a URL of PostgreSQL or SQLite", hint=hint, field=field)
    if scheme.startswith("sqlite"):
        if rest.partition("?")[0] in ("", "/", "/:memory:"):
            raise Refused(f"{what} has no file, and a database in memory cannot be copied", hint=hint, field=field)
        return clone
    try:
        name = urlsplit(f"postgresql://{rest}").path.strip("/")
    except ValueError:
        name = ""
    if not name or "/" in name:
        raise Refused(f"{what} does not name a database", hint=hint, field=field)
    return clone


def parse_ports(text: str) -> range:
    """Parse a range of ports such as ``20000-23999``. Raises ValueError."""
    match = _PORTS.fullmatch(text.strip())
    if match is None or not FIRST_PORT <= int(match[1]) <= int(match[2]) <= LAST_PORT:
        raise ValueError
    return range(int(match[1]), int(match[2]) + 1)


def write_ports(ports: range) -> str:
    """Return *ports* in the form that ``parse_ports`` reads."""
    return f"{ports.start}-{ports.stop - 1}"


def port_variables(ports: Sequence[int]) -> dict[str, str]:
    """Return the job's variables for its ports: COORD_PORT_1 and so on, and PORT for the first."""
    numbered = {f"COORD_PORT_{number}": str(port) for number, port in enumerate(ports, 1)}
    return ({"PORT": str(ports[0])} if ports else {}) | numbered


def is_sqlite(url: str) -> bool:
    """Return whether *url*, which passed ``check_url``, is a SQLite URL."""
    return url.partition("://")[0].startswith("sqlite")


def sqlite_path(url: str) -> str:
    """Return the path in a SQLite URL as it is written."""
    return url.partition("://")[2].partition("?")[0].removeprefix("/")


def copy_url(url: str, name: str) -> str:
    """Return the URL of a copy of the database at *url*. *name*: of a database on its server, or the path of a file."""
    scheme, _, rest = url.partition("://")
    if is_sqlite(url):
        return f"{scheme}:///{name}"
    parts = urlsplit(f"postgresql://{rest}")._replace(path=f"/{name}")
    return f"{scheme}://{parts.geturl().partition('://')[2]}"
