"""``coord workspace …``: what holds for everything that belongs to the workspace."""

from __future__ import annotations

import typer

from coordination.cli.costs.sums import timezone


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The workspace that everything belongs to.")
    group.callback()(_workspace)
    group.command("timezone")(timezone)
    app.add_typer(group, name="workspace")


def _workspace() -> None:
    """The workspace that everything belongs to (COORD_WORKSPACE)."""
