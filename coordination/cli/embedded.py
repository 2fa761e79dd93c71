"""The stack that a command starts for itself when none is configured: its store, its processes, its mishaps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordination.errors import CoordinationError

if TYPE_CHECKING:
    from coordination.settings import Settings


def prepare_store(settings: Settings) -> None:
    """The home folder and the schema, made or brought up to date. Refused in a process of a job of that store."""
    from coordination.callers import check_caller
    from coordination.flows.check_costs import complete_sums
    from coordination.local.home import Home
    from coordination.store import schema
    from coordination.store.engine import open_store

    check_caller(settings.database_url)
    if not settings.sources.get("database_url"):
        Home(settings.home).prepared()
    store = open_store(settings.database_url)
    try:
        schema.prepare(store)
        complete_sums(store)
    finally:
        store.close()


def rescue_from(settings: Settings) -> Callable[[int], bool]:
    """What to do when the worker process dies: end its jobs, and hand their tasks back before their leases run out.

    Says whether a job of that worker has ended in the store.
    """

    def rescue(pid: int) -> bool:
        from functools import partial

        from coordination import started_jobs
        from coordination.flows.rescue_worker import rescue_worker
        from coordination.local.home import Home
        from coordination.local.stack import end_jobs_of
        from coordination.machine import boot_id, host
        from coordination.services.broker_keys import signatures_in
        from coordination.settings import client_url
        from coordination.store.engine import open_store
        from coordination.store.queries import fleet
        from coordination.store.volatile.nudges import Nudges

        store = open_store(settings.database_url)
        try:
            with store.read() as tx:
                found = fleet.by_process(tx, host=host(), boot_id=boot_id(), pid=pid)
                worked = any(fleet.has_ended_a_job(tx, worker_id) for worker_id in found)
            for worker_id in found:
                end_jobs_of(worker_id)  # before their tasks are free: two attempts must not work side by side
            touched = []
            for worker_id in found:
                started = started_jobs.read(settings.home / "scratch", worker_id)
                touched += store.transact(partial(rescue_worker, worker_id=worker_id, started=started))
            record = Home(settings.home).read()
            url = settings.redis_url or (record.redis_url if record else None)
            if touched and url:
                # A worker that lives, or the next one, looks at once instead of at its next sweep.
                with contextlib.closing(Nudges(client_url(url), signatures_in(store))) as nudges:
                    nudges.nudge(touched)
        except CoordinationError:
            # The leases run out by themselves; this only saves the wait.
            return False
        else:
            return worked
        finally:
            store.close()

    return rescue


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where work will run: the Redis to nudge, and whether this process owns the stack."""

    redis_url: str | None
    owned: bool
    problem: Callable[[], CoordinationError | None]


class StackGoneError(CoordinationError):
    """The stack that a command was using belonged to another process, which has ended it."""

    code = "stack_gone"


def check_redis(url: str, settings: Settings) -> None:
    """Nothing when it answers; else RedisUnavailable, before anything is stored that nobody would come for."""
    from coordination.services.broker_keys import signatures_at
    from coordination.settings import client_url
    from coordination.store.volatile.nudges import Nudges

    nudges = Nudges(client_url(url), signatures_at(settings.database_url))
    try:
        nudges.ping()
    finally:
        nudges.close()


@contextmanager
def stack_for(settings: Settings) -> Iterator[Surroundings]:
    """A stack to run work on: the configured one, the one that runs on our home, or one started here and now."""
    from coordination.domain.served import served_names
    from coordination.errors import Conflict
    from coordination.local import running
    from coordination.local import stack as local
    from coordination.local.home import Home
    from coordination.local.interrupts import interruptible

    prepare_store(settings)
    if settings.redis_url is not None:
        check_redis(settings.redis_url, settings)
        yield Surroundings(settings.redis_url, owned=False, problem=lambda: None)
        return
    found = running.find(settings)
    if found is not None:
        home = Home(settings.home)
        if settings.workspace not in (served_names(found.serves) or [settings.workspace]):
            raise Conflict(
                f"The stack that runs in {home.folder} runs jobs of {found.serves}, and none of {settings.workspace}",
                hint="Start one with another COORD_HOME, or that one with COORD_WORKSPACES for both",
            )

        def gone() -> CoordinationError | None:
            record = home.read() if home.is_owned() else None
            same = record is not None and record.owner == found.owner
            return None if same else StackGoneError("The stack has ended with the command that had started it")

        yield Surroundings(found.redis_url, owned=False, problem=gone)
        return
    with interruptible(), local.start(settings, on_worker_death=rescue_from(settings)) as stack:
        yield Surroundings(stack.redis_url, owned=True, problem=lambda: stack.failure)
