"""``coord up | down | worker | beat | migrate``: the processes that do the work."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from coordination.base.durations import show_duration
from coordination.base.errors import INTERRUPTED

if TYPE_CHECKING:
    from coordination.settings import Settings
    from coordination.stack.joining import JoinedStack

_UP = "coord up"
_LOOK_AGAIN = 0.2


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("worker", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(worker)
    app.command("beat", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(beat)
    app.command("migrate")(migrate)


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once it is up.")] = False,
    slots: Annotated[int | None, typer.Option(help="Jobs at once (default: COORD_SLOTS, or 8).", min=1)] = None,
) -> None:
    """Start the embedded stack (Redis, a worker, beat) and keep it up until Ctrl-C or `coord down`."""
    from coordination.base.errors import StackGoneError, StackStoppedError
    from coordination.cli.embedded import join_stack
    from coordination.settings import load_settings
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
                    grace = show_duration(timedelta(seconds=joined.found.grace))
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
    """Say that it is up, and wait until it is not, or until Ctrl-C."""
    pid = joined.found.owner.pid
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
    """Refuse a second ``coord up``, or other settings for a stack that runs; else say whose stack it is."""
    if joined.is_kept() or any(user.command == _UP for user in joined.membership.others()) or slots is not None:
        raise joined.taken()
    print(f"Another command has started a stack (process {joined.found.owner.pid}); this one keeps it up.")


def down(
    now: Annotated[bool, typer.Option("--now", help="Give running jobs no grace: hand them back at once.")] = False,
) -> None:
    """Stop the embedded stack; running jobs get their grace and are handed back.

    Shows what it waits for. Commands that wait for a run on this stack end, and say how to go on.
    """
    from coordination.callers import check_caller
    from coordination.cli.embedded import rescue_from
    from coordination.cli.stopping_stack import Waiting
    from coordination.settings import load_settings
    from coordination.stack import running
    from coordination.stack.home import Home

    settings = load_settings()
    check_caller(settings.database_url)
    waiting = Waiting(settings, now=now)
    waiting.tell_users(Home(settings.home))
    try:
        stopped = running.down(settings.home, now=now, on_worker_death=rescue_from(settings), on_wait=waiting.tell_jobs)
    except KeyboardInterrupt:
        print("\ncoord: the stack goes on stopping. To end its jobs now: coord down --now", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print("The stack has stopped." if stopped else f"No stack runs on {settings.home}.")


def worker(context: typer.Context) -> None:
    """Run a worker: a Celery worker with our defaults; further options are Celery's own (-c 16, -P prefork, …)."""
    from coordination.callers import check_caller
    from coordination.settings import load_settings

    check_caller(load_settings().database_url)
    _become(["-m", "workers", *context.args])


def beat(context: typer.Context) -> None:
    """Run Celery's beat with our schedule; any number of them is safe."""
    from coordination.base import inherited_variables
    from coordination.callers import check_caller
    from coordination.settings import load_settings
    from coordination.stack.home import Home

    settings = load_settings()
    check_caller(settings.database_url)
    home = Home(settings.home).prepared()
    schedule = ["--schedule", str(home.beat_schedule)]
    inherited_variables.put_aside()
    _become(["-m", "celery", "-A", "workers.app", "beat", *schedule, *context.args])


def _become(arguments: list[str]) -> None:
    """Replace this process, so that signals reach the worker itself."""
    import os

    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - our own interpreter, no shell


def migrate() -> None:
    """Create or update the database's tables. Safe to run any number of times, from any number of machines."""
    from coordination.cli.embedded import prepare_store
    from coordination.settings import load_settings, masked
    from coordination.store import schema
    from coordination.store.engine import open_store

    settings = load_settings()
    prepare_store(settings)
    store = open_store(settings.database_url)
    try:
        print(f"{masked(settings.database_url)} has schema {schema.current(store)}.")
    finally:
        store.close()
