"""``coord import beads | export beads | ready``: imports and exports issues of Beads, and plans work on them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from coordination.base.clock import utc_now
from coordination.base.errors import NotFound, Refused
from coordination.base.wording import excerpt, plural
from coordination.cli.options import AsJson, ProjectName, chosen_project, open_connection, print_json
from coordination.cli.tables import show
from coordination.domain.jobs import parse_job
from coordination.views import issues as views
from coordination.views import tasks as task_views
from coordination.views.fields import listing

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.api.runs import Run
    from coordination.domain.issues.order import ExcludedIssue
    from coordination.domain.issues.record import Issue
    from coordination.domain.plans.plans import Plan

DEFAULT_RULES = "beads-1.0"
_MOST_EXCLUDED = 20
_MOST_MISSING = 3

BeadsFile = Annotated[
    Path | None, Option("--beads", metavar="FILE", help="Use the issues of this file instead of imported ones.")
]
Rules = Annotated[str | None, Option("--rules", help="The rules for ready issues: beads-1.0 or beads-0.47.")]
Now = Annotated[str | None, Option("--now", metavar="TIME", help="The assumed time, such as 2027-01-01T00:00:00Z.")]


def import_beads(
    file: Annotated[Path, Argument(metavar="FILE", help="An issues.jsonl of Beads.")],
    *,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Import the issues of a file into the project. They replace all that were imported before."""
    from coordination.adapters import git_checkout

    notes: list[str] = []
    issues = issues_in(file, notes)
    with open_connection() as co:
        if project is not None:
            target = co.project(project)
            identity, project_name, path = target.identity, target.name, target.path
        else:  # that of the current folder, which may be new
            here = git_checkout.checkout_of()
            identity, project_name, path = here.identity, here.name, str(here.root)
        result = co.issues.replace(issues, identity=identity, name=project_name, path=path)
    if as_json:
        print_json(views.issue_import(result, notes))
    else:
        instead = f", in place of {result.replaced}" if result.replaced else ""
        _show_notes(notes)
        print(f"{result.project} has {plural(result.issues, 'issue')} of {file}{instead}. See: coord ready")


def export_beads(
    file: Annotated[Path | None, Argument(metavar="[FILE]", help="The output file (default: stdout).")] = None,
    *,
    project: ProjectName = None,
) -> None:
    """Export the project's issues. Those whose job has completed are closed."""
    from coordination.formats.beads import write_issues

    with open_connection() as co:
        issues, name = _imported_issues(co, project)
    write_bytes(file, write_issues(issues))
    if file is not None:
        print(f"{plural(len(issues), 'issue')} of {name} written to {file}.")


