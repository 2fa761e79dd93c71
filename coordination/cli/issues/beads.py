"""``coord import beads | export beads | ready``: imports and exports issues of Beads, and plans work on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.base.wording import excerpt, plural
from coordination.cli.options import AsJson, ProjectName, chosen_project, connected, print_json
from coordination.views import issues as views
from coordination.views import tasks as task_views
from coordination.views.fields import listing

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.api.runs import Run
    from coordination.domain.issues import ExcludedIssue, Issue
    from coordination.domain.plans.plans import Plan

DEFAULT_RULES = "beads-1.0"
_MOST_LEFT_OUT = 20
_MOST_GONE = 3

BeadsFile = Annotated[
    Path | None, typer.Option("--beads", metavar="FILE", help="Use the issues of this file instead of imported ones.")
]
Rules = Annotated[
    str | None, typer.Option("--rules", help="The rules that decide what is ready: beads-1.0 or beads-0.47.")
]
Now = Annotated[
    str | None, typer.Option("--now", metavar="TIME", help="As if it were then, such as 2027-01-01T00:00:00Z.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    imports = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Import data of other programs.")
    imports.command("beads")(import_beads)
    app.add_typer(imports, name="import")
    exports = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Export data for other programs.")
    exports.command("beads")(export_beads)
    app.add_typer(exports, name="export")
    app.command("ready")(ready)


def import_beads(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An issues.jsonl of Beads.")],
    *,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Import the issues of a file into the project; they replace those imported before. All of them, or none."""
    from coordination.cli.options import target_project

    notes: list[str] = []
    issues = issues_in(file, notes)
    with connected() as co:
        place = target_project(co, project)
        result = co.issues.replace(issues, identity=place.identity, name=place.name, path=place.path)
    if as_json:
        print_json(views.issue_import(result, notes))
    else:
        instead = f", in place of {result.replaced}" if result.replaced else ""
        _show_notes(notes)
        print(f"{result.project} has {plural(result.issues, 'issue')} of {file}{instead}. See: coord ready")


def export_beads(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where to (default: stdout).")] = None,
    *,
    project: ProjectName = None,
) -> None:
    """Export the project's issues; those whose job has completed are closed."""
    from coordination.formats.beads import write_issues

    with connected() as co:
        issues, name = _imported(co, project)
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
    """List what can be worked on now: imported issues by the rules of Beads, or else ready tasks."""
    moment = moment_of(now)
    if beads is not None:
        _show_issues(issues_in(beads), rules or DEFAULT_RULES, moment, as_json=as_json)
        return
    with connected() as co:
        if rules is not None:
            issues, _ = _imported(co, project)
        else:
            here = chosen_project(co, project)
            issues = co.issues.list(here.id)
        if issues:
            _show_issues(issues, rules or DEFAULT_RULES, moment, as_json=as_json)
            return
        _show_tasks(co, here.id, as_json=as_json)


def plan_of(path: Path, *, agent: str | None, rules: str) -> Plan:
    """Return a plan for the open issues of a file; print to stderr which are left out, and why."""
    from coordination.base.clock import utc_now
    from coordination.base.errors import Refused
    from coordination.domain.issues import plan_from_issues, rule_set

    if agent is None:
        raise Refused(
            "There is no agent for the issues",
            hint="Add --agent shell:'COMMAND' or --agent python:package.module:function",
        )
    rule_set(rules)
    run_for = _job(agent)
    plan, left_out = plan_from_issues(issues_in(path), rules=rules, now=utc_now(), run_for=run_for)
    _tell(left_out, len(plan.tasks))
    return plan


def submit(co: Coordination, plan: Plan, path: Path, *, replace: bool = False) -> Run:
    """Store the plan, the file's issues, and the task of each, in one transaction.

    Raises Refused where that would remove imported issues that the file does not have, unless *replace* or the person
    at the terminal allows it.
    """
    issues = issues_in(path, [])
    if not replace:
        _agree(co, plan, path, {issue.id for issue in issues})
    return co.submit(plan, issues=issues)


