"""What a run came to: tasks with their ends, what failed and why, time and cost, and the commands that go on."""

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
from coordination.domain.tasks.next_steps import NextStep, Situation, sentence
from coordination.domain.tasks.runs import RunState
from coordination.domain.tasks.tasks import TaskState

if TYPE_CHECKING:
    from coordination.client import Run, TaskHandle
    from coordination.domain.tasks.attempts import Attempt
    from coordination.domain.tasks.outdated import OutdatedTask

_MOST_TASKS = 60
_MOST_RESULTS = 3
_MOST_FAILED = 5
_MOST_EXPLAINED = 20
_RESULT_LINES = 60
_MOST_CHARACTERS = 4_000  # of what one job said or gave, however few lines these are
_MARKS = {
    TaskState.COMPLETED: ("✓", "green"),
    TaskState.FAILED: ("✗", "red"),
    TaskState.CANCELED: ("-", "yellow"),
    TaskState.BLOCKED: ("·", "yellow"),
}


def show(run: Run, *, ended: bool = True) -> None:
    """Print the summary for people. *ended*: the command has followed the run to its end, and says how to go on."""
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
        took = _took(attempts)
        tries = f"{len(attempts)} attempts" if len(attempts) > 1 else ""
        table.add_row(
            Text(mark, style=colour),
            escape(task.key),
            f"{task.state}, outdated" if task.id in old else str(task.state),
            took,
            tries,
            Text(task.error or "", style="dim"),
        )
    console.print(table)
    if len(tasks) > _MOST_TASKS:
        console.print(f"({len(tasks)} tasks; those that completed are left out)", style="dim")
    failed = [task for task in tasks if task.state is TaskState.FAILED]
    for task in failed[:_MOST_FAILED]:
        if attempts := task.attempts():
            show_last_lines(task, attempts[-1], called=next_steps.called(run.co, task))
    for task in _results(run, tasks):
        _show_result(console, task)
    console.print(_closing_line(run))
    if (changes := _changes(record.branch, tasks)) is not None:
        console.print(f"{changes} on {record.branch}; bring them into yours with: git merge {record.branch}")
    _show_failed(run, failed)
    _show_outdated(run, [task for task in tasks if task.id in old], old)
    if record.state is RunState.STUCK and ended:
        console.print("\nNothing can go on by itself.", style="yellow")
        explain_open(run)
    if ended:
        show_next(run)


def _show_failed(run: Run, failed: list[TaskHandle]) -> None:
    """Which commands go on with the tasks that have failed."""
    if not failed:
        return
    print("\nwhat failed, and what to do")
    for task, then in zip(failed, next_steps.of_ended(run.co, failed[:_MOST_FAILED]), strict=False):
        print(f"  {task.key}: {sentence(then)}")
    if len(failed) > _MOST_FAILED:
        print(f"  and {len(failed) - _MOST_FAILED} more; see: coord tasks list {run.id}")


def outdated_in(run: Run) -> dict[str, list[OutdatedTask]]:
    """What is out of date of what the run's tasks were given, by task id."""
    from coordination.store.queries.tasks import outdated

    found: dict[str, list[OutdatedTask]] = {}
    with run.co.runtime.store.read() as tx:
        for one in outdated.of_run(tx, run.co.runtime.workspace_id, run.id):
            found.setdefault(one.task_id, []).append(one)
    return found


def _show_outdated(run: Run, tasks: list[TaskHandle], old: Mapping[str, Sequence[OutdatedTask]]) -> None:
    """Which tasks were given what is out of date, and which commands do them again."""
    if not tasks:
        return
    print("\nwhat is outdated, and what to do")
    for task, then in zip(tasks, next_steps.of_ended(run.co, tasks[:_MOST_FAILED], old), strict=False):
        why = "; ".join(one.sentence() for one in old[task.id])
        print(f"  {task.key}: {why}" + (f"; {sentence(then)}" if task.state is TaskState.COMPLETED else ""))
    if len(tasks) > _MOST_FAILED:
        print(f"  and {len(tasks) - _MOST_FAILED} more; see: coord tasks list {run.id}")


def show_next(run: Run) -> None:
    """Print the command that goes on with the run, on a stack of its own where none runs; none where it completed."""
    if then := _next(run, run.state):
        print(f"\n{sentence(then)}")


def _next(run: Run, state: RunState) -> tuple[NextStep, ...]:
    if state is RunState.COMPLETED:
        return ()
    ended = state is not RunState.OPEN
    return next_steps.of_run(run, Situation.RUN_ENDED_BADLY if ended else Situation.RUN_INTERRUPTED)


def explain_open(run: Run) -> None:
    """Why the open tasks do not run: the ones that nothing else of the run holds up first."""
    from coordination.budgeting import current_estimator
    from coordination.flows.tasks.explain_task import explain_task

    runtime = run.co.runtime
    waiting = [task.record for task in run.tasks() if task.state in (TaskState.BLOCKED, TaskState.QUEUED)]
    if not waiting:
        return
    waiting.sort(key=lambda task: (task.state is not TaskState.QUEUED, task.pending))
    print("\nwhat holds the open tasks")
    here = next_steps.project_here(run.co)
    with runtime.store.read() as tx:
        estimator = current_estimator(tx, runtime.workspace_id)
        for task in waiting[:_MOST_EXPLAINED]:
            found = explain_task(
                tx,
                runtime.workspace_id,
                task,
                live_within=runtime.settings.lease_ttl,
                estimator=estimator,
                here=here,
            )
            print("  " + "\n  ".join(found.lines()))
    if len(waiting) > _MOST_EXPLAINED:
        print(f"  and {len(waiting) - _MOST_EXPLAINED} more; ask for one with: coord explain TASK")


