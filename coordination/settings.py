"""What can be set, where each value came from, and the URLs in the forms that the libraries want. Connects to nothing.

The only reader of the environment. A frozen dataclass and a dozen small parsers instead of pydantic-settings: that
costs 0.3 to 0.5 s of import on a two-core machine, this a few milliseconds, and every command and worker pays it;
and a refusal is one sentence that names the variable, not a dump of a validation model.
"""

# ruff: noqa: RUF009 - _setting and _length are dataclasses.field with our metadata

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from coordination import setting_values as kinds
from coordination.base.durations import write_duration
from coordination.base.errors import SettingsError
from coordination.base.host import ATTEMPT_MARKER, WORKER_MARKER
from coordination.base.urls import broker_url, client_url, masked, socket_url, store_url
from coordination.domain.fleet.leases import LeaseTerms
from coordination.domain.fleet.served_workspaces import checked_names, served_names
from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME, StatusThresholds
from coordination.domain.jobs.network import Network, parse_network
from coordination.domain.jobs.ports import parse_ports, write_ports
from coordination.domain.jobs.resource_limits import FEWEST_FILES, Limits
from coordination.domain.tasks.task_limits import DEFERRAL_LIMIT

__all__ = [
    "Settings",
    "Shown",
    "broker_url",
    "client_url",
    "load_settings",
    "masked",
    "socket_url",
    "unknown_variables",
]

_MOST = 1_000_000_000

STRICT = "strict"
"""The sandbox that shows jobs only what is named."""

_LENGTH = "a number of seconds, or a duration such as 30s, 5m or 4h"
_AGE = "a number of days, a duration such as 90d or 12h, or never (0) to keep everything"
_URL_OF_DATABASE = "sqlite:///path/to/file.db or postgresql://user:password@host:5432/name"
_BYTES = "a number of bytes, or a size such as 512MiB or 2GiB"
_URL_OF_ARTIFACTS = (
    "a folder, such as /srv/artifacts, or the URL of a store that fsspec knows, such as s3://bucket/folder"
)
_PATHS = "absolute paths with colons between them"
_NETWORK = "on, off, or hosts with their ports and commas between them, such as api.anthropic.com:443,pypi.org:443"
_URL_OF_REDIS = "redis://host:6379/0, rediss://user:password@host:6380/0, or unix:///path/to/redis.sock"


def _setting(default: Any, parse: Callable[[str], Any], shape: str, *, variable: str | None = None) -> Any:
    return field(default=default, metadata={"parse": parse, "shape": shape, "variable": variable})


def _length(parse: Callable[[str], timedelta] = kinds.positive_duration, **default: float) -> Any:
    return _setting(timedelta(**default), parse, _LENGTH)


