"""Settings become working parts once, at the door: one frozen object with the store, the nudges and the workspace."""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a door works with. ``nudges`` is None when no Redis is known: then workers find work by their sweep."""

    settings: Settings
    store: Store
    nudges: Wakeups | None
    workspace_id: str
    actor: str

    def nudge(self, project_id: str) -> None:
        """Ask for a look at the project now: a saved wait, never a need. Without Redis a worker's sweep does it."""
        if self.nudges is not None:
            with suppress(RedisUnavailable):
                self.nudges.nudge([(self.workspace_id, project_id)])

    def stop(self, project_id: str, attempts: Sequence[tuple[str, int]]) -> None:
        """Tell whoever runs these (task id, attempt) pairs to end them, and ask for a look at their project.

        Without Redis the workers learn it with their next heartbeat.
        """
        if self.nudges is not None:
            with suppress(RedisUnavailable):
                self.nudges.cancel([(task_id, attempt) for task_id, attempt in attempts if attempt])
                self.nudges.nudge([(self.workspace_id, project_id)])

    def close(self) -> None:
        """Give back every connection."""
        if self.nudges is not None:
            self.nudges.close()
        self.store.close()


def open_runtime(settings: Settings, *, migrate: bool = False, redis_url: str | None = None) -> Runtime:
    """Connect to the store (and make or migrate its schema, when *migrate*); Unavailable with a sentence otherwise.

    In a process that a job of the store has started, everything that changes the store is refused.
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
            workspace_id = projects.workspace_named(tx, settings.workspace)
        if workspace_id is None:
            workspace_id = store.transact(lambda tx: _make_workspace(tx, settings.workspace, actor))
    except BaseException:
        store.close()
        raise
    url = redis_url or settings.redis_url or _embedded_redis(settings)
    return Runtime(
        settings=settings,
        store=store,
        nudges=Wakeups(client_url(url), signatures_in(store)) if url else None,
        workspace_id=workspace_id,
        actor=actor,
    )


def _make_workspace(tx: Connection, name: str, actor: str) -> str:
    """Make the workspace, which the local person owns; return its id."""
    workspace_id = projects.make_workspace(tx, name)
    principals.add_owner(tx, workspace_id, actor)
    return workspace_id


def _embedded_redis(settings: Settings) -> str | None:
    home = Home(settings.home)
    record = home.read() if home.is_owned() else None
    return record.redis_url if record else None


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
