"""``coord stop | start``: stop and start all work of the workspace or of a project."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from coordination.base.errors import NOT_COMPLETED
from coordination.base.wording import plural
from coordination.cli.options import AsJson, OfProject, connected, print_json
from coordination.views import projects as views

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.domain.projects.stops import Stop, StopResult

_PATIENCE = "60s"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("stop")(stop)
    app.command("start")(start)


def stop(
    project: OfProject = None,
    *,
    now: Annotated[bool, typer.Option("--now", help="Kill running jobs without a grace period.")] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="How long to wait for running jobs.")
    ] = _PATIENCE,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="A reason, shown by coord status.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stop all work: nothing starts, running jobs are ended and handed back. Continue with `coord start`.

    Lists each attempt that was in flight, with its end. Exit code: 0 nothing is running, 1 some attempt has not ended
    (check again with the same command).
    """
    from coordination.base.durations import parse_duration

    patience = parse_duration(timeout)
    with connected() as co:
        if project is not None:
            co.project(project)
        try:
            stopped = co.stop(project, reason=reason, now=now, timeout=patience)
        except KeyboardInterrupt:
            again = "coord stop" if project is None else f"coord stop --project {shlex.quote(project)}"
            print(f"\ncoord: the stop stays in force. Check again with: {again}", file=sys.stderr)
            raise
    if as_json:
        print_json(views.stopped(stopped))
    else:
        _show(stopped)
    if not stopped.silent:
        raise typer.Exit(NOT_COMPLETED)


def start(project: OfProject = None, *, as_json: AsJson = False) -> None:
    """End a stop: jobs that were handed back start again."""
    with connected() as co:
        started = co.start(project)
    if as_json:
        print_json(views.started(started))
        return
    what = "The workspace" if project is None else f"The project {project}"
    if started.ended is None:
        print(f"{what} was not stopped.")
    else:
        queued = f"; {plural(started.queued, 'task is', 'tasks are')} queued again" if started.queued else ""
        print(f"{what} is started again{queued}.")
    for one in started.still:
        print(f"{one.sentence()}. Start it with: {one.command}")


def warn_if_stopped(co: Coordination, project_id: str) -> None:
    """Print a warning to stderr if the project is stopped."""
    from coordination.store.queries.projects import stops

    with co.runtime.store.read() as tx:
        current = stops.find_covering(tx, co.runtime.workspace_id, project_id)
    if current is not None:
        print(f"coord: {current.sentence()}: nothing starts. Start it with: {current.command}", file=sys.stderr)


def show_stops(records: list[Stop]) -> None:
    """Print a line for each stop."""
    for one in records:
        print(f"{one.sentence()}. Start it with: {one.command}")


def _show(stopped: StopResult) -> None:
    from coordination.base.money import show_usd
    from coordination.cli.tables import show

    already = "" if stopped.new else " already"
    print(f"{stopped.stop.sentence().replace(' is stopped', f' is stopped{already}')}.")
    if stopped.attempts:
        show(
            ["project", "task", "attempt", "worker", "host", "since", "last progress", "cost", "what is known"],
            [
                (
                    one.project,
                    one.task,
                    one.attempt,
                    one.worker or "?",
                    one.host or "?",
                    one.started_at,
                    one.progress_at,
                    show_usd(one.cost_usd) + (f" and {one.unpriced_calls} unpriced" if one.unpriced_calls else ""),
                    one.words(),
                )
                for one in stopped.attempts
            ],
        )
    unanswered = [one for one in stopped.attempts if not one.ended]
    if stopped.silent:
        counted = plural(len(stopped.attempts), "attempt was", "attempts were")
        print(f"Nothing is running; {counted} in flight. Continue with: {stopped.stop.command}")
        return
    again = stopped.stop.again
    if unanswered:
        counted = plural(len(unanswered), "attempt has", "attempts have")
        print(f"{counted} not ended; nothing else starts. Check again: {again}")
    if stopped.claiming:
        print(
            f"{plural(stopped.claiming, 'transaction')} from before the stop did not end, and may start work: {again}"
        )
