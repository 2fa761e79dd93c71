"""What all commands share: the options given before the command, opening the store, and printing JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.base.json_values import plain
from coordination.cli.terminal import json_text

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from coordination.client import Coordination
    from coordination.domain.projects.projects import Project


@dataclass(slots=True)
class Shared:
    """Options given before the command."""

    debug: bool = False


shared = Shared()

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")]
ProjectName = Annotated[
    str | None,
    typer.Option("--project", "-p", metavar="NAME", help="Which project (default: the repository you stand in)."),
]
OfProject = Annotated[str | None, typer.Option("--project", "-p", metavar="NAME", help="Only of this project.")]
Limit = Annotated[int, typer.Option("--limit", "-n", help="At most so many.", min=1, max=100_000)]


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Which project is meant, by its identity; it need not exist yet."""

    identity: str
    name: str
    path: str | None


def whereabouts(co: Coordination, project: str | None) -> Whereabouts:
    """The project that a person names (it must exist), else that of the folder one stands in (it may be new)."""
    if project is not None:
        found = co.project(project)
        return Whereabouts(found.identity, found.name, found.path)
    from coordination.adapters import git_checkout

    here = git_checkout.here()
    return Whereabouts(here.identity, here.name, str(here.root))


def chosen_project(tx: Connection, co: Coordination, project: str | None) -> Project:
    """The project that a person names, else that of the folder one stands in; NotFound when it is not known yet."""
    from coordination.adapters import git_checkout
    from coordination.base.errors import NotFound
    from coordination.services.projects import projects as project_service
    from coordination.store.queries.projects import projects

    if project is not None:
        return project_service.find(tx, co.runtime.workspace_id, project)
    here = git_checkout.here()
    found = projects.by_identity(tx, co.runtime.workspace_id, here.identity)
    if found is None:
        raise NotFound(f"{here.root} is no project yet", hint="Name one with --project; see: coord projects list")
    return found


@contextmanager
def connected(*, migrate: bool = True) -> Iterator[Coordination]:
    """The store that the settings name; the embedded one is made at its first use."""
    from coordination.client import Coordination
    from coordination.runtime import open_runtime
    from coordination.settings import load_settings

    settings = load_settings()
    own = not settings.sources.get("database_url")
    if own:
        from coordination.stack.home import Home

        Home(settings.home).prepared()
    with Coordination(open_runtime(settings, migrate=migrate and own)) as co:
        yield co


def print_json(value: Any) -> None:
    """One JSON document on stdout: money as text (exact), moments as ISO 8601 in UTC, durations in seconds."""
    print(json_text(plain(value), indent=2))
