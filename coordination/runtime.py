"""Connects a program to the store, Redis and the workspace that its settings name."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from coordination.base.errors import RedisUnavailable
from coordination.callers import refusal_for_jobs
from coordination.flows.money.check_costs import complete_sums
from coordination.services.fleet.broker_keys import signatures_in
from coordination.settings import Settings, client_url
from coordination.stack.home import Home
from coordination.store import schema
from coordination.store.engine import Store, open_store
from coordination.store.queries.access import principals
from coordination.store.queries.projects import projects
from coordination.store.redis.wakeups import Wakeups

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts that the API works with. ``wakeups``: None without a known Redis, when workers find work by sweeps."""

    settings: Settings
    store: Store
    wakeups: Wakeups | None
    workspace_id: str
    actor: str

    def read(self, query: Callable[Concatenate[Connection, str, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *query* of this workspace in a read-only transaction of its own, and return its result."""
        with self.store.read() as tx:
            return query(tx, self.workspace_id, *args, **kwargs)

    def transact(self, change: Callable[Concatenate[Connection, str, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *change* of this workspace in a writing transaction, perhaps repeatedly, and return its result."""
        return self.store.transact(lambda tx: change(tx, self.workspace_id, *args, **kwargs))

    def wake_project(self, project_id: str) -> None:
        """Ask for a look at the project now: a saved wait, never a need. Without Redis a worker's sweep does it."""
        if self.wakeups is not None:
            with suppress(RedisUnavailable):
                self.wakeups.wake_projects([(self.workspace_id, project_id)])

    def stop(self, project_id: str, attempts: Sequence[tuple[str, int]]) -> None:
        """Tell the workers of these (task id, attempt) pairs to end them, and wake one for their project.

        Without Redis, workers see the change at their next heartbeat.
        """
        if self.wakeups is not None:
            with suppress(RedisUnavailable):
                self.wakeups.cancel([(task_id, attempt) for task_id, attempt in attempts if attempt])
                self.wakeups.wake_projects([(self.workspace_id, project_id)])

    def close(self) -> None:
        """Close all connections."""
        if self.wakeups is not None:
            self.wakeups.close()
        self.store.close()


def open_runtime(settings: Settings, *, migrate: bool = False, redis_url: str | None = None) -> Runtime:
    """Connect to the store; with *migrate*, create or migrate its schema. Raises Unavailable.

    In a process of a job of the store, every change of the store is refused.
    """
    store = open_store(settings.database_url)
    actor = f"user:{_login()}"
    try:
        store.refusal = refusal_for_jobs(store)
        if migrate and store.refusal is None:
            schema.prepare(store)
            complete_sums(store)
        else:
            schema.require(store)
        with store.read() as tx:
            workspace_id = projects.find_workspace(tx, settings.workspace)
        if workspace_id is None:
            workspace_id = store.transact(lambda tx: _create_workspace(tx, settings.workspace, actor))
    except BaseException:
        store.close()
        raise
    url = redis_url or settings.redis_url or _embedded_redis(settings)
    return Runtime(
        settings=settings,
        store=store,
        wakeups=Wakeups(client_url(url), signatures_in(store)) if url else None,
        workspace_id=workspace_id,
        actor=actor,
    )


def _create_workspace(tx: Connection, name: str, actor: str) -> str:
    """Create the workspace, with the local person as its owner, and return its id."""
    workspace_id = projects.get_or_create_workspace(tx, name)
    principals.add_owner(tx, workspace_id, actor)
    return workspace_id


def _embedded_redis(settings: Settings) -> str | None:
    home = Home(settings.home)
    record = home.read() if home.is_owned() else None
    return record.redis_url if record else None


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return str(os.getuid())
