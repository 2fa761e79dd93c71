"""``coord up | down | worker | beat | migrate``: the processes that do the work."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


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
    from coordination.cli.embedded import prepare_store, rescue_from
    from coordination.local import running
    from coordination.local import stack as local
    from coordination.settings import load_settings

    settings = load_settings(slots=slots)
    prepare_store(settings)
    if detach:
        argv = [sys.executable, "-P", "-m", "coordination.cli", "up"]
        found = running.start_in_background(settings, argv)
        print(f"The stack is up on {settings.home} (process {found.owner.pid}). Stop it with: coord down")
        return
    held = local.start(settings, on_worker_death=rescue_from(settings))
    print(f"The stack is up on {settings.home}. Ctrl-C stops it.", flush=True)
    held.hold()


def down() -> None:
    """Stop the embedded stack; running jobs get their grace and are handed back."""
    from coordination.callers import check_caller
    from coordination.cli.embedded import rescue_from
    from coordination.local import running
    from coordination.settings import load_settings

    settings = load_settings()
    check_caller(settings.database_url)
    stopped = running.down(settings.home, on_worker_death=rescue_from(settings))
    print("The stack has stopped." if stopped else f"No stack runs on {settings.home}.")


def worker(context: typer.Context) -> None:
    """Run a worker: a Celery worker with our defaults; further options are Celery's own (-c 16, -P prefork, …)."""
    from coordination.callers import check_caller
    from coordination.settings import load_settings

    check_caller(load_settings().database_url)
    _become(["-m", "workers", *context.args])


def beat(context: typer.Context) -> None:
    """Run Celery's beat with our schedule; any number of them is safe."""
    from coordination import surrounding_variables
    from coordination.callers import check_caller
    from coordination.local.home import Home
    from coordination.settings import load_settings

    settings = load_settings()
    check_caller(settings.database_url)
    home = Home(settings.home).prepared()
    schedule = ["--schedule", str(home.beat_schedule)]
    surrounding_variables.put_aside()
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
