"""``coord tasks logs``: prints the output of a task's jobs, while they run and afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from coordination.base.json_values import to_json_types
from coordination.cli.hints import Exact
from coordination.cli.names import OfRun, TaskName, open_task
from coordination.cli.options import AsJson, ProjectName, print_json
from coordination.cli.terminal import json_text, raw
from coordination.views import tasks as views
from coordination.views.fields import listing

if TYPE_CHECKING:
    from coordination.domain.jobs.output import OutputChunk


def logs(
    name: TaskName,
    *,
    run: OfRun = None,
    project: ProjectName = None,
    follow: Annotated[
        bool, Option("--follow", "-f", help="Follow the output of all attempts until the task ends.")
    ] = False,
    attempt: Annotated[int | None, Option(metavar="N", help="The attempt (default: the latest).", min=1)] = None,
    as_it_is: Annotated[bool, Option("--raw", help="Keep terminal control sequences such as colours.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the output of a task's job, also while it runs.

    Its stdout goes to stdout, its stderr to stderr. Agents print their messages and the tools that they use. With
    --follow and --json: one JSON document per line.
    """
    if as_it_is and as_json:
        raise typer.BadParameter("--raw and --json exclude each other")
    with open_task(name, run, project) as task:
        pieces = task.logs(follow=follow, attempt=attempt)
        if not as_json:
            _show(pieces, followed=follow, as_it_is=as_it_is)
        elif follow:
            for piece in pieces:
                print(json_text(to_json_types(views.output_piece(piece))), flush=True)
        else:
            number = task.record.attempt if attempt is None else attempt
            print_json(views.about_task(task.record, attempt=number, **listing("pieces", views.output_piece, pieces)))


def _show(pieces: Iterator[OutputChunk], *, followed: bool, as_it_is: bool) -> None:
    from coordination.domain.jobs.output import Stream

    number: int | None = None
    for piece in pieces:
        if followed and number not in (None, piece.attempt):
            print(f"coord: attempt {piece.attempt}", file=sys.stderr)
        number = piece.attempt
        stream = sys.stderr if piece.stream is Stream.ERR else sys.stdout
        print(Exact(piece.text), end="", file=raw(stream) if as_it_is else stream, flush=True)
    if number is None:
        print("coord: no output", file=sys.stderr)
