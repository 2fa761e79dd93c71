"""``coord runs …``: list and show runs, cancel and retry them, follow their events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from coordination.base.json_values import to_json_types
from coordination.base.money import show_usd
from coordination.base.wording import plural
from coordination.cli.forecast import simulate
from coordination.cli.names import find_run, place
from coordination.cli.options import AsJson, Limit, OfProject, ProjectName, open_connection, print_json
from coordination.cli.tables import show as table
from coordination.cli.tables import shown
from coordination.cli.terminal import json_text
from coordination.views import tasks as views
from coordination.views.fields import listing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordination.domain.tasks.events import Event

RunName = Annotated[str, Argument(metavar="RUN", help="The run: its id, a part of it, or its name.")]
Follow = Annotated[bool, Option("--follow", "-f", help="Follow new events until the run ends.")]


def list_(*, project: OfProject = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List the newest runs."""
    with open_connection() as co:
        records = co.runs(project=project, limit=limit)
    if as_json:
        print_json(listing("runs", views.run, records))
        return
    table(
        ["id", "project", "name", "state", "tasks", "cost", "created"],
        [
            (
                run.id,
                run.project,
                run.name,
                run.state,
                ", ".join(f"{number} {state}" for state, number in run.counts.items()),
                show_usd(run.cost_usd) + (f" + {run.unpriced_calls} unknown" if run.unpriced_calls else ""),
                run.created_at,
            )
            for run in records
        ],
        empty="No runs yet. Start one with: coord run PLAN",
    )


def show(name: RunName, *, project: ProjectName = None, as_json: AsJson = False) -> None:
    """Show a run with its tasks, and why some are not running."""
    from coordination.cli.tasks import summary

    with open_connection() as co:
        run = find_run(co, name, project)
        if as_json:
            print_json(summary.details(run))
            return
        summary.show(run, ended=False)
        simulate.beside(run.record)
        summary.explain_open(run)
        summary.show_next(run)


def cancel(
    name: RunName,
    *,
    project: ProjectName = None,
    why: Annotated[str, Option(help="The reason, kept in the events of the tasks.")] = "canceled by its owner",
    as_json: AsJson = False,
) -> None:
    """Cancel every open task of a run. Running jobs are stopped at once."""
    with open_connection() as co:
        run = find_run(co, name, project)
        number = run.cancel(why)
        record, where = run.record, place(run)
    if as_json:
        print_json(views.about_run(record, canceled=number))
    else:
        answer = f"Canceled {plural(number, 'task')} of {run.id}" if number else f"No task of {run.id} was open"
        print(f"{answer} ({where}).")


def retry(name: RunName, *, project: ProjectName = None, as_json: AsJson = False) -> None:
    """Retry the failed and canceled tasks of a run on the running workers."""
    with open_connection() as co:
        run = find_run(co, name, project)
        number = run.retry()
        record, where = run.record, place(run)
    if as_json:
        print_json(views.about_run(record, retried=number))
    else:
        retried = f"Retrying {plural(number, 'task')} of {run.id}" if number else f"No task of {run.id} can be retried"
        print(f"{retried} ({where}).")


def events(name: RunName, *, project: ProjectName = None, follow: Follow = False, as_json: AsJson = False) -> None:
    """Print the events of a run. With --follow and --json: one JSON document per line."""
    with open_connection() as co:
        show_events(find_run(co, name, project).events(follow=follow), follow=follow, as_json=as_json)


def show_events(stream: Iterable[Event], *, follow: bool, as_json: bool) -> None:
    """Print events as they come, or as one document."""
    if as_json and not follow:
        print_json(listing("events", views.event, stream))
        return
    for event in stream:
        if as_json:
            print(json_text(to_json_types(views.event(event))), flush=True)
            continue
        payload = ", ".join(f"{key}={shown(value)[:200]}" for key, value in event.payload.items())
        attempt = f"#{event.attempt}" if event.attempt else ""
        parts = [f"{event.at.astimezone():%H:%M:%S}", f"{event.key or 'run'}{attempt}", str(event.type), payload]
        print("  ".join(parts).rstrip(), flush=True)
