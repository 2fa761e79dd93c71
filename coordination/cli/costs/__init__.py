"""``coord costs …``: the ledger, added up, foretold, proved, taken in and written out."""

from __future__ import annotations

import typer

from coordination.cli.costs import prices, records, sums


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Costs: every model call, exactly.")
    group.command("list")(records.list_)
    group.command("summary")(sums.summary)
    group.command("forecast")(sums.forecast)
    group.command("check")(sums.check)
    group.command("import")(records.import_)
    group.command("export")(records.export)
    group.command("reprice")(prices.reprice)
    app.add_typer(group, name="costs")
