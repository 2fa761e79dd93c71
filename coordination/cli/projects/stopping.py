"""``coord stop | start``: stop and start all work of the workspace or of a project."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from coordination.base.durations import parse_duration
from coordination.base.errors import NOT_COMPLETED
from coordination.base.money import show_usd
from coordination.base.wording import plural
from coordination.cli.options import AsJson, OfProject, open_connection, print_json
from coordination.cli.tables import show
from coordination.views import projects as views

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.domain.projects.stops import Stop, StopResult

_PATIENCE = "60s"


def stop(
    project: OfProject = None,
    *,
    now: Annotated[bool, Option("--now", help="Kill running jobs without a grace period.")] = False,
    timeout: Annotated[str, Option(metavar="TIME", help="How long to wait for running jobs.")] = _PATIENCE,
    reason: Annotated[str | None, Option(metavar="TEXT", help="A reason, shown by coord status.")] = None,
    as_json: AsJson = False,
) -> None:
    """Stop all work: end running jobs and start nothing more. Resume it with `coord start`.

    Running jobs are handed back. Lists each in-flight attempt with its end. Exit code: 0 nothing is running, 1 some
    attempt has not ended (repeat the command to check again).
    """
    patience = parse_duration(timeout)
    with open_connection() as co:
        if project is not None:
            co.project(project)
        try:
            stopped = co.stop(project, reason=reason, now=now, timeout=patience)
        except KeyboardInterrupt:
            again = "coord stop" if project is None else f"coord stop --project {shlex.quote(project)}"
            print(f"\ncoord: the stop stays in force. Check again with: {again}", file=sys.stderr)
            raise
    if as_json:
        print_json(views.stop_result(stopped))
    else:
        _show(stopped)
    if not stopped.silent:
        raise typer.Exit(NOT_COMPLETED)


def start(project: OfProject = None, *, as_json: AsJson = False) -> None:
    """Resume work after `coord stop`. Jobs that were handed back start again."""
    with open_connection() as co:
        started = co.start(project)
    if as_json:
        print_json(views.start_result(started))
        return
    scope = "The workspace" if project is None else f"The project {project}"
    if started.ended is None:
        print(f"{scope} was not stopped.")
    else:
        queued = f"; {plural(started.queued, 'task is', 'tasks are')} queued again" if started.queued else ""
        print(f"{scope} is started again{queued}.")
    show_stops(started.still)


def warn_if_stopped(co: Coordination, project_id: str) -> None:
    """Print a warning to stderr if the project is stopped."""
    if (current := co.stopped(project_id)) is not None:
        print(f"coord: {current.sentence()}: nothing starts. Start it with: {current.command}", file=sys.stderr)


def show_stops(stops: Sequence[Stop]) -> None:
    """Print a line for each stop."""
    for stop in stops:
        print(f"{stop.sentence()}. Start it with: {stop.command}")


def _show(stopped: StopResult) -> None:
    already = "" if stopped.new else " already"
    print(f"{stopped.stop.sentence().replace(' is stopped', f' is stopped{already}')}.")
    if stopped.attempts:
        show(
            ["project", "task", "attempt", "worker", "host", "since", "last progress", "cost", "what is known"],
            [
                (
                    attempt.project,
                    attempt.task,
                    attempt.attempt,
                    attempt.worker or "?",
                    attempt.host or "?",
                    attempt.started_at,
                    attempt.progress_at,
                    show_usd(attempt.cost_usd)
                    + (f" and {attempt.unpriced_calls} unpriced" if attempt.unpriced_calls else ""),
                    attempt.words(),
                )
                for attempt in stopped.attempts
            ],
        )
    running = [attempt for attempt in stopped.attempts if not attempt.ended]
    if stopped.silent:
        counted = plural(len(stopped.attempts), "attempt was", "attempts were")
        print(f"Nothing is running; {counted} in flight. Continue with: {stopped.stop.command}")
        return
    again = stopped.stop.again
    if running:
        counted = plural(len(running), "attempt has", "attempts have")
        print(f"{counted} not ended; nothing else starts. Check again: {again}")
    if stopped.claiming:
        print(
            f"{plural(stopped.claiming, 'transaction')} from before the stop did not end, and may start work: {again}"
        )