@dataclass(frozen=True, slots=True)
class Shown:
    """One value as a person may see it, and where it came from: the variable's name, "option" or "default"."""

    value: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one process; COORD_ and the name in upper case is the variable of each."""

    home: Path = _setting(Path("~/.coordination"), kinds.folder, "a path of a folder, such as ~/.coordination")
    database_url: str = _setting("", store_url, _URL_OF_DATABASE)  # default: a file under home
    redis_url: str | None = _setting(None, kinds.redis_url, _URL_OF_REDIS)  # None: a server of our own
    workspace: str = _setting("default", kinds.workspace, "up to 63 letters, digits, dots, dashes and underscores")
    workspaces: str | None = _setting(None, checked_names, "names of workspaces with commas between them, or * for all")
    lease_ttl: timedelta = _length(seconds=30)
    lease_heartbeat: timedelta = _length(seconds=10)
    sweep: timedelta = _length(seconds=5)
    tick: timedelta = _length(seconds=5)
    shutdown_grace: timedelta = _length(kinds.duration, seconds=30)
    cancel_grace: timedelta = _length(kinds.duration, seconds=10)
    watchdog: timedelta = _length(kinds.duration, seconds=60)
    deferral_limit: timedelta = _length(seconds=DEFERRAL_LIMIT.total_seconds())
    slots: int = _setting(8, kinds.count, "a number of job threads, at least 1")
    window: int | None = _setting(None, kinds.count, "a number of tasks, at least 1")  # None: derived from the slots
    worktrees: Path | None = _setting(None, kinds.absolute_folder, "an absolute path of a folder")  # None: below home
    worktrees_kept: timedelta = _setting(
        timedelta(days=3), kinds.days, "a number of days, or a duration such as 3d or 12h"
    )
    warm_kept: timedelta = _setting(timedelta(days=7), kinds.days, "a number of days, or a duration such as 7d or 12h")
    ports: range = _setting(range(20_000, 24_000), parse_ports, "a range of ports from 1024 on, such as 20000-23999")
    output_limit: int = _setting(1_000_000, kinds.count, "a number of bytes, at least 1")
    # What any job may use; a plan can ask for less.
    job_memory: int | None = _setting(None, kinds.size, _BYTES)
    job_cpu: timedelta | None = _setting(None, kinds.positive_duration, _LENGTH)
    job_files: int | None = _setting(None, kinds.files, f"a number of files, at least {FEWEST_FILES}")
    job_output: int | None = _setting(None, kinds.size, _BYTES)
    sandbox: str = _setting("0", kinds.sandbox, "0, 1 or strict")
    require_sandbox: bool = _setting(False, kinds.switch, "1 or 0")
    sandbox_write: str | None = _setting(None, kinds.paths, f"{_PATHS}, such as ~/.claude:/srv/cache")
    sandbox_read: str | None = _setting(None, kinds.paths, f"{_PATHS}, such as ~/.gitconfig:/srv/models")
    sandbox_hide: str | None = _setting(None, kinds.paths, f"{_PATHS}, such as ~/.ssh:~/.aws")
    sandbox_network: str | None = _setting(None, kinds.network, _NETWORK)  # None: on
    artifacts_url: str = _setting("", kinds.artifacts_url, _URL_OF_ARTIFACTS)  # default: a folder under home
    artifacts_most: int = _setting(1_000, kinds.count, "a number of files, at least 1")
    artifacts_bytes: int = _setting(1 << 30, kinds.size, _BYTES)
    supervisor_lifetime: timedelta = _length(seconds=DEFAULT_LIFETIME.total_seconds())
    supervisor_stale: timedelta = _length(minutes=10)
    supervisor_stopped: timedelta = _length(minutes=60)
    retention_runs: timedelta = _setting(timedelta(days=90), kinds.days, _AGE)
    retention_workers: timedelta = _setting(timedelta(days=7), kinds.days, _AGE)
    retention_costs: timedelta = _setting(timedelta(0), kinds.days, _AGE)  # the ledger outlives the tasks
    retention_every: timedelta = _length(hours=1)
    retention_archive: Path | None = _setting(None, kinds.absolute_folder, "an absolute path of a folder")
    log_level: str = _setting(
        "info", kinds.one_of("debug", "info", "warning", "error"), "debug, info, warning or error"
    )
    log_format: str = _setting("console", kinds.one_of("console", "json"), "console or json")
    debug: bool = _setting(False, kinds.switch, "1 or 0")
    # Where a socket goes whose path under home would be too long; the desktop's variable, as other programs use it.
    runtime_dir: Path | None = _setting(None, kinds.folder_if_absolute, "a folder", variable="XDG_RUNTIME_DIR")
    # Set by the parent of a started process: where to write the line that says "ready". Never handed on.
    ready_fd: int | None = _setting(None, kinds.descriptor, "the number of an open file descriptor")
    # Set by a worker for its next life when it starts itself anew. Never handed on either.
    watchdog_lives: int | None = _setting(None, kinds.count, "a number of lives, at least 1")
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def embedded(self) -> bool:
        """Whether Redis is a server of our own, started with the stack."""
        return self.redis_url is None

    def leases(self) -> LeaseTerms:
        """The three times of a lease; SettingsError when they do not fit together."""
        return LeaseTerms(ttl=self.lease_ttl, heartbeat=self.lease_heartbeat, sweep=self.sweep)

    def served(self) -> tuple[str, ...] | None:
        """The names of the workspaces whose jobs a worker with these settings runs; None: all."""
        return served_names(self.workspaces or self.workspace)

    def limits(self) -> Limits:
        """What any job may use."""
        return Limits(memory=self.job_memory, cpu=self.job_cpu, files=self.job_files, output=self.job_output)

    @property
    def confines(self) -> bool:
        """Whether jobs run in a sandbox."""
        return self.require_sandbox or self.sandbox != "0"

    def network(self) -> Network:
        """What a job in the strict sandbox may reach."""
        return parse_network(self.sandbox_network or "on")

    def readable(self) -> tuple[str, ...]:
        """What a job in a sandbox may read besides, also below what is hidden."""
        return tuple(self.sandbox_read.split(os.pathsep)) if self.sandbox_read else ()

    def hidden(self) -> tuple[str, ...]:
        """What no job in a sandbox reads, besides the home folder and the database."""
        return tuple(self.sandbox_hide.split(os.pathsep)) if self.sandbox_hide else ()

    def writable(self) -> tuple[str, ...]:
        """What a job in a sandbox may change besides its own."""
        return tuple(self.sandbox_write.split(os.pathsep)) if self.sandbox_write else ()

    def supervision(self) -> StatusThresholds:
        """From which age of its heartbeat a supervisor counts as stale, and as stopped."""
        return StatusThresholds(stale_after=self.supervisor_stale, stopped_after=self.supervisor_stopped)

    def shown(self) -> dict[str, Shown]:
        """Every setting by name, passwords masked, with its source."""
        found = {}
        for name in _NAMES:
            value = getattr(self, name)
            text = "not set" if value is None else _spelt(value)
            found[name] = Shown(masked(text) if name.endswith("_url") else text, self.sources.get(name, "default"))
        return found

    def child_environment(self, **changes: str) -> dict[str, str]:
        """The environment for a process of ours: this one's, every setting spelt out, and *changes* on top."""
        environment = {name: value for name, value in os.environ.items() if name not in _VARIABLES.values()}
        for name in _NAMES:
            value = getattr(self, name)
            if value is not None and name not in _OF_ONE_PROCESS:
                environment[_VARIABLES[name]] = _spelt(value)
        return environment | changes