def _changes(branch: str | None, tasks: list[TaskHandle]) -> str | None:
    """What the run's branch has that the checkout has not, in words; None when there is nothing."""
    from coordination.adapters.git_checkout import changes_on

    completed = [task for task in tasks if task.state is TaskState.COMPLETED]
    if branch is None or not completed:
        return None
    folders = {task.record.workdir for task in completed if task.record.workdir is not None}
    here = next((folder for folder in sorted(folders) if Path(folder).is_dir()), None)
    if here is None:
        return "changes"  # the repository is on another machine
    files, added, deleted = changes_on(here, branch) or (0, 0, 0)
    lines = f"{added:,} lines added, {deleted:,} deleted" if added or deleted else "no lines"
    return f"changes in {plural(files, 'file')} ({lines})" if files else None


def _took(attempts: list[Any]) -> str:
    spans = [attempt.finished_at - attempt.started_at for attempt in attempts if attempt.finished_at]
    return show_duration(spans[-1]) if spans else ""


def show_last_lines(task: TaskHandle, attempt: Attempt, *, called: str) -> None:
    """The end of what an attempt printed, each stream apart, and where the rest is. *called*: the task, in commands."""
    found = last_lines(task.record.work, attempt.output, attempt.log)
    for one in found:
        terminal.console(highlight=False).print(f"\n{task.key}, the last lines of its {one.stream}:", style="bold")
        print(Exact("\n".join(f"  {line}" for line in one.lines)))
    if any(one.left_out for one in found):
        print(f"  … the rest: coord tasks logs {quote(called)}")


def _results(run: Run, tasks: list[TaskHandle]) -> list[TaskHandle]:
    """The completed tasks that nothing else needs: what the run was for. Many of them are not one result."""
    from coordination.store.queries.tasks import dependencies

    runtime = run.co.runtime
    with runtime.store.read() as tx:
        needed = {parent for parent, _, _ in dependencies.edges_of_run(tx, runtime.workspace_id, run.id)}
    last = [task for task in tasks if task.key not in needed and task.state is TaskState.COMPLETED]
    return last if len(last) <= _MOST_RESULTS else []


def _show_result(console: Any, task: TaskHandle) -> None:
    output = task.output
    if output in (None, "", {}, []):
        return

    text = output if isinstance(output, str) else terminal.json_text(output, indent=2)
    text = text.rstrip()
    lines = text.splitlines()
    shown = "\n".join(lines[:_RESULT_LINES])[:_MOST_CHARACTERS]
    console.print(f"\n{task.key}:", style="bold")
    console.print("\n".join("  " + line for line in shown.splitlines()), markup=False)
    left = f"{len(lines) - _RESULT_LINES:,} more lines" if len(lines) > _RESULT_LINES else ""
    if len(shown) == _MOST_CHARACTERS < len(text):
        left = f"{len(text) - _MOST_CHARACTERS:,} more characters"
    if left:
        console.print(f"  … {left}: coord tasks output {task.key}", style="dim")


def _closing_line(run: Run) -> str:
    record = run.record
    counts = ", ".join(f"{number} {state}" for state, number in sorted(record.counts.items()))
    end = record.finished_at
    took = f" in {show_duration(end - record.created_at)}" if end else ""
    unknown = f" and {plural(record.unpriced_calls, 'call')} of unknown price" if record.unpriced_calls else ""
    return f"\nrun {record.id} {record.state}{took}: {counts}; cost {show_usd(record.cost_usd)}{unknown}"


def as_json(run: Run) -> dict[str, Any]:
    """The run and its tasks, with outputs, as one document."""
    record, outputs, old, tasks = run.record, run.outputs(), outdated_in(run), run.tasks()
    failed = [task for task in tasks if task.state is TaskState.FAILED]
    ends = {task.id: task.last_lines() for task in failed[:_MOST_FAILED]}
    return {
        "run": record.id,
        "project": record.project,
        "name": record.name,
        "state": record.state,
        "branch": record.branch,
        "counts": record.counts,
        "cost_usd": record.cost_usd,
        "unpriced_calls": record.unpriced_calls,
        "predicted": record.predicted,
        "created_at": record.created_at,
        "finished_at": record.finished_at,
        "tasks": [
            {
                "id": task.id,
                "key": task.key,
                "title": task.record.title,
                "state": task.state,
                "attempts": task.record.attempt,
                "error": task.error,
                "output": outputs.get(task.id),
                "outdated": [one.to_json() for one in old.get(task.id, ())],
                "last_lines": [one.to_json() for one in ends.get(task.id, ())],
            }
            for task in tasks
        ],
        "steps": [step.to_json() for step in _next(run, record.state)],
    }
