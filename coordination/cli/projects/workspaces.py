"""``coord workspace …``: settings of the workspace; ``coord rekey``: the key of the broker messages."""

from __future__ import annotations

import typer

from coordination.cli.money.cost_sums import timezone
from coordination.cli.options import connected


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Manage the workspace.")
    group.callback()(_workspace)
    group.command("timezone")(timezone)
    app.add_typer(group, name="workspace")
    app.command("rekey")(rekey)


def _workspace() -> None:
    """Manage the workspace (COORD_WORKSPACE)."""


def rekey() -> None:
    """Replace the key that signs messages on Redis; workers and beat use the new one within a minute."""
    with connected() as co:
        co.replace_broker_key()
    print("Replaced the key. Workers and beat use the new one within a minute; messages with the old one are rejected.")
