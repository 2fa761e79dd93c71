"""Functions for the embedded stack: prepare the store, hand back a dead worker's tasks, check Redis."""

from __future__ import annotations

import contextlib
from functools import partial

from coordination.base import started_jobs
from coordination.base.errors import CoordinationError
from coordination.base.host import boot_id, host
from coordination.callers import check_caller
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.money.check_costs import complete_sums
from coordination.services.fleet.broker_keys import signatures_at, signatures_in
from coordination.settings import Settings, client_url
from coordination.stack.home import Home
from coordination.stack.stack import end_jobs_of
from coordination.store import schema
from coordination.store.engine import open_store
from coordination.store.queries.fleet import workers as fleet
from coordination.store.redis.wakeups import Wakeups


def prepare_store(settings: Settings) -> None:
    """Create or update the home folder and the schema. Raises Refused in a process of a job of that store."""
    check_caller(settings.database_url)
    if not settings.sources.get("database_url"):
        Home(settings.home).prepare()
    with contextlib.closing(open_store(settings.database_url)) as store:
        schema.prepare(store)
        complete_sums(store)


def rescue(settings: Settings, pid: int) -> bool:
    """End the jobs of a worker process that has died, and hand their tasks back before their leases expire.

    Return whether a job of that worker has ended in the store.
    """
    store = open_store(settings.database_url)
    try:
        with store.read() as tx:
            workers = fleet.by_process(tx, host=host(), boot_id=boot_id(), pid=pid)
            has_ended_a_job = any(fleet.has_ended_a_job(tx, worker_id) for worker_id in workers)
        for worker_id in workers:
            end_jobs_of(worker_id)  # before their tasks are free: two attempts must not work side by side
        projects = []
        for worker_id in workers:
            started = started_jobs.read(settings.home / "scratch", worker_id)
            projects += store.transact(partial(rescue_worker, worker_id=worker_id, started=started))
        record = Home(settings.home).read()
        url = settings.redis_url or (record.redis_url if record else None)
        if projects and url:
            # A living worker, or the next one, claims the tasks at once instead of at its next sweep.
            with contextlib.closing(Wakeups(client_url(url), signatures_in(store))) as wakeups:
                wakeups.wake_projects(projects)
    except CoordinationError:
        # Without this the tasks wait until their leases expire.
        return False
    else:
        return has_ended_a_job
    finally:
        store.close()


def check_redis(url: str, settings: Settings) -> None:
    """Raise RedisUnavailable when Redis does not answer."""
    with contextlib.closing(Wakeups(client_url(url), signatures_at(settings.database_url))) as wakeups:
        wakeups.ping()
