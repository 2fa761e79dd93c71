"""``coord up | down | worker | beat | migrate``: start and stop processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from coordination.base import inherited_variables
from coordination.base.durations import show_duration
from coordination.base.errors import INTERRUPTED, CoordinationError, StackGoneError, StackStoppedError
from coordination.base.host import boot_id, host
from coordination.base.wording import plural
from coordination.settings import Settings, load_settings, masked

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from coordination.stack.home import Home, RunningStack
    from coordination.stack.joining import JoinedStack

_UP = "coord up"
_LOOK_AGAIN = 0.2
_MOST_NAMED = 8


def up(
    detach: Annotated[bool, Option("--detach", "-d", help="Return when the stack is running.")] = False,
    slots: Annotated[
        int | None, Option(help="The number of parallel jobs (default: COORD_SLOTS, or 8).", min=1)
    ] = None,
) -> None:
    """Start the embedded stack: Redis, a worker and beat. Keeps it running until Ctrl-C or `coord down`."""
    from coordination.cli.stack.embedded import join_stack
    from coordination.stack.interrupts import interruptible

    settings = load_settings(slots=slots)
    while True:
        with interruptible():
            try:
                joined = join_stack(settings, _UP)
            except KeyboardInterrupt:
                raise typer.Exit(INTERRUPTED) from None
            try:
                _keep_up(joined, settings, detach=detach, slots=slots)
            except KeyboardInterrupt:
                if joined.is_last():
                    grace = show_duration(timedelta(seconds=joined.record.grace))
                    print(f"\nStopping; running jobs have {grace} to end. Ctrl-C again ends them at once.", flush=True)
                break
            except StackStoppedError:
                break
            except StackGoneError:
                print("coord: the process of the stack was killed; starting it again", file=sys.stderr)
                continue
            finally:
                stays = joined.leave()
        break
    if not detach and stays:
        print(f"The stack stays up for {', '.join(stays)}. Stop it with: coord down")


def _keep_up(joined: JoinedStack, settings: Settings, *, detach: bool, slots: int | None) -> None:
    """Print that the stack is running, and wait until it ends or until Ctrl-C."""
    pid = joined.record.owner.pid
    if not joined.started:
        _join_others(joined, slots)
    if detach:
        joined.keep()
        print(f"The stack is up on {settings.home} (process {pid}). Stop it with: coord down")
        return
    print(f"The stack is up on {settings.home}. Ctrl-C stops it.", flush=True)
    while (problem := joined.problem()) is None:
        time.sleep(_LOOK_AGAIN)
    raise problem


def _join_others(joined: JoinedStack, slots: int | None) -> None:
    """Refuse a second ``coord up``, or other settings for a running stack; else print which process started it."""
    if joined.is_kept() or any(user.command == _UP for user in joined.membership.others()) or slots is not None:
        raise joined.running_error()
    print(f"Another command has started the stack (process {joined.record.owner.pid}); this one keeps it up.")


def down(
    now: Annotated[bool, Option("--now", help="Hand running jobs back at once, without a grace period.")] = False,
) -> None:
    """Stop the embedded stack. Running jobs get a grace period and are handed back.

    Shows the jobs it waits for. Commands that follow a run on this stack end, and print how to continue the run.
    """
    from coordination.callers import check_caller
    from coordination.cli.stack.embedded import rescue_from
    from coordination.stack import running
    from coordination.stack.home import Home

    settings = load_settings()
    check_caller(settings.database_url)
    messages = StopMessages(settings, now=now)
    messages.print_users(Home(settings.home))
    try:
        stopped = running.down(
            settings.home, now=now, on_worker_death=rescue_from(settings), on_wait=messages.print_jobs
        )
    except KeyboardInterrupt:
        print("\ncoord: the stack is still stopping. To end its jobs now: coord down --now", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print("The stack has stopped." if stopped else f"No stack runs on {settings.home}.")


def worker(context: typer.Context) -> None:
    """Run a worker: a Celery worker with our defaults. Other options are those of Celery (-c 16, -P prefork, …)."""
    from coordination.callers import check_caller

    check_caller(load_settings().database_url)
    _become(["-m", "workers", *context.args])


def beat(context: typer.Context) -> None:
    """Run Celery's beat with our schedule. Any number of them may run."""
    from coordination.callers import check_caller
    from coordination.stack.home import Home

    settings = load_settings()
    check_caller(settings.database_url)
    home = Home(settings.home).prepare()
    schedule = ["--schedule", str(home.beat_schedule)]
    inherited_variables.remove_from()
    _become(["-m", "celery", "-A", "workers.app", "beat", *schedule, *context.args])


def _become(arguments: list[str]) -> None:
    """Replace this process, so that signals reach the worker directly."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - our own interpreter, no shell


def migrate() -> None:
    """Create or update the database's tables. Safe to run any number of times, from any number of machines."""
    from coordination.api.stack import prepare_store
    from coordination.store import schema
    from coordination.store.engine import open_store

    settings = load_settings()
    prepare_store(settings)
    with closing(open_store(settings.database_url)) as store:
        print(f"{masked(settings.database_url)} has schema {schema.current(store)}.")


class StopMessages:
    """Prints the users and the jobs of a stack, each once."""

    def __init__(self, settings: Settings, *, now: bool) -> None:
        self._settings = settings
        self._now = now
        self._printed: set[tuple[str, int]] = set()

    def print_users(self, home: Home) -> None:
        """Print the commands that use this stack, and how to continue their runs."""
        from coordination.stack.users import StackUsers

        if not home.is_owned():
            return
        try:
            users = StackUsers(home).present()
        except CoordinationError:
            return  # the stack is stopped all the same
        for user in users:
            hint = f"; continue its run later with: coord resume {user.run}" if user.run else ""
            print(f"This ends {user.sentence()}{hint}", flush=True)

    def print_jobs(self, record: RunningStack) -> None:
        """Print the running jobs that were not printed yet."""
        jobs = self._jobs(record)
        new = [job for job in jobs if (job["task_id"], job["number"]) not in self._printed]
        if not new:
            return
        self._printed |= {(job["task_id"], job["number"]) for job in new}
        grace = (
            "no grace period" if self._now else f"a grace period of {show_duration(timedelta(seconds=record.grace))}"
        )
        print(f"Waiting for {plural(len(jobs), 'job')}, with {grace}; jobs that still run then are handed back:")
        for job in new[:_MOST_NAMED]:
            since = show_duration(job["now"] - job["started_at"])
            print(f"  {job['key']} of run {job['run_id']} ({job['project']}), running for {since}")
        if len(new) > _MOST_NAMED:
            print(f"  … and {len(new) - _MOST_NAMED} more")
        if not self._now:
            print("To stop without waiting: coord down --now", flush=True)

    def _jobs(self, record: RunningStack) -> Sequence[RowMapping]:
        from coordination.stack.stack import WORKER
        from coordination.store.engine import open_store
        from coordination.store.queries.fleet import workers

        worker = record.services.get(WORKER)
        if worker is None:
            return []
        with closing(open_store(self._settings.database_url)) as store:
            try:
                with store.read() as tx:
                    ids = workers.by_process(tx, host=host(), boot_id=boot_id(), pid=worker.pid)
                    return workers.list_running_on(tx, ids)
            except CoordinationError:
                return []  # the stack is stopped without the database, too
