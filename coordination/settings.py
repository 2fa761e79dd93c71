"""All settings, their sources, and URLs in the forms of the libraries. Connects to nothing.

The only reader of the environment. A frozen dataclass with small parsers instead of pydantic-settings, whose import
costs each command and worker 0.3 to 0.5 s on a two-core machine, and whose errors are not one sentence that names the
variable.
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
from coordination.domain.fleet.served_workspaces import check_names, parse_names
from coordination.domain.fleet.supervisor_status import DEFAULT_LIFETIME, StatusThresholds
from coordination.domain.jobs.network import Network, parse_network
from coordination.domain.jobs.preparation import parse_ports, write_ports
from coordination.domain.jobs.resource_limits import FEWEST_FILES, Limits
from coordination.domain.tasks.tasks import DEFERRAL_LIMIT

__all__ = [
    "Settings",
    "ShownSetting",
    "broker_url",
    "client_url",
    "load_settings",
    "masked",
    "socket_url",
    "unknown_variables",
]

STRICT = "strict"
"""The sandbox that shows jobs only named files."""

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
class ShownSetting:
    """A setting's value for people, and its source: the variable's name, "option" or "default"."""

    value: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one process; each has a variable: COORD_ and its name in upper case."""

    home: Path = _setting(Path("~/.coordination"), kinds.folder, "a path of a folder, such as ~/.coordination")
    database_url: str = _setting("", store_url, _URL_OF_DATABASE)  # default: a file under home
    redis_url: str | None = _setting(None, kinds.redis_url, _URL_OF_REDIS)  # None: a server of our own
    workspace: str = _setting("default", kinds.workspace, "up to 63 letters, digits, dots, dashes and underscores")
    workspaces: str | None = _setting(None, check_names, "names of workspaces with commas between them, or * for all")
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
    # The most that any job may use; a plan can set less.
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
    retention_costs: timedelta = _setting(timedelta(0), kinds.days, _AGE)  # costs are kept longer than tasks
    retention_every: timedelta = _length(hours=1)
    retention_archive: Path | None = _setting(None, kinds.absolute_folder, "an absolute path of a folder")
    log_level: str = _setting(
        "info", kinds.one_of("debug", "info", "warning", "error"), "debug, info, warning or error"
    )
    log_format: str = _setting("console", kinds.one_of("console", "json"), "console or json")
    debug: bool = _setting(False, kinds.switch, "1 or 0")
    # For a socket whose path under home would be too long; the desktop's variable, as other programs use it.
    runtime_dir: Path | None = _setting(None, kinds.folder_if_absolute, "a folder", variable="XDG_RUNTIME_DIR")
    # Set by the parent of a process: where to write the line "ready". Not passed on.
    ready_fd: int | None = _setting(None, kinds.descriptor, "the number of an open file descriptor")
    # Set by a worker that restarts itself. Not passed on either.
    watchdog_lives: int | None = _setting(None, kinds.count, "a number of lives, at least 1")
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def embedded(self) -> bool:
        """Whether Redis is our own server, started with the stack."""
        return self.redis_url is None

    def leases(self) -> LeaseTerms:
        """Return the times of a lease. Raises SettingsError when they do not fit together."""
        return LeaseTerms(ttl=self.lease_ttl, heartbeat=self.lease_heartbeat, sweep=self.sweep)

    def served(self) -> tuple[str, ...] | None:
        """Return the names of the workspaces whose jobs a worker runs; None: all."""
        return parse_names(self.workspaces or self.workspace)

    def limits(self) -> Limits:
        """Return the limits of any job."""
        return Limits(memory=self.job_memory, cpu=self.job_cpu, files=self.job_files, output=self.job_output)

    @property
    def confines(self) -> bool:
        """Whether jobs run in a sandbox."""
        return self.require_sandbox or self.sandbox != "0"

    def network(self) -> Network:
        """Return what jobs in the strict sandbox may reach."""
        return parse_network(self.sandbox_network or "on")

    def readable(self) -> tuple[str, ...]:
        """Return further paths that jobs in a sandbox may read, also below hidden ones."""
        return tuple(self.sandbox_read.split(os.pathsep)) if self.sandbox_read else ()

    def hidden(self) -> tuple[str, ...]:
        """Return paths hidden from jobs in a sandbox, besides the home folder and the database."""
        return tuple(self.sandbox_hide.split(os.pathsep)) if self.sandbox_hide else ()

    def writable(self) -> tuple[str, ...]:
        """Return further paths that jobs in a sandbox may change."""
        return tuple(self.sandbox_write.split(os.pathsep)) if self.sandbox_write else ()

    def supervision(self) -> StatusThresholds:
        """Return the ages of heartbeats at which a supervisor counts as stale, and as stopped."""
        return StatusThresholds(stale_after=self.supervisor_stale, stopped_after=self.supervisor_stopped)

    def shown(self) -> dict[str, ShownSetting]:
        """Return every setting by name with its source, passwords masked."""
        settings = {}
        for name in _NAMES:
            value = getattr(self, name)
            text = "not set" if value is None else _write_value(value)
            settings[name] = ShownSetting(
                masked(text) if name.endswith("_url") else text, self.sources.get(name, "default")
            )
        return settings

    def child_environment(self, **changes: str) -> dict[str, str]:
        """Return the environment for a process of ours, with every setting written out, and *changes*."""
        environment = {name: value for name, value in os.environ.items() if name not in _VARIABLES.values()}
        for name in _NAMES:
            value = getattr(self, name)
            if value is not None and name not in _PROCESS_SETTINGS:
                environment[_VARIABLES[name]] = _write_value(value)
        return environment | changes


