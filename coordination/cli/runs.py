"""``coord runs …``: what was submitted, how it goes, and its story as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.base.wording import plural
from coordination.cli.names import InProject, found_run, place
from coordination.cli.options import AsJson, Limit, connected, print_json
from coordination.cli.terminal import json_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordination.domain.tasks.events import Event

RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run: its id, the start or end of it, or its name.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as it happens, until the run has ended.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Runs: plans that were submitted.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("cancel")(cancel)
    group.command("retry")(retry)
    group.command("events")(events)
    app.add_typer(group, name="runs")


def list_(
    *,
    project: Annotated[
        str | None, typer.Option("--project", "-p", metavar="NAME", help="Only of this project.")
    ] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """The newest runs."""
    from coordination.base.money import show_usd
    from coordination.cli.tables import show as table

    with connected() as co:
        found = co.runs(project=project, limit=limit)
    if as_json:
        print_json({"runs": [_plain(run) for run in found]})
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
            for run in found
        ],
        empty="No runs yet. Start one with: coord run PLAN",
    )


def show(name: RunName, *, project: InProject = None, as_json: AsJson = False) -> None:
    """One run: its tasks, what failed, what it was expected to take, and what holds the rest."""
    from coordination.cli import simulate, summary

    with connected() as co:
        run = found_run(co, name, project)
        if as_json:
            print_json(summary.as_json(run))
            return
        summary.show(run, ended=False)
        simulate.beside(run.record)
        summary.explain_open(run)
        summary.show_next(run)


def cancel(
    name: RunName,
    *,
    project: InProject = None,
    why: Annotated[str, typer.Option("--why", help="What the tasks' stories shall say.")] = "canceled by its owner",
    as_json: AsJson = False,
) -> None:
    """Cancel every open task of a run; running jobs are told at once."""
    with connected() as co:
        run = found_run(co, name, project)
        number = run.cancel(why)
        where = place(co, run.record.project_id, run.id)
    if as_json:
        print_json({"run": run.id, "canceled": number})
    else:
        done = f"{plural(number, 'task')} of {run.id} canceled" if number else f"No task of {run.id} was open"
        print(f"{done} ({where}).")


def retry(name: RunName, *, project: InProject = None, as_json: AsJson = False) -> None:
    """Retry what failed or was canceled in a run; the workers of the running stack do it."""
    with connected() as co:
        run = found_run(co, name, project)
        number = run.retry()
        where = place(co, run.record.project_id, run.id)
    if as_json:
        print_json({"run": run.id, "retried": number})
    else:
        again = plural(number, f"task of {run.id} is", f"tasks of {run.id} are")
        print(f"{again} tried again ({where})." if number else f"Nothing of {run.id} is to be retried ({where}).")


def events(name: RunName, *, project: InProject = None, follow: Follow = False, as_json: AsJson = False) -> None:
    """The story of a run. With --follow and --json together: one JSON document a line, as things happen."""
    with connected() as co:
        show_events(found_run(co, name, project).events(follow=follow), follow=follow, as_json=as_json)


def show_events(found: Iterable[Event], *, follow: bool, as_json: bool) -> None:
    """Print events as they come, or as one document."""

    from coordination.base.json_values import plain
    from coordination.cli.tables import shown

    if as_json and not follow:
        print_json({"events": list(found)})
        return
    for event in found:
        if as_json:
            print(json_text(plain(event)), flush=True)
            continue
        payload = ", ".join(f"{key}={shown(value)[:200]}" for key, value in event.payload.items())
        attempt = f"#{event.attempt}" if event.attempt else ""
        parts = [f"{event.at.astimezone():%H:%M:%S}", f"{event.key or 'run'}{attempt}", str(event.type), payload]
        print("  ".join(parts).rstrip(), flush=True)


def _plain(run: Any) -> dict[str, Any]:
    from dataclasses import asdict

    found = asdict(run)
    del found["workspace_id"]
    return {**found, "total": run.total}
