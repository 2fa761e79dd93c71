"""``coord agents …``: whom work can be given to, by name, by role, by label."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.base.wording import plural
from coordination.cli.options import AsJson, connected, print_json
from coordination.cli.terminal import json_text

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from coordination.domain.agents.agents import Agent, Profile, Record

Name = Annotated[str, typer.Argument(metavar="NAME", help="The agent's name, such as dave/vc.")]
Runner = Annotated[
    str | None,
    typer.Option(
        "--runner",
        help="What is started: claude, codex, gemini, opencode or custom; or what is chatted with: openai:gpt-5-mini.",
    ),
]
Model = Annotated[str | None, typer.Option("--model", help="The model, as the runner calls it.")]
Role = Annotated[str | None, typer.Option("--role", help="By which work can be given to it; told to its model.")]
Label = Annotated[
    list[str] | None, typer.Option("--label", help="By which work can be given to it. May be repeated; takes all.")
]
Description = Annotated[str | None, typer.Option("--description", help="What it is for.")]
Default = Annotated[
    bool | None, typer.Option("--default/--no-default", help="Whether it gets the work of agent: default.")
]
Active = Annotated[bool | None, typer.Option("--active/--inactive", help="Whether it takes work.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Anything else: type, objective, identity.personality, identity.behaviour, runner.args='[\"--x\"]', "
        "runner.secrets, runner.env, runner.command, runner.reads, runner.url, runner.tools; null takes it away.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Agents: whom work can be given to.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("create")(create)
    group.command("change")(change)
    group.command("rename")(rename)
    group.command("clone")(clone)
    group.command("delete")(delete)
    group.command("export")(export)
    group.command("import")(import_)
    app.add_typer(group, name="agents")


def list_(*, as_json: AsJson = False) -> None:
    """All agents, and what they came to."""
    from coordination.cli.tables import show as table
    from coordination.domain.agents.agents import Record
    from coordination.store.queries.agents import agents

    with connected() as co, co.runtime.store.read() as tx:
        found = agents.listed(tx, co.runtime.workspace_id)
        records = agents.records(tx, co.runtime.workspace_id, [agent.profile.name for agent in found])
    if as_json:
        print_json({"agents": [_document(agent, records.get(agent.profile.name, Record())) for agent in found]})
        return
    table(
        ["name", "runner", "model", "role", "labels", "state", "open", "completed", "last activity"],
        [
            (
                of.name,
                of.runner.get("agent") or of.runner.get("chat"),
                of.model,
                of.identity.get("role"),
                " ".join(of.labels),
                _state(of),
                record.open,
                record.completed,
                record.last_activity_at,
            )
            for of, record in ((one.profile, records.get(one.profile.name, Record())) for one in found)
        ],
        empty="No agents yet. Make one with: coord agents create NAME --runner claude",
    )


def show(name: Name, *, as_json: AsJson = False) -> None:
    """One agent: how it is run, who it is meant to be, and what it came to."""
    from coordination.cli.tables import fields
    from coordination.domain.agents.agents import Record
    from coordination.services.agents import agents as service
    from coordination.store.queries.agents import agents

    with connected() as co, co.runtime.store.read() as tx:
        agent = service.find(tx, co.runtime.workspace_id, name)
        record = agents.records(tx, co.runtime.workspace_id, [name]).get(name, Record())
    if as_json:
        print_json(_document(agent, record))
        return
    of = agent.profile
    fields(
        [
            ("name", of.name),
            ("state", _state(of)),
            ("description", of.description),
            ("type", of.type),
            ("objective", of.objective),
            ("labels", " ".join(of.labels)),
            *((f"runner {key}", _shown(value)) for key, value in of.runner.items()),
            ("model", of.model),
            *of.identity.items(),
            ("created", agent.created_at),
            ("tasks", f"{record.open} open, {record.completed} completed, put to work {record.interactions} times"),
            ("last activity", record.last_activity_at),
        ]
    )


def create(
    name: Name,
    *,
    runner: Runner = None,
    model: Model = None,
    role: Role = None,
    label: Label = None,
    description: Description = None,
    default: Default = None,
    active: Active = None,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Make an agent that work can be given to."""
    from coordination.domain.agents.agents import Profile
    from coordination.services.agents import agents as service

    said = _said(runner, model, role, label, description, default, active, settings)
    profile = _with(Profile(name), said)
    _store(lambda tx, workspace_id: service.create(tx, workspace_id, profile), "made", as_json=as_json)