_OF_ONE_PROCESS = frozenset({"ready_fd", "watchdog_lives"})
_SPECS = {spec.name: spec for spec in fields(Settings) if "parse" in spec.metadata}
_NAMES = tuple(_SPECS)
_VARIABLES = {name: cast("str", spec.metadata["variable"] or f"COORD_{name.upper()}") for name, spec in _SPECS.items()}
# Not settings of ours, and no mistakes either: what the compose file and the tests of this repository read.
_OTHERS = frozenset({"COORD_IMAGE", "COORD_CI_PYTHONS", "COORD_TEST_DATABASE_URL"})
# Inside a job the variables that it is given, and those of its plan, are no settings. Programs may pass on only some.
_INSIDE_A_JOB = frozenset({"COORD_TASK_ID", "COORD_TOKEN", ATTEMPT_MARKER, WORKER_MARKER})


def unknown_variables(env: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """Variables that look like settings and are none, with the one that was probably meant."""
    environment = os.environ if env is None else env
    if not _INSIDE_A_JOB.isdisjoint(environment):
        return {}
    known = {*_VARIABLES.values(), *_OTHERS}
    strangers = sorted(name for name in environment if name.startswith("COORD_") and name not in known)
    if not strangers:
        return {}
    from difflib import get_close_matches

    return {name: next(iter(get_close_matches(name, known, n=1, cutoff=0.75)), None) for name in strangers}


def load_settings(env: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """The settings from *env* (default: the environment); *overrides* win, those that are None do not count.

    Raises SettingsError with one sentence that names the variable and what it must look like.
    """
    environment = os.environ if env is None else env
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if strangers := overrides.keys() - _SPECS.keys():
        raise SettingsError(f"There is no setting named {', '.join(sorted(strangers))}", field=min(strangers))
    for name, spec in _SPECS.items():
        variable = _VARIABLES[name]
        given = overrides.get(name)
        if given is not None:
            values[name] = _parsed(name, f"The option {name}", _spelt(given))
            sources[name] = "option"
        elif environment.get(variable, "").strip():  # compose files hand on empty variables for "not set"
            values[name] = _parsed(name, variable, environment[variable].strip())
            sources[name] = variable
        else:
            values[name] = spec.default
    values["home"] = _home(values["home"], environment)
    if not values["database_url"]:
        values["database_url"] = f"sqlite:///{quote(str(values['home'] / 'coordination.db'), safe='/')}"
    if not values["artifacts_url"]:
        values["artifacts_url"] = f"file://{values['home'] / 'artifacts'}"
    settings = Settings(**values, sources=sources)
    settings.leases()
    if settings.sandbox_network is not None and settings.sandbox != STRICT:
        raise SettingsError(
            "COORD_SANDBOX_NETWORK is set, and only the strict sandbox can keep jobs from the network",
            hint="Set COORD_SANDBOX=strict too, or leave COORD_SANDBOX_NETWORK out",
            field=_VARIABLES["sandbox_network"],
        )
    if settings.supervisor_stale >= settings.supervisor_stopped:
        raise SettingsError(
            "A supervisor must count as stale before it counts as stopped",
            hint="Raise COORD_SUPERVISOR_STOPPED or lower COORD_SUPERVISOR_STALE",
            field=_VARIABLES["supervisor_stale"],
        )
    return settings


def _home(home: Path, environment: Mapping[str, str]) -> Path:
    if home.is_absolute():
        return home
    user_folder = environment.get("HOME", "")
    expanded = Path(user_folder, home.name) if Path(user_folder).is_absolute() else home.expanduser()
    if not expanded.is_absolute():
        raise SettingsError(
            "This user has no home folder",
            hint="Set COORD_HOME to the absolute path of a folder",
            field=_VARIABLES["home"],
        )
    return expanded


def _parsed(name: str, label: str, text: str) -> Any:
    spec = _SPECS[name]
    try:
        return spec.metadata["parse"](text)
    except (ValueError, RuntimeError) as error:  # RuntimeError: expanduser knows no such user
        shown = masked(text) if name.endswith("_url") else text
        reason = f": {error}" if str(error) else ""
        raise SettingsError(
            f"{label} is {_shortened(shown)!r}, which cannot be used{reason}",
            hint=f"It must be {spec.metadata['shape']}",
            field=_VARIABLES[name],
        ) from None


def _shortened(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _spelt(value: object) -> str:
    if isinstance(value, timedelta):
        return write_duration(value)
    if isinstance(value, range):
        return write_ports(value)
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value)
