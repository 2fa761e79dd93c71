"""``coord import beads | export beads | ready``: issues of Beads in and out, and working them off."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.base.wording import excerpt, plural
from coordination.cli.options import AsJson, ProjectName, chosen_project, connected, print_json

if TYPE_CHECKING:
    from coordination.client import Coordination, Run
    from coordination.domain.issues import ExcludedIssue, Issue
    from coordination.domain.plans.plans import Plan

DEFAULT_RULES = "beads-1.0"
_MOST_LEFT_OUT = 20
_MOST_GONE = 3

BeadsFile = Annotated[
    Path | None, typer.Option("--beads", metavar="FILE", help="Issues of this file, instead of imported ones.")
]
Rules = Annotated[str | None, typer.Option("--rules", help="Whose rules say what is ready: beads-1.0 or beads-0.47.")]
Now = Annotated[
    str | None, typer.Option("--now", metavar="TIME", help="As if it were then, such as 2027-01-01T00:00:00Z.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    imports = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Take data of other programs in.")
    imports.command("beads")(import_beads)
    app.add_typer(imports, name="import")
    exports = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write data for other programs.")
    exports.command("beads")(export_beads)
    app.add_typer(exports, name="export")
    app.command("ready")(ready)


def import_beads(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An issues.jsonl of Beads.")],
    *,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Take the issues of a file into the project, in place of those imported before. All of them, or none."""
    from coordination.cli.options import whereabouts
    from coordination.flows.issues.import_issues import import_issues

    notes: list[str] = []
    issues = issues_in(file, notes)
    with connected() as co:
        place = whereabouts(co, project)
        done = co.runtime.store.transact(
            lambda tx: import_issues(
                tx, co.runtime.workspace_id, issues, identity=place.identity, name=place.name, path=place.path
            )
        )
    if as_json:
        print_json({"project": done.project, "issues": done.issues, "replaced": done.replaced, "notes": notes})
    else:
        instead = f", in place of {done.replaced}" if done.replaced else ""
        _show_notes(notes)
        print(f"{done.project} has {plural(done.issues, 'issue')} of {file}{instead}. See: coord ready")


def export_beads(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where to (default: stdout).")] = None,
    *,
    project: ProjectName = None,
) -> None:
    """Write the project's issues back; those whose job has completed as closed."""
    from coordination.formats.beads import write_issues

    with connected() as co:
        found, name = _imported(co, project)
    write_bytes(file, write_issues(found))
    if file is not None:
        print(f"{plural(len(found), 'issue')} of {name} written to {file}.")