def _agree(co: Coordination, plan: Plan, path: Path, ids: set[str]) -> None:
    """Ask before issues of another file are replaced. Raises Refused without a terminal, or when the answer is no."""
    from coordination.api.plan_origin import origin_of
    from coordination.base.errors import Refused
    from coordination.store.queries.issues import issues
    from coordination.store.queries.projects import projects

    workspace_id = co.runtime.workspace_id
    with co.runtime.store.read() as tx:
        here = projects.find_by_identity(
            tx, workspace_id, origin_of(plan, actor=co.runtime.actor, metadata={}).identity
        )
        imported = [] if here is None else [row["id"] for row in issues.list_all(tx, workspace_id, here.id)]
    gone = [one for one in imported if one not in ids]
    if here is None or not gone:
        return
    named = ", ".join(gone[:_MOST_GONE]) + (f" and {len(gone) - _MOST_GONE:,} more" if len(gone) > _MOST_GONE else "")
    what = (
        f"{path} would replace the issues of the project {here.name}: {len(gone):,} of its {len(imported):,} "
        f"are not in the file ({named})"
    )
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Refused(what, hint="To replace them all the same add --replace; to keep them: coord export beads FILE")
    print(f"{what}. Their tasks stay.", file=sys.stderr)
    if not typer.confirm("Replace them?", err=True):
        raise Refused("Nothing was changed", hint="To keep them in a file: coord export beads FILE")


def issues_in(path: Path, notes: list[str] | None = None) -> list[Issue]:
    """Return the issues of a file, all of it checked.

    Remarks on changed dependencies are added to *notes*, or printed to stderr without it.
    """
    from coordination.base.errors import Refused
    from coordination.formats.beads import MOST_BYTES, read_issues
    from coordination.formats.jsonl import lines

    remarks: list[str] = [] if notes is None else notes
    try:
        with path.open("rb") as file:
            issues = read_issues(lines(file, most=MOST_BYTES), source=str(path), note=remarks.append)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if notes is None:
        _show_notes(remarks)
    return issues


def _show_notes(notes: Sequence[str]) -> None:
    for one in notes[:_MOST_LEFT_OUT]:
        print(one, file=sys.stderr)
    if len(notes) > _MOST_LEFT_OUT:
        print(f"and {len(notes) - _MOST_LEFT_OUT:,} more lines like these", file=sys.stderr)


def moment_of(text: str | None) -> datetime:
    """Return the given moment, or now."""
    from datetime import UTC

    from coordination.base.clock import utc_now
    from coordination.base.errors import Refused

    if text is None:
        return utc_now()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(f"{excerpt(text)} is no time", hint="Write it like 2027-01-01T00:00:00Z") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def write_bytes(path: Path | None, lines: Any) -> None:
    """Write lines to stdout or to a file, which appears whole or not at all."""
    if path is None:
        for line in lines:
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        return
    import os
    import tempfile

    from coordination.base.errors import Refused

    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            written = Path(file.name)
            try:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
                written.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
                written.replace(path)
            except BaseException:
                written.unlink()
                raise
    except OSError as error:
        raise Refused(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from error


def _job(agent: str) -> Callable[[Issue], Mapping[str, Any]]:
    """Return the job for an issue, which it finds in its environment; a Python function also gets it as argument."""
    from coordination.base.errors import Refused
    from coordination.domain.issues import shell_job
    from coordination.domain.jobs import parse_job

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
    raise Refused(
        f"{excerpt(agent)} is not an agent for issues", hint="Write shell:'COMMAND' or python:package.module:function"
    )


def _tell(left_out: Sequence[ExcludedIssue], planned: int) -> None:
    if not left_out:
        return
    print(f"{planned} open issues get a job, {len(left_out)} do not:", file=sys.stderr)
    for left in left_out[:_MOST_LEFT_OUT]:
        print(f"  {left.id}: {left.why}", file=sys.stderr)
    if len(left_out) > _MOST_LEFT_OUT:
        more = len(left_out) - _MOST_LEFT_OUT
        print(f"  and {more} more; ask for one with: coord explain ISSUE --beads FILE", file=sys.stderr)


def _imported(co: Coordination, project: str | None) -> tuple[list[Issue], str]:
    """Return the project's imported issues and its name. Raises NotFound when it has none."""
    from coordination.base.errors import NotFound

    here = chosen_project(co, project)
    issues = co.issues.list(here.id)
    if not issues:
        raise NotFound(f"The project {here.name} has no imported issues", hint="Run: coord import beads FILE")
    return issues, here.name


def _show_issues(issues: Sequence[Issue], rules: str, now: datetime, *, as_json: bool) -> None:
    from coordination.cli.tables import show
    from coordination.domain.issues import ready as ready_issues
    from coordination.domain.issues import rule_set

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
    from coordination.cli.tables import show
    from coordination.store.queries.tasks import tasks

    with co.runtime.store.read() as tx:
        ready_tasks = tasks.ready_of_project(tx, co.runtime.workspace_id, project_id)
    if as_json:
        print_json(listing("ready", lambda task: task_views.task_summary(task, task.run_id), ready_tasks))
        return
    show(
        ["key", "priority", "run", "title"],
        [(task.key, task.priority, task.run_id, task.title) for task in ready_tasks],
        empty="No task is ready. Why one is not: coord explain TASK",
    )
