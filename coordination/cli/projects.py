"""``coord projects …``: see projects, describe them, hold and release them, and say how much of them runs at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.base.wording import excerpt, plural
from coordination.cli.budgets import caps_of_project, spent_of
from coordination.cli.gates import gates
from coordination.cli.options import AsJson, connected, print_json
from coordination.cli.stopping import say_if_stopped

if TYPE_CHECKING:
    from coordination.client import Coordination
    from coordination.domain.projects.projects import Project

Name = Annotated[str, typer.Argument(metavar="NAME", help="The project: its name, identity, alias or id.")]
_MOST_DIGITS = 9
_JSON_HINT = "Write it like key=true, key=12 or key='{\"a\": 1}'; key=null takes it away"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Projects: what work belongs together.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("create")(create)
    group.command("change")(change)
    group.command("hold")(hold)
    group.command("activate")(activate)
    group.command("complete")(complete)
    group.command("archive")(archive)
    group.command("alias")(alias)
    group.command("limit")(limit)
    group.command("gates")(gates)
    app.add_typer(group, name="projects")


def list_(
    *,
    archived: Annotated[bool, typer.Option("--archived", help="Also those put away.")] = False,
    as_json: AsJson = False,
) -> None:
    """All projects with what they came to so far."""
    from coordination.base.money import show_usd
    from coordination.cli.tables import show as table
    from coordination.store.queries.projects import projects
    from coordination.store.reports.projects import project_summary

    with connected() as co:
        with co.runtime.store.read() as tx:
            found = projects.listed(tx, co.runtime.workspace_id)
            totals = project_summary.totals(tx, co.runtime.workspace_id)
        budgets = [one for one in co.budgets.list() if one.scope == "project"] if as_json else []
    nothing = project_summary.ProjectTotals()
    found = [project for project in found if archived or project.status != "archived"]
    if as_json:
        rows = [
            {
                **_plain(project),
                "budgets": [one.to_json() for one in budgets if one.budget.subject == project.id],
                "totals": totals.get(project.id, nothing),
            }
            for project in found
        ]
        print_json({"projects": rows})
        return
    table(
        ["name", "status", "runs", "tasks", "sessions", "agents", "cost", "identity"],
        [
            (
                project.name,
                f"{project.status} (stopped)" if project.stopped else project.status,
                of.runs,
                of.tasks,
                of.sessions,
                of.agents,
                show_usd(of.cost_usd),
                project.identity,
            )
            for project in found
            for of in [totals.get(project.id, nothing)]
        ],
        empty="No projects yet. The first one is made by: coord run PLAN",
    )


def show(name: Name, *, as_json: AsJson = False) -> None:
    """One project: totals, its supervisor, limits, sessions with their cost, the newest runs."""
    with connected() as co:
        document = _document(co, co.project(name))
    if as_json:
        print_json(document)
    else:
        _show_for_people(document)


def _document(co: Coordination, project: Project) -> dict[str, Any]:
    from coordination.store.queries.issues import issues
    from coordination.store.queries.projects import projects
    from coordination.store.queries.tasks import runs, slots
    from coordination.store.reports.fleet import supervision
    from coordination.store.reports.money import spending
    from coordination.store.reports.projects import project_summary

    runtime = co.runtime
    mine = co.budgets.of("project", project.id)
    with runtime.store.read() as tx:
        totals = project_summary.totals(tx, runtime.workspace_id, project_id=project.id)
        spent = {
            group.key: group
            for group in spending.spending(tx, runtime.workspace_id, by="session", project_id=project.id)
        }
        sessions = runs.list_sessions(tx, runtime.workspace_id, project_id=project.id)
        return {
            **_plain(project),
            "budgets": [one.to_json() for one in mine],
            "aliases": projects.aliases(tx, runtime.workspace_id, project.id),
            "totals": totals.get(project.id, project_summary.ProjectTotals()),
            "orchestrator": supervision.orchestrator(
                tx, runtime.workspace_id, project.id, thresholds=runtime.settings.supervision()
            ),
            "limits": slots.listed(tx, runtime.workspace_id, project.id),
            "sessions": [
                {
                    "id": session.id,
                    "purpose": session.purpose,
                    "agent": session.agent,
                    "last_activity_at": session.last_activity_at,
                    "calls": spent[session.id].calls if session.id in spent else 0,
                    "cost_usd": spent[session.id].cost_usd if session.id in spent else 0,
                }
                for session in sessions
            ],
            "runs": [
                {"id": run.id, "name": run.name, "state": run.state, "tasks": run.total, "created_at": run.created_at}
                for run in runs.listed(tx, runtime.workspace_id, project_id=project.id, limit=10)
            ],
            "issues": issues.count(tx, runtime.workspace_id, project.id),
        }


def _show_for_people(document: dict[str, Any]) -> None:
    from coordination.base.money import show_usd
    from coordination.cli.tables import fields
    from coordination.cli.tables import show as table

    totals, boss = document["totals"], document["orchestrator"]
    unknown = f" and {plural(totals.unpriced_calls, 'call')} of unknown price" if totals.unpriced_calls else ""
    fields(
        [
            ("name", document["name"]),
            ("identity", document["identity"]),
            ("aliases", ", ".join(document["aliases"])),
            ("id", document["id"]),
            ("description", document["description"]),
            ("status", document["status"]),
            ("stopped", "nothing of it starts (coord status says why)" if document["stopped"] else None),
            ("folder", document["path"]),
            ("supervisor", boss["status"]),
            ("its ticks fail", f"since {boss['failingSince']}: {boss['error']}" if boss["error"] else None),
            ("cost", show_usd(totals.cost_usd) + unknown),
            (
                "counts",
                ", ".join(
                    plural(number, noun)
                    for number, noun in (
                        (totals.runs, "run"),
                        (totals.tasks, "task"),
                        (totals.sessions, "session"),
                        (totals.agents, "agent"),
                    )
                ),
            ),
            ("issues", document["issues"] or None),
            ("limits", {slot["name"]: f"{slot['used']}/{slot['cap']}" for slot in document["limits"]}),
            *(("budget", spent_of(one)) for one in document["budgets"]),
            *((name, document[name]) for name in ("settings", "model_restrictions", "metadata")),
        ]
    )
    print("\nsessions")
    table(
        ["id", "purpose", "agent", "calls", "cost", "last activity"],
        [
            (one["id"], one["purpose"], one["agent"], one["calls"], show_usd(one["cost_usd"]), one["last_activity_at"])
            for one in document["sessions"]
        ],
    )
    print("\nnewest runs")
    table(
        ["id", "name", "state", "tasks", "created"],
        [(run["id"], run["name"], run["state"], run["tasks"], run["created_at"]) for run in document["runs"]],
    )


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    *,
    remote: Annotated[str | None, typer.Option("--remote", metavar="URL", help="The git remote that names it.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="What it is about.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a project before work is submitted to it: of a git remote, or of the folder you stand in."""
    from coordination.adapters import git_checkout
    from coordination.domain.projects.projects import identity_of
    from coordination.services.projects import projects as service

    with connected() as co:
        identity, path = (identity_of(remote), None) if remote else _here(git_checkout.here())

        def store(tx: Any) -> Project:
            made = service.create(tx, co.runtime.workspace_id, identity=identity, name=name, path=path)
            service.amend(tx, co.runtime.workspace_id, made, description=description)
            return made

        made = co.project(co.runtime.store.transact(store).id)
    if as_json:
        print_json(_plain(made))
    else:
        print(f"Project {made.name} is {made.identity}.")