def ready(
    *,
    rules: Rules = None,
    beads: BeadsFile = None,
    now: Now = None,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """List ready issues, or ready tasks where no issues are imported."""
    moment = moment_of(now)
    if beads is not None:
        _show_issues(issues_in(beads), rules or DEFAULT_RULES, moment, as_json=as_json)
        return
    with open_connection() as co:
        if rules is not None:
            issues, _ = _imported_issues(co, project)
        else:
            here = chosen_project(co, project)
            issues = co.issues.list(here.id)
        if issues:
            _show_issues(issues, rules or DEFAULT_RULES, moment, as_json=as_json)
            return
        _show_tasks(co, here.id, as_json=as_json)


def plan_of(path: Path, *, agent: str | None, rules: str) -> Plan:
    """Return a plan for the open issues of a file; print excluded issues with the reason to stderr."""
    from coordination.domain.issues.plan import plan_from_issues
    from coordination.domain.issues.rules import rule_set

    if agent is None:
        hint = "Add --agent shell:'COMMAND' or --agent python:package.module:function"
        raise Refused("There is no agent for the issues", hint=hint)
    rule_set(rules)
    run_for = _job(agent)
    plan, excluded = plan_from_issues(issues_in(path), rules=rules, now=utc_now(), run_for=run_for)
    _print_excluded(excluded, len(plan.tasks))
    return plan


def submit(co: Coordination, plan: Plan, path: Path, *, replace: bool = False) -> Run:
    """Store the plan and the file's issues in one transaction.

    Raises Refused where that would delete imported issues missing from the file, unless *replace* or the person at
    the terminal allows it.
    """
    issues = issues_in(path, [])
    if not replace:
        _confirm_replacement(co, plan, path, {issue.id for issue in issues})
    return co.submit(plan, issues=issues)


def _confirm_replacement(co: Coordination, plan: Plan, path: Path, ids: set[str]) -> None:
    """Ask before issues of another file are replaced. Raises Refused without a terminal, or when the answer is no."""
    from coordination.api.connection import find_origin
    from coordination.store.queries.issues import issues
    from coordination.store.queries.projects import projects

    origin = find_origin(plan, actor=co.runtime.actor, metadata={})
    project = co.runtime.read(projects.find_by_identity, origin.identity)
    imported = [] if project is None else [row["id"] for row in co.runtime.read(issues.list_all, project.id)]
    missing = [id_ for id_ in imported if id_ not in ids]
    if project is None or not missing:
        return
    more = f" and {len(missing) - _MOST_MISSING:,} more" if len(missing) > _MOST_MISSING else ""
    problem = (
        f"{path} would replace the issues of the project {project.name}: {len(missing):,} of its {len(imported):,} "
        f"are not in the file ({', '.join(missing[:_MOST_MISSING])}{more})"
    )
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Refused(problem, hint="To replace them add --replace; to keep them first: coord export beads FILE")
    print(f"{problem}. Their tasks stay.", file=sys.stderr)
    if not typer.confirm("Replace them?", err=True):
        raise Refused("Nothing was changed", hint="To keep them in a file: coord export beads FILE")


def issues_in(path: Path, notes: list[str] | None = None) -> list[Issue]:
    """Return the checked issues of a file.

    Notes on changed dependencies are added to *notes*, or printed to stderr without it.
    """
    from coordination.base.json_values import read_lines
    from coordination.formats.beads import MOST_BYTES, read_issues

    collected: list[str] = [] if notes is None else notes
    try:
        with path.open("rb") as file:
            issues = read_issues(read_lines(file, most=MOST_BYTES), source=str(path), note=collected.append)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if notes is None:
        _show_notes(collected)
    return issues


def _show_notes(notes: Sequence[str]) -> None:
    for note in notes[:_MOST_EXCLUDED]:
        print(note, file=sys.stderr)
    if len(notes) > _MOST_EXCLUDED:
        print(f"and {len(notes) - _MOST_EXCLUDED:,} more lines like these", file=sys.stderr)


def moment_of(text: str | None) -> datetime:
    """Return the given moment, or now."""
    if text is None:
        return utc_now()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(f"{excerpt(text)} is not a time", hint="Write it like 2027-01-01T00:00:00Z") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def write_bytes(path: Path | None, lines: Any) -> None:
    """Write lines to stdout, or atomically to a file."""
    if path is None:
        for line in lines:
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        return

    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
                temporary.replace(path)
            except BaseException:
                temporary.unlink()
                raise
    except OSError as error:
        raise Refused(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from error


def _job(agent: str) -> Callable[[Issue], Mapping[str, Any]]:
    """Return a function that makes the job of an issue. The job gets the issue in variables, or as an argument."""
    from coordination.domain.issues.plan import shell_job

    kind, _, what = agent.partition(":")
    if kind == "shell":
        parse_job({"shell": what})
        return shell_job(what)
    if kind == "python":
        parse_job({"python": what})
        environment = shell_job("-")

        def call(issue: Issue) -> Mapping[str, Any]:
            return {"python": what, "args": {"issue": "{{ input.issue }}"}, "env": environment(issue)["env"]}

        return call
    hint = "Write shell:'COMMAND' or python:package.module:function"
    raise Refused(f"{excerpt(agent)} is not an agent for issues", hint=hint)


def _print_excluded(excluded: Sequence[ExcludedIssue], planned: int) -> None:
    if not excluded:
        return
    print(f"{planned} open issues get a job, {len(excluded)} do not:", file=sys.stderr)
    for issue in excluded[:_MOST_EXCLUDED]:
        print(f"  {issue.id}: {issue.why}", file=sys.stderr)
    if (more := len(excluded) - _MOST_EXCLUDED) > 0:
        print(f"  and {more} more; see: coord explain ISSUE --beads FILE", file=sys.stderr)


def _imported_issues(co: Coordination, project: str | None) -> tuple[list[Issue], str]:
    """Return the project's imported issues and its name. Raises NotFound when it has none."""
    here = chosen_project(co, project)
    issues = co.issues.list(here.id)
    if not issues:
        raise NotFound(f"The project {here.name} has no imported issues", hint="Run: coord import beads FILE")
    return issues, here.name


def _show_issues(issues: Sequence[Issue], rules: str, now: datetime, *, as_json: bool) -> None:
    from coordination.domain.issues.readiness import ready as ready_issues
    from coordination.domain.issues.rules import rule_set

    ready = ready_issues(issues, rules, now)
    if as_json:
        print_json(views.ready_issues(ready, rules=rule_set(rules).name, now=now))
        return
    show(
        ["id", "priority", "type", "title"],
        [(issue.id, issue.priority, issue.issue_type, issue.title) for issue in ready],
        empty="No issue is ready. Why one is not: coord explain ISSUE",
    )


def _show_tasks(co: Coordination, project_id: str, *, as_json: bool) -> None:
    from coordination.store.queries.tasks import tasks

    ready_tasks = co.runtime.read(tasks.ready_of_project, project_id)
    if as_json:
        print_json(listing("ready", lambda task: task_views.task_summary(task, task.run_id), ready_tasks))
        return
    show(
        ["key", "priority", "run", "title"],
        [(task.key, task.priority, task.run_id, task.title) for task in ready_tasks],
        empty="No task is ready. Why one is not: coord explain TASK",
    )
