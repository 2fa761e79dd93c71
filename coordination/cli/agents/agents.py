"""``coord agents …``: list, create, change and delete agents; export and import them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from coordination.base.errors import Refused
from coordination.base.wording import plural
from coordination.cli.options import AsJson, open_connection, print_json
from coordination.cli.tables import fields
from coordination.cli.tables import show as table
from coordination.cli.terminal import json_text
from coordination.domain.agents.agents import Agent, Profile, parse_profile
from coordination.views import agents as views
from coordination.views.fields import listing

if TYPE_CHECKING:
    from coordination.api.connection import Coordination

Name = Annotated[str, Argument(metavar="NAME", help="The agent's name, such as dave/vc.")]
Runner = Annotated[
    str | None,
    Option(
        "--runner", help="The program: claude, codex, gemini, opencode or custom; or a chat model: openai:gpt-5-mini."
    ),
]
Model = Annotated[str | None, Option("--model", help="The model, as the runner calls it.")]
Role = Annotated[str | None, Option("--role", help="A role, by which tasks choose it; part of its prompts.")]
Label = Annotated[
    list[str] | None,
    Option("--label", help="A label, by which tasks choose it; repeat the option for several. Replaces all labels."),
]
Description = Annotated[str | None, Option("--description", help="A description.")]
Default = Annotated[bool | None, Option("--default/--no-default", help="Whether it gets tasks with agent: default.")]
Active = Annotated[bool | None, Option("--active/--inactive", help="Whether it gets tasks.")]
Set = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Other fields: type, objective, identity.personality, identity.behaviour, runner.args='[\"--x\"]', "
        "runner.secrets, runner.env, runner.command, runner.reads, runner.url, runner.tools; null removes one.",
    ),
]


def list_(*, as_json: AsJson = False) -> None:
    """List agents with their work so far."""
    with open_connection() as co:
        agents = co.agents.list_with_records()
    if as_json:
        print_json(listing("agents", lambda pair: views.agent(*pair), agents))
        return
    table(
        ["name", "runner", "model", "role", "labels", "state", "open", "completed", "last activity"],
        [
            (
                profile.name,
                profile.runner.get("agent") or profile.runner.get("chat"),
                profile.model,
                profile.identity.get("role"),
                " ".join(profile.labels),
                _state(profile),
                record.open,
                record.completed,
                record.last_activity_at,
            )
            for profile, record in ((agent.profile, record) for agent, record in agents)
        ],
        empty="No agents yet. Create one: coord agents create NAME --runner claude",
    )


def show(name: Name, *, as_json: AsJson = False) -> None:
    """Show an agent: its runner, identity and work so far."""
    with open_connection() as co:
        agent, record = co.agents.get(name), co.agents.record(name)
    if as_json:
        print_json(views.agent(agent, record))
        return
    profile = agent.profile
    fields(
        [
            ("name", profile.name),
            ("state", _state(profile)),
            ("description", profile.description),
            ("type", profile.type),
            ("objective", profile.objective),
            ("labels", " ".join(profile.labels)),
            *((f"runner {key}", _text(value)) for key, value in profile.runner.items()),
            ("model", profile.model),
            *profile.identity.items(),
            ("created", agent.created_at),
            ("tasks", f"{record.open} open, {record.completed} completed, started {record.interactions} times"),
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
    """Create an agent."""
    changes = _changes(runner, settings, model, role, label, description, default, active)
    with open_connection() as co:
        agent = co.agents.create(_with(Profile(name), changes))
        _answer(co, agent, f"Created agent {agent.profile.name}", as_json=as_json)


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
    """Change an agent. Tasks that are already assigned keep its earlier fields."""
    changes = _changes(runner, settings, model, role, label, description, default, active)
    with open_connection() as co:
        changed = co.agents.edit(name, lambda profile: _with(profile, changes))
        _answer(co, changed, f"Changed agent {changed.profile.name}", as_json=as_json)


def rename(
    name: Name, new_name: Annotated[str, Argument(metavar="NEW", help="The new name.")], *, as_json: AsJson = False
) -> None:
    """Rename an agent. Its tasks, costs and budgets show the new name."""
    with open_connection() as co:
        _answer(co, co.agents.rename(name, new_name), f"Agent {name} is now {new_name}", as_json=as_json)


def clone(
    name: Name,
    new_name: Annotated[str, Argument(metavar="NEW", help="The name of the copy.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Copy an agent under a new name."""
    with open_connection() as co:
        agent = co.agents.clone(name, new_name)
        _answer(co, agent, f"Created agent {agent.profile.name}", as_json=as_json)


def delete(name: Name) -> None:
    """Delete an agent that has no open tasks. Ended tasks keep its name."""
    with open_connection() as co:
        co.agents.delete(name)
    print(f"Deleted agent {name}.")


def export(
    names: Annotated[list[str] | None, Argument(metavar="[NAME]…", help="The agents (default: all).")] = None,
) -> None:
    """Print agents as JSON for coord agents import. The JSON has names of variables but no secrets."""
    with open_connection() as co:
        print_json(co.agents.export(*names or ()))


def import_(
    file: Annotated[
        Path, Argument(metavar="FILE", help="The output of coord agents export; - is stdin.", allow_dash=True)
    ],
) -> None:
    """Create or replace agents from a file; if one is invalid, none."""
    try:
        document = json.loads(sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{file} cannot be read as JSON: {error}") from None
    with open_connection() as co:
        imported = co.agents.import_(document, source=str(file))
    print(f"Imported {plural(len(imported), 'agent')}: {', '.join(agent.profile.name for agent in imported)}")


_Changes = list[tuple[str, Any]]
_PLACES = ("model", "identity.role", "labels", "description", "default", "active")


def _changes(runner: str | None, settings: list[str] | None, *options: Any) -> _Changes:
    """Return the options as pairs of a place in an agent's document and a value. *options*: for ``_PLACES``."""
    pairs = [*_runner(runner), *zip(_PLACES, options, strict=True)]
    return [(place, value) for place, value in pairs if value is not None] + [_setting(text) for text in settings or ()]


def _runner(name: str | None) -> _Changes:
    """Return the changes that select a program, or a provider with its model, instead of the other."""
    if name is None:
        return []
    kind, other = ("chat", "agent") if ":" in name else ("agent", "chat")
    return [(f"runner.{kind}", name), (f"runner.{other}", "")]


def _setting(text: str) -> tuple[str, Any]:
    place, equals, value = text.partition("=")
    if not equals:
        raise Refused(f"--set {text} has no value", hint="Write it like --set objective='Keep the tests green'")
    try:
        return place, json.loads(value)
    except (ValueError, RecursionError):
        return place, value


def _with(profile: Profile, changes: _Changes) -> Profile:
    """Return the profile with these changes; an empty text and null remove a value."""
    document = profile.to_json()
    for place, value in changes:
        first, point, key = place.partition(".")
        inner = document.setdefault(first, {}) if point else document
        if not isinstance(inner, dict) or "." in key:
            raise Refused(f"An agent has no field {place}")
        inner[key or first] = value
        if value in (None, "", []):
            del inner[key or first]
    return parse_profile({key: value for key, value in document.items() if value not in (None, {}, [])})


def _answer(co: Coordination, agent: Agent, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(views.agent(agent, co.agents.record(agent.profile.name)))
    else:
        print(f"{sentence}. See: coord agents show {agent.profile.name}")


def _state(profile: Profile) -> str:
    return "default" if profile.default else "active" if profile.active else "inactive"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)