def _here(found: Any) -> tuple[str, str | None]:
    return found.identity, str(found.root)


def change(
    name: Name,
    *,
    rename: Annotated[str | None, typer.Option("--name", help="What people call it from now on.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="What it is about.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=JSON", help="A setting.")] = None,
    budgets: Annotated[
        list[str] | None,
        typer.Option("--budget", metavar="PERIOD=JSON", help='A budget: month=50, total={"usd": 5, "tokens": 100000}.'),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", metavar="KEY=JSON", help="allow or deny, with a list of names of models."),
    ] = None,
    metadata: Annotated[list[str] | None, typer.Option("--meta", metavar="KEY=JSON", help="Anything else.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change name, description, settings, budgets, restrictions of models, metadata; null takes a key away.

    A budget that is given replaces what the project had for that period: total, day or month.
    """
    from coordination.flows.projects.change_project import change_project
    from coordination.services.projects import projects as service

    caps = caps_of_project(_pairs(budgets))
    columns = {"settings": settings, "model_restrictions": models, "metadata": metadata}
    merged = {column: _pairs(pairs) for column, pairs in columns.items()}
    with connected() as co:
        workspace_id = co.runtime.workspace_id

        def store(tx: Any) -> str:
            found = service.find(tx, workspace_id, name)
            actor = co.runtime.actor
            change_project(tx, workspace_id, found, actor=actor, name=rename, description=description, merged=merged)
            co.budgets.store_all(tx, found.id, caps)
            return found.id

        after = co.project(co.runtime.store.transact(store))
        if caps or merged["settings"] or merged["model_restrictions"]:
            co.runtime.nudge(after.id)
        mine = co.budgets.of("project", after.id)
    if as_json:
        print_json({**_plain(after), "budgets": [one.to_json() for one in mine]})
    else:
        print(f"Project {after.name} changed. See: coord projects show {after.name}")


def hold(name: Name) -> None:
    """Start nothing more of a project; what runs goes on."""
    with connected() as co:
        co.hold(name)
    print(f"{name} is on hold. Let it go on with: coord projects activate {name}")


def activate(name: Name) -> None:
    """Let a project that is on hold, completed or archived take work again."""
    with connected() as co:
        freed = co.resume_project(name)
        say_if_stopped(co, co.project(name).id)
    queued = f"; {plural(freed, 'task is', 'tasks are')} queued again" if freed else ""
    print(f"{name} is active{queued}.")


def complete(name: Name) -> None:
    """Say that a project's work is done."""
    from coordination.domain.projects.projects import ProjectStatus

    _end(name, ProjectStatus.COMPLETED)


def archive(name: Name) -> None:
    """Put a project away: it refuses new work until it is activated."""
    from coordination.domain.projects.projects import ProjectStatus

    _end(name, ProjectStatus.ARCHIVED)


def _end(name: str, status: Any) -> None:
    from coordination.flows.projects.end_project import end_project

    with connected() as co:
        found = co.project(name)
        co.runtime.store.transact(lambda tx: end_project(tx, co.runtime.workspace_id, found.id, status))
    print(f"{found.name} is {status}.")


def alias(
    name: Name, remote: Annotated[str, typer.Argument(metavar="REMOTE", help="A git remote that also names it.")]
) -> None:
    """Let a renamed or moved git remote name the project too."""
    from coordination.domain.projects.projects import identity_of
    from coordination.services.projects import projects as service

    identity = identity_of(remote)
    with connected() as co:
        found = co.project(name)
        co.runtime.store.transact(lambda tx: service.rename_remote(tx, co.runtime.workspace_id, found, identity))
    print(f"{identity} also names {found.name}.")


def limit(
    name: Name,
    *,
    project: Annotated[int | None, typer.Option("--project", metavar="N", help="Tasks at once in all.", min=0)] = None,
    agent: Annotated[
        list[str] | None, typer.Option("--agent", metavar="NAME=N", help="Tasks at once of an agent.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="NAME=N", help="Tasks at once with a concurrency key.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", metavar="LIMIT", help="Take away: project, agent:NAME or key:NAME.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how many tasks of a project may run at once; without options, show the limits."""
    from coordination.cli.tables import show as table

    caps: dict[str, int | None] = {f"agent:{who}": cap for who, cap in _numbers(agent)}
    caps |= {f"key:{what}": cap for what, cap in _numbers(key)}
    if project is not None:
        caps["project"] = project
    caps |= dict.fromkeys(drop or [])
    with connected() as co:
        found = co.project(name)
        if caps:
            slots = co.set_limits(found.id, caps)
        else:
            from coordination.store.queries.tasks import slots as rows

            with co.runtime.store.read() as tx:
                slots = rows.listed(tx, co.runtime.workspace_id, found.id)
    if as_json:
        print_json({"project": found.name, "limits": slots})
    else:
        table(
            ["limit", "used", "of"], [(slot["name"], slot["used"], slot["cap"]) for slot in slots], empty="No limits."
        )


def _numbers(pairs: list[str] | None) -> list[tuple[str, int]]:
    from coordination.base.errors import Refused

    found = []
    for pair in pairs or []:
        name, separator, number = pair.rpartition("=")
        if not (separator and name and number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS):
            raise Refused(f"{excerpt(pair)} is no limit", hint="Write it like NAME=2")
        found.append((name, int(number)))
    return found


def _pairs(pairs: list[str] | None) -> dict[str, Any]:
    from coordination.base.errors import Refused

    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, separator, value = pair.partition("=")
        if not (separator and key):
            raise Refused(f"{excerpt(pair)} sets nothing", hint=_JSON_HINT)
        try:
            found[key] = json.loads(value)
        except (ValueError, RecursionError):
            raise Refused(f"The value of {excerpt(key)} is not JSON: {excerpt(value[:80])}", hint=_JSON_HINT) from None
    return found


def _plain(project: Project) -> dict[str, Any]:
    from dataclasses import asdict

    found = asdict(project)
    del found["workspace_id"], found["budgets"]
    return found
