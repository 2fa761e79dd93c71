"""``coord projects …``: list, create, change, pause and resume projects; set their limits and gates."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from coordination.base.durations import parse_duration, show_duration
from coordination.base.errors import Refused
from coordination.base.money import ZERO, show_usd
from coordination.base.wording import excerpt, plural
from coordination.cli.money.budgets import caps_of_project, usage_of
from coordination.cli.options import AsJson, open_connection, print_json
from coordination.cli.projects.stopping import warn_if_stopped
from coordination.cli.tables import fields
from coordination.cli.tables import show as table
from coordination.cli.terminal import json_text
from coordination.views import projects as views

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordination.api.projects import ProjectDetails
    from coordination.domain.money.budget_status import BudgetStatus
    from coordination.domain.projects.projects import Project

Name = Annotated[str, Argument(metavar="NAME", help="The project: its name, identity, alias or id.")]
_MOST_DIGITS = 9
_SETTINGS = (
    "gates",
    "supervision",
    "questions",
    "supervisor",
    "delegates",
    "prompts",
    "tech_stack",
    "spec_path",
    "output_path",
    "quiet_hours",
)
_JSON_HINT = "Write it like key=true, key=12 or key='{\"a\": 1}'; key=null removes it"


def list_(
    *,
    archived: Annotated[bool, Option("--archived", help="Include archived projects.")] = False,
    as_json: AsJson = False,
) -> None:
    """List projects with their totals."""
    with open_connection() as co:
        rows = co.projects.list_with_totals(archived=archived)
        budgets = [each for each in co.budgets.list() if each.scope == "project"] if as_json else []
    if as_json:
        print_json(views.projects(rows, budgets))
        return
    table(
        ["name", "status", "runs", "tasks", "sessions", "agents", "cost", "identity"],
        [
            (
                project.name,
                f"{project.status} (stopped)" if project.stopped else project.status,
                totals.runs,
                totals.tasks,
                totals.sessions,
                totals.agents,
                show_usd(totals.cost_usd),
                project.identity,
            )
            for project, totals in rows
        ],
        empty="No projects yet. Create the first one with: coord run PLAN",
    )


def show(name: Name, *, as_json: AsJson = False) -> None:
    """Show a project: totals, supervisor, limits, sessions and runs."""
    with open_connection() as co:
        project = co.project(name)
        details = co.projects.details(project)
        budgets = co.budgets.of("project", project.id)
    if as_json:
        print_json(views.project_details(project, budgets=budgets, **details._asdict()))
    else:
        _show_for_people(project, budgets, details)


def _show_for_people(project: Project, budgets: Sequence[BudgetStatus], details: ProjectDetails) -> None:
    totals, supervisor = details.totals, details.orchestrator
    unknown = f" and {plural(totals.unpriced_calls, 'call')} of unknown price" if totals.unpriced_calls else ""
    failing = f"since {supervisor['failingSince']}: {supervisor['error']}" if supervisor["error"] else None
    counts = ((totals.runs, "run"), (totals.tasks, "task"), (totals.sessions, "session"), (totals.agents, "agent"))
    fields(
        [
            ("name", project.name),
            ("identity", project.identity),
            ("aliases", ", ".join(details.aliases)),
            ("id", project.id),
            ("description", project.description),
            ("status", project.status),
            ("stopped", "none of its tasks starts; see: coord status" if project.stopped else None),
            ("folder", project.path),
            ("supervisor", supervisor["status"]),
            ("failing ticks", failing),
            ("cost", show_usd(totals.cost_usd) + unknown),
            ("counts", ", ".join(plural(number, noun) for number, noun in counts)),
            ("issues", details.issues or None),
            ("limits", {slot["name"]: f"{slot['used']}/{slot['cap']}" for slot in details.limits}),
            *(("budget", usage_of(budget)) for budget in budgets),
            *_as_json("settings", project.settings),
            *_as_json("model_restrictions", project.model_restrictions),
            *_as_json("metadata", project.metadata),
        ]
    )
    print("\nsessions")
    table(
        ["id", "purpose", "agent", "calls", "cost", "last activity"],
        [
            (
                session.id,
                session.purpose,
                session.agent,
                spent.calls if spent else 0,
                show_usd(spent.cost_usd if spent else ZERO),
                session.last_activity_at,
            )
            for session, spent in details.sessions
        ],
    )
    print("\nnewest runs")
    table(
        ["id", "name", "state", "tasks", "created"],
        [(run.id, run.name, run.state, run.total, run.created_at) for run in details.runs],
    )


def _as_json(name: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return one line per key, in the form of the option that sets it."""
    return [(name, f"{key}={json_text(value)}") for key, value in values.items()]


