"""``coord tasks …`` and ``coord explain``: show, change and explain single tasks."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from coordination.base.durations import show_duration
from coordination.base.errors import NotFound, Refused
from coordination.base.money import show_usd
from coordination.base.sizes import show_size
from coordination.base.wording import excerpt, plural
from coordination.cli.hints import Exact
from coordination.cli.issues.beads import DEFAULT_RULES, BeadsFile, Now, Rules, issues_in, moment_of
from coordination.cli.names import OfRun, TaskName, find_task, open_task, place_of
from coordination.cli.next_steps import after_change, name_of_task
from coordination.cli.options import AsJson, ProjectName, chosen_project, open_connection, print_json
from coordination.cli.tables import fields
from coordination.cli.tables import show as table
from coordination.cli.tasks.runs import show_events
from coordination.cli.terminal import json_text
from coordination.domain.access.authority import delegators
from coordination.domain.fleet.leases import MAX_DEFERRALS
from coordination.domain.jobs.changed_files import sentence_of
from coordination.domain.jobs.provider_errors import limit_of
from coordination.domain.tasks.tasks import TaskRecord, TaskState
from coordination.views import tasks as views
from coordination.views.fields import fields_of, listing

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.domain.tasks.attempts import Attempt


def show(name: TaskName, *, run: OfRun = None, project: ProjectName = None, as_json: AsJson = False) -> None:
    """Show a task: its work, its attempts, and why it is not running."""
    from coordination.cli.tasks.summary import show_last_lines
    from coordination.domain.tasks.attempts import Outcome
    from coordination.store.queries.money import costs

    with open_task(name, run, project) as task:
        attempts = task.attempts()
        why, name, lines = task.explain(), name_of_task(task), task.last_lines()
        cost, _, unpriced = task.runtime.read(costs.total, task_id=task.id)
    if as_json:
        print_json(
            views.task_details(
                task.record,
                cost_usd=cost,
                unpriced_calls=unpriced,
                attempts=attempts,
                last_lines=lines,
                explanation=why,
            )
        )
        return
    record = task.record
    fields(
        [
            ("key", task.key),
            ("title", record.title if record.title != task.key else None),
            ("id", task.id),
            ("run", record.run_id),
            ("runs", json_text(record.work)),
            ("agent", record.agent),
            ("starts", f"{record.starts} of {record.max_starts}" if record.starts else None),
            ("deferred", _deferral_words(record, task.runtime.settings.deferral_limit)),
            ("priority", record.priority),
            ("created by", record.creator),
            ("delegated by", ", by ".join(delegators(record.options)) or None),
            ("cost", show_usd(cost) + (f" + {plural(unpriced, 'call')} of unknown price" if unpriced else "")),
        ]
    )
    if attempts:
        print()
        table(
            ["attempt", "outcome", "worker", "account", "started", "finished", "exit", "error"],
            [
                (
                    each.number,
                    _outcome(each),
                    each.worker,
                    each.account,
                    each.started_at,
                    each.finished_at,
                    each.exit_code,
                    each.error,
                )
                for each in attempts
            ],
            optional=["account"],
        )
        if attempts[-1].outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
            show_last_lines(task, attempts[-1], name=name)
    print("\n" + "\n".join(why.lines()))


def _outcome(attempt: Attempt) -> str:
    """Return the outcome, with a summary of changed files and the provider's limit, if there was one."""
    if attempt.outcome is None:
        return "running"
    details = attempt.details or {}
    limit = limit_of(details)
    more = [sentence_of(details.get("effect")), None if limit is None else limit.sentence()]
    return ", ".join([attempt.outcome, *filter(None, more)])


def _deferral_words(record: TaskRecord, limit: timedelta) -> str | None:
    if record.deferred_since is None:
        return None
    since = f"{record.deferred_since:%Y-%m-%d %H:%M:%S} UTC, at most for {show_duration(limit)}"
    return f"{record.deferrals} of {MAX_DEFERRALS} times in a row; since {since}"


def events(name: TaskName, *, run: OfRun = None, project: ProjectName = None, as_json: AsJson = False) -> None:
    """Print the events of a task."""
    with open_task(name, run, project) as task:
        show_events(task.events(), follow=False, as_json=as_json)


def cancel(
    name: TaskName,
    *,
    run: OfRun = None,
    project: ProjectName = None,
    why: Annotated[str, Option(help="The reason, kept in the events of the task.")] = "canceled by its owner",
    as_json: AsJson = False,
) -> None:
    """Cancel a task, and the tasks that depend on it as the plan says."""
    with open_task(name, run, project) as task:
        was_open, place = task.cancel(why), place_of(task)
    if as_json:
        print_json(views.about_task(task.record, canceled=was_open))
    else:
        print(f"Canceled {task.key} ({place})." if was_open else f"{task.key} is {task.state} already ({place}).")


def retry(name: TaskName, *, run: OfRun = None, project: ProjectName = None, as_json: AsJson = False) -> None:
    """Retry a failed or canceled task, or resume one at its limit.

    Tasks that were canceled because of it are retried, too.
    """
    with open_task(name, run, project) as task:
        task.retry()
        place, next_step = place_of(task), after_change(task)
    if as_json:
        print_json(views.about_task(task.record, retried=True))
    else:
        print(f"Retrying {task.key} ({place}).\n{next_step}")


