"""The stack that commands use when none is configured: its store, its processes, its mishaps."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordination.base.errors import CoordinationError

if TYPE_CHECKING:
    from coordination.settings import Settings
    from coordination.stack.joining import JoinedStack


def prepare_store(settings: Settings) -> None:
    """The home folder and the schema, made or brought up to date. Refused in a process of a job of that store."""
    from coordination.callers import check_caller
    from coordination.flows.money.check_costs import complete_sums
    from coordination.stack.home import Home
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

        from coordination.base import started_jobs
        from coordination.base.host import boot_id, host
        from coordination.flows.fleet.rescue_worker import rescue_worker
        from coordination.services.fleet.broker_keys import signatures_in
        from coordination.settings import client_url
        from coordination.stack.home import Home
        from coordination.stack.stack import end_jobs_of
        from coordination.store.engine import open_store
        from coordination.store.queries.fleet import workers
        from coordination.store.redis.wakeups import Wakeups

        store = open_store(settings.database_url)
        try:
            with store.read() as tx:
                found = workers.by_process(tx, host=host(), boot_id=boot_id(), pid=pid)
                worked = any(workers.has_ended_a_job(tx, worker_id) for worker_id in found)
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
                with contextlib.closing(Wakeups(client_url(url), signatures_in(store))) as nudges:
                    nudges.nudge(touched)
        except CoordinationError:
            # The leases run out by themselves; this only saves the wait.
            return False
        else:
            return worked
        finally:
            store.close()

    return rescue


@dataclass(slots=True)
class Surroundings:
    """Where work will run: the Redis to nudge, and what is wrong with the stack, if anything.

    ``stays`` is known at the end: what keeps the stack up after this command, in words; None while it uses it.
    """

    redis_url: str | None
    problem: Callable[[], CoordinationError | None]
    joined: JoinedStack | None = None
    stays: list[str] | None = None

    def note_run(self, run_id: str) -> None:
        """Let others know which run this command waits for."""
        if self.joined is not None:
            self.joined.membership.note_run(run_id)


def check_redis(url: str, settings: Settings) -> None:
    """Nothing when it answers; else RedisUnavailable, before anything is stored that nobody would come for."""
    from coordination.services.fleet.broker_keys import signatures_at
    from coordination.settings import client_url
    from coordination.store.redis.wakeups import Wakeups

    nudges = Wakeups(client_url(url), signatures_at(settings.database_url))
    try:
        nudges.ping()
    finally:
        nudges.close()


def join_stack(settings: Settings, command: str) -> JoinedStack:
    """Use the stack on our home: the one that runs, or one that is started here and now. *command* names us."""
    from coordination.base.errors import Conflict
    from coordination.domain.fleet.served_workspaces import served_names
    from coordination.stack.joining import join

    argv = [sys.executable, "-P", "-m", "coordination.cli.stack_process"]
    joined = join(settings, argv, command, prepare=lambda: prepare_store(settings))
    serves = joined.found.serves
    if settings.workspace not in (served_names(serves) or [settings.workspace]):
        joined.leave()
        raise Conflict(
            f"The stack that runs in {settings.home} runs jobs of {serves}, and none of {settings.workspace}",
            hint="Start one with another COORD_HOME, or that one with COORD_WORKSPACES for both",
        )
    return joined


@contextmanager
def stack_for(settings: Settings, command: str) -> Iterator[Surroundings]:
    """A stack to run work on: the configured one, or the one on our home; *command* names us to its other users.

    At the end, when nobody else uses the one on our home, it stops.
    """
    from coordination.stack.interrupts import interruptible

    if settings.redis_url is not None:
        prepare_store(settings)
        check_redis(settings.redis_url, settings)
        around = Surroundings(settings.redis_url, problem=lambda: None)
        yield around
        return
    with interruptible():
        joined = join_stack(settings, command)
        around = Surroundings(joined.found.redis_url, problem=joined.problem, joined=joined)
        try:
            yield around
        except KeyboardInterrupt:
            if joined.is_last():
                with contextlib.suppress(OSError):  # the terminal may be gone
                    print("\ncoord: handing its jobs back; Ctrl-C again ends them at once", file=sys.stderr, flush=True)
            raise
        finally:
            around.stays = joined.leave()
