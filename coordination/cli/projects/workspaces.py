"""``coord workspace …``: settings of the workspace; ``coord rekey``: the key of the broker messages."""

from __future__ import annotations

import typer

from coordination.cli.money.cost_sums import timezone
from coordination.cli.options import add_group, open_connection


def add_to(app: typer.Typer) -> None:
    add_group(app, "workspace", "Manage the workspace.", timezone)
    app.command("rekey")(rekey)


def rekey() -> None:
    """Replace the key that signs messages on Redis. Workers and beat use the new one within a minute."""
    with open_connection() as co:
        co.replace_broker_key()
    print("Replaced the key. Workers and beat use the new one within a minute; messages with the old one are rejected.")
