"""What the jobs of one worker are confined by, as its settings say: the sandbox, and their way to the network."""

from __future__ import annotations

import os
from dataclasses import dataclass

from coordination.base.errors import SettingsError
from coordination.domain.jobs.network import NetworkMode
from coordination.setting_values import STRICT
from coordination.settings import Settings
from coordination.store.engine import Store, sqlite_path
from workers.attempt.connect_proxy import ConnectProxy
from workers.context import Context
from workers.runners.namespaces import Namespaces, find_program
from workers.runners.sandbox_policy import SandboxPolicy
from workers.workspaces.setup_cache import FOLDER

_BESIDE = ("", "-wal", "-shm", "-journal")


@dataclass(slots=True)
class Confinement:
    """``sandbox``: None where jobs run without one."""

    sandbox: SandboxPolicy | None = None
    proxy: ConnectProxy | None = None

    def close(self) -> None:
        """No job runs any more."""
        if self.proxy is not None:
            self.proxy.close()


def confine_jobs(context: Context) -> Confinement:
    """The sandbox of this worker's jobs. SettingsError where it is required and cannot be had."""
    settings = context.settings
    if not settings.confines:
        return Confinement()
    confinement = Confinement()
    namespaces = None
    if settings.sandbox == STRICT:
        if (program := find_program()) is None:
            raise SettingsError(
                "COORD_SANDBOX is strict, and bubblewrap (bwrap) is not installed where this worker looks for programs",
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
        hide=[*settings.hidden(), *_secret(settings, context.store)],
        required=settings.require_sandbox,
        namespaces=namespaces,
    )
    try:
        confinement.sandbox.check()
    except SettingsError:
        confinement.close()
        raise
    return confinement


def _secret(settings: Settings, store: Store) -> list[str]:
    """The home folder, and the database where that is a file, with the files that SQLite keeps beside it."""
    database = sqlite_path(store.url)
    if database is None:
        return [str(settings.home)]
    path = os.path.realpath(database)
    return [str(settings.home), *(f"{path}{end}" for end in _BESIDE)]