def change(
    name: Name,
    *,
    runner: Runner = None,
    model: Model = None,
    role: Role = None,
    label: Label = None,
    description: Description = None,
    default: Default = None,
    active: Active = None,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Change what an agent is. Tasks that were given to it before keep what it was then."""
    from coordination.services.agents import agents as service

    said = _said(runner, model, role, label, description, default, active, settings)
    _store(
        lambda tx, workspace_id: service.change(tx, workspace_id, name, lambda of: _with(of, said)),
        "changed",
        as_json=as_json,
    )


def rename(
    name: Name,
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="The name from now on.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Give an agent another name; its tasks, costs and budgets show it from now on."""
    with connected() as co:
        agent = co.agents.rename(name, new_name)
    if as_json:
        print_json(agent.profile.to_json())
    else:
        print(f"Agent {name} is now {new_name}. See: coord agents show {new_name}")


def clone(
    name: Name,
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="The name of the other one.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Make another agent like one that there is."""
    from coordination.services.agents import agents as service

    _store(lambda tx, workspace_id: service.clone(tx, workspace_id, name, new_name), "made", as_json=as_json)


def delete(name: Name) -> None:
    """Forget an agent that has no open tasks; what it has done keeps its name."""
    from coordination.services.agents import agents as service

    with connected() as co:
        co.runtime.store.transact(lambda tx: service.delete(tx, co.runtime.workspace_id, name))
    print(f"There is no agent {name} any more.")


def export(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="Which ones (default: all).")] = None,
) -> None:
    """Print agents as JSON, for coord agents import. Nothing secret is in it: secrets are names of variables."""
    with connected() as co:
        print_json(co.agents.export(*names or ()))


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What coord agents export printed; - is stdin.", allow_dash=True)
    ],
) -> None:
    """Make agents from a file; those that there are become what it says. All of them, or none."""
    from coordination.base.errors import Refused

    try:
        document = json.loads(sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{file} cannot be read as JSON: {error}") from None
    with connected() as co:
        made = co.agents.import_(document, source=str(file))
    print(f"{plural(len(made), 'agent')}: {', '.join(agent.profile.name for agent in made)}")


_Said = list[tuple[str, Any]]


def _said(  # noqa: PLR0917 - the options of two commands, in their order
    runner: str | None,
    model: str | None,
    role: str | None,
    label: list[str] | None,
    description: str | None,
    default: bool | None,
    active: bool | None,
    settings: list[str] | None,
) -> _Said:
    """What the options say, as places in an agent's document and values."""
    given = [
        *_runner(runner),
        *(("model", model), ("identity.role", role), ("labels", label)),
        *(("description", description), ("default", default), ("active", active)),
    ]
    return [(place, value) for place, value in given if value is not None] + [_setting(text) for text in settings or ()]


def _runner(said: str | None) -> _Said:
    """A program, or a provider with its model: one takes the other's place."""
    if said is None:
        return []
    kind, other = ("chat", "agent") if ":" in said else ("agent", "chat")
    return [(f"runner.{kind}", said), (f"runner.{other}", "")]


def _setting(text: str) -> tuple[str, Any]:
    from coordination.base.errors import Refused

    place, equals, value = text.partition("=")
    if not equals:
        raise Refused(f"--set {text} says no value", hint="Write it like --set objective='Keep the tests green'")
    try:
        return place, json.loads(value)
    except (ValueError, RecursionError):
        return place, value


def _with(profile: Profile, said: _Said) -> Profile:
    """The profile with these values in their places; an empty text and null take away what was there."""
    from coordination.base.errors import Refused
    from coordination.domain.agents.agents import profile_of

    document = profile.to_json()
    for place, value in said:
        first, point, key = place.partition(".")
        inner = document.setdefault(first, {}) if point else document
        if not isinstance(inner, dict) or "." in key:
            raise Refused(f"There is no place {place} in an agent")
        inner[key or first] = value
        if value in (None, "", []):
            del inner[key or first]
    return profile_of({key: value for key, value in document.items() if value not in (None, {}, [])})


def _store(act: Callable[[Connection, str], Agent], done: str, *, as_json: bool) -> None:
    with connected() as co:
        agent = co.runtime.store.transact(lambda tx: act(tx, co.runtime.workspace_id))
    if as_json:
        print_json(agent.profile.to_json())
    else:
        print(f"Agent {agent.profile.name} {done}. See: coord agents show {agent.profile.name}")


def _document(agent: Agent, record: Record) -> dict[str, Any]:
    return {
        **agent.profile.to_json(),
        "default": agent.profile.default,
        "id": agent.id,
        "created_at": agent.created_at,
        "updated_at": agent.updated_at,
        "tasks_open": record.open,
        "tasks_completed": record.completed,
        "interactions": record.interactions,
        "last_activity_at": record.last_activity_at,
    }


def _state(profile: Profile) -> str:
    return "default" if profile.default else "active" if profile.active else "inactive"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)
