"""``coord tasks logs``: what a task's jobs print, while they run and afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coordination.base.json_values import plain
from coordination.cli import tasks
from coordination.cli.hints import Exact
from coordination.cli.names import InProject, OfRun, TaskName, found_task
from coordination.cli.options import AsJson, connected, print_json
from coordination.cli.terminal import json_text, raw

if TYPE_CHECKING:
    from coordination.domain.jobs.output import OutputChunk


def add_to(_app: typer.Typer) -> None:
    """Register the command, in the group of tasks."""
    tasks.group.command("logs")(logs)


def logs(
    name: TaskName,
    *,
    run: OfRun = None,
    project: InProject = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as it is printed, into further attempts, to the task's end.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option("--attempt", metavar="N", help="Which (default: the latest).", min=1)
    ] = None,
    as_it_is: Annotated[
        bool, typer.Option("--raw", help="With colours and all else that a terminal obeys; else that is left out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What the job of a task prints, while it runs and afterwards: stdout on stdout, stderr on stderr.

    Of an agent: what it says, and the tools that it uses. With --follow and --json: one JSON document a line.
    """
    if as_it_is and as_json:
        raise typer.BadParameter("--raw and --json exclude each other")
    with connected() as co:
        task = found_task(co, name, run, project)
        found = task.logs(follow=follow, attempt=attempt)
        if not as_json:
            _show(found, followed=follow, as_it_is=as_it_is)
        elif follow:
            for piece in found:
                print(json_text(plain(piece)), flush=True)
        else:
            number = task.record.attempt if attempt is None else attempt
            print_json({"task": task.id, "key": task.key, "attempt": number, "pieces": list(found)})


def _show(found: Iterator[OutputChunk], *, followed: bool, as_it_is: bool) -> None:
    from coordination.domain.jobs.output import Stream

    number: int | None = None
    for piece in found:
        if followed and number not in (None, piece.attempt):
            print(f"coord: attempt {piece.attempt}", file=sys.stderr)
        number = piece.attempt
        stream = sys.stderr if piece.stream is Stream.ERR else sys.stdout
        print(Exact(piece.text), end="", file=raw(stream) if as_it_is else stream, flush=True)
