"""Shared by all commands: common options, the project of a command, the connection, printing JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from coordination.base.errors import NotFound
from coordination.base.json_values import to_json_types
from coordination.cli.terminal import json_text
from coordination.settings import load_settings

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.domain.projects.projects import Project

AsJson = Annotated[bool, Option("--json", help="Print one JSON document and nothing else on stdout.")]
ProjectName = Annotated[
    str | None, Option("--project", "-p", metavar="NAME", help="The project (default: that of the current folder).")
]
OfProject = Annotated[str | None, Option("--project", "-p", metavar="NAME", help="Only this project.")]
Limit = Annotated[int, Option("--limit", "-n", help="The maximum number of rows.", min=1, max=100_000)]


def chosen_project(co: Coordination, project: str | None) -> Project:
    """Return the named project, or that of the current folder. Raises NotFound when the workspace does not have it."""
    from coordination.adapters import git_checkout
    from coordination.api.names import project_of_current_folder

    if project is not None:
        return co.project(project)
    if (here := project_of_current_folder(co.runtime)) is not None:
        return here
    root = git_checkout.checkout_of().root
    raise NotFound(f"{root} is not a project yet", hint="Name one with --project; see: coord projects list")


@contextmanager
def open_connection() -> Iterator[Coordination]:
    """Connect to the store of the settings. The embedded store is created at its first use."""
    from coordination.api.connection import Coordination
    from coordination.runtime import open_runtime

    settings = load_settings()
    own = not settings.sources.get("database_url")
    if own:
        from coordination.stack.home import Home

        Home(settings.home).prepare()
    with Coordination(open_runtime(settings, migrate=own)) as co:
        yield co


def print_json(value: Any) -> None:
    """Print a JSON document: money as exact text, moments as ISO 8601 in UTC, durations in seconds."""
    print(json_text(to_json_types(value), indent=2))
