"""Sets up the sandbox of a worker's jobs and their access to the network, according to its settings."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from coordination.base.errors import SettingsError
from coordination.domain.jobs.network import NetworkMode
from coordination.setting_values import STRICT
from coordination.settings import Settings
from coordination.store.engine import Store, sqlite_path
from workers.attempt.connect_proxy import ConnectProxy
from workers.context import Context
from workers.runners.namespaces import Namespaces
from workers.runners.sandbox_policy import SandboxPolicy
from workers.workspaces.setup_cache import FOLDER

_SQLITE_SUFFIXES = ("", "-wal", "-shm", "-journal")


@dataclass(slots=True)
class Confinement:
    """Sandbox and proxy of a worker's jobs. ``sandbox`` is None where jobs run without one."""

    sandbox: SandboxPolicy | None = None
    proxy: ConnectProxy | None = None

    def close(self) -> None:
        """Close the proxy. No job may run any more."""
        if self.proxy is not None:
            self.proxy.close()


def confine_jobs(context: Context) -> Confinement:
    """Return the confinement of this worker's jobs. Raises SettingsError when a required sandbox is unavailable."""
    settings = context.settings
    if not settings.confines:
        return Confinement()
    confinement = Confinement()
    namespaces = None
    if settings.sandbox == STRICT:
        if (program := shutil.which("bwrap")) is None:
            raise SettingsError(
                "COORD_SANDBOX is strict, and bubblewrap (bwrap) is not installed on the PATH of this worker",
                hint="Run: apt install bubblewrap",
                field="COORD_SANDBOX",
            )
        network = settings.network()
        if network.mode is NetworkMode.LISTED:
            confinement.proxy = ConnectProxy(context.scratch, network)
        namespaces = Namespaces(
            program,
            network=network.mode is NetworkMode.ON,
            proxy=None if confinement.proxy is None else confinement.proxy.path,
        )
    confinement.sandbox = SandboxPolicy(
        context.scratch,
        settings.writable(),
        read=[*settings.readable(), str(context.worktrees / FOLDER)],
        hide=[*settings.hidden(), *_secret_paths(settings, context.store)],
        required=settings.require_sandbox,
        namespaces=namespaces,
    )
    try:
        confinement.sandbox.check()
    except SettingsError:
        confinement.close()
        raise
    return confinement


def _secret_paths(settings: Settings, store: Store) -> list[str]:
    """Return the home folder and, for SQLite, the files of the database."""
    database = sqlite_path(store.url)
    if database is None:
        return [str(settings.home)]
    path = os.path.realpath(database)
    return [str(settings.home), *(f"{path}{suffix}" for suffix in _SQLITE_SUFFIXES)]