def priority(
    name: TaskName,
    number: Annotated[int, Argument(metavar="N", help="Higher runs earlier.", min=-1000, max=1000)],
    *,
    run: OfRun = None,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Change the priority of an open task."""
    with open_task(name, run, project) as task:
        was_open, place = task.set_priority(number), place_of(task)
    if as_json:
        print_json(views.about_task(task.record, priority=number, changed=was_open))
    else:
        answer = (
            f"Set the priority of {task.key} to {number}"
            if was_open
            else f"{task.key} is {task.state}; nothing changed"
        )
        print(f"{answer} ({place}).")


def force(
    name: TaskName,
    state: Annotated[str, Argument(metavar="STATE", help="queued, completed, failed or canceled.")],
    *,
    reason: Annotated[str, Option(metavar="TEXT", help="The reason, kept in the events of the task.")],
    output: Annotated[str | None, Option(metavar="TEXT", help="With completed: its output (JSON or text).")] = None,
    run: OfRun = None,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Set a task's state manually, as a last resort. A running attempt is stopped.

    Example: coord tasks force fix completed --reason "done by hand" --output '{"files": 3}'
    """
    with open_task(name, run, project) as task:
        forced, place = task.force(state, reason=reason, output=_value(output)), place_of(task)
        next_step = f"\n{after_change(task)}" if forced.state == "queued" else ""
    if as_json:
        print_json(views.about_task(task.record, **fields_of(forced, without=["project_id"])))
        return
    stopped = "; its running attempt is stopped" if forced.fenced else ""
    print(f"{task.key} was {forced.before} and is {forced.state} now{stopped} ({place}).{next_step}")


def _value(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def output(name: TaskName, *, run: OfRun = None, project: ProjectName = None, as_json: AsJson = False) -> None:
    """Print the output of a completed task: text unchanged, other values as JSON."""
    with open_task(name, run, project) as task:
        value = task.output
    if as_json:
        print_json(views.about_task(task.record, state=task.state, output=value))
        return
    if task.state is not TaskState.COMPLETED:
        raise Refused(f"{task.key} is {task.state} and has no output", hint=f"See: coord tasks show {task.key}")
    print(Exact(value) if isinstance(value, str) else json_text(value, indent=2))


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

    with open_task(name, run, project) as task:
        records = task.artifacts()
    copied = [] if get is None else [fetch_artifact(artifact, get) for artifact in records]
    if as_json:
        files = listing("artifacts", views.artifact, records) | ({} if get is None else {"files": copied})
        print_json(views.about_task(task.record, attempt=task.record.attempt, **files))
    elif get is not None and copied:
        print("\n".join(map(str, copied)))
    else:
        table(
            ["path", "size", "sha256", "url"],
            [(file.path, show_size(file.size), file.sha256, file.url) for file in records],
            empty=f"{task.key} has no artifacts.",
        )


def shell(
    name: TaskName,
    command: Annotated[
        list[str] | None, Argument(metavar="[-- COMMAND...]", help="Run this instead of a shell.", show_default=False)
    ] = None,
    *,
    run: OfRun = None,
    project: ProjectName = None,
    attempt: Annotated[
        int | None, Option(metavar="N", help="The attempt (default: the newest that has one).", min=1)
    ] = None,
) -> None:
    """Open a shell in the checkout of a task, with the variables of its job.

    A worktree exists while its attempt runs, and for some days after a failure. Without one, the job's folder is used.
    """
    with open_task(name, run, project) as task:
        checkout = task.checkout(attempt=attempt)
        home = str(task.runtime.settings.home)  # a relative COORD_HOME would change its meaning in another folder
    arguments = command or [os.environ.get("SHELL") or "/bin/sh"]
    if command is None:
        owner = "" if checkout.attempt is None else f" of attempt {checkout.attempt}"
        state = ", which is running" if checkout.running else ""
        print(f"{task.key}: {checkout.path}{owner}{state}. Leave with: exit", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        environment = {**os.environ, "COORD_HOME": home, **checkout.variables, "COORD_TASK_KEY": task.key}
        os.chdir(checkout.path)
        os.execvpe(arguments[0], arguments, environment)  # noqa: S606
    except OSError as error:
        raise Refused(f"{arguments[0]} cannot be started in {checkout.path}: {error.strerror}") from None


def explain(
    name: Annotated[str, Argument(metavar="TASK|ISSUE", help="A task's key or id, or an issue's id.")],
    *,
    run: OfRun = None,
    beads: BeadsFile = None,
    rules: Rules = None,
    now: Now = None,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Explain why a task or an issue is not running, and what helps."""
    from coordination.domain.issues.explain import explain as explain_issue

    moment = moment_of(now)
    if beads is not None:
        answer = explain_issue(issues_in(beads), name, rules or DEFAULT_RULES, moment)
        _answer(None, answer, as_json=as_json)
        return
    with open_connection() as co:
        of_task = _task_or_none(co, name, run, project)
        issues = _issues_or_none(co, project)
        of_issue = None
        if any(issue.id == name for issue in issues):
            of_issue = explain_issue(issues, name, rules or DEFAULT_RULES, moment)
    if of_task is None and of_issue is None:
        raise NotFound(
            f"There is neither a task nor an imported issue {excerpt(name)}",
            hint="See: coord tasks list; for an issue of a file add --beads FILE",
        )
    _answer(of_task, of_issue, as_json=as_json)


def _answer(of_task: Any, of_issue: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(views.explanation(of_task, of_issue))
        return
    for explanation in (of_task, of_issue):
        if explanation is not None:
            print("\n".join(explanation.lines()))


def _task_or_none(co: Coordination, name: str, run: str | None, project: str | None) -> Any:
    try:
        return find_task(co, name, run, project).explain()
    except NotFound:
        return None


def _issues_or_none(co: Coordination, project: str | None) -> list[Any]:
    try:
        here = chosen_project(co, project)
    except NotFound:
        if project is not None:
            raise
        return []
    return co.issues.list(here.id)
