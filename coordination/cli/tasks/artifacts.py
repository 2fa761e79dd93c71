"""``coord tasks artifacts``: lists and copies the artifacts of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from coordination.base.sizes import show_size
from coordination.cli.names import OfRun, TaskName, find_task
from coordination.cli.options import AsJson, ProjectName, open_connection, print_json
from coordination.cli.tables import show
from coordination.views import tasks as views
from coordination.views.fields import listing


def artifacts(
    name: TaskName,
    *,
    run: OfRun = None,
    project: ProjectName = None,
    get: Annotated[
        Path | None, Option(metavar="DIR", help="Copy them to this folder, each checked against its SHA-256.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the output files of a task's latest attempt, with size, SHA-256 and URL."""
    from coordination.adapters.artifact_store import fetch_artifact

    with open_connection() as co:
        task = find_task(co, name, run, project)
        records = task.artifacts()
    copied = [] if get is None else [fetch_artifact(artifact, get) for artifact in records]
    if as_json:
        files = listing("artifacts", views.artifact, records) | ({} if get is None else {"files": copied})
        print_json(views.about_task(task.record, attempt=task.record.attempt, **files))
    elif get is not None and copied:
        print("\n".join(map(str, copied)))
    else:
        show(
            ["path", "size", "sha256", "url"],
            [(file.path, show_size(file.size), file.sha256, file.url) for file in records],
            empty=f"{task.key} has no artifacts.",
        )
