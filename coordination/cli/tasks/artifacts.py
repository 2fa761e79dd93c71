"""``coord tasks artifacts``: lists and copies the artifacts of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordination.cli.names import InProject, OfRun, TaskName, find_task
from coordination.cli.options import AsJson, connected, print_json
from coordination.cli.tasks import tasks
from coordination.views import tasks as views
from coordination.views.fields import listing


def add_to(_app: typer.Typer) -> None:
    """Register the command, in the group of tasks."""
    tasks.group.command("artifacts")(artifacts)


def artifacts(
    name: TaskName,
    *,
    run: OfRun = None,
    project: InProject = None,
    get: Annotated[
        Path | None,
        typer.Option("--get", metavar="DIR", help="Copy them to this folder, each checked against its SHA-256."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the files that the latest attempt of a task left as outputs, with size, SHA-256 and URL."""
    from coordination.adapters.artifact_store import fetch_artifact
    from coordination.base.sizes import show_size
    from coordination.cli.tables import show

    with connected() as co:
        task = find_task(co, name, run, project)
        kept = task.artifacts()
    copied = [] if get is None else [fetch_artifact(one, get) for one in kept]
    if as_json:
        files = listing("artifacts", views.artifact, kept) | ({} if get is None else {"files": copied})
        print_json(views.about_task(task.record, attempt=task.record.attempt, **files))
    elif get is not None and copied:
        print("\n".join(map(str, copied)))
    else:
        show(
            ["path", "size", "sha256", "url"],
            [(one.path, show_size(one.size), one.sha256, one.url) for one in kept],
            empty=f"{task.key} has no artifacts.",
        )
