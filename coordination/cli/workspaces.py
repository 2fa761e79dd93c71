"""``coord workspace …``: what holds for everything that belongs to the workspace; ``coord rekey``, for all."""

from __future__ import annotations

import typer

from coordination.cli.costs.sums import timezone
from coordination.cli.options import connected


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The workspace that everything belongs to.")
    group.callback()(_workspace)
    group.command("timezone")(timezone)
    app.add_typer(group, name="workspace")
    app.command("rekey")(rekey)


def _workspace() -> None:
    """The workspace that everything belongs to (COORD_WORKSPACE)."""


def rekey() -> None:
    """Replace the key that signs messages on Redis; workers and beat use the new one within a minute."""
    from coordination.services.fleet.broker_keys import rotate

    with connected() as co:
        rotate(co.runtime.store)
    print(
        "The key is replaced. Workers and beat use the new one within a minute; messages with the old one are refused."
    )