def ready(
    *,
    rules: Rules = None,
    beads: BeadsFile = None,
    now: Now = None,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """What can be worked on now: the project's imported issues by Beads' rules, else its own ready tasks."""
    moment = moment_of(now)
    if beads is not None:
        _show_issues(issues_in(beads), rules or DEFAULT_RULES, moment, as_json=as_json)
        return
    with connected() as co:
        if rules is not None:
            found, _ = _imported(co, project)
        else:
            from coordination.store.reports.issues.tracker import tracked

            with co.runtime.store.read() as tx:
                here = chosen_project(tx, co, project)
                found = tracked(tx, co.runtime.workspace_id, here.id)
        if found:
            _show_issues(found, rules or DEFAULT_RULES, moment, as_json=as_json)
            return
        _show_tasks(co, here.id, as_json=as_json)


def plan_of(path: Path, *, agent: str | None, rules: str) -> Plan:
    """The plan that works the open issues of a file off; says on stderr which of them are left out, and why."""
    from coordination.base.clock import utc_now
    from coordination.base.errors import Refused
    from coordination.domain.issues import plan_from_issues, rule_set

    if agent is None:
        raise Refused(
            "Nobody is named who works the issues off",
            hint="Add --agent shell:'COMMAND' or --agent python:package.module:function",
        )
    rule_set(rules)
    run_for = _job(agent)
    plan, left_out = plan_from_issues(issues_in(path), rules=rules, now=utc_now(), run_for=run_for)
    _tell(left_out, len(plan.tasks))
    return plan


def submit(co: Coordination, plan: Plan, path: Path, *, replace: bool = False) -> Run:
    """Store the plan, the file's issues, and which task works which off, in one transaction.

    Refused where that would take imported issues away which the file does not have, unless *replace* or the person at
    the terminal says so.
    """
    issues = issues_in(path, [])
    if not replace:
        _agree(co, plan, path, {issue.id for issue in issues})
    return co.submit(plan, issues=issues)


def _agree(co: Coordination, plan: Plan, path: Path, ids: set[str]) -> None:
    """Ask before issues of another file are replaced; Refused where nobody can be asked, or does not agree."""
    from coordination.base.errors import Refused
    from coordination.location import origin_of
    from coordination.store.queries.issues import issues
    from coordination.store.queries.projects import projects

    workspace_id = co.runtime.workspace_id
    with co.runtime.store.read() as tx:
        here = projects.by_identity(tx, workspace_id, origin_of(plan, actor=co.runtime.actor, metadata={}).identity)
        known = [] if here is None else [row["id"] for row in issues.listed(tx, workspace_id, here.id)]
    gone = [one for one in known if one not in ids]
    if here is None or not gone:
        return
    named = ", ".join(gone[:_MOST_GONE]) + (f" and {len(gone) - _MOST_GONE:,} more" if len(gone) > _MOST_GONE else "")
    what = (
        f"{path} would take the place of the issues of the project {here.name}: {len(gone):,} of its {len(known):,} "
        f"are not in the file ({named})"
    )
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Refused(what, hint="To replace them all the same add --replace; to keep them: coord export beads FILE")
    print(f"{what}. Their tasks stay.", file=sys.stderr)
    if not typer.confirm("Replace them?", err=True):
        raise Refused("Nothing was changed", hint="To keep them in a file: coord export beads FILE")


def issues_in(path: Path, notes: list[str] | None = None) -> list[Issue]:
    """The issues of a file, checked to its last line.

    Sentences on dependencies that are not taken as they stand are added to *notes*; without it they go to stderr.
    """
    from coordination.base.errors import Refused
    from coordination.formats.beads import MOST_BYTES, read_issues
    from coordination.formats.jsonl import lines

    said: list[str] = [] if notes is None else notes
    try:
        with path.open("rb") as file:
            issues = read_issues(lines(file, most=MOST_BYTES), source=str(path), note=said.append)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if notes is None:
        _show_notes(said)
    return issues


def _show_notes(notes: Sequence[str]) -> None:
    for one in notes[:_MOST_LEFT_OUT]:
        print(one, file=sys.stderr)
    if len(notes) > _MOST_LEFT_OUT:
        print(f"and {len(notes) - _MOST_LEFT_OUT:,} more lines like these", file=sys.stderr)


def moment_of(text: str | None) -> datetime:
    """The moment that a person names, else this one."""
    from datetime import UTC

    from coordination.base.clock import utc_now
    from coordination.base.errors import Refused

    if text is None:
        return utc_now()
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(f"{excerpt(text)} is no time", hint="Write it like 2027-01-01T00:00:00Z") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def write_bytes(path: Path | None, lines: Any) -> None:
    """Write lines to stdout or to a file; a file appears whole or not at all."""
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
    """What works one issue off: it learns which from its environment, a Python function also from its argument."""
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
        f"{excerpt(agent)} names nobody who can work", hint="Write shell:'COMMAND' or python:package.module:function"
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
    """The project's imported issues and its name; NotFound when it has none."""
    from coordination.base.errors import NotFound
    from coordination.store.reports.issues.tracker import tracked

    with co.runtime.store.read() as tx:
        here = chosen_project(tx, co, project)
        found = tracked(tx, co.runtime.workspace_id, here.id)
    if not found:
        raise NotFound(f"The project {here.name} has no imported issues", hint="Run: coord import beads FILE")
    return found, here.name


def _show_issues(issues: Sequence[Issue], rules: str, now: datetime, *, as_json: bool) -> None:
    from coordination.cli.tables import show
    from coordination.domain.issues import ready as ready_issues
    from coordination.domain.issues import rule_set

    found = ready_issues(issues, rules, now)
    if as_json:
        print_json(
            {
                "rules": rule_set(rules).name,
                "now": now,
                "ready": [
                    {
                        "id": issue.id,
                        "title": issue.title,
                        "priority": issue.priority,
                        "type": issue.issue_type,
                        "assignee": issue.assignee,
                        "labels": list(issue.labels),
                    }
                    for issue in found
                ],
            }
        )
        return
    show(
        ["id", "priority", "type", "title"],
        [(issue.id, issue.priority, issue.issue_type, issue.title) for issue in found],
        empty="No issue is ready. Why one is not: coord explain ISSUE",
    )


def _show_tasks(co: Coordination, project_id: str, *, as_json: bool) -> None:
    from coordination.cli.tables import show
    from coordination.store.queries.tasks import tasks

    with co.runtime.store.read() as tx:
        found = tasks.ready_of_project(tx, co.runtime.workspace_id, project_id)
    if as_json:
        print_json(
            {
                "ready": [
                    {
                        "id": task.id,
                        "key": task.key,
                        "title": task.title,
                        "priority": task.priority,
                        "run": task.run_id,
                    }
                    for task in found
                ]
            }
        )
        return
    show(
        ["key", "priority", "run", "title"],
        [(task.key, task.priority, task.run_id, task.title) for task in found],
        empty="No task is ready. Why one is not: coord explain TASK",
    )
