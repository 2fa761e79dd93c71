"""Summary of a run: its tasks, failures with their output, duration and cost, and the next commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from coordination.base.durations import show_duration
from coordination.base.money import show_usd
from coordination.base.wording import plural
from coordination.cli import next_steps, terminal
from coordination.cli.hints import Exact
from coordination.domain.jobs.last_lines import last_lines
from coordination.domain.tasks.next_steps import NextStep, Situation, join_steps
from coordination.domain.tasks.tasks import RunState, TaskState
from coordination.views import tasks as views

if TYPE_CHECKING:
    from coordination.api.runs import Run
    from coordination.api.tasks import TaskHandle
    from coordination.domain.tasks.attempts import Attempt
    from coordination.domain.tasks.outdated import OutdatedTask

_MOST_TASKS = 60
_MOST_RESULTS = 3
_MOST_FAILED = 5
_MOST_EXPLAINED = 20
_RESULT_LINES = 60
_MOST_CHARACTERS = 4_000  # of one output, however few lines it has
_MARKS = {
    TaskState.COMPLETED: ("✓", "green"),
    TaskState.FAILED: ("✗", "red"),
    TaskState.CANCELED: ("-", "yellow"),
    TaskState.BLOCKED: ("·", "yellow"),
}


def show(run: Run, *, ended: bool = True) -> None:
    """Print the summary. *ended*: the command has followed the run to its end, so print the next command, too."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    console = terminal.console(highlight=False, soft_wrap=True)
    record = run.record
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    tasks = run.tasks()
    shown = tasks if len(tasks) <= _MOST_TASKS else [task for task in tasks if task.state is not TaskState.COMPLETED]
    old = outdated_in(run)
    for task in shown[:_MOST_TASKS]:
        mark, colour = _MARKS.get(task.state, (" ", "white"))
        attempts = task.attempts()
        count = f"{len(attempts)} attempts" if len(attempts) > 1 else ""
        table.add_row(
            Text(mark, style=colour),
            escape(task.key),
            f"{task.state}, outdated" if task.id in old else str(task.state),
            _duration(attempts),
            count,
            Text(task.error or "", style="dim"),
        )
    console.print(table)
    if len(tasks) > _MOST_TASKS:
        console.print(f"({len(tasks)} tasks; completed ones are not shown)", style="dim")
    failed = [task for task in tasks if task.state is TaskState.FAILED]
    for task in failed[:_MOST_FAILED]:
        if attempts := task.attempts():
            show_last_lines(task, attempts[-1], name=next_steps.name_of_task(task))
    for task in _results(run, tasks):
        _show_result(console, task)
    console.print(_closing_line(run))
    if (changes := _changes(record.branch, tasks)) is not None:
        console.print(f"{changes} on {record.branch}; merge them with: git merge {record.branch}")
    _show_steps(run, "failed", failed, {})
    _show_steps(run, "outdated", [task for task in tasks if task.id in old], old)
    if record.state is RunState.STUCK and ended:
        console.print("\nThis run cannot continue without a person.", style="yellow")
        explain_open(run)
    if ended:
        show_next(run)


def _show_steps(run: Run, state: str, tasks: list[TaskHandle], old: Mapping[str, Sequence[OutdatedTask]]) -> None:
    """Print the tasks in a state with their outdated inputs, and the commands that continue them."""
    if not tasks:
        return
    print(f"\n{state} tasks, and what to do")
    for task, then in zip(tasks, next_steps.steps_of_ended_tasks(run.runtime, tasks[:_MOST_FAILED], old), strict=False):
        inputs = [outdated.sentence() for outdated in old.get(task.id, ())]
        commands = [] if inputs and task.state is not TaskState.COMPLETED else [join_steps(then)]
        print(f"  {task.key}: {'; '.join([*inputs, *commands])}")
    if len(tasks) > _MOST_FAILED:
        print(f"  and {len(tasks) - _MOST_FAILED} more; see: coord tasks list {run.id}")


def outdated_in(run: Run) -> dict[str, list[OutdatedTask]]:
    """Return the outdated inputs of the run's tasks, by task id."""
    from coordination.store.queries.tasks import outdated

    by_task: dict[str, list[OutdatedTask]] = {}
    for task in run.runtime.read(outdated.of_run, run.id):
        by_task.setdefault(task.task_id, []).append(task)
    return by_task


def show_next(run: Run) -> None:
    """Print the command that continues the run, unless it has completed."""
    if then := _next(run, run.state):
        print(f"\n{join_steps(then)}")


def _next(run: Run, state: RunState) -> tuple[NextStep, ...]:
    if state is RunState.COMPLETED:
        return ()
    ended = state is not RunState.OPEN
    return next_steps.steps_of_run(run, Situation.RUN_ENDED_BADLY if ended else Situation.RUN_INTERRUPTED)


