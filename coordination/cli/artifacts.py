"""``coord tasks artifacts``: the files that a task left and that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordination.cli import tasks
from coordination.cli.names import InProject, OfRun, TaskName, found_task
from coordination.cli.options import AsJson, connected, print_json


def add_to(_app: typer.Typer) -> None:
    """Register the command, in the group of tasks."""
    tasks.group.command("artifacts")(artifacts)


def artifacts(
    name: TaskName,
    *,
    run: OfRun = None,
    project: InProject = None,
    get: Annotated[
        Path | None, typer.Option("--get", metavar="DIR", help="Copy them there, each checked against its SHA-256.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The files that the latest attempt of a task left (its outputs), with size, SHA-256 and where they are kept."""
    from coordination.adapters.artifact_store import fetch
    from coordination.base.sizes import show_size
    from coordination.cli.tables import show

    with connected() as co:
        task = found_task(co, name, run, project)
        made = task.artifacts()
    copied = [] if get is None else [fetch(one, get) for one in made]
    if as_json:
        files = {} if get is None else {"files": copied}
        print_json({"task": task.id, "key": task.key, "attempt": task.record.attempt, "artifacts": made, **files})
    elif get is not None and copied:
        print("\n".join(map(str, copied)))
    else:
        show(
            ["path", "size", "sha256", "url"],
            [(one.path, show_size(one.size), one.sha256, one.url) for one in made],
            empty=f"{task.key} has none.",
        )