def create(
    name: Annotated[str, Argument(metavar="NAME", help="The name of the project.")],
    *,
    remote: Annotated[str | None, Option(metavar="URL", help="The git remote (default: the current folder).")] = None,
    description: Annotated[str | None, Option(help="A description.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a project for a git remote, or for the current folder.

    A plan that is submitted creates its project, too.
    """
    with open_connection() as co:
        created = co.projects.create(name, remote=remote, description=description)
    if as_json:
        print_json(views.project(created))
    else:
        print(f"Created project {created.name} ({created.identity}).")


def change(
    name: Name,
    *,
    rename: Annotated[str | None, Option("--name", help="A new name.")] = None,
    description: Annotated[str | None, Option(help="A description.")] = None,
    settings: Annotated[
        list[str] | None, Option("--set", metavar="KEY=JSON", help=f"A setting: {', '.join(_SETTINGS)}.")
    ] = None,
    budgets: Annotated[
        list[str] | None,
        Option("--budget", metavar="PERIOD=JSON", help='A budget: month=50, total={"usd": 5, "tokens": 100000}.'),
    ] = None,
    models: Annotated[
        list[str] | None, Option(metavar="KEY=JSON", help="allow or deny, with a list of model names.")
    ] = None,
    metadata: Annotated[list[str] | None, Option("--meta", metavar="KEY=JSON", help="Any other data.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change the name, description, settings or budgets of a project.

    null removes a key. A budget replaces the project's budget of that period: total, day or month.
    """
    caps = caps_of_project(_pairs(budgets))
    with open_connection() as co:
        after = co.projects.change(
            name,
            name=rename,
            description=description,
            settings=_pairs(settings),
            models=_pairs(models),
            metadata=_pairs(metadata),
            budgets=caps,
        )
        own_budgets = co.budgets.of("project", after.id)
    if as_json:
        print_json(views.project(after, own_budgets))
    else:
        print(f"Changed project {after.name}. See: coord projects show {shlex.quote(after.name)}")


def pause(name: Name) -> None:
    """Pause a project: start no more tasks. Running jobs continue; its status is then on_hold."""
    with open_connection() as co:
        co.projects.pause(name)
    print(f"Paused {name}. Resume it with: coord projects resume {shlex.quote(name)}")


def resume(name: Name) -> None:
    """Make a paused, completed or archived project active again."""
    with open_connection() as co:
        count = co.projects.resume(name)
        warn_if_stopped(co, co.project(name).id)
    queued = f"; {plural(count, 'task is', 'tasks are')} queued again" if count else ""
    print(f"{name} is active{queued}.")


def complete(name: Name) -> None:
    """Mark a project as completed."""
    with open_connection() as co:
        project = co.projects.complete(name)
    print(f"{project.name} is {project.status}.")


def archive(name: Name) -> None:
    """Archive a project. It refuses new work until it is resumed."""
    with open_connection() as co:
        project = co.projects.archive(name)
    print(f"{project.name} is {project.status}.")


def alias(name: Name, remote: Annotated[str, Argument(metavar="REMOTE", help="The other git remote.")]) -> None:
    """Add a renamed or moved git remote to a project."""
    with open_connection() as co:
        project = co.project(name)
        identity = co.projects.add_alias(project.id, remote)
    print(f"{identity} also names {project.name}.")


def limit(
    name: Name,
    *,
    project: Annotated[int | None, Option(metavar="N", help="Parallel tasks in all.", min=0)] = None,
    agent: Annotated[list[str] | None, Option(metavar="NAME=N", help="Parallel tasks of an agent.")] = None,
    key: Annotated[list[str] | None, Option(metavar="NAME=N", help="Parallel tasks with a concurrency key.")] = None,
    drop: Annotated[
        list[str] | None, Option(metavar="LIMIT", help="Remove a limit: project, agent:NAME or key:NAME.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set how many tasks of a project run in parallel. Without options, shows the limits."""
    caps: dict[str, int | None] = {f"agent:{agent_name}": cap for agent_name, cap in _numbers(agent)}
    caps |= {f"key:{key_name}": cap for key_name, cap in _numbers(key)}
    if project is not None:
        caps["project"] = project
    caps |= dict.fromkeys(drop or [])
    with open_connection() as co:
        target = co.project(name)
        slots = co.projects.set_limits(target.id, caps) if caps else co.projects.limits(target.id)
    if as_json:
        print_json(views.project_limits(target.name, slots))
    else:
        table(
            ["limit", "used", "of"], [(slot["name"], slot["used"], slot["cap"]) for slot in slots], empty="No limits."
        )


def gates(
    name: Annotated[str, Argument(metavar="NAME", help="The project: its name, identity, alias or id.")],
    commands: Annotated[list[str] | None, Argument(metavar="[COMMAND]...", help="The gates, in order.")] = None,
    *,
    timeout: Annotated[str | None, Option(metavar="TIME", help="The time limit of each gate.")] = None,
    none: Annotated[bool, Option("--none", help="Remove all gates.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set the commands that must succeed before a task is completed.

    Without commands, shows them. They run for tasks of agents and tasks with a git worktree, in plans submitted later.
    """
    from coordination.domain.jobs.checkouts import GATE_TIMEOUT, Gate, parse_gates

    if none and commands:
        raise Refused("Give either gates or --none")
    if timeout is not None and not commands:
        raise Refused("--timeout needs gates", hint='Write: coord projects gates NAME "make"')
    limit = GATE_TIMEOUT if timeout is None else parse_duration(timeout)
    new_gates = parse_gates([Gate(command, limit) for command in commands or []])
    with open_connection() as co:
        project = co.projects.set_gates(name, new_gates) if new_gates or none else co.project(name)
    present = parse_gates(project.settings.get("gates"))
    if as_json:
        print_json(views.project_gates(project.name, present))
        return
    table(["gate", "timeout"], [(gate.label, show_duration(gate.timeout)) for gate in present], empty="No gates.")


def _numbers(pairs: list[str] | None) -> list[tuple[str, int]]:
    numbers = []
    for pair in pairs or []:
        name, separator, number = pair.rpartition("=")
        if not (separator and name and number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS):
            raise Refused(f"{excerpt(pair)} is not a limit", hint="Write it like NAME=2")
        numbers.append((name, int(number)))
    return numbers


def _pairs(pairs: list[str] | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs or []:
        key, separator, value = pair.partition("=")
        if not (separator and key):
            raise Refused(f"{excerpt(pair)} has no key or no value", hint=_JSON_HINT)
        try:
            values[key] = json.loads(value)
        except (ValueError, RecursionError):
            raise Refused(f"The value of {excerpt(key)} is not JSON: {excerpt(value[:80])}", hint=_JSON_HINT) from None
    return values
