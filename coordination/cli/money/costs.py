"""``coord costs …``: sums, forecast, check, import and export of the cost ledger."""

from __future__ import annotations

import typer

from coordination.cli.money import cost_records as records
from coordination.cli.money import cost_sums as sums
from coordination.cli.money import reprice
from coordination.cli.options import add_group


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    add_group(
        app,
        "costs",
        "Show costs: every model call, exactly.",
        records.list_,
        sums.summary,
        sums.forecast,
        sums.check,
        records.import_,
        records.export,
        reprice.reprice,
    )
