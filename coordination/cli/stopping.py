"""``coord stop | start``: end everything of the workspace or of a project, and let it go on."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.base.errors import NOT_COMPLETED
from coordination.base.wording import plural
from coordination.cli.options import AsJson, OfProject, connected, print_json

if TYPE_CHECKING:
    from coordination.client import Coordination
    from coordination.domain.projects.stops import Stop, StoppedAttempt, StopResult

_PATIENCE = "60s"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("stop")(stop)
    app.command("start")(start)


def stop(
    project: OfProject = None,
    *,
    now: Annotated[bool, typer.Option("--now", help="Kill what runs, without a grace.")] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="Wait at most that long for what runs.")
    ] = _PATIENCE,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why, for whoever asks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Stop everything: nothing starts any more, what runs is ended and handed back. Go on with `coord start`.

    Lists each attempt that was in flight, with what is known of it. Exit code: 0 nothing runs any more, 1 something
    did not answer (look again with the same command).
    """
    from coordination.base.durations import parse_duration

    patience = parse_duration(timeout)
    with connected() as co:
        if project is not None:
            co.project(project)
        try:
            found = co.stop(project, reason=reason, now=now, timeout=patience)
        except KeyboardInterrupt:
            again = "coord stop" if project is None else f"coord stop --project {shlex.quote(project)}"
            print(f"\ncoord: what is stopped stays stopped. Look again with: {again}", file=sys.stderr)
            raise
    if as_json:
        print_json(_document(found))
    else:
        _show(found)
    if not found.silent:
        raise typer.Exit(NOT_COMPLETED)


def start(project: OfProject = None, *, as_json: AsJson = False) -> None:
    """Let what `coord stop` has stopped go on: what was handed back begins again."""
    with connected() as co:
        found = co.start(project)
    if as_json:
        still = [_of(one) for one in found.still]
        print_json({"ended": None if found.ended is None else _of(found.ended), "queued": found.queued, "still": still})
        return
    what = "The workspace" if project is None else f"The project {project}"
    if found.ended is None:
        print(f"{what} was not stopped.")
    else:
        queued = f"; {plural(found.queued, 'task is', 'tasks are')} queued again" if found.queued else ""
        print(f"{what} goes on{queued}.")
    for one in found.still:
        print(f"{one.sentence()}. Let it go on with: {one.command}")


def say_if_stopped(co: Coordination, project_id: str) -> None:
    """One sentence on stderr, if a stop holds the project: nothing of it starts."""
    from coordination.store.queries.projects import stops

    with co.runtime.store.read() as tx:
        found = stops.current(tx, co.runtime.workspace_id, project_id)
    if found is not None:
        print(f"coord: {found.sentence()}: nothing starts. Go on with: {found.command}", file=sys.stderr)


def show_stops(found: list[Stop]) -> None:
    """A line for each, for people."""
    for one in found:
        print(f"{one.sentence()}. Let it go on with: {one.command}")


def _show(found: StopResult) -> None:
    from coordination.base.money import show_usd
    from coordination.cli.tables import show

    already = "" if found.new else " already"
    print(f"{found.stop.sentence().replace(' is stopped', f' is stopped{already}')}.")
    if found.attempts:
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
                for one in found.attempts
            ],
        )
    unanswered = [one for one in found.attempts if not one.ended]
    if found.silent:
        counted = plural(len(found.attempts), "attempt was", "attempts were")
        print(f"Nothing runs any more; {counted} in flight. Go on with: {found.stop.command}")
        return
    again = found.stop.again
    if unanswered:
        counted = plural(len(unanswered), "attempt has", "attempts have")
        print(f"{counted} not ended; nothing else starts. Look again: {again}")
    if found.claiming:
        print(f"{plural(found.claiming, 'transaction')} of before the stop did not end, and may start work: {again}")


def _document(found: StopResult) -> dict[str, Any]:
    return {
        "stop": _of(found.stop),
        "new": found.new,
        "silent": found.silent,
        "claiming": found.claiming,
        "attempts": [_attempt(one) for one in found.attempts],
    }


def _of(stop: Stop) -> dict[str, Any]:
    return {
        "id": stop.id,
        "project": stop.project,
        "since": stop.since,
        "by": stop.actor,
        "reason": stop.reason,
        "now": stop.at_once,
    }


def _attempt(one: StoppedAttempt) -> dict[str, Any]:
    return {
        "project": one.project,
        "run": one.run_id,
        "task": one.task,
        "task_id": one.task_id,
        "attempt": one.attempt,
        "worker": one.worker,
        "host": one.host,
        "started_at": one.started_at,
        "progress_at": one.progress_at,
        "worker_heard_at": one.heard_at,
        "finished_at": one.finished_at,
        "outcome": one.outcome,
        "outcome_unknown": one.unknown,
        "error": one.error,
        "cost_usd": one.cost_usd,
        "unpriced_calls": one.unpriced_calls,
        "known": one.words(),
    }