_PROCESS_SETTINGS = frozenset({"ready_fd", "watchdog_lives"})
_SPECS = {spec.name: spec for spec in fields(Settings) if "parse" in spec.metadata}
_NAMES = tuple(_SPECS)
_VARIABLES = {name: cast("str", spec.metadata["variable"] or f"COORD_{name.upper()}") for name, spec in _SPECS.items()}
# Known variables that are not settings: the compose file and the tests of this repository read them.
_OTHERS = frozenset({"COORD_IMAGE", "COORD_CI_PYTHONS", "COORD_TEST_DATABASE_URL"})
# Inside a job, its variables and those of its plan are not settings. Programs may pass on only some of these.
_JOB_VARIABLES = frozenset({"COORD_TASK_ID", "COORD_TOKEN", ATTEMPT_MARKER, WORKER_MARKER})


def unknown_variables(env: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """Return variables that look like settings but are none, with the closest setting."""
    environment = os.environ if env is None else env
    if not _JOB_VARIABLES.isdisjoint(environment):
        return {}
    names = {*_VARIABLES.values(), *_OTHERS}
    unknown = sorted(name for name in environment if name.startswith("COORD_") and name not in names)
    if not unknown:
        return {}
    from difflib import get_close_matches

    return {name: next(iter(get_close_matches(name, names, n=1, cutoff=0.75)), None) for name in unknown}


def load_settings(env: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Load the settings from *env* (default: the environment); *overrides* that are not None win.

    Raises SettingsError with one sentence that names the variable and its expected form.
    """
    environment = os.environ if env is None else env
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if unknown := overrides.keys() - _SPECS.keys():
        raise SettingsError(f"There is no setting named {', '.join(sorted(unknown))}", field=min(unknown))
    for name, spec in _SPECS.items():
        variable = _VARIABLES[name]
        override = overrides.get(name)
        if override is not None:
            values[name] = _parse(name, f"The option {name}", _write_value(override))
            sources[name] = "option"
        elif environment.get(variable, "").strip():  # compose files pass empty variables for "not set"
            values[name] = _parse(name, variable, environment[variable].strip())
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
        message = "COORD_SANDBOX_NETWORK is set, and only the strict sandbox can keep jobs from the network"
        hint = "Set COORD_SANDBOX=strict too, or leave COORD_SANDBOX_NETWORK out"
        raise SettingsError(message, hint=hint, field=_VARIABLES["sandbox_network"])
    if settings.supervisor_stale >= settings.supervisor_stopped:
        message = "A supervisor must count as stale before it counts as stopped"
        hint = "Raise COORD_SUPERVISOR_STOPPED or lower COORD_SUPERVISOR_STALE"
        raise SettingsError(message, hint=hint, field=_VARIABLES["supervisor_stale"])
    return settings


def _home(home: Path, environment: Mapping[str, str]) -> Path:
    if home.is_absolute():
        return home
    user_folder = environment.get("HOME", "")
    expanded = Path(user_folder, home.name) if Path(user_folder).is_absolute() else home.expanduser()
    if not expanded.is_absolute():
        message = "This user has no home folder"
        raise SettingsError(message, hint="Set COORD_HOME to the absolute path of a folder", field=_VARIABLES["home"])
    return expanded


def _parse(name: str, label: str, text: str) -> Any:
    spec = _SPECS[name]
    try:
        return spec.metadata["parse"](text)
    except (ValueError, RuntimeError) as error:  # RuntimeError: expanduser finds no such user
        shown = masked(text) if name.endswith("_url") else text
        reason = f": {error}" if str(error) else ""
        message = f"{label} is {_shorten(shown)!r}, which cannot be used{reason}"
        raise SettingsError(message, hint=f"It must be {spec.metadata['shape']}", field=_VARIABLES[name]) from None


def _shorten(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _write_value(value: object) -> str:
    if isinstance(value, timedelta):
        return write_duration(value)
    if isinstance(value, range):
        return write_ports(value)
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value)
