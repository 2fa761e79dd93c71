"""How a person names a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from coordination.client import Coordination, TaskHandle

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task: its key, or the start of its id.")]
OfRun = Annotated[
    str | None, typer.Option("--run", metavar="RUN", help="Of this run (default: the newest that has the key).")
]


def found_task(co: Coordination, name: str, run: str | None) -> TaskHandle:
    """The task of that name, in the run of that name if one is given; NotFound otherwise."""
    return co.run(run).task(name) if run else co.task(name)