def explain_open(run: Run) -> None:
    """Print why open tasks are not running, first those that do not wait for other tasks."""
    from coordination.api.explanations import explain_tasks

    waiting = [task.record for task in run.tasks() if task.state in (TaskState.BLOCKED, TaskState.QUEUED)]
    if not waiting:
        return
    waiting.sort(key=lambda task: (task.state is not TaskState.QUEUED, task.pending))
    print("\nwhy open tasks are not running")
    for explanation in explain_tasks(run.runtime, waiting[:_MOST_EXPLAINED]):
        print("  " + "\n  ".join(explanation.lines()))
    if len(waiting) > _MOST_EXPLAINED:
        print(f"  and {len(waiting) - _MOST_EXPLAINED} more; see: coord explain TASK")


def _changes(branch: str | None, tasks: list[TaskHandle]) -> str | None:
    """Return a summary of the changes on the run's branch, or None when there are none."""
    from coordination.adapters.git_checkout import changes_on

    completed = [task for task in tasks if task.state is TaskState.COMPLETED]
    if branch is None or not completed:
        return None
    folders = {task.record.workdir for task in completed if task.record.workdir is not None}
    local = next((folder for folder in sorted(folders) if Path(folder).is_dir()), None)
    if local is None:
        return "changes"  # the repository is on another machine
    files, added, deleted = changes_on(local, branch) or (0, 0, 0)
    lines = f"{added:,} lines added, {deleted:,} deleted" if added or deleted else "no lines"
    return f"changes in {plural(files, 'file')} ({lines})" if files else None


def _duration(attempts: list[Any]) -> str:
    spans = [attempt.finished_at - attempt.started_at for attempt in attempts if attempt.finished_at]
    return show_duration(spans[-1]) if spans else ""


def show_last_lines(task: TaskHandle, attempt: Attempt, *, name: str) -> None:
    """Print the last lines of an attempt's output by stream. *name*: the name of the task in commands."""
    streams = last_lines(task.record.work, attempt.output, attempt.log)
    for stream in streams:
        terminal.console(highlight=False).print(f"\n{task.key}, the last lines of its {stream.stream}:", style="bold")
        print(Exact("\n".join(f"  {line}" for line in stream.lines)))
    if any(stream.left_out for stream in streams):
        print(f"  … the rest: coord tasks logs {quote(name)}")


def _results(run: Run, tasks: list[TaskHandle]) -> list[TaskHandle]:
    """Return the completed tasks that no other task needs, or an empty list if there are many."""
    from coordination.store.queries.tasks import dependencies

    needed = {parent for parent, _, _ in run.runtime.read(dependencies.edges_of_run, run.id)}
    last = [task for task in tasks if task.key not in needed and task.state is TaskState.COMPLETED]
    return last if len(last) <= _MOST_RESULTS else []


def _show_result(console: Any, task: TaskHandle) -> None:
    output = task.output
    if output in (None, "", {}, []):
        return
    text = (output if isinstance(output, str) else terminal.json_text(output, indent=2)).rstrip()
    lines = text.splitlines()
    shown = "\n".join(lines[:_RESULT_LINES])[:_MOST_CHARACTERS]
    console.print(f"\n{task.key}:", style="bold")
    console.print("\n".join("  " + line for line in shown.splitlines()), markup=False)
    rest = f"{len(lines) - _RESULT_LINES:,} more lines" if len(lines) > _RESULT_LINES else ""
    if len(shown) == _MOST_CHARACTERS < len(text):
        rest = f"{len(text) - _MOST_CHARACTERS:,} more characters"
    if rest:
        console.print(f"  … {rest}: coord tasks output {task.key}", style="dim")


def _closing_line(run: Run) -> str:
    record = run.record
    counts = ", ".join(f"{number} {state}" for state, number in sorted(record.counts.items()))
    end = record.finished_at
    duration = f" in {show_duration(end - record.created_at)}" if end else ""
    unknown = f" and {plural(record.unpriced_calls, 'call')} of unknown price" if record.unpriced_calls else ""
    return f"\nrun {record.id} {record.state}{duration}: {counts}; cost {show_usd(record.cost_usd)}{unknown}"


def details(run: Run) -> dict[str, Any]:
    """Return the view of the run and its tasks, with their outputs."""
    record, outputs, outdated, tasks = run.record, run.outputs(), outdated_in(run), run.tasks()
    failed = [task for task in tasks if task.state is TaskState.FAILED]
    endings = {task.id: task.last_lines() for task in failed[:_MOST_FAILED]}
    results = [
        views.task_result(task.record, outputs.get(task.id), outdated.get(task.id, ()), endings.get(task.id, ()))
        for task in tasks
    ]
    return views.run_details(record, results, _next(run, record.state))
