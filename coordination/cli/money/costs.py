"""``coord costs …``: sums, forecast, check, import and export of the cost ledger."""

from __future__ import annotations

import typer

from coordination.cli.money import cost_records as records
from coordination.cli.money import cost_sums as sums
from coordination.cli.money import reprice


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show costs: every model call, exactly.")
    group.command("list")(records.list_)
    group.command("summary")(sums.summary)
    group.command("forecast")(sums.forecast)
    group.command("check")(sums.check)
    group.command("import")(records.import_)
    group.command("export")(records.export)
    group.command("reprice")(reprice.reprice)
    app.add_typer(group, name="costs")
