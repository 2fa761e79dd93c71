"""Celery apps and worker contexts in the tests' process; they leave no connection and no current app behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kombu.pools
from celery import Celery, _state

from coordination.settings import Settings, load_settings
from coordination.store.engine import Store
from tests.support.publishers import RecordingPublisher
from workers.app import make_app
from workers.broker.publisher import Publisher
from workers.context import Context, make_context


def worker_settings(database_url: str, redis_url: str, folder: Path, **variables: str) -> Settings:
    """Return the settings of a worker whose home is in *folder*; *variables* are added to its environment."""
    environment = {
        "COORD_DATABASE_URL": database_url,
        "COORD_REDIS_URL": redis_url,
        "COORD_HOME": str(folder / "home"),
        "HOME": str(folder),
    }
    return load_settings({**environment, **variables})


@contextmanager
def app_of(settings: Settings) -> Iterator[Celery]:
    """Make an app; close its connections afterwards, and restore this thread's current app."""
    with app_state_kept():
        yield make_app(settings)


@contextmanager
def app_state_kept() -> Iterator[None]:
    """Close what apps have opened in this block, and restore the current app."""
    current = _state._tls.current_app
    try:
        yield
    finally:
        kombu.pools.reset()
        _state._set_current_app(current)


@contextmanager
def context_of(
    settings: Settings, *, slots: int = 1, publisher: Callable[[Store], Publisher] = RecordingPublisher
) -> Iterator[Context]:
    """Make a worker's context that sends nothing; its folder, store and connections are closed afterwards."""
    context = make_context(settings, name="worker", slots=slots, publisher=publisher)
    try:
        yield context
    finally:
        for thread in threading.enumerate():
            if thread.name == "coord-wake":  # the last message of a stopped supervisor loop, over this client
                thread.join(30)
        context.wakeups.close()
        context.store.close()
        context.scratch_dir.close()
