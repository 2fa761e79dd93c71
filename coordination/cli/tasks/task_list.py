"""``coord tasks list``: lists the tasks of a run, however many there are."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.cli.hints import Exact
from coordination.cli.names import InProject, find_run, newest_run
from coordination.cli.options import AsJson, connected
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
    typer.Argument(
        metavar="RUN",
        help="The run: its id, a part of it, or its name (default: the newest of the project).",
        show_default=False,
    ),
]


def list_(run: MaybeRun = None, *, project: InProject = None, as_json: AsJson = False) -> None:
    """List the tasks of a run, in the order of its plan; without RUN, of the newest run of the project.

    For all details of one task: coord tasks show TASK.
    """
    from coordination.cli.tasks.summary import outdated_in
    from coordination.store.queries.tasks import runs
    from coordination.store.reports.tasks import task_list

    with connected() as co:
        listed_run = newest_run(co, project) if run is None else find_run(co, run, project)
        workspace_id, old = co.runtime.workspace_id, outdated_in(listed_run)

        def lines() -> Iterator[str]:
            with co.runtime.store.read() as tx:
                of = runs.heading(tx, workspace_id, listed_run.id)
                if run is None:
                    name = f"{of['name']}, " if of["name"] else ""
                    print(f"coord: the newest run of {of['project']}: {name}{listed_run.id}", file=sys.stderr)
                if as_json:
                    yield from _json_lines(of, task_list.each(tx, workspace_id, listed_run.id), old)
                else:
                    longest = task_list.longest(tx, workspace_id, listed_run.id)
                    yield from _table(longest, task_list.each(tx, workspace_id, listed_run.id), old)

        _print(lines())


def _json_lines(of: dict[str, Any], tasks: Iterable[TaskLine], old: Mapping[str, list[OutdatedTask]]) -> Iterator[str]:
    """Yield one document, with a task a line."""
    write = json_writer()
    yield f'{{\n  "run": {write(of)},\n  "tasks": ['
    before = "\n    "
    for task in tasks:
        yield f"{before}{write(views.listed_task(task, of['id'], old.get(task.id, ())))}"
        before = ",\n    "
    yield "\n  ]\n}\n"


def _table(longest: ColumnWidths, tasks: Iterable[TaskLine], old: Mapping[str, list[OutdatedTask]]) -> Iterator[str]:
    """Yield aligned columns, cut to the width of a terminal."""
    if not longest.tasks:
        yield "(none)\n"
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    key, agent, state_width = max(longest.key, 3), max(longest.agent, 5), 9 + len(_OUTDATED) * bool(old)
    why = max(min(longest.why, _MOST_WHY), 3)

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
    import tempfile

    with tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass", newline="") as kept:
        kept.writelines(lines)
        kept.seek(0)
        while part := kept.readlines(_AT_ONCE):
            sys.stdout.write(Exact("".join(part)))
