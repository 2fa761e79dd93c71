"""``coord workspace …``: settings of the workspace; ``coord rekey``: the key of the broker messages."""

from __future__ import annotations

from coordination.cli.options import open_connection


def rekey() -> None:
    """Replace the key that signs messages on Redis. Workers and beat use the new one within a minute."""
    with open_connection() as co:
        co.replace_broker_key()
    print("Replaced the key. Workers and beat use the new one within a minute; messages with the old one are rejected.")
