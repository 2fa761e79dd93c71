"""``coord tasks list``: lists the tasks of a run; one with very many tasks needs little memory."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from coordination.cli.hints import Exact
from coordination.cli.names import find_run, newest_run
from coordination.cli.options import AsJson, ProjectName, open_connection
from coordination.cli.tables import shown
from coordination.cli.terminal import json_writer
from coordination.views import tasks as views

if TYPE_CHECKING:
    from coordination.domain.tasks.outdated import OutdatedTask
    from coordination.store.reports.tasks.task_list import ColumnWidths, TaskLine

_MOST_WHY = 60
_OUTDATED = ", outdated"
_IN_MEMORY = 4_000_000
_AT_ONCE = 64_000

MaybeRun = Annotated[
    str | None,
    Argument(
        metavar="RUN",
        help="The run: its id, a part of it, or its name (default: the newest of the project).",
        show_default=False,
    ),
]


def list_(run: MaybeRun = None, *, project: ProjectName = None, as_json: AsJson = False) -> None:
    """List the tasks of a run in the order of its plan.

    Without RUN: of the newest run of the project. For all details of one task: coord tasks show TASK.
    """
    from coordination.cli.tasks.summary import outdated_in
    from coordination.store.queries.tasks import runs
    from coordination.store.reports.tasks import task_list

    with open_connection() as co:
        target = newest_run(co, project) if run is None else find_run(co, run, project)
        workspace_id, old = co.runtime.workspace_id, outdated_in(target)

        def lines() -> Iterator[str]:
            with co.runtime.store.read() as tx:
                heading = runs.heading(tx, workspace_id, target.id)
                if run is None:
                    name = f"{heading['name']}, " if heading["name"] else ""
                    print(f"coord: the newest run of {heading['project']}: {name}{target.id}", file=sys.stderr)
                if as_json:
                    yield from _json_lines(heading, task_list.stream_tasks(tx, workspace_id, target.id), old)
                else:
                    widths = task_list.measure_columns(tx, workspace_id, target.id)
                    yield from _table(widths, task_list.stream_tasks(tx, workspace_id, target.id), old)

        _print(lines())


def _json_lines(
    heading: dict[str, Any], tasks: Iterable[TaskLine], old: Mapping[str, list[OutdatedTask]]
) -> Iterator[str]:
    """Yield one document, with one task per line."""
    write = json_writer()
    yield f'{{\n  "run": {write(heading)},\n  "tasks": ['
    before = "\n    "
    for task in tasks:
        yield f"{before}{write(views.task_in_list(task, heading['id'], old.get(task.id, ())))}"
        before = ",\n    "
    yield "\n  ]\n}\n"


def _table(widths: ColumnWidths, tasks: Iterable[TaskLine], old: Mapping[str, list[OutdatedTask]]) -> Iterator[str]:
    """Yield aligned columns, cut to the width of a terminal."""
    if not widths.tasks:
        yield "(none)\n"
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    key, agent, state_width = max(widths.key, 3), max(widths.agent, 5), 9 + len(_OUTDATED) * bool(old)
    why = max(min(widths.why, _MOST_WHY), 3)

    def line(*cells: object) -> str:
        name, state, reason, priority, attempt, who, title = cells
        text = f"{name:<{key}}  {state:<{state_width}}  {reason:<{why}}  {priority:<8}  {attempt:<7}  {who:<{agent}}"
        text = f"{text}  {title}".rstrip()
        return f"{text[: width - 1]}…\n" if width is not None and len(text) > width else f"{text}\n"

    yield line("key", "state", "why", "priority", "attempt", "agent", "title")
    for task in tasks:
        title = "" if task.title == task.key else _one_line(task.title)
        reason = _one_line(task.why)
        if len(reason) > why:
            reason = f"{reason[: why - 1]}…"
        state = f"{task.state}{_OUTDATED}" if task.id in old else task.state
        yield line(_one_line(task.key), state, reason, task.priority, task.attempt, _one_line(task.agent or ""), title)


def _one_line(text: str) -> str:
    return text if text.isprintable() else shown(text)


def _print(lines: Iterator[str]) -> None:
    """Print *lines* after reading them all, so that no transaction is open while a pager waits for its reader.

    Many lines are kept in a temporary file meanwhile.
    """
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass", newline="") as file:
        file.writelines(lines)
        file.seek(0)
        while part := file.readlines(_AT_ONCE):
            sys.stdout.write(Exact("".join(part)))
